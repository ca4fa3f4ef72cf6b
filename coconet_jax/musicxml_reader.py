"""MusicXML files (and .mxl) read into notes before any grid, repeats played, at sounding pitch.

Read here rather than by music21: a chorale takes milliseconds instead of a tenth of a second, and nothing a malformed
file says can make it run for ever. The tests compare with music21's reading.
"""

from collections.abc import Sequence
import dataclasses
from fractions import Fraction
import io
import math
import os
import re
from typing import Final
from xml.etree import ElementTree
import zipfile

from coconet_jax import errors, parts, repeats

SUFFIXES: Final = (".musicxml", ".xml", ".mxl")
MAX_QUARTERS: Final = 20_000  # of one duration
_STEPS: Final = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_UNITS: Final = {"whole": 4.0, "half": 2.0, "quarter": 1.0, "eighth": 0.5, "16th": 0.25}


def read(path: str | os.PathLike[str]) -> parts.Parts:
    """The notes of every staff: ties merged, grace notes skipped, repeats, endings and jumps played.

    Where a staff holds several written voices, `Part.layers` has the notes of each, the first voice first; where two
    voices share what is written in a bar (one voice there, or chords), both have it. A first bar shorter than its
    meter is a pick-up.

    Raises:
      InputError: missing or unreadable, or malformed.
    """
    data = parts.read_bytes(path)
    try:
        return _read(_parse(_unzip(data)))
    except Exception as error:  # malformed files lead through KeyError, ValueError, BadZipFile, OverflowError ...
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise errors.InputError(f"{path} is not MusicXML that can be read ({reason}); export it again") from None


def _unzip(data: bytes) -> bytes:
    """The score inside a compressed file (.mxl), found through its container; other bytes as they are."""
    if not data.startswith(b"PK"):
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        root = _parse(_member(archive, "META-INF/container.xml"))
        names = [file.get("full-path", "") for file in root.iter() if file.tag.endswith("rootfile")]
        if not names:
            raise ValueError("its container names no score")
        return _member(archive, names[0])


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        if len(data := file.read(parts.MAX_BYTES + 1)) > parts.MAX_BYTES:
            raise ValueError(f"{name} unpacks to more than {parts.MAX_BYTES // 10**6} MB")
    return data


def _parse(data: bytes) -> ElementTree.Element:
    if b"<!ENTITY" in data.replace(b"\0", b""):  # in UTF-16 too
        raise ValueError("it declares XML entities, which no score needs")
    return ElementTree.fromstring(data)


@dataclasses.dataclass
class _Head:
    """A written note: times in quarters from the beginning of its bar."""

    start: Fraction
    length: Fraction
    pitch: int
    layer: tuple[int, str]  # staff, voice
    stops: bool  # ends a tie
    begins: bool


@dataclasses.dataclass
class _Bar:
    number: str
    meter: tuple[int, int]
    implicit: bool = False
    length: Fraction = Fraction(0)
    heads: list[_Head] = dataclasses.field(default_factory=list)
    layers: set[tuple[int, str]] = dataclasses.field(default_factory=set)  # with notes or rests written
    signs: repeats.Signs = dataclasses.field(default_factory=repeats.Signs)


@dataclasses.dataclass
class _State:
    """What holds from bar to bar in a part."""

    divisions: Fraction = Fraction(1)
    meter: tuple[int, int] | None = None
    staves: int = 1
    transpose: dict[int, int] = dataclasses.field(default_factory=dict)  # by staff, 0 for all
    tempos: list[float] = dataclasses.field(default_factory=list)
    ending: frozenset[int] = frozenset()


