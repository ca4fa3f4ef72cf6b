"""Supervised training of an ensemble of judges on labelled windows, by the package's one loop.

Every member starts from and draws by keys of its own, and keeps its averaged parameters of the evaluation at which
they did best. Members train side by side under vmap; as the network is made of products, this takes no longer on CPU
than one after another: three members take 3.1 times one's update either way (2 cores, jax 0.10.2).
"""

from collections.abc import Callable
import dataclasses
import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int8, Int32, Integer, Key
import numpy as np
import optax

from coconet_jax import devices, errors, loop, pianoroll
from coconet_jax import state as state_lib
from coconet_jax.judge import calibration, network
from coconet_jax.pianoroll import AnyArray

# Of a forward pass over many windows, all together: more than fit a core's cache slow it down, and few windows are
# filled up to as many.
_STEPS_AT_ONCE_ON_CPU = 8 * 64
_STEPS_AT_ONCE = 64 * 64

Report = Callable[[int, dict[str, float]], None]


class Examples(NamedTuple):
    """Labelled windows of equal length.

    Attributes:
      pitches: MIDI pitches, -1 = rest.
      valid: True inside the piece.
      labels: classes, 0 to k - 1.
      weights: how often a window is drawn, relative to the others, and how much it counts in an evaluation.
      room: semitones a window may be moved down (<= 0) and up.
    """

    pitches: Int8[AnyArray, "n t 4"]
    valid: Bool[AnyArray, "n t"]
    labels: Int32[AnyArray, " n"]
    weights: Float32[AnyArray, " n"]
    room: Int32[AnyArray, "n 2"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """How an ensemble is trained.

    Attributes:
      num_members: of the ensemble.
      num_steps: updates.
      batch_size: windows of an update, of each member.
      crop_steps: a window is cut to so many steps at a random place; 0: taken whole.
      learning_rate: the highest, after `warmup_steps`; then it falls along a cosine to 0.
      warmup_steps: updates over which it rises.
      weight_decay: AdamW's, of kernels.
      label_smoothing: share of a label that is spread over all classes.
      ema_decay: of the averaged parameters, which are what is evaluated and kept.
      eval_every: updates between evaluations on the validation windows.
      seed: of everything.
    """

    num_members: int = 3
    num_steps: int = 600
    batch_size: int = 64
    crop_steps: int = 0
    learning_rate: float = 1.5e-3
    warmup_steps: int = 50
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    ema_decay: float = 0.99
    eval_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("num_members", "num_steps", "batch_size", "warmup_steps", "eval_every"):
            if getattr(self, name) < 1:
                raise errors.InputError(f"{name}={getattr(self, name)}: use 1 or more")
        if not 0 <= self.label_smoothing < 1:
            raise errors.InputError(f"label_smoothing={self.label_smoothing}: use a value in [0, 1)")


class State(NamedTuple):
    """What training carries along; all but the step has an axis of members first."""

    step: Int[Array, ""]
    params: network.Params
    opt_state: Any
    ema: network.Params
    best: network.Params
    best_loss: Float[Array, " m"]  # nats per window at its own temperature, inf before the first evaluation
    best_step: Int[Array, " m"]


class Fitted(NamedTuple):
    """A trained ensemble.

    Attributes:
      params: of all members, stacked.
      loss_nats: each member's validation loss where it was kept, nats per window, after a temperature of its own.
      step: and after how many updates that was.
    """

    params: network.Params
    loss_nats: Float[np.ndarray, " m"]
    step: Int[np.ndarray, " m"]


class Judged(NamedTuple):
    """What an ensemble says of windows: a network.Output of each member, in numpy."""

    logits: Float[np.ndarray, "m n k"]
    steps: Float[np.ndarray, "m n t k"]
    features: Float[np.ndarray, "m n d"]


def make_examples(
    pitches: Integer[np.ndarray, "n t 4"],
    labels: Integer[np.ndarray, " n"],
    *,
    valid: Bool[np.ndarray, "n t"] | None = None,
    weights: Float[np.ndarray, " n"] | None = None,
) -> Examples:
    """Examples that may be moved as far as every voice stays in its range (pianoroll.VOICE_RANGES).

    Args:
      pitches: MIDI pitches, -1 = rest and past a window's end.
      labels: of each window.
      valid: where the piece is (default: everywhere).
      weights: see Examples (default: every label equally often).
    """
    if weights is None:
        weights = 1.0 / np.bincount(labels)[labels]
    valid = np.ones(pitches.shape[:2], bool) if valid is None else valid
    pitches = np.where(valid[..., None], pitches, pianoroll.REST).astype(np.int8)
    room = np.array([pianoroll.transpose_room(window)[2:] for window in pitches], np.int32)
    return Examples(pitches, valid, labels.astype(np.int32), (weights / weights.sum()).astype(np.float32), room)


def draw_batch(key: Key[Array, ""], examples: Examples, settings: Settings) -> tuple[Array, Array, Array]:
    """Pitches int8 [b,t,4], valid [b,t] and labels [b] of an update: windows by weight, moved and cut at random."""
    row_key, shift_key, crop_key = jax.random.split(key, 3)
    size, steps = settings.batch_size, examples.valid.shape[1]
    through = jnp.cumsum(examples.weights)
    lots = jax.random.uniform(row_key, (size,)) * through[-1]
    rows = jnp.minimum(jnp.searchsorted(through, lots, side="right"), len(examples.labels) - 1)
    low, high = examples.room[rows].T
    shift = jax.random.randint(shift_key, (size,), low, high + 1)
    length = settings.crop_steps or steps
    start = jax.random.randint(crop_key, (size,), 0, steps - length + 1)
    times = start[:, None] + jnp.arange(length)[None]
    notes = examples.pitches[rows[:, None], times]
    moved = jnp.where(notes == pianoroll.REST, notes, notes + shift[:, None, None].astype(jnp.int8))
    return moved, examples.valid[rows[:, None], times], examples.labels[rows]


def _optimizer(settings: Settings) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(
        0.0, settings.learning_rate, settings.warmup_steps, max(settings.num_steps, settings.warmup_steps + 1)
    )
    kernels = lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)  # noqa: E731
    return optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=settings.weight_decay, mask=kernels)
    )


