"""Distances against formulas and plain loops, their errors, and the order of damaged Bach."""

import handmade
import numpy as np
import pytest

from coconet_jax import errors
from coconet_jax.judge import composers, distances, sets, theory


def draw(number, offset=0.0, scale=1.0, seed=0, dim=3):
    return offset + scale * np.random.default_rng(seed).normal(size=(number, dim))


def test_kid_equals_a_loop_and_is_unbiased():
    real, sample = draw(7), draw(5, 0.5, seed=1)

    def kernel(x, y):
        return (x @ y / 3 + 1) ** 3

    within = [
        np.mean([kernel(a[i], a[j]) for i in range(len(a)) for j in range(len(a)) if i != j]) for a in (real, sample)
    ]
    expected = sum(within) - 2 * np.mean([kernel(x, y) for x in real for y in sample])
    np.testing.assert_allclose(distances.kid(distances.pair(real, sample)), expected)
    values = [distances.kid(distances.pair(draw(20, seed=2 * n), draw(30, seed=2 * n + 1))) for n in range(300)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(300) and min(values) < 0


def test_frechet_equals_the_formula():
    """Of diagonal covariances: squared offset and squared differences of the spreads."""
    axes = np.concatenate([np.eye(3), -np.eye(3)]) * np.sqrt(5 / 2)  # covariance 1 with n - 1 below
    one, other = axes * [1, 2, 3] + 1, axes * [4, 2, 1] - [0, 1, 0]
    found = distances.frechet(distances.pair(one, other))
    np.testing.assert_allclose(found, (1 + 4 + 1) + (9 + 0 + 4))
    np.testing.assert_allclose(distances.frechet(distances.pair(one, one)), 0.0, atol=1e-9)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(distances.frechet(distances.pair(one @ turn, other @ turn)), found)
    skew = draw(50) @ np.random.default_rng(1).normal(size=(3, 3))
    covariances = np.cov(skew, rowvar=False), np.cov(draw(50, seed=2), rowvar=False)
    root = np.sqrt(np.linalg.eigvals(covariances[0] @ covariances[1]).real).sum()
    offset = ((skew.mean(0) - draw(50, seed=2).mean(0)) ** 2).sum()
    expected = offset + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * root
    np.testing.assert_allclose(distances.frechet(distances.pair(skew, draw(50, seed=2))), expected)
    single = distances.pair(np.arange(4.0)[:, None], np.arange(4.0)[:, None] + 2)
    np.testing.assert_allclose(distances.frechet(single), 4.0)


def balls_by_loop(centres, points, k):
    """Which points lie in which centre's ball, which reaches to its k-th nearest other centre."""
    radii = [sorted(np.linalg.norm(centres - c, axis=1))[k] for c in centres]
    return np.array([[np.linalg.norm(c - p) <= r for p in points] for c, r in zip(centres, radii, strict=True)])


def test_neighbours_equal_a_loop():
    real, sample = draw(40), draw(30, 0.7, 0.5, seed=1)
    found = distances.precision_recall_density_coverage(distances.pair(real, sample))
    inside = balls_by_loop(real, sample, 5)
    expected = {
        "precision": balls_by_loop(real, sample, 3).any(0).mean(),
        "recall": balls_by_loop(sample, real, 3).any(0).mean(),
        "density": inside.sum() / (5 * 30),
        "coverage": inside.any(1).mean(),
    }
    assert found == pytest.approx(expected)
    assert found["recall"] < found["precision"]  # the sample is narrow
    far = distances.precision_recall_density_coverage(distances.pair(real, sample + 100))
    assert set(far.values()) == {0.0}


def test_leaving_out_rows_is_comparing_the_others():
    real, sample = draw(40), draw(30, 0.7, seed=1)
    keep, other = np.arange(40) % 3 > 0, np.arange(30) % 4 > 0
    part = distances.leave_out(distances.pair(real, sample), keep, other)
    assert distances.measure(part) == pytest.approx(distances.measure(distances.pair(real[keep], sample[other])))
    assert tuple(distances.measure(part)) == distances.DISTANCES


def test_jackknife_of_a_mean_is_the_standard_error():
    values = np.random.default_rng(3).normal(size=20)
    error = distances.jackknife(lambda kept: {"mean": float(values[kept].mean())}, np.arange(20))["mean"]
    np.testing.assert_allclose(error, values.std(ddof=1) / np.sqrt(20))
    doubled = np.repeat(values, 2)
    grouped = distances.jackknife(lambda kept: {"mean": float(doubled[kept].mean())}, np.repeat(np.arange(20), 2))
    np.testing.assert_allclose(grouped["mean"], error)  # a copy is no new piece
    assert np.isnan(distances.jackknife(lambda kept: {"mean": float(kept.sum())}, np.zeros(4, int))["mean"])


def test_jackknife_joins_many_groups():
    values = np.random.default_rng(4).normal(size=2000)
    calls = []

    def mean(kept):
        calls.append(kept.sum())
        return {"mean": float(values[kept].mean())}

    error = distances.jackknife(mean, np.arange(2000))["mean"]
    assert calls == [1920] * distances.MAX_BLOCKS
    assert 0.6 < error / (values.std() / np.sqrt(2000)) < 1.5


def test_theory_features_are_z_scores_of_the_training_windows():
    rng = np.random.default_rng(5)
    training = np.repeat(rng.integers(48, 76, (30, 16, 4)), 4, axis=1)
    features = distances.fit_theory(training)
    rows = features(training)
    raw = np.stack(list(theory.measure_pieces(training).values()), axis=1)
    column = list(theory.MEASURES).index("range")
    np.testing.assert_allclose(rows.mean(0)[column], 0.0, atol=1e-9)
    z = (raw[:, column] - raw[:, column].mean()) / raw[:, column].std(ddof=1)
    np.testing.assert_allclose(rows[:, column], np.clip(z, -3, 3))
    assert np.isnan(raw).any() and not np.isnan(rows).any() and not rows[np.isnan(raw)].any()
    assert np.abs(rows).max() <= distances.CLIP
    silent = features(np.full((1, 64, 4), handmade.R))
    assert np.isfinite(silent).all()


def test_between_draws_equal_counts_and_refuses_unequal_lengths():
    rng = np.random.default_rng(6)
    real = sets.Windows(rng.integers(48, 76, (40, 8, 4)), np.repeat(np.arange(10), 4))
    sample = sets.from_samples(rng.integers(50, 74, (25, 8, 4)))
    seen = []

    def features(pitches):
        seen.append(len(pitches))
        return pitches[:, :2].reshape(len(pitches), -1) / 10.0 - 6

    found = distances.between(real, sample, features)
    assert seen == [25, 25] and tuple(found) == distances.DISTANCES
    assert all(measure.error >= 0 for measure in found.values()) and found["frechet"].error > 0
    assert distances.between(real, sample, features, seed=1) != found
    assert distances.between(real, sample, features) == found
    distances.between(real, sample, features, number=10)
    assert seen[-2:] == [10, 10]
    with pytest.raises(errors.InputError, match="26 windows cannot be drawn from 25"):
        distances.between(real, sample, features, number=26)
    with pytest.raises(errors.InputError, match="windows of 8 and of 6 steps have no distance; cut both to 6"):
        distances.between(real, sets.from_samples(sample.pitches[:, :6]), features)
    with pytest.raises(errors.InputError, match="5 windows have no 5 neighbours"):
        distances.between(real, sample, features, number=5)


@handmade.needs_npz
@pytest.mark.parametrize("seed", [0, 1])
def test_distances_order_damaged_bach(seed):
    """From training windows: test, then what `sets.DAMAGES` makes of test in its order, by KID and by Frechet."""
    train, test = (sets.cut_windows(handmade.folds()[split], 64, 16) for split in ("train", "test"))
    features = distances.fit_theory(train.pitches)
    rng = np.random.default_rng(seed)
    real = features(sets.subsample(rng, train, len(test.pitches)).pitches)
    windows = [test.pitches, *(damage(rng, test.pitches) for damage in sets.DAMAGES.values())]
    pairs = [distances.pair(real, features(pitches)) for pitches in windows]
    assert list(sets.DAMAGES) == [
        "bars shuffled",
        "5 % of notes moved",
        "time reversed",
        "20 % of notes moved",
        "voices shuffled",
        "uniform notes",
    ]
    for distance in (distances.kid, distances.frechet):
        values = np.array([distance(pair) for pair in pairs])
        assert (values[1:] > 1.2 * values[:-1]).all(), values
        assert values[1] > 2 * values[0]  # the mildest damage stands clear of the floor


@handmade.needs_npz
def test_what_the_classifier_hears_orders_all_but_shuffled_bars():
    """It hears moments, so that bars in another order are near Bach; the rest is further and further off."""
    rng = np.random.default_rng(0)
    train, test = (sets.cut_windows(handmade.folds()[split], 64, 16) for split in ("train", "test"))
    train, test = sets.subsample(rng, train, 200), sets.subsample(rng, test, 200)
    heard = composers.fit_features(composers.load(), train.pitches)
    windows = [test.pitches, *(damage(rng, test.pitches) for damage in sets.DAMAGES.values())]
    real = heard(train.pitches)
    pairs = [distances.pair(real, heard(pitches)) for pitches in windows]
    for distance in (distances.kid, distances.frechet):
        values = np.array([distance(pair) for pair in pairs])
        assert (values[3:] > 1.2 * values[2:-1]).all(), values
        assert values[2] > 2 * values[:2].max(), values
