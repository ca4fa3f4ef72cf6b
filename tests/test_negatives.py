"""Tests of coconet_jax.judge.negatives: splits that share no piece, weights, damage, cues."""

import pathlib

import numpy as np
import pytest

from coconet_jax import corpus, errors, pieces
from coconet_jax.judge import negatives


def make_split(names: list[str], steps: int = 80, seed: int = 0) -> pieces.Pieces:
    rng = np.random.default_rng(seed)
    low = np.array([62, 55, 50, 40])
    return pieces.from_arrays([low + rng.integers(0, 8, (steps, 4)) for _ in names], names)


def label(pitches: np.ndarray, kind: str, source: str, generator: str, piece: list[str]) -> negatives.Windows:
    return negatives._labelled(pitches, kind, source, generator, np.array(piece))


def test_windows_are_at_bars_sound_and_do_not_leak() -> None:
    leaking = corpus.leaking_names("valid")[0]
    split = make_split(["a", leaking, "b"], steps=100)
    split.pitches[2, 20, 1] = -1
    found = negatives.real_windows(split, "valid", 64)
    assert found.piece.tolist() == ["valid/a"] * 3 + ["valid/b"]  # at 0, 16, 32; of b that after the rest
    np.testing.assert_array_equal(found.pitches[1], split.pitches[0, 16:80])
    np.testing.assert_array_equal(found.pitches[3], split.pitches[2, 32:96])
    assert negatives.real_windows(split, "train", 64).piece.tolist().count(f"train/{leaking}") == 3
    with pytest.raises(errors.InputError, match="no piece of test has 128 steps"):
        negatives.real_windows(split, "test", 128)


def test_splits_share_no_piece() -> None:
    names = {"train": ["a", "b", "c"], "valid": ["d"], "test": ["e"]}
    real = {split: negatives.real_windows(make_split(names[split], seed=n), split, 16) for n, split in enumerate(names)}
    made = negatives.generated(np.random.default_rng(5).integers(40, 60, (10, 16, 4)), "g gibbs", "g")
    refilled = real["valid"].take(np.array([0])).refilled(real["valid"].pitches[:1], "refilled 16", "g")
    found = negatives.splits(real, negatives.join([made, refilled]), damages=2)
    pieces_of = {name: set(part.piece.tolist()) for name, part in found.items()}
    assert not pieces_of["train"] & pieces_of["valid"] and not pieces_of["train"] & pieces_of["test"]
    assert not pieces_of["valid"] & pieces_of["test"]
    kinds = {name: dict(zip(*np.unique(part.kind, return_counts=True), strict=True)) for name, part in found.items()}
    assert [kinds[name]["generated"] for name in names] == [6, 2, 2]
    assert kinds["valid"]["refilled"] == 1 and "refilled" not in kinds["train"]
    assert kinds["train"]["damaged"] == 2 * kinds["train"]["real"] and kinds["test"]["damaged"] == kinds["test"]["real"]
    assert set(found["train"].source) >= {f"damaged: {name}" for name in negatives.DAMAGES}


def test_weights_are_shared_out_level_by_level() -> None:
    pitches = np.zeros((1, 2, 4), np.int8)
    windows = negatives.join(
        [
            label(np.repeat(pitches, 3, axis=0), "real", "real", "", ["p", "p", "q"]),
            label(np.repeat(pitches, 2, axis=0), "generated", "g a", "g", ["1", "2"]),
            label(pitches, "generated", "g b", "g", ["3"]),
            label(pitches, "generated", "h a", "h", ["4"]),
            label(pitches, "damaged", "damaged: x", "", ["p"]),
        ]
    )
    expected = [0.125, 0.125, 0.25, 0.03125, 0.03125, 0.0625, 0.125, 0.25]
    np.testing.assert_allclose(negatives.weigh(windows), expected)
    # Polished samples weigh as much as all others of all generators together.
    polished = negatives.generated(np.full((2, 2, 4), 60), "g polished", "g", polished=True)
    found = negatives.weigh(negatives.join([windows, polished]))
    np.testing.assert_allclose(found[-2:], 0.5 / 3 / 2)
    np.testing.assert_allclose(found[3:7].sum(), 0.5 / 3)


def test_a_late_voice_is_late() -> None:
    pitches = np.arange(20)[None, :, None] + np.array([60, 50, 45, 40])
    late = negatives.delay_voice(np.random.default_rng(0), pitches)
    moved = (late != pitches).any(axis=(0, 1))
    assert moved.sum() == 1
    by = np.flatnonzero(late[0, :, moved][0] == pitches[0, 0, moved])  # where the voice begins
    assert 1 <= int(by[0]) <= 8


def test_cues_by_hand() -> None:
    line = np.repeat([60, 62, 64, 65], [4, 5, 3, 4])  # inner notes of 5 and 3 steps: half are odd
    pitches = np.stack([line, line - 12, line - 12, np.full(16, 40)], axis=1)[None]
    found = negatives.cues(pitches)
    assert found["odd_lengths"][0] == pytest.approx(1 / 2 * 1.0)
    assert (found["highest"][0], found["lowest"][0], found["rests"][0]) == (65, 40, 0)
    assert sum(found[f"phase_{n}"][0] for n in range(4)) == 1


def test_pools_come_back_without_repetitions(tmp_path: pathlib.Path) -> None:
    made = negatives.generated(np.random.default_rng(0).integers(40, 60, (4, 16, 4)), "g gibbs", "g")
    negatives.write_pool(tmp_path / "a.npz", made)
    negatives.write_pool(tmp_path / "b.npz", made.take(np.array([2, 3])))
    found = negatives.read_pool(tmp_path)
    np.testing.assert_array_equal(found.pitches, made.pitches)
    assert found.source.tolist() == ["g gibbs"] * 4 and found.generator.tolist() == ["g"] * 4
    with pytest.raises(errors.InputError, match="holds no samples"):
        negatives.read_pool(tmp_path / "none")
    (tmp_path / "c.npz").write_bytes(b"no zip")
    with pytest.raises(errors.InputError, match="is no part of a pool"):
        negatives.read_pool(tmp_path)
