"""Score files: the front of the MIDI and MusicXML readers and writers, and the snapping to a grid."""

from collections.abc import Sequence
from fractions import Fraction
import logging
import math
import os
import pathlib
from typing import Final

import numpy as np

from coconet_jax import errors, midi, musicxml, pianoroll, score

# Named General MIDI programs (counted from 0) for soprano, alto, tenor and bass.
PROGRAMS: Final = {
    "choir": (52, 52, 52, 52),
    "organ": (19, 19, 19, 19),
    "piano": (0, 0, 0, 0),
    "strings": (40, 41, 42, 43),
    "brass": (56, 60, 57, 58),
    "woodwind": (73, 68, 71, 70),
}
MIDI_SUFFIXES: Final = (".mid", ".midi")
SUFFIXES: Final = MIDI_SUFFIXES + musicxml.SUFFIXES
MAX_STEPS: Final = 20_000

_log = logging.getLogger(__name__)


def read_score(path: str | os.PathLike[str], *, steps_per_quarter: int = 4) -> score.Score:
    """Reads a score file; its voices come from high to low.

    Voices are put in order by the names soprano, alto, tenor, bass where all parts have them; otherwise they stay
    as found, or are reversed where they clearly rise. Pitches are not checked against 36..81.

    Raises:
      InputError: missing, unknown or malformed file, no notes, two notes at once in a voice, or over 20,000 steps.
    """
    return _place(_ordered(_read_parts(path)), path=path, steps_per_quarter=steps_per_quarter)


def read_satb(path: str | os.PathLike[str], *, steps_per_quarter: int = 4) -> score.Score:
    """Reads a score of exactly four voices, on four staves or tracks, or two voices on each of two staves.

    Raises:
      InputError: another number of voices, or see `read_score`.
    """
    parts = _ordered(_read_parts(path))
    if parts.parts and len(parts.parts) != pianoroll.NUM_VOICES:
        raise errors.InputError(
            f"{path} has {_count(len(parts.parts))}; give a score of four voices, one to a staff or track"
        )
    return _place(parts, path=path, steps_per_quarter=steps_per_quarter)


def read_melody(path: str | os.PathLike[str], *, steps_per_quarter: int = 4) -> score.Score:
    """Reads one voice, pitches [t,1]: the file's only part with notes, or the soprano of four.

    Raises:
      InputError: another number of voices, a pitch outside 36..81, or see `read_score`.
    """
    parts = _ordered(_read_parts(path))
    filled = [part for part in parts.parts if part.notes]
    if len(filled) > 1 and len(parts.parts) == pianoroll.NUM_VOICES:
        filled = parts.parts[:1]
    if len(filled) > 1:
        raise errors.InputError(
            f"{path} has {_count(len(filled))}; give a melody (one voice), or four voices to take the soprano of"
        )
    if not filled or not filled[0].notes:
        raise errors.InputError(f"{path} holds no melody notes; give a file with notes in its first voice")
    melody = _place(parts._replace(parts=filled), path=path, steps_per_quarter=steps_per_quarter)
    _check_range(melody, path)
    return melody


def write_midi(
    path: str | os.PathLike[str],
    piece: score.Score,
    *,
    programs: Sequence[int] = PROGRAMS["choir"],
    qpm: float | None = None,
) -> None:
    """Writes MIDI, see `midi.write`; `PROGRAMS` has named choices of programs.

    Raises:
      InputError: a bad program or tempo, or a folder that cannot be written.
    """
    midi.write(path, piece, programs=programs, qpm=qpm)


def write_musicxml(path: str | os.PathLike[str], piece: score.Score) -> None:
    """Writes MusicXML, see `musicxml.write`.

    Raises:
      InputError: a bad tempo, or a folder that cannot be written.
    """
    musicxml.write(path, piece)


