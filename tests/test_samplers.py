"""Samplers against exact laws of a small tabular model, and what none of them may ever touch."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
import test_objective

from coconet_jax import ancestral, config, drawing, gibbs, maskgit, model, pianoroll, samplers

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
    few = expected[~likely].sum() > 0
    groups = [np.append(x[likely], x[~likely].sum()) if few else x[likely] for x in (counts, expected)]
    return stats.chisquare(groups[0], groups[1] * (counts.sum() / expected.sum())).pvalue


def toy_chains(count: int, seed: int = 0, filler: int = 36) -> samplers.Chains:
    shape = (count, STEPS, VOICES)
    return samplers.Chains(
        samplers.chain_keys(seed, np.arange(count)),
        np.full(shape, filler, np.int8),
        np.ones(shape, bool),
        np.ones(shape[:2], bool),
    )


PREDICT = test_objective.tabular_predict(JOINT)
COMPILED: dict[object, Any] = {}


def sample(
    predict: model.Predict, chains: samplers.Chains, settings: config.Sample, **fields: Any
) -> tuple[np.ndarray, np.ndarray]:
    """The scores and the trace of a compiled run."""
    plan = samplers.phases(settings, np.asarray(chains.free))
    # Compiled once for all tests of the same calls.
    inputs = [np.asarray(column).tobytes() for phase in plan for column in jax.tree.leaves(phase.inputs)]
    same = (predict, settings, *inputs, *fields.items()) if "rule" not in fields else object()
    if same not in COMPILED:
        COMPILED[same] = jax.jit(lambda chains: samplers.sample(predict, chains, settings, plan, **fields))
    pitches, trace = COMPILED[same](jax.tree.map(jnp.asarray, chains))
    return np.asarray(pitches), np.asarray(trace)


def settings(sampler: str = "gibbs", **fields: Any) -> config.Sample:
    return config.Sample(**{"sampler": sampler, "temperature": 1.0, **fields})


def conv_predict(roll: jax.Array, context: jax.Array, valid: jax.Array) -> jax.Array:
    """A stand-in for a network: one convolution, which can be counted, over notes and context."""
    del valid
    x = roll * context[:, :, None, :]
    kernel = jax.random.normal(jax.random.key(0), (3, 3, 4, 4))
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


# ----------------------------------------------------------------------------------------- against truth


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_a_whole_annealed_run_has_the_exact_law(temperature):
    chains = 10_000
    chosen = settings(num_steps=5, temperature=temperature)
    block_prob = gibbs.anneal_block_prob(chosen, 5)
    assert block_prob.min() < 0.2
    law = np.eye(len(STATES))[0] @ transition(1.0, temperature)
    fill = law
    for prob in block_prob:
        law = law @ transition(float(prob), temperature)
    found = law_of(sample(PREDICT, toy_chains(chains), chosen)[0])
    assert np.abs(law - fill).max() > 0.02  # the steps after the first fill matter
    assert np.abs(found - law).max() < 0.01
    assert p_value(found * chains, law * chains) > 1e-3


@pytest.mark.slow
def test_rare_small_blocks_reach_the_conditional_law_of_what_is_free():
    chains = 10_000
    batch = toy_chains(chains)
    batch.pitches[:, 0, 1] = 64
    batch.free[:, 0, 1] = False
    steps = 20
    pitches = sample(PREDICT, batch, settings(num_steps=steps, block_prob_max=0.1))[0]
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


EXACT = {
    # One variable a call, whatever the order: the chain rule.
    "ancestral": settings("ancestral"),
    "chronological": settings("ancestral", order="chronological"),
    # Exact from the first fill on, and each block leaves the joint as it is.
    "ancestral_gibbs": settings("ancestral_gibbs", num_steps=3, context_share=0.5),
    # One voice of one step a call is Gibbs sampling proper; it forgets the first fill of independent draws.
    "colouring": settings(num_steps=1, finish_sweeps=3, finish_stride=2),
    "colouring after another sampler": settings("maskgit", num_steps=1, finish_sweeps=3, finish_stride=2),
    # One cell a call, and confidences drowned in noise: a random order.
    "maskgit": settings("maskgit", num_steps=8, confidence_noise=1e6, remask_share=0.0),
}


@pytest.mark.parametrize("name", EXACT)
def test_samplers_that_should_have_the_joint_law_have_it(name):
    chains = 10_000
    found = law_of(sample(PREDICT, toy_chains(chains), EXACT[name])[0])
    assert np.abs(found - JOINT.ravel()).max() < 0.01
    assert p_value(found * chains, JOINT.ravel() * chains) > 1e-3


def test_the_law_of_independent_draws_is_another():
    """What the tests above can tell apart."""
    marginals = [JOINT.sum(axis=tuple(e for e in range(VARIABLES) if e != d)) for d in range(VARIABLES)]
    independent = np.einsum("a,b,c,d->abcd", *marginals)
    assert np.abs(independent - JOINT).max() > 0.03
    one_call = law_of(sample(PREDICT, toy_chains(10_000), settings("maskgit", num_steps=1))[0])
    assert np.abs(one_call - independent.ravel()).max() < 0.01


def test_remasking_ends_with_the_schedule_of_maskgit():
    """Half of the notes hidden: the share that is asked for; before the last call next to none (ReMDM, rescaled)."""
    table = maskgit.inputs(settings("maskgit", num_steps=64, remask_share=0.2))
    before = np.concatenate([[1.0], table.hidden_share[:-1]])  # what the schedule has hidden before each call
    np.testing.assert_allclose(table.remask_share[before >= 0.5], 0.2, rtol=1e-6)
    assert (np.diff(table.remask_share) <= 0).all()
    assert 0 < table.remask_share[-1] < 0.2 * 0.03
    assert not maskgit.inputs(settings("maskgit", num_steps=64, remask_share=0.0)).remask_share.any()
    # By hand, of six calls: a half is hidden before the last but one, cos(75 degrees) before the last.
    of_six = maskgit.inputs(settings("maskgit", num_steps=6, remask_share=0.2)).remask_share
    np.testing.assert_allclose(of_six[-1], 0.2 * np.cos(np.radians(75)) / 0.5, rtol=1e-6)


def test_several_draws_a_call_are_independent_of_each_other_alone():
    """Frame by frame: the second frame's voices know the first frame, and not each other."""
    found = law_of(sample(PREDICT, toy_chains(10_000), settings("ancestral", order="chronological", num_steps=2))[0])
    first = JOINT.sum(axis=(2, 3))
    voices = [first.sum(axis=1), first.sum(axis=0)]
    given = JOINT / first[:, :, None, None]
    exact = np.einsum("a,b,abc,abd->abcd", *voices, given.sum(axis=3), given.sum(axis=2))
    assert np.abs(exact - JOINT).max() > 0.02
    assert np.abs(found - exact.ravel()).max() < 0.01


