"""Score files: the front of the readers (MIDI, MusicXML, npz) and writers.

A reader finds the voices (`voices`), puts them on the grid (`grid`) and lists in `Score.remarks` what it changed. The
argument `voices` overrides the search: "1,2,3,4" or part names, from soprano to bass; "2.1" is the first written voice
of part 2, and "-" leaves a voice out where not all are needed.
"""

from collections.abc import Sequence
import os
import pathlib
from typing import Final

from coconet_jax import arrays, audio, errors, grid, midi, musicxml, musicxml_reader, parts, score
from coconet_jax import voices as voices_lib

# Named General MIDI programs (counted from 0) for soprano, alto, tenor and bass.
PROGRAMS: Final = {
    "choir": (52, 52, 52, 52),
    "organ": (19, 19, 19, 19),
    "piano": (0, 0, 0, 0),
    "strings": (40, 41, 42, 43),
    "winds": (73, 68, 71, 70),
    "brass": (56, 60, 57, 58),
    "woodwind": (73, 68, 71, 70),
}
MIDI_SUFFIXES: Final = (".mid", ".midi")
SUFFIXES: Final = MIDI_SUFFIXES + musicxml_reader.SUFFIXES
NPZ_SUFFIX: Final = ".npz"

Path = str | os.PathLike[str]
Voices = str | Sequence[str | int] | None


def read_score(path: Path, *, steps_per_quarter: int = 4) -> score.Score:
    """Reads a score file with all its parts; its voices come from high to low.

    Voices are put in order by the names soprano, alto, tenor, bass where all parts have them; otherwise they stay
    as found, or are ordered by range where they clearly rise. Pitches are not checked against 36..81.

    Raises:
      InputError: missing, unknown or malformed file, no notes, two notes at once in a voice, or over 20,000 steps.
    """
    found = voices_lib.find_all(read_parts(path, steps_per_quarter=steps_per_quarter))
    return grid.place(found, path=path, steps_per_quarter=steps_per_quarter)


def read_satb(path: Path, *, steps_per_quarter: int = 4, voices: Voices = None) -> score.Score:
    """Reads a score of four voices, pitches [t,4]: on four staves or tracks, two voices on each of two, or chords.

    Parts beside four that are named soprano, alto, tenor and bass are left out. Of several notes at once in a voice
    the highest is kept. The score ends with its last note.

    Raises:
      InputError: another number of voices, a pitch outside 36..81, or see `read_score`.
    """
    found = voices_lib.find_four(read_parts(path, steps_per_quarter=steps_per_quarter), path, voices)
    piece = grid.place(found, path=path, steps_per_quarter=steps_per_quarter, highest=True)
    grid.check_range(piece, grid.bars_of(found), path)
    return piece


def read_partial(path: Path, *, steps_per_quarter: int = 4, voices: Voices = None, transpose: int = 0) -> score.Score:
    """Reads what is written of a score of four voices, pitches [t,4], -1 where nothing is.

    Any of the voices may be missing: names decide which is which; a single part without one is the soprano, or all four
    where it holds chords of four, two or three are told by their range. The score is as long as the file: its empty
    bars at the end are there to be filled (in MIDI up to the end of the tracks). Of several notes at once in a voice
    the highest is kept. All notes are moved by `transpose` semitones.

    Raises:
      InputError: no notes at all, a pitch outside 36..81, or see `read_score`.
    """
    found = voices_lib.find_some(read_parts(path, steps_per_quarter=steps_per_quarter), path, voices)
    found = parts.transposed(found, transpose)
    piece = grid.place(found, path=path, steps_per_quarter=steps_per_quarter, highest=True, whole=True)
    grid.check_range(piece, grid.bars_of(found), path, transpose=transpose)
    return piece


def read_melody(path: Path, *, steps_per_quarter: int = 4, voices: Voices = None, transpose: int = 0) -> score.Score:
    """Reads one voice, pitches [t,1]: the file's only part with notes, or the soprano of four.

    Rests in the bar of the last note are part of it, if the file has them; empty bars after that are not. Of several
    notes at once in a soprano the highest is kept; in a lone part without a voice's name, a piano's perhaps, they are
    an error, unless it holds chords of four, of which the upper voice is taken. All notes are moved by `transpose`
    semitones.

    Raises:
      InputError: another number of voices, two notes at once, a pitch outside 36..81, or see `read_score`.
    """
    everything = read_parts(path, steps_per_quarter=steps_per_quarter)
    found = parts.transposed(voices_lib.find_melody(everything, path, voices), transpose)
    if not any(part.notes for part in found.parts):
        raise errors.InputError(f"{path} holds no melody notes; give a file with notes in its first voice")
    sung = any(voices_lib.is_voice_name(part.name) for part in found.parts) or len(everything.parts) > 1
    melody = grid.place(
        found, path=path, steps_per_quarter=steps_per_quarter, highest=sung or voices is not None, to_bar_line=True
    )
    grid.check_range(melody, grid.bars_of(found), path, "melody", transpose)
    return melody


def read_parts(path: Path, *, steps_per_quarter: int = 4) -> parts.Parts:
    """The parts of a file of any kind, before any grid. An npz that does not tell its grid stands on the one given.

    Raises:
      InputError: missing, unknown or malformed file.
    """
    if arrays.is_npz(path):
        return arrays.read(path, steps_per_quarter)
    suffix = pathlib.Path(path).suffix.lower()
    if suffix in SUFFIXES:
        found = midi.read(path) if suffix in MIDI_SUFFIXES else musicxml_reader.read(path)
        if len(found.parts) > parts.MAX_PARTS:
            raise errors.InputError(f"{path} has {len(found.parts)} parts, more than {parts.MAX_PARTS}; leave out some")
        return found
    raise errors.InputError(
        f"{path} has the suffix {suffix!r}; give a score file, one of {', '.join((*SUFFIXES, NPZ_SUFFIX))}"
    )


def write_midi(
    path: Path,
    piece: score.Score,
    *,
    programs: Sequence[int] = PROGRAMS["choir"],
    qpm: float | None = None,
    velocities: Sequence[int] = midi.VELOCITIES,
) -> None:
    """Writes MIDI, see `midi.write`; `PROGRAMS` has named choices of programs.

    Raises:
      InputError: a bad program, velocity or tempo, or a folder that cannot be written.
    """
    midi.write(path, piece, programs=programs, qpm=qpm, velocities=velocities)


def write_musicxml(path: Path, piece: score.Score, *, staves: int | None = None) -> None:
    """Writes MusicXML, one staff for each voice, or four voices on `staves=2`; see `musicxml.write`.

    Raises:
      InputError: a bad tempo or number of staves, or a folder that cannot be written.
    """
    musicxml.write(path, piece, staves=staves)


def write_npz(path: Path, piece: score.Score) -> None:
    """Writes the score's arrays, see `arrays.write`.

    Raises:
      InputError: a folder that cannot be written.
    """
    arrays.write(path, piece)


def write_wav(
    path: Path,
    piece: score.Score,
    *,
    programs: Sequence[int] = PROGRAMS["choir"],
    qpm: float | None = None,
    velocities: Sequence[int] = midi.VELOCITIES,
    soundfont: Path | None = None,
) -> None:
    """Writes sound by the program fluidsynth, see `audio.write`.

    Raises:
      InputError: fluidsynth or a soundfont is not installed, or see `write_midi`.
    """
    audio.write(path, midi.encode(piece, programs=programs, qpm=qpm, velocities=velocities), soundfont=soundfont)