def _read_parts(path: str | os.PathLike[str]) -> midi.Parts:
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise errors.InputError(f"{path} has the suffix {suffix!r}; give a score file, one of {', '.join(SUFFIXES)}")
    return midi.read(path) if suffix in MIDI_SUFFIXES else musicxml.read(path)


def _ordered(parts: midi.Parts) -> midi.Parts:
    """Two staves of two voices opened into four, and the voices from high to low."""
    voices = parts.parts
    if len(voices) == 2 and all(len(part.layers) == 2 for part in voices):
        voices = [midi.Part("", layer) for part in voices for layer in part.layers]
    ranks = [_rank(part.name) for part in voices]
    if None not in ranks and len(set(ranks)) == len(ranks):
        voices = [part for _, part in sorted(zip(ranks, voices, strict=True), key=lambda pair: pair[0] or 0)]
    elif len(voices) > 1 and all(part.notes for part in voices):
        means = np.array([np.mean([note.pitch for note in part.notes]) for part in voices])
        # Three semitones a voice: less than that is a voice crossing, not a score written upside down.
        if (np.diff(means) > 0).all() and means[-1] - means[0] >= 3 * (len(voices) - 1):
            voices = voices[::-1]
    return parts._replace(parts=voices)


def _rank(name: str) -> int | None:
    """0..3 for names that begin with soprano, alto, tenor or bass, or are their initials; None for others."""
    plain = name.lower().strip(" .")
    for rank, voice in enumerate(pianoroll.VOICES):
        if plain == voice[0] or plain.startswith(voice):
            return rank
    return None


def _locate(quarters: Fraction, meter: tuple[int, int], pickup: Fraction) -> str:
    """Where a time in quarters falls, as "bar 3, beat 2"; a pick-up is bar 0 and its beats count to the bar line."""
    bar = Fraction(4 * meter[0], meter[1])
    number, inside = divmod(quarters - pickup, bar)
    beat = inside * meter[1] / 4 + 1
    return f"bar {number + 1}, beat {float(beat):.4g}"


def _place(parts: midi.Parts, *, path: str | os.PathLike[str], steps_per_quarter: int) -> score.Score:
    """Puts parts on the grid, one voice each. Notes off the grid are snapped, and one warning says how many.

    The score ends with its last note: rests after it are not kept, since files fill their last bar with them.

    Raises:
      InputError: no notes, two notes at once in a part, or a piece of more than 20,000 steps; `path` names the file.
    """
    if steps_per_quarter not in (1, 2, 4):
        raise errors.InputError(f"steps_per_quarter={steps_per_quarter} is no grid; use 1, 2 or 4")
    if not (1 <= parts.meter[0] <= 64 and parts.meter[1] in (1, 2, 4, 8, 16, 32, 64)):
        parts = parts._replace(meter=(4, 4), pickup=Fraction(0))
    if not midi.QPM_LIMITS[0] <= parts.qpm <= midi.QPM_LIMITS[1]:
        parts = parts._replace(qpm=midi.Parts([]).qpm)
    if not any(part.notes for part in parts.parts):
        raise errors.InputError(f"{path} holds no notes; give a file with at least one note")
    last = max(note.end for part in parts.parts for note in part.notes) * steps_per_quarter
    if last > MAX_STEPS:
        raise errors.InputError(
            f"{path} lasts {int(last)} steps, more than {MAX_STEPS}; cut it into shorter pieces (or mend its durations)"
        )
    length = int(last) + 2  # a note at the very end may be snapped one step later
    pitches = np.full((length, len(parts.parts)), pianoroll.REST, np.int16)
    onset = np.zeros(pitches.shape, bool)
    snapped = 0
    for voice, part in enumerate(parts.parts):
        strange = [note for note in part.notes if note.start < 0 or not 0 <= note.pitch <= 127]
        if strange:
            raise errors.InputError(f"{path} has a note no player knows ({strange[0]}); give pitches C-1 to G9")
        snapped += _place_voice(part, parts, pitches[:, voice], onset[:, voice], path, steps_per_quarter)
    if snapped:
        _log.warning("%s: moved %d off-grid note(s) to %d steps a quarter", path, snapped, steps_per_quarter)
    end = int(np.flatnonzero((pitches != pianoroll.REST).any(axis=1))[-1]) + 1
    return score.Score(
        pitches[:end], onset[:end], parts.meter, _round(parts.pickup * steps_per_quarter), steps_per_quarter,
        parts.qpm, parts.title,
    )  # fmt: skip


