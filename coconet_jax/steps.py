"""The per-device bodies of training and validation: pure functions, mapped over devices by `devices.map_body`.

Each is written for one device, uses collectives over the axis "data" and returns what is equal on all devices.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from coconet_jax import config as config_lib
from coconet_jax import data, devices, masks, model, objective, pianoroll
from coconet_jax import state as state_lib


class Task(NamedTuple):
    """What the network is asked in a part of the batch.

    Attributes:
      context: True where a note is given.
      target: True where one is asked for.
      whole: True for examples that show all they can of where their piece begins and ends; False where likelihoods
        are asked for, which know nothing of it.
    """

    context: Bool[Array, "b t i"]
    target: Bool[Array, "b t i"]
    whole: Bool[Array, " b"]


def draw_task(
    key: Key[Array, ""], index: Int[Array, " b"], valid: Bool[Array, "b t"], config: config_lib.Train
) -> Task:
    """The tasks of a part of the batch; `index` is each example's place in the global batch."""
    subset_key, size_key = jax.random.split(key)
    keys = jax.vmap(lambda n: jax.random.fold_in(subset_key, n))(index)
    if config.context == "bernoulli":
        context = masks.sample_bernoulli_context(keys, config.context_prob, valid)
        return Task(context, valid[..., None] & ~context, jnp.ones_like(index, bool))
    if config.stratify:
        uniforms = masks.stratified_uniforms(size_key, index, config.batch_size)
    else:
        uniforms = jax.vmap(lambda n: jax.random.uniform(jax.random.fold_in(size_key, n)))(index)
    context = masks.sample_orderless_context(keys, uniforms, valid)
    target = valid[..., None] & ~context
    share = config.frame_share + config.past_share
    if not share:
        return Task(context, target, jnp.ones_like(index, bool))
    offsets = jax.random.uniform(jax.random.fold_in(size_key, 2**31 - 1), (2,))
    other, number = masks.interleave(offsets[0], index, share)
    past, _ = masks.interleave(offsets[1], number, config.past_share / share)
    frames = masks.sample_frame_context(keys, uniforms, valid)
    earlier, ahead = masks.sample_past_context(keys, uniforms, valid)

    def choose(*parts: Bool[Array, "b t i"]) -> Bool[Array, "b t i"]:
        return jnp.where(other[:, None, None], jnp.where(past[:, None, None], parts[2], parts[1]), parts[0])

    return Task(choose(context, frames, earlier), choose(target, valid[..., None] & ~frames, ahead), ~other)


Teacher = Callable[
    [Float[Array, "b t p i"], Bool[Array, "b t i"], Bool[Array, "b t"], Bool[Array, "b t"]],
    Float[Array, "b t p i"],
]


class Lesson(NamedTuple):
    """What is learned from other networks.

    Attributes:
      teachers: the networks, whose mean of probabilities is learned: logits of roll, context, valid and where silence
        outside the piece is to be shown. They are constants of the compiled step.
      share: of the loss that this mean counts for; the rest is what stands in the pieces.
    """

    teachers: tuple[Teacher, ...] = ()
    share: float = 0.0


NO_LESSON: Final = Lesson()


def show_silence(
    context: Bool[Array, "b t i"], valid: Bool[Array, "b t"], silent: Bool[Array, "b t"]
) -> tuple[Bool[Array, "b t i"], Bool[Array, "b t"]]:
    """Context and steps of scores whose silence outside is a part of them, and given."""
    return context | silent[..., None], valid | silent


def soften(
    lesson: Lesson,
    roll: Float[Array, "b t p i"],
    context: Bool[Array, "b t i"],
    valid: Bool[Array, "b t"],
    silent: Bool[Array, "b t"],
) -> Float[Array, "b t p i"]:
    """The distributions to be learned: the notes, in a share replaced by what the teachers think of the same context.

    A teacher that has met the notes in training knows more of what else they might have been than the notes do
    (Hinton et al. 2015, arXiv 1503.02531); several know more than one. A rest stays an all-zero column.
    """
    if not lesson.teachers:
        return roll
    logits = [teacher(roll, context, valid, silent) for teacher in lesson.teachers]
    thoughts = [jax.nn.softmax(each.astype(jnp.float32), axis=2) for each in logits]
    sounding = jnp.sum(roll, axis=2, keepdims=True)
    return (1 - lesson.share) * roll + lesson.share * sounding * sum(thoughts) / len(thoughts)


