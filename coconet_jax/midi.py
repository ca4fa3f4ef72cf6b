"""MIDI files, and what every reader and writer of scores shares: notes before any grid, names, whole files.

The readers give `Parts`, notes in quarters as a file has them; `notation` puts those on a grid.
"""

from collections.abc import Sequence
from fractions import Fraction
import io
import os
import pathlib
from typing import Final, NamedTuple

from jaxtyping import Bool, Integer
import mido
import numpy as np

from coconet_jax import errors, pianoroll, score

TICKS_PER_QUARTER: Final = 480
VELOCITY: Final = 80
DRUMS: Final = 9  # MIDI channel 10: its note numbers are drums, not pitches
MAX_BYTES: Final = 20_000_000
QPM_LIMITS: Final = (4.0, 1000.0)  # set_tempo holds 24 bits of microseconds: nothing slower than 3.6 fits


class Note(NamedTuple):
    """A note from start to end, in quarters from the beginning of the piece."""

    start: Fraction
    end: Fraction
    pitch: int


class Part(NamedTuple):
    """The notes of one track or staff; `layers` holds them by written voice where a staff has several."""

    name: str
    notes: list[Note]
    layers: tuple[list[Note], ...] = ()


class Parts(NamedTuple):
    """What a score file holds, before any grid; `pickup` is in quarters."""

    parts: list[Part]
    meter: tuple[int, int] = (4, 4)
    pickup: Fraction = Fraction(0)
    qpm: float = 80.0
    title: str = ""


def merge_cells(pitches: Integer[np.ndarray, " t"], onset: Bool[np.ndarray, " t"]) -> list[tuple[int, int, int]]:
    """Notes (start step, end step, pitch) of one voice: a new one at an onset, a new pitch, or after a rest."""
    notes: list[tuple[int, int, int]] = []
    for step, (pitch, struck) in enumerate(zip(pitches.tolist(), onset.tolist(), strict=True)):
        if pitch == pianoroll.REST:
            continue
        if notes and not struck and notes[-1][1:] == (step, pitch):
            notes[-1] = (notes[-1][0], step + 1, pitch)
        else:
            notes.append((step, step + 1, pitch))
    return notes


def voice_names(count: int) -> tuple[str, ...]:
    """What staves and tracks are called when a score has `count` voices."""
    if count == pianoroll.NUM_VOICES:
        return tuple(name.capitalize() for name in pianoroll.VOICES)
    return ("Melody",) if count == 1 else tuple(f"Voice {number}" for number in range(1, count + 1))


