"""Orders of variables: permutations of what is inside, with the structure their names say, whatever the padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import orderings

VOICES = 4


def ranks(name: str, steps: int, padded: int | None = None, seed: int = 0) -> np.ndarray:
    valid = jnp.arange(padded or steps) < steps
    return np.asarray(orderings.ORDERS[name](jax.random.key(seed), valid, VOICES))


@pytest.mark.parametrize("name", orderings.ORDERS)
def test_every_variable_has_a_place_of_its_own_and_the_padding_comes_after(name):
    found = ranks(name, 9, 14)
    assert sorted(found[:9].ravel().tolist()) == list(range(36))
    assert found[9:].min() >= 36


@pytest.mark.parametrize("name", orderings.ORDERS)
def test_an_order_does_not_depend_on_the_padding(name):
    np.testing.assert_array_equal(ranks(name, 9), ranks(name, 9, 30)[:9])
    assert (ranks(name, 9) != ranks(name, 9, seed=1)).any()


@pytest.mark.parametrize("name", ["random_frames", "chronological"])
def test_frames_come_whole_with_voices_in_orders_of_their_own(name):
    found = ranks(name, 40)
    frames = found // VOICES
    assert (frames == frames[:, :1]).all()
    assert len({tuple(row) for row in (found % VOICES).tolist()}) > 10
    assert (np.diff(frames[:, 0]) == 1).all() == (name == "chronological")


def test_voices_come_one_after_another():
    found = ranks("voice_by_voice", 10, 12)[:10]
    assert (np.diff(found, axis=0) == 1).all()
    assert sorted(found[0].tolist()) == [0, 10, 20, 30]
    firsts = {int(ranks("voice_by_voice", 10, seed=seed)[0].argmin()) for seed in range(30)}
    assert firsts == set(range(VOICES))


@pytest.mark.parametrize("name", ["random_frames", "random_variables"])
def test_random_orders_are_uniform(name):
    """Each frame is as often among the first half as any other."""
    first = np.mean([ranks(name, 6, seed=seed).mean(axis=1) < 11.5 for seed in range(300)], axis=0)
    assert np.abs(first - 0.5).max() < 0.12