@pytest.mark.slow
def test_upsampling_draws_the_coarse_grid_first_and_leaves_it():
    """Frame 0 by its own law, then frame 1 given it: with small blocks in the end the joint."""
    chosen = settings("upsample", num_steps=60, block_prob_min=0.1, anneal_share=0.3)
    pitches, trace = sample(PREDICT, toy_chains(5_000), chosen, records=61)
    found = law_of(pitches)
    assert np.abs(found - JOINT.ravel()).max() < 0.02
    assert (trace[:21, :, 1] == pianoroll.REST).all() and (trace[:21, :, 0] != pianoroll.REST).all()
    assert (trace[20:, :, 0] == trace[20, :, 0]).all()
    assert (trace[41:, :, 1] != pianoroll.REST).all()


@pytest.mark.parametrize("steps", [1, 3, 4, 8])
@pytest.mark.parametrize("most", [0.9, 0.1])
def test_upsampling_leaves_no_note_that_is_only_repeated(steps, most):
    chains = samplers.Chains(
        samplers.chain_keys(0, jnp.arange(100)),
        jnp.full((100, 16, 4), -1, jnp.int8),
        jnp.ones((100, 16, 4), bool),
        jnp.ones((100, 16), bool),
    )
    chosen = settings("upsample", num_steps=steps, block_prob_max=most, block_prob_min=0.0)
    pitches = np.asarray(sample(lambda roll, *_: jnp.zeros(roll.shape), chains, chosen)[0])
    for finer in (2, 1):  # of what stands there when the level begins a copy would be equal, a draw one time in 46
        same = pitches[:, finer :: 2 * finer] == pitches[:, 0 : 16 - finer : 2 * finer]
        assert abs(same.mean() - 1 / 46) < 4 * (1 / 46 / same.size) ** 0.5


