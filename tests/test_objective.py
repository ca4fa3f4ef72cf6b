"""The loss against plain loops, and its mean over all contexts against the exact ordering log-likelihood."""

from collections.abc import Callable
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import masks, model, objective, pianoroll

# The only ones the tabular models below give any probability. The lowest rows are among them: a draw of all rows
# begins with the random bits of a draw of the block, if both have one key.
PITCHES = (36, 37, 64)
ROWS = np.array(PITCHES) - pianoroll.MIN_PITCH
ROW_OF = jnp.asarray(np.eye(pianoroll.NUM_PITCHES)[ROWS], jnp.float32)  # [choice, row]


def spread(scores: jax.Array) -> jax.Array:
    """Logits [b,t,p,i] of scores [b,t,i,choice]: every pitch but PITCHES has none."""
    none = jnp.asarray(np.where(np.isin(np.arange(pianoroll.NUM_PITCHES), ROWS), 0, -1e9), jnp.float32)
    return jnp.einsum("btik,kp->btpi", scores, ROW_OF, precision="highest") + none[None, None, :, None]


def tabular_predict(joint: np.ndarray) -> model.Predict:
    """`predict` of a known joint law over PITCHES: the exact conditional of every variable given the context.

    Args:
      joint: probabilities, one axis of len(PITCHES) for each variable, in the order of [t,i] flattened.
    """
    choices, variables = joint.shape[0], joint.ndim
    states = np.indices(joint.shape).reshape(variables, -1).T
    one_hot = jnp.asarray(np.eye(choices)[states].reshape(len(states), -1), jnp.float32)  # [state, variable choice]
    weights = jnp.asarray(joint.ravel(), jnp.float32)[None]

    def predict(roll: jax.Array, context: jax.Array, valid: jax.Array) -> jax.Array:
        del valid
        b, t, _, i = roll.shape
        seen = jnp.einsum("btpi,kp->btik", roll, ROW_OF) * context[..., None]
        agreeing = seen.reshape(b, variables * choices) @ one_hot.T  # given notes that a state has, too
        fits = agreeing > jnp.sum(context, axis=(1, 2)).reshape(b, 1) - 0.5
        marginal = jnp.matmul(fits * weights, one_hot, precision="highest")
        return spread(jnp.log(marginal).reshape(b, t, i, choices))

    return jax.jit(predict)


def inconsistent_predict(seed: int, variables: int) -> model.Predict:
    """A model whose conditionals fit no joint: every ordering gives another likelihood, as with a real network."""
    size = len(PITCHES) + 1
    table = jax.random.normal(jax.random.key(seed), (size**variables, variables, len(PITCHES))) * 2

    def predict(roll: jax.Array, context: jax.Array, valid: jax.Array) -> jax.Array:
        del valid
        b, t, _, i = roll.shape
        seen = jnp.einsum("btpi,kp->btik", roll, ROW_OF).reshape(b, t * i, len(PITCHES))
        digits = jnp.where(context.reshape(b, t * i), 1 + jnp.argmax(seen, axis=2), 0)
        place = jnp.sum(digits * jnp.asarray(size ** np.arange(variables))[None], axis=1)
        return spread(table[place].reshape(b, t, i, -1))

    return jax.jit(predict)


def mean_ordering_nll(predict: Callable, pitches: np.ndarray) -> float:
    """-log p(x) averaged over all orderings, by the chain rule, one ordering and one variable at a time."""
    steps, voices = pitches.shape
    cells = [(t, v) for t in range(steps) for v in range(voices)]
    sets = list(itertools.product([False, True], repeat=len(cells)))
    contexts = jnp.asarray(sets).reshape(-1, steps, voices)
    roll = pianoroll.from_pitches(jnp.asarray(np.broadcast_to(pitches, contexts.shape)))
    logits = np.asarray(predict(roll, contexts, jnp.ones(contexts.shape[:2], bool)), np.float64)
    logits -= logits.max(axis=2, keepdims=True)
    conditionals = dict(zip(sets, logits - np.log(np.exp(logits).sum(axis=2, keepdims=True)), strict=True))
    total = 0.0
    orderings = list(itertools.permutations(range(len(cells))))
    for ordering in orderings:
        for n, cell in enumerate(ordering):
            flags = tuple(c in ordering[:n] for c in range(len(cells)))
            t, v = cells[cell]
            total -= conditionals[flags][t, pitches[t, v] - pianoroll.MIN_PITCH, v]
    return total / len(orderings)


