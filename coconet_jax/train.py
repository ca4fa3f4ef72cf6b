"""Training: a run of Coconet, and the command.

`python -m coconet_jax.train --config=configs/cpu.py --workdir=runs/first --config.train.num_steps=1000`
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import hashlib
import itertools
import os
import re
import sys
import types
from typing import Any, NamedTuple

from absl import app, flags
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from ml_collections import config_flags
import numpy as np

from coconet_jax import checkpoint, data, devices, errors, files, loop, model, steps, storage
from coconet_jax import config as config_lib
from coconet_jax import state as state_lib
from coconet_jax import weights as weights_lib

# ---------------------------------------------------------------------------------------------- one run


class Net(NamedTuple):
    """What is trained.

    Attributes:
      kind: what its checkpoints are of.
      bodies: the module of its `train_step`, `estimate_statistics` and `eval_step`, such as `steps`.
      check: raises InputError on settings of a new run that would have no effect.
    """

    kind: checkpoint.Kind[Any]
    bodies: types.ModuleType
    check: Callable[[Any], None] = lambda config: None


COCONET = Net(checkpoint.COCONET, steps)


def train(config: config_lib.Run, workdir: storage.Named, net: Net = COCONET) -> loop.Stopped:
    """Trains, or resumes, the run that lives in `workdir`, a folder or a URL, and returns why it ended.

    Args:
      config: of the run, of the net's kind.
      workdir: of the run.
      net: what is trained.

    Raises:
      InputError: settings, data or folder that cannot be used.
      loop.NotFinite: the loss diverged.
    """
    from coconet_jax import progress  # tqdm and TensorBoard are wanted here alone

    folder = storage.place(workdir).absolute()
    devices.check_shared("--workdir", workdir)
    _make_folder(folder)
    mesh = devices.make_mesh(config.num_devices)
    config_lib.check_devices(config, mesh.size)
    piece_set = data.load(config.data)
    resident = data.make_resident(piece_set.splits["train"], config.data)
    valid = data.validation(piece_set.splits["valid"], config.data)
    streams = _is_too_large(resident, config.data)
    per_dispatch = 1 if streams else config.train.steps_per_dispatch or (1 if devices.on_cpu() else 10)
    lesson, teachers_sha256 = _lesson(config)

    with contextlib.closing(
        checkpoint.open_run(folder, milestone_base=config_lib.milestone_base(config.train))
    ) as manager:
        data_sha256, valid_sha256 = weights_lib.digest(resident), weights_lib.digest(valid.windows)
        _check_same_everywhere(data_sha256, valid_sha256, *teachers_sha256.split())
        state = checkpoint.restore(
            manager,
            config,
            mesh,
            data_sha256,
            valid_sha256=valid_sha256,
            teachers_sha256=teachers_sha256,
            kind=net.kind,
        )
        if state is None:
            # By numpy: what a checkpoint was restored to is bound to a device of this process.
            state = devices.replicate(jax.tree.map(np.asarray, _initial_state(config, net.kind)), mesh)
        first_step = int(state.step)
        if _is_stuck(state, config.train):
            _say(
                f"had stopped early at step {first_step}: {int(state.progress.evals_since_best)} evaluations without "
                f"progress; to go on, raise --config.train.early_stop_evals={config.train.early_stop_evals} or give 0"
            )
            return loop.Stopped("early", first_step)
        if len(valid.clean) < valid.total:
            _say(
                f"validating on {len(valid.clean)} of {valid.total} windows, always the same: all take more than "
                f"data.device_mib={config.data.device_mib}"
            )

        def compiled(body: Callable[..., Any], *, sharded: Sequence[bool], donate: Sequence[int] = ()) -> Any:
            return devices.map_body(body, mesh, config.parallel, sharded=sharded, donate=donate)

        body = functools.partial(net.bodies.train_step, config=config)
        if lesson.teachers:
            body = functools.partial(body, lesson=lesson)
        if streams or (per_dispatch == 1 and devices.on_cpu()):
            run_one = compiled(body, sharded=(False, streams), donate=(0,))
            run_steps = lambda state, source, _: run_one(state, source)  # noqa: E731
        else:
            several = functools.partial(steps.train_steps, step=body)
            run_steps = compiled(several, sharded=(False, False, False), donate=(0,))
        run_statistics = compiled(
            functools.partial(net.bodies.estimate_statistics, config=config), sharded=(False, False)
        )
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
        windows = devices.replicate(data.pad_rows(valid.windows, multiple), mesh)
        clean = devices.replicate(np.pad(valid.clean, (0, len(windows.valid) - len(valid.clean))), mesh)
        evaluation = functools.partial(net.bodies.eval_step, config=config, num_windows=len(valid.clean))
        run_eval = compiled(evaluation, sharded=(False, False, False))

        save_every = config.train.save_every or config.train.eval_every
        write = functools.partial(
            checkpoint.save,
            manager,
            config=config,
            data_sha256=data_sha256,
            valid_sha256=valid_sha256,
            teachers_sha256=teachers_sha256,
            kind=net.kind,
        )

        def evaluate(state: state_lib.TrainState) -> tuple[state_lib.TrainState, dict[str, float], bool]:
            weights = run_statistics(state, statistics_source)
            nll, clean_nll = run_eval(weights, windows, clean)
            step = int(state.step)
            if not np.isfinite(float(nll)):
                raise loop.NotFinite(f"the validation NLL is {float(nll)} at step {step}")
            # The evaluation at the end of a run that is prolonged later must leave no trace in what it carries on.
            if step % config.train.eval_every == 0:
                state = state._replace(progress=run_progress(state.progress, nll))
            stuck = _is_stuck(state, config.train)
            if stuck or step == config.train.num_steps or step % save_every == 0:
                write(state, weights, valid_nll=float(nll))
            numbers = {checkpoint.VALID_NLL: float(nll), "rate_scale": float(state.progress.rate_scale)}
            if 0 < valid.clean.sum() < len(valid.clean):
                numbers["valid_nll_clean"] = float(clean_nll)  # without the pieces that train nearly holds
            return state, numbers, stuck

        def save(state: state_lib.TrainState) -> None:
            write(state, run_statistics(state, statistics_source), valid_nll=None)

        schedule = loop.Schedule(
            num_steps=config.train.num_steps,
            steps_per_dispatch=per_dispatch,
            report_every=config.train.report_every,
            eval_every=config.train.eval_every,
        )
        with (
            progress.Reporter(folder, first_step, config, mesh) as reporter,
            loop.signals(config.train.report_every) as interrupted,
        ):
            reporter.start(state, len(piece_set.splits["train"].lengths), piece_set.source)
            state, stopped = loop.run(
                run_steps,
                state,
                sources,
                schedule,
                evaluate=evaluate,
                save=save,
                report=reporter.report,
                interrupted=interrupted,
            )
            manager.wait_until_finished()
            reporter.finish(stopped)
    return stopped


def _check_same_everywhere(*sha256: str) -> None:
    if jax.process_count() > 1:
        mine = np.frombuffer(hashlib.sha256("".join(sha256).encode()).digest(), np.uint8)
        if (multihost_utils.process_allgather(mine) != mine).any():
            raise errors.InputError(
                "the processes hold different pieces or teachers; give all of them the same data and train.teachers"
            )


def _say(line: str) -> None:
    if devices.is_lead():
        print(line, flush=True)


def _is_stuck(state: state_lib.TrainState, config: config_lib.Train) -> bool:
    return bool(config.early_stop_evals) and int(state.progress.evals_since_best) >= config.early_stop_evals


def _is_too_large(resident: data.Resident, config: config_lib.Data) -> bool:
    return resident.pitches.nbytes > config.device_mib * 2**20


def _initial_state(config: Any, kind: checkpoint.Kind[Any] = checkpoint.COCONET) -> state_lib.TrainState:
    key = jax.random.fold_in(jax.random.key(config.train.seed), 2**31 - 1)  # apart from every step's key
    if not config.train.init_from:
        return state_lib.begin(kind.init(key, config.model), config.train)
    found = [_start(source, config, kind, key) for source in config.train.init_from.split(",")]
    # Nets that went on from one start differ little, and the mean of their weights is often better than any of them
    # (Wortsman et al. 2022, arXiv 2203.05482).
    return state_lib.begin(jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *found), config.train)


def _start(source: str, config: Any, kind: checkpoint.Kind[Any], key: jax.Array) -> model.Variables:
    """The variables of a run or a model that ships, for the net that is to be trained."""
    loaded: Any = checkpoint.load(source) if kind is checkpoint.COCONET else checkpoint.load_kind(kind, source)
    ignored = ("dtype", "remat", "bn_momentum", "bn_scale_init", "dropout")
    wanted, stored = dataclasses.asdict(config.model), dataclasses.asdict(loaded.config.model)
    stored |= {name: wanted[name] for name in ignored if name in wanted}
    differing = [f"model.{k}={wanted[k]!r}, there {stored[k]!r}" for k in wanted if wanted[k] != stored[k]]
    variables = loaded.variables
    if differing and kind is checkpoint.COCONET:
        larger = model.extend(variables, config_lib.Model(**stored), config.model, key)
        variables, differing = (variables, differing) if larger is None else (larger, [])
    if loaded.config.data.steps_per_quarter != config.data.steps_per_quarter:
        differing.append(
            f"data.steps_per_quarter={config.data.steps_per_quarter}, there {loaded.config.data.steps_per_quarter}"
        )
    if differing:
        larger_too = kind is checkpoint.COCONET and loaded.config.model.num_layers % 2 == 0
        raise errors.InputError(
            f"train.init_from={source} holds another network: {'; '.join(differing)}; "
            "use the same model settings" + larger_too * ", or pairs of layers more before the last three, and beats"
        )
    return variables


def _lesson(config: config_lib.Run) -> tuple[steps.Lesson, str]:
    """What is learned from other networks, and the digests of their weights."""
    if not config.train.teachers:
        return steps.NO_LESSON, ""
    names = config.train.teachers.split(",")
    found = [checkpoint.load(name) for name in names]
    for name, loaded in zip(names, found, strict=True):
        grid, beat = config.data.steps_per_quarter, loaded.config.model.beat_steps
        if loaded.config.data.steps_per_quarter != grid:
            raise errors.InputError(
                f"train.teachers={name}: it has {loaded.config.data.steps_per_quarter} steps per quarter, "
                f"data.steps_per_quarter={grid}; give teachers on the same grid"
            )
        if beat and config_lib.crop_grid(config.data) % beat:
            raise errors.InputError(
                f"train.teachers={name}: it counts beats of {beat} steps, and crops begin on any of "
                f"{config_lib.crop_grid(config.data)}; use data.crop_grid={beat}"
            )
    teachers = tuple(_teacher(loaded, config.model) for loaded in found)
    return steps.Lesson(teachers, config.train.teacher_share), " ".join(loaded.sha256 for loaded in found)


def _teacher(loaded: weights_lib.Loaded, pupil: config_lib.Model) -> steps.Teacher:
    constants = jax.tree.map(np.asarray, loaded.variables)  # those of a compiled step must be bound to no device
    config = dataclasses.replace(loaded.config.model, dtype=pupil.dtype, remat=False)

    def teacher(
        roll: Float[Array, "b t p i"],
        context: Bool[Array, "b t i"],
        valid: Bool[Array, "b t"],
        silent: Bool[Array, "b t"],
    ) -> Float[Array, "b t p i"]:
        if loaded.config.data.ends:  # others have never met silence that is given
            context, valid = steps.show_silence(context, valid, silent)
        return model.make_predict(jax.tree.map(jnp.asarray, constants), config)(roll, context, valid)

    return teacher


def _rows_of_process(batch_size: int, mesh: devices.Mesh) -> np.ndarray:
    """Places in the global batch of the examples of this process's devices, in the mesh's order."""
    local = batch_size // mesh.size
    own = [n for n, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    return np.concatenate([np.arange(n * local, (n + 1) * local, dtype=np.int32) for n in own])


def _make_folder(folder: storage.Place) -> None:
    if isinstance(folder, storage.Url):
        files.check_folder(folder)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable.{os.getpid()}"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise errors.InputError(f"--workdir={folder}: cannot write there ({error.strerror}); choose another") from None
    place = folder / checkpoint.FOLDER
    if place.exists() and not place.is_dir():
        raise errors.InputError(
            f"--workdir={folder}: {checkpoint.FOLDER} there is no folder; remove it or choose another"
        )


# --------------------------------------------------------------------------------------------- command

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A recipe, such as configs/cpu.py; override a field by --config.train.num_steps=1000."
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder or gs:// URL of the run: checkpoints, metrics.jsonl, loss.png. The same again resumes."
)


def parse(argv: Sequence[str], text: str) -> list[str]:
    """absl's parsing, a mistake being one line and exit code 2; `--help` prints the text."""
    if any(word in ("--help", "-help", "-h", "--helpfull", "--helpshort") for word in argv):
        print(text)
        sys.exit(0)
    with errors.exit_on_input_error():
        try:
            rest = flags.FLAGS(list(argv))
            if _CONFIG.value is not None:
                _CONFIG.value.to_dict()  # a recipe that cannot be loaded says so only when it is looked at
        except flags.Error as error:
            raise errors.InputError(f"{error} (see --help)") from None
        except Exception as error:  # whatever the code of a recipe raises
            if unknown := re.fullmatch(r"[\"']+(\w+)[\"']+", str(error)):  # a field of --config.field
                raise errors.InputError(f"--config has no field {unknown[1]}; see coconet_jax/config.py") from None
            if missing := re.search(r"\[Errno \d+\] (.*)", str(error)):
                raise errors.InputError(f"--config: {missing[1]}; give a recipe, such as configs/cpu.py") from None
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
  --workdir=DIR        where checkpoints/, metrics.jsonl and loss.png go: a folder or a gs:// URL. The same command
                       again resumes from the last checkpoint, bit for bit; a larger --config.train.num_steps prolongs
                       the run.

