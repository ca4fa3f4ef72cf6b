"""MusicXML files (and .mxl) read into notes before any grid, repeats played, at sounding pitch.

Read here rather than by music21: a chorale takes milliseconds instead of a tenth of a second, and nothing a malformed
file says can make it run for ever. The tests compare with music21's reading.
"""

import bisect
from collections.abc import Sequence
from fractions import Fraction
import io
import os
import re
from typing import Final, NamedTuple
from xml.etree import ElementTree
import zipfile

from coconet_jax import errors, measures, parts, repeats

SUFFIXES: Final = (".musicxml", ".xml", ".mxl")

MAX_NOTES: Final = 200_000  # more than a second for every 50,000
_PLAIN: Final = repeats.Signs()

_Layer = tuple[int, str]  # staff, written voice


def read(path: str | os.PathLike[str]) -> parts.Parts:
    """The notes of every staff: ties merged, grace notes skipped, repeats, endings and jumps played.

    Where a staff holds several written voices, `Part.layers` has the notes of each, the first voice first; what one of
    two has while nothing is written for the other both have. A first bar shorter than its
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


def _read(root: ElementTree.Element) -> parts.Parts:
    if root.tag != "score-partwise":
        raise ValueError(f"its outermost element is {root.tag[:40]!r}, not 'score-partwise'")
    names = {part.get("id"): _name(part) for part in root.iterfind("part-list/score-part")}
    written: list[tuple[str, int, list[measures.Measure]]] = []
    elements = root.findall("part")
    if len(elements) > parts.MAX_PARTS:
        raise ValueError(f"it has {len(elements)} parts, more than {parts.MAX_PARTS}")
    for part in elements:
        state = measures.State()
        inside = part.findall("measure")
        if len(inside) > repeats.MAX_BARS:
            raise ValueError(f"it has {len(inside)} bars, more than {repeats.MAX_BARS}")
        bars = [measures.read(measure, state) for measure in inside]
        written.append((names.get(part.get("id"), ""), state.staves, bars))
    master = max((bars for _, _, bars in written), key=len, default=[])
    if not master:
        return parts.Parts([])
    # A part may fill its bars with less than others do; a bar without anything is as long as its meter.
    lengths = [max(bars[at].length for _, _, bars in written if at < len(bars)) for at in range(len(master))]
    lengths = [length or parts.bar_quarters(bar.meter) for length, bar in zip(lengths, master, strict=True)]
    order = repeats.play_order([_signs(written, at) for at in range(len(master))])
    played = [len(bars[at].heads) for at in order for _, _, bars in written if at < len(bars)]
    if sum(played) > MAX_NOTES:
        raise ValueError(f"it has {sum(played)} notes, repeats played, more than {MAX_NOTES}")
    starts, end = [], Fraction(0)
    for at in order:
        starts.append(end)
        end += lengths[at]
    meter = master[0].meter
    first = parts.bar_quarters(meter)
    upbeat = len(master) > 1 or master[0].implicit or master[0].number == "0"
    if len(master) > 1 and master[1].implicit and not master[0].implicit and lengths[0] + lengths[1] == first:
        upbeat = False  # a whole bar, written in two parts
    pickup = lengths[0] if lengths[0] < first and upbeat else Fraction(0)
    found = [
        staff
        for name, staves, bars in written
        for staff in _staves(
            name, staves, [(start, bars[at]) for start, at in zip(starts, order, strict=True) if at < len(bars)]
        )
    ]
    bars_played = _numbered(master, order, starts, pickup)
    first_played = {at: start for at, start in reversed(list(zip(order, starts, strict=True)))}
    played_bars = [(start, bars[at]) for _, _, bars in written for at, start in first_played.items() if at < len(bars)]
    tempos = sorted(
        ((start + when, tempo) for start, bar in played_bars for when, tempo in bar.tempos), key=lambda found: found[0]
    )
    left_out = [start + when for start, bar in played_bars for when in bar.left_out]
    remarks = []
    if len(order) != len(master) or order != sorted(order):
        remarks.append(f"repeats are played: {len(master)} written bars became {len(order)}")
    odd = _odd_bars([lengths[at] for at in order], [parts.bar_quarters(master[at].meter) for at in order], pickup)
    if odd:
        where = parts.locate(starts[odd[0]], bars_played).partition(",")[0]
        remarks.append(
            f"bars of other lengths are not kept: {meter[0]}/{meter[1]} throughout (the first is {where}, of "
            f"{float(lengths[order[odd[0]]]):g} quarters)"
        )
    tempos = parts.from_the_start(tempos, parts.Parts([]).qpm, found, pickup)
    remarks += parts.remarks_on_tempo(tempos, bars_played)
    if left_out:
        where = parts.locate(min(left_out), bars_played)
        remarks.append(f"left out {len(left_out)} grace or cue note(s), first in {where}")
    qpm = round(tempos[0][1], 3) if tempos else parts.Parts([]).qpm
    return parts.Parts(found, meter, pickup, qpm, _title(root), bars_played, end, tuple(remarks))


def _odd_bars(lengths: Sequence[Fraction], wholes: Sequence[Fraction], pickup: Fraction) -> list[int]:
    """Bars inside a piece that are neither as long as their meter nor parts of one that a repeat sign divides."""
    return [
        at
        for at in range(1, len(lengths) - 1)
        if lengths[at] != wholes[at]
        and wholes[at] not in (lengths[at] + other for other in (lengths[at - 1], lengths[at + 1], pickup))
    ]


def _numbered(
    master: Sequence[measures.Measure], order: Sequence[int], starts: Sequence[Fraction], pickup: Fraction
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
        if name := parts.plain_name(part.findtext(tag) or ""):
            return name
    return ""


def _title(root: ElementTree.Element) -> str:
    for tag in ("work/work-title", "movement-title"):
        if title := " ".join((root.findtext(tag) or "").split()):
            return title
    return ""


def _signs(written: Sequence[tuple[str, int, list[measures.Measure]]], at: int) -> repeats.Signs:
    """A bar's signs, from whichever part has them: some programs print them in the first only."""
    found = [bars[at].signs for _, _, bars in written if at < len(bars)]
    merged = repeats.Signs()
    for signs in found:
        if signs == _PLAIN:
            continue
        merged = merged._replace(**{name: value for name, value in signs._asdict().items() if value})
    return merged


