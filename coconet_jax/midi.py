"""MIDI files: read with mido into notes before any grid, written byte by byte.

The few events that a score needs are built here, so that thousands of scores take seconds (benchmarks/round_trips.py).
"""

from collections.abc import Iterable, Sequence
import contextlib
from fractions import Fraction
import io
import os
import re
from typing import Any, Final, NamedTuple

import mido

from coconet_jax import errors, files, parts, score, voices

TICKS_PER_QUARTER: Final = 480
VELOCITIES: Final = (90, 78, 78, 84)  # the outer voices lead
DRUMS: Final = 9  # MIDI channel 10: its note numbers are drums, not pitches
_USUAL_QPM: Final = 120.0  # where a file does not say, by the standard
_NO_TITLE: Final = re.compile(r"(control|conductor|tempo|master|meta)( track)?", re.IGNORECASE)
_MAX_QUARTERS: Final = 10**6  # some days
MAX_BYTES: Final = 1_000_000  # mido reads a megabyte in seconds; a chorale has some thousand bytes


def read(path: str | os.PathLike[str]) -> parts.Parts:
    """The notes of a MIDI file of type 0 or 1: one part per track with notes, or per channel.

    Channels are parts where a single track has several, or where they are four in fewer tracks. Drums (channel 10) are
    left out. A track named after a voice (Soprano, ...) is kept although it may hold no notes. A first meter that lasts
    a single, shorter bar is taken for a pick-up.

    Raises:
      InputError: missing or unreadable, malformed, type 2, or in SMPTE time.
    """
    data = parts.read_bytes(path, MAX_BYTES)
    try:
        # mido reads a number of any length, each byte as slowly as the number is long.
        if re.search(rb"[\x80-\xff]{4000}", data):
            raise ValueError("it holds a number of thousands of digits")
        # Nor does it read a file with a key that does not exist; keys are not used here.
        data = re.sub(rb"\xff\x59\x02..", b"\xff\x59\x02\0\0", data, flags=re.DOTALL)
        file = mido.MidiFile(file=io.BytesIO(data))
    except Exception as error:  # mido lets KeyError, IndexError, struct.error and more out of malformed bytes
        raise errors.InputError(
            f"{path} is not a MIDI file that can be read ({str(error) or type(error).__name__}); export it again"
        ) from None
    if file.type not in (0, 1) or not 0 < file.ticks_per_beat < 0x8000:
        raise errors.InputError(f"{path} is MIDI of type 2 or with SMPTE time; export it as type 0 or 1 in ticks")
    tracks = [_read_track(track, file.ticks_per_beat) for track in file.tracks]
    if max((track.end for track in tracks), default=0) > _MAX_QUARTERS:
        raise errors.InputError(f"{path} lasts more than {_MAX_QUARTERS} quarters; mend its times, or export it again")
    meters = _in_turn(track.meters for track in tracks)
    tempos = _in_turn(track.tempos for track in tracks)
    meter, pickup, bars = _bars(meters)
    remarks = []
    if unreleased := sum((track.unreleased for track in tracks), []):
        where = parts.locate(min(unreleased), bars)
        remarks.append(f"{len(unreleased)} note(s) never released, first in {where}: held to the end of their track")
    if empty := sum((track.empty for track in tracks), []):
        remarks.append(f"left out {len(empty)} note(s) without length, first in {parts.locate(min(empty), bars)}")
    if any(track.drums for track in tracks):
        remarks.append("left out the drums (channel 10)")
    kept = [at for at, track in enumerate(tracks) if track.channels or voices.is_voice_name(track.name)]
    if (
        tracks
        and not tracks[0].channels
        and any(voices.same_voices(tracks[0].name, tracks[at].name) for at in kept if at)
    ):
        kept = [at for at in kept if at]  # the title of the piece, though it is a voice's name
    channels = sum(len(tracks[at].channels) for at in kept)
    by_channel = (len(kept) == 1 and channels > 1) or (len(kept) < 4 and channels == 4)
    if by_channel:
        found = [parts.Part("", notes) for at in kept for _, notes in sorted(tracks[at].channels.items())]
    else:
        found = [parts.Part(tracks[at].name, sum(tracks[at].channels.values(), [])) for at in kept]
    title = tracks[0].name if tracks and ((by_channel and len(kept) == 1) or 0 not in kept) else ""
    title = "" if _NO_TITLE.fullmatch(title) else title
    tempos = parts.from_the_start(tempos, _USUAL_QPM, found, pickup)
    remarks += parts.remarks_on_tempo(tempos, bars)
    end = max((track.end for track in tracks), default=Fraction(0))
    qpm = tempos[0][1] if tempos else _USUAL_QPM
    return parts.Parts(found, meter, pickup, qpm, title, bars, end, tuple(remarks))


