"""Every Orbax call of the project: checkpoints of a run, kept, found, checked and read back.

A run's folder holds `checkpoints/<step>/` with the items
  weights      what is sampled from: {"params", "batch_stats"} (averaged parameters, re-estimated statistics),
  train_state  all that resuming needs,
  header       JSON: format version, config, sha256 of weights, state and pieces, package versions,
  metrics      JSON: the validation NLL, where the step was evaluated.
Where the folder is a URL, Orbax works in a temporary one that mirrors it.
"""

from collections.abc import Callable, Mapping
import contextlib
import dataclasses
import gc
import importlib.metadata
import logging
import pathlib
import shutil
import sys
import tempfile
import time
from typing import Any, Generic

from absl import logging as absl_logging
import jax
from jax.experimental import multihost_utils
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as ocp_managers

from coconet_jax import config as config_lib
from coconet_jax import devices, errors, mirror, model, storage
from coconet_jax import state as state_lib
from coconet_jax import weights as weights_lib

FORMAT = 1
FOLDER = "checkpoints"
VALID_NLL = "valid_nll"
_MAY_BE_EMPTY = ("ema", "batch_stats")  # of a state
_METRICS = "metrics"  # Orbax's name of the item


@dataclasses.dataclass(frozen=True)
class Kind(Generic[config_lib.AnyRun]):
    """A kind of network, as far as its checkpoints go.

    Attributes:
      name: in the header.
      read_config: what the header holds -> the config of the run.
      init: (key, the config's `model`) -> variables, of which the shapes are wanted.
      module: the command that trains it.
    """

    name: str
    read_config: Callable[[Mapping[str, Any]], config_lib.AnyRun]
    init: Callable[[Any, Any], model.Variables]
    module: str


COCONET = Kind("coconet", config_lib.from_mapping, model.init, "coconet_jax.train")


@dataclasses.dataclass(frozen=True)
class Loaded(Generic[config_lib.AnyRun]):
    """Weights of a run of any kind; those of Coconet are a `weights.Loaded`."""

    variables: model.Variables
    config: config_lib.AnyRun
    step: int
    sha256: str
    metrics: dict[str, float]


def _nll_of(metrics: dict[str, float]) -> float:
    return metrics[VALID_NLL]


class _Mirror(ocp.CheckpointManager):
    """A manager of the checkpoints at a URL, in a temporary folder of this process; an item is fetched when it is read.

    The state is replicated, so process 0 writes all of it; the others wait, and fail where it does. Each process reads
    for itself.
    """

    def __init__(self, url: storage.Url, options: ocp.CheckpointManagerOptions):
        self.url = url
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="coconet_jax_"))
        process = jax.process_index()
        alone = ocp.options.MultiprocessingOptions(
            primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process {process}"
        )
        try:
            for step in mirror.steps(url):
                mirror.fetch(url, step, (_METRICS,), self._folder)
            super().__init__(
                self._folder, options=dataclasses.replace(options, create=False, multiprocessing_options=alone)
            )
        except BaseException:
            shutil.rmtree(self._folder)
            raise

    def restore(self, step: int, args: ocp.args.Composite) -> Any:  # type: ignore[override]
        mirror.fetch(self.url, step, tuple(args.keys()), self._folder)
        return super().restore(step, args=args)

    def save(self, step: int, args: ocp.args.Composite, **fields: Any) -> None:  # type: ignore[override]
        failure: Exception | None = None
        if devices.is_lead():
            try:
                super().save(step, args=args, **fields)
                self._publish(step)
            except Exception as error:
                failure = error
        if jax.process_count() > 1:
            failed = bool(multihost_utils.broadcast_one_to_all(np.array(failure is not None)))
            if failed and not failure:
                failure = storage.StoreError(
                    f"process 0 could not write the checkpoint of step {step}; see what it says"
                )
        if failure:
            raise failure
        if not devices.is_lead():
            mirror.fetch(self.url, step, (_METRICS,), self._folder)
            self.reload()

    def _publish(self, step: int) -> None:
        """Uploads a step and deletes those at the URL that Orbax has deleted here."""
        self.wait_until_finished()
        mirror.publish(self._folder, step, self.url)
        for old in set(mirror.steps(self.url)) - set(self.all_steps()):
            mirror.delete(self.url, old)
        for path in (self._folder / str(step)).iterdir():  # what Orbax looks at again are the metrics alone
            if path.is_dir() and path.name != _METRICS:
                shutil.rmtree(path)

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)


