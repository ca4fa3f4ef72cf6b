"""What every reader and writer of scores shares: notes before any grid, bars, names, whole files.

The readers give `Parts`, notes in quarters as a file has them; `voices` chooses who sings what, `grid` makes steps of
them.
"""

import bisect
from collections.abc import Sequence
from fractions import Fraction
import os
from typing import Final, NamedTuple

from jaxtyping import Bool, Integer
import numpy as np

from coconet_jax import errors, pianoroll

MAX_BYTES: Final = 20_000_000
MAX_PARTS: Final = 256
QPM_LIMITS: Final = (4.0, 1000.0)  # MIDI's set_tempo holds 24 bits of microseconds: nothing slower than 3.6 fits


SEMITONES: Final = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}  # semitones above C


class Note(NamedTuple):
    """A note from start to end, in quarters from the beginning of the piece."""

    start: Fraction
    end: Fraction
    pitch: int


class Part(NamedTuple):
    """The notes of one track or staff; `layers` holds them by written voice where a staff has several."""

    name: str
    notes: list[Note]
    layers: tuple[list[Note], ...] = ()


class Bar(NamedTuple):
    """Where bars are counted anew: at `start` begins bar `number`, and further ones of the same meter follow.

    `origin` is where its first beat would be: earlier than `start` for a pick-up. Times are in quarters.
    """

    start: Fraction
    number: int
    meter: tuple[int, int] = (4, 4)
    origin: Fraction | None = None


class Parts(NamedTuple):
    """What a score file holds, before any grid; `pickup` and `end`, the rests at the end included, are in quarters.

    `remarks` has a line for everything the reader changed or left out.
    """

    parts: list[Part]
    meter: tuple[int, int] = (4, 4)
    pickup: Fraction = Fraction(0)
    qpm: float = 80.0
    title: str = ""
    bars: tuple[Bar, ...] = ()
    end: Fraction = Fraction(0)
    remarks: tuple[str, ...] = ()


def transposed(found: Parts, semitones: int) -> Parts:
    """The same notes, so many semitones higher."""

    def move(notes: Sequence[Note]) -> list[Note]:
        return [note._replace(pitch=note.pitch + semitones) for note in notes]

    moved = [Part(part.name, move(part.notes), tuple(map(move, part.layers))) for part in found.parts]
    return found._replace(parts=moved)


def bar_quarters(meter: tuple[int, int]) -> Fraction:
    """How long a bar is, in quarters."""
    return Fraction(4 * meter[0], meter[1])


def first_bars(meter: tuple[int, int], pickup: Fraction) -> tuple[Bar, ...]:
    """Bars of one meter throughout, after a pick-up of so many quarters, which is bar 0."""
    if not pickup:
        return (Bar(Fraction(0), 1, meter),)
    return Bar(Fraction(0), 0, meter, pickup - bar_quarters(meter)), Bar(pickup, 1, meter)


def is_meter(beats: int, unit: int) -> bool:
    """Whether programs know such a meter: 1 to 64 beats of a whole note to a 64th."""
    return 1 <= beats <= 64 and unit in (1, 2, 4, 8, 16, 32, 64)


def locate(quarters: Fraction, bars: Sequence[Bar]) -> str:
    """Where a time falls, as "bar 3, beat 2"; a pick-up's beats count to the bar line."""
    found = max(bisect.bisect_right(bars, quarters, key=lambda bar: bar.start) - 1, 0)
    bar = bars[found]
    further, inside = divmod(quarters - (bar.start if bar.origin is None else bar.origin), bar_quarters(bar.meter))
    if found + 1 < len(bars):  # an overlong bar is still one bar
        kept = max(min(further, bars[found + 1].number - bar.number - 1), 0)
        inside, further = inside + (further - kept) * bar_quarters(bar.meter), kept
    return f"bar {bar.number + further}, beat {float(inside * bar.meter[1] / 4 + 1):.4g}"