def _in_turn(tracks: Iterable[list[tuple[Fraction, Any]]]) -> list[tuple[Fraction, Any]]:
    """Changes by their times; of several at one time those of the first track count, and of these the last."""
    merged: dict[Fraction, Any] = {}
    for changes in tracks:
        merged = dict(changes) | merged
    return sorted(merged.items(), key=lambda change: change[0])


class _Track(NamedTuple):
    name: str
    channels: dict[int, list[parts.Note]]
    meters: list[tuple[Fraction, tuple[int, int]]]
    tempos: list[tuple[Fraction, float]]
    unreleased: list[Fraction]
    empty: list[Fraction]
    drums: bool
    end: Fraction


def _read_track(track: mido.MidiTrack, ticks_per_quarter: int) -> _Track:
    """Notes by channel, changes of meter and tempo, all in quarters.

    A key struck again while it sounds ends the note before, whose release may come after that: then the second release
    ends the later note. One struck twice at once, by two voices in unison, is two notes. One never released sounds to
    the end of the track, as players do it. When those notes begin is kept, and when notes without length are, which
    are left out.
    """
    notes: dict[int, list[parts.Note]] = {}
    meters, tempos, empty, drums = [], [], [], False
    sounding: dict[tuple[int, int], int] = {}
    struck_again: dict[tuple[int, int], int] = {}
    doubled: dict[tuple[int, int], int] = {}
    early: dict[tuple[int, int], int] = {}  # places of notes that a release ended which may be of the note before
    now = 0
    for message in track:
        now += message.time
        if message.type == "set_tempo" and message.tempo > 0:
            tempos.append((Fraction(now, ticks_per_quarter), round(mido.tempo2bpm(message.tempo), 3)))
        elif message.type == "time_signature" and parts.is_meter(message.numerator, message.denominator):
            meters.append((Fraction(now, ticks_per_quarter), (message.numerator, message.denominator)))
        if message.type not in ("note_on", "note_off"):
            continue
        if message.channel == DRUMS:
            drums = True
            continue
        key = (message.channel, message.note)
        start = sounding.pop(key, None)
        strikes = message.type == "note_on" and message.velocity > 0
        if strikes and start == now:
            doubled[key] = now
        elif not strikes and key in doubled and start in (None, now):  # the second release, of the longer of the two
            begun = Fraction(doubled.pop(key), ticks_per_quarter)
            notes.setdefault(message.channel, []).append(
                parts.Note(begun, Fraction(now, ticks_per_quarter), message.note)
            )
            if start is not None:
                sounding[key] = start
            continue
        elif not strikes and start is not None and start > doubled.get(key, start):
            del doubled[key]  # it never came
        ended_early = early.pop(key, None)
        if not strikes and start is None and ended_early is not None:  # the first release was of the note before
            cut = notes[message.channel][ended_early]
            notes[message.channel][ended_early] = cut._replace(end=Fraction(now, ticks_per_quarter))
            continue
        if start is not None and start == now and not strikes and struck_again.get(key) == now:
            sounding[key] = start  # the release belongs to the note before, written after the new stroke
        elif start is not None and now > start:
            note = parts.Note(Fraction(start, ticks_per_quarter), Fraction(now, ticks_per_quarter), message.note)
            notes.setdefault(message.channel, []).append(note)
            if strikes:
                struck_again[key] = now
            elif struck_again.get(key) == start:
                early[key] = len(notes[message.channel]) - 1
        elif start is not None and not strikes:
            empty.append(Fraction(now, ticks_per_quarter))
        if strikes:
            sounding[key] = now
    end = Fraction(now, ticks_per_quarter)
    unreleased = []
    for (channel, pitch), ticks in sounding.items():
        begun = Fraction(ticks, ticks_per_quarter)
        if begun < end:
            unreleased.append(begun)
            notes.setdefault(channel, []).append(parts.Note(begun, end, pitch))
        else:
            empty.append(begun)
    return _Track(_track_name(track), notes, meters, tempos, unreleased, empty, drums, end)


def _track_name(track: mido.MidiTrack) -> str:
    """The track's name, or its instrument's; mido decodes latin-1, but most programs write UTF-8."""
    instruments = (message.name for message in track if message.type == "instrument_name")
    name = track.name.strip("\0 ") or next(instruments, "")
    with contextlib.suppress(UnicodeError):
        name = name.encode("latin1").decode("utf-8")
    return parts.plain_name(name)