def _read(root: ElementTree.Element) -> parts.Parts:
    if root.tag != "score-partwise":
        raise ValueError(f"its outermost element is {root.tag[:40]!r}, not 'score-partwise'")
    names = {part.get("id"): _name(part) for part in root.iterfind("part-list/score-part")}
    written: list[tuple[str, int, list[_Bar]]] = []
    tempos: list[float] = []
    for part in root.iterfind("part"):
        state = _State()
        bars = [_read_bar(measure, state) for measure in part.iterfind("measure")]
        written.append((names.get(part.get("id"), ""), state.staves, bars))
        tempos += state.tempos
    master = max((bars for _, _, bars in written), key=len, default=[])
    if not master:
        return parts.Parts([])
    # A part may fill its bars with less than others do; a bar without anything is as long as its meter.
    lengths = [max(bars[at].length for _, _, bars in written if at < len(bars)) for at in range(len(master))]
    lengths = [length or parts.bar_quarters(bar.meter) for length, bar in zip(lengths, master, strict=True)]
    order = repeats.play_order([_signs(written, at) for at in range(len(master))])
    starts, end = [], Fraction(0)
    for at in order:
        starts.append(end)
        end += lengths[at]
    meter = master[0].meter
    first = parts.bar_quarters(meter)
    upbeat = len(master) > 1 or master[0].implicit or master[0].number == "0"
    pickup = lengths[0] if lengths[0] < first and upbeat else Fraction(0)
    found = [
        staff
        for name, staves, bars in written
        for staff in _staves(
            name, staves, [(start, bars[at]) for start, at in zip(starts, order, strict=True) if at < len(bars)]
        )
    ]
    remarks = []
    if len(order) != len(master) or order != sorted(order):
        remarks.append(f"repeats are played: {len(master)} written bars became {len(order)}")
    if len(set(tempos)) > 1:
        remarks.append(f"tempo changes are not kept: {tempos[0]:g} quarters a minute throughout")
    qpm = round(tempos[0], 3) if tempos else parts.Parts([]).qpm
    bars_played = _numbered(master, order, starts, pickup)
    return parts.Parts(found, meter, pickup, qpm, _title(root), bars_played, end, tuple(remarks))


def _numbered(
    master: Sequence[_Bar], order: Sequence[int], starts: Sequence[Fraction], pickup: Fraction
) -> tuple[parts.Bar, ...]:
    """The bars as played, with the numbers they have in print."""
    shift = 1 if not pickup else 0
    numbered = []
    for place, (at, start) in enumerate(zip(order, starts, strict=True)):
        bar = master[at]
        number = int(bar.number) if re.fullmatch(r"\d{1,6}", bar.number) else at + shift
        if at == 0 and pickup:
            number = 0 if number in (0, 1) and (len(master) == 1 or master[1].number != "2") else number
        origin = pickup - parts.bar_quarters(bar.meter) if place == 0 and pickup else None
        numbered.append(parts.Bar(start, number, bar.meter, origin))
    return tuple(numbered)


def _name(part: ElementTree.Element) -> str:
    for tag in ("part-name", "score-instrument/instrument-name", "part-abbreviation"):
        if name := " ".join((part.findtext(tag) or "").split()):
            return name
    return ""


def _title(root: ElementTree.Element) -> str:
    for tag in ("work/work-title", "movement-title"):
        if title := " ".join((root.findtext(tag) or "").split()):
            return title
    return ""


def _signs(written: Sequence[tuple[str, int, list[_Bar]]], at: int) -> repeats.Signs:
    """A bar's signs, from whichever part has them: some programs print them in the first only."""
    found = [bars[at].signs for _, _, bars in written if at < len(bars)]
    merged = repeats.Signs()
    for signs in found:
        merged = merged._replace(**{name: value for name, value in signs._asdict().items() if value})
    return merged


def _quarters(text: str | None, divisions: Fraction) -> Fraction:
    value = Fraction((text or "0").strip()) / divisions
    if not 0 <= value <= MAX_QUARTERS:
        raise ValueError(f"a duration of {text} divisions, {divisions} to the quarter, is absurd")
    return value


def _read_bar(measure: ElementTree.Element, state: _State) -> _Bar:
    bar = _Bar(measure.get("number", ""), state.meter or (4, 4), measure.get("implicit") == "yes")
    now, before = Fraction(0), Fraction(0)
    signs: dict[str, object] = {}
    for element in measure:
        tag = element.tag
        if tag == "note":
            if element.find("grace") is not None:
                continue
            length = _quarters(element.findtext("duration"), state.divisions)
            if element.find("chord") is None:
                before, now = now, now + length
            if element.find("cue") is None:
                _add_note(bar, element, before, length, state)
        elif tag == "backup":
            now = max(now - _quarters(element.findtext("duration"), state.divisions), Fraction(0))
        elif tag == "forward":
            now += _quarters(element.findtext("duration"), state.divisions)
        elif tag == "attributes":
            _read_attributes(element, state)
            bar.meter = state.meter or (4, 4)
        elif tag == "barline":
            _read_barline(element, state, signs)
        elif tag in ("direction", "sound"):
            _read_direction(element, state, signs)
        bar.length = max(bar.length, now)
    ending = state.ending or signs.get("endings", frozenset())
    bar.signs = repeats.Signs(**{**signs, "endings": ending})  # type: ignore[arg-type]
    if "endings" in signs:  # it closes with this bar
        state.ending = frozenset()
    return bar


