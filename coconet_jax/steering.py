"""Soft priors of the user's on what the network predicts: arrays that a sampler adds to logits, or scales them by.

Each is off at strength 0 and the more effective the greater its strength, in nats: at strength s the odds of what it
disfavours fall by a factor e^s against the rest, whatever the temperature. None forbids but `usual`; what must stand in
a piece, `constraints` fixes.
"""

from collections.abc import Sequence
import re
from typing import Final, NamedTuple

from jaxtyping import Float32, Integer
import numpy as np

from coconet_jax import bars, errors, parts, pianoroll, score

MAX_STRENGTH: Final = 100.0  # nats: far beyond what float32 probabilities tell from never
# Semitones above the tonic. Minor is the natural scale with the raised sixth and seventh beside it: a leading tone at
# cadences and a sixth that moves up to it are as common in the style as the natural ones, which move down.
_SCALES: Final = {"major": (0, 2, 4, 5, 7, 9, 11), "minor": (0, 2, 3, 5, 7, 8, 9, 10, 11)}


class Steering(NamedTuple):
    """What a sampler is to heed.

    Attributes:
      bias: added to the logits after they are divided by the temperature, in nats; 0 is off, -inf is never.
      temperature: multiplies the sampler's temperature; 1 is off.
    """

    bias: Float32[np.ndarray, "t 46 4"]
    temperature: Float32[np.ndarray, "t 4"]


def neutral(steps: int) -> Steering:
    """No steering."""
    bias = np.zeros((steps, pianoroll.NUM_PITCHES, pianoroll.NUM_VOICES), np.float32)
    return Steering(bias, np.ones((steps, pianoroll.NUM_VOICES), np.float32))


def usual(steps: int, *known: Integer[np.ndarray, "... 4"]) -> Steering:
    """What is heeded unless something else is asked for: no voice leaves the range that it has in Bach's chorales.

    Other than with a strength this holds whatever the temperature.

    Args:
      steps: t.
      known: pitches of scores that are given; each voice may go as far as it does there, too.
    """
    low, high = np.array(pianoroll.VOICE_RANGES).T
    for pitches in (each.reshape(-1, pianoroll.NUM_VOICES) for each in known):
        low = np.minimum(low, np.where(pitches == pianoroll.REST, pianoroll.MAX_PITCH, pitches).min(axis=0))
        high = np.maximum(high, pitches.max(axis=0))
    row = np.arange(pianoroll.MIN_PITCH, pianoroll.MAX_PITCH + 1)[:, None]
    return _biased(steps, np.where((row < low) | (row > high), -np.inf, 0.0))


def combine(one: Steering, other: Steering) -> Steering:
    """Both at once: biases add up, temperatures multiply."""
    return Steering(one.bias + other.bias, one.temperature * other.temperature)


def key(steps: int, name: str, strength: float) -> Steering:
    """Against pitches outside a scale.

    A minor scale has the natural and the raised sixth and seventh. The raised third of a closing major chord is
    outside, and so gets rarer.

    Args:
      steps: t.
      name: such as "G major", "e minor", "Bb major", "F# minor".
      strength: nats taken from each pitch outside.
    """
    tonic, mode = parse_key(name)
    pitch_class = (np.arange(pianoroll.MIN_PITCH, pianoroll.MAX_PITCH + 1) - tonic) % 12
    outside = ~np.isin(pitch_class, _SCALES[mode])
    return _biased(steps, -_check_strength("key_strength", strength) * outside[:, None])


def ranges(steps: int, limits: Sequence[tuple[int, int]], strength: float) -> Steering:
    """Against pitches outside the ranges of the voices.

    Args:
      steps: t.
      limits: lowest and highest MIDI pitch of each voice, soprano to bass.
      strength: nats taken for each semitone outside.
    """
    if len(limits) != pianoroll.NUM_VOICES or not all(low <= high for low, high in limits):
        raise errors.InputError(f"ranges={list(limits)}: give four of lowest-highest, soprano to bass")
    for (low, high), voice in zip(limits, pianoroll.VOICES, strict=True):
        if high < pianoroll.MIN_PITCH or low > pianoroll.MAX_PITCH:
            raise errors.InputError(
                f"ranges={low}-{high}: the {voice} has no pitch of {pianoroll.MIN_PITCH} to {pianoroll.MAX_PITCH} "
                "left; widen it"
            )
    pitch = np.arange(pianoroll.MIN_PITCH, pianoroll.MAX_PITCH + 1)[:, None]
    low, high = np.array(limits).T
    outside = np.maximum(low - pitch, 0) + np.maximum(pitch - high, 0)
    return _biased(steps, -_check_strength("range_strength", strength) * outside)


