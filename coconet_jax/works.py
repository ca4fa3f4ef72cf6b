"""Four-part works of several composers inside music21's corpus, as windows that a classifier can be fair about.

Composers differ in much that is not style: the note that counts as a beat, rests, register, key. So a score is read on
grids whose step is a 64th, 32nd ... half note, and a window of WINDOW steps counts where

- its pace is Bach's: a pitch lasts PACE steps on average over all voices, up to a factor of the square root of 2. Most
  of Palestrina then stands on a grid of eighths, where his halves look like quarters, an adagio on a finer one;
- all four voices sound. Rests of at most a quarter (on that grid) are filled with the note before, as in the chorales'
  own data, but no more than MAX_FILLED of the window's cells;
- it spans at most the 46 pitches of 36..81, into which it is moved by the smallest transposition that does so.

Windows start every HOP steps; HOP is odd, so that they start anywhere in a bar. Key and register are gone when windows
are transposed at random inside `room`. Chorales go through the same.

Splits are by work, never by movement: the chorales' own; a table for the quartets; a hash of a mass's title, without
the year or number that tells apart settings of one model, for Palestrina. Composers with too few works are in test.
"""

from collections.abc import Iterator
import dataclasses
from fractions import Fraction
import hashlib
import pathlib
import re
from typing import Any, Final, NamedTuple
import warnings
import zipfile

from jaxtyping import Bool, Float, Int8, Integer
import numpy as np

from coconet_jax import corpus, errors, pianoroll

WINDOW: Final = 64  # steps of a window
HOP: Final = 7
PACE: Final = 4.5  # sixteenths that a pitch lasts in Bach's chorales, on average
MAX_FILLED: Final = 0.05
FAMILIES: Final = ("bach", "palestrina", "quartets", "other")
COMPOSERS: Final = ("bach", "palestrina", "haydn", "mozart", "beethoven", "schumann", "trecento")
FAMILY_OF: Final = {
    "bach": "bach",
    "palestrina": "palestrina",
    "haydn": "quartets",
    "mozart": "quartets",
    "beethoven": "quartets",
    "schumann": "other",
    "trecento": "other",
}
# About a fifth of each composer's notes in test, and some of every composer that has two works.
_QUARTETS: Final = {
    "beethoven/opus18no1": "test",
    "beethoven/opus18no3": "train",
    "beethoven/opus18no4": "train",
    "beethoven/opus18no5": "valid",
    "beethoven/opus59no1": "train",
    "beethoven/opus59no2": "train",
    "beethoven/opus59no3": "test",
    "beethoven/opus74": "train",
    "beethoven/opus132": "train",
    "beethoven/opus133": "train",
    "haydn/opus1no1": "test",
    "haydn/opus74no1": "train",
    "mozart/k80": "test",
    "mozart/k155": "train",
    "mozart/k156": "valid",
    "mozart/k458": "train",
    "schumann_robert/opus41no1": "test",
}
_FINE: Final = 4  # cells per sixteenth of the grid that all others are taken from
_STRIDES: Final = (1, 2, 4, 8, 16, 32)  # cells that become one step
_SHORT_REST: Final = 4  # steps


@dataclasses.dataclass(frozen=True)
class Source:
    """A score of the corpus.

    Attributes:
      name: its path below the corpus, without the suffix; a chorale's name.
      path: the file.
      composer: one of COMPOSERS.
      work: what it is a movement of.
      split: train, valid or test, the same for all of a work.
    """

    name: str
    path: pathlib.Path
    composer: str
    work: str
    split: str


class Cut(NamedTuple):
    """What a score gives.

    Attributes:
      windows: MIDI pitches, all inside 36..81.
      room: semitones [down, up] that each window can be moved.
      stretch: by what the lengths of each window's notes were multiplied.
      filled: share of each window's cells that were rests.
      dropped: windows that span too many pitches.
    """

    windows: Int8[np.ndarray, "n 64 4"]
    room: Int8[np.ndarray, "n 2"]
    stretch: Float[np.ndarray, " n"]
    filled: Float[np.ndarray, " n"]
    dropped: int


