"""MusicXML written: bars, ties, beams, accidentals, on one staff for each voice or two staves of two.

The same score gives the same bytes, in milliseconds; `musicxml_reader` reads it back.
"""

from collections.abc import Iterator, Sequence
from fractions import Fraction
import math
import os
import re
from typing import Final, NamedTuple
from xml.sax import saxutils

from coconet_jax import errors, files, parts, pianoroll, score, spelling

_TYPES: Final = {8: "breve", 4: "whole", 2: "half", 1: "quarter"}
_SHORT_TYPES: Final = {2: "eighth", 4: "16th", 8: "32nd", 16: "64th", 32: "128th", 64: "256th"}
_ACCIDENTALS: Final = {-2: "flat-flat", -1: "flat", 0: "natural", 1: "sharp", 2: "double-sharp"}
_HEAD: Final = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE score-partwise PUBLIC "-//Recordare//DTD MusicXML 4.0 Partwise//EN"
 "http://www.musicxml.org/dtds/partwise.dtd">
<score-partwise version="4.0">
"""


class _Symbol(NamedTuple):
    """One note or rest in print: times in quarters, `begin` from the first beat of its bar (or where it would be)."""

    begin: Fraction
    size: Fraction
    pitch: int
    tied_from: bool = False
    tied_to: bool = False
    whole_bar: bool = False


class _Frame(NamedTuple):
    """One bar: `origin` is its first beat, `start` what is sounding first, later than that in a pick-up."""

    number: int
    origin: Fraction
    start: Fraction
    end: Fraction


def write(path: str | os.PathLike[str], piece: score.Score, *, staves: int | None = None) -> None:
    """Writes a score with clefs, a key found from the notes, bars, ties, beams and accidentals.

    One staff for each voice, or `staves=2` for four voices on two staves, stems up and down. A pick-up is bar 0,
    and the last bar may lack what it took; otherwise it is filled with rests.

    Raises:
      InputError: a tempo no program plays, another number of staves, or a folder that cannot be written.
    """
    files.replace(path, encode(piece, staves=staves), durable=False)


def encode(piece: score.Score, *, staves: int | None = None) -> bytes:
    """The bytes that `write` writes; see there."""
    parts.check_qpm(piece.qpm)
    count = piece.pitches.shape[1]
    if staves not in (None, count) and (staves, count) != (2, pianoroll.NUM_VOICES):
        raise errors.InputError(f"staves={staves}: {count} voices can stand on {count} staves, and four on 2 as well")
    names = parts.voice_names(count)
    groups: list[tuple[int, ...]] = [(0, 1), (2, 3)] if staves == 2 < count else [(voice,) for voice in range(count)]
    titles = ["&#10;".join(names[voice] for voice in group) for group in groups]  # one below the other
    short = ["".join(names[voice][0] for voice in group) if count == 4 else "" for group in groups]
    key = spelling.find_key(piece.pitches)
    divisions = max(4, parts.bar_quarters(piece.meter).denominator, piece.steps_per_quarter)
    text = [_HEAD]
    if title := _plain(piece.title):
        text.append(f"<work><work-title>{title}</work-title></work>\n")
    text.append("<identification><encoding><software>coconet_jax</software>")
    text += [f'<supports element="{name}" type="yes"/>' for name in ("accidental", "beam", "stem")]
    text.append("</encoding></identification>\n<part-list>\n")
    if len(groups) > 1:
        text.append('<part-group number="1" type="start"><group-symbol>bracket</group-symbol></part-group>\n')
    for number, (title, initials) in enumerate(zip(titles, short, strict=True), 1):
        text.append(f'<score-part id="P{number}"><part-name>{title}</part-name>')
        text.append(f"<part-abbreviation>{initials}</part-abbreviation>" if initials else "")
        text.append("</score-part>\n")
    if len(groups) > 1:
        text.append('<part-group number="1" type="stop"/>\n')
    text.append("</part-list>\n")
    frames = list(_frames(piece))
    for number, group in enumerate(groups, 1):
        text.append(f'<part id="P{number}">\n')
        clef = _clef(piece, group)
        voices = [list(_bars_of(piece, voice, frames)) for voice in group]
        for at, frame in enumerate(frames):
            opening = _opening(piece, frame, key, divisions, clef, number == 1) if at == 0 else ""
            written = _bar([bars[at] for bars in voices], piece.meter, key, divisions)
            implicit = ' implicit="yes"' if frame.number == 0 else ""
            text.append(f'<measure number="{frame.number}"{implicit}>\n{opening}{written}')
            final = '<barline location="right"><bar-style>light-heavy</bar-style></barline>\n'
            text.append(f"{final if at == len(frames) - 1 else ''}</measure>\n")
        text.append("</part>\n")
    text.append("</score-partwise>\n")
    return "".join(text).encode()


def _plain(text: str) -> str:
    """Text that XML can hold: control characters are left out, the rest is escaped."""
    return saxutils.escape(re.sub(r"[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)).strip()


def _frames(piece: score.Score) -> Iterator[_Frame]:
    step, length = Fraction(1, piece.steps_per_quarter), parts.bar_quarters(piece.meter)
    pickup = min(piece.pickup_steps * step, length) % length
    total = max(len(piece.pitches), 1) * step
    begin, number = (pickup - length, 0) if pickup else (Fraction(0), 1)
    while begin < total:
        # By custom the last bar lacks what the pick-up took.
        lacks_pickup = begin > 0 and pickup > 0 and total - begin == length - pickup
        yield _Frame(number, begin, max(begin, Fraction(0)), total if lacks_pickup else begin + length)
        begin, number = begin + length, number + 1


def _clef(piece: score.Score, group: Sequence[int]) -> str:
    """Clefs of a choir, with the tenor an octave below its clef; other voices by where they lie."""
    if piece.pitches.shape[1] == pianoroll.NUM_VOICES:
        sign = "treble" if group[-1] < 2 else "tenor" if group == (2,) else "bass"
    else:
        sounding = piece.pitches[:, group[0]][piece.pitches[:, group[0]] != pianoroll.REST]
        sign = "bass" if sounding.size and sounding.mean() < 57 else "treble"
    letter, line, octave = {"treble": ("G", 2, 0), "tenor": ("G", 2, -1), "bass": ("F", 4, 0)}[sign]
    change = f"<clef-octave-change>{octave}</clef-octave-change>" if octave else ""
    return f"<clef><sign>{letter}</sign><line>{line}</line>{change}</clef>"


def _opening(
    piece: score.Score, frame: _Frame, key: tuple[int, str], divisions: int, clef: str, with_tempo: bool
) -> str:
    """The attributes of the first bar, and the tempo above the first staff."""
    beats, unit = piece.meter
    attributes = (
        f"<attributes><divisions>{divisions}</divisions><key><fifths>{key[0]}</fifths><mode>{key[1]}</mode></key>"
        f"<time><beats>{beats}</beats><beat-type>{unit}</beat-type></time>{clef}</attributes>\n"
    )
    if not with_tempo:
        return attributes
    qpm = f"{piece.qpm:.6g}"
    return attributes + (
        '<direction placement="above"><direction-type><metronome><beat-unit>quarter</beat-unit>'
        f'<per-minute>{qpm}</per-minute></metronome></direction-type><sound tempo="{qpm}"/></direction>\n'
    )


def _bars_of(piece: score.Score, voice: int, frames: Sequence[_Frame]) -> Iterator[list[_Symbol]]:
    """The symbols of one voice, bar by bar."""
    step = Fraction(1, piece.steps_per_quarter)
    cells = parts.merge_cells(piece.pitches[:, voice], piece.onset[:, voice])
    notes = [(start * step, end * step, pitch) for start, end, pitch in cells]
    beat = Fraction(4, piece.meter[1]) * (3 if piece.meter[0] > 3 and piece.meter[0] % 3 == 0 else 1)
    first = 0
    for frame in frames:
        symbols = []
        while first < len(notes) and notes[first][1] <= frame.start:
            first += 1
        for start, stop, pitch in _with_rests(notes, first, frame.start, frame.end):
            if pitch == pianoroll.REST and start == frame.origin and stop == frame.end:
                symbols.append(_Symbol(Fraction(0), stop - start, pitch, whole_bar=True))
                continue
            begin, end = max(start, frame.start), min(stop, frame.end)
            for at, size in _split(begin, end, frame.origin, beat, pitch == pianoroll.REST):
                sounds = pitch != pianoroll.REST
                before, after = sounds and at > start, sounds and at + size < stop
                symbols.append(_Symbol(at - frame.origin, size, pitch, before, after))
        yield symbols


def _with_rests(
    notes: Sequence[tuple[Fraction, Fraction, int]], first: int, begin: Fraction, end: Fraction
) -> Iterator[tuple[Fraction, Fraction, int]]:
    """The notes from number `first` on that sound between begin and end, with their own ends, and rests in gaps."""
    now = begin
    while first < len(notes) and notes[first][0] < end:
        start, stop, pitch = notes[first]
        if start > now:
            yield now, start, pianoroll.REST
        yield start, stop, pitch
        now, first = stop, first + 1
    if now < end:
        yield now, end, pianoroll.REST


def _split(start: Fraction, stop: Fraction, bar: Fraction, beat: Fraction, rest: bool) -> Iterator[tuple]:
    """Cuts a stretch inside a bar into (start, length) that one symbol can show, along the beats."""
    while start < stop:
        size, inside = stop - start, (start - bar) % beat
        to_beat = beat - inside
        crosses = size > to_beat
        # A dotted beat is not hidden; a plain beat may be, by a note that is itself plain (eighth, quarter, eighth) and
        # reaches no further than to the next.
        off = rest or beat.numerator % 3 == 0 or (inside * 2) % beat != 0 or (size * 2) % beat != 0
        hides = off or (inside != 0 and size > beat * 3 / 2)
        if crosses and inside and (hides or not _notatable(size)):
            size = to_beat
        elif crosses and not inside and not (_notatable(size) and (size % beat == 0 or not hides)):
            size = next(n * beat for n in range(int(size / beat), 0, -1) if _notatable(n * beat))
        while not _notatable(size):
            size -= Fraction(1, 4) if size > Fraction(1, 4) else Fraction(1, 16)
        yield start, size
        start += size


def _notatable(size: Fraction) -> bool:
    """Whether a single note, plain or with one dot, has this length in quarters."""
    return size.numerator in (1, 2, 3, 4, 6, 8, 12) and size.denominator in (1, 2, 4, 8, 16)


def _type(size: Fraction) -> tuple[str, int]:
    """The name of a note's length, and its dots."""
    dots = int(size.numerator % 3 == 0)
    plain = size * 2 / 3 if dots else size
    return (_TYPES[int(plain)] if plain >= 1 else _SHORT_TYPES[plain.denominator]), dots


