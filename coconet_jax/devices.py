"""Devices and processes: mesh, the mapping of a per-device body, jax.distributed, the compile cache.

A body is written once, for one device, with collectives over the axis "data". `map_body` wraps it for all
devices by `shard_map` or by `pmap`; either way the state is replicated and has no device axis outside.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import functools
import hashlib
import logging
import os
import pathlib
import socket
import sys
from typing import Any

import jax
from jax.experimental import multihost_utils
import numpy as np

from coconet_jax import errors, storage

AXIS = "data"
Mesh = jax.sharding.Mesh
PartitionSpec = jax.sharding.PartitionSpec


def use_compile_cache(directory: str | None = None) -> None:
    """Keeps compiled programs between runs, in the user's cache folder by default.

    Training `configs/test.py` took 23 s without and 7 s with them (2 cores of an Intel Xeon, jax 0.10.2).

    JAX_COMPILATION_CACHE_DIR, where it is set, wins.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    try:
        base = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
        path = pathlib.Path(directory) if directory else base / "coconet_jax" / "xla"
        path.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: whoever runs this has no home
        return  # a cache is a convenience: without one everything works, only slower
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # Loading an entry made on a machine with other CPU features logs at error level but only recompiles.
    logging.getLogger("jax._src.compilation_cache").setLevel(logging.CRITICAL)


def num_cores() -> int:
    """Cores this process may use, which in a container or under taskset are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def split_cpu(count: int) -> None:
    """Makes the CPU so many devices, unless JAX_NUM_CPU_DEVICES says how many; before anything runs on it.

    One program over several cores leaves them idle between its operations, one program for each does not: 18.6
    against 11.2 ms for one call of `small` on one chorale of 64 steps, 1074 against 910 ms for one of its training
    steps (benchmarks/cpu_devices.py; 2 cores of an AMD EPYC, jax 0.10.2).
    """
    _order_for_memory()
    if not os.environ.get("JAX_NUM_CPU_DEVICES"):
        # After the first use of the CPU it is too late, and one device does as well.
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", max(count, 1))


def _order_for_memory() -> None:
    """Has XLA order the operations of a CPU program so that few results are alive at once.

    By default it orders them so that many could run at once, which a device of one core cannot: a training step of
    `small` then takes 409 MB a core in place of 194, and the time to fault them in (benchmarks/cpu_memory.py).
    """
    flag, flags = "--xla_cpu_enable_concurrency_optimized_scheduler", os.environ.get("XLA_FLAGS", "")
    # A flag that it does not know makes XLA abort: only for versions that were looked at.
    if flag not in flags and (0, 10) <= jax.__version_info__ < (0, 13):
        os.environ["XLA_FLAGS"] = f"{flags} {flag}=false".strip()


def use_huge_pages() -> None:
    """Starts this command anew with large pages for its memory, where it runs on Linux and has none.

    Each training step on CPU takes hundreds of megabytes from the system and gives them back; in pages of 4 kB that
    is a fifth of its time (benchmarks/cpu_memory.py). glibc reads the setting when a process starts and never again.
    To be called by a command before it does anything else. A GLIBC_TUNABLES that names glibc.malloc.hugetlb stays.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or "glibc.malloc.hugetlb" in tunables:
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, "glibc.malloc.hugetlb=1"]))
    with contextlib.suppress(OSError):  # a convenience, as the compile cache is
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def start_processes(mode: str, coordinator: str, num_processes: int, process_id: int) -> None:
    """Joins the other processes of a run; nothing where `mode` is "off".

    `auto` finds them on Cloud TPU, GKE and Slurm. Without such a place `jax.distributed.initialize()` fails,
    so it is never called there.

    Raises:
      InputError: a manual set-up that is not whole, or processes that cannot be found.
    """
    if mode == "off":
        return
    # Its handler would swallow a SIGTERM that comes before training listens to signals itself.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        if mode == "auto":
            jax.distributed.initialize()
            return
        if not coordinator or not 0 <= process_id < num_processes:
            raise errors.InputError(
                f"distributed.mode=manual needs distributed.coordinator=host:port (here {coordinator!r}) and "
                f"distributed.process_id={process_id} below distributed.num_processes={num_processes}"
            )
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except errors.InputError:
        raise
    except (ValueError, RuntimeError) as error:
        raise errors.InputError(
            f"distributed.mode={mode}: the processes did not find each other ({error}); "
            "use distributed.mode=off for one process"
        ) from None


def join_processes(where: str) -> None:
    """`start_processes` by the value of the flag --distributed: off, auto or host:port,P,K."""
    mode, coordinator, count, number = where, "", "1", "0"
    if where not in ("off", "auto"):
        mode, parts = "manual", where.split(",")
        if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal() and int(parts[2]) < int(parts[1])):
            raise errors.InputError(f"--distributed={where}: use off, auto or host:port,P,K with K = 0 to P - 1")
        coordinator, count, number = parts
    try:
        start_processes(mode, coordinator, int(count), int(number))
    except errors.InputError:
        raise errors.InputError(
            f"--distributed={where}: the processes did not find each other; start all of them, or leave it out"
        ) from None