def create(settings: Settings, config: network.Config) -> State:
    """The state before the first update."""
    keys = jax.vmap(lambda member: jax.random.fold_in(jax.random.key(settings.seed), member))(
        jnp.arange(settings.num_members)
    )
    params = jax.vmap(lambda key: network.init(key, config))(keys)
    return State(
        jnp.zeros((), jnp.int32),
        params,
        jax.vmap(_optimizer(settings).init)(params),
        jax.tree.map(jnp.copy, params),
        jax.tree.map(jnp.copy, params),
        jnp.full(settings.num_members, jnp.inf),
        jnp.zeros(settings.num_members, jnp.int32),
    )


def update(
    state: State, examples: Examples, *, settings: Settings, config: network.Config
) -> tuple[State, dict[str, Float[Array, ""]]]:
    """One update of every member; the metrics are means over members."""
    optimizer = _optimizer(settings)

    def one(member: Array, params: network.Params, opt_state: Any, ema: network.Params) -> Any:
        # A stream for each member, apart from that of its initial parameters.
        stream = jax.random.fold_in(jax.random.fold_in(jax.random.key(settings.seed), member), 1)
        batch_key, dropout_key = jax.random.split(jax.random.fold_in(stream, state.step))
        pitches, valid, labels = draw_batch(batch_key, examples, settings)
        smooth = optax.smooth_labels(jax.nn.one_hot(labels, config.num_classes), settings.label_smoothing)

        def loss_of(params: network.Params) -> Float[Array, ""]:
            logits = network.apply(params, config, pitches, valid, dropout_key).logits
            return jnp.mean(optax.softmax_cross_entropy(logits, smooth))

        loss, grads = jax.value_and_grad(loss_of)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        ema = state_lib.update_ema(ema, params, settings.ema_decay, state.step)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(grad)) for grad in jax.tree.leaves(grads)))
        return params, opt_state, ema, loss, norm

    members = jnp.arange(settings.num_members)
    params, opt_state, ema, loss, norm = jax.vmap(one)(members, state.params, state.opt_state, state.ema)
    state = state._replace(step=state.step + 1, params=params, opt_state=opt_state, ema=ema)
    return state, {"loss": jnp.mean(loss), "grad_norm": jnp.mean(norm)}


