"""The law of contexts, tested against what Uria et al. (2014) prescribe (seeds fixed; p-values above 0.001)."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from coconet_jax import masks


def orderless(seed: int, valid: np.ndarray, num_voices: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Contexts of independent examples, and their targets."""
    keys = jax.random.split(jax.random.key(seed), len(valid))
    uniforms = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 1)))(keys)
    context = np.asarray(masks.sample_orderless_context(keys, uniforms, jnp.asarray(valid), num_voices))
    return context, valid[..., None] & ~context


def bernoulli(seed: int, prob: float, valid: np.ndarray) -> np.ndarray:
    keys = jax.random.split(jax.random.key(seed), len(valid))
    return np.asarray(masks.sample_bernoulli_context(keys, prob, jnp.asarray(valid)))


def test_every_target_set_has_its_probability():
    # D = 4: a set of k targets is drawn with probability 1 / (4 binom(4, k)), the empty set never.
    examples = 24_000
    _, target = orderless(0, np.ones((examples, 1), bool))
    sets = list(itertools.product([False, True], repeat=4))
    expected = np.array([examples / (4 * math.comb(4, sum(s))) if any(s) else 0 for s in sets])
    counts = np.array([(target[:, 0] == s).all(axis=1).sum() for s in sets])
    assert counts[0] == 0
    assert stats.chisquare(counts[1:], expected[1:]).pvalue > 1e-3


def test_size_is_uniform_and_every_variable_equally_often_a_target():
    examples, steps, voices = 24_000, 3, 4
    _, target = orderless(1, np.ones((examples, steps), bool))
    sizes = target.sum(axis=(1, 2))
    assert stats.chisquare(np.bincount(sizes, minlength=13)[1:]).pvalue > 1e-3
    assert sizes.min() == 1
    cells = steps * voices
    prob = (cells + 1) / (2 * cells)
    z = (target.mean(axis=0) - prob) / (prob * (1 - prob) / examples) ** 0.5
    assert np.abs(z).max() < 4


def test_padded_pieces_count_only_their_own_cells():
    lengths = np.tile([1, 2, 3, 5], 5000)
    valid = np.arange(5) < lengths[:, None]
    context, target = orderless(2, valid)
    assert not context[~valid].any()
    assert not target[~valid].any()
    for length in (1, 2, 3, 5):
        sizes = target[lengths == length].sum(axis=(1, 2))
        counts = np.bincount(sizes, minlength=4 * length + 1)
        assert counts[0] == 0
        assert len(counts) == 4 * length + 1
        assert stats.chisquare(counts[1:]).pvalue > 1e-3


@pytest.mark.parametrize(
    "uniform, size", [(0.0, 1), (0.49, 6), (0.5, 7), (np.nextafter(np.float32(1), 0), 12), (1.0, 12)]
)
def test_size_from_the_uniform_number(uniform, size):
    key = jax.random.key(0)[None]
    context = masks.sample_orderless_context(key, jnp.array([uniform], jnp.float32), jnp.ones((1, 3), bool))
    assert 12 - int(context.sum()) == size


def test_an_example_that_holds_nothing_has_neither_context_nor_target():
    valid = np.array([[False, False], [True, False]])
    context, target = orderless(3, valid)
    assert not context[0].any() and not target[0].any()
    assert target[1].any()