def make_mesh(num_devices: int = 0) -> Mesh:
    """A one-axis mesh ("data",) over the first `num_devices` devices of all processes (0: all).

    Raises:
      InputError: more devices are asked for than there are.
    """
    devices = jax.devices()
    if num_devices > len(devices):
        raise errors.InputError(f"num_devices={num_devices}: there are only {len(devices)}; use 0 for all")
    if num_devices and num_devices < len(devices) and jax.process_count() > 1:
        raise errors.InputError(f"num_devices={num_devices}: several processes use all devices; use 0")
    chosen = devices[: num_devices or None]
    return jax.make_mesh((len(chosen),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=chosen)


def make_local_mesh(most: int = 0) -> Mesh:
    """A mesh over the devices of this process alone, at most so many (0: all): no other process need take part."""
    local = jax.local_devices()[: most or None]
    return jax.make_mesh((len(local),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,), devices=local)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places a host value, equal in all processes, on every device of the mesh."""
    return jax.device_put(tree, jax.sharding.NamedSharding(mesh, PartitionSpec()))


def shard_rows(tree: Any, mesh: Mesh) -> Any:
    """Splits the leading axis over the mesh; each process gives the rows of its own devices."""
    sharding = jax.sharding.NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, np.asarray(x)), tree)


def map_body(
    body: Callable[..., Any],
    mesh: Mesh,
    parallel: str,
    *,
    sharded: Sequence[bool],
    donate: Sequence[int] = (),
) -> Callable[..., Any]:
    """Compiles a per-device body for all devices of the mesh.

    Args:
      body: takes arrays and uses collectives over the axis "data"; what it returns must be equal on all devices.
      mesh: from `make_mesh`.
      parallel: "shard_map" or "pmap" ("auto" is "shard_map").
      sharded: for each argument, whether its leading axis is split over the devices rather than replicated.
      donate: arguments whose buffers may be reused for the result.

    Returns:
      A function of the same arguments, on replicated (or sharded) global arrays.
    """
    if parallel == "pmap":
        return _pmap(body, mesh, sharded, donate)
    specs = tuple(PartitionSpec(AXIS) if split else PartitionSpec() for split in sharded)
    # With check_vma=True (the default) pmean(grad(loss)) silently gives N-fold gradients.
    mapped = jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False)
    return jax.jit(mapped, donate_argnums=tuple(donate))


def _pmap(body: Callable[..., Any], mesh: Mesh, sharded: Sequence[bool], donate: Sequence[int]) -> Callable[..., Any]:
    """The same by pmap, with replicated arguments and results: no leading device axis on the state."""
    by_device = jax.sharding.NamedSharding(mesh, PartitionSpec(AXIS))
    # pmap wants one mapped argument, even where every other is replicated.
    numbers = jax.make_array_from_callback((mesh.size,), by_device, lambda index: np.arange(mesh.size)[index])
    mapped = jax.pmap(
        lambda _, *args: body(*args),
        axis_name=AXIS,
        in_axes=(0, *(0 if split else None for split in sharded)),
        out_axes=None,
        devices=list(mesh.devices.flat),
        donate_argnums=tuple(n + 1 for n in donate),
    )

    @functools.partial(jax.jit, out_shardings=by_device)
    def fold(tree: Any) -> Any:
        """[b, ...] split over the devices to [devices, b / devices, ...]."""
        return jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), tree)

    def rejoin(x: jax.Array) -> jax.Array:
        """With several processes pmap replicates over this one's devices: say that it is all of them."""
        everywhere = jax.sharding.NamedSharding(mesh, PartitionSpec())
        shards = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, everywhere, shards)

    def call(*args: Any) -> Any:
        out = mapped(numbers, *(fold(arg) if split else arg for arg, split in zip(args, sharded, strict=True)))
        return jax.tree.map(rejoin, out) if jax.process_count() > 1 else out

    return call


@contextlib.contextmanager
def explain_lack_of_memory(remedy: str) -> Iterator[None]:
    """An InputError with the remedy where the memory of the machine or of a device does not suffice."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise errors.InputError(f"the memory does not suffice ({str(error)[:150]}); {remedy}") from None


def check_shared(flag: str, named: storage.Named) -> None:
    """InputError where a local folder is named and the processes are on several hosts, which need not share it."""
    hosts = num_hosts()
    if hosts > 1 and isinstance(storage.place(named), pathlib.Path):
        raise errors.InputError(
            f"{flag}={named}: {hosts} hosts cannot share a local folder; give a gs:// one, or "
            f"file://{pathlib.Path(str(named)).absolute()} for a disk that they share"
        )


def num_hosts() -> int:
    """Machines that the processes of this run are on, told apart by their names; all processes take part."""
    if jax.process_count() == 1:
        return 1
    name = np.frombuffer(hashlib.sha256(socket.gethostname().encode()).digest(), np.uint8)
    return len(np.unique(multihost_utils.process_allgather(name), axis=0))


def is_lead() -> bool:
    """Whether this process writes metrics and prints."""
    return jax.process_index() == 0


def memory_bytes() -> int:
    """Memory of a device of this process: its own, or its share of the machine's (of the container's, if less)."""
    if not on_cpu():
        # What XLA may have of it; a device that does not say has 8 GiB at least.
        return int((jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 8 << 30))
    total = 8 << 30
    with contextlib.suppress(ValueError, OSError, AttributeError):  # no sysconf on Windows
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(ValueError, OSError):  # "max": no limit
        total = min(total, int(pathlib.Path("/sys/fs/cgroup/memory.max").read_text()))
    return total // len(jax.local_devices())


def describe(mesh: Mesh) -> str:
    """A line such as "8 x cpu in 1 process"."""
    count = jax.process_count()
    return f"{mesh.size} x {mesh.devices.flat[0].device_kind} in {count} process{'es' if count > 1 else ''}"


def on_cpu() -> bool:
    """Whether programs run on the CPU, where some convolution gradients need another formulation."""
    return jax.default_backend() == "cpu"