def _bar(voices: Sequence[list[_Symbol]], meter: tuple[int, int], key: tuple[int, str], divisions: int) -> str:
    """The notes of one staff in one bar, voice after voice."""
    spelled = {s.pitch: spelling.spell(s.pitch, key[0]) for bar in voices for s in bar if s.pitch >= 0}
    shown = _accidentals(voices, spelled, key[0])
    text = []
    for number, symbols in enumerate(voices):
        if number:
            whole = sum((symbol.size for symbol in voices[number - 1]), Fraction(0)) * divisions
            text.append(f"<backup><duration>{whole}</duration></backup>\n")
        stem = ("up", "down")[number] if len(voices) > 1 else ""
        for at, (symbol, beams) in enumerate(zip(symbols, _beams(symbols, _beam_length(meter)), strict=True)):
            text.append(_note(symbol, spelled, number + 1, shown.get((number, at)), stem, beams, divisions))
    return "".join(text)


def _note(
    symbol: _Symbol, spelled: dict, voice: int, accidental: str | None, stem: str, beams: str, divisions: int
) -> str:
    duration = f"<duration>{symbol.size * divisions}</duration>"
    name, dots = _type(symbol.size) if _notatable(symbol.size) else ("", 0)
    type_text = f"<type>{name}</type>" + "<dot/>" * dots if name and not symbol.whole_bar else ""
    if symbol.pitch < 0:
        rest = '<rest measure="yes"/>' if symbol.whole_bar else "<rest/>"
        return f"<note>{rest}{duration}<voice>{voice}</voice>{type_text}</note>\n"
    letter, alter, octave = spelled[symbol.pitch]
    alter_text = f"<alter>{alter}</alter>" if alter else ""
    ends = [kind for kind, there in (("stop", symbol.tied_from), ("start", symbol.tied_to)) if there]
    ties = "".join(f'<tie type="{kind}"/>' for kind in ends)
    tied = "".join(f'<tied type="{kind}"/>' for kind in ends)
    return (
        f"<note><pitch><step>{letter}</step>{alter_text}<octave>{octave}</octave></pitch>{duration}{ties}"
        f"<voice>{voice}</voice>{type_text}"
        + (f"<accidental>{accidental}</accidental>" if accidental else "")
        + (f"<stem>{stem}</stem>" if stem and symbol.size < 4 else "")
        + beams
        + (f"<notations>{tied}</notations>" if ends else "")
        + "</note>\n"
    )