def fit(
    train: Examples,
    valid: Examples,
    config: network.Config,
    settings: Settings,
    *,
    report: Report = lambda step, numbers: None,
    interrupted: Callable[[int], bool] = lambda step: False,
) -> Fitted:
    """Trains an ensemble.

    Args:
      train: what is drawn from.
      valid: decides which parameters each member keeps.
      config: of the network.
      settings: see there.
      report: gets a step and its numbers, every `eval_every` updates.
      interrupted: asked after every update; True ends with the best there is so far.

    Raises:
      InputError: windows or labels that do not fit the settings.
      loop.NotFinite: the loss diverged.
    """
    for name, examples in (("train", train), ("valid", valid)):
        if not len(examples.labels) or examples.labels.max() >= config.num_classes:
            raise errors.InputError(f"{name} has no windows, or labels above {config.num_classes - 1}; give others")
    if settings.crop_steps > train.valid.shape[1]:
        raise errors.InputError(f"crop_steps={settings.crop_steps}: windows have {train.valid.shape[1]}; use fewer")
    step = jax.jit(functools.partial(update, settings=settings, config=config), donate_argnums=(0,))

    def evaluate(state: State) -> tuple[State, dict[str, float], bool]:
        logits = predict(state.ema, config, valid.pitches, valid.valid).logits
        loss = np.array([_tempered_loss(member, valid) for member in logits])
        better = jnp.asarray(loss < np.asarray(state.best_loss))
        keep = lambda new, old: jnp.where(better.reshape(-1, *(1,) * (new.ndim - 1)), new, old)  # noqa: E731
        state = state._replace(
            best=jax.tree.map(keep, state.ema, state.best),
            best_loss=jnp.where(better, jnp.asarray(loss, jnp.float32), state.best_loss),
            best_step=jnp.where(better, state.step, state.best_step),
        )
        right = np.average(logits.argmax(-1) == valid.labels, axis=1, weights=valid.weights)
        return state, {"valid_loss": float(loss.mean()), "valid_accuracy": float(right.mean())}, False

    state, _ = loop.run(
        lambda state, source, count: step(state, source),
        create(settings, config),
        itertools.repeat(jax.device_put(train)),
        loop.Schedule(settings.num_steps, 1, settings.eval_every, settings.eval_every),
        evaluate=evaluate,
        save=lambda state: None,
        report=report,
        interrupted=interrupted,
    )
    best = state.best if np.isfinite(np.asarray(state.best_loss)).all() else state.ema  # interrupted at once
    return Fitted(*jax.tree.map(np.asarray, (best, state.best_loss, state.best_step)))


def _tempered_loss(logits: Float[np.ndarray, "n k"], examples: Examples) -> float:
    """Nats that each label costs on average, after the best temperature for them: networks that have learned what
    they were shown grow too sure long before they stop getting better at what they were not shown."""
    temperature = calibration.fit_temperature(logits, examples.labels, examples.weights)
    return calibration.nll_nats(calibration.log_softmax(logits, temperature), examples.labels, examples.weights)


@functools.lru_cache(maxsize=8)
def _compiled(config: network.Config) -> Callable[..., network.Output]:
    one = lambda params, pitches, valid: network.apply(params, config, pitches, valid)  # noqa: E731
    return jax.jit(jax.vmap(one, in_axes=(0, None, None)))


def predict(
    params: network.Params,
    config: network.Config,
    pitches: Integer[np.ndarray, "n t 4"],
    valid: Bool[np.ndarray, "n t"] | None = None,
) -> Judged:
    """What every member of an ensemble says of windows, in passes of equal shape: a window's numbers do not depend on
    the others that are judged with it."""
    valid = np.ones(pitches.shape[:2], bool) if valid is None else valid
    at_once = _STEPS_AT_ONCE_ON_CPU if devices.on_cpu() else _STEPS_AT_ONCE
    parts, rows = [], max(at_once // pitches.shape[1], 1)
    for first in range(0, len(pitches), rows):
        notes, inside = pitches[first : first + rows].astype(np.int8), valid[first : first + rows]
        count = len(notes)
        missing = rows - count
        notes = np.pad(notes, ((0, missing), (0, 0), (0, 0)), constant_values=pianoroll.REST)
        found = _compiled(config)(params, notes, np.pad(inside, ((0, missing), (0, 0)), constant_values=True))
        parts.append([np.asarray(leaf)[:, :count] for leaf in found])
    return Judged(*(np.concatenate(columns, axis=1) for columns in zip(*parts, strict=True)))