def find_sources() -> list[Source]:
    """All scores of four parts, chorales first, in a fixed order.

    Raises:
      InputError: music21 or its corpus is not installed.
    """
    root = corpus.folder().parent
    found = []
    for split, rows in corpus.table()["splits"].items():
        leaking = corpus.leaking_names(split) if split != "train" else ()
        for row in rows:
            if row["name"] not in leaking:
                path = root / "bach" / row["name"]
                found.append(Source(row["name"], path, "bach", row["name"], split))
    for path in sorted((root / "palestrina").glob("*.krn")):
        text = path.read_text("latin1")
        spines = next((line for line in text.splitlines() if line.startswith("**")), "").split("\t")
        title = re.search(r"^!!!OPR:\s*(.*?)\s*$", text, re.MULTILINE)
        if spines.count("**kern") == pianoroll.NUM_VOICES and title:
            work = re.sub(r"\s*\(.*\)$", "", title[1])
            found.append(Source(f"palestrina/{path.stem}", path, "palestrina", work, _mass_split(work)))
    for work, split in _QUARTETS.items():
        composer = work.split("/")[0].split("_")[0]
        whole = root / f"{work}.mxl"
        for path in [whole] if whole.exists() else sorted((root / work).glob("movement*.mxl")):
            found.append(Source(path.relative_to(root).with_suffix("").as_posix(), path, composer, work, split))
    for path in sorted((root / "trecento").glob("*.xml")):
        if len(re.findall(r"<score-part\s", path.read_text("utf-8", "replace"))) == pianoroll.NUM_VOICES:
            found.append(Source(f"trecento/{path.stem}", path, "trecento", f"trecento/{path.stem}", "test"))
    return found


def _mass_split(work: str) -> str:
    """train (7 of 10 titles), valid (1) or test (2)."""
    draw = int.from_bytes(hashlib.sha256(work.encode()).digest()[:8], "big") % 10
    return {7: "valid", 8: "test", 9: "test"}.get(draw, "train")


def read(source: Source) -> Cut:
    """Parses a score and cuts it.

    Raises:
      InputError: it cannot be read, or has another number of parts than four.
    """
    return cut(_read_chorale(source.name) if source.composer == "bach" else _read_score(source.path))


def _read_chorale(name: str) -> np.ndarray:
    row = next(row for rows in corpus.table()["splits"].values() for row in rows if row["name"] == name)
    return np.repeat(corpus.build(name, row).pitches, _FINE, axis=0)


def _read_score(path: pathlib.Path) -> np.ndarray:
    """MIDI pitches (T, 4) on the fine grid, the highest part first; of a chord the highest note.

    A cell has the note that sounds where the cell begins, so the pitches of every second cell are those that a grid
    of twice the cells' length has.
    """
    from music21 import converter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parsed: Any = converter.parse(
                path, format="humdrum" if path.suffix == ".krn" else "musicxml", forceSource=True
            )
            parts = list(parsed.parts)
            for part in parts:
                part.toSoundingPitch(inPlace=True)
            voices = [list(_notes(part)) for part in parts]
        # A broken file takes music21 through any of its own and Python's errors.
        except (Exception, zipfile.BadZipFile) as error:
            raise errors.InputError(f"music21 cannot read {path.name}: {error}") from None
    if len(voices) != pianoroll.NUM_VOICES or not all(voices):
        raise errors.InputError(f"{path.name} has {len(voices)} parts, not 4 that sound")
    end = max(note[1] for voice in voices for note in voice)
    pitches = np.full((end, pianoroll.NUM_VOICES), pianoroll.REST, np.int16)
    for voice, notes in enumerate(voices):
        for first, last, pitch in sorted(notes, key=lambda note: (note[0], note[2])):
            pitches[first:last, voice] = pitch
    heights = [np.mean(column[column != pianoroll.REST]) if (column >= 0).any() else 0 for column in pitches.T]
    return pitches[:, np.argsort(-np.array(heights), kind="stable")]