def test_greedy_chains_take_the_likeliest():
    chains = toy_chains(4000)
    shape = chains.free.shape
    always = drawing.plain(*shape)._replace(greedy=jnp.ones(shape[0]))
    chosen = settings("ancestral", order="chronological", num_steps=2)
    pitches = sample(PREDICT, chains, chosen, rule=always)[0]
    assert (pitches == pitches[0]).all()
    first = JOINT.sum(axis=(2, 3))
    best = [int(first.sum(axis=1).argmax()), int(first.sum(axis=0).argmax())]
    np.testing.assert_array_equal(pitches[0, 0], PITCHES[best])
    # Half of the chains careful, half not.
    half = always._replace(greedy=(jnp.arange(shape[0]) % 2).astype(jnp.float32))
    pitches = sample(PREDICT, chains, chosen, rule=half)[0]
    assert (pitches[1::2] == pitches[1]).all() and len(np.unique(pitches[::2].reshape(-1, 4), axis=0)) > 20


# ----------------------------------------------------------------------------------- what may not change

KINDS = {
    "gibbs": settings(num_steps=8),
    "runs": settings(num_steps=8, blocks="runs"),
    "frames": settings(num_steps=8, blocks="frames", block_prob_max=0.5),
    "voices": settings(num_steps=8, blocks="voices"),
    "constant": settings(num_steps=8, block_prob_max=0.3, block_prob_min=0.3),
    "coloured": settings(num_steps=3, finish_sweeps=1, finish_stride=2, finish_temperature=0.5),
    "upsample": settings("upsample", num_steps=9),
    "ancestral": settings("ancestral", num_steps=6),
    "chronological": settings("ancestral", order="chronological"),
    "ancestral_gibbs": settings("ancestral_gibbs", num_steps=2, draws_per_call=3, context_share=0.3),
    "maskgit": settings("maskgit", num_steps=5, confidence_noise=1.0, remask_share=0.0),
    "remask": settings("maskgit", num_steps=8, remask_share=0.3, top_p=0.9, greedy=(0.0, 0.5)),
    "maskgit then coloured": settings("maskgit", num_steps=2, finish_sweeps=1, finish_stride=3),
}


@pytest.fixture(scope="module")
def mixed() -> samplers.Chains:
    """Twelve chains of four voices: several lengths, given notes and rests, free cells filled with nonsense."""
    rng = np.random.default_rng(2)
    shape = (12, 9, 4)
    pitches = rng.integers(36, 82, shape).astype(np.int8)
    pitches[rng.random(shape) < 0.1] = pianoroll.REST
    free = rng.random(shape) < 0.5
    pitches[free] = 120
    valid = np.arange(9) < np.tile([9, 6, 1], 4)[:, None]
    return samplers.Chains(samplers.chain_keys(7, np.arange(12)), pitches, free, valid)


@pytest.mark.parametrize("kind", KINDS)
def test_given_notes_stay_free_cells_are_drawn_and_nothing_lies_outside(mixed, kind):
    before = mixed.pitches.copy()
    pitches, trace = sample(conv_predict, mixed, KINDS[kind], records=100)
    np.testing.assert_array_equal(mixed.pitches, before)
    inside = np.broadcast_to(mixed.valid[..., None], pitches.shape)
    assert pitches.dtype == np.int8
    assert (trace[:, ~inside] == pianoroll.REST).all()
    given = inside & ~mixed.free
    np.testing.assert_array_equal(trace[:, given], np.broadcast_to(before[given], (len(trace), given.sum())))
    drawn = pitches[inside & mixed.free]
    assert drawn.min() >= 36 and drawn.max() <= 81
    np.testing.assert_array_equal(trace[-1], pitches)


