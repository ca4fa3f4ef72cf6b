"""The chorales inside music21's corpus as (T,4) grids, and the table that says which of them the paper used.

music21 ships Bach's chorales as MusicXML and reads them here, a tenth of a second each. One step of the grid is a
sixteenth; 0 is the first note, a pick-up included.
"""

from collections.abc import Iterator
import dataclasses
from fractions import Fraction
import functools
import importlib.util
import json
import pathlib
from typing import Any
import warnings

from jaxtyping import Bool, Integer
import numpy as np

from coconet_jax import errors, pianoroll

TABLE_PATH = pathlib.Path(__file__).with_name("chorales_table.json")
_SAME_SETTING = 0.2  # share of cells that differ
_REMEDY = "install the tested one with: pip install 'music21>=9.1,<11'"


@dataclasses.dataclass(frozen=True, eq=False)
class Chorale:
    """A chorale on a grid.

    Attributes:
      name: unique within its data set.
      pitches: MIDI pitches, S A T B, -1 = rest.
      onset: True where a note is struck (a tie's second note is not); None where the source cannot tell.
      fermata: True on every step of a note under a fermata; None where the source cannot tell.
      meter: beats and beat unit of the first bar.
      pickup_steps: steps before the first full bar, 0 where that is not known.
    """

    name: str
    pitches: Integer[np.ndarray, "t 4"]
    onset: Bool[np.ndarray, "t 4"] | None = None
    fermata: Bool[np.ndarray, "t 4"] | None = None
    meter: tuple[int, int] = (4, 4)
    pickup_steps: int = 0


@dataclasses.dataclass(frozen=True)
class _Note:
    start: Fraction  # sixteenths from the first note of the file
    end: Fraction
    pitch: int
    struck: bool  # False on the later notes of a tie
    fermata: bool


@dataclasses.dataclass
class _Part:
    name: str
    notes: list[_Note]
    bars: list[tuple[Fraction, Fraction]]
    full_bars: list[Fraction]  # the length each bar has by its meter
    meter: tuple[int, int] | None = None
    forward_repeats: set[int] = dataclasses.field(default_factory=set)  # bars that start with a repeat sign
    backward_repeats: set[int] = dataclasses.field(default_factory=set)  # bars that end with one


@functools.cache
def table() -> dict[str, Any]:
    """The packaged facts: `splits` (split -> list of {name, index, encoding}), `extra` and `leaks`.

    `index` is the chorale's place in the paper's fold. An encoding has `steps` (the length that must come out),
    `form`, `rests` and, where they are needed, `transpose` (semitones) and `scale`; see `encode`.
    """
    return json.loads(TABLE_PATH.read_text(encoding="utf-8"))


def leaking_names(split: str = "valid") -> tuple[str, ...]:
    """Pieces of `split` that are, up to transposition, the same setting as one in train: report numbers without them.

    A setting counts as shared when fewer than one cell in five differs; two settings of one tune differ in more.
    """
    names = []
    for leak in table()["leaks"]:
        sides = dict(zip((leak["a"][0], leak["b"][0]), leak["names"], strict=True))
        if set(sides) == {"train", split} and leak["differ"] < _SAME_SETTING:
            names.append(sides[split])
    return tuple(names)


def folder() -> pathlib.Path:
    """The folder of Bach's works inside the installed music21, found without importing it.

    Raises:
      InputError: music21 or its corpus is not installed.
    """
    spec = importlib.util.find_spec("music21")
    for place in (spec and spec.submodule_search_locations) or ():
        path = pathlib.Path(place) / "corpus" / "bach"
        if path.is_dir():
            return path
    raise errors.InputError(f"music21 and its corpus are not installed; {_REMEDY}")


def build(name: str, encoding: dict[str, Any]) -> Chorale:
    """Reads chorale `name` of the corpus and encodes it as the paper's dataset does.

    Raises:
      InputError: the corpus lacks the file, or it gives another length than the table says.
    """
    chorale = encode(name, _read_parts(name), encoding)
    steps = encoding.get("steps", len(chorale.pitches))
    if len(chorale.pitches) != steps:
        raise errors.InputError(
            f"music21's {name} gives {len(chorale.pitches)} steps instead of {steps}: it is another edition; {_REMEDY}"
        )
    return chorale