def _accidentals(voices: Sequence[list[_Symbol]], spelled: dict, sharps: int) -> dict[tuple[int, int], str]:
    """Which symbols (voice, place) of a staff show an accidental: where the line's last alteration is another one.

    A note tied over the bar line shows none, and the next one on its line shows it again.
    """
    notes = [(s.begin, voice, at, s) for voice, bar in enumerate(voices) for at, s in enumerate(bar) if s.pitch >= 0]
    standing: dict[tuple[str, int], int] = {}
    carried: dict[int, bool] = {}  # by voice: whether its note is still the one tied over the bar line
    shown = {}
    for _, voice, at, symbol in sorted(notes):
        carried[voice] = symbol.tied_from and (at == 0 or carried.get(voice, False))
        letter, alter, octave = spelled[symbol.pitch]
        before = standing.get((letter, octave), spelling.key_alteration(letter, sharps))
        if alter == before or carried[voice]:
            continue
        shown[voice, at] = _ACCIDENTALS[alter]
        standing[letter, octave] = alter
    return shown


def _beam_length(meter: tuple[int, int]) -> Fraction:
    """Quarters that one beam may span."""
    beats, unit = meter
    if unit >= 8 and beats % 3 == 0:
        return Fraction(12, unit)
    return max(Fraction(1), Fraction(4, unit)) if unit <= 4 else Fraction(1)


