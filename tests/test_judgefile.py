"""Tests of coconet_jax.judge.judgefile: what is read is what was written, and damage is told."""

import pathlib

import jax
import numpy as np
import pytest

from coconet_jax import errors
from coconet_jax.judge import judgefile, network

TINY = network.Config(features=8, stem_features=4, dilations=(1, 2), groups=2)


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    keys = jax.random.split(jax.random.key(0), 2)
    params = jax.vmap(lambda key: network.init(key, TINY))(keys)
    file = tmp_path / "judge.npz"
    judgefile.write(file, "critic", TINY, params, {"temperature": 1.5}, {"grams": np.arange(5, dtype=np.uint32)})
    return file


def test_a_judge_comes_back(path: pathlib.Path) -> None:
    found = judgefile.read(path, "critic")
    assert found.config == TINY and found.header["temperature"] == 1.5 and len(found.header["sha256"]) == 64
    np.testing.assert_array_equal(found.arrays["grams"], np.arange(5))
    keys = jax.random.split(jax.random.key(0), 2)
    params = jax.vmap(lambda key: network.init(key, TINY))(keys)
    assert str(jax.tree.structure(found.params)) == str(jax.tree.structure(params))
    for there, here in zip(jax.tree.leaves(found.params), jax.tree.leaves(params), strict=True):
        # Half a level of the largest weight of each channel at most.
        assert np.abs(there - here).max() <= np.abs(here).max() / 127 / 2 * 1.001
    # Written again, what was read is the same: 8 bits hold it.
    judgefile.write(path, "critic", TINY, found.params, {"temperature": 1.5}, found.arrays)
    again = judgefile.read(path, "critic")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), again.params, found.params)


def test_channels_have_scales_of_their_own() -> None:
    kernel = np.array([[[1.0, 0.001], [-0.5, 0.0005]]], np.float32)
    levels, scale = judgefile.quantise(kernel)
    np.testing.assert_array_equal(levels, [[[127, 127], [-64, 64]]])
    np.testing.assert_allclose(levels * scale, kernel, atol=0.005)
    assert judgefile.quantise(np.zeros((2, 3), np.float32))[0].any() is np.False_


def test_damage_and_other_files_are_told(path: pathlib.Path) -> None:
    with pytest.raises(errors.InputError, match="holds format 1, kind critic; give a composers of format 1"):
        judgefile.read(path, "composers")
    with pytest.raises(errors.InputError, match="does not exist; give a critic"):
        judgefile.read(path.with_name("other.npz"), "critic")
    with pytest.raises(errors.InputError, match="cannot be read .*; give a critic"):
        judgefile.read(path.parent, "critic")
    with np.load(path) as file:
        fields = {name: file[name] for name in file.files}
    fields["params/merge/kernel"][0, 0, 0] += 1
    np.savez(path, **fields)
    with pytest.raises(errors.InputError, match="its sha256 is not the one"):
        judgefile.read(path, "critic")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(errors.InputError, match="is damaged or no critic"):
        judgefile.read(path, "critic")