def encode(name: str, parts: list[_Part], encoding: dict[str, Any]) -> Chorale:
    """Four parts on the sixteenth grid as the paper's dataset has them.

    In this order: the last chord is held to its bar line, rests are filled, repeats played, the whole transposed,
    scaled and cut, and the silence at the start dropped.

    `rests` is `tutti` (a step where all four rest repeats the one before), `keep`, or `voice` (every rest repeats
    the step before). `form` is `literal`, `expand` (repeats are played) or a list of [a, b) cuts of the grid.
    """
    pitches, onset, fermata = _grid(parts)
    stop = int(np.flatnonzero((pitches != pianoroll.REST).any(axis=1))[-1]) + 1
    bars = list(parts[0].bars)
    last_bar = max(bar for bar, (start, _) in enumerate(bars) if start < stop)
    # The last bar of a chorale with a pick-up is written short; the paper's data hold its chord for a full bar.
    start, end = bars[last_bar]
    bars[last_bar] = (start, max(end, start + parts[0].full_bars[last_bar]))
    rows = np.minimum(np.arange(max(stop, _ceil(bars[last_bar][1]))), stop - 1)
    pitches, onset, fermata = pitches[rows], onset[rows], fermata[rows]
    onset[stop:] = False

    silent = pitches == pianoroll.REST
    if encoding["rests"] == "tutti":
        silent = np.repeat(silent.all(axis=1, keepdims=True), pianoroll.NUM_VOICES, axis=1)
    if encoding["rests"] != "keep":
        # The row each cell takes its value from: the last one before it that is not to be filled.
        rows = np.maximum.accumulate(np.where(silent, 0, np.arange(len(pitches))[:, None]), axis=0)
        pitches, fermata = (np.take_along_axis(array, rows, axis=0) for array in (pitches, fermata))

    form = encoding["form"]
    if form == "expand":
        order = _play_order(last_bar + 1, parts[0].forward_repeats, parts[0].backward_repeats)
        rows = np.concatenate([np.arange(_ceil(bars[bar][0]), _ceil(bars[bar][1])) for bar in order])
        pitches, onset, fermata = pitches[rows], onset[rows], fermata[rows]

    pitches = np.where(pitches == pianoroll.REST, pitches, pitches + encoding.get("transpose", 0))
    scale = encoding.get("scale", 1)
    pitches, onset, fermata = (np.repeat(array, scale, axis=0) for array in (pitches, onset, fermata))
    onset &= (np.arange(len(onset)) % scale == 0)[:, None]

    cuts = [(0, len(pitches))] if isinstance(form, str) else form
    rows = np.concatenate([np.arange(a, min(b, len(pitches))) for a, b in cuts])
    leading = int(np.argmax((pitches[rows] != pianoroll.REST).any(axis=1)))
    rows = rows[leading:]
    pitches, onset, fermata = pitches[rows], onset[rows], fermata[rows]
    # A cut may start inside a note, which is struck there.
    onset = (onset & (pitches != pianoroll.REST)) | pianoroll.onsets_where_pitch_changes(pitches)
    meter, pickup = parts[0].meter or (4, 4), _ceil(bars[0][1]) - leading
    if scale != 1 or not isinstance(form, str) or not 0 < pickup < Fraction(16 * meter[0], meter[1]):
        pickup = 0  # the grid was cut, so where its first bar line stands is not known
    return Chorale(name, pitches.astype(np.int16), onset, fermata, meter, pickup)


