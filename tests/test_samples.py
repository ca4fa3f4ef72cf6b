"""Sample files: what was written comes back, equal content is equal bytes, and what is wrong is one line."""

import json
import pathlib
import subprocess
import sys

import conftest
import numpy as np
import pytest

from coconet_jax import errors, samples


def make(ids, steps: int = 8, **fields) -> samples.Samples:
    """Samples that follow from their numbers."""
    ids = np.asarray(ids, np.int64)
    pitches = (40 + (ids[:, None, None] * 7 + np.arange(steps * 4).reshape(steps, 4)) % 40).astype(np.int16)
    pitches[:, 3, 1] = -1
    onset = (ids[:, None, None] + np.arange(steps * 4).reshape(steps, 4)) % 3 == 0
    return samples.Samples(pitches, onset, ~onset, ids, 5, 2, **fields)


def make_folder(folder: pathlib.Path, num_samples: int, chunk_size: int, seed: int = 5, **fields) -> pathlib.Path:
    """The folder of a finished run."""
    folder.mkdir(exist_ok=True)
    manifest = {"format": 1, "num_samples": num_samples, "chunk_size": chunk_size, "seed": seed}
    samples.write_manifest(folder, manifest)
    for number in range(samples.num_chunks(manifest)):
        chunk = make(samples.chunk_ids(manifest, number), **fields)
        samples.write_chunk(samples.chunk_path(folder, number), chunk, samples.digest(manifest))
    return folder


def assert_equal(a: samples.Samples, b: samples.Samples) -> None:
    for name, value in a._asdict().items():
        np.testing.assert_array_equal(value, getattr(b, name), err_msg=name)
        assert type(value) is type(getattr(b, name))


def test_a_file_holds_its_samples_and_what_a_score_needs(tmp_path):
    made = make([3, 4, 5], meter=(3, 4), pickup_steps=2, qpm=71.5, title="Wachet auf, Ä")
    path = samples.write_chunk(tmp_path / "a.npz", made, "run")
    back, run = samples.read_chunk(path)
    assert_equal(made, back)
    assert run == "run"
    assert_equal(made, samples.load_samples(path))
    assert path.read_bytes() == samples.write_chunk(tmp_path / "b.npz", back, "run").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_a_run_reads_as_one_in_order(tmp_path):
    folder = make_folder(tmp_path / "run", 11, 4, meter=(6, 8))
    assert [p.name for p in sorted(folder.glob("*.npz"))] == [f"samples_0000{n}.npz" for n in range(3)]
    assert_equal(samples.load_samples(folder), make(range(11), meter=(6, 8)))
    chosen = samples.load_samples(folder, ids=[9, 2, 3, 9])
    whole = make(range(11))
    np.testing.assert_array_equal(chosen.sample_id, [2, 3, 9])
    np.testing.assert_array_equal(chosen.pitches, whole.pitches[[2, 3, 9]])
    np.testing.assert_array_equal(chosen.onset, whole.onset[[2, 3, 9]])
    with pytest.raises(errors.InputError, match="give one or more whole numbers"):
        samples.load_samples(folder, ids=[])
    assert samples.load_samples(folder, ids=range(4)).given.shape == (4, 8, 4)


def test_a_url_that_holds_none(store):
    with pytest.raises(errors.InputError, match=rf"{store} holds no samples: it does not exist"):
        samples.load_samples(str(store))
    samples.write_samples(store, make([0, 1]))
    assert_equal(samples.load_samples(str(store)), make([0, 1]))
    assert_equal(samples.load_samples(store / "samples.npz"), make([0, 1]))


def test_chosen_samples_need_only_their_chunks(tmp_path):
    folder = make_folder(tmp_path / "run", 12, 4)
    (folder / "samples_00001.npz").unlink()
    (folder / "samples_00002.npz").write_bytes(b"rubbish")
    np.testing.assert_array_equal(samples.load_samples(folder, ids=[0, 3]).sample_id, [0, 3])
    with pytest.raises(errors.InputError, match=r"not finished: 1 of 2 samples are missing \(4\)"):
        samples.load_samples(folder, ids=[0, 4])


def test_files_without_a_run(tmp_path):
    """`samples.npz` alone, and the six arrays of the first version alone."""
    made = make([0, 1])
    samples.write_samples(tmp_path, made)
    assert_equal(made, samples.load_samples(tmp_path))
    np.savez(tmp_path / "old.npz", **{name: getattr(made, name) for name in made._fields[:6]})
    assert_equal(made, samples.load_samples(tmp_path / "old.npz"))
    with pytest.raises(errors.InputError, match="has no sample 2; its numbers are 0-1"):
        samples.load_samples(tmp_path, ids=[1, 2])


def test_unfinished_runs(tmp_path):
    folder = make_folder(tmp_path / "run", 20, 4)
    for number in (1, 3):
        samples.chunk_path(folder, number).unlink()
    with pytest.raises(
        errors.InputError, match=r"8 of 20 samples are missing \(4-7, 12-15\); run the same command again.*partial=True"
    ):
        samples.load_samples(folder)
    there = samples.load_samples(folder, partial=True)
    assert_equal(there, make([*range(4), *range(8, 12), *range(16, 20)]))
    assert samples.load_samples(folder, ids=[0, 4], partial=True).sample_id.tolist() == [0]
    for number in (0, 2, 4):
        samples.chunk_path(folder, number).unlink()
    with pytest.raises(errors.InputError, match=r"20 of 20 samples are missing \(0-19\); run the same command"):
        samples.load_samples(folder, partial=True)