def _add_note(bar: _Bar, element: ElementTree.Element, start: Fraction, length: Fraction, state: _State) -> None:
    staff = int(element.findtext("staff") or 1)
    layer = (staff, (element.findtext("voice") or "1").strip())
    state.staves = max(state.staves, min(staff, 64))
    bar.layers.add(layer)
    pitch = element.find("pitch")
    if pitch is None or not length:
        return
    alter = float(pitch.findtext("alter") or 0)
    number = _STEPS[(pitch.findtext("step") or "").strip()] + 12 * (int(pitch.findtext("octave") or "") + 1)
    number += math.floor(alter + 0.5) + state.transpose.get(staff, state.transpose.get(0, 0))
    ties = {tie.get("type") for tie in element.iterfind("tie")}
    ties = ties or {tie.get("type") for tie in element.iterfind("notations/tied")}
    both = "continue" in ties
    bar.heads.append(_Head(start, length, number, layer, both or "stop" in ties, both or "start" in ties))


def _read_attributes(element: ElementTree.Element, state: _State) -> None:
    if (divisions := element.findtext("divisions")) is not None:
        state.divisions = Fraction(divisions.strip())
        if not 0 < state.divisions <= 10**6:
            raise ValueError(f"{divisions} divisions to the quarter are absurd")
    if (staves := element.findtext("staves")) is not None:
        state.staves = min(max(int(staves), 1), 64)
    time = element.find("time")
    if time is not None and time.find("beats") is not None:
        pairs = zip(time.findall("beats"), time.findall("beat-type"), strict=True)
        lengths = [(sum(int(n) for n in (beats.text or "").split("+")), int(unit.text or "")) for beats, unit in pairs]
        finest = max(unit for _, unit in lengths)
        if all(parts.is_meter(*length) for length in lengths):
            meter = sum(beats * finest // unit for beats, unit in lengths), finest
            state.meter = meter if parts.is_meter(*meter) else state.meter
    for transpose in element.iterfind("transpose"):
        octaves = int(transpose.findtext("octave-change") or 0) + (-1 if transpose.find("double") is not None else 0)
        semitones = float(transpose.findtext("chromatic") or 0)
        state.transpose[int(transpose.get("number", 0))] = math.floor(semitones + 0.5) + 12 * octaves


def _read_barline(element: ElementTree.Element, state: _State, signs: dict[str, object]) -> None:
    ending, repeat = element.find("ending"), element.find("repeat")
    if ending is not None:
        numbers = frozenset(int(number) for number in re.findall(r"\d{1,3}", ending.get("number", "")))
        if ending.get("type") == "start":
            state.ending = numbers or frozenset({1})
        else:
            signs["endings"] = state.ending or numbers
    if repeat is not None and repeat.get("direction") == "forward":
        signs["forward"] = True
    elif repeat is not None:
        signs["backward"] = max(int(repeat.get("times") or 2), 2)
    for sign in ("segno", "coda"):
        if element.find(sign) is not None:
            signs[sign] = True


def _read_direction(element: ElementTree.Element, state: _State, signs: dict[str, object]) -> None:
    """Jumps and tempo, from what is meant for playing (`sound`) or else from words and signs."""
    sound = element if element.tag == "sound" else element.find("sound")
    known = sound.attrib if sound is not None else {}
    words = " ".join("".join(word.itertext()) for word in element.iterfind("direction-type/words")).strip().lower()
    to_coda = "tocoda" in known or re.match(r"to coda\b|al coda$", words) is not None
    if "dacapo" in known or re.match(r"d\. ?c\.|da capo\b", words):
        signs["back"] = "start"
    elif "dalsegno" in known or re.match(r"d\. ?s\.|dal segno\b", words):
        signs["back"] = "segno"
    elif to_coda:
        signs["to_coda"] = True
    elif "fine" in known or re.fullmatch(r"fine\.?", words):
        signs["fine"] = True
    elif "coda" in known or element.find("direction-type/coda") is not None:
        signs["coda"] = True
    elif "segno" in known or element.find("direction-type/segno") is not None:
        signs["segno"] = True
    tempo = float(known["tempo"]) if known.get("tempo") else _metronome(element)
    if tempo and parts.QPM_LIMITS[0] <= tempo <= parts.QPM_LIMITS[1]:
        state.tempos.append(tempo)


def _metronome(element: ElementTree.Element) -> float:
    """Quarters a minute of a metronome mark, 0 without one that says a number."""
    mark = element.find("direction-type/metronome")
    number = re.search(r"\d{1,4}(\.\d{1,6})?", mark.findtext("per-minute") or "") if mark is not None else None
    if mark is None or number is None:
        return 0.0
    unit = _UNITS.get((mark.findtext("beat-unit") or "").strip(), 0.0)
    return float(number[0]) * unit * (1.5 if mark.find("beat-unit-dot") is not None else 1)


def _staves(name: str, staves: int, bars: Sequence[tuple[Fraction, _Bar]]) -> list[parts.Part]:
    """One part for each staff of a part, from its bars in the order they are played."""
    found = []
    for staff in range(1, staves + 1):
        layers = sorted(
            {layer for _, bar in bars for layer in bar.layers if layer[0] == staff},
            key=lambda layer: (len(layer[1]), layer[1]),
        )
        merged = _merge_ties(bars, staff)
        if len(layers) < 2:
            found.append(parts.Part(name, [note for note, _ in merged]))
            continue
        sung: dict[tuple[int, str], list[parts.Note]] = {layer: [] for layer in layers}
        for note, singers in merged:
            for layer in singers:
                sung[layer].append(note)
        found.append(parts.Part(name, [note for note, _ in merged], tuple(sung.values())))
    return found


def _merge_ties(
    bars: Sequence[tuple[Fraction, _Bar]], staff: int
) -> list[tuple[parts.Note, tuple[tuple[int, str], ...]]]:
    """The notes of a staff with the layers that sing them, tied ones joined where they meet.

    With two layers on the staff and one of them absent from a bar, the bar belongs to both: of its chords the
    highest note to the first and the lowest to the second.
    """
    everywhere = sorted(
        {layer for _, bar in bars for layer in bar.layers if layer[0] == staff},
        key=lambda layer: (len(layer[1]), layer[1]),
    )
    found: list[tuple[parts.Note, tuple[tuple[int, str], ...]]] = []
    open_ties: dict[int, list[int]] = {}  # pitch -> places in found
    for bar_start, bar in bars:
        present = {layer for layer in bar.layers if layer[0] == staff}
        shared = len(everywhere) == 2 and len(present) == 1
        at_once: dict[Fraction, list[int]] = {}
        for head in bar.heads:
            if head.layer[0] == staff:
                at_once.setdefault(head.start, []).append(head.pitch)
        for head in sorted(bar.heads, key=lambda head: head.start):
            if head.layer[0] != staff:
                continue
            start = bar_start + head.start
            end = start + head.length
            singers: tuple[tuple[int, str], ...] = (head.layer,)
            if shared:
                chord = at_once[head.start]
                top, bottom = head.pitch == max(chord), head.pitch == min(chord)
                singers = tuple(layer for layer, sings in zip(everywhere, (top, bottom), strict=True) if sings)
            waiting = [at for at in open_ties.get(head.pitch, ()) if found[at][0].end >= start]
            open_ties[head.pitch] = waiting
            held = [at for at in waiting if found[at][0].end == start]
            if head.stops and held:
                # Two voices may tie the same pitch: each goes on with its own.
                at = next((at for at in held if set(singers) & set(found[at][1])), held[0])
                waiting.remove(at)
                found[at] = (found[at][0]._replace(end=end), found[at][1])
            else:
                at = len(found)
                found.append((parts.Note(start, end, head.pitch), singers))
            if head.begins:
                waiting.append(at)
    return found
