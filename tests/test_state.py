"""Rates, averages, plateaus and the optimiser, each against numbers worked out apart."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import config, model
from coconet_jax import state as state_lib


def progress(best: float = math.inf, since_best: int = 0, since_halving: int = 0, scale: float = 1.0):
    return state_lib.Progress(jnp.float32(best), jnp.int32(since_best), jnp.int32(since_halving), jnp.float32(scale))


# ------------------------------------------------------------------------------------------- learning rate


def rate(settings: config.Train, step: int, scale: float = 1.0) -> float:
    found = state_lib.learning_rate(settings, jnp.int32(step), progress(scale=scale))
    assert found.dtype == jnp.float32
    assert found.shape == ()
    return float(found)


def test_cosine_rate():
    settings = config.Train(warmup_steps=10, schedule_steps=110, learning_rate=1.0, final_learning_rate=0.2)
    expected = {
        0: 0.1,  # the first of ten warm-up steps
        4: 0.5,
        9: 1.0,
        10: 1.0,
        35: 0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2,
        60: 0.6,
        110: 0.2,
        500: 0.2,
    }
    for step, value in expected.items():
        assert rate(settings, step) == pytest.approx(value, rel=1e-5), step
    assert rate(settings, 60, scale=0.5) == pytest.approx(0.6, rel=1e-5)  # halving belongs to plateau alone


def test_constant_rate():
    settings = config.Train(schedule="constant", warmup_steps=4, learning_rate=0.8)
    assert [rate(settings, n) for n in (0, 1, 3, 4, 10**6)] == pytest.approx([0.2, 0.4, 0.8, 0.8, 0.8])
    assert rate(settings, 9, scale=0.5) == pytest.approx(0.8)


def test_plateau_rate_is_scaled():
    settings = config.Train(schedule="plateau", warmup_steps=0, learning_rate=0.8)
    assert rate(settings, 0) == pytest.approx(0.8)
    assert rate(settings, 50, scale=0.25) == pytest.approx(0.2)
    warm = config.Train(schedule="plateau", warmup_steps=2, learning_rate=0.8)
    assert rate(warm, 0, scale=0.5) == pytest.approx(0.2)


# ------------------------------------------------------------------------------------------------- plateau


def follow(nlls: list[float], settings: config.Train) -> list[tuple[float, ...]]:
    now, course = progress(), []
    step = jax.jit(lambda p, nll: state_lib.after_evaluation(p, nll, settings))
    for nll in nlls:
        now = step(now, jnp.float32(nll))
        course.append(tuple(float(x) for x in now))
    return course


def test_the_rate_is_halved_after_more_than_plateau_evals_without_progress():
    course = follow([2.0, 1.5, 1.6, 1.5, 1.7, 1.6, 1.9, 1.8, 1.4, 1.5], config.Train(plateau_evals=2))
    best, since_best, since_halving, scale = zip(*course, strict=True)
    assert best == pytest.approx([2.0, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.4, 1.4])
    assert since_best == (0, 0, 1, 2, 3, 4, 5, 6, 0, 1)  # an equal one is no progress
    assert since_halving == (0, 0, 1, 2, 0, 1, 2, 0, 0, 1)
    assert scale == (1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25)


def test_an_evaluation_that_is_not_a_number_is_no_progress_and_forgets_nothing():
    course = follow([2.0, math.nan, 1.0], config.Train(plateau_evals=5))
    assert course == [(2.0, 0, 0, 1.0), (2.0, 1, 1, 1.0), (1.0, 0, 0, 1.0)]


# ------------------------------------------------------------------------------------------------- average


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_average_equals_numpy(decay):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(30, 2, 3)).astype(np.float32)
    ema = {"a": jnp.asarray(values[0])}
    expected = values[0].astype(float)
    for step in range(30):
        ema = state_lib.update_ema(ema, {"a": jnp.asarray(values[step])}, decay, jnp.int32(step))
        keep = min(decay, (1 + step) / (10 + step))
        expected = keep * expected + (1 - keep) * values[step]
    np.testing.assert_allclose(ema["a"], expected, rtol=1e-5)


def test_without_averaging_there_is_none(tiny_config):
    assert state_lib.update_ema({}, {"a": jnp.ones(2)}, 0.0, jnp.int32(3)) == {}
    made = state_lib.create(jax.random.key(0), with_train(tiny_config, ema_decay=0.0))
    assert made.ema == {}
    assert state_lib.eval_params(made) is made.params
    averaged = state_lib.create(jax.random.key(0), tiny_config)
    assert state_lib.eval_params(averaged) is averaged.ema


def with_train(base: config.Config, **fields: object) -> config.Config:
    mapping = config.to_dict(base)
    mapping["train"].update(fields)
    return config.from_mapping(mapping)


# ----------------------------------------------------------------------------------------------- optimiser


def updates_of(settings: config.Train, gradients: list[dict], params: dict) -> list[dict]:
    optimizer = state_lib.make_optimizer(settings)
    opt_state, course = jax.jit(optimizer.init)(params), []
    for gradient in gradients:
        updates, opt_state = jax.jit(optimizer.update)(gradient, opt_state, params)
        course.append(updates)
    return course


def adam(gradients: list[np.ndarray], clip_norm: float = 0.0) -> list[np.ndarray]:
    """Adam's updates for a rate of 1, before the sign."""
    mean = square = np.zeros_like(gradients[0], dtype=float)
    course = []
    for n, gradient in enumerate(gradients, start=1):
        norm = np.sqrt((gradient.astype(float) ** 2).sum())
        gradient = gradient * min(1.0, clip_norm / norm) if clip_norm else gradient
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        course.append(mean / (1 - 0.9**n) / (np.sqrt(square / (1 - 0.999**n)) + 1e-8))
    return course