def _ceil(steps: Fraction) -> int:
    return int(-(-steps // 1))


def _grid(parts: list[_Part]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A note with onset o and length d sixteenths fills the cells ceil(o) .. ceil(o + d) - 1."""
    steps = max(_ceil(part.bars[-1][1]) for part in parts)
    pitches = np.full((steps, len(parts)), pianoroll.REST, np.int16)
    onset, fermata = np.zeros(pitches.shape, bool), np.zeros(pitches.shape, bool)
    for voice, part in enumerate(parts):
        for note in part.notes:
            a, b = _ceil(note.start), _ceil(note.end)
            if a < b:
                pitches[a:b, voice], fermata[a:b, voice], onset[a:b, voice] = note.pitch, note.fermata, False
                onset[a, voice] = note.struck
    return pitches, onset, fermata


def _play_order(num_bars: int, forward: set[int], backward: set[int]) -> list[int]:
    """Bars in playing order: at the end of a repeat, back once to its start sign or the end of the one before."""
    order: list[int] = []
    start = 0
    for bar in range(num_bars):
        if bar in forward:
            start = bar
        order.append(bar)
        if bar in backward:
            order.extend(range(start, bar + 1))
            start = bar + 1
    return order


def _read_parts(name: str) -> list[_Part]:
    """Soprano, alto, tenor and bass of a file: its four parts in order, or the first ones of those names."""
    parts = [_read_part(part) for part in _parse(name).parts]
    if len(parts) == pianoroll.NUM_VOICES:
        return parts
    chosen = [next((p for p in parts if p.name.lower().startswith(voice)), None) for voice in pianoroll.VOICES]
    if None in chosen:
        raise errors.InputError(f"music21's {name} has no four voices: it is another edition; {_REMEDY}")
    return [part for part in chosen if part is not None]


def _parse(name: str) -> Any:
    """music21's Score of a file, every part at sounding pitch."""
    # music21's own search by name may take a file of another format, with other notes.
    path = next((p for p in (folder() / f"{name}.mxl", folder() / f"{name}.xml") if p.exists()), None)
    if path is None:
        raise errors.InputError(f"music21's corpus has no bach/{name}; {_REMEDY}")
    from music21 import converter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # music21 remarks on layout, not on notes
        try:
            # Without forceSource music21 leaves a pickle of every file in the folder for temporary files.
            parsed: Any = converter.parse(path, format="musicxml", forceSource=True)
        except Exception as error:  # a broken file takes music21 through BadZipFile, ParseError, KeyError ...
            raise errors.InputError(f"music21's bach/{path.name} cannot be read ({error}); {_REMEDY}") from None
        for part in parsed.parts:
            part.toSoundingPitch(inPlace=True)
    return parsed


def _read_part(source: Any) -> _Part:
    from music21 import bar, stream

    part, full_bar = _Part((source.partName or "").strip(), [], [], []), Fraction(16)
    for number, measure in enumerate(source.getElementsByClass(stream.Measure)):
        if (signature := measure.timeSignature) is not None:
            part.meter = part.meter or (signature.numerator, signature.denominator)
            full_bar = Fraction(16 * signature.numerator, signature.denominator)
        start = _sixteenths(measure.offset)
        part.bars.append((start, start + _sixteenths(measure.highestTime)))
        part.full_bars.append(full_bar)
        for voice in measure.voices or [measure]:  # voices start with their bar
            for element in voice.notes:
                part.notes.extend(_read_notes(element, start))
        for line in (measure.leftBarline, measure.rightBarline):
            if isinstance(line, bar.Repeat):
                (part.backward_repeats if line.direction == "end" else part.forward_repeats).add(number)
    return part


def _read_notes(element: Any, bar_start: Fraction) -> Iterator[_Note]:
    """A note, or the heads of a chord with the highest last, which the grid keeps."""
    from music21 import expressions

    start = bar_start + _sixteenths(element.offset)
    end = start + _sixteenths(element.duration.quarterLength)  # a grace note has no length and so fills nothing
    fermata = any(isinstance(mark, expressions.Fermata) for mark in element.expressions)
    for head in sorted(getattr(element, "notes", [element]), key=lambda head: head.pitch.midi):
        struck = head.tie is None or head.tie.type not in ("stop", "continue")
        yield _Note(start, end, head.pitch.midi, struck, fermata)


def _sixteenths(quarters: float | Fraction) -> Fraction:
    """music21 counts in quarters, as floats where those are exact and as Fractions where not."""
    return 4 * Fraction(quarters)
