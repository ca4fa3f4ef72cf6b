"""Training: the per-device bodies, the loop that every model of the project runs, and the command.

`python -m coconet_jax.train --config=configs/cpu.py --workdir=runs/first --config.train.num_steps=1000`
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import signal
import sys
import time
from typing import Any, NamedTuple

from absl import app, flags
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
from ml_collections import config_flags
import numpy as np

from coconet_jax import checkpoint, data, devices, errors, masks, model, objective, pianoroll
from coconet_jax import config as config_lib
from coconet_jax import state as state_lib

# ---------------------------------------------------------------------------------------------- bodies


def draw_context(
    key: Key[Array, ""], index: Int[Array, " b"], valid: Bool[Array, "b t"], config: config_lib.Train
) -> Bool[Array, "b t i"]:
    """The contexts of a part of the batch; `index` is each example's place in the global batch."""
    keys = jax.vmap(lambda n: jax.random.fold_in(key, n))(index)
    if config.context == "bernoulli":
        return masks.sample_bernoulli_context(keys, config.context_prob, valid)
    if config.stratify:
        uniforms = masks.stratified_uniforms(key, index, config.batch_size)
    else:
        uniforms = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, 1)))(keys)
    return masks.sample_orderless_context(keys, uniforms, valid)


def forward(
    variables: model.Variables,
    batch: data.Batch,
    context: Bool[Array, "b t i"],
    config: config_lib.Model,
    *,
    train: bool,
) -> tuple[tuple[Float[Array, ""], Float[Array, ""]], Any]:
    """Sum of the ordering NLL over this device's examples and of their cells; and the BatchNorm statistics."""
    roll = pianoroll.from_pitches(batch.pitches)
    target = batch.valid[..., None] & ~context
    logits, stats = model.apply(
        variables, config, roll, context, batch.valid, train=train, axis_name=devices.AXIS if train else None
    )
    return objective.nll_and_cells(logits, roll, target, batch.valid), stats


def _own_index(total: int) -> Int[Array, " b"]:
    """Places in the global batch of the examples of this device."""
    local = total // jax.lax.axis_size(devices.AXIS)
    return jax.lax.axis_index(devices.AXIS) * local + jnp.arange(local)


def _own_batch(
    key: Key[Array, ""], index: Int[Array, " b"], source: data.Resident | data.Batch, config: config_lib.Config
) -> data.Batch:
    if isinstance(source, data.Batch):
        return source  # streamed: the host has drawn it
    grid = config_lib.crop_grid(config.data)
    return data.draw_batch(data.batch_key(key), index, source, crop_steps=config.data.crop_steps, grid=grid)


def train_step(
    state: state_lib.TrainState, source: data.Resident | data.Batch, *, config: config_lib.Config
) -> tuple[state_lib.TrainState, dict[str, Float[Array, ""]]]:
    """One update on one device; gradients and statistics are summed over the axis "data".

    Args:
      state: replicated.
      source: all pieces, to draw this device's crops from, or this device's streamed batch.
      config: the run's.

    Returns:
      The new state and {"loss": nats per variable, "grad_norm"}, equal on all devices.
    """
    train = config.train
    key = data.step_key(train.seed, state.step)
    index = _own_index(train.batch_size)
    batch = _own_batch(key, index, source, config)
    context = draw_context(data.context_key(key), index, batch.valid, train)
    cells = jax.lax.psum(jnp.sum(batch.valid) * pianoroll.NUM_VOICES, devices.AXIS)

    def loss(params: Any) -> tuple[Float[Array, ""], Any]:
        (total, _), stats = forward(
            {"params": params, "batch_stats": state.batch_stats}, batch, context, config.model, train=True
        )
        return total / cells, stats

    (part, stats), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    grads, mean_loss = jax.lax.psum((grads, part), devices.AXIS)
    updates, opt_state = state_lib.make_optimizer(train).update(grads, state.opt_state, state.params)
    rate = state_lib.learning_rate(train, state.step, state.progress)
    params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
    ema = state_lib.update_ema(state.ema, params, train.ema_decay, state.step)
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
    new = state_lib.TrainState(state.step + 1, params, stats, opt_state, ema, state.progress)
    return new, {"loss": mean_loss, "grad_norm": norm}