@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 1e6])
def test_adam_behind_clipping(clip_norm):
    rng = np.random.default_rng(0)
    gradients = [scale * rng.normal(size=5).astype(np.float32) for scale in (10.0, 0.1, 1.0)]
    params = {"a": jnp.zeros(5)}
    found = updates_of(config.Train(clip_norm=clip_norm), [{"a": jnp.asarray(g)} for g in gradients], params)
    for update, expected in zip(found, adam(gradients, clip_norm), strict=True):
        np.testing.assert_allclose(update["a"], expected, rtol=1e-4)
    assert np.abs(adam(gradients, 1.0)[2] - adam(gradients)[2]).max() > 0.1  # clipping makes a difference


def test_weight_decay_is_on_kernels_alone(tiny_config):
    params = model.init(jax.random.key(0), tiny_config.model)["params"]
    gradients = jax.tree.map(jnp.ones_like, params)
    (plain,) = updates_of(config.Train(), [gradients], params)
    (decayed,) = updates_of(config.Train(weight_decay=0.1), [gradients], params)

    def check(a: jax.Array, b: jax.Array, p: jax.Array) -> None:
        np.testing.assert_allclose(b - a, 0.1 * p if p.ndim > 1 else np.zeros(p.shape), atol=1e-6)

    jax.tree.map(check, plain, decayed, params)
    assert {p.ndim for p in jax.tree.leaves(params)} == {1, 4}
    net = dataclasses.replace(tiny_config.model, pitch_mixing=True, pitch_embedding=True)
    params = model.init(jax.random.key(0), net)["params"]
    marked = jax.tree_util.tree_leaves_with_path(state_lib._are_kernels(params))
    flat = {jax.tree_util.keystr(path): decays for path, decays in marked}
    assert {name for name, decays in flat.items() if decays and "kernel" not in name} == {
        name for name in flat if "intervals" in name
    }
    assert any("intervals" in name for name in flat) and not all(flat.values())


# --------------------------------------------------------------------------------------------------- state


@pytest.mark.parametrize("fields", [{}, {"ema_decay": 0.0, "clip_norm": 0.0, "weight_decay": 0.1}])
def test_abstract_matches_create(tiny_config, fields):
    settings = with_train(tiny_config, **fields)
    made, shapes = state_lib.create(jax.random.key(0), settings), state_lib.abstract(settings)
    assert str(jax.tree.structure(made)) == str(jax.tree.structure(shapes))
    for real, shape in zip(jax.tree.leaves(made), jax.tree.leaves(shapes), strict=True):
        assert (real.shape, real.dtype) == (shape.shape, shape.dtype)
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(shapes))


def test_a_fresh_state(tiny_config):
    made = state_lib.create(jax.random.key(0), tiny_config)
    assert int(made.step) == 0
    assert [float(x) for x in made.progress] == [math.inf, 0, 0, 1]
    jax.tree.map(np.testing.assert_array_equal, made.ema, made.params)
    # No buffer twice: the state is donated to every step.
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(made)]
    assert len(set(places)) == len(places)
    expected = model.init(jax.random.key(0), tiny_config.model)
    jax.tree.map(np.testing.assert_array_equal, made.params, expected["params"])


def test_a_state_from_given_parameters(tiny_config, tiny_variables):
    made = state_lib.create(jax.random.key(0), tiny_config, tiny_variables)
    for part, expected in (("params", "params"), ("ema", "params"), ("batch_stats", "batch_stats")):
        jax.tree.map(np.testing.assert_array_equal, getattr(made, part), tiny_variables[expected])
