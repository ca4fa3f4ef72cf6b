"""What training carries from step to step: parameters, statistics, optimiser, average, plateau."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key
import optax

from coconet_jax import config as config_lib
from coconet_jax import model


class Progress(NamedTuple):
    """The course of the validation NLL, for halving on plateau and for stopping early."""

    best_nll: Float[Array, ""]  # nats per variable; inf before the first evaluation
    evals_since_best: Int[Array, ""]
    evals_since_halving: Int[Array, ""]  # or since the best, if later
    rate_scale: Float[Array, ""]  # factor on the learning rate


class TrainState(NamedTuple):
    """All that a resumed run needs, and nothing else."""

    step: Int[Array, ""]  # updates done
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any  # averaged parameters; an empty dict where there is no averaging
    progress: Progress


def make_optimizer(config: config_lib.Train) -> optax.GradientTransformation:
    """Adam (AdamW where weight_decay > 0) behind clipping, for a learning rate of 1: the step scales the update."""
    parts = [optax.clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    parts.append(optax.scale_by_adam())
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=_are_kernels))
    return optax.chain(*parts)


def _are_kernels(params: Any) -> Any:
    """Which leaves decay: BatchNorm's scales and biases are vectors, the offsets for each pitch matrices."""
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.ndim > 2 or getattr(path[-1], "key", "") == "intervals", params
    )


def learning_rate(config: config_lib.Train, step: Int[Array, ""], progress: Progress) -> Float[Array, ""]:
    """Rate of the update that follows `step` updates: linear warm-up, then cosine, constant or halved on plateau."""
    warm = jnp.minimum((step + 1) / max(config.warmup_steps, 1), 1.0)
    if config.schedule == "cosine":
        span = config.schedule_steps - config.warmup_steps
        done = jnp.clip((step - config.warmup_steps) / span, 0.0, 1.0)
        fall = 0.5 * (1 + jnp.cos(jnp.pi * done))
        rate = config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * fall
    else:
        rate = jnp.asarray(config.learning_rate)
    scale = progress.rate_scale if config.schedule == "plateau" else 1.0
    return (warm * rate * scale).astype(jnp.float32)


def create(key: Key[Array, ""], config: config_lib.Config, variables: model.Variables | None = None) -> TrainState:
    """The state of Coconet before the first update, from fresh parameters or from given ones."""
    return begin(model.init(key, config.model) if variables is None else variables, config.train)


def begin(variables: model.Variables, config: config_lib.Train) -> TrainState:
    """The state before the first update of any network, from its variables."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=make_optimizer(config).init(params),
        # A copy: a donated state must not hold one buffer twice.
        ema=jax.tree.map(jnp.copy, params) if config.ema_decay else {},
        progress=Progress(
            jnp.asarray(jnp.inf, jnp.float32),
            jnp.zeros((), jnp.int32),
            jnp.zeros((), jnp.int32),
            jnp.ones((), jnp.float32),
        ),
    )


def abstract(config: Any, init: Callable[[Any, Any], model.Variables] = model.init) -> TrainState:
    """Shapes and dtypes of the state, nothing computed; `init` makes the variables of the config's `model`."""
    return jax.eval_shape(lambda: begin(init(jax.random.key(0), config.model), config.train))


def update_ema(ema: Any, params: Any, decay: float, step: Int[Array, ""]) -> Any:
    """Exponential moving average; the decay warms up so that the random start is forgotten."""
    if not decay:
        return ema
    keep = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: keep * e + (1 - keep) * p, ema, params)


def descend(state: TrainState, grads: Any, batch_stats: Any, config: config_lib.Train) -> TrainState:
    """The state after one update along the gradients."""
    updates, opt_state = make_optimizer(config).update(grads, state.opt_state, state.params)
    rate = learning_rate(config, state.step, state.progress)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    ema = update_ema(state.ema, params, config.ema_decay, state.step)
    return TrainState(state.step + 1, params, batch_stats, opt_state, ema, state.progress)


def norm(grads: Any) -> Float[Array, ""]:
    """Root of the sum of all squares."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))


def eval_params(state: TrainState) -> Any:
    """The parameters that are evaluated, kept and sampled from: the average where there is one."""
    return state.ema or state.params


def after_evaluation(progress: Progress, nll: Float[Array, ""], config: config_lib.Train) -> Progress:
    """Notes an evaluation; halves the rate after more than `plateau_evals` without progress (released code)."""
    better = nll < progress.best_nll
    since_best = jnp.where(better, 0, progress.evals_since_best + 1)
    since_halving = jnp.where(better, 0, progress.evals_since_halving + 1)
    halve = since_halving > config.plateau_evals
    return Progress(
        jnp.where(better, nll, progress.best_nll).astype(jnp.float32),  # not minimum: NaN would stay for good
        since_best.astype(jnp.int32),
        jnp.where(halve, 0, since_halving).astype(jnp.int32),
        jnp.where(halve, 0.5, 1.0) * progress.rate_scale,
    )
