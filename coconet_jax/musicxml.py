"""MusicXML files, read and written with music21 (imported inside the functions: it takes a while to load)."""

from collections.abc import Iterator
from fractions import Fraction
import io
import os
import re
from typing import Any, Final
import warnings
from xml.etree import ElementTree
import zipfile

import numpy as np

from coconet_jax import errors, midi, pianoroll, score

SUFFIXES: Final = (".musicxml", ".xml", ".mxl")
MAX_QUARTERS: Final = 20_000  # of a single note


def read(path: str | os.PathLike[str]) -> midi.Parts:
    """The notes of every part at sounding pitch: ties merged, grace notes skipped, repeats played once.

    Where a staff holds several written voices, `Part.layers` has the notes of each, the first voice first. A first
    bar shorter than its meter is a pick-up.

    Raises:
      InputError: missing or unreadable, or malformed.
    """
    data = midi.read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # music21 remarks on what it cannot render, not on notes
            return _parts_of(_parse(_unzip(data)))
    except errors.InputError:
        raise
    except Exception as error:  # malformed files take music21 through KeyError, AttributeError, OverflowError ...
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise errors.InputError(f"{path} is not MusicXML that can be read ({reason}); export it again") from None


def _unzip(data: bytes) -> bytes:
    """The score inside a compressed file (.mxl), found through its container; other bytes as they are."""
    if not data.startswith(b"PK"):
        return data
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        root = ElementTree.fromstring(_member(archive, "META-INF/container.xml"))
        return _member(
            archive, next(file.get("full-path", "") for file in root.iter() if file.tag.endswith("rootfile"))
        )


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    with archive.open(name) as file:
        if len(data := file.read(midi.MAX_BYTES + 1)) > midi.MAX_BYTES:
            raise ValueError(f"{name} unpacks to more than {midi.MAX_BYTES // 10**6} MB")
    return data


def _parse(data: bytes) -> Any:
    """music21's Score, at sounding pitch. Its converter is not used: that one leaves a cache of pickles on disk."""
    from music21.musicxml import xmlToM21

    root = ElementTree.fromstring(data)
    if root.tag != "score-partwise":
        raise ValueError(f"its outermost element is {root.tag!r}, not 'score-partwise'")
    divisions = 1.0  # music21 would cut a note of 10^8 quarters for ever, so durations are looked at first
    for element in root.iter():
        if element.tag == "divisions":
            divisions = float(element.text or 1)
        elif element.tag == "duration" and not 0 <= float(element.text or 0) / divisions <= MAX_QUARTERS:
            raise ValueError(f"a duration of {element.text} divisions, {divisions:g} to the quarter, is absurd")
    importer = xmlToM21.MusicXMLImporter()
    importer.xmlRootToScore(root, importer.stream)  # its own stream: the staves of a split part go nowhere else
    return importer.stream.toSoundingPitch()


def _parts_of(parsed: Any) -> midi.Parts:
    from music21 import meter, stream, tempo

    parts, pickup = [], Fraction(0)
    signature = next(iter(parsed.recurse().getElementsByClass(meter.TimeSignature)), None)
    beats = (signature.numerator, signature.denominator) if signature else (4, 4)
    for part in parsed.parts:
        layers: dict[str, list[Any]] = {}
        measures = list(part.getElementsByClass(stream.Measure))
        for measure in measures:
            voices = list(measure.voices)
            for voice in voices or [measure]:
                # Bars with one written voice carry no number in music21; they belong to the staff's first voice.
                layer = str(voice.id) if voices else ""
                begin = measure.offset + (voice.offset if voices else 0)
                for note in voice.notes:
                    layers.setdefault(layer, []).append((begin + note.offset, note))
        if len(measures) > 1:
            first = Fraction(measures[1].offset - measures[0].offset)
            pickup = first if 0 < first < Fraction(4 * beats[0], beats[1]) else pickup
        alone = layers.pop("", [])
        first_voice, *others = [layers[name] for name in sorted(layers, key=lambda name: (len(name), name))] or [[]]
        ordered = [alone + first_voice, *others]
        merged = tuple(list(_merge_ties(layer)) for layer in ordered)
        notes = merged[0] if len(merged) == 1 else list(_merge_ties(sum(ordered, [])))
        parts.append(midi.Part((part.partName or "").strip(), notes, merged if len(merged) > 1 else ()))
    marks = parsed.recurse().getElementsByClass(tempo.MetronomeMark)
    speeds = [speed for mark in marks if (speed := mark.getQuarterBPM())]
    title = (parsed.metadata.title or parsed.metadata.movementName or "") if parsed.metadata else ""
    qpm = round(float(speeds[0]), 3) if speeds else midi.Parts([]).qpm
    return midi.Parts(parts, beats, pickup, qpm, str(title).strip())


