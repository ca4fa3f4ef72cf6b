"""Notes in quarters put on the grid: snapping, chords in a voice, the range of the network."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
import math
import os
from typing import Final, NamedTuple

from jaxtyping import Bool, Int16
import numpy as np

from coconet_jax import errors, parts, pianoroll, score

MAX_STEPS: Final = 20_000
_TICK: Final = Fraction(1, 16)  # of a step: many let go a tick before what is written, rests included


class _Report(NamedTuple):
    """Notes that were changed: dropped or cut beside a higher one, moved to the grid, or lost between its steps."""

    lower: list[parts.Note]
    moved: list[parts.Note]
    lost: list[parts.Note]


def place(
    found: parts.Parts,
    *,
    path: str | os.PathLike[str],
    steps_per_quarter: int,
    highest: bool = False,
    whole: bool = False,
    to_bar_line: bool = False,
) -> score.Score:
    """Puts parts on the grid, one voice each; the score's remarks say what was moved or dropped, and where first.

    Args:
      found: the parts, one for each voice.
      path: the file, as errors name it.
      steps_per_quarter: the grid.
      highest: of several notes at once in a part keep the highest; an error otherwise.
      whole: keep the rests at the end of the file; otherwise the score ends with its last note,
      to_bar_line: or with the rests after it in the same bar, if the file has them.

    Raises:
      InputError: no notes, notes at once in a part without `highest`, or a piece of more than 20,000 steps.
    """
    if steps_per_quarter not in (1, 2, 4):
        raise errors.InputError(f"steps_per_quarter={steps_per_quarter} is no grid; use 1, 2 or 4")
    if not parts.is_meter(*found.meter):
        found = found._replace(meter=(4, 4), pickup=Fraction(0))
    if not parts.QPM_LIMITS[0] <= found.qpm <= parts.QPM_LIMITS[1]:
        found = found._replace(qpm=parts.Parts([]).qpm)
    bars = bars_of(found)
    if not any(part.notes for part in found.parts):
        said = f" ({'; '.join(found.remarks)})" if found.remarks else ""
        raise errors.InputError(f"{path} holds no notes{said}; give a file with at least one note")
    for part in found.parts:
        strange = [note for note in part.notes if note.start < 0 or not 0 <= note.pitch <= 127]
        if strange:
            raise errors.InputError(f"{path} has a note no player knows ({strange[0]}); give pitches C-1 to G9")
    last = max(note.end for part in found.parts for note in part.notes)
    steps = max(last, found.end if whole else last) * steps_per_quarter
    if steps > MAX_STEPS:
        raise errors.InputError(
            f"{path} lasts {int(steps)} steps, more than {MAX_STEPS}; cut it into shorter pieces (or mend its "
            "durations)"
        )
    length = int(steps) + 2  # a note at the very end may be snapped one step later
    pitches = np.full((length, len(found.parts)), pianoroll.REST, np.int16)
    onset = np.zeros(pitches.shape, bool)
    reports = []
    for voice, part in enumerate(found.parts):
        notes, lower = _one_at_a_time(part, bars, path, highest, steps_per_quarter)
        reports.append(_Report(lower, *_fill(notes, pitches[:, voice], onset[:, voice], steps_per_quarter)))
    end = int(np.flatnonzero((pitches != pianoroll.REST).any(axis=1))[-1]) + 1
    if whole or to_bar_line:
        kept = found.end if whole else min(found.end, parts.next_bar_line(Fraction(end, steps_per_quarter), bars))
        end = max(end, min(nearest(kept * steps_per_quarter), MAX_STEPS))
        missing = max(end - length, 0)
        pitches = np.pad(pitches, ((0, missing), (0, 0)), constant_values=pianoroll.REST)
        onset = np.pad(onset, ((0, missing), (0, 0)))
    remarks = (*found.remarks, *_remarks(found._replace(bars=bars), reports, steps_per_quarter))
    return score.Score(
        pitches[:end], onset[:end], found.meter, nearest(found.pickup * steps_per_quarter), steps_per_quarter,
        found.qpm, found.title, remarks,
    )  # fmt: skip


def bars_of(found: parts.Parts) -> tuple[parts.Bar, ...]:
    """Where the bars of a piece are; of one meter throughout where its file does not say."""
    return found.bars or parts.first_bars(found.meter, found.pickup)


def _one_at_a_time(
    part: parts.Part, bars: Sequence[parts.Bar], path: str | os.PathLike[str], highest: bool, steps_per_quarter: int
) -> tuple[list[parts.Note], list[parts.Note]]:
    """The notes of a part without those below another, in order, and those that were dropped or cut short."""
    kept: list[parts.Note] = []
    lower: list[parts.Note] = []
    for note in sorted(part.notes):
        before = kept[-1] if kept else note
        if note.start >= before.end or note is before or _is_legato(before, note, steps_per_quarter):
            kept.append(note)
        elif (note.start, note.pitch) == (before.start, before.pitch):
            kept[-1] = note  # a unison written twice: the longer one, which sorts later
        elif not highest:
            both = " and ".join(parts.pitch_name(pitch) for pitch in sorted((before.pitch, note.pitch)))
            name = f"part {part.name!r}" if part.name else "one part"
            raise errors.InputError(
                f"{path}: {name} has more than one note at once ({both}) in {parts.locate(note.start, bars)}; "
                "keep one note at a time"
            )
        elif note.pitch <= before.pitch:
            lower.append(note)
        elif note.start == before.start:
            lower.append(before)
            kept[-1] = note
        else:
            lower.append(before)
            kept[-1:] = [before._replace(end=note.start), note]
    return kept, lower


def _is_legato(before: parts.Note, note: parts.Note, steps_per_quarter: int) -> bool:
    """Players and notation programs let notes of a line overlap a little; that is no chord."""
    overlap = min(before.end, note.end) - note.start
    shorter = min(before.end - before.start, note.end - note.start)
    return 2 * overlap < shorter and overlap * steps_per_quarter < 1


def _fill(
    notes: Sequence[parts.Note],
    pitches: Int16[np.ndarray, " t"],
    onset: Bool[np.ndarray, " t"],
    steps_per_quarter: int,
) -> tuple[list[parts.Note], list[parts.Note]]:
    """Fills one voice's cells in place; returns the notes that were moved, and those with no cell of their own."""
    moved, lost = [], []
    kept: list[tuple[int, parts.Note]] = []
    for note in notes:
        first = nearest(note.start * steps_per_quarter)
        if kept and first <= kept[-1][0]:  # of notes in one cell the longest stays
            before = kept[-1][1]
            longer = note.end - note.start > before.end - before.start
            lost.append(before if longer else note)
            if longer:
                kept[-1] = (first, note)
        else:
            kept.append((first, note))
    for at, (first, note) in enumerate(kept):
        last = nearest(note.end * steps_per_quarter)
        if at + 1 < len(kept) and _early(note, kept[at + 1][1], steps_per_quarter):
            last = kept[at + 1][0]
        if first != note.start * steps_per_quarter or abs(last - note.end * steps_per_quarter) > _TICK:
            moved.append(note)
        last = max(last, first + 1)
        pitches[first:last] = note.pitch
        onset[first] = True
        onset[first + 1 : last] = False
    return moved, lost