def _place_voice(part: midi.Part, parts: midi.Parts, pitches, onset, path, steps_per_quarter: int) -> int:
    """Fills one voice's cells in place; returns how many notes were off the grid."""
    snapped = 0
    before: midi.Note | None = None
    for note in sorted(part.notes):
        # Players and notation programs let notes of a line overlap a little: that is legato, not a chord.
        if before and note.start < before.end:
            overlap = min(before.end, note.end) - note.start
            shorter = min(before.end - before.start, note.end - note.start)
            if 2 * overlap >= shorter or 2 * overlap * steps_per_quarter >= 1:
                where = _locate(note.start, parts.meter, parts.pickup)
                both = " and ".join(midi.pitch_name(pitch) for pitch in sorted((before.pitch, note.pitch)))
                name = f"part {part.name!r}" if part.name else "one part"
                raise errors.InputError(
                    f"{path}: {name} has more than one note at once ({both}) in {where}; keep one note at a time"
                )
        first, last = _round(note.start * steps_per_quarter), _round(note.end * steps_per_quarter)
        snapped += first != note.start * steps_per_quarter or last != note.end * steps_per_quarter
        last = max(last, first + 1)
        pitches[first:last] = note.pitch
        onset[first] = True
        onset[first + 1 : last] = False
        before = note if before is None or note.end > before.end else before
    return snapped


def _round(value: Fraction) -> int:
    """Nearest integer, halves up: python's round would send 0.5 and 1.5 in opposite directions."""
    return math.floor(value + Fraction(1, 2))


def _count(voices: int) -> str:
    return "1 voice" if voices == 1 else f"{voices} voices"


def _check_range(melody: score.Score, path: str | os.PathLike[str]) -> None:
    """InputError at the first pitch outside 36..81, with a transposition that would fit."""
    column = melody.pitches[:, 0]
    outside = ~pianoroll.in_range(melody.pitches)[:, 0]
    if not outside.any():
        return
    step = int(np.flatnonzero(outside)[0])
    sounding = column[column != pianoroll.REST]
    low, high = int(sounding.min()), int(sounding.max())
    where = _locate(
        Fraction(step, melody.steps_per_quarter),
        melody.meter,
        Fraction(melody.pickup_steps, melody.steps_per_quarter),
    )
    fault = (
        f"{path}: {midi.pitch_name(int(column[step]))} (MIDI {column[step]}) in {where} is outside "
        f"{midi.pitch_name(pianoroll.MIN_PITCH)}..{midi.pitch_name(pianoroll.MAX_PITCH)} "
        f"({pianoroll.MIN_PITCH}..{pianoroll.MAX_PITCH})"
    )
    if high - low > pianoroll.MAX_PITCH - pianoroll.MIN_PITCH:
        raise errors.InputError(
            f"{fault}; the melody spans {high - low} semitones and no transposition fits, so narrow its range"
        )
    least = pianoroll.MAX_PITCH - high if high > pianoroll.MAX_PITCH else pianoroll.MIN_PITCH - low
    octaves = int(np.sign(least)) * 12 * -(-abs(least) // 12)
    fits = low + octaves >= pianoroll.MIN_PITCH and high + octaves <= pianoroll.MAX_PITCH
    whole = f" (or {octaves:+d}, whole octaves)" if fits and octaves != least else ""
    raise errors.InputError(f"{fault}; transpose the melody by {least:+d} semitones{whole}")
