"""Tests of coconet_jax.judge.critic: it learns on a toy, is calibrated, comes back from its file, knows quotations."""

import dataclasses
import pathlib

import conftest
import jax
import numpy as np
import pytest

from coconet_jax import errors, pieces
from coconet_jax.judge import copies, critic, fit, negatives, network

TINY = network.Config(features=8, stem_features=4, dilations=(1,), groups=2, dropout=0.0)


def make_training() -> pieces.Pieces:
    rng = np.random.default_rng(0)
    low = np.array([62, 55, 50, 40])
    return pieces.from_arrays([low + rng.integers(0, 8, (n, 4)) for n in (60, 45, 40)], ["a", "b", "c"])


@pytest.fixture(scope="module")
def by_split() -> dict[str, negatives.Windows]:
    """Real windows hold their chord, generated ones do not."""
    found = {}
    for number, name in enumerate(("train", "valid")):
        rng = np.random.default_rng(number)
        notes = np.array([62, 55, 50, 40]) + rng.integers(0, 8, (80, 16, 4))
        real = np.broadcast_to(notes[:40, :1], (40, 16, 4)).copy()
        pieces_of = np.array([f"{name}/{n}" for n in range(40)])
        found[name] = negatives.join(
            [
                negatives._labelled(real, "real", "real", "", pieces_of),
                negatives.generated(notes[40:], "g gibbs", "g"),
            ]
        )
    return found


@pytest.fixture(scope="module")
def trained(by_split: dict[str, negatives.Windows]) -> critic.Critic:
    settings = fit.Settings(
        num_members=2, num_steps=40, batch_size=32, learning_rate=0.02, warmup_steps=5, ema_decay=0.8, eval_every=20
    )
    return critic.train(by_split, settings, TINY, make_training())


def test_it_tells_real_from_generated(by_split: dict[str, negatives.Windows], trained: critic.Critic) -> None:
    valid = by_split["valid"]
    verdict = critic.judge(trained, valid.pitches)
    right = (verdict.logit > 0) == (valid.kind == "real")
    assert right.mean() > 0.85
    assert (verdict.sd > 0).all() and (verdict.careful < verdict.logit).all()
    np.testing.assert_allclose(verdict.steps.mean(axis=1), verdict.logit, atol=1e-4)


def test_it_comes_back_from_its_file(
    by_split: dict[str, negatives.Windows], trained: critic.Critic, tmp_path: pathlib.Path
) -> None:
    critic.save(tmp_path / "critic.npz", trained)
    found = critic.load(tmp_path / "critic.npz")
    assert len(found.sha256) == 64 and found.header["sources"] == ["g gibbs", "real"]
    pitches = by_split["valid"].pitches[:5]
    for there, here in zip(critic.judge(found, pitches), critic.judge(trained, pitches), strict=True):
        np.testing.assert_allclose(there, here, atol=1e-5)


def test_the_critic_is_the_sum_of_its_opinions(by_split: dict[str, negatives.Windows], trained: critic.Critic) -> None:
    pitches = by_split["valid"].pitches[:3]
    nets, measures = (critic.judge(trained._replace(mix=one), pitches) for one in np.eye(3)[:2])
    both = critic.judge(trained._replace(mix=np.array([2.0, 3.0, 0.5])), pitches)
    np.testing.assert_allclose(both.logit, 2 * nets.logit + 3 * measures.logit + 0.5, atol=1e-4)
    np.testing.assert_allclose(both.sd, 2 * nets.sd, atol=1e-4)
    assert not measures.sd.any() and np.ptp(measures.steps, axis=1).max() == 0
    raw = critic.judge(trained._replace(temperature=1.0, mix=np.eye(3)[0]), pitches)
    np.testing.assert_allclose(raw.logit / trained.temperature, nets.logit, atol=1e-4)


def test_the_mean_of_critics_says_the_mean_of_what_they_say(
    by_split: dict[str, negatives.Windows], trained: critic.Critic, tmp_path: pathlib.Path
) -> None:
    theory = trained.theory._replace(coefficients=trained.theory.coefficients[::-1].copy())
    header = trained.header | {"sources": ["real", "z gibbs"], "networks_of": ["abc"]}
    other = trained._replace(theory=theory, mix=np.array([0.3, 2.0, -1.0]), temperature=2.0, header=header)
    both = []
    for number, each in enumerate((trained, other)):
        critic.save(tmp_path / f"{number}.npz", each)
        both.append(critic.load(tmp_path / f"{number}.npz"))
    text = ",".join(str(tmp_path / f"{number}.npz") for number in range(2))
    read = conftest.load_benchmark("critic").read_critics("load", text)
    assert [each.sha256 for each in read] == [each.sha256 for each in both] and critic.average(both[:1]) is both[0]
    mean, pitches = critic.average(read), by_split["valid"].pitches[::9]
    found, first, second = (critic.judge(each, pitches) for each in (mean, *both))
    assert np.abs(first.logit - second.logit).max() > 0.1
    np.testing.assert_allclose(found.logit, (first.logit + second.logit) / 2, atol=1e-4)
    np.testing.assert_allclose(found.sd, (first.sd + second.sd) / 2, atol=1e-4)
    assert mean.header["mean_of"] == [each.sha256 for each in both]
    assert mean.header["sources"] == ["g gibbs", "real", "z gibbs"]
    assert mean.header["networks_of"] == sorted(["abc", both[0].sha256])


