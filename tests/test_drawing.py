"""The draw rule: its law, its parts, and that chains are independent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_samplers import p_value

from coconet_jax import drawing, samplers

COUNT = 20_000


def spread(column: np.ndarray, voices: int = 2) -> jax.Array:
    return jnp.broadcast_to(jnp.asarray(column, jnp.float32)[None, None, :, None], (COUNT, 1, 46, voices))


def law(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


COLUMN = np.random.default_rng(0).normal(size=46) * 1.5
KEYS = samplers.chain_keys(0, np.arange(COUNT))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(temperature):
    rule = drawing.plain(COUNT, 1, 2)
    drawn, log_probs = map(np.asarray, drawing.draw(KEYS, spread(COLUMN), temperature, rule))
    exact = law(COLUMN / temperature)
    for voice in range(2):
        counts = np.bincount(drawn[:, 0, voice] - 36, minlength=46)
        assert p_value(counts, exact * COUNT) > 1e-3
    # Variables are drawn independently of each other.
    assert abs((drawn[:, 0, 0] == drawn[:, 0, 1]).mean() - (exact**2).sum()) < 0.02
    np.testing.assert_allclose(log_probs, np.log(exact)[drawn - 36], rtol=1e-4, atol=1e-5)


def test_priors_and_temperatures_of_cells():
    bias = np.zeros((1, 46, 2), np.float32)
    bias[0, 7, 0] = 2.0
    rule = drawing.plain(COUNT, 1, 2)._replace(bias=jnp.asarray(bias), temperature=jnp.asarray([[1.0, 3.0]]))
    drawn = np.asarray(drawing.draw(KEYS, spread(COLUMN), 0.5, rule)[0])
    exact = [law(COLUMN / 0.5 + bias[0, :, 0]), law(COLUMN / 1.5)]
    for voice in range(2):
        counts = np.bincount(drawn[:, 0, voice] - 36, minlength=46)
        assert p_value(counts, exact[voice] * COUNT) > 1e-3


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9])
def test_top_p_draws_from_the_likeliest_that_hold_the_share(top_p):
    rule = drawing.plain(COUNT, 1, 2)._replace(top_p=top_p)
    drawn = np.asarray(drawing.draw(KEYS, spread(COLUMN), 1.0, rule)[0])[:, 0, 0] - 36
    whole = law(COLUMN)
    order = np.argsort(-whole)
    kept = order[: int(np.searchsorted(np.cumsum(whole[order]), top_p)) + 1]
    assert set(drawn.tolist()) <= set(kept.tolist())
    exact = np.zeros(46)
    exact[kept] = whole[kept] / whole[kept].sum()
    if len(kept) > 1:
        assert p_value(np.bincount(drawn, minlength=46), exact * COUNT) > 1e-3
    else:
        assert (drawn == kept[0]).all()


def test_greedy_chains_take_all_their_likeliest_at_once():
    rule = drawing.plain(COUNT, 1, 2)._replace(greedy=jnp.full((COUNT,), 0.4))
    drawn = np.asarray(drawing.draw(KEYS, spread(COLUMN), 1.0, rule)[0])[:, 0] - 36
    best = COLUMN.argmax()
    chance = law(COLUMN)[best]
    both = (drawn == best).all(axis=1).mean()
    assert abs(both - (0.4 + 0.6 * chance**2)) < 0.015
    one = (drawn == best)[:, 0].mean()
    assert abs(one - (0.4 + 0.6 * chance)) < 0.015


@pytest.mark.parametrize("first", [0, 10, 1_000_000_007])
def test_greediness_is_spread_over_any_stretch_of_chains(first):
    chains = np.arange(first, first + 16, dtype=np.int32)
    values = np.sort(np.asarray(drawing.spread_greedy(chains, 0.2, 0.6)))
    assert values[0] >= 0.2 and values[-1] < 0.6
    assert np.diff(values).max() < 0.08 and values[0] < 0.26 and values[-1] > 0.54
    every = drawing.spread_greedy(chains, 0.2, 0.6)
    np.testing.assert_array_equal(drawing.spread_greedy(chains[3:5], 0.2, 0.6), every[3:5])
    assert (np.asarray(drawing.spread_greedy(chains, 0.0, 0.0)) == 0).all()