def _early(note: parts.Note, following: parts.Note, steps_per_quarter: int) -> bool:
    """Whether a note was let go off the grid, right before the next of its voice: players and programs do so."""
    end, begin = note.end * steps_per_quarter, following.start * steps_per_quarter
    length, gap = end - note.start * steps_per_quarter, begin - end
    small = (gap < 1 and 4 * gap <= length) or (gap < 2 and 16 * gap <= length)
    return abs(end - nearest(end)) > _TICK and gap > 0 and small


def _remarks(found: parts.Parts, reports: Sequence[_Report], steps_per_quarter: int) -> Iterator[str]:
    """A line for each kind of change: how many notes, and the first of them."""
    changed = [bar for bar in found.bars if bar.meter != found.meter and bar.number > 0]
    if changed:
        beats, unit = changed[0].meter
        yield (
            f"changes of meter are not kept: {found.meter[0]}/{found.meter[1]} throughout "
            f"(the first was to {beats}/{unit} in {parts.locate(changed[0].start, found.bars)})"
        )
    for kind, words in (
        ("lower", "kept the highest of several notes at once in a voice and dropped or cut {}"),
        ("moved", "moved {}" + f" to {steps_per_quarter} steps a quarter"),
        ("lost", "dropped {} between two steps of the grid"),
    ):
        notes = [
            (note.start, note.pitch, part.name)
            for report, part in zip(reports, found.parts, strict=True)
            for note in getattr(report, kind)
        ]
        if notes:
            start, pitch, name = min(notes)
            what = f"{len(notes)} {'off-grid ' if kind == 'moved' else ''}note(s)"
            inside = f" of {name}" if name else ""
            where = parts.locate(start, found.bars)
            yield f"{words.format(what)}, first {parts.pitch_name(pitch)}{inside} in {where}"


