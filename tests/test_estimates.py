"""Averages over orderings and their errors, against sums by hand."""

import math

import numpy as np
import pytest

from coconet_jax import estimates, likelihood, orderings


def log_probs(seed: int = 0, k: int = 3, frames: int = 5) -> np.ndarray:
    return -np.random.default_rng(seed).exponential(1.0, (k, frames, 4)).astype(np.float32)


def test_averages_by_hand():
    """Two orderings, two frames: probabilities of frames 0.5 0.25 along one, 0.1 0.25 along the other."""
    made = np.log(np.array([[[0.5, 1, 1, 1], [1, 0.25, 1, 1]], [[1, 1, 0.1, 1], [0.5, 0.5, 1, 1]]]))
    one, unit, piece = (estimates.AVERAGES[name](made, "frame") for name in estimates.AVERAGES)
    np.testing.assert_allclose(one, [-(math.log(0.5) + math.log(0.1)) / 2, -math.log(0.25)])
    np.testing.assert_allclose(unit, [-math.log(0.3), -math.log(0.25)])
    np.testing.assert_allclose(piece, [-math.log((0.125 + 0.025) / 2) / 2] * 2)
    one, unit, piece = (estimates.AVERAGES[name](made, "note") for name in estimates.AVERAGES)
    np.testing.assert_allclose(one, [-(math.log(0.5) + math.log(0.1)) / 8, -math.log(0.25) / 4])
    notes = [[0.75, 1, 0.55, 1], [0.75, 0.375, 1, 1]]
    np.testing.assert_allclose(unit, -np.log(notes).mean(axis=1))
    np.testing.assert_allclose(piece, [-math.log((0.125 + 0.025) / 2) / 8] * 2)


@pytest.mark.parametrize("unit", ["frame", "note"])
@pytest.mark.parametrize("seed", range(5))
def test_an_ensemble_is_never_worse_than_the_mean_of_its_members(unit, seed):
    made = log_probs(seed)
    one, ensemble, piece = (estimates.AVERAGES[name](made, unit) for name in estimates.AVERAGES)
    assert (ensemble < one).all()
    assert piece[0] < one.mean()
    alone = made[:1]  # of one ordering all three are the same
    for average in estimates.AVERAGES.values():
        np.testing.assert_allclose(average(alone, unit).mean(), estimates.one_ordering(alone, unit).mean(), rtol=1e-6)


def test_extreme_log_probabilities_do_not_overflow():
    assert estimates.log_mean_exp(np.array([[-2000.0], [-2000.0]])) == pytest.approx(-2000)
    assert estimates.log_mean_exp(np.array([[-1.0], [-3000.0]])) == pytest.approx(-1 - math.log(2))


def test_errors_are_over_frames_and_over_pieces():
    pieces = [log_probs(1, frames=5), log_probs(2, frames=11), log_probs(3, frames=2)]
    found = estimates.estimate(pieces, "frame", "one_ordering")
    frames = np.concatenate([-piece.sum(axis=2).mean(axis=0) for piece in pieces])
    assert found.mean == pytest.approx(frames.mean())
    assert found.sem == pytest.approx(frames.std(ddof=1) / math.sqrt(18))
    means = np.array([-piece.sum(axis=2).mean() for piece in pieces])
    assert found.mean_pieces == pytest.approx(means.mean())
    assert found.sem_pieces == pytest.approx(means.std(ddof=1) / math.sqrt(3))
    weights = np.array([5, 11, 2]) / 18
    assert found.sem_grouped == pytest.approx(math.sqrt(1.5 * ((weights * (means - found.mean)) ** 2).sum()))
    even = estimates.estimate([log_probs(n, frames=7) for n in range(3)], "frame", "one_ordering")
    assert even.sem_grouped == pytest.approx(even.sem_pieces)
    whole = estimates.estimate(pieces, "frame", "piece_ensemble")
    values = np.array([estimates.piece_ensemble(piece, "frame")[0] for piece in pieces])
    assert whole.sem is None
    assert whole.mean == pytest.approx((values * [5, 11, 2]).sum() / 18)  # a longer piece weighs more


def test_a_summary_has_its_headline_first_and_no_nan():
    made = [log_probs(frames=1)]
    released = estimates.summarise("framewise_released", made)
    assert released["mean"] == released["unit_ensemble"]["mean"] < released["one_ordering"]["mean"]
    assert (released["n_frames"], released["n_pieces"], released["n_orderings"]) == (1, 1, 3)
    assert released["sem"] is None and released["sem_pieces"] is None
    notes = estimates.summarise("notewise_random", made)
    assert notes["mean"] == notes["one_ordering"]["mean"] == pytest.approx(released["one_ordering"]["mean"] / 4)
    assert (released["unit"], notes["unit"]) == ("nats per frame", "nats per note")


def test_measures_name_what_there_is():
    for measure in estimates.MEASURES.values():
        assert measure.order in orderings.ORDERS and measure.feed in likelihood.FEEDS
        assert measure.headline in estimates.AVERAGES
        assert (measure.feed == "truth") == (measure.unit == "note")