def train_steps(
    state: state_lib.TrainState,
    source: data.Resident | data.Batch,
    *,
    step: Callable[..., tuple[Any, dict[str, Array]]],
    count: int,
    unroll: bool,
) -> tuple[Any, dict[str, Float[Array, " n"]]]:
    """`count` updates in one compiled program; metrics are stacked.

    On CPU the loop must be unrolled: a convolution's gradient inside a while loop is 20 to 40 times slower.
    """
    return jax.lax.scan(lambda s, _: step(s, source), state, length=count, unroll=count if unroll else 1)


def estimate_statistics(
    state: state_lib.TrainState, source: data.Resident, *, config: config_lib.Config
) -> model.Variables:
    """Weights to evaluate: the (averaged) parameters with BatchNorm statistics re-estimated for them.

    Running statistics lag behind the parameters and belong to the raw ones; the release re-estimates too. The
    mean over batches of the batch mean, and by the law of total variance of the variance.
    """
    params = state_lib.eval_params(state)
    fresh = dataclasses.replace(config.model, bn_momentum=0.0)  # the statistics of the batch alone
    index = _own_index(config.train.batch_size)

    def one(number: Int[Array, ""]) -> Any:
        # Keys of their own, the same at every evaluation.
        key = jax.random.fold_in(jax.random.key(config.train.seed + 1), number)
        batch = _own_batch(key, index, source, config)
        context = draw_context(data.context_key(key), index, batch.valid, config.train)
        variables = {"params": params, "batch_stats": state.batch_stats}
        return forward(variables, batch, context, fresh, train=True)[1]

    stats = jax.lax.map(one, jnp.arange(config.train.bn_batches))
    return {"params": params, "batch_stats": _pool_statistics(stats)}


def _pool_statistics(stats: Any) -> Any:
    """{"mean", "var"} leaves stacked over batches to those of all batches together."""
    if set(stats) == {"mean", "var"}:
        mean = jnp.mean(stats["mean"], axis=0)
        second = jnp.mean(stats["var"] + jnp.square(stats["mean"]), axis=0)
        return {"mean": mean, "var": second - jnp.square(mean)}
    return {name: _pool_statistics(inner) for name, inner in stats.items()}