def forward(
    variables: model.Variables,
    batch: data.Batch,
    task: Task,
    config: config_lib.Model,
    ends: bool,
    keep: Float[Array, "b k f"] | None = None,
    lesson: Lesson = NO_LESSON,
) -> tuple[Float[Array, ""], Any]:
    """In training: the sum of the ordering NLL over this device's examples, and the BatchNorm statistics.

    Where crops show the `ends` of pieces, what lies outside is to the network a part of them that is given: silence.
    `keep`: see `model.apply`. With a lesson the sum is of the cross-entropy with what `soften` gives.
    """
    roll = pianoroll.from_pitches(batch.pitches)
    silent = ~batch.valid & (task.whole[:, None] & ends)
    seen, valid = show_silence(task.context, batch.valid, silent)
    logits, stats = model.apply(variables, config, roll, seen, valid, train=True, axis_name=devices.AXIS, keep=keep)
    wanted = soften(lesson, roll, task.context, batch.valid, silent)
    return objective.nll_and_cells(logits, wanted, task.target, batch.valid)[0], stats


def own_index(total: int) -> Int[Array, " b"]:
    """Places in the global batch of the examples of this device."""
    local = total // jax.lax.axis_size(devices.AXIS)
    return jax.lax.axis_index(devices.AXIS) * local + jnp.arange(local)


def own_batch(
    key: Key[Array, ""], index: Int[Array, " b"], source: data.Resident | data.Batch, config: config_lib.Run
) -> data.Batch:
    """The examples of this device: the host has streamed them, or they are drawn from all pieces."""
    if isinstance(source, data.Batch):
        return source
    grid = config_lib.crop_grid(config.data)
    return data.draw_batch(data.batch_key(key), index, source, crop_steps=config.data.crop_steps, grid=grid)


def draw_dropout(
    key: Key[Array, ""], index: Int[Array, " b"], shape: tuple[int, int], share: float
) -> Float[Array, "b layers units"]:
    """Factors: 0 for a share of all units, others in each example, and the rest scaled up.

    Args:
      key: of the step.
      index: each example's place in the global batch.
      shape: layers and units of each.
      share: of the units that are silent.
    """
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(index)
    return jax.vmap(lambda k: jax.random.bernoulli(k, 1 - share, shape))(keys) / (1 - share)


def train_step(
    state: state_lib.TrainState,
    source: data.Resident | data.Batch,
    *,
    config: config_lib.Config,
    lesson: Lesson = NO_LESSON,
) -> tuple[state_lib.TrainState, dict[str, Float[Array, ""]]]:
    """One update on one device; gradients and statistics are summed over the axis "data".

    Args:
      state: replicated.
      source: all pieces, to draw this device's crops from, or this device's streamed batch.
      config: the run's.
      lesson: what is learned from other networks.

    Returns:
      The new state and {"loss": nats per variable, "grad_norm"}, equal on all devices. With a lesson the loss holds
      the teachers' entropy, and is no NLL.
    """
    train = config.train
    key = data.step_key(train.seed, state.step)
    index = own_index(train.batch_size)
    batch = own_batch(key, index, source, config)
    task = draw_task(data.context_key(key), index, batch.valid, train)
    cells = jax.lax.psum(jnp.sum(batch.valid) * pianoroll.NUM_VOICES, devices.AXIS)
    keep = None
    if config.model.dropout:
        shape = (model.num_pairs(config.model), config.model.num_filters)
        keep = draw_dropout(data.dropout_key(key), index, shape, config.model.dropout)

    def loss(params: Any) -> tuple[Float[Array, ""], Any]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        total, stats = forward(variables, batch, task, config.model, config.data.ends, keep, lesson)
        return total / cells, stats

    (part, stats), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    grads, mean_loss = jax.lax.psum((grads, part), devices.AXIS)
    return state_lib.descend(state, grads, stats, train), {"loss": mean_loss, "grad_norm": state_lib.norm(grads)}


