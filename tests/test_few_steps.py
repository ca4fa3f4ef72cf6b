"""Few model calls beside many: who is further from Bach, and by how much more than chance."""

import sys

import conftest
import numpy as np
import pytest

from coconet_jax import errors
from coconet_jax.judge import distances, rates, sets

sys.path.insert(0, str(conftest.REPOSITORY / "benchmarks"))
import few_steps
import samplers


def test_who_is_further_from_bach():
    bach, near, far = rates.Measure(5.0, 0.3), rates.Measure(6.0, 0.4), rates.Measure(9.0, 0.5)
    value, error = few_steps.further(bach, near, far)
    # Both lie above him, so that where exactly he lies is no matter.
    assert (value, error) == (3.0, pytest.approx(np.hypot(0.4, 0.5)))
    assert few_steps.further(bach, far, near).mean == -3.0
    below = rates.Measure(3.0, 0.1)
    value, error = few_steps.further(bach, near, below)
    assert (value, error) == (1.0, pytest.approx((0.4**2 + 0.1**2 + (2 * 0.3) ** 2) ** 0.5))


def test_the_difference_of_two_distances_is_that_of_their_sets():
    rng = np.random.default_rng(0)
    real = sets.Windows(np.repeat(rng.integers(48, 72, (24, 4, 4)), 4, axis=1), np.arange(24) // 2)
    features: distances.Features = lambda pitches: pitches[:, ::4].reshape(len(pitches), -1)[:, :3] / 12.0  # noqa: E731
    alike, other = real.pitches[rng.permutation(24)], real.pitches + 5
    full, few, more = few_steps.kid_difference(real, alike, other, features)
    assert few.mean > full.mean and more.mean == pytest.approx(few.mean - full.mean) and more.mean > 2 * more.error > 0
    assert few_steps.kid_difference(real, other, other, features)[2].mean == pytest.approx(0)


def test_settings_are_read_or_refused_in_one_line():
    chosen = few_steps.maskgit_of("12x0.3x0.8", 32)
    assert (chosen.num_steps, chosen.confidence_noise, chosen.remask_share, chosen.temperature) == (32, 12, 0.3, 0.8)
    for wrong in ("12x0.3", "axbxc", ""):
        with pytest.raises(errors.InputError, match="use noise x remask share x temperature"):
            few_steps.maskgit_of(wrong, 32)


def test_real_music_is_a_split_or_the_whole_set(toy_pieces):
    found = samplers.cut_real(toy_pieces, "all", 16)
    parts = [samplers.cut_real(toy_pieces, split, 16) for split in toy_pieces.splits]
    np.testing.assert_array_equal(found.pitches, np.concatenate([part.pitches for part in parts]))
    assert len(np.unique(found.groups)) == sum(len(np.unique(part.groups)) for part in parts)
    part = toy_pieces._replace(splits={"train": toy_pieces.splits["train"]})
    assert len(samplers.cut_real(part, "all", 16).pitches) == len(parts[0].pitches)
    with pytest.raises(errors.InputError, match="--split=test: the data has train; use one of them, or all"):
        samplers.cut_real(part, "test", 16)