@pytest.mark.parametrize("text", ["a.npz,,b.npz", ",a.npz", "a.npz,"])
def test_an_empty_name_among_critics_is_refused(text: str) -> None:
    with pytest.raises(errors.InputError, match=f"^--load={text}: a name is empty; give files with one comma"):
        conftest.load_benchmark("critic").read_critics("load", text)


@pytest.mark.parametrize(
    "change, unlike",
    [
        (lambda of: {"params": jax.tree.map(lambda leaf: leaf[:1], of.params)}, "networks"),
        (lambda of: {"params": jax.tree.map(lambda leaf: leaf + 1, of.params)}, "networks"),
        (lambda of: {"config": dataclasses.replace(TINY, features=10)}, "networks"),
        (lambda of: {"measures": of.measures[::-1]}, "theory measures"),
        (lambda of: {"theory": of.theory._replace(mean=of.theory.mean + 1)}, "theory measures"),
        (lambda of: {"theory": of.theory._replace(coefficients=of.theory.coefficients[2:])}, "theory measures"),
        (lambda of: {"grams": of.grams[1:]}, "training music"),
    ],
)
def test_no_mean_of_critics_that_differ_otherwise(trained: critic.Critic, change, unlike) -> None:
    with pytest.raises(errors.InputError, match=f"^critic 3 of 3 to average has other {unlike} than the first; fit"):
        critic.average([trained, trained, trained._replace(**change(trained))])


def test_padding_is_not_judged(by_split: dict[str, negatives.Windows], trained: critic.Critic) -> None:
    pitches = by_split["valid"].pitches[38:42]
    padded = np.pad(pitches, ((0, 0), (0, 4), (0, 0)), constant_values=-1)
    valid = np.broadcast_to(np.arange(20) < 16, (4, 20))
    whole, part = critic.judge(trained, pitches), critic.judge(trained, padded, valid)
    np.testing.assert_allclose(part.logit, whole.logit, atol=1e-4)
    np.testing.assert_allclose(part.steps[:, :16], whole.steps, atol=1e-3)
    assert not part.steps[:, 16:].any()


def test_quotations_are_told_as_by_comparing(trained: critic.Critic) -> None:
    training = make_training()
    rng = np.random.default_rng(3)
    pitches = np.array([62, 55, 50, 40]) + rng.integers(0, 8, (6, 40, 4))
    pitches[0, 5:30] = training.pitches[0, 30:55] - 2  # 25 steps, moved
    pitches[1, 5:29] = training.pitches[0, 30:54] - 2  # 24 steps
    pitches[2, 5:30] = training.pitches[2, 15:40]  # to the piece's end
    pitches[3, 5:30] = training.pitches[0, 30:55]
    pitches[3, 10, 2] += 12  # one note is another
    pitches[4, 5:30] = np.concatenate([training.pitches[0, :12], training.pitches[0, 13:26]])  # a step left out
    assert critic.quotes(trained, pitches).tolist() == [True, False, True, False, False, False]
    longest = copies.longest_run(pitches, training)
    np.testing.assert_array_equal(critic.quotes(trained, pitches), longest > critic.QUOTE_STEPS)
    assert not critic.quotes(trained, pitches[:, :24]).any()
    # What stands past a piece's end is no music to quote.
    padded = np.repeat(training.pitches[2, 39:40][None], 30, axis=1)
    assert not critic.quotes(trained, padded).any()


def test_every_run_can_be_quoted() -> None:
    assert len(critic.quotable(make_training())) == (60 - 24) + (45 - 24) + (40 - 24)


def test_the_packaged_critic_is_small_and_hears_noise(trained: critic.Critic) -> None:
    assert critic.PATH.stat().st_size <= 1_500_000
    packaged = critic.load()
    for each in (trained, packaged):  # a slope above the mean, one below, one where it is missing, and the constant
        assert len(each.theory.coefficients) == 3 * len(each.measures) + 1
    assert packaged.config == network.Config() and len(packaged.grams) > 40_000
    chords = np.array([[67, 62, 59, 43], [69, 64, 60, 45], [71, 62, 55, 50], [72, 64, 55, 48]])
    progression = np.repeat(np.tile(chords, (4, 1)), 4, axis=0)
    rng = np.random.default_rng(0)
    noise = np.array([60, 52, 46, 38]) + rng.integers(0, 20, (64, 4))
    verdict = critic.judge(packaged, np.stack([progression, noise]))
    assert verdict.logit[0] > verdict.logit[1] and verdict.logit[1] < 0
