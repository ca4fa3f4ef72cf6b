"""MusicXML files (and .mxl) read into notes before any grid, repeats played, at sounding pitch.

Read here rather than by music21: a chorale takes milliseconds instead of a tenth of a second, and nothing a malformed
file says can make it run for ever. The tests compare with music21's reading.
"""

from collections.abc import Sequence
from fractions import Fraction
import io
import os
import re
from typing import Final
from xml.etree import ElementTree
import zipfile

from coconet_jax import errors, measures, parts, repeats

SUFFIXES: Final = (".musicxml", ".xml", ".mxl")


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


def _read(root: ElementTree.Element) -> parts.Parts:
    if root.tag != "score-partwise":
        raise ValueError(f"its outermost element is {root.tag[:40]!r}, not 'score-partwise'")
    names = {part.get("id"): _name(part) for part in root.iterfind("part-list/score-part")}
    written: list[tuple[str, int, list[measures.Measure]]] = []
    tempos: list[float] = []
    for part in root.iterfind("part"):
        state = measures.State()
        bars = [measures.read(measure, state) for measure in part.iterfind("measure")]
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
        if name := " ".join((part.findtext(tag) or "").split()):
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
        merged = merged._replace(**{name: value for name, value in signs._asdict().items() if value})
    return merged


def _staves(name: str, staves: int, bars: Sequence[tuple[Fraction, measures.Measure]]) -> list[parts.Part]:
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
    bars: Sequence[tuple[Fraction, measures.Measure]], staff: int
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