def eval_step(weights: model.Variables, windows: data.Batch, *, config: config_lib.Config) -> Float[Array, ""]:
    """Validation NLL in nats per variable over all windows, on contexts that never change.

    Each device takes its share of the rows (their number divides evenly) in micro-batches of
    eval_batch_size / devices; a window's contexts depend on its place alone.
    """
    index = _own_index(len(windows.valid))
    size = max(config.train.eval_batch_size // jax.lax.axis_size(devices.AXIS), 1)
    key = jax.random.key(20170900)  # the paper's month: fixed contexts, whatever the seed of the run
    # Every size of context equally often over the set, rather than over a training batch.
    spread = dataclasses.replace(config.train, batch_size=len(windows.valid), context="orderless", stratify=True)

    def part(rows: Int[Array, " b"]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        batch = jax.tree.map(lambda x: x[rows], windows)

        def once(number: Int[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
            context = draw_context(jax.random.fold_in(key, number), rows, batch.valid, spread)
            return forward(weights, batch, context, config.model, train=False)[0]

        total, cells = jax.lax.map(once, jnp.arange(config.train.eval_contexts))
        return jnp.sum(total), jnp.sum(cells)

    total, cells = jax.lax.map(part, index.reshape(-1, size))
    total, cells = jax.lax.psum((jnp.sum(total), jnp.sum(cells)), devices.AXIS)
    return total / cells


# ------------------------------------------------------------------------------------------------ loop


class Schedule(NamedTuple):
    """When the loop does what, in steps."""

    num_steps: int
    steps_per_dispatch: int
    report_every: int
    eval_every: int


class Stopped(NamedTuple):
    """Why the loop ended: "done", "early" or "signal", and at which step."""

    reason: str
    step: int


class NotFinite(ArithmeticError):
    """The loss is no longer a number."""


def run(
    step: Callable[[Any, Any], tuple[Any, dict[str, Array]]],
    state: Any,
    sources: Iterator[Any],
    schedule: Schedule,
    *,
    evaluate: Callable[[Any], tuple[Any, dict[str, float], bool]],
    save: Callable[[Any], None],
    report: Callable[[int, dict[str, float]], None],
    interrupted: Callable[[int], bool] = lambda step: False,
    single: Callable[[Any, Any], tuple[Any, dict[str, Array]]] | None = None,
) -> tuple[Any, Stopped]:
    """The training loop, whatever is trained.

    Args:
      step: `steps_per_dispatch` compiled updates: (state, source) -> (state, metrics stacked over the updates).
      state: anything with a `step`.
      sources: what each dispatch is fed.
      schedule: see there.
      evaluate: called every `eval_every` steps and at the end, and saves; returns the state, numbers to report
        and whether to stop early.
      save: called when interrupted.
      report: gets a step and its numbers.
      interrupted: asked after every dispatch; True saves and ends.
      single: one compiled update, for where a full dispatch would step over an evaluation or the end.

    Raises:
      NotFinite: names the first step whose loss is not finite; nothing after the last good checkpoint is saved.
    """
    at = int(state.step)
    pending: list[tuple[int, dict[str, Array]]] = []
    since, since_step = time.perf_counter(), at
    while at < schedule.num_steps:
        stop_at = min(schedule.num_steps, (at // schedule.eval_every + 1) * schedule.eval_every)
        full = at + schedule.steps_per_dispatch <= stop_at or single is None
        state, metrics = (step if full else single)(state, next(sources))  # type: ignore[misc]
        count = schedule.steps_per_dispatch if full else 1
        pending.append((at, metrics))
        crossed = (at + count) // schedule.report_every > at // schedule.report_every
        at += count
        stopping = interrupted(at)
        if crossed or at == stop_at or stopping:
            numbers = _collect(pending)  # waits for the device
            pending = []
            elapsed = time.perf_counter() - since
            numbers["steps_per_second"] = (at - since_step) / elapsed
            evaluated: dict[str, float] = {}
            stop = False
            if at == stop_at:
                state, evaluated, stop = evaluate(state)
            report(at, {**numbers, **evaluated})
            since, since_step = time.perf_counter(), at
            if stopping and at != stop_at:
                save(state)
            if stopping or stop:
                return state, Stopped("signal" if stopping else "early", at)
    return state, Stopped("done", at)


def _collect(pending: list[tuple[int, dict[str, Array]]]) -> dict[str, float]:
    """Means over the updates since the last report; raises at the first loss that is not finite."""
    losses = [(first, np.atleast_1d(np.asarray(metrics["loss"]))) for first, metrics in pending]
    for first, values in losses:
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise NotFinite(f"the loss is {values[bad[0]]} at step {first + int(bad[0]) + 1}")
    names = pending[0][1]
    return {name: float(np.mean([np.mean(np.asarray(m[name])) for _, m in pending])) for name in names}


# -------------------------------------------------------------------------------------- one Coconet run


def train(config: config_lib.Config, workdir: str | os.PathLike[str]) -> Stopped:
    """Trains, or resumes, the run that lives in `workdir`, and returns why it ended.

    Raises:
      InputError: settings, data or folder that cannot be used.
      NotFinite: the loss diverged.
    """
    from coconet_jax import progress  # tqdm and TensorBoard are wanted here alone

    folder = pathlib.Path(workdir).absolute()
    _make_folder(folder)
    mesh = devices.make_mesh(config.num_devices)
    config_lib.check_devices(config, mesh.size)
    piece_set = data.load(config.data)
    resident = data.make_resident(piece_set.splits["train"], config.data)
    streams = _is_too_large(resident, config.data)
    per_dispatch = 1 if streams else config.train.steps_per_dispatch or (1 if devices.on_cpu() else 10)

    with contextlib.closing(
        checkpoint.open_run(folder, milestone_base=config.train.eval_every if config.train.keep_milestones else 0)
    ) as manager:
        data_sha256 = checkpoint.digest(resident)
        state = checkpoint.restore(manager, config, mesh, data_sha256)
        if state is None:
            state = devices.replicate(_initial_state(config), mesh)
        first_step = int(state.step)

        def compiled(body: Callable[..., Any], *, sharded: Sequence[bool], donate: Sequence[int] = ()) -> Any:
            return devices.map_body(body, mesh, config.parallel, sharded=sharded, donate=donate)

        body = functools.partial(train_step, config=config)
        steps = functools.partial(train_steps, step=body, count=per_dispatch, unroll=devices.on_cpu())
        run_steps = compiled(steps if per_dispatch > 1 else body, sharded=(False, streams), donate=(0,))
        run_one = compiled(body, sharded=(False, streams), donate=(0,)) if per_dispatch > 1 else None
        run_statistics = compiled(functools.partial(estimate_statistics, config=config), sharded=(False, False))
        run_eval = compiled(functools.partial(eval_step, config=config), sharded=(False, False))
        run_progress = jax.jit(functools.partial(state_lib.after_evaluation, config=config.train))

        if streams:
            rows = _rows_of_process(config.train.batch_size, mesh)
            draw = functools.partial(data.stream, resident, config.data, rows=rows)
            sources: Iterator[Any] = (
                devices.shard_rows(batch, mesh) for batch in draw(seed=config.train.seed, first_step=first_step)
            )
            kept = data.some_pieces(resident, config.data.device_mib)
            statistics_source = devices.replicate(kept, mesh)
        else:
            statistics_source = devices.replicate(resident, mesh)
            sources = itertools.repeat(statistics_source)
        multiple = mesh.size * max(config.train.eval_batch_size // mesh.size, 1)
        windows = devices.replicate(
            data.pad_rows(data.windows(piece_set.splits["valid"], config.data.crop_steps), multiple), mesh
        )

        def evaluate(state: state_lib.TrainState) -> tuple[state_lib.TrainState, dict[str, float], bool]:
            weights = run_statistics(state, statistics_source)
            nll = run_eval(weights, windows)
            state = state._replace(progress=run_progress(state.progress, nll))
            checkpoint.save(manager, state, weights, config, data_sha256, float(nll))
            patience = config.train.early_stop_evals
            stop = bool(patience) and int(state.progress.evals_since_best) >= patience
            return state, {checkpoint.VALID_NLL: float(nll), "rate_scale": float(state.progress.rate_scale)}, stop

        def save(state: state_lib.TrainState) -> None:
            checkpoint.save(manager, state, run_statistics(state, statistics_source), config, data_sha256, None)

        schedule = Schedule(config.train.num_steps, per_dispatch, config.train.report_every, config.train.eval_every)
        with progress.Reporter(folder, first_step, config, mesh) as reporter, _signals(manager) as interrupted:
            reporter.start(state, len(piece_set.splits["train"].lengths), piece_set.source)
            state, stopped = run(
                run_steps,
                state,
                sources,
                schedule,
                evaluate=evaluate,
                save=save,
                report=reporter.report,
                interrupted=interrupted,
                single=run_one,
            )
            manager.wait_until_finished()
            reporter.finish(stopped)
    return stopped


def _is_too_large(resident: data.Resident, config: config_lib.Data) -> bool:
    return resident.pitches.nbytes > config.device_mib * 2**20


def _initial_state(config: config_lib.Config) -> state_lib.TrainState:
    key = jax.random.fold_in(jax.random.key(config.train.seed), 2**31 - 1)  # apart from every step's key
    if not config.train.init_from:
        return state_lib.create(key, config)
    loaded = checkpoint.load(config.train.init_from)
    wanted, stored = dataclasses.asdict(config.model), dataclasses.asdict(loaded.config.model)
    differing = [f"model.{k}={wanted[k]!r}, there {stored[k]!r}" for k in wanted if wanted[k] != stored[k]]
    if loaded.config.data.steps_per_quarter != config.data.steps_per_quarter:
        differing.append(
            f"data.steps_per_quarter={config.data.steps_per_quarter}, there {loaded.config.data.steps_per_quarter}"
        )
    ignored = ("model.dtype", "model.remat", "model.bn_momentum", "model.bn_scale_init")
    differing = [line for line in differing if not line.startswith(ignored)]
    if differing:
        raise errors.InputError(
            f"train.init_from={config.train.init_from} holds another network: {'; '.join(differing)}; "
            "use the same model settings"
        )
    return state_lib.create(key, config, loaded.variables)


def _rows_of_process(batch_size: int, mesh: devices.Mesh) -> np.ndarray:
    """Places in the global batch of the examples of this process's devices, in the mesh's order."""
    local = batch_size // mesh.size
    own = [n for n, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    return np.concatenate([np.arange(n * local, (n + 1) * local, dtype=np.int32) for n in own])


def _make_folder(folder: pathlib.Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise errors.InputError(f"--workdir={folder}: cannot write there ({error.strerror}); choose another") from None


@contextlib.contextmanager
def _signals(manager: Any) -> Iterator[Callable[[int], bool]]:
    """A function that says whether SIGTERM (or ctrl-C) has asked for an end, in step with all processes."""
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second ctrl-C does not wait for the save
        seen.append(number)

    handled = [signal.SIGTERM, signal.SIGINT]
    if jax.process_count() > 1:
        handled.remove(signal.SIGTERM)  # jax.distributed has its own handler, which reached_preemption reads
    try:
        before = {number: signal.signal(number, note) for number in handled}
    except ValueError:  # not in the main thread, as in a notebook's worker: nothing to catch
        before = {}

    def interrupted(step: int) -> bool:
        if jax.process_count() > 1:
            return bool(manager.reached_preemption(step))
        return bool(seen)

    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --------------------------------------------------------------------------------------------- command

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A recipe, such as configs/cpu.py; override a field by --config.train.num_steps=1000."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run: checkpoints, metrics.jsonl, loss.png. The same folder again resumes."
)


def _parse(argv: Sequence[str]) -> list[str]:
    """absl's parsing, a mistake being one line and exit code 2."""
    if any(word in ("--help", "-help", "-h", "--helpfull", "--helpshort") for word in argv):
        print(_HELP)
        sys.exit(0)
    with errors.exit_on_input_error():
        try:
            rest = flags.FLAGS(list(argv))
            if _CONFIG.value is not None:
                _CONFIG.value.to_dict()  # a recipe that cannot be loaded says so only when it is looked at
        except flags.Error as error:
            raise errors.InputError(f"{error} (see --help)") from None
        except (OSError, AttributeError, KeyError, TypeError, ValueError, SyntaxError, ImportError) as error:
            raise errors.InputError(f"--config: {type(error).__name__}: {error} (see --help)") from None
        if len(rest) > 1:
            raise errors.InputError(f"{rest[1]!r} is no flag; flags look like --workdir=DIR (see --help)")
        if _CONFIG.value is None:
            raise errors.InputError("--config is missing; give a recipe, such as --config=configs/cpu.py")
        if not _WORKDIR.value:
            raise errors.InputError("--workdir is missing; give the run's folder, such as --workdir=runs/first")
    return rest


_HELP = """Trains a Coconet on four-part chorales, or resumes the run that lives in --workdir.

  python -m coconet_jax.train --config=configs/cpu.py --workdir=runs/first
  python -m coconet_jax.train --config=configs/paper.py --workdir=runs/paper --config.train.num_steps=60000

  --config=FILE        a recipe: configs/cpu.py (minutes on a laptop), small.py, separable.py, paper.py, test.py
  --config.GROUP.FIELD=VALUE
                       overrides a field, such as --config.train.batch_size=64 --config.data.path=chorales.npz
  --workdir=DIR        where checkpoints/, metrics.jsonl and loss.png go. The same command again resumes from the
                       last checkpoint, bit for bit; a larger --config.train.num_steps prolongs the run.

Fine-tune on scores of your own:
  python -m coconet_jax.train --config=configs/cpu.py --workdir=runs/mine --config.train.init_from=runs/first \\
      --config.data.dataset=folder --config.data.source=my_scores

Ctrl-C or SIGTERM saves and ends. All fields and their defaults: coconet_jax/config.py."""


def main(argv: Sequence[str]) -> None:
    """The command: exit code 0 when done, 2 on a bad setting, 1 when the loss diverged, 143 after SIGTERM."""
    del argv
    checkpoint.quiet()
    with errors.exit_on_input_error():
        config = config_lib.from_mapping(_CONFIG.value)
        spread = config.distributed
        devices.start_processes(spread.mode, spread.coordinator, spread.num_processes, spread.process_id)
        devices.use_compile_cache()
        try:
            assert _WORKDIR.value is not None  # _parse has seen to it
            stopped = train(config, _WORKDIR.value)
        except NotFinite as error:
            print(
                f"error: {error}; the last good checkpoint is kept: lower train.learning_rate "
                f"(now {config.train.learning_rate}) or set train.clip_norm, and start a new --workdir with "
                "--config.train.init_from",
                file=sys.stderr,
            )
            sys.exit(1)
    if stopped.reason == "signal":
        sys.exit(143)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)