def test_the_last_chunk_of_a_run_that_has_grown(tmp_path):
    """Its number is wanted in full, and the file still holds what the smaller run asked for."""
    folder = make_folder(tmp_path / "run", 6, 4)
    manifest = {**json.loads((folder / "manifest.json").read_text()), "num_samples": 12}
    samples.write_manifest(folder, manifest)
    assert samples.load_samples(folder, partial=True).sample_id.tolist() == list(range(6))
    with pytest.raises(errors.InputError, match=r"6 of 12 samples are missing \(6-11\)"):
        samples.load_samples(folder)


def test_places_that_hold_none(tmp_path):
    with pytest.raises(errors.InputError, match="holds no samples.npz and no manifest.json; give the --out folder"):
        samples.load_samples(tmp_path)
    with pytest.raises(errors.InputError, match="does not exist"):
        samples.load_samples(tmp_path / "gone")
    with pytest.raises(errors.InputError, match="does not exist"):
        samples.load_samples(tmp_path / "gone.npz")


def test_every_damaged_byte_and_every_length_is_one_line_or_harmless(tmp_path):
    made = make([0, 1])
    data = samples.write_chunk(tmp_path / "a.npz", made).read_bytes()
    path = tmp_path / "b.npz"
    rng = np.random.default_rng(0)
    caught = 0
    for place in rng.choice(len(data), 200, replace=False):
        path.write_bytes(data[:place] + bytes([data[place] ^ (1 << rng.integers(8))]) + data[place + 1 :])
        try:
            back = samples.read_chunk(path)[0]
        except errors.InputError as error:
            assert "damaged" in str(error) and "delete it and run the same command again" in str(error)
            caught += 1
        else:  # a date, say: no bit of the music or of the settings has changed
            assert_equal(made, back)
    assert caught > 100
    for length in rng.choice(len(data), 50, replace=False):
        path.write_bytes(data[:length])
        with pytest.raises(errors.InputError, match="is damaged"):
            samples.load_samples(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pitches": np.zeros((2, 8, 4))}, "pitches are float64"),
        ({"pitches": np.zeros((2, 8, 3), np.int16)}, "not integers"),
        ({"onset": np.zeros((2, 7, 4), bool)}, "onset is bool"),
        ({"given": np.zeros((2, 8, 4), np.int8)}, "given is int8"),
        ({"sample_id": np.arange(3)}, "sample_id is"),
        ({"seed": None}, "no seed in it"),
        ({"title": np.array([{}], object)}, "pickle"),
    ],
)
def test_arrays_that_are_no_samples(tmp_path, change, message):
    arrays = {**make([0, 1])._asdict(), **change}
    np.savez(tmp_path / "a.npz", **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(errors.InputError, match=message):
        samples.read_chunk(tmp_path / "a.npz")


def test_chunks_that_are_not_where_they_belong(tmp_path):
    folder = make_folder(tmp_path / "run", 8, 4)
    other = make_folder(tmp_path / "other", 8, 4, seed=6)
    chunk = samples.chunk_path(folder, 1)
    chunk.write_bytes(samples.chunk_path(other, 1).read_bytes())
    with pytest.raises(errors.InputError, match="is of another run than the manifest.json beside it"):
        samples.load_samples(folder)
    chunk.write_bytes(samples.chunk_path(folder, 0).read_bytes())
    with pytest.raises(errors.InputError, match="holds samples 0-3, not 4-7; delete it"):
        samples.load_samples(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("[1]", "cannot be read"),
        ("{}", "cannot be read"),
        ('{"format": 99}', "has format 99, this package reads 1"),
        ('{"format": 1, "num_samples": 0, "chunk_size": 4}', "not numbers above 0"),
    ],
)
def test_manifests_that_are_none(tmp_path, text, message):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(errors.InputError, match=message):
        samples.load_samples(tmp_path)


def test_the_order_of_a_manifest_does_not_matter(tmp_path):
    manifest = {"format": 1, "num_samples": 3, "chunk_size": 2, "settings": {"b": 1, "a": 2.5}}
    turned = {name: manifest[name] for name in reversed(manifest)}
    data = samples.write_manifest(tmp_path, manifest).read_bytes()
    assert samples.write_manifest(tmp_path, turned).read_bytes() == data
    assert samples.digest(turned) == samples.digest({**manifest, "num_samples": 9}) != samples.digest({"format": 1})
    assert samples.read_manifest(tmp_path) == manifest


def test_numbers_as_ranges():
    assert samples.describe_ids([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert samples.describe_ids(range(0, 40, 2)) == "0, 2, 4, 6, 8, 10, 12, 14 and 12 more ranges"


def test_reading_needs_no_jax():
    """Whoever studies samples need not install what made them."""
    code = "import sys; sys.modules['jax'] = None; from coconet_jax import samples; print(samples.FORMAT)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=conftest.REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "1", done.stderr
