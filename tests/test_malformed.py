"""Seventy damaged score files of each kind from a seed: each gives a score or one line, within seconds."""

import io
import time
import zipfile

import mido
import numpy as np
import pytest
import scorefiles as files

from coconet_jax import errors, notation, score

_PIECE = score.from_pitches(
    np.repeat(np.array([[72, 67, 64, 48], [71, 67, 62, 55], [72, 64, 60, 57], [72, 67, 64, 48]], np.int16), 8, axis=0),
    pickup_steps=4,
    title="Probe",
)
KINDS = ("mid", "musicxml", "mxl", "npz")
READERS = (notation.read_score, notation.read_satb, notation.read_partial, notation.read_melody)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of an undamaged file of each kind."""
    folder = tmp_path_factory.mktemp("whole")
    notation.write_midi(folder / "a.mid", _PIECE)
    notation.write_musicxml(folder / "a.musicxml", _PIECE, staves=2)
    notation.write_npz(folder / "a.npz", _PIECE)
    with zipfile.ZipFile(folder / "a.mxl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("META-INF/container.xml", '<container><rootfile full-path="a.xml"/></container>')
        archive.writestr("a.xml", (folder / "a.musicxml").read_bytes())
    for kind in KINDS:
        assert notation.read_satb(folder / f"a.{kind}").pitches.shape == (32, 4)
    return {kind: (folder / f"a.{kind}").read_bytes() for kind in KINDS}


def _damaged(whole, kind, case, rng):
    """Bytes that are cut, flipped, repeated, of another kind, or with absurd numbers."""
    data = bytearray(whole[kind])
    way = case % 6
    if way == 0:
        return bytes(data[: rng.integers(len(data))])
    if way == 1:
        for at in rng.integers(len(data), size=rng.integers(1, 8)):
            data[at] ^= 1 << rng.integers(8)
        return bytes(data)
    if way == 2:
        start, length = rng.integers(len(data)), rng.integers(1, 200)
        data[start:start] = data[start : start + length] * int(rng.integers(1, 50))
        return bytes(data)
    if way == 3:
        return [b"", whole[KINDS[rng.integers(4)]], rng.bytes(700), b"\0" * 900, whole[kind][:8]][rng.integers(5)]
    if way == 4:
        del data[(start := int(rng.integers(len(data)))) : start + int(rng.integers(1, 60))]
        return bytes(data)
    return _absurd(whole, kind, rng)


def _absurd(whole, kind, rng):
    """Well-formed files that say what no score says."""
    huge = int(rng.choice([0, -1, 255, 65535, 2**31, 10**18]))
    if kind == "mid":
        data = bytearray(whole["mid"])
        at = int(rng.integers(8, len(data) - 4))
        data[at : at + 4] = rng.choice([b"\xff\xff\xff\xff", b"\x80\x80\x80\x80", b"\0\0\0\0", b"MTrk"])
        return bytes(data)
    if kind == "npz":
        buffer = io.BytesIO()
        np.savez(buffer, pitches=np.full((8, 4), huge), steps_per_quarter=np.array(huge), qpm=np.array(np.nan))
        return buffer.getvalue()
    text = whole["musicxml"]
    field = rng.choice(["duration", "octave", "divisions", "fifths", "beats", "beat-type", "voice", "per-minute"])
    pieces = text.decode().split(f"<{field}>")
    at = int(rng.integers(1, len(pieces)))
    pieces[at] = f"{huge}</{field}>" + pieces[at].split(">", 1)[1]
    text = f"<{field}>".join(pieces).encode()
    if kind == "musicxml":
        return text
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("META-INF/container.xml", '<container><rootfile full-path="a.xml"/></container>')
        archive.writestr("a.xml", text)
    return buffer.getvalue()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_a_score_or_one_line(tmp_path, whole, kind):
    refused, slowest = 0, 0.0
    for case in range(70):
        data = _damaged(whole, kind, case, np.random.default_rng([KINDS.index(kind), case]))
        path = tmp_path / f"{case}.{kind}"
        path.write_bytes(data)
        started = time.monotonic()
        for reader in READERS:
            try:
                read = reader(path)
                assert read.pitches.shape == read.onset.shape and read.pitches.size
            except errors.InputError as error:
                refused += reader is notation.read_satb
                assert "\n" not in str(error) and str(case) in str(error) and len(str(error)) < 700, case
        slowest = max(slowest, time.monotonic() - started)
    assert refused >= 30 and slowest < 10


def _varied(count):
    return b"MThd\0\0\0\6\0\1" + count.to_bytes(2, "big") + b"\1\xe0" + b"MTrk\0\0\0\4\0\xff\x2f\0" * count


HOSTILE = {
    "tracks": lambda: _varied(5_000),
    "digits": lambda: b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk\0\x0e\0\0" + b"\xff" * 900_000,
    "events": lambda: b"MThd\0\0\0\6\0\0\0\1\1\xe0MTrk\0\1\x5f\x90" + b"\0\x90" + b"\x3c\x40\1" * 30_000,
    "many parts": lambda: _named(3000),
    "large": lambda: b"MThd" + b"\0" * 2_000_000,
}


def _named(count):
    buffer = io.BytesIO()
    file = mido.MidiFile(type=1)
    for _ in range(count):
        track = files.midi_track("", [(0, 480, 60)])
        file.tracks.append(mido.MidiTrack([message.copy(time=delta) for delta, message in track]))
    file.save(file=buffer)
    return buffer.getvalue()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_midi_gives_one_line_or_a_score_soon(tmp_path, name):
    (tmp_path / "a.mid").write_bytes(HOSTILE[name]())
    started = time.monotonic()
    for reader in READERS:
        try:
            reader(tmp_path / "a.mid")
        except errors.InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 700
    assert time.monotonic() - started < 20