def _notes(part: Any) -> Iterator[tuple[int, int, int]]:
    """First cell, cell after the last, and pitch of each note."""
    for element in part.flatten().notes:
        pitches = [pitch.midi for pitch in element.pitches]
        start = Fraction(element.offset)
        end = start + Fraction(element.duration.quarterLength)
        first, last = _cell(start), _cell(end)
        if pitches and first < last:
            yield first, last, max(pitches)


def _cell(quarters: Fraction) -> int:
    return int(-(-quarters * 4 * _FINE // 1))


def cut(pitches: Integer[np.ndarray, "t 4"]) -> Cut:
    """Windows of a score on the fine grid; see the module."""
    cuts = [_cut_grid(pitches[::stride], _FINE / stride) for stride in _STRIDES]
    return Cut(
        windows=np.concatenate([found.windows for found in cuts]),
        room=np.concatenate([found.room for found in cuts]),
        stretch=np.concatenate([found.stretch for found in cuts]),
        filled=np.concatenate([found.filled for found in cuts]),
        dropped=sum(found.dropped for found in cuts),
    )


def _cut_grid(pitches: np.ndarray, stretch: float) -> Cut:
    if len(pitches) < WINDOW:
        pitches = np.full((WINDOW, pianoroll.NUM_VOICES), pianoroll.REST, np.int16)  # no window of it sounds
    held = hold_short_rests(pitches)
    windows = np.lib.stride_tricks.sliding_window_view(held, WINDOW, axis=0)[::HOP].transpose(0, 2, 1)
    rests = np.lib.stride_tricks.sliding_window_view(pitches == pianoroll.REST, WINDOW, axis=0)[::HOP]
    filled = rests.mean(axis=(1, 2))
    usable = (windows != pianoroll.REST).all(axis=(1, 2)) & (filled <= MAX_FILLED) & _at_pace(windows)
    low, high = windows.min(axis=(1, 2)), windows.max(axis=(1, 2))
    fits = high - low < pianoroll.NUM_PITCHES
    kept = usable & fits
    windows, low, high = windows[kept], low[kept], high[kept]
    shift = np.maximum(pianoroll.MIN_PITCH - low, 0) + np.minimum(pianoroll.MAX_PITCH - high, 0)
    room = np.stack([pianoroll.MIN_PITCH - low - shift, pianoroll.MAX_PITCH - high - shift], axis=1)
    return Cut(
        (windows + shift[:, None, None]).astype(np.int8),
        room.astype(np.int8),
        np.full(len(windows), stretch, np.float32),
        filled[kept].astype(np.float32),
        int((usable & ~fits).sum()),
    )


def hold_short_rests(pitches: Integer[np.ndarray, "t 4"]) -> Integer[np.ndarray, "t 4"]:
    """Rests of at most a quarter (4 steps) in a voice become the note before them; a voice may start with rests."""
    held = pitches.copy()
    for column in held.T:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], column == pianoroll.REST, [False]]).astype(np.int8)))
        for first, last in edges.reshape(-1, 2):
            if first > 0 and last - first <= _SHORT_REST:
                column[first:last] = column[first - 1]
    return held


def _at_pace(windows: np.ndarray) -> Bool[np.ndarray, " n"]:
    """Whether a pitch lasts PACE steps, up to a factor of the square root of 2."""
    num_pitches = pianoroll.NUM_VOICES + (np.diff(windows, axis=1) != 0).sum(axis=(1, 2))
    off = np.log2(WINDOW * pianoroll.NUM_VOICES / num_pitches / PACE)
    return (off >= -0.5) & (off < 0.5)