@pytest.mark.parametrize("batch_size", [1, 16, 20])
def test_stratified_uniforms_fall_one_into_each_stratum(batch_size):
    index = jnp.arange(batch_size)
    draw = jax.vmap(lambda key: masks.stratified_uniforms(key, index, batch_size))
    uniforms = np.asarray(draw(jax.random.split(jax.random.key(4), 2000)))
    assert uniforms.min() >= 0 and uniforms.max() < 1
    strata = np.sort(np.floor(uniforms * batch_size).astype(int), axis=1)
    np.testing.assert_array_equal(strata, np.broadcast_to(np.arange(batch_size), strata.shape))
    for place in {0, batch_size // 3, batch_size - 1}:
        assert stats.kstest(uniforms[:, place], "uniform").pvalue > 1e-3


def test_stratified_sizes_have_the_same_law_at_lower_variance():
    batch_size, steps = 8, 2

    def context(key: jax.Array, stratify: bool) -> jax.Array:
        keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(jnp.arange(batch_size))
        if stratify:
            uniforms = masks.stratified_uniforms(jax.random.fold_in(key, 99), jnp.arange(batch_size), batch_size)
        else:
            uniforms = jax.random.uniform(jax.random.fold_in(key, 99), (batch_size,))
        return masks.sample_orderless_context(keys, uniforms, jnp.ones((batch_size, steps), bool))

    keys = jax.random.split(jax.random.key(5), 8000)
    sizes = [8 - np.asarray(jax.vmap(lambda key, s=s: context(key, s))(keys)).sum(axis=(2, 3)) for s in (False, True)]
    for place in (0, 5):
        assert stats.chisquare(np.bincount(sizes[1][:, place], minlength=9)[1:]).pvalue > 1e-3
    plain, stratified = (s.mean(axis=1).var() for s in sizes)
    assert stratified < 0.05 * plain
    # 8 sizes in 8 strata: each exactly once in a batch.
    np.testing.assert_array_equal(np.sort(sizes[1], axis=1), np.broadcast_to(np.arange(1, 9), sizes[1].shape))


def test_a_context_depends_on_its_own_key_alone():
    valid = np.arange(6) < np.array([6, 3, 6, 1, 5, 6, 2, 6])[:, None]
    keys = jax.random.split(jax.random.key(6), 8)
    uniforms = jax.random.uniform(jax.random.key(7), (8,))
    flags = jnp.asarray(valid)

    @jax.jit
    def both(*parts: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys, uniforms, flags = parts
        return (
            masks.sample_orderless_context(keys, uniforms, flags),
            masks.sample_bernoulli_context(keys, 0.5, flags),
        )

    whole = both(keys, uniforms, flags)
    for rows in (np.array([5, 6, 7]), np.array([7, 0, 4])):
        for part, expected in zip(both(keys[rows], uniforms[rows], flags[rows]), whole, strict=True):
            np.testing.assert_array_equal(part, expected[rows])
    index = jnp.arange(8)
    np.testing.assert_array_equal(
        masks.stratified_uniforms(keys[0], index, 8)[3:5], masks.stratified_uniforms(keys[0], index[3:5], 8)
    )


@pytest.mark.parametrize("prob", [0.1, 0.5, 0.8])
def test_bernoulli_share(prob):
    valid = np.arange(40) < np.array([40, 40, 17] * 100)[:, None]
    given = bernoulli(8, prob, valid)
    assert not given[~valid].any()
    inside = given[valid]
    assert abs(inside.mean() - prob) < 4 * (prob * (1 - prob) / inside.size) ** 0.5


def test_bernoulli_never_leaves_an_example_without_target():
    examples, prob = 20_000, 0.8
    given = bernoulli(9, prob, np.ones((examples, 1), bool))
    assert given.sum(axis=(1, 2)).max() == 3
    # All four given, with probability 0.8^4, becomes none given.
    none = 0.8**4 + 0.2**4
    share = (given.sum(axis=(1, 2)) == 0).mean()
    assert abs(share - none) < 4 * (none * (1 - none) / examples) ** 0.5
    assert not bernoulli(9, 0.0, np.ones((50, 3), bool)).any()


def test_ranks_count_the_named_cells_alone():
    rng = np.random.default_rng(0)
    lots = rng.random((5, 6, 4)).astype(np.float32)
    lots[:, 2:4] = 0.5  # ties
    among = rng.random((5, 6, 4)) < 0.6
    rank = np.asarray(masks.ranks(jnp.asarray(lots), jnp.asarray(among)))
    for lot, inside, found in zip(lots, among, rank, strict=True):
        assert sorted(found.ravel().tolist()) == list(range(24))
        order = np.argsort(lot[inside], kind="stable")
        assert np.argsort(found[inside]).tolist() == order.tolist()
        assert found[inside].max() == inside.sum() - 1


def frames(seed: int, valid: np.ndarray) -> np.ndarray:
    keys = jax.random.split(jax.random.key(seed), len(valid))
    uniforms = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 9)))(keys)
    return np.asarray(masks.sample_frame_context(keys, uniforms, jnp.asarray(valid)))


