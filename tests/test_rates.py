"""Rates and means with their errors."""

import handmade
import numpy as np
import pytest

from coconet_jax.judge import rates, voice_leading


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(0, 0.0, 3.6889), (1, 0.025318, 5.5716), (15, 8.3954, 24.7402), (1000, 938.973, 1063.952)],
)
def test_poisson_interval(count, low, high):
    """Half the chi-square quantiles at 2.5 and 97.5 %, with 2k and 2k + 2 degrees of freedom."""
    np.testing.assert_allclose(rates.poisson_interval(count), (low, high), rtol=1e-4)


def test_poisson_interval_covers():
    counts = np.random.default_rng(2).poisson(7.0, 2000)
    intervals = {count: rates.poisson_interval(int(count)) for count in set(counts.tolist())}
    covered = np.mean([intervals[count][0] <= 7.0 <= intervals[count][1] for count in counts.tolist()])
    assert 0.94 < covered < 0.99  # exact intervals cover a little too often


def test_rates_near_and_far_from_a_join():
    pitches = handmade.two_voices((67, 60), (69, 62), (69, 64), (69, 64))
    counts, near = voice_leading.count_parallel_fifths(pitches), np.zeros((1, 16), bool)
    near[:, 2:6] = True
    rate = rates.rate_per_100_beats(counts, where=near)
    assert (rate.rate, rate.num_events) == (100.0, 1) and rate.low < 100.0 < rate.high
    assert rates.rate_per_100_beats(counts).rate == 25.0
    assert rates.rate_per_100_beats(counts, where=~near).rate == 0.0
    assert rates.rate_per_100_beats(counts, steps_per_quarter=2).rate == 12.5