def _staves(name: str, staves: int, bars: Sequence[tuple[Fraction, measures.Measure]]) -> list[parts.Part]:
    """One part for each staff of a part, from its bars in the order they are played."""
    by_staff: dict[int, list[_StaffBar]] = {staff: [] for staff in range(1, staves + 1)}
    for start, bar in bars:
        found = {staff: _StaffBar(start, [], []) for _, _, (staff, _) in bar.written if staff in by_staff}
        for begin, end, layer in bar.written:
            if layer[0] in found:
                found[layer[0]].written.append((begin, end, layer))
        for head in bar.heads:
            if head.layer[0] in found:
                found[head.layer[0]].heads.append(head)
        for staff, staff_bar in found.items():
            by_staff[staff].append(staff_bar)
    return [_staff(name, staff_bars) for staff_bars in by_staff.values()]


class _StaffBar(NamedTuple):
    """What stands on one staff in one bar; `start` is in quarters from the beginning of the piece.

    `written` has the begin, end and layer of each note and rest, in quarters from the bar's.
    """

    start: Fraction
    heads: list[measures.Head]
    written: list[tuple[Fraction, Fraction, _Layer]]


def _staff(name: str, bars: Sequence[_StaffBar]) -> parts.Part:
    layers = sorted({layer for bar in bars for _, _, layer in bar.written}, key=lambda layer: (len(layer[1]), layer[1]))
    merged = _merge_ties(bars, layers)
    notes = [note for note, _ in merged]
    if len(layers) < 2:
        return parts.Part(name, notes)
    sung: dict[_Layer, list[parts.Note]] = {layer: [] for layer in layers}
    for note, singers in merged:
        for layer in singers:
            sung[layer].append(note)
    return parts.Part(name, notes, tuple(sung.values()))


def _merge_ties(bars: Sequence[_StaffBar], layers: Sequence[_Layer]) -> list[tuple[parts.Note, tuple[_Layer, ...]]]:
    """The notes of a staff with the layers that sing them, tied ones joined where they meet.

    Where of two layers on the staff one has neither note nor rest, what the other has belongs to both: of chords the
    highest note to the first and the lowest to the second.
    """
    found: list[tuple[parts.Note, tuple[_Layer, ...]]] = []
    open_ties: dict[int, list[int]] = {}  # pitch -> places in found
    for bar in bars:
        filled = {layer: _filled(bar.written, layer) for layer in layers} if len(layers) == 2 else {}
        other = dict(zip(layers, reversed(layers), strict=True))
        alone = [head for head in bar.heads if filled and not _touches(head, filled[other[head.layer]])]
        lone = {id(head) for head in alone}
        highest: dict[Fraction, int] = {}
        lowest: dict[Fraction, int] = {}
        for head in alone:
            highest[head.start] = max(highest.get(head.start, head.pitch), head.pitch)
            lowest[head.start] = min(lowest.get(head.start, head.pitch), head.pitch)
        for head in sorted(bar.heads, key=lambda head: head.start):
            start = bar.start + head.start
            end = start + head.length
            singers: tuple[_Layer, ...] = (head.layer,)
            if id(head) in lone:
                top, bottom = head.pitch == highest[head.start], head.pitch == lowest[head.start]
                # A note between them is the upper voice's, divided: the highest is kept, which is said.
                singers = tuple(
                    layer for layer, sings in zip(layers, (top or not bottom, bottom), strict=True) if sings
                )
            # No staff of voices ties more of one pitch at once.
            waiting = [at for at in open_ties.get(head.pitch, ())[-16:] if found[at][0].end >= start]
            open_ties[head.pitch] = waiting
            held = [at for at in waiting if found[at][0].end == start]
            if head.stops and held:
                # Two voices may tie the same pitch: each goes on with its own.
                at = next((at for at in held if set(singers) & set(found[at][1])), held[0])
                waiting.remove(at)
                note, sung = found[at]
                kept = tuple(layer for layer in sung if layer in singers) or sung
                if gone := tuple(layer for layer in sung if layer not in kept):
                    found.append((note, gone))  # what both shared goes on in one
                found[at] = (note._replace(end=end), kept)
            else:
                at = len(found)
                found.append((parts.Note(start, end, head.pitch), singers))
            if head.begins:
                waiting.append(at)
    return found


_Span = tuple[Fraction, Fraction]


def _filled(written: Sequence[tuple[Fraction, Fraction, _Layer]], layer: _Layer) -> list[_Span]:
    """When a layer has a note or a rest, as spans in order that do not touch."""
    spans: list[_Span] = []
    for begin, end in sorted((begin, end) for begin, end, there in written if there == layer):
        if spans and begin <= spans[-1][1]:
            spans[-1] = spans[-1][0], max(spans[-1][1], end)
        else:
            spans.append((begin, end))
    return spans


def _touches(head: measures.Head, spans: Sequence[_Span]) -> bool:
    """Whether one of the spans, in order, has a part of the note's time."""
    at = bisect.bisect_right(spans, head.start, key=lambda span: span[1])
    return at < len(spans) and spans[at][0] < head.start + head.length
