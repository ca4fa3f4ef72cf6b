"""The sampler against exact laws of a small tabular model, and what it may never touch."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
import test_objective

from coconet_jax import config, gibbs, model, pianoroll

PITCHES = np.array(test_objective.PITCHES)
CHOICES = len(PITCHES)
STEPS, VOICES = 2, 2
VARIABLES = STEPS * VOICES
STATES = list(itertools.product(range(CHOICES), repeat=VARIABLES))

# Four variables of three pitches, every one tied to every other.
JOINT = test_objective.joint_law(5, VARIABLES, strength=0.9)


def tempered(block: tuple[int, ...], state: tuple[int, ...], temperature: float) -> list[np.ndarray]:
    """Law of each variable of the block on its own, given the state outside the block."""
    part = JOINT[tuple(slice(None) if d in block else state[d] for d in range(VARIABLES))]
    laws = []
    for n in range(len(block)):
        law = part.sum(axis=tuple(m for m in range(len(block)) if m != n))
        law = (law / law.sum()) ** (1 / temperature)
        laws.append(law / law.sum())
    return laws


def transition(prob: float, temperature: float, free: tuple[int, ...] = tuple(range(VARIABLES))) -> np.ndarray:
    """Matrix [from, to] of one Gibbs step whose block holds each free variable with probability `prob`."""
    matrix = np.zeros((len(STATES), len(STATES)))
    number = {state: n for n, state in enumerate(STATES)}
    for size in range(len(free) + 1):
        for block in itertools.combinations(free, size):
            weight = prob**size * (1 - prob) ** (len(free) - size)
            if not weight:
                continue
            for state in STATES:
                laws = tempered(block, state, temperature)
                for drawn in itertools.product(range(CHOICES), repeat=size):
                    after = list(state)
                    chance = weight
                    for law, d, value in zip(laws, block, drawn, strict=True):
                        after[d] = value
                        chance *= law[value]
                    matrix[number[state], number[tuple(after)]] += chance
    np.testing.assert_allclose(matrix.sum(axis=1), 1)
    return matrix


def law_of(pitches: Any) -> np.ndarray:
    """Shares of the states among the chains."""
    choice = np.searchsorted(PITCHES, np.asarray(pitches).reshape(-1, VARIABLES))
    np.testing.assert_array_equal(PITCHES[choice].reshape(pitches.shape), pitches)
    place = choice @ (CHOICES ** np.arange(VARIABLES)[::-1])
    return np.bincount(place, minlength=len(STATES)) / len(choice)


def p_value(counts: np.ndarray, expected: np.ndarray) -> float:
    """Of a chi-square test; what is expected less than five times is counted together."""
    likely = expected >= 5
    groups = [np.append(x[likely], x[~likely].sum()) if not likely.all() else x for x in (counts, expected)]
    return stats.chisquare(groups[0], groups[1] * (counts.sum() / expected.sum())).pvalue


def toy_chains(count: int, seed: int = 0, filler: int = 36) -> gibbs.Chains:
    shape = (count, STEPS, VOICES)
    return gibbs.Chains(
        gibbs.chain_keys(seed, np.arange(count)),
        np.full(shape, filler, np.int8),
        np.ones(shape, bool),
        np.ones(shape[:2], bool),
    )


PREDICT = test_objective.tabular_predict(JOINT)
RUN_TOY = jax.jit(lambda chains, numbers, probs, temperature: gibbs.run(PREDICT, chains, numbers, probs, temperature))


def sample_toy(chains: gibbs.Chains, block_prob: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    numbers, probs = map(jnp.asarray, gibbs.steps(block_prob))
    return np.asarray(RUN_TOY(jax.tree.map(jnp.asarray, chains), numbers, probs, jnp.float32(temperature)))


def conv_predict(roll: jax.Array, context: jax.Array, valid: jax.Array) -> jax.Array:
    """A stand-in for a network: one convolution, which can be counted, over notes and context."""
    del valid
    x = roll * context[:, :, None, :]
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 4))
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


# ------------------------------------------------------------------------------------------------ schedule


def test_annealing_follows_the_papers_formula():
    settings = config.Sample()
    probs = gibbs.anneal_block_prob(settings, 100)
    assert probs.dtype == np.float32
    expected = [max(0.1, 0.9 - n * (0.9 - 0.1) / (0.7 * 100)) for n in range(100)]
    np.testing.assert_allclose(probs, expected, rtol=1e-6)
    assert probs[0] == np.float32(0.9)
    assert probs[35] == pytest.approx(0.5)
    assert probs[69] > 0.11
    np.testing.assert_allclose(probs[70:], 0.1, rtol=1e-6)
    other = config.Sample(block_prob_max=0.8, block_prob_min=0.2, anneal_share=1.0)
    np.testing.assert_allclose(gibbs.anneal_block_prob(other, 4), [0.8, 0.65, 0.5, 0.35], rtol=1e-6)
    assert gibbs.anneal_block_prob(settings, 1).tolist() == [np.float32(0.9)]


def test_number_of_steps_is_one_a_free_variable_of_the_fullest_chain():
    free = np.zeros((3, 4, 4), bool)
    assert gibbs.num_steps(config.Sample(), free) == 1
    free[1, :3] = True
    free[2, 0, 0] = True
    assert gibbs.num_steps(config.Sample(), free) == 12
    assert gibbs.num_steps(config.Sample(num_steps=5), free) == 5


def test_a_run_starts_by_drawing_everything():
    numbers, probs = gibbs.steps(np.array([0.9, 0.1], np.float32))
    assert numbers.tolist() == [0, 1, 2]
    assert probs[0] > 1
    np.testing.assert_allclose(probs[1:], [0.9, 0.1], rtol=1e-6)


# ----------------------------------------------------------------------------------------- against truth


def test_one_variable_blocks_reach_the_joint_law():
    chains, sweeps = 20_000, 6
    keys = gibbs.chain_keys(1, np.arange(chains))
    valid = jnp.ones((chains, STEPS), bool)

    def step(pitches: jax.Array, number: jax.Array) -> tuple[jax.Array, None]:
        block = jnp.broadcast_to((jnp.arange(VARIABLES) == number % VARIABLES).reshape(1, STEPS, VOICES), pitches.shape)
        own = jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
        return gibbs.gibbs_step(PREDICT, own, pitches, block, valid, 1.0), None

    # All chains start in the least likely state.
    worst = STATES[int(JOINT.argmin())]
    start = jnp.broadcast_to(jnp.asarray(PITCHES[list(worst)], jnp.int8).reshape(1, STEPS, VOICES), (chains, 2, 2))
    pitches = jax.jit(lambda x: jax.lax.scan(step, x, jnp.arange(sweeps * VARIABLES))[0])(start)
    law = law_of(pitches)
    assert np.abs(law - JOINT.ravel()).max() < 0.01
    # The law of independent variables is far from it: the test can tell.
    marginals = [JOINT.sum(axis=tuple(e for e in range(VARIABLES) if e != d)) for d in range(VARIABLES)]
    independent = np.einsum("a,b,c,d->abcd", *marginals)
    assert np.abs(independent - JOINT).max() > 0.03
    assert p_value(law * chains, JOINT.ravel() * chains) > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_whole_annealed_run_has_the_exact_law(temperature):
    chains = 20_000
    block_prob = gibbs.anneal_block_prob(config.Sample(), 5)
    assert block_prob.min() < 0.2
    law = np.eye(len(STATES))[0] @ transition(1.0, temperature)
    fill = law
    for prob in block_prob:
        law = law @ transition(float(prob), temperature)
    found = law_of(sample_toy(toy_chains(chains), block_prob, temperature))
    assert np.abs(law - fill).max() > 0.02  # the steps after the first fill matter
    assert np.abs(found - law).max() < 0.01
    assert p_value(found * chains, law * chains) > 1e-3


@pytest.mark.slow
def test_rare_small_blocks_reach_the_conditional_law_of_what_is_free():
    chains = 20_000
    batch = toy_chains(chains)
    batch.pitches[:, 0, 1] = 64
    batch.free[:, 0, 1] = False
    steps = 20
    pitches = sample_toy(batch, np.full(steps, 0.1, np.float32))
    assert (pitches[:, 0, 1] == 64).all()
    start = np.eye(len(STATES))[STATES.index((0, 2, 0, 0))]
    free = (0, 2, 3)
    exact = start @ transition(1.0, 1.0, free) @ np.linalg.matrix_power(transition(0.1, 1.0, free), steps)
    found = law_of(pitches)
    assert np.abs(found - exact).max() < 0.01
    # Single-variable blocks dominate, so this is nearly the joint's conditional.
    conditional = np.zeros_like(JOINT)
    conditional[:, 2] = JOINT[:, 2] / JOINT[:, 2].sum()
    assert np.abs(found - conditional.ravel()).max() < 0.015


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_divides_the_logits(temperature):
    count = 20_000
    column = np.random.default_rng(0).normal(size=46).astype(np.float32) * 1.5
    logits = jnp.broadcast_to(jnp.asarray(column)[None, None, :, None], (count, 1, 46, 2))
    drawn = np.asarray(gibbs.draw(gibbs.chain_keys(0, np.arange(count)), logits, temperature))
    law = np.exp(column.astype(float) / temperature)
    law /= law.sum()
    for voice in range(2):
        counts = np.bincount(drawn[:, 0, voice] - 36, minlength=46)
        assert p_value(counts, law * count) > 1e-3
    # Variables are drawn independently of each other.
    assert abs((drawn[:, 0, 0] == drawn[:, 0, 1]).mean() - (law**2).sum()) < 0.02


# ----------------------------------------------------------------------------------- what may not change


def test_blocks_are_subsets_of_what_is_free():
    rng = np.random.default_rng(0)
    free = jnp.asarray(rng.random((400, 8, 4)) < 0.6)
    keys = gibbs.chain_keys(0, np.arange(400))
    for prob in (0.1, 0.7):
        block = gibbs.sample_independent_block(keys, free, jnp.float32(prob))
        assert not np.asarray(block & ~free).any()
        count = int(free.sum())
        assert abs(int(block.sum()) / count - prob) < 4 * (prob * (1 - prob) / count) ** 0.5
    np.testing.assert_array_equal(gibbs.sample_independent_block(keys, free, jnp.float32(2.0)), free)
    assert not np.asarray(gibbs.sample_independent_block(keys, free, jnp.float32(0.0))).any()


@pytest.fixture(scope="module")
def mixed() -> gibbs.Chains:
    """Twelve chains of four voices: several lengths, given notes and rests, free cells filled with nonsense."""
    rng = np.random.default_rng(2)
    shape = (12, 6, 4)
    pitches = rng.integers(36, 82, shape).astype(np.int8)
    pitches[rng.random(shape) < 0.1] = pianoroll.REST
    free = rng.random(shape) < 0.5
    pitches[free] = 120
    valid = np.arange(6) < np.tile([6, 4, 1], 4)[:, None]
    return gibbs.Chains(gibbs.chain_keys(7, np.arange(12)), pitches, free, valid)


RUN_CONV = jax.jit(lambda chains, numbers, probs: gibbs.run(conv_predict, chains, numbers, probs, 1.0))


def run_conv(chains: gibbs.Chains, count: int = 8) -> np.ndarray:
    """A run of nine steps, of which those beyond `count` redraw nothing."""
    numbers, probs = gibbs.steps(gibbs.anneal_block_prob(config.Sample(), 8))
    probs[count + 1 :] = 0
    return np.asarray(RUN_CONV(jax.tree.map(jnp.asarray, chains), jnp.asarray(numbers), jnp.asarray(probs)))


def test_given_notes_stay_free_cells_are_drawn_and_nothing_lies_outside(mixed):
    before = mixed.pitches.copy()
    pitches = run_conv(mixed)
    np.testing.assert_array_equal(mixed.pitches, before)
    inside = np.broadcast_to(mixed.valid[..., None], pitches.shape)
    assert pitches.dtype == np.int8
    assert (pitches[~inside] == pianoroll.REST).all()
    given = inside & ~mixed.free
    np.testing.assert_array_equal(pitches[given], before[given])
    drawn = pitches[inside & mixed.free]
    assert drawn.min() >= 36 and drawn.max() <= 81
    # Even where no block but the first fill touches them.
    only_fill = run_conv(mixed, count=0)[inside & mixed.free]
    assert only_fill.max() <= 81


def test_what_lay_in_free_cells_and_in_the_padding_has_no_influence(mixed):
    pitches = run_conv(mixed)
    other = mixed.pitches.copy()
    other[mixed.free] = 60
    other[~mixed.valid] = 72
    np.testing.assert_array_equal(run_conv(mixed._replace(pitches=other)), pitches)
    free = mixed.free | ~mixed.valid[..., None]
    np.testing.assert_array_equal(run_conv(mixed._replace(free=free)), pitches)


def test_the_model_sees_neither_the_block_nor_the_padding():
    seen = []

    def predict(roll: jax.Array, context: jax.Array, valid: jax.Array) -> jax.Array:
        seen.append(np.asarray(context))
        return jnp.zeros(roll.shape)

    valid = jnp.array([[True, True, False]])
    block = jnp.zeros((1, 3, 4), bool).at[0, 1, 2].set(True)
    pitches = jnp.full((1, 3, 4), 60, jnp.int8)
    gibbs.gibbs_step(predict, gibbs.chain_keys(0, np.arange(1)), pitches, block, valid, 1.0)
    expected = np.ones((1, 3, 4), bool)
    expected[0, 1, 2] = False
    expected[0, 2] = False
    np.testing.assert_array_equal(seen[0], expected)


# ------------------------------------------------------------------------------- chains, parts and the scan


def test_a_chain_depends_on_seed_and_number_alone():
    probs = gibbs.anneal_block_prob(config.Sample(), 6)
    many = sample_toy(toy_chains(64), probs)
    np.testing.assert_array_equal(sample_toy(toy_chains(8), probs), many[:8])
    numbers = np.array([40, 3, 63, 9, 10, 11, 12, 0])
    few = toy_chains(8)._replace(keys=gibbs.chain_keys(0, numbers))
    np.testing.assert_array_equal(sample_toy(few, probs), many[numbers])
    assert (sample_toy(toy_chains(64, seed=1), probs) != many).any()
    assert len(np.unique(many.reshape(64, -1), axis=0)) > 10


def test_a_chain_of_a_network_depends_on_seed_and_number_alone(tiny_config, tiny_variables):
    predict = model.make_predict(tiny_variables, tiny_config.model)
    probs = gibbs.anneal_block_prob(config.Sample(), 4)

    def sample(numbers: np.ndarray) -> np.ndarray:
        shape = (len(numbers), 8, 4)
        chains = gibbs.Chains(
            gibbs.chain_keys(0, numbers), np.zeros(shape, np.int8), np.ones(shape, bool), np.ones(shape[:2], bool)
        )
        run = jax.jit(lambda c: gibbs.sample(predict, c, probs, 0.99))
        return np.asarray(run(jax.tree.map(jnp.asarray, chains)))

    many = sample(np.arange(12))
    np.testing.assert_array_equal(sample(np.arange(3)), many[:3])
    np.testing.assert_array_equal(sample(np.array([11, 5])), many[[11, 5]])


def test_a_run_cut_into_parts_is_the_same_run(mixed):
    chains = jax.tree.map(jnp.asarray, mixed)
    numbers, probs = gibbs.steps(gibbs.anneal_block_prob(config.Sample(), 8))
    whole = run_conv(mixed)
    sample = jax.jit(lambda c: gibbs.sample(conv_predict, c, probs[1:], 1.0))
    np.testing.assert_array_equal(sample(chains), whole)
    # Parts of five, the last filled up by a step that redraws nothing.
    numbers, probs = np.append(numbers, np.int32(0)), np.append(probs, np.float32(0))
    for own in (slice(0, 5), slice(5, 10)):
        chains = chains._replace(pitches=RUN_CONV(chains, jnp.asarray(numbers[own]), jnp.asarray(probs[own])))
    np.testing.assert_array_equal(chains.pitches, whole)


def count_primitives(jaxpr: Any, counts: dict[str, int]) -> dict[str, int]:
    for equation in jaxpr.eqns:
        counts[equation.primitive.name] = counts.get(equation.primitive.name, 0) + 1
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    count_primitives(inner, counts)
    return counts


def test_sampling_is_one_scan_around_one_call_of_the_model(mixed):
    probs = gibbs.anneal_block_prob(config.Sample(), 50)
    jaxpr = jax.make_jaxpr(lambda c: gibbs.sample(conv_predict, c, probs, 1.0))(jax.tree.map(jnp.asarray, mixed))
    counts = count_primitives(jaxpr.jaxpr, {})
    assert counts["scan"] == 1
    assert counts["conv_general_dilated"] == 1
    assert not {"while", "cond"} & set(counts)
    # The convolution is inside the scan, whose length is one fill and the steps.
    (scan,) = [e for e in jaxpr.jaxpr.eqns if e.primitive.name == "scan"]
    assert scan.params["length"] == 51
    assert count_primitives(scan.params["jaxpr"].jaxpr, {})["conv_general_dilated"] == 1