def _open(folder: storage.Place, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    if isinstance(folder, storage.Url):
        return _Mirror(folder, options)
    return ocp.CheckpointManager(folder, options=options)


def open_run(workdir: storage.Named, *, milestone_base: int = 0) -> ocp.CheckpointManager:
    """A manager that writes a run's checkpoints, on disk asynchronously.

    Keeps the last two, the best two by validation NLL and, where `milestone_base` > 0, those at
    milestone_base, 2 milestone_base, 4 milestone_base, ... steps. What was a milestone when it was saved stays one,
    under whatever settings the run is resumed.
    """
    kept: list[ocp_managers.PreservationPolicy] = [
        ocp_managers.LatestN(2),
        ocp_managers.BestN(
            get_metric_fn=_nll_of,
            reverse=True,
            n=2,
            keep_checkpoints_without_metrics=False,
        ),
    ]
    if milestone_base:
        kept.append(ocp_managers.CustomSteps(_milestones(milestone_base)))
    options = ocp.CheckpointManagerOptions(
        preservation_policy=ocp_managers.AnyPreservationPolicy(kept),
        best_fn=_nll_of,  # without it Orbax writes no metrics; what is kept is the policy's matter
        save_root_metadata=False,
    )
    folder = storage.place(workdir).absolute() / FOLDER  # Orbax refuses relative paths
    if devices.is_lead():
        _remove_leftovers(folder)
    manager = _open(folder, options)
    kept.append(ocp_managers.CustomSteps(_stored_milestones(manager)))  # known only now; the policy holds this list
    return manager


def _remove_leftovers(folder: storage.Place) -> None:
    """Removes the half-written checkpoints of a process that was killed.

    On disk Orbax would, by cleanup_tmp_directories, but removes a folder and those inside it side by side: the next
    save then fails with "Directory not empty".
    """
    if isinstance(folder, storage.Url):
        mirror.clean_up(folder)
        return
    for leftover in folder.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(leftover, ignore_errors=True)


def _milestones(base: int) -> list[int]:
    return [base << k for k in range(40)]


def _stored_milestones(manager: ocp.CheckpointManager) -> list[int]:
    """The steps on disk that are milestones by the settings they were saved under."""
    found = []
    for step in manager.all_steps():
        with contextlib.suppress(errors.InputError):  # damage is named when the step itself is read
            stored = _read_header(manager, step)["config"]
            config = {name: part for name, part in stored.items() if name != "model"}  # whatever the kind
            base = config_lib.milestone_base(config_lib.build(config_lib.Run, config).train)
            if step in _milestones(base):
                found.append(step)
    return found


def save(
    manager: ocp.CheckpointManager,
    state: state_lib.TrainState,
    weights: model.Variables,
    config: config_lib.Run,
    data_sha256: str,
    valid_nll: float | None,
    *,
    valid_sha256: str = "",
    teachers_sha256: str = "",
    kind: Kind[Any] = COCONET,
) -> None:
    """Starts writing a checkpoint of `state`; whole or not at all, also under kill -9. Saving a step twice is once.

    Args:
      manager: from `open_run`.
      state: to be resumed from.
      weights: to be sampled from.
      config: the run's.
      data_sha256: digest of the training pieces, so that no run is resumed on others.
      valid_nll: nats per variable, where the step was evaluated.
      valid_sha256: digest of the validation windows: they settle what is best and, on plateau, the learning rate.
      teachers_sha256: digests of the teachers' weights, with spaces between.
      kind: of network.
    """
    step = int(state.step)
    if step in manager.all_steps():
        return
    header = {
        "format": FORMAT,
        "kind": kind.name,
        "config": config_lib.to_dict(config),
        "sha256": weights_lib.digest(weights),
        "state_sha256": weights_lib.digest(_as_tree(state)),
        "data_sha256": data_sha256,
        "valid_sha256": valid_sha256,
        "teachers_sha256": teachers_sha256,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")},
    }
    tree = _as_tree(state)
    if isinstance(manager, _Mirror):  # one process writes what all hold: to Orbax, arrays of its own
        weights, tree = jax.tree.map(np.asarray, (weights, tree))
    manager.save(
        step,
        args=ocp.args.Composite(
            weights=ocp.args.StandardSave(weights),
            train_state=ocp.args.StandardSave(tree),
            header=ocp.args.JsonSave(header),
        ),
        metrics=None if valid_nll is None else {VALID_NLL: valid_nll},
        force=True,
    )


def _as_tree(state: state_lib.TrainState) -> dict[str, Any]:
    # Orbax stores an empty dict as a leaf of its own kind: leave an absent average or absent statistics out.
    tree = state._asdict()
    for name in _MAY_BE_EMPTY:
        if not tree[name]:
            del tree[name]
    return tree


def restore(
    manager: ocp.CheckpointManager,
    config: config_lib.Run,
    mesh: devices.Mesh,
    data_sha256: str,
    *,
    valid_sha256: str = "",
    teachers_sha256: str = "",
    kind: Kind[Any] = COCONET,
) -> state_lib.TrainState | None:
    """The state of the last checkpoint, replicated over `mesh`; None in a new run.

    An empty digest of pieces is not compared.

    Raises:
      InputError: the run was started under settings whose maths differ, on other pieces or with other teachers.
    """
    step = manager.latest_step()
    if step is None:
        return None
    stored = _read_header(manager, step)
    config_lib.check_resume(_config_of(stored, step, kind), config)
    # Early checkpoints tell nothing of the validation pieces.
    for what, key, here in (("training", "data_sha256", data_sha256), ("validation", "valid_sha256", valid_sha256)):
        there = stored.get(key, "")
        if there and here and there != here:
            raise errors.InputError(
                f"this run was started on other {what} pieces (sha256 {there[:12]}, here {here[:12]}); give the same "
                "data, or start a new --workdir (--config.train.init_from keeps the parameters)"
            )
    if (there := stored.get("teachers_sha256", "")) != teachers_sha256:
        raise errors.InputError(
            f"this run was started with {_name_teachers(there)}, here are {_name_teachers(teachers_sha256)}; give "
            "the same train.teachers, or start a new --workdir (--config.train.init_from keeps the parameters)"
        )
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    shapes = _as_tree(state_lib.abstract(config, kind.init))
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    tree = _read(manager, step, train_state=ocp.args.StandardRestore(target)).train_state
    _check_digest(tree, stored["state_sha256"], manager, step)
    return state_lib.TrainState(**{**{name: {} for name in _MAY_BE_EMPTY}, **tree})


def _name_teachers(sha256: str) -> str:
    return f"teachers {', '.join(each[:12] for each in sha256.split())}" if sha256 else "no teachers"


def _read_header(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    header = _read(manager, step, header=ocp.args.JsonRestore()).header
    if not isinstance(header, dict) or "config" not in header:
        raise _damaged(manager, step, "its header is not one")
    return header


def _read(manager: ocp.CheckpointManager, step: int, **items: Any) -> Any:
    """Items of a checkpoint; whatever Orbax raises on a damaged one becomes a line."""
    # When one of its reads fails, Orbax closes their event loop without cancelling the others. Each of those would
    # complain to stderr when it is collected, so they are collected here, unheard.
    heard = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        try:
            return manager.restore(step, args=ocp.args.Composite(**items))
        except storage.StoreError:
            raise
        except Exception as error:  # its readers let through what tensorstore, msgpack and json raise
            reason = f"{type(error).__name__}: {error}"
        # Here the error and its frames are gone; reads that wait for the file system are let go within moments.
        for _ in range(3):
            gc.collect()
            time.sleep(0.02)
    finally:
        sys.unraisablehook = heard
    raise _damaged(manager, step, reason)


def _check_digest(tree: Any, stored: str, manager: ocp.CheckpointManager, step: int) -> None:
    sha256 = weights_lib.digest(tree)
    if sha256 != stored:
        raise _damaged(manager, step, f"sha256 {sha256[:12]}, written as {stored[:12]}")


def _damaged(manager: ocp.CheckpointManager, step: int, reason: str) -> errors.InputError:
    others = [n for n in sorted(manager.all_steps()) if n != step]
    place = manager.url if isinstance(manager, _Mirror) else manager.directory
    return errors.InputError(
        f"the checkpoint of step {step} in {place} is damaged ({reason[:200]}); delete the folder {step} "
        f"there to use another (there are {others}), or copy it again"
    )


def _config_of(header: dict[str, Any], step: int, kind: Kind[config_lib.AnyRun]) -> config_lib.AnyRun:
    if header.get("format") != FORMAT:
        raise errors.InputError(
            f"the checkpoint of step {step} has format {header.get('format')!r}, this package reads {FORMAT}; "
            "use the version of coconet_jax that wrote it"
        )
    stored = header.get("kind", COCONET.name)  # early checkpoints do not tell, and are Coconet's
    if stored != kind.name:
        raise errors.InputError(
            f"the checkpoint of step {step} holds a network of the kind {stored}, not {kind.name}; give one that "
            f"python -m {kind.module} has written"
        )
    try:
        return kind.read_config(header["config"])
    except errors.InputError as error:
        raise errors.InputError(f"the config in the checkpoint of step {step} cannot be read: {error}") from None


def load(workdir: storage.Named, step: int | None = None) -> weights_lib.Loaded:
    """Weights on the default device: of a run's best checkpoint (by validation NLL), or of a given step; or plain ones.

    Args:
      workdir: of a run; or what `weights.read` reads, a shipped model's name or a folder.
      step: of a run.

    Raises:
      InputError: no checkpoint there, no such step, or the weights are not those that were written.
    """
    if weights_lib.is_plain(workdir):
        if step is not None:
            raise errors.InputError(f"step {step}: {workdir} is one set of weights, no run; leave the step out")
        return weights_lib.read(workdir)
    found = load_kind(COCONET, workdir, step)
    return weights_lib.Loaded(found.variables, found.config, found.step, found.sha256, found.metrics)


def load_kind(
    kind: Kind[config_lib.AnyRun], workdir: storage.Named, step: int | None = None
) -> Loaded[config_lib.AnyRun]:
    """Weights of a run of any kind, on the default device: of its best checkpoint, or of a given step.

    Raises:
      InputError: as `load`, and where the run is of another kind.
    """
    path = storage.place(workdir).absolute()
    if path.name == FOLDER:
        path = path.parent
    if not (path / FOLDER).is_dir():
        raise errors.InputError(
            f"{workdir} holds no checkpoint (no folder {FOLDER}/ in it); give the --workdir of a training run"
        )
    with contextlib.closing(
        _open(path / FOLDER, ocp.CheckpointManagerOptions(read_only=True, best_fn=_nll_of))
    ) as manager:
        steps = sorted(manager.all_steps())
        if not steps:
            raise errors.InputError(f"{workdir} holds no finished checkpoint yet; train longer")
        if step is not None and step not in steps:
            raise errors.InputError(f"step {step} is not among the checkpoints of {workdir}: {steps}")
        metrics = {n: dict(manager.metrics(n) or {}) for n in ([step] if step is not None else steps)}
        if step is None:
            # Those saved on a signal carry no evaluation; they serve only where there is nothing else.
            step = min(steps, key=lambda n: (metrics[n].get(VALID_NLL, np.inf), -n))
        header = _read_header(manager, step)
        config = _config_of(header, step, kind)
        variables = _restore_weights(manager, step, config, kind)
        _check_digest(variables, header["sha256"], manager, step)
    return Loaded(variables, config, step, header["sha256"], metrics[step])


def _restore_weights(manager: ocp.CheckpointManager, step: int, config: Any, kind: Kind[Any]) -> model.Variables:
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.eval_shape(lambda: kind.init(jax.random.key(0), config.model))
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), abstract)
    restored = _read(manager, step, weights=ocp.args.StandardRestore(target)).weights
    return jax.tree.map(jnp.asarray, restored)


def quiet() -> None:
    """Keeps the running commentary of Orbax and JAX out of the terminal; their errors stay."""
    absl_logging.set_verbosity(absl_logging.ERROR)
    for name in ("absl", "jax", "orbax"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Of a damaged checkpoint Orbax reports each read that it drops, long after the one that we name.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