def test_few_frames_are_hidden_more_often_than_many_and_one_in_eight_is_given_in_part():
    valid = np.arange(6) < np.tile([6, 3], 6000)[:, None]
    given = frames(10, valid)
    assert not given[~valid].any()
    hidden = valid & ~given.all(axis=2)
    for length in (6, 3):
        counts = np.bincount(hidden[valid.sum(1) == length].sum(1), minlength=length + 1)
        expected = np.diff(np.sqrt(np.arange(length + 1) / length)) * counts.sum()
        assert counts[0] == 0 and stats.chisquare(counts[1:], expected).pvalue > 1e-3
    places = hidden[valid.sum(1) == 6].sum(0)
    assert places.std() < 0.03 * places.mean()
    voices = given[hidden].sum(axis=1)
    assert set(voices.tolist()) == {0, 1, 2, 3}
    share = (voices > 0).mean()
    assert abs(share - 1 / 8) < 4 * (1 / 8 * 7 / 8 / len(voices)) ** 0.5
    assert stats.chisquare(np.bincount(voices[voices > 0])[1:]).pvalue > 1e-3
    some = given[hidden & (given.sum(2) > 0)]
    assert stats.chisquare(some.sum(axis=0)).pvalue > 1e-3  # no voice is preferred


def test_the_past_is_given_and_the_next_quarter_is_learned():
    valid = (np.arange(12) >= 2) & (np.arange(12) < np.tile([12, 7], 6000)[:, None])
    keys = jax.random.split(jax.random.key(11), len(valid))
    uniforms = jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, 9)))(keys)
    context, target = map(np.asarray, masks.sample_past_context(keys, uniforms, jnp.asarray(valid)))
    assert not (context | target)[~valid].any() and not (context & target).any() and target.any(axis=(1, 2)).all()
    whole = context.all(axis=2)
    moment = 2 + whole.sum(axis=1)
    assert (whole == (np.arange(12) >= 2) & (np.arange(12) < moment[:, None])).all()
    for length in (12, 7):
        assert (
            stats.chisquare(np.bincount(moment[valid[:, length - 1] & (valid.sum(1) == length - 2)])[2:]).pvalue > 1e-3
        )
    rows = np.arange(len(valid))
    voices = context[rows, moment].sum(axis=1)
    assert stats.chisquare(np.bincount(voices)).pvalue > 1e-3 and voices.max() == 3
    later = np.arange(12) > moment[:, None]
    assert not context[later].any()
    np.testing.assert_array_equal(target[rows, moment], ~context[rows, moment])
    near = later & (np.arange(12) < moment[:, None] + 4) & valid
    assert target[near].all() and not target[later & ~near].any()


@pytest.mark.parametrize(("share", "marked"), [(0.5, [1, 3, 5, 7]), (0.25, [3, 7]), (0.0, []), (1.0, [*range(8)])])
def test_places_are_marked_evenly(share, marked):
    found, before = map(np.asarray, masks.interleave(jnp.float32(0), jnp.arange(8), share))
    assert np.flatnonzero(found).tolist() == marked
    np.testing.assert_array_equal(before, np.cumsum(found) - found)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.7])
def test_every_place_is_marked_as_often_as_asked(share):
    offsets = (jnp.arange(4000) + 0.5) / 4000
    found = np.asarray(jax.vmap(lambda offset: masks.interleave(offset, jnp.arange(8), share)[0])(offsets))
    np.testing.assert_allclose(found.mean(axis=0), share, atol=1e-3)
    assert np.ptp(found.sum(axis=1)) <= 1