def nearest(value: Fraction) -> int:
    """Nearest integer, halves up: python's round would send 0.5 and 1.5 in opposite directions."""
    return math.floor(value + Fraction(1, 2))


def check_range(
    piece: score.Score,
    bars: Sequence[parts.Bar],
    path: str | os.PathLike[str],
    what: str = "score",
    transpose: int | None = None,
) -> None:
    """InputError at the first pitch outside 36..81, with a transposition that fits all voices.

    Args:
      piece: the score.
      bars: those of the file, for the place in the message.
      path: of the file.
      what: the word for the piece, "score" or "melody".
      transpose: semitones by which the file was moved, where a caller can be asked for that (None: it cannot).
    """
    outside = ~pianoroll.in_range(piece.pitches)
    if not outside.any():
        return
    step, voice = (int(place) for place in np.argwhere(outside)[0])
    sounding = piece.pitches[piece.pitches != pianoroll.REST]
    low, high = int(sounding.min()), int(sounding.max())
    where = parts.locate(Fraction(step, piece.steps_per_quarter), bars)
    pitch = int(piece.pitches[step, voice])
    name = f"{parts.voice_names(piece.pitches.shape[1])[voice]} " if piece.pitches.shape[1] > 1 else ""
    fault = (
        f"{path}: {name}{parts.pitch_name(pitch)} (MIDI {pitch}) in {where} is outside "
        f"{parts.pitch_name(pianoroll.MIN_PITCH)}..{parts.pitch_name(pianoroll.MAX_PITCH)} "
        f"({pianoroll.MIN_PITCH}..{pianoroll.MAX_PITCH})"
    )
    if high - low > pianoroll.MAX_PITCH - pianoroll.MIN_PITCH:
        raise errors.InputError(
            f"{fault}; the {what} spans {high - low} semitones and no transposition fits, so narrow its range"
        )
    least = pianoroll.MAX_PITCH - high if high > pianoroll.MAX_PITCH else pianoroll.MIN_PITCH - low
    octaves = int(np.sign(least)) * 12 * -(-abs(least) // 12)
    fits = low + octaves >= pianoroll.MIN_PITCH and high + octaves <= pianoroll.MAX_PITCH
    whole = fits and octaves != least and not transpose
    if transpose is None:
        other = f" (or {octaves:+d}, whole octaves)" if whole else ""
        raise errors.InputError(f"{fault}; transpose the {what} by {least:+d} semitones{other}")
    other = f" (or {octaves}, whole octaves)" if whole else ""
    raise errors.InputError(f"{fault}; transpose the {what}: --transpose={transpose + least}{other}")
