"""Which frames are scored, and that what is done is not done again."""

from typing import Any

import numpy as np
import pytest

from coconet_jax import devices, errors, evaluation, likelihood


@pytest.mark.parametrize("most", [1, 7, 50, 199, 200, 1000])
def test_frames_are_spread_over_all_pieces(most):
    lengths = np.array([20, 100, 3, 77], np.int32)
    frames = evaluation.choose_frames(lengths, most, 0)
    assert sum(map(len, frames)) == min(most, 200)
    for steps, length in zip(frames, lengths, strict=True):
        assert len(np.unique(steps)) == len(steps) and (steps >= 0).all() and (steps < length).all()
        assert abs(len(steps) - min(most, 200) * length / 200) < 2
    again = evaluation.choose_frames(lengths, most, 0)
    assert all((a == b).all() for a, b in zip(frames, again, strict=True))


def test_every_frame_may_be_chosen():
    lengths = np.array([5, 6], np.int32)
    seen = np.zeros(11)
    for seed in range(400):
        first, second = evaluation.choose_frames(lengths, 3, seed)
        seen[first] += 1
        seen[5 + second] += 1
    assert seen.min() > 60  # 109 are expected of each


@pytest.fixture
def scorer(tiny_config, tiny_variables, toy_pieces) -> likelihood.Scorer:
    split = toy_pieces.splits["train"]
    number = np.arange(len(split.lengths), dtype=np.int32)
    corpus = likelihood.Corpus(split.pitches, split.lengths, number)
    made = likelihood.Scorer(tiny_variables, likelihood.net_of(tiny_config.model), corpus, 0, 4, devices.make_mesh(2))
    return likelihood.prepare(made)


def score(scorer: likelihood.Scorer, folder: Any, digest: str = "d", names: tuple[str, ...] = ("notewise_random",)):
    frames = evaluation.choose_frames(np.asarray(scorer.corpus.lengths), 40, 0)
    stores = evaluation.score_pieces(scorer, frames, names, 2, folder, digest, progress=False)
    return {name: store.pieces() for name, store in stores.items()}


def test_each_piece_has_its_own_rows(scorer, tmp_path):
    """Piece by piece and ordering by ordering: the same numbers as one row alone."""
    frames = evaluation.choose_frames(np.asarray(scorer.corpus.lengths), 40, 0)
    found = score(scorer, tmp_path)["notewise_random"]
    for piece, ordering, place in ((0, 0, 0), (1, 1, 2), (4, 1, -1)):
        row = likelihood.Rows(*(np.array([n], np.int32) for n in (piece, frames[piece][place], ordering)))
        (alone,) = likelihood.score(scorer, row, likelihood.Protocol("random_variables", "truth"))
        np.testing.assert_allclose(found[piece][ordering, place], alone[0], atol=1e-6)


def test_an_interrupted_job_goes_on(scorer, tmp_path, monkeypatch):
    names = ("framewise_released", "notewise_random")
    whole = score(scorer, tmp_path / "whole", names=names)
    asked: list[int] = []
    original = likelihood.score

    def counted(scorer: Any, rows: Any, protocol: Any, most: int = 10**9):
        for number, batch in enumerate(original(scorer, rows, protocol)):
            if number == most:
                raise KeyboardInterrupt
            asked.append(len(batch))
            yield batch

    monkeypatch.setattr(likelihood, "score", lambda *args: counted(*args, most=6))
    with pytest.raises(KeyboardInterrupt):
        score(scorer, tmp_path / "cut", names=names)
    begun = sum(asked)
    monkeypatch.setattr(likelihood, "score", counted)
    resumed = score(scorer, tmp_path / "cut", names=names)
    for name in names:
        for one, other in zip(whole[name], resumed[name], strict=True):
            np.testing.assert_array_equal(one, other)
    total = 2 * 2 * 40
    assert total - begun <= sum(asked) - begun < total  # the finished pieces were not done again
    asked.clear()
    score(scorer, tmp_path / "cut", names=names)
    assert not asked
    score(scorer, tmp_path / "cut", digest="other", names=names)
    assert sum(asked) == total


def test_a_damaged_file_is_named(scorer, tmp_path):
    score(scorer, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(
        errors.InputError, match=rf"{path.name} is damaged \(.*\); delete it and run the same command again"
    ):
        score(scorer, tmp_path)


def test_work_is_kept_while_it_goes_on(scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(evaluation, "_SAVE_SHARE", np.inf)
    kept: list[int] = []
    original = evaluation.files.replace_npz

    def replace_npz(path: Any, **arrays: Any):
        kept.append(int(arrays["done"].sum()))
        return original(path, **arrays)

    monkeypatch.setattr(evaluation.files, "replace_npz", replace_npz)
    score(scorer, tmp_path)
    assert kept == [1, 2, 3, 4, 5]


def test_commands_beside_each_other_lose_nothing(tmp_path):
    sizes = np.array([2, 3, 1])
    path = tmp_path / "a.npz"
    one, other = (evaluation.Store(path, sizes, (2, 4)) for _ in range(2))
    ones = np.ones((2, 3, 4), np.float32)
    one.put(1, ones)
    one.put(2, 3 * ones[:, :1])
    one.save()
    other.put(0, 2 * ones[:, :2])
    other.save()
    found = evaluation.Store(path, sizes, (2, 4))
    assert found.done.all()
    assert [float(piece.mean()) for piece in found.pieces()] == [2, 1, 3]


def test_seconds_and_hardware_of_earlier_commands_count(tmp_path, monkeypatch):
    path, sizes, ones = tmp_path / "a.npz", np.array([1, 1]), np.ones((1, 1, 4), np.float32)
    clock = [100.0]
    monkeypatch.setattr(evaluation.time, "monotonic", lambda: clock[0])
    for piece, machine in enumerate(("an abacus", "a slide rule")):
        monkeypatch.setattr(evaluation.provenance, "hardware", lambda machine=machine: machine)
        store = evaluation.Store(path, sizes, (1, 4))
        store.begin()
        clock[0] += 7.5
        store.put(piece, ones)
        store.save()
    done = evaluation.Store(path, sizes, (1, 4))
    assert done.seconds == 15
    assert done.made_on == "an abacus; a slide rule"
