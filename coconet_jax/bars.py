"""Bars of a score in steps and back, silence around a score, and what is asked of every score that is to be completed.

Names in complaints are those of arguments, which are also the flags of the command.
"""

from collections.abc import Sequence
import dataclasses
from typing import Final

import numpy as np

from coconet_jax import errors, parts, pianoroll, score

MAX_STEPS: Final = 20_000  # as many as the readers of scores take: 1250 bars of 4/4 in sixteenths


def number_of(piece: score.Score, step: int) -> int:
    """The number of the bar a step is in: 1, 2 ...; a pick-up is bar 0. Where bars are no whole steps: step + 1."""
    bar = score.bar_steps(piece.meter, piece.steps_per_quarter)
    return (step - piece.pickup_steps) // bar + 1 if bar else step + 1


def to_steps(name: str, bars: int, meter: tuple[int, int], steps_per_quarter: int) -> int:
    """Steps in so many bars; `name` is what to call their number in a complaint."""
    bar = score.bar_steps(meter, steps_per_quarter)
    if not bar:
        raise errors.InputError(
            f"{name}={bars}: a bar of {meter[0]}/{meter[1]} is no whole number of steps ({steps_per_quarter} to a "
            "quarter); give the length in steps"
        )
    if not 1 <= bars <= MAX_STEPS // bar:
        raise errors.InputError(f"{name}={bars}: use 1 or more, up to {MAX_STEPS // bar} bars of {bar} steps")
    return bars * bar


def span(piece: score.Score, first: int, last: int) -> tuple[int, int]:
    """First step, and the step after the last, of the bars from `first` to `last`; 0 is the pick-up."""
    lowest, highest = number_of(piece, 0), number_of(piece, len(piece.pitches) - 1)
    if not lowest <= first <= last <= highest:
        raise errors.InputError(f"span={first}-{last}: the piece has bars {lowest} to {highest}; name a span of these")
    bar = to_steps("span", 1, piece.meter, piece.steps_per_quarter)
    begin, end = piece.pickup_steps + (first - 1) * bar, piece.pickup_steps + last * bar
    return max(begin, 0), min(end, len(piece.pitches))


def pad(piece: score.Score, before: int, after: int) -> score.Score:
    """A score with so many silent steps before and after it; the bar lines stay where they are in the music."""
    total = check_length("steps", before + len(piece.pitches) + after)
    bar = score.bar_steps(piece.meter, piece.steps_per_quarter)
    pitches = np.full((total, piece.pitches.shape[1]), pianoroll.REST, np.int16)
    onset = np.zeros(pitches.shape, bool)
    inside = slice(before, before + len(piece.pitches))
    pitches[inside], onset[inside] = piece.pitches, piece.onset
    pickup = (piece.pickup_steps + before) % bar if bar and before else piece.pickup_steps
    return dataclasses.replace(piece, pitches=pitches, onset=onset, pickup_steps=pickup)


def without_last_rests(piece: score.Score, *, to_bar_line: bool = False) -> score.Score:
    """A score up to its last note, or the end of that bar as far as it goes: files fill their last bar with rests."""
    end = int(np.flatnonzero((piece.pitches != pianoroll.REST).any(axis=1)).max(initial=0)) + 1
    if to_bar_line and (bar := score.bar_steps(piece.meter, piece.steps_per_quarter)):
        end += (piece.pickup_steps - end) % bar
    return dataclasses.replace(piece, pitches=piece.pitches[:end], onset=piece.onset[:end])


def check_length(name: str, steps: int) -> int:
    """The number itself, if a score may have so many steps."""
    if not 1 <= steps <= MAX_STEPS:
        raise errors.InputError(f"{name}={steps}: use 1 to {MAX_STEPS} steps")
    return steps


def check_share(name: str, value: float) -> float:
    """The number itself, if it is a share."""
    if not 0 <= value <= 1:
        raise errors.InputError(f"{name}={value}: use a value from 0 to 1")
    return value


def check_voices(name: str, voices: Sequence[int]) -> list[int]:
    """The voices as a list, if each is one of 0..3 (soprano to bass) and named once."""
    if not voices or len(set(voices)) < len(voices) or not set(voices) <= set(range(pianoroll.NUM_VOICES)):
        raise errors.InputError(f"{name}={tuple(voices)}: name one or more of 0 to 3 (soprano to bass), each once")
    return list(voices)


def check_score(piece: score.Score) -> score.Score:
    """The score itself, if it has four voices, a length, and pitches the network knows."""
    name = piece.title or "the score"
    steps, voices = piece.pitches.shape
    if voices != pianoroll.NUM_VOICES:
        raise errors.InputError(f"{name} has {voices} voices; give four, those that are silent as -1")
    check_length(f"steps of {name}", steps)
    outside = np.argwhere(~pianoroll.in_range(piece.pitches))
    if len(outside):
        step, voice = outside[0]
        pitch = int(piece.pitches[step, voice])
        raise errors.InputError(
            f"{name}: {parts.pitch_name(pitch)} (MIDI {pitch}) of the {pianoroll.VOICES[voice]} in bar "
            f"{number_of(piece, int(step))} is outside {parts.pitch_name(pianoroll.MIN_PITCH)}.."
            f"{parts.pitch_name(pianoroll.MAX_PITCH)}; transpose the score, or move this voice by octaves"
        )
    return piece


def check_alike(pieces: Sequence[score.Score]) -> None:
    """Refuses scores that cannot stand in one piece, for their meters or grids."""
    first = pieces[0]
    for piece in pieces:
        check_score(piece)
        if piece.steps_per_quarter != first.steps_per_quarter:
            raise errors.InputError(
                f"steps_per_quarter={first.steps_per_quarter} and {piece.steps_per_quarter} do not go together; read "
                "the scores on one grid"
            )
        if piece.meter != first.meter:
            one, other = ("/".join(map(str, meter)) for meter in (first.meter, piece.meter))
            raise errors.InputError(
                f"meters {one} ({first.title or 'first score'}) and {other} ({piece.title or 'other score'}) do not go "
                "together; give scores in one meter"
            )