def pitch_name(pitch: int) -> str:
    """Scientific name of a MIDI pitch, 60 = C4."""
    return ("C", "C#", "D", "Eb", "E", "F", "F#", "G", "G#", "A", "Bb", "B")[pitch % 12] + str(pitch // 12 - 1)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a score file; InputError where it is missing, unreadable or larger than 20 MB."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise errors.InputError(f"{path} does not exist; check the path") from None
    except OSError as error:
        raise errors.InputError(f"{path} cannot be read: {error.strerror}; give a file you may read") from None
    if len(data) > MAX_BYTES:
        raise errors.InputError(f"{path} is larger than {MAX_BYTES // 10**6} MB; give the score of one piece")
    return data


def replace_file(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file whole or not at all; InputError where the folder cannot be written."""
    target = pathlib.Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(data)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise errors.InputError(f"cannot write {path}: {error.strerror}; choose a folder you may write to") from None


def read(path: str | os.PathLike[str]) -> Parts:
    """The notes of a MIDI file of type 0 or 1: one part per track with notes, or per channel if it is a single track.

    Drums (channel 10) are left out. A track named after a voice (Soprano, ...) is kept although it may hold no
    notes. A first meter that lasts a single, shorter bar is taken for a pick-up.

    Raises:
      InputError: missing or unreadable, malformed, type 2, or in SMPTE time.
    """
    data = read_bytes(path)
    try:
        file = mido.MidiFile(file=io.BytesIO(data))
    except Exception as error:  # mido lets KeyError, IndexError, struct.error and more out of malformed bytes
        raise errors.InputError(
            f"{path} is not a MIDI file that can be read ({str(error) or type(error).__name__}); export it again"
        ) from None
    if file.type == 2 or file.ticks_per_beat <= 0:
        raise errors.InputError(f"{path} is MIDI of type 2 or with SMPTE time; export it as type 0 or 1 in ticks")
    names, meters, tempo = [_track_name(track) for track in file.tracks], [], 0.0
    by_track: list[dict[int, list[Note]]] = []
    for track in file.tracks:
        by_track.append(_track_notes(track, file.ticks_per_beat))
        now = 0
        for message in track:
            now += message.time
            if message.type == "set_tempo" and not tempo and message.tempo > 0:
                tempo = round(mido.tempo2bpm(message.tempo), 3)
            elif message.type == "time_signature":
                meters.append((Fraction(now, file.ticks_per_beat), message.numerator, message.denominator))
    meter, pickup = _meter(sorted(meters))
    kept = [track for track, channels in enumerate(by_track) if channels or names[track].lower() in pianoroll.VOICES]
    by_channel = len(kept) == 1 and len(by_track[kept[0]]) > 1
    if by_channel:
        parts = [Part("", notes) for _, notes in sorted(by_track[kept[0]].items())]
    else:
        parts = [Part(names[track], sum(by_track[track].values(), [])) for track in kept]
    title = names[0] if names and (by_channel or 0 not in kept) else ""
    return Parts(parts, meter, pickup, tempo or Parts([]).qpm, title)


def _track_name(track: mido.MidiTrack) -> str:
    """The track's name; mido decodes latin-1, but most programs write UTF-8."""
    name = track.name.strip("\0 ")
    try:
        return name.encode("latin1").decode("utf-8")
    except UnicodeError:
        return name


def _track_notes(track: mido.MidiTrack, ticks_per_quarter: int) -> dict[int, list[Note]]:
    """Notes by channel. A key struck again while it sounds ends the note before; notes never released are dropped."""
    notes: dict[int, list[Note]] = {}
    sounding: dict[tuple[int, int], int] = {}
    now = 0
    for message in track:
        now += message.time
        if message.type not in ("note_on", "note_off") or message.channel == DRUMS:
            continue
        key = (message.channel, message.note)
        start = sounding.pop(key, None)
        if start is not None and now > start:
            note = Note(Fraction(start, ticks_per_quarter), Fraction(now, ticks_per_quarter), message.note)
            notes.setdefault(message.channel, []).append(note)
        if message.type == "note_on" and message.velocity > 0:
            sounding[key] = now
    return notes


def _meter(changes: Sequence[tuple[Fraction, int, int]]) -> tuple[tuple[int, int], Fraction]:
    """The piece's meter, and the quarters of its pick-up, from (time in quarters, beats, unit) in order."""
    meters = [(when, (beats, unit)) for when, beats, unit in changes]
    if not meters:
        return (4, 4), Fraction(0)
    lengths = [Fraction(4 * beats, unit) for _, (beats, unit) in meters]
    if len(meters) > 1 and meters[0][0] == 0 and meters[1][0] == lengths[0] < lengths[1]:
        return meters[1][1], lengths[0]
    return meters[0][1], Fraction(0)


def check_qpm(qpm: float) -> None:
    """InputError unless a file can hold this tempo."""
    if not QPM_LIMITS[0] <= qpm <= QPM_LIMITS[1]:
        raise errors.InputError(f"qpm={qpm} is no tempo; use {QPM_LIMITS[0]:g} to {QPM_LIMITS[1]:g} quarters a minute")


def write(
    path: str | os.PathLike[str], piece: score.Score, *, programs: Sequence[int], qpm: float | None = None
) -> None:
    """Writes MIDI of type 1: a conductor track, then a named track and channel for each voice.

    `programs` are General MIDI programs 0..127, one for each voice; `qpm` replaces the score's tempo. A pick-up is
    written as a first bar with a meter of its own length, as notation programs do. Held cells become one note.

    Raises:
      InputError: too few programs or one outside 0..127, a tempo no file can hold, a folder that cannot be written.
    """
    voices = piece.pitches.shape[1]
    if len(programs) < voices or any(not 0 <= program <= 127 for program in programs):
        raise errors.InputError(f"programs={tuple(programs)}: give {voices} General MIDI programs from 0 to 127")
    qpm = piece.qpm if qpm is None else qpm
    check_qpm(qpm)
    file = mido.MidiFile(type=1, ticks_per_beat=TICKS_PER_QUARTER, charset="utf-8")
    step = TICKS_PER_QUARTER // piece.steps_per_quarter
    tempo = mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(qpm))
    conductor = [(0, mido.MetaMessage("track_name", name=piece.title)), (0, tempo)]
    pickup = piece.pickup_steps
    if 0 < pickup < Fraction(4 * piece.meter[0] * piece.steps_per_quarter, piece.meter[1]):
        length = Fraction(pickup, 4 * piece.steps_per_quarter)  # in whole notes
        unit = max(length.denominator, 4)
        conductor.append((0, _time_signature(int(length * unit), unit)))
    else:
        pickup = 0
    conductor.append((pickup * step, _time_signature(*piece.meter)))
    file.tracks.append(_track(conductor, 0))
    for voice, name in enumerate(voice_names(voices)):
        channel = voice if voice < DRUMS else voice + 1
        timed = [
            (0, mido.MetaMessage("track_name", name=name)),
            (0, mido.Message("program_change", channel=channel, program=int(programs[voice]))),
        ]
        for start, end, pitch in merge_cells(piece.pitches[:, voice], piece.onset[:, voice]):
            timed.append((start * step, mido.Message("note_on", channel=channel, note=pitch, velocity=VELOCITY)))
            timed.append((end * step, mido.Message("note_off", channel=channel, note=pitch, velocity=0)))
        file.tracks.append(_track(timed, len(piece.pitches) * step))
    buffer = io.BytesIO()
    file.save(file=buffer)
    replace_file(path, buffer.getvalue())


def _time_signature(beats: int, unit: int) -> mido.MetaMessage:
    return mido.MetaMessage("time_signature", numerator=beats, denominator=unit)


def _track(timed: list, end: int) -> mido.MidiTrack:
    """A track of (tick, message) in order, ending at tick `end` or its last message."""
    track, now = mido.MidiTrack(), 0
    for tick, message in timed:
        track.append(message.copy(time=tick - now))
        now = tick
    track.append(mido.MetaMessage("end_of_track", time=max(end - now, 0)))
    return track