def train_steps(
    state: state_lib.TrainState,
    source: data.Resident | data.Batch,
    count: Int[Array, ""],
    *,
    step: Callable[..., tuple[Any, dict[str, Array]]],
) -> tuple[Any, dict[str, Float[Array, " n"]]]:
    """`count` updates in one dispatch; their metrics stacked, with nan behind them.

    The count is an argument, not a constant: however a run is cut into dispatches, by evaluations, its end or an
    interruption, one and the same program does each of its steps, and the result is the same bit for bit.
    """
    shapes = jax.eval_shape(step, state, source)[1]
    blank = jax.tree.map(lambda m: jnp.full(config_lib.MAX_STEPS_PER_DISPATCH, jnp.nan, m.dtype), shapes)

    def one(number: Int[Array, ""], done: tuple[Any, Any]) -> tuple[Any, Any]:
        state, metrics = step(done[0], source)
        return state, jax.tree.map(lambda row, value: row.at[number].set(value), done[1], metrics)

    return jax.lax.fori_loop(0, count, one, (state, blank))


def estimate_statistics(
    state: state_lib.TrainState, source: data.Resident, *, config: config_lib.Config
) -> model.Variables:
    """Weights to evaluate: the (averaged) parameters with BatchNorm statistics re-estimated for them.

    Running statistics lag behind the parameters and belong to the raw ones; the release re-estimates too. The
    mean over batches of the batch mean, and by the law of total variance of the variance.
    """
    params = state_lib.eval_params(state)
    fresh = dataclasses.replace(config.model, bn_momentum=0.0)  # the statistics of the batch alone
    index = own_index(config.train.batch_size)

    def one(number: Int[Array, ""]) -> Any:
        # Keys of their own, the same at every evaluation.
        key = jax.random.fold_in(jax.random.key(config.train.seed + 1), number)
        batch = own_batch(key, index, source, config)
        task = draw_task(data.context_key(key), index, batch.valid, config.train)
        variables = {"params": params, "batch_stats": state.batch_stats}
        return forward(variables, batch, task, fresh, config.data.ends)[1]

    stats = jax.lax.map(one, jnp.arange(config.train.bn_batches))
    return {"params": params, "batch_stats": _pool_statistics(stats)}


def _pool_statistics(stats: Any) -> Any:
    """{"mean", "var"} leaves stacked over batches to those of all batches together."""
    if set(stats) == {"mean", "var"}:
        mean = jnp.mean(stats["mean"], axis=0)
        second = jnp.mean(stats["var"] + jnp.square(stats["mean"]), axis=0)
        return {"mean": mean, "var": second - jnp.square(mean)}
    return {name: _pool_statistics(inner) for name, inner in stats.items()}


def eval_step(
    weights: model.Variables,
    windows: data.Batch,
    clean: Bool[Array, " b"],
    *,
    config: config_lib.Config,
    num_windows: int,
) -> Float[Array, "2"]:
    """Validation NLL in nats per variable over all windows and over the `clean` ones, on contexts that never change.

    Each device takes its share of the rows (their number divides evenly) in micro-batches of
    eval_batch_size / devices; a window's contexts depend on its place alone. `num_windows` counts the rows that are
    not there only to make up the number.
    """
    index = own_index(len(windows.valid))
    size = max(config.train.eval_batch_size // jax.lax.axis_size(devices.AXIS), 1)
    key = jax.random.key(20170900)  # the paper's month: fixed contexts, whatever the seed of the run
    # Every size of context equally often over the set, rather than over a training batch.
    spread = config_lib.Train(batch_size=num_windows)

    def part(rows: Int[Array, " b"]) -> Float[Array, "2 2"]:
        batch = jax.tree.map(lambda x: x[rows], windows)
        roll = pianoroll.from_pitches(batch.pitches)

        def once(number: Int[Array, ""]) -> Float[Array, "2 2"]:
            context = draw_task(jax.random.fold_in(key, number), rows, batch.valid, spread).context
            logits, _ = model.apply(weights, config.model, roll, context, batch.valid, train=False)
            counted = (batch.valid, batch.valid & clean[rows][:, None])
            sums = [objective.nll_and_cells(logits, roll, valid[..., None] & ~context, valid) for valid in counted]
            return jnp.array(sums)

        return jnp.sum(jax.lax.map(once, jnp.arange(config.train.eval_contexts)), axis=0)

    sums = jnp.sum(jax.lax.map(part, index.reshape(-1, size)), axis=0)
    total, cells = jax.lax.psum(sums, devices.AXIS).T
    return total / cells
