"""Sets of windows of one length: cut from pieces, drawn from, and damaged on purpose. numpy, no model.

Windows are pitches [n,t,4] of MIDI numbers, -1 = rest. Every function that draws takes a numpy generator and gives new
arrays.
"""

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from jaxtyping import Integer
import numpy as np

from coconet_jax import errors, pianoroll, pieces

Pitches = Integer[np.ndarray, "n t 4"]


class Windows(NamedTuple):
    """Windows of one length and where they come from.

    Attributes:
      pitches: MIDI numbers, -1 = rest.
      groups: a number for each window's source. Windows of one group are not independent: those of a piece share its
        number, and a sample is a group of its own.
    """

    pitches: Integer[np.ndarray, "n t 4"]
    groups: Integer[np.ndarray, " n"]


def from_samples(pitches: Integer[np.ndarray, "n t 4"]) -> Windows:
    """Samples that were drawn independently: a group each."""
    return Windows(pitches, np.arange(len(pitches)))


def cut_windows(split: pieces.Pieces, num_steps: int, hop: int | None = None) -> Windows:
    """The pieces of a split cut into windows, grouped by piece.

    Args:
      split: pieces.
      num_steps: length of a window.
      hop: steps from the start of a window to that of the next; 16 is a bar of 16ths in 4/4. Default num_steps: no
        overlap, so that no event counts twice. What is left at a piece's end is dropped.

    Raises:
      InputError: no piece is as long as a window.
    """
    hop = num_steps if hop is None else hop
    if num_steps < 1:
        raise errors.InputError(f"windows of {num_steps} steps hold nothing; use 64 for 4 bars of 16ths")
    if hop < 1:
        raise errors.InputError(f"a hop of {hop} steps goes nowhere; use 16 for a bar of 16ths")
    cut = [
        (piece[start : start + num_steps], number)
        for number, (piece, length) in enumerate(zip(split.pitches, split.lengths, strict=True))
        for start in range(0, int(length) - num_steps + 1, hop)
    ]
    if not cut:
        raise errors.InputError(f"no piece has {num_steps} steps; use shorter windows")
    return Windows(np.stack([window for window, _ in cut]), np.array([number for _, number in cut]))


def join(parts: Sequence[Windows]) -> Windows:
    """Windows of one length, of several splits, as one set in which no two parts share a group."""
    before = np.cumsum([0] + [part.groups.max() + 1 for part in parts[:-1]])
    groups = [part.groups + first for part, first in zip(parts, before, strict=True)]
    return Windows(np.concatenate([part.pitches for part in parts]), np.concatenate(groups))


def subsample(rng: np.random.Generator, windows: Windows, number: int) -> Windows:
    """So many windows, drawn without replacement, in their order; all of them where that is how many there are."""
    if not 1 <= number <= len(windows.pitches):
        raise errors.InputError(f"{number} windows cannot be drawn from {len(windows.pitches)}; use as many or fewer")
    chosen = np.sort(rng.permutation(len(windows.pitches))[:number])
    return Windows(windows.pitches[chosen], windows.groups[chosen])


def halve(rng: np.random.Generator, windows: Windows) -> tuple[Windows, Windows]:
    """Two sets with no group in common, each of half the groups (the first of one less where they are odd)."""
    groups = rng.permutation(np.unique(windows.groups))
    first = np.isin(windows.groups, groups[: len(groups) // 2])
    one, other = (Windows(windows.pitches[marks], windows.groups[marks]) for marks in (first, ~first))
    return one, other


# Damage. Each takes away one thing that real music has.


def shuffle_bars(rng: np.random.Generator, pitches: Pitches, bar_steps: int = 16) -> Pitches:
    """The bars of each window in another order, drawn for each; what is left over at the end stays there."""
    num_bars = pitches.shape[1] // bar_steps
    order = np.argsort(rng.random((len(pitches), num_bars)), axis=1)
    steps = np.broadcast_to(np.arange(pitches.shape[1]), pitches.shape[:2]).copy()
    steps[:, : num_bars * bar_steps] = (order[..., None] * bar_steps + np.arange(bar_steps)).reshape(len(pitches), -1)
    return np.take_along_axis(pitches, steps[..., None], axis=1)


def move_notes(rng: np.random.Generator, pitches: Pitches, share: float) -> Pitches:
    """Each note is moved with probability `share` by 1 or 2 semitones up or down; rests stay.

    A note is a stretch of one pitch in a voice and moves as a whole. One that would leave 36..81 goes the other way.
    """
    changes = np.ones(pitches.shape, bool)
    changes[:, 1:] = pitches[:, 1:] != pitches[:, :-1]
    steps = np.arange(pitches.shape[1])[None, :, None]
    note = np.maximum.accumulate(np.where(changes, steps, 0), axis=1)  # the first step of each cell's note
    by = rng.choice(np.array([-2, -1, 1, 2]), pitches.shape) * (rng.random(pitches.shape) < share)
    by = np.take_along_axis(by, note, axis=1).astype(pitches.dtype)
    moved = np.where(pianoroll.in_range(pitches + by), pitches + by, pitches - by)
    return np.where(pitches == pianoroll.REST, pitches, moved)


def reverse_time(rng: np.random.Generator, pitches: Pitches) -> Pitches:
    """Backwards. Nothing is drawn."""
    del rng
    return pitches[:, ::-1].copy()


def shuffle_voices(rng: np.random.Generator, pitches: Pitches) -> Pitches:
    """Each voice from another window, drawn for each voice by itself: real lines that do not belong together."""
    lines = [pitches[rng.permutation(len(pitches)), :, voice] for voice in range(pianoroll.NUM_VOICES)]
    return np.stack(lines, axis=-1)


def draw_uniform(rng: np.random.Generator, pitches: Pitches) -> Pitches:
    """At every step and voice a pitch drawn uniformly from the voice's range (`pianoroll.VOICE_RANGES`); no rests."""
    low, high = np.array(pianoroll.VOICE_RANGES).T
    return rng.integers(low, high + 1, pitches.shape).astype(pitches.dtype)


# In the order in which they are told from real music: the first is the hardest.
DAMAGES: Final[dict[str, Callable[[np.random.Generator, Pitches], Pitches]]] = {
    "bars shuffled": shuffle_bars,
    "5 % of notes moved": lambda rng, pitches: move_notes(rng, pitches, 0.05),
    "time reversed": reverse_time,
    "20 % of notes moved": lambda rng, pitches: move_notes(rng, pitches, 0.2),
    "voices shuffled": shuffle_voices,
    "uniform notes": draw_uniform,
}
