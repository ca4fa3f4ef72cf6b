"""Tests of coconet_jax.judge.separation against values worked out by hand."""

import numpy as np
import pytest

from coconet_jax.judge import separation


def test_auc_counts_pairs() -> None:
    scores = np.array([3.0, 1.0, 2.0, 1.0])
    positive = np.array([True, True, False, False])
    # Of the pairs 3>2, 3>1, 1<2 and 1=1, two and a half are in order.
    assert separation.auc(scores, positive) == pytest.approx(2.5 / 4)
    assert separation.auc(scores, positive, np.array([1.0, 0.0, 1.0, 1.0])) == 1.0
    assert separation.auc(scores, positive, np.array([1.0, 1.0, 3.0, 1.0])) == pytest.approx((3 + 1 + 0 + 0.5) / 8)
    assert np.isnan(separation.auc(scores, np.ones(4, bool)))


def test_bootstrap_draws_groups_not_examples() -> None:
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=200), np.arange(200) % 2 == 0
    scores = scores + positive
    alone = separation.bootstrap_auc(np.random.default_rng(1), scores, positive, np.ones(200), np.arange(200))
    # Every example ten times over, as windows of one piece are: no more is known than before.
    again = separation.bootstrap_auc(
        np.random.default_rng(1), np.repeat(scores, 10), np.repeat(positive, 10), np.ones(2000), np.arange(2000) // 10
    )
    assert again.mean == pytest.approx(alone.mean) and again.error == pytest.approx(alone.error)
    assert 0.02 < alone.error < 0.05
    # Of nearly the same scores the difference is known far better than either.
    worse = scores + 0.1 * rng.normal(size=200)
    gain = separation.bootstrap_auc(
        np.random.default_rng(1), scores, positive, np.ones(200), np.arange(200), less=worse
    )
    assert gain.mean == pytest.approx(alone.mean - separation.auc(worse, positive)) and gain.error < alone.error / 3


def test_temperature_is_found_and_calibrates() -> None:
    rng = np.random.default_rng(0)
    true = rng.normal(scale=2.0, size=20_000)
    positive = rng.random(20_000) < separation.sigmoid(true)
    weights = np.ones(20_000)
    assert separation.fit_temperature(3 * true, positive, weights) == pytest.approx(3.0, rel=0.05)
    right = separation.calibration(true, positive, weights)
    wrong = separation.calibration(3 * true, positive, weights)
    assert right.ece < 0.01 < 0.05 < wrong.ece and right.brier < wrong.brier and right.nll_nats < wrong.nll_nats


def test_calibration_by_hand() -> None:
    logits, positive = np.log(np.array([9.0, 9.0, 1 / 4])), np.array([True, False, False])  # chances 0.9, 0.9, 0.2
    found = separation.calibration(logits, positive, np.array([1.0, 1.0, 2.0]))
    assert found.brier == pytest.approx((0.01 + 0.81 + 2 * 0.04) / 4)
    assert found.ece == pytest.approx(abs(1.8 - 1.0) / 4 + 2 * 0.2 / 4)
    assert found.nll_nats == pytest.approx(-(np.log(0.9) + np.log(0.1) + 2 * np.log(0.8)) / 4)


def test_logistic_finds_the_law_and_fills_gaps() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(5000, 3)) * np.array([1.0, 10.0, 1.0]) + np.array([0.0, 5.0, 0.0])
    logits = 2.0 * features[:, 0] - 0.1 * (features[:, 1] - 5) + 0.5
    positive = rng.random(5000) < separation.sigmoid(logits)
    found = separation.fit_logistic(features, positive, np.ones(5000), penalty=1e-6)
    np.testing.assert_allclose(found.plain(), [2.0, -0.1, 0.0, 1.0], atol=0.15)
    np.testing.assert_allclose(found.mean, features[positive].mean(axis=0))
    np.testing.assert_allclose(found.spread, features[positive].std(axis=0))
    gap = np.array([[np.nan, 5.0, 0.0]])
    assert found.logits(gap)[0] == pytest.approx(found.logits(np.array([[found.mean[0], 5.0, 0.0]]))[0])
    np.testing.assert_allclose(features @ found.plain()[:-1] + found.plain()[-1], found.logits(features), atol=1e-9)
    # Classes that can be told apart without fail do not make it run away.
    assert np.isfinite(separation.fit_logistic(features, features[:, 0] > 0, np.ones(5000)).coefficients).all()


def test_two_sides_find_what_lies_in_the_middle() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4000, 2)) * np.array([3.0, 1.0])
    positive = np.abs(features[:, 0]) < 1.5
    features[rng.random(4000) < np.where(positive, 0.05, 0.5), 1] = np.nan
    weights = np.ones(4000)
    plain, found = (separation.fit_logistic(features, positive, weights, two_sided=both) for both in (False, True))
    assert len(found.coefficients) == 7
    assert separation.auc(plain.logits(features), positive) < 0.6
    assert separation.auc(found.logits(features), positive) > 0.99
    at = lambda *values: float(found.logits(np.array([values]))[0])  # noqa: E731
    assert at(0.0, 0.0) > at(2.0, 0.0) > at(4.0, 0.0) > at(30.0, 0.0)  # the further off, the less
    assert at(0.0, 0.0) > at(-2.0, 0.0) > at(-4.0, 0.0)
    assert at(1.0, found.mean[1]) > at(1.0, np.nan)  # and to be missing says something too