def _merge_ties(timed: list[Any]) -> Iterator[midi.Note]:
    """Notes of (offset, music21 note or chord), tied ones joined where they meet, in order of their start."""
    from music21 import chord, harmony, note

    open_ties: dict[int, midi.Note] = {}
    for offset, element in sorted(timed, key=lambda pair: pair[0]):
        if element.duration.isGrace or isinstance(element, harmony.Harmony):
            continue
        heads = element.notes if isinstance(element, chord.Chord) else [element]
        for head in heads:
            if not isinstance(head, note.Note):  # drums: a line on the staff, no pitch
                continue
            start, pitch = Fraction(offset), int(head.pitch.midi)
            end = start + Fraction(element.duration.quarterLength)
            tie = head.tie.type if head.tie else None
            held = open_ties.pop(pitch, None)
            if held is not None and tie in ("stop", "continue") and held.end == start:
                start = held.start
            elif held is not None:
                yield held
            if tie in ("start", "continue"):
                open_ties[pitch] = midi.Note(start, end, pitch)
            else:
                yield midi.Note(start, end, pitch)
    yield from open_ties.values()


def write(path: str | os.PathLike[str], piece: score.Score) -> None:
    """Writes a score, one staff per voice, with clefs, a key found from the notes, bars, ties and beams.

    The same score gives the same bytes. The last bar is filled with rests; a pick-up is bar 0.

    Raises:
      InputError: a tempo no program plays, or a folder that cannot be written.
    """
    from music21.musicxml import m21ToXml

    midi.check_qpm(piece.qpm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exporter = m21ToXml.GeneralObjectExporter(_build(piece))
        exporter.makeNotation = False  # bars, ties and beams are there already
        data = exporter.parse()
    # music21 stamps the day; a score written tomorrow should be the same file.
    data = re.sub(rb"\s*<encoding-date>[^<]*</encoding-date>", b"", data)
    if not piece.title:  # music21 puts a title of its own where there is none
        data = re.sub(rb"\s*<movement-title>[^<]*</movement-title>", b"", data)
    data = re.sub(rb"\s*<creator type=\"composer\">Music21</creator>", b"", data)
    midi.replace_file(path, data)


def _build(piece: score.Score) -> Any:
    """A music21 Score whose bars, ties, beams and accidentals are in place."""
    from music21 import instrument, layout, metadata, stream, tempo

    voices = piece.pitches.shape[1]
    kinds = [instrument.Soprano, instrument.Alto, instrument.Tenor, instrument.Bass]
    whole = stream.Score(id="score")
    if piece.title:
        whole.metadata = metadata.Metadata(title=piece.title)
    signature, mode = _find_key(piece)
    staves = []
    for voice, name in enumerate(midi.voice_names(voices)):
        part = stream.Part(id=f"P{voice + 1}")
        player = kinds[voice]() if voices == pianoroll.NUM_VOICES else instrument.Instrument()
        player.partName = name
        player.midiProgram = 52  # choir aahs
        player.partAbbreviation = f"{name[0]}." if voices == pianoroll.NUM_VOICES else None
        player.partId, player.instrumentId = f"P{voice + 1}", f"I{voice + 1}"  # music21's own ids are random
        part.partName = name
        part.insert(0, player)
        part.append(list(_measures(piece, voice, signature, mode)))
        first = part.getElementsByClass(stream.Measure)[0]
        first.insert(0, _clef(piece, voice))
        if voice == 0:
            first.insert(0, tempo.MetronomeMark(number=int(piece.qpm) if piece.qpm % 1 == 0 else piece.qpm))
        part.makeAccidentals(inPlace=True)
        part.makeBeams(inPlace=True)
        staves.append(part)
        whole.insert(0, part)
    if voices > 1:
        whole.insert(0, layout.StaffGroup(staves, symbol="bracket", barTogether=False))
    return whole


def _clef(piece: score.Score, voice: int) -> Any:
    from music21 import clef

    if piece.pitches.shape[1] == pianoroll.NUM_VOICES:
        return (clef.TrebleClef, clef.TrebleClef, clef.Treble8vbClef, clef.BassClef)[voice]()
    sounding = piece.pitches[:, voice][piece.pitches[:, voice] != pianoroll.REST]
    return clef.BassClef() if sounding.size and sounding.mean() < 57 else clef.TrebleClef()


def _measures(piece: score.Score, voice: int, signature: int, mode: str) -> Iterator[Any]:
    """The bars of one voice, the last one filled with rests."""
    from music21 import bar, key, meter, note, stream, tie

    step = Fraction(1, piece.steps_per_quarter)
    length = Fraction(4 * piece.meter[0], piece.meter[1])
    pickup = min(piece.pickup_steps * step, length) % length
    cells = midi.merge_cells(piece.pitches[:, voice], piece.onset[:, voice])
    notes = [(start * step, end * step, pitch) for start, end, pitch in cells]
    total = max(len(piece.pitches), 1) * step
    beat = Fraction(4, piece.meter[1]) * (3 if piece.meter[0] > 3 and piece.meter[0] % 3 == 0 else 1)
    begin, number = (pickup - length, 0) if pickup else (Fraction(0), 1)
    while begin < total:
        measure = stream.Measure(number=number)
        if number == (0 if pickup else 1):
            measure.showNumber = stream.enums.ShowNumber.NEVER if pickup else stream.enums.ShowNumber.DEFAULT
            measure.insert(0, key.KeySignature(signature))
            measure.insert(0, meter.TimeSignature(f"{piece.meter[0]}/{piece.meter[1]}"))
        open_at, end = max(begin, Fraction(0)), begin + length
        measure.paddingLeft = open_at - begin  # a pick-up's beams follow the beats before the bar line
        for start, stop, pitch in _fill(notes, open_at, end):
            if pitch == pianoroll.REST and start == begin and stop == end:
                measure.insert(0, note.Rest(quarterLength=length, fullMeasure=True))
                continue
            for at, size in _split(max(start, open_at), min(stop, end), begin, beat, pitch == pianoroll.REST):
                element = note.Rest() if pitch == pianoroll.REST else note.Note(_spell(pitch, signature, mode))
                element.quarterLength = size
                if pitch != pianoroll.REST and (at > start or at + size < stop):
                    element.tie = tie.Tie("start" if at == start else "stop" if at + size == stop else "continue")
                measure.insert(at - open_at, element)
        measure.rightBarline = bar.Barline("final") if end >= total else None
        begin, number = end, number + 1
        yield measure


def _fill(notes: list, begin: Fraction, end: Fraction) -> Iterator[tuple[Fraction, Fraction, int]]:
    """The notes that sound between begin and end, with their own ends, and rests in the gaps."""
    now = begin
    for start, stop, pitch in notes:
        if stop <= begin or start >= end:
            continue
        if start > now:
            yield now, start, pianoroll.REST
        yield start, stop, pitch
        now = stop
    if now < end:
        yield now, end, pianoroll.REST


def _split(start: Fraction, stop: Fraction, bar: Fraction, beat: Fraction, rest: bool) -> Iterator[tuple]:
    """Cuts a stretch inside a bar into (start, length) that one symbol can show, along the beats."""
    while start < stop:
        size, inside = stop - start, (start - bar) % beat
        to_beat = beat - inside
        crosses = size > to_beat
        # A dotted beat is not hidden; a plain beat may be, by a note that is itself plain (eighth, quarter, eighth).
        hides = rest or beat.numerator % 3 == 0 or (inside * 2) % beat != 0 or (size * 2) % beat != 0
        if crosses and inside and (hides or not _notatable(size)):
            size = to_beat
        elif crosses and not inside and not (_notatable(size) and (size % beat == 0 or not hides)):
            size = next(n * beat for n in range(int(size / beat), 0, -1) if _notatable(n * beat))
        while not _notatable(size):
            size -= Fraction(1, 4)  # the finest grid's step
        yield start, size
        start += size


def _notatable(size: Fraction) -> bool:
    """Whether a single note, plain or with one dot, has this length in quarters."""
    return size.numerator in (1, 2, 3, 4, 6, 8, 12) and size.denominator in (1, 2, 4, 8, 16)


def _find_key(piece: score.Score) -> tuple[int, str]:
    """Sharps (flats negative) and mode by music21's key analysis of how long each pitch class sounds."""
    from music21 import note, stream

    lengths = np.bincount(piece.pitches[piece.pitches != pianoroll.REST] % 12, minlength=12)
    if not lengths.any():
        return 0, "major"
    tones: Any = stream.Stream()
    for pitch_class in np.flatnonzero(lengths).tolist():
        tones.append(note.Note(60 + pitch_class, quarterLength=int(lengths[pitch_class])))
    found = tones.analyze("key")
    return found.sharps, found.mode


def _spell(pitch: int, signature: int, mode: str) -> Any:
    """music21's pitch, spelled as near to the key as the line of fifths allows."""
    from music21 import pitch as pitches

    # In C major from Eb to G#, in A minor from Bb to D#: a minor key raises its sixth and seventh degree.
    lowest = signature - (2 if mode == "minor" else 3)
    fifths = lowest + (pitch * 7 - lowest) % 12
    alter = (fifths + 1) // 7
    letter: Any = "FCGDAEB"[(fifths + 1) % 7]
    return pitches.Pitch(step=letter, accidental=alter or None, octave=(pitch - alter) // 12 - 1)