def _bars(
    changes: Sequence[tuple[Fraction, tuple[int, int]]],
) -> tuple[tuple[int, int], Fraction, tuple[parts.Bar, ...]]:
    """The piece's meter, the quarters of its pick-up, and where bars are counted anew, from changes in order."""
    changes = [change for at, change in enumerate(changes) if at == 0 or change[1] != changes[at - 1][1]]
    if not changes or changes[0][0] > 0:
        changes = [(Fraction(0), (4, 4)), *changes]
    meter, pickup = changes[0][1], Fraction(0)
    first = parts.bar_quarters(meter)
    if len(changes) > 1 and changes[1][0] == first < parts.bar_quarters(changes[1][1]):
        meter, pickup, changes = changes[1][1], first, changes[2:]
    else:
        changes = changes[1:]
    bars = list(parts.first_bars(meter, pickup))
    for start, changed in changes:
        before = bars[-1]
        whole = -(-(start - before.start) // parts.bar_quarters(before.meter))
        bars.append(parts.Bar(start, before.number + int(whole), changed))
    return meter, pickup, tuple(bars)


def write(
    path: str | os.PathLike[str],
    piece: score.Score,
    *,
    programs: Sequence[int],
    qpm: float | None = None,
    velocities: Sequence[int] = VELOCITIES,
) -> None:
    """Writes MIDI of type 1: a conductor track, then a named track and channel for each voice.

    `programs` are General MIDI programs 0..127, one for each voice, `velocities` how loud each is (1..127, the last
    one for all further voices); `qpm` replaces the score's tempo. A pick-up is written as a first bar with a meter of
    its own length, as notation programs do. Held cells become one note. The same score gives the same bytes.

    Raises:
      InputError: too few programs or one outside 0..127, a velocity outside 1..127, a tempo no file can hold, a
        folder that cannot be written.
    """
    files.replace(path, encode(piece, programs=programs, qpm=qpm, velocities=velocities), durable=False)


def encode(
    piece: score.Score,
    *,
    programs: Sequence[int],
    qpm: float | None = None,
    velocities: Sequence[int] = VELOCITIES,
) -> bytes:
    """The bytes that `write` writes; see there."""
    count = piece.pitches.shape[1]
    if len(programs) < count or any(not 0 <= program <= 127 for program in programs):
        raise errors.InputError(f"programs={tuple(programs)}: give {count} General MIDI programs from 0 to 127")
    if not velocities or any(not 1 <= velocity <= 127 for velocity in velocities):
        raise errors.InputError(f"velocities={tuple(velocities)}: give how loud each voice is, from 1 to 127")
    if count > 15:
        raise errors.InputError(f"a score of {count} voices does not fit MIDI's 15 channels; write fewer voices")
    qpm = piece.qpm if qpm is None else qpm
    parts.check_qpm(qpm)
    step = TICKS_PER_QUARTER // piece.steps_per_quarter
    conductor = [(0, _meta(0x03, piece.title.encode())), (0, _meta(0x51, round(60e6 / qpm).to_bytes(3, "big")))]
    pickup = piece.pickup_steps
    if 0 < pickup < Fraction(4 * piece.meter[0] * piece.steps_per_quarter, piece.meter[1]):
        length = Fraction(pickup, 4 * piece.steps_per_quarter)  # in whole notes
        unit = max(length.denominator, 4)
        conductor.append((0, _time_signature(int(length * unit), unit)))
    else:
        pickup = 0
    conductor.append((pickup * step, _time_signature(*piece.meter)))
    tracks = [_track(conductor, 0)]
    for voice, name in enumerate(parts.voice_names(count)):
        channel = voice if voice < DRUMS else voice + 1
        velocity = velocities[min(voice, len(velocities) - 1)]
        on, off = 0x90 | channel, 0x80 | channel
        timed = [(0, _meta(0x03, name.encode())), (0, bytes([0xC0 | channel, int(programs[voice])]))]
        for start, end, pitch in parts.merge_cells(piece.pitches[:, voice], piece.onset[:, voice]):
            timed.append((start * step, bytes((on, pitch, velocity))))
            timed.append((end * step, bytes((off, pitch, 0))))
        tracks.append(_track(timed, len(piece.pitches) * step))
    numbers = (1, len(tracks), TICKS_PER_QUARTER)
    return b"MThd\0\0\0\6" + b"".join(number.to_bytes(2, "big") for number in numbers) + b"".join(tracks)


def _track(timed: Sequence[tuple[int, bytes]], end: int) -> bytes:
    """A track of (tick, event) in order, ending at tick `end` or its last event."""
    pieces, now = [], 0
    for tick, event in (*timed, (max(end, timed[-1][0]), _meta(0x2F, b""))):
        pieces.append(_SHORT[tick - now] if tick - now < len(_SHORT) else _variable(tick - now))
        pieces.append(event)
        now = tick
    data = b"".join(pieces)
    return b"MTrk" + len(data).to_bytes(4, "big") + data


def _variable(number: int) -> bytes:
    """A number in 7 bits a byte, all but the last byte marked: MIDI's variable length."""
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(0x80 | (number & 0x7F))
    return bytes(reversed(digits))


_SHORT: Final = tuple(_variable(number) for number in range(8 * TICKS_PER_QUARTER))


def _meta(kind: int, data: bytes) -> bytes:
    return bytes((0xFF, kind)) + _variable(len(data)) + data


def _time_signature(beats: int, unit: int) -> bytes:
    return _meta(0x58, bytes((beats, unit.bit_length() - 1, 24, 8)))