Fine-tune on scores of your own:
  python -m coconet_jax.train --config=configs/cpu.py --workdir=runs/mine --config.train.init_from=runs/first \\
      --config.data.dataset=folder --config.data.source=my_scores
(what ships instead of runs/first: --config=configs/small.py ... --config.train.init_from=small; runs/a,runs/b: the mean
of two that went on from one start)

Learn from networks that are trained already, beside the pieces:
  python -m coconet_jax.train --config=configs/small.py --workdir=runs/pupil --config.train.teachers=small,runs/other \\
      --config.train.teacher_share=0.7

Ctrl-C or SIGTERM saves and ends. All fields and their defaults: coconet_jax/config.py."""


def _cpu_devices(config: config_lib.Train, num_cores: int) -> int:
    """The most devices, each a core, among which training and evaluation batches fall into equal parts."""
    return max(n for n in range(1, num_cores + 1) if config.batch_size % n == config.eval_batch_size % n == 0)


def main(argv: Sequence[str], net: Net = COCONET) -> None:
    """The command, of any net: code 0 when done, 2 on a bad setting, 3 when the loss diverged, 143 after SIGTERM."""
    del argv
    checkpoint.quiet()
    with errors.exit_on_input_error():
        config = net.kind.read_config(_CONFIG.value)
        net.check(config)
        spread = config.distributed
        if spread.mode == "off":
            devices.split_cpu(config.num_devices or _cpu_devices(config.train, devices.num_cores()))
        devices.start_processes(spread.mode, spread.coordinator, spread.num_processes, spread.process_id)
        devices.use_compile_cache()
        remedy = (
            f"lower train.batch_size={config.train.batch_size}, train.eval_batch_size={config.train.eval_batch_size} "
            f"or data.crop_steps={config.data.crop_steps}"
        ) + (", or give model.remat=True" if hasattr(config.model, "remat") and not devices.on_cpu() else "")
        try:
            assert _WORKDIR.value is not None  # _parse has seen to it
            with devices.explain_lack_of_memory(remedy):
                stopped = train(config, _WORKDIR.value, net)
        except loop.NotFinite as error:
            print(
                f"error: {error}; lower train.learning_rate (now {config.train.learning_rate}) or set "
                "train.clip_norm, and start a new --workdir, where a checkpoint was saved before with "
                "--config.train.init_from: the last good one is kept",
                file=sys.stderr,
            )
            sys.exit(3)
    if stopped.reason == "signal":
        sys.exit(143)


if __name__ == "__main__":
    if "--help" not in sys.argv:  # which would import everything twice
        devices.use_huge_pages()
    app.run(main, flags_parser=functools.partial(parse, text=_HELP))