def similarity(piece: score.Score, strength: float) -> Steering:
    """For the pitches of a score [t,4]: `strength` nats to each of its notes; its rests pull nowhere."""
    return freedom(piece, strength)


def freedom(
    piece: score.Score,
    strength: float,
    *,
    by_voice: Sequence[float] = (0.0, 0.0, 0.0, 0.0),
    by_bar: Sequence[float] | None = None,
) -> Steering:
    """For the pitches of a score, by voice and bar: 0 stays as near to it as `strength` makes, 1 is free.

    Where both are given, a note is as free as the freer of its voice and its bar.

    Args:
      piece: the score [t,4].
      strength: nats to each of its notes at freedom 0.
      by_voice: four of 0..1, soprano to bass.
      by_bar: one of 0..1 for each bar, a pick-up and a last bar that is not full included.
    """
    strength = _check_strength("similarity_strength", strength)
    if len(by_voice) != pianoroll.NUM_VOICES:
        raise errors.InputError(f"freedom={list(by_voice)}: give four values, soprano to bass")
    voices = np.array([bars.check_share("freedom", float(value)) for value in by_voice])
    steps = np.arange(len(piece.pitches))
    numbers = np.array([bars.number_of(piece, int(step)) for step in steps])
    numbers -= numbers[0]
    by_bar = [0.0] * int(numbers[-1] + 1) if by_bar is None else by_bar
    if len(by_bar) != numbers[-1] + 1:
        raise errors.InputError(
            f"bar_freedom has {len(by_bar)} values; the piece has {numbers[-1] + 1} bars (a pick-up counts), so give "
            "as many"
        )
    of_bar = np.array([bars.check_share("bar_freedom", float(value)) for value in by_bar])[numbers]
    weight = np.minimum(1 - of_bar[:, None], 1 - voices)
    row = np.arange(pianoroll.MIN_PITCH, pianoroll.MAX_PITCH + 1)[:, None]
    own = piece.pitches[:, None, :] == row
    return neutral(len(steps))._replace(bias=(strength * weight[:, None, :] * own).astype(np.float32))


def surprise(steps: int, by_voice: Sequence[float]) -> Steering:
    """More (above 1) or less (below 1) surprising notes for each voice: a factor on the temperature."""
    if len(by_voice) != pianoroll.NUM_VOICES or not all(0.01 <= value <= 100 for value in by_voice):
        raise errors.InputError(f"surprise={list(by_voice)}: give four values from 0.01 to 100, soprano to bass")
    temperature = np.broadcast_to(np.array(by_voice, np.float32), (steps, pianoroll.NUM_VOICES))
    return neutral(steps)._replace(temperature=temperature)


def _biased(steps: int, of_pitch: np.ndarray) -> Steering:
    """The same bias [p,1] or [p,4] at every step."""
    off = neutral(steps)
    return off._replace(bias=np.ascontiguousarray(np.broadcast_to(of_pitch, off.bias.shape), np.float32))


def _check_strength(name: str, strength: float) -> float:
    if not 0 <= strength <= MAX_STRENGTH:
        raise errors.InputError(f"{name}={strength}: use 0 (off) to {MAX_STRENGTH:g} nats")
    return strength


def parse_key(name: str) -> tuple[int, str]:
    """Pitch class of the tonic, and the mode, of a name such as "G major" or "e minor".

    Raises:
      InputError: no such key.
    """
    found = re.fullmatch(r"\s*([A-Ga-g])(#|b|-sharp|-flat)?\s+(major|minor)\s*", name, re.IGNORECASE)
    if found is None:
        raise errors.InputError(f"key={name!r}: use a tonic and a mode, such as 'G major', 'e minor' or 'Bb major'")
    letter, sign, mode = found.groups()
    shift = {"#": 1, "-sharp": 1, "b": -1, "-flat": -1}.get((sign or "").lower(), 0)
    return (parts.SEMITONES[letter.upper()] + shift) % 12, mode.lower()