def remarks_on_tempo(tempos: Sequence[tuple[Fraction, float]], bars: Sequence[Bar]) -> list[str]:
    """A line where a file changes its tempo: `tempos` are its times and quarters a minute, in order."""
    changed = [(when, qpm) for when, qpm in tempos if qpm != tempos[0][1]]
    if not changed:
        return []
    (when, qpm), kept = changed[0], tempos[0][1]
    first = f"the first was to {qpm:g} in {locate(when, bars)}"
    return [f"tempo changes are not kept: {kept:g} quarters a minute throughout ({first})"]


def from_the_start(
    tempos: Sequence[tuple[Fraction, float]], usual: float, found: Sequence[Part], pickup: Fraction
) -> list[tuple[Fraction, float]]:
    """Tempos, the usual one in front where the first mark stands a quarter or more after the first note and pick-up."""
    begins = min((note.start for part in found for note in part.notes), default=Fraction(0))
    late = bool(tempos) and tempos[0][0] >= begins + 1 and tempos[0][0] > pickup
    return [(Fraction(0), usual), *tempos] if late else list(tempos)


def next_bar_line(quarters: Fraction, bars: Sequence[Bar]) -> Fraction:
    """The first bar line at a time or after it."""
    after = bisect.bisect_left(bars, quarters, key=lambda bar: bar.start)
    if not after or (after < len(bars) and bars[after].start == quarters):
        return quarters
    bar = bars[after - 1]
    origin, length = bar.start if bar.origin is None else bar.origin, bar_quarters(bar.meter)
    count = -((origin - quarters) // length)
    if after == len(bars):
        return origin + count * length
    if count >= bars[after].number - bar.number:  # an overlong bar is still one bar
        return bars[after].start
    return min(origin + count * length, bars[after].start)


def plain_name(text: str) -> str:
    """The name of a part on one line that fits into a message."""
    return " ".join(text.replace("\0", " ").split())[:100]


def merge_cells(pitches: Integer[np.ndarray, " t"], onset: Bool[np.ndarray, " t"]) -> list[tuple[int, int, int]]:
    """Notes (start step, end step, pitch) of one voice: a new one at an onset, a new pitch, or after a rest."""
    if not len(pitches):
        return []
    starts = np.concatenate([[True], pitches[1:] != pitches[:-1]]) | (onset & (pitches != pianoroll.REST))
    begin = np.flatnonzero(starts)
    end = np.append(begin[1:], len(pitches))
    sounding = pitches[begin]
    kept = sounding != pianoroll.REST
    return list(zip(begin[kept].tolist(), end[kept].tolist(), sounding[kept].tolist(), strict=True))


def voice_names(count: int) -> tuple[str, ...]:
    """What staves and tracks are called when a score has `count` voices."""
    if count == pianoroll.NUM_VOICES:
        return tuple(name.capitalize() for name in pianoroll.VOICES)
    return ("Melody",) if count == 1 else tuple(f"Voice {number}" for number in range(1, count + 1))


def pitch_name(pitch: int) -> str:
    """Scientific name of a MIDI pitch, 60 = C4."""
    return ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")[pitch % 12] + str(pitch // 12 - 1)


def check_qpm(qpm: float) -> None:
    """InputError unless a file can hold this tempo."""
    if not QPM_LIMITS[0] <= qpm <= QPM_LIMITS[1]:
        raise errors.InputError(f"qpm={qpm} is no tempo; use {QPM_LIMITS[0]:g} to {QPM_LIMITS[1]:g} quarters a minute")


def read_bytes(path: str | os.PathLike[str], limit: int = MAX_BYTES) -> bytes:
    """The bytes of a score file; InputError where it is missing, unreadable or larger than `limit` bytes."""
    try:
        with open(path, "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise errors.InputError(f"{path} does not exist; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise errors.InputError(f"{path} cannot be read: {reason}; give a file you may read") from None
    if len(data) > limit:
        raise errors.InputError(f"{path} is larger than {limit // 10**6} MB; give the score of one piece")
    return data