@pytest.mark.parametrize("kind", KINDS)
def test_the_stated_number_of_model_calls_is_made(mixed, kind):
    calls = []

    def predict(roll: jax.Array, context: jax.Array, valid: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: calls.append(1))
        return conv_predict(roll, context, valid)

    stated = samplers.num_calls(samplers.phases(KINDS[kind], mixed.free))
    free = int(mixed.free.sum(axis=(1, 2)).max())
    block = -(-7 * free // 10)  # of ancestral Gibbs at a context share of 0.3, three variables a call
    expected = dict.fromkeys(("gibbs", "runs", "frames", "voices", "constant"), 9) | {
        "coloured": 4 + 8,
        "upsample": 10,
        "ancestral": -(-free // -(-free // 6)),
        "chronological": free,
        "ancestral_gibbs": -(-free // 3) + 2 * -(-block // 3),
        "maskgit": 5,
        "remask": 8,
        "maskgit then coloured": 2 + 12,
    }
    assert stated == expected[kind]
    sample(predict, mixed, KINDS[kind], records=3)  # the last of three parts is filled up with calls that are not made
    jax.effects_barrier()
    assert len(calls) == stated


@pytest.mark.parametrize("kind", KINDS)
def test_what_lay_in_free_cells_and_in_the_padding_has_no_influence(mixed, kind):
    pitches = sample(conv_predict, mixed, KINDS[kind], records=100)[0]
    other = mixed.pitches.copy()
    other[mixed.free] = 60
    other[~mixed.valid] = 72
    again = sample(conv_predict, mixed._replace(pitches=other), KINDS[kind], records=100)[0]
    np.testing.assert_array_equal(again, pitches)


def test_the_model_sees_neither_what_is_hidden_nor_the_padding(mixed):
    seen = []

    def predict(roll: jax.Array, context: jax.Array, valid: jax.Array) -> jax.Array:
        jax.debug.callback(lambda *args: seen.append(tuple(map(np.asarray, args))), roll, context)
        return conv_predict(roll, context, valid)

    sample(predict, mixed, settings("ancestral"))
    jax.effects_barrier()
    inside = np.broadcast_to(mixed.valid[..., None], mixed.free.shape)
    given = inside & ~mixed.free
    np.testing.assert_array_equal(seen[0][1], given)
    shares = [context.sum() for _, context in seen]
    assert shares == sorted(shares) and shares[-1] > shares[0]
    for roll, context in seen:
        assert not (context & ~inside).any() and (context & given == given).all()
        drawn = roll.sum(axis=2)
        assert (drawn[context & mixed.free] == 1).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_depends_on_seed_and_number_alone(mixed, kind):
    whole = sample(conv_predict, mixed, KINDS[kind], records=100)[0]
    # The same number of calls for the part, whatever its own count of free cells.
    order = np.array([9, 0, 4, int(mixed.free.sum(axis=(1, 2)).argmax())])
    part = samplers.Chains(*(column[order] for column in mixed))
    np.testing.assert_array_equal(sample(conv_predict, part, KINDS[kind])[0], whole[order])
    other = mixed._replace(keys=samplers.chain_keys(8, np.arange(12)))
    assert (sample(conv_predict, other, KINDS[kind], records=100)[0] != whole).any()


@pytest.mark.parametrize("sampler", ["gibbs", "ancestral", "maskgit"])
def test_a_chain_of_a_network_does_not_depend_on_its_batch(tiny_config, tiny_variables, sampler):
    predict = model.make_predict(tiny_variables, tiny_config.model)

    def run(numbers: np.ndarray) -> np.ndarray:
        shape = (len(numbers), 8, 4)
        keys = samplers.chain_keys(0, numbers)
        chains = samplers.Chains(keys, np.zeros(shape, np.int8), np.ones(shape, bool), np.ones(shape[:2], bool))
        return sample(predict, chains, settings(sampler, num_steps=4))[0]

    many = run(np.arange(12))
    np.testing.assert_array_equal(run(np.arange(3)), many[:3])
    np.testing.assert_array_equal(run(np.array([11, 5])), many[[11, 5]])


@pytest.mark.parametrize("kind", ["gibbs", "remask", "maskgit then coloured"])
def test_a_trace_is_thinned_from_the_same_run(mixed, kind):
    pitches, every = sample(conv_predict, mixed, KINDS[kind], records=100)
    again, some = sample(conv_predict, mixed, KINDS[kind], records=3)
    np.testing.assert_array_equal(again, pitches)
    assert len(every) == samplers.num_calls(samplers.phases(KINDS[kind], mixed.free))
    if kind == "gibbs":
        np.testing.assert_array_equal(some, every[[2, 5, 8]])
    assert len(some) <= 3 * len(samplers.phases(KINDS[kind], mixed.free))


def count_primitives(jaxpr: Any, counts: dict[str, int]) -> dict[str, int]:
    for equation in jaxpr.eqns:
        counts[equation.primitive.name] = counts.get(equation.primitive.name, 0) + 1
        for value in equation.params.values():
            for part in value if isinstance(value, tuple | list) else (value,):
                inner = getattr(part, "jaxpr", part)
                if hasattr(inner, "eqns"):
                    count_primitives(inner, counts)
    return counts


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "maskgit then coloured"])
def test_sampling_is_one_scan_around_one_call_of_the_model(mixed, kind):
    plan = samplers.phases(KINDS[kind], mixed.free)
    run = jax.make_jaxpr(lambda chains: samplers.sample(conv_predict, chains, KINDS[kind], plan))
    counts = count_primitives(run(jax.tree.map(jnp.asarray, mixed)).jaxpr, {})
    assert counts["conv_general_dilated"] == 1
    assert counts["scan"] == 2  # the parts that are kept, and the calls of each
    assert not {"while", "cond"} & set(counts)


def test_parts_are_padded_by_calls_that_are_not_made():
    (phase,) = samplers.phases(settings(num_steps=9), np.ones((1, 4, 4), bool))
    pieces, live = samplers.cut(phase, 4)
    assert pieces.inputs.number.shape == (4, 3) and live is not None and live.sum() == 10
    np.testing.assert_array_equal(pieces.inputs.number[live], np.arange(10))
    pieces, live = samplers.cut(phase, 5)
    assert pieces.inputs.number.shape == (5, 2) and live is None
    assert samplers.cut(phase, 100)[0].inputs.number.shape == (10, 1)
    assert samplers.cut(phase, 1)[0].inputs.number.shape == (1, 10)


def test_settings_that_make_no_sense_are_refused():
    for fields in ({"num_steps": 3, "draws_per_call": 2, "sampler": "ancestral"}, {"greedy": (0.5, 0.1)}):
        with pytest.raises(ValueError, match="draws_per_call=2|greedy="):
            config.Sample(**fields)
    assert dataclasses.replace(settings(), top_p=0.5).top_p == 0.5


def test_colours_without_free_cells_take_no_call():
    free = np.zeros((1, 16, 4), bool)
    free[:, :, 2] = True
    swept = settings("gibbs", num_steps=5, finish_sweeps=2, finish_stride=8)
    (phase,) = samplers.phases(swept, free)
    assert samplers.num_calls([phase]) == 6 + 2 * 8
    assert isinstance(phase.inputs, gibbs.Inputs)
    assert sorted(phase.inputs.colour[6:].tolist()) == sorted([*range(16, 24)] * 2)
    whole = samplers.phases(swept, np.ones_like(free))[0].inputs
    assert isinstance(whole, gibbs.Inputs)
    kept = np.isin(whole.number, phase.inputs.number)
    np.testing.assert_array_equal(whole.colour[kept], phase.inputs.colour)  # their numbers, and so their keys, stay


@pytest.mark.parametrize("share", [0.0, 0.4, 0.75, 1 / 3, 0.999])
def test_host_and_device_agree_on_the_size_of_a_block(share):
    chosen = settings("ancestral_gibbs", context_share=share)
    counts = np.array([1, 2, 3, 256, 6400, 80_000])
    sizes = ancestral.block_size(chosen, counts)
    np.testing.assert_array_equal(sizes, ancestral.block_size(chosen, jnp.asarray(counts)))
    np.testing.assert_array_equal(sizes, np.maximum(np.ceil(round(1 - share, 4) * counts - 1e-9), 1))
