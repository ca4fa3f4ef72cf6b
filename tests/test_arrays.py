"""npz: written and read, sample files, choices, and files that are not what they say."""

import io
import zipfile

import numpy as np
import pytest

from coconet_jax import errors, notation, score


def _piece(**fields):
    rng = np.random.default_rng(0)
    pitches = np.repeat(rng.integers(50, 60, (20, 4)) + np.array([20, 12, 4, -8]), 2, axis=0).astype(np.int16)
    piece = score.from_pitches(pitches, **fields)
    piece.onset[1:] |= rng.random((39, 4)) < 0.2
    return piece


def _save(path, **fields):
    np.savez(path, **fields)
    return path


def test_everything_comes_back(tmp_path):
    piece = _piece(meter=(3, 4), pickup_steps=4, steps_per_quarter=4, qpm=72.5, title="Größe ♪")
    notation.write_npz(tmp_path / "a.npz", piece)
    notation.write_npz(tmp_path / "b.npz", piece)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    read = notation.read_satb(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.pitches, piece.pitches)
    np.testing.assert_array_equal(read.onset, piece.onset)
    for name in ("meter", "pickup_steps", "steps_per_quarter", "qpm", "title"):
        assert getattr(read, name) == getattr(piece, name)
    np.testing.assert_array_equal(notation.read_melody(tmp_path / "a.npz").pitches, piece.pitches[:, :1])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int64])
def test_pitches_alone_stand_on_the_grid_asked_for(tmp_path, dtype):
    pitches = _piece().pitches.astype(dtype)
    for shape in (pitches, pitches[None]):
        read = notation.read_satb(_save(tmp_path / "a.npz", pitches=shape), steps_per_quarter=2)
        np.testing.assert_array_equal(read.pitches, pitches)
        assert read.steps_per_quarter == 2


def test_one_of_several_samples_by_number(tmp_path):
    pitches = np.stack([_piece().pitches - shift for shift in range(3)])
    path = _save(tmp_path / "samples.npz", pitches=pitches, steps_per_quarter=np.array(4), seed=np.array(0))
    np.testing.assert_array_equal(notation.read_satb(f"{path}#2").pitches, pitches[2])
    for choice in (path, f"{path}#3"):
        with pytest.raises(errors.InputError, match=r"holds 3 scores; name one by its number, as in .*#0 to #2"):
            notation.read_satb(choice)
    with pytest.raises(errors.InputError, match="grid of 4 steps a quarter, not 2"):
        notation.read_satb(f"{path}#0", steps_per_quarter=2)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"notes": np.zeros(3)}, "no array named pitches"),
        ({"pitches": np.full((8, 4), 60.0)}, r"float64 \(8, 4\); give whole numbers"),
        ({"pitches": np.full((8, 3), 60)}, r"int64 \(8, 3\); give whole numbers"),
        ({"pitches": np.full((8, 4), 60), "onset": np.zeros((7, 4), bool)}, r"onset is bool \(7, 4\)"),
        ({"pitches": np.full((8, 4), 128)}, "pitch 128 is no MIDI pitch"),
        ({"pitches": np.full((8, 4), -2)}, "pitch -2 is no MIDI pitch"),
        ({"pitches": np.full((8, 4), 90)}, "outside C2..A5.*by -9 semitones"),
        ({"pitches": np.full((8, 4), -1)}, "holds no notes"),
        ({"pitches": np.zeros((0, 4), int)}, "holds no notes"),
        ({"pitches": np.zeros((0, 8, 4), int)}, "holds 0 scores"),
        ({"pitches": np.array([[None] * 4], object)}, "object"),
    ],
)
def test_wrong_arrays_are_named(tmp_path, fields, match):
    with pytest.raises(errors.InputError, match=match) as caught:
        notation.read_satb(_save(tmp_path / "a.npz", **fields))
    assert "\n" not in str(caught.value)


def _member(header):
    """An npz whose array has this header and hardly any data."""
    text = header.encode() + b" " * 20 + b"\n"
    raw = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 64
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pitches.npy", raw)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<i2', 'fortran_order': False, 'shape': (1000000000000, 4)}",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (-4, 4)}",
        "{'descr': '<i2', 'fortran_order': False, 'shape': (True, 4)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1, 4)}",
        "{'descr': '<i2'}",
        "(" * 900,
        "__import__('os').system('true')",
    ],
)
def test_headers_that_lie_take_no_memory(tmp_path, header):
    (tmp_path / "a.npz").write_bytes(_member(header))
    with pytest.raises(errors.InputError, match=r"a.npz (is not an npz of plain arrays|.*holds no notes|.*give whole)"):
        notation.read_satb(tmp_path / "a.npz")


def test_bombs_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pitches.npy", b"\0" * 100_000_000)
    with pytest.raises(errors.InputError, match="unpacks to more than 20 MB"):
        notation.read_satb(tmp_path / "a.npz")
