"""Tests of coconet_jax.judge.network: padding, the map over steps, reach, size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import errors
from coconet_jax.judge import network

TINY = network.Config(num_classes=3, features=8, stem_features=4, dilations=(1, 2), groups=2, dropout=0.5)
APPLY = jax.jit(network.apply, static_argnames="config")


@pytest.fixture(scope="module")
def params() -> network.Params:
    """Parameters whose every leaf, biases too, is not at its initial value."""
    leaves, tree = jax.tree.flatten(network.init(jax.random.key(0), TINY))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [leaf + 0.2 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, noisy)


def make_pitches(count: int, steps: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).integers(36, 82, (count, steps, 4)), jnp.int8)


def test_default_network_has_the_size_asked_for() -> None:
    shapes = jax.eval_shape(lambda key: network.init(key, network.Config()), jax.random.key(0))
    assert 300_000 < network.num_params(shapes) < 500_000


def test_what_lies_outside_the_piece_changes_nothing(params: network.Params) -> None:
    pitches, other = make_pitches(3, 20), make_pitches(3, 20, seed=1)
    valid = jnp.arange(20)[None] < jnp.array([20, 13, 7])[:, None]
    mixed = jnp.where(valid[..., None], pitches, other)
    first, second = (APPLY(params, TINY, notes, valid) for notes in (pitches, mixed))
    jax.tree.map(np.testing.assert_array_equal, first, second)
    # As if the padding were not there at all.
    alone = APPLY(params, TINY, pitches[2:, :7], valid[2:, :7])
    np.testing.assert_allclose(first.logits[2:], alone.logits, atol=1e-5)
    np.testing.assert_allclose(first.features[2:], alone.features, atol=1e-5)
    np.testing.assert_allclose(first.steps[2:, :7], alone.steps, atol=1e-4)
    np.testing.assert_array_equal(first.steps[2, 7:], 0.0)


def test_mean_of_the_map_is_the_logits(params: network.Params) -> None:
    valid = jnp.arange(20)[None] < jnp.array([20, 13])[:, None]
    found = APPLY(params, TINY, make_pitches(2, 20), valid)
    np.testing.assert_allclose(found.steps.sum(1) / valid.sum(1)[:, None], found.logits, atol=1e-4)


def test_features_reach_as_far_as_they_say(params: network.Params) -> None:
    reach = network.reach_steps(TINY)
    assert reach == 2 * (1 + 2) + 8
    pitches = make_pitches(1, 40)
    changed = pitches.at[0, 20].set(jnp.array([60, 55, 50, 45], jnp.int8))
    module = network.Judge(TINY)

    @jax.jit
    def last(notes: jax.Array) -> jax.Array:
        _, seen = module.apply(
            {"params": params}, notes, jnp.ones((1, 40), bool), train=False, capture_intermediates=True
        )
        return seen["intermediates"]["last_norm"]["__call__"][0][0]

    differs = np.flatnonzero(np.any(last(pitches) != last(changed), axis=-1))
    assert (differs.min(), differs.max()) == (20 - 7, 20 + reach)  # each step looks back further than on


def test_transposed_by_the_stride_the_stem_sees_the_same_elsewhere() -> None:
    roll = jnp.zeros((1, 1, 46, 1)).at[0, 0, 20].set(1.0)
    places, moved = network._octaves(roll)[0, 0], network._octaves(jnp.roll(roll, 4, axis=2))[0, 0]
    assert places.shape == (12, 12)
    assert places.sum() == 3  # an octave every four semitones: each note is seen from three places
    np.testing.assert_array_equal(moved[1:], places[:-1])
    # Every pitch is seen, the lowest and the highest too.
    assert all(network._octaves(jnp.zeros((1, 1, 46, 1)).at[0, 0, row].set(1.0)).sum() >= 1 for row in range(46))


def test_intervals_are_the_same_in_every_key() -> None:
    pitches, valid = make_pitches(2, 6) - 5, jnp.ones((2, 6), bool)
    np.testing.assert_array_equal(network._intervals(pitches, valid), network._intervals(pitches + 3, valid))
    notes = jnp.array([[[72, 67, 60, 41], [74, 67, 60, -1]]], jnp.int8)
    found = np.asarray(network._intervals(notes, jnp.ones((1, 2), bool)))[0]
    # From soprano to alto, tenor, bass; alto to tenor, bass; tenor to bass.
    assert [np.flatnonzero(row).tolist() for row in found[0, :72].reshape(6, 12)] == [[5], [0], [7], [7], [2], [7]]
    assert [np.flatnonzero(row).tolist() for row in found[0, 72:172].reshape(4, 25)] == [[14], [12], [12], []]
    assert found[1, :72].sum() == 3 and found[1, 72:172].sum() == 0
    assert not found[:, 172:].any()  # nothing was a quarter ago


def test_intervals_look_back() -> None:
    notes = (
        jnp.zeros((1, 9, 4), jnp.int8)
        .at[0, 0]
        .set(jnp.array([72, 67, 60, -1], jnp.int8))
        .at[0, 8]
        .set(jnp.array([71, 62, 55, 43], jnp.int8))
    )
    valid = jnp.ones((1, 9), bool)
    half = np.asarray(network._intervals(notes, valid))[0, 8, 172 + 192 :].reshape(4, 4, 12)
    # From soprano, alto and tenor then (the bass rested) to the soprano now, and to the bass.
    assert [np.flatnonzero(row).tolist() for row in half[0]] == [[11], [4], [11], []]
    assert [np.flatnonzero(row).tolist() for row in half[3]] == [[7], [0], [7], []]


def test_dropout_follows_its_key(params: network.Params) -> None:
    pitches, valid = make_pitches(2, 12), jnp.ones((2, 12), bool)

    def logits(key: jax.Array | None) -> jax.Array:
        return APPLY(params, TINY, pitches, valid, key).logits

    np.testing.assert_array_equal(logits(jax.random.key(1)), logits(jax.random.key(1)))
    assert (logits(jax.random.key(1)) != logits(jax.random.key(2))).any()
    assert (logits(None) != logits(jax.random.key(1))).any()


def test_channels_must_fill_their_groups() -> None:
    with pytest.raises(errors.InputError, match="features=100: use a multiple of groups=8"):
        network.Config(features=100)
