"""One measure of MusicXML: its notes in quarters from its beginning, its length, its signs."""

import dataclasses
from fractions import Fraction
import functools
import math
import re
from typing import Final
from xml.etree import ElementTree

from coconet_jax import parts, repeats

MAX_QUARTERS: Final = 20_000  # of one duration
_STEPS: Final = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
_UNITS: Final = {"whole": 4.0, "half": 2.0, "quarter": 1.0, "eighth": 0.5, "16th": 0.25}


@dataclasses.dataclass
class Head:
    """A written note: times in quarters from the beginning of its bar."""

    start: Fraction
    length: Fraction
    pitch: int
    layer: tuple[int, str]  # staff, voice
    stops: bool  # ends a tie
    begins: bool


@dataclasses.dataclass
class Measure:
    number: str
    meter: tuple[int, int]
    implicit: bool = False
    length: Fraction = Fraction(0)
    heads: list[Head] = dataclasses.field(default_factory=list)
    tempos: list[tuple[Fraction, float]] = dataclasses.field(default_factory=list)  # when, quarters a minute
    left_out: list[Fraction] = dataclasses.field(default_factory=list)  # when grace and cue notes are
    # Begin, end and layer of each note and rest that is to be seen.
    written: list[tuple[Fraction, Fraction, tuple[int, str]]] = dataclasses.field(default_factory=list)
    signs: repeats.Signs = dataclasses.field(default_factory=repeats.Signs)


@dataclasses.dataclass
class State:
    """What holds from bar to bar in a part."""

    divisions: Fraction = Fraction(1)
    meter: tuple[int, int] | None = None
    staves: int = 1
    transpose: dict[int, int] = dataclasses.field(default_factory=dict)  # by staff, 0 for all
    ending: frozenset[int] = frozenset()


@functools.lru_cache(maxsize=4096)
def _quarters(text: str | None, divisions: Fraction) -> Fraction:
    value = _number(text or "0") / divisions
    if not 0 <= value <= MAX_QUARTERS:
        raise ValueError(f"a duration of {text} divisions, {divisions} to the quarter, is absurd")
    return value


def _number(text: str) -> Fraction:
    """A decimal number; Fraction alone would work for ever on 1e999999999."""
    if not re.fullmatch(r"\s*[+-]?\d{1,18}(\.\d{0,18})?\s*", text):
        raise ValueError(f"{text.strip()[:40]!r} is no number that a score needs")
    return Fraction(text.strip())


def read(measure: ElementTree.Element, state: State) -> Measure:
    """The measure an element holds; `state` is brought up to date for the next one of its part.

    Raises:
      ValueError: numbers or notes that no score has; others for what is malformed.
    """
    bar = Measure(measure.get("number", ""), state.meter or (4, 4), measure.get("implicit") == "yes")
    now, before = Fraction(0), Fraction(0)
    signs: dict[str, object] = {}
    for element in measure:
        tag = element.tag
        if tag == "note":
            fields = {child.tag: child for child in element}
            if "grace" in fields:
                bar.left_out.append(now)
                continue
            length = _quarters(_text(fields, "duration"), state.divisions)
            if "chord" not in fields:
                before, now = now, now + length
            if "cue" in fields:
                bar.left_out += [before] * ("pitch" in fields)
            else:
                _add_note(bar, element, fields, before, length, state)
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
            _read_direction(element, bar, now, signs)
        if now.denominator > 10**9:  # as no bar has; such numbers grow from note to note
            raise ValueError(f"the lengths in bar {bar.number} are fractions of {now.denominator} parts")
        bar.length = max(bar.length, now)
    ending = state.ending or signs.get("endings", frozenset())
    bar.signs = repeats.Signs(**{**signs, "endings": ending})  # type: ignore[arg-type]
    if "endings" in signs or "backward" in signs:  # it closes with this bar, whether or not it says so
        state.ending = frozenset()
    return bar


def _text(fields: dict[str, ElementTree.Element], tag: str) -> str | None:
    return fields[tag].text if tag in fields else None


def _add_note(
    bar: Measure,
    element: ElementTree.Element,
    fields: dict[str, ElementTree.Element],
    start: Fraction,
    length: Fraction,
    state: State,
) -> None:
    staff = int(_text(fields, "staff") or 1)
    layer = (staff, (_text(fields, "voice") or "1").strip())
    state.staves = max(state.staves, min(staff, 64))
    pitch = fields.get("pitch")
    if pitch is None and element.get("print-object") == "no":
        return
    bar.written.append((start, start + length, layer))
    if pitch is None or not length:
        return
    alter = float(pitch.findtext("alter") or 0)
    number = _STEPS[(pitch.findtext("step") or "").strip()] + 12 * (int(pitch.findtext("octave") or "") + 1)
    number += math.floor(alter + 0.5) + state.transpose.get(staff, state.transpose.get(0, 0))
    ties = {tie.get("type") for tie in element if tie.tag == "tie"}
    if not ties and "notations" in fields:
        ties = {tie.get("type") for tie in element.iterfind("notations/tied")}
    both = "continue" in ties
    bar.heads.append(Head(start, length, number, layer, both or "stop" in ties, both or "start" in ties))


def _read_attributes(element: ElementTree.Element, state: State) -> None:
    if (divisions := element.findtext("divisions")) is not None:
        state.divisions = _number(divisions)
        if not 0 < state.divisions <= 10**6 or state.divisions.denominator > 1000:
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


def _read_barline(element: ElementTree.Element, state: State, signs: dict[str, object]) -> None:
    ending, repeat = element.find("ending"), element.find("repeat")
    if ending is not None:
        numbers = frozenset(int(number) for number in re.findall(r"\d{1,3}", ending.get("number", "")))
        if ending.get("type") == "start":
            state.ending = numbers or frozenset({1})
        else:
            signs["endings"] = state.ending or numbers
    if repeat is not None and repeat.get("direction") == "forward":
        signs["forward"] = True
        if ending is None:
            state.ending = frozenset()
    elif repeat is not None:
        signs["backward"] = max(int(repeat.get("times") or 2), 2)
    for sign in ("segno", "coda"):
        if element.find(sign) is not None:
            signs[sign] = True


def _read_direction(element: ElementTree.Element, bar: Measure, now: Fraction, signs: dict[str, object]) -> None:
    """Jumps and tempo, from what is meant for playing (`sound`) or else from words and signs."""
    sound = element if element.tag == "sound" else element.find("sound")
    known = sound.attrib if sound is not None else {}
    words = " ".join("".join(word.itertext()) for word in element.iterfind("direction-type/words")).strip().lower()
    to_coda = "tocoda" in known or re.match(r"to coda\b|al coda$", words) is not None
    to_coda |= words == "to" and element.find("direction-type/coda") is not None
    if "dacapo" in known or re.match(r"d(\. ?)?c\b|da capo\b", words):
        signs["back"] = "start"
    elif "dalsegno" in known or re.match(r"d(\. ?)?s\b|dal segno\b", words):
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
        bar.tempos.append((now, tempo))


def _metronome(element: ElementTree.Element) -> float:
    """Quarters a minute of a metronome mark, 0 without one that says a number."""
    mark = element.find("direction-type/metronome")
    number = re.search(r"\d{1,4}(\.\d{1,6})?", mark.findtext("per-minute") or "") if mark is not None else None
    if mark is None or number is None:
        return 0.0
    unit = _UNITS.get((mark.findtext("beat-unit") or "").strip(), 0.0)
    return float(number[0]) * unit * (1.5 if mark.find("beat-unit-dot") is not None else 1)