def _beams(symbols: Sequence[_Symbol], length: Fraction) -> list[str]:
    """The beam elements of each symbol: short notes that follow each other within one beat are joined."""
    texts = [""] * len(symbols)
    flags = [_flags(symbol) for symbol in symbols]
    run: list[int] = []
    for at in range(len(symbols) + 1):
        joined = (
            at < len(symbols)
            and flags[at] > 0
            and (not run or symbols[at].begin // length == symbols[run[-1]].begin // length)
        )
        if joined:
            run.append(at)
            continue
        if len(run) > 1:
            for level in range(1, max(flags[place] for place in run) + 1):
                _beam_level(symbols, flags, run, level, texts)
        run = [at] if at < len(symbols) and flags[at] > 0 else []
    return texts


def _beam_level(symbols: Sequence[_Symbol], flags: Sequence[int], run: list[int], level: int, texts: list[str]) -> None:
    for index, at in enumerate(run):
        if flags[at] < level:
            continue
        before = index > 0 and flags[run[index - 1]] >= level
        after = index + 1 < len(run) and flags[run[index + 1]] >= level
        kind = "continue" if before and after else "end" if before else "begin" if after else ""
        if not kind:  # a hook points to the note it makes a beat with
            first_half = (symbols[at].begin / symbols[at].size).numerator % 2 == 0
            kind = "forward hook" if index == 0 or (first_half and index + 1 < len(run)) else "backward hook"
        texts[at] += f'<beam number="{level}">{kind}</beam>'


def _flags(symbol: _Symbol) -> int:
    """Flags of a note: 1 for an eighth, 2 for a sixteenth ...; 0 for rests and longer notes."""
    if symbol.pitch < 0 or symbol.size >= 1:
        return 0
    plain = symbol.size * 2 / 3 if symbol.size.numerator == 3 else symbol.size
    return int(math.log2(plain.denominator))
