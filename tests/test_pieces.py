"""The npz that carries prepared pieces: what is written is read, and what is wrong is named."""

import numpy as np
import pytest

from coconet_jax import errors, pianoroll, pieces


def make_set():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(48, 70, (length, 4)).astype(np.int16) for length in (12, 20, 5)]
    arrays[1][3:5, 2] = pianoroll.REST
    splits = {
        "train": pieces.from_arrays(arrays, ["one", "two", "Jesu, meine Freude é"]),
        "valid": pieces.from_arrays(arrays[:1], ["four"]),
        "test": pieces.from_arrays([], []),
    }
    return arrays, pieces.PieceSet(splits, 2, "folder:mine")


def test_from_arrays_pads_with_rests_and_computes_room():
    arrays, piece_set = make_set()
    train = piece_set.splits["train"]
    assert (train.pitches.dtype, train.pitches.shape) == (np.int8, (3, 20, 4))
    assert train.lengths.tolist() == [12, 20, 5]
    for row, array, room in zip(train.pitches, arrays, train.transpose_room, strict=True):
        np.testing.assert_array_equal(row[: len(array)], array)
        assert (row[len(array) :] == pianoroll.REST).all()
        np.testing.assert_array_equal(room, pianoroll.transpose_room(array))


def test_written_set_is_read_back(tmp_path):
    _, piece_set = make_set()
    pieces.write_npz(tmp_path / "new" / "set.npz", piece_set)
    again = pieces.read_npz(tmp_path / "new" / "set.npz")
    assert (again.steps_per_quarter, again.source) == (2, "folder:mine")
    assert set(again.splits) == {"train", "valid", "test"}
    for split, fold in piece_set.splits.items():
        assert again.splits[split].names == fold.names
        for field in ("pitches", "lengths", "transpose_room"):
            before, after = getattr(fold, field), getattr(again.splits[split], field)
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["set.npz"]


def test_an_existing_file_is_replaced(tmp_path):
    _, piece_set = make_set()
    target = tmp_path / "set.npz"
    target.write_bytes(b"old")
    pieces.write_npz(target, piece_set)
    assert pieces.read_npz(target).source == "folder:mine"


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.InputError, match="cannot write .*set.npz"):
        pieces.write_npz(tmp_path / "file" / "set.npz", make_set()[1])


def test_a_folder_in_the_files_place_is_named(tmp_path):
    (tmp_path / "set.npz").mkdir()
    with pytest.raises(errors.InputError, match="cannot write .*set.npz"):
        pieces.write_npz(tmp_path / "set.npz", make_set()[1])
    assert [path.name for path in tmp_path.iterdir()] == ["set.npz"]


def test_missing_file_names_the_command(tmp_path):
    with pytest.raises(errors.InputError, match="does not exist; make it with python -m coconet_jax.chorales --export"):
        pieces.read_npz(tmp_path / "none.npz")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(errors.InputError, match="is not a set of chorales"):
        pieces.read_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", train_pitches=np.array([None, "x"], dtype=object))
    with pytest.raises(errors.InputError, match="is not a set of chorales"):
        pieces.read_npz(tmp_path / "objects.npz")


@pytest.mark.parametrize("field", ["train_pitches", "valid_lengths", "test_names", "steps_per_quarter", "source"])
def test_a_missing_field_is_named(tmp_path, field):
    pieces.write_npz(tmp_path / "whole.npz", make_set()[1])
    with np.load(tmp_path / "whole.npz") as file:
        np.savez(tmp_path / "part.npz", **{name: file[name] for name in file.files if name != field})
    with pytest.raises(errors.InputError, match=f"has no field '{field}'"):
        pieces.read_npz(tmp_path / "part.npz")


def test_a_set_may_lie_at_a_url():
    url = "memory://sets/set.npz"
    with pytest.raises(errors.InputError, match="memory://sets/set.npz does not exist"):
        pieces.read_npz(url)
    with pytest.raises(errors.InputError, match="nope:// is unknown"):
        pieces.read_npz("nope://sets/set.npz")
    pieces.write_npz(url, make_set()[1])
    for (name, found), expected in zip(pieces.read_npz(url).splits.items(), make_set()[1].splits.values(), strict=True):
        np.testing.assert_array_equal(found.pitches, expected.pitches, err_msg=name)