def random_case(seed: int = 0) -> tuple[np.ndarray, ...]:
    """Logits, pitches with rests, valid and context of three examples: whole, padded, and without targets."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(3, 5, 46, 4)).astype(np.float32) * 3
    pitches = rng.integers(36, 82, (3, 5, 4))
    pitches[rng.random(pitches.shape) < 0.3] = pianoroll.REST
    valid = np.arange(5) < np.array([5, 3, 4])[:, None]
    context = (rng.random(pitches.shape) < 0.5) & valid[..., None]
    context[2] = valid[2, :, None]
    return logits, pitches, valid, context


def test_equals_a_plain_loop_with_rests_and_padding():
    logits, pitches, valid, context = random_case()
    target = valid[..., None] & ~context
    per_variable, total, cells = [], 0.0, 0
    for b in range(3):
        costs = []
        for t in range(5):
            for v in range(4):
                if valid[b, t] and not context[b, t, v]:
                    column = logits[b, t, :, v].astype(np.float64)
                    log_probs = column - np.log(np.exp(column).sum())
                    rest = pitches[b, t, v] == pianoroll.REST
                    costs.append(0.0 if rest else -log_probs[pitches[b, t, v] - 36])
        own_cells = 4 * int(valid[b].sum())
        per_variable.append(sum(costs) / len(costs) if costs else 0.0)
        total += own_cells * per_variable[-1]
        cells += own_cells
    roll = pianoroll.from_pitches(jnp.asarray(pitches))
    found = objective.nll_per_variable(jnp.asarray(logits), roll, jnp.asarray(target))
    np.testing.assert_allclose(found, per_variable, rtol=1e-5)
    found_total, found_cells = objective.nll_and_cells(
        jnp.asarray(logits), roll, jnp.asarray(target), jnp.asarray(valid)
    )
    assert per_variable[2] == 0
    assert float(found_cells) == cells == 48
    np.testing.assert_allclose(found_total, total, rtol=1e-5)


def test_a_rest_costs_nothing_but_counts_among_the_targets():
    logits = jnp.zeros((1, 1, 46, 4))
    roll = pianoroll.from_pitches(jnp.array([[[60, pianoroll.REST, pianoroll.REST, 40]]]))
    np.testing.assert_allclose(objective.cell_nll(logits, roll)[0, 0], [math.log(46), 0, 0, math.log(46)], rtol=1e-6)
    found = objective.nll_per_variable(logits, roll, jnp.ones((1, 1, 4), bool))
    np.testing.assert_allclose(found, [math.log(46) / 2], rtol=1e-6)


def test_weights_are_one_by_targets_and_cells_by_targets():
    # Uniform logits: every target costs log 46, so the mean does too, and the sum over the piece is D log 46.
    roll = pianoroll.from_pitches(jnp.full((2, 3, 4), 60))
    target = jnp.zeros((2, 3, 4), bool).at[0, 0, 0].set(True).at[1].set(True)
    valid = jnp.ones((2, 3), bool)
    logits = jnp.zeros(roll.shape)
    np.testing.assert_allclose(objective.nll_per_variable(logits, roll, target), [math.log(46)] * 2, rtol=1e-6)
    total, cells = objective.nll_and_cells(logits, roll, target, valid)
    assert float(cells) == 24
    np.testing.assert_allclose(total, 24 * math.log(46), rtol=1e-6)
    # Twice the cost on one of two targets weighs half; on one of one, whole.
    grads = jax.grad(lambda x: objective.nll_per_variable(x, roll, target).sum())(logits)
    row = 60 - pianoroll.MIN_PITCH
    np.testing.assert_allclose(grads[0, 0, row, 0], -(1 - 1 / 46), rtol=1e-5)
    np.testing.assert_allclose(grads[1, 2, row, 3], -(1 - 1 / 46) / 12, rtol=1e-5)
    assert not np.asarray(grads[0, 1:]).any()


def test_padding_changes_nothing():
    logits, pitches, valid, context = (x[1:2] for x in random_case(1))
    target = valid[..., None] & ~context

    def loss(length: int) -> tuple:
        roll = pianoroll.from_pitches(jnp.asarray(pitches[:, :length]))
        parts = (jnp.asarray(x[:, :length]) for x in (target, valid))
        return objective.nll_and_cells(jnp.asarray(logits[:, :length]), roll, *parts)

    assert valid.sum() == 3
    np.testing.assert_allclose(loss(5), loss(3), rtol=1e-6)


def test_bfloat16_logits_are_summed_in_float32():
    logits, pitches, _, _ = random_case(2)
    roll = pianoroll.from_pitches(jnp.asarray(pitches), jnp.bfloat16)
    assert objective.cell_nll(jnp.asarray(logits, jnp.bfloat16), roll).dtype == jnp.float32


def joint_law(seed: int, variables: int, strength: float = 1.5) -> np.ndarray:
    """A random law; the greater the strength, the stronger its variables are tied."""
    weights = np.exp(strength * np.random.default_rng(seed).normal(size=(len(PITCHES),) * variables))
    return weights / weights.sum()


@pytest.mark.parametrize("steps, voices", [(1, 3), (2, 2)])
@pytest.mark.parametrize("consistent", [True, False])
def test_mean_over_all_contexts_is_the_ordering_nll(steps, voices, consistent):
    variables = steps * voices
    joint = joint_law(0, variables)
    predict = tabular_predict(joint) if consistent else inconsistent_predict(0, variables)
    choice = np.random.default_rng(1).integers(0, len(PITCHES), (steps, voices))
    pitches = np.array(PITCHES)[choice]
    exact = mean_ordering_nll(predict, pitches)
    if consistent:  # the chain rule of one joint gives log p(x) in any order
        np.testing.assert_allclose(exact, -np.log(joint[tuple(choice.ravel())]), rtol=1e-4)
    sets = [s for s in itertools.product([False, True], repeat=variables) if any(s)]
    # |targets| uniform on 1..D, then a uniform subset of that size.
    weights = jnp.array([1 / (variables * math.comb(variables, sum(s))) for s in sets])
    assert float(weights.sum()) == pytest.approx(1)
    target = jnp.asarray(sets).reshape(-1, steps, voices)
    roll = pianoroll.from_pitches(jnp.asarray(np.broadcast_to(pitches, target.shape)))
    valid = jnp.ones(target.shape[:2], bool)
    nll = objective.nll_per_variable(predict(roll, ~target, valid), roll, target)
    np.testing.assert_allclose(variables * jnp.sum(weights * nll), exact, rtol=1e-5)


def test_drawn_contexts_estimate_the_ordering_nll_without_bias():
    steps, voices, examples = 2, 2, 20_000
    predict = inconsistent_predict(3, steps * voices)
    pitches = np.array([[36, 64], [37, 37]])
    keys = jax.random.split(jax.random.key(0), examples)
    valid = jnp.ones((examples, steps), bool)
    context = masks.sample_orderless_context(keys, jax.random.uniform(jax.random.key(1), (examples,)), valid, voices)
    roll = pianoroll.from_pitches(jnp.asarray(np.broadcast_to(pitches, context.shape)))
    logits = predict(roll, context, valid)
    costs = 4 * np.asarray(objective.nll_per_variable(logits, roll, ~context))
    exact = mean_ordering_nll(predict, pitches)
    assert abs(costs.mean() - exact) < 4 * costs.std() / examples**0.5
    total, cells = objective.nll_and_cells(logits, roll, ~context, valid)
    np.testing.assert_allclose(4 * total / cells, costs.mean(), rtol=1e-4)
