"""One body, mapped either way over any number of devices; and how a mesh or a set of processes is refused."""

import logging
import os
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import devices, errors

EITHER_WAY = pytest.mark.parametrize("parallel", ["shard_map", "pmap", "auto"])


def body(state, batch, offset):
    """An update with every kind of argument: a replicated tree, a sharded tree, a replicated array."""
    own = jnp.sum(batch["x"] * state["w"][None, :], axis=1) * batch["weight"]
    total, count = jax.lax.psum((jnp.sum(own), jnp.sum(batch["weight"])), devices.AXIS)
    rows = jax.lax.all_gather(batch["x"][:, 0], devices.AXIS, tiled=True)
    return {"w": state["w"] - 0.1 * total / count + offset, "n": state["n"] + 1}, {"rows": rows, "mean": total / count}


def inputs():
    rng = np.random.default_rng(0)
    state = {"w": np.arange(3, dtype=np.float32), "n": np.int32(4)}
    batch = {"x": rng.normal(size=(16, 3)).astype(np.float32), "weight": rng.random(16).astype(np.float32)}
    return state, batch, np.full(3, 0.5, np.float32)


@EITHER_WAY
@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_a_body_gives_the_same_on_any_devices_either_way(parallel, num_devices):
    state, batch, offset = inputs()
    mesh = devices.make_mesh(num_devices)
    step = devices.map_body(body, mesh, parallel, sharded=(False, True, False), donate=(0,))
    now, parts, spread = (
        devices.replicate(state, mesh),
        devices.shard_rows(batch, mesh),
        devices.replicate(offset, mesh),
    )
    expected = state["w"].astype(float)
    for n in range(3):  # the result is fed back, its predecessor given away
        now, metrics = step(now, parts, spread)
        mean = (batch["x"] @ expected * batch["weight"]).sum() / batch["weight"].sum()
        expected = expected - 0.1 * mean + 0.5
        np.testing.assert_allclose(metrics["mean"], mean, rtol=1e-4)
        np.testing.assert_array_equal(metrics["rows"], batch["x"][:, 0])
        np.testing.assert_allclose(now["w"], expected, rtol=1e-4)
        assert int(now["n"]) == 5 + n
    assert now["w"].shape == (3,)
    assert now["w"].sharding.is_fully_replicated
    assert now["w"].sharding.device_set == set(mesh.devices.flat)


def test_donated_buffers_are_given_away_and_no_others():
    mesh = devices.make_mesh(2)
    state, batch, offset = inputs()
    given, parts, spread = (
        devices.replicate(state, mesh),
        devices.shard_rows(batch, mesh),
        devices.replicate(offset, mesh),
    )
    devices.map_body(body, mesh, "shard_map", sharded=(False, True, False), donate=(0,))(given, parts, spread)
    assert given["w"].is_deleted()
    assert not parts["x"].is_deleted()
    assert not spread.is_deleted()


def gradient(w, x):
    grads = jax.grad(lambda w: jnp.mean(jnp.square(x * w)))(w)
    return jax.lax.pmean(grads, devices.AXIS)


@EITHER_WAY
def test_a_mean_of_gradients_is_not_multiplied(parallel):
    mesh = devices.make_mesh(8)
    x = np.arange(16, dtype=np.float32)
    found = devices.map_body(gradient, mesh, parallel, sharded=(False, True))(
        devices.replicate(np.float32(3), mesh), devices.shard_rows(x, mesh)
    )
    np.testing.assert_allclose(found, 2 * 3 * np.mean(x**2), rtol=1e-6)


def test_make_mesh():
    assert devices.make_mesh().size == 8
    assert devices.make_mesh(0).axis_names == ("data",)
    assert list(devices.make_mesh(3).devices.flat) == jax.devices()[:3]
    with pytest.raises(errors.InputError, match=r"^num_devices=9: there are only 8; use 0 for all$"):
        devices.make_mesh(9)


def test_several_processes_use_all_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(errors.InputError, match=r"^num_devices=2: several processes use all devices; use 0$"):
        devices.make_mesh(2)
    assert devices.make_mesh(8).size == devices.make_mesh(0).size == 8
    assert devices.describe(devices.make_mesh()) == "8 x cpu in 2 processes"


def test_replicate_and_shard_rows():
    mesh = devices.make_mesh(4)
    x = np.arange(24).reshape(8, 3)
    everywhere = devices.replicate({"a": x, "b": np.float32(2)}, mesh)
    assert [s.data.shape for s in everywhere["a"].addressable_shards] == [(8, 3)] * 4
    assert everywhere["b"].sharding.is_fully_replicated
    split = devices.shard_rows({"a": x}, mesh)["a"]
    assert split.shape == (8, 3)
    for n, shard in enumerate(split.addressable_shards):
        assert shard.device == mesh.devices.flat[n]
        np.testing.assert_array_equal(shard.data, x[2 * n : 2 * n + 2])


@pytest.mark.parametrize(("gathered", "count"), [([0, 0], 1), ([0, 1, 0, 2], 3)])
def test_hosts_are_counted(monkeypatch, gathered, count):
    """Of several processes: what each gives for its host differs from this one's by so much."""
    assert devices.num_hosts() == 1
    monkeypatch.setattr(jax, "process_count", lambda: len(gathered))
    monkeypatch.setattr(
        devices.multihost_utils, "process_allgather", lambda own: np.stack([own + np.uint8(n) for n in gathered])
    )
    assert devices.num_hosts() == count


def test_describe():
    assert devices.describe(devices.make_mesh(2)) == "2 x cpu in 1 process"
    assert devices.is_lead()
    assert devices.on_cpu()


# ------------------------------------------------------------------------------------------------ processes


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """Calls of jax.distributed.initialize, which is not carried out."""
    made: list[tuple] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: made.append(args))
    return made


def test_one_process_joins_nothing(calls):
    devices.start_processes("off", "", 1, 0)
    assert calls == []


def test_processes_are_joined(calls):
    devices.start_processes("auto", "", 1, 0)
    devices.start_processes("manual", "host:1234", 4, 3)
    assert calls == [(), ("host:1234", 4, 3)]


@pytest.mark.parametrize("coordinator, num_processes, process_id", [("", 2, 0), ("host:1", 2, 2), ("host:1", 2, -1)])
def test_a_manual_set_up_that_is_not_whole_is_refused(calls, coordinator, num_processes, process_id):
    message = (
        rf"^distributed\.mode=manual needs distributed\.coordinator=host:port \(here '{coordinator}'\) and "
        rf"distributed\.process_id={process_id} below distributed\.num_processes={num_processes}$"
    )
    with pytest.raises(errors.InputError, match=message):
        devices.start_processes("manual", coordinator, num_processes, process_id)
    assert calls == []


@pytest.mark.parametrize("error", [ValueError("coordinator_address should be defined."), RuntimeError("timed out")])
@pytest.mark.parametrize("mode", ["auto", "manual"])
def test_processes_that_do_not_find_each_other_are_reported(monkeypatch, mode, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(errors.InputError, match=rf"^distributed\.mode={mode}: .*{error}.*use distributed\.mode=off"):
        devices.start_processes(mode, "host:1", 2, 0)


# ------------------------------------------------------------------------------------------- compile cache


@pytest.fixture
def settings(monkeypatch) -> dict[str, object]:
    """What would be set in jax.config, with no cache chosen from outside."""
    made: dict[str, object] = {}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setattr(jax.config, "update", made.__setitem__)
    logger = logging.getLogger("jax._src.compilation_cache")
    level = logger.level
    yield made
    logger.setLevel(level)


def test_compile_cache_lies_in_the_users_cache_folder(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    devices.use_compile_cache()
    assert settings["jax_compilation_cache_dir"] == str(tmp_path / "coconet_jax" / "xla")
    assert (tmp_path / "coconet_jax" / "xla").is_dir()
    devices.use_compile_cache(str(tmp_path / "mine"))
    assert settings["jax_compilation_cache_dir"] == str(tmp_path / "mine")


def test_the_environments_compile_cache_wins(settings, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    devices.use_compile_cache(str(tmp_path / "mine"))
    assert settings == {}


def test_without_a_place_for_the_cache_all_goes_on(settings, tmp_path):
    (tmp_path / "file").touch()
    devices.use_compile_cache(str(tmp_path / "file" / "cache"))
    assert settings == {}


@pytest.fixture
def restarts(monkeypatch) -> list[list[str]]:
    """The commands that a process would have become."""
    found: list[list[str]] = []
    monkeypatch.setattr(devices.os, "execv", lambda program, words: found.append(words))
    monkeypatch.setattr(devices.sys, "platform", "linux")
    monkeypatch.setattr(devices.sys, "orig_argv", ["python", "-m", "coconet_jax.train", "--workdir=a b"])
    return found


@pytest.mark.parametrize("before, after", [("", ""), ("glibc.malloc.check=1", "glibc.malloc.check=1:")])
def test_a_command_starts_anew_with_huge_pages_once(restarts, monkeypatch, before, after):
    monkeypatch.setenv("GLIBC_TUNABLES", before)
    devices.use_huge_pages()
    assert restarts == [[sys.executable, "-m", "coconet_jax.train", "--workdir=a b"]]
    assert os.environ["GLIBC_TUNABLES"] == f"{after}glibc.malloc.hugetlb=1"
    devices.use_huge_pages()  # what it has become
    assert len(restarts) == 1


def test_pages_that_the_user_chose_stay_and_other_systems_have_none(restarts, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    devices.use_huge_pages()
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setattr(devices.sys, "platform", "darwin")
    devices.use_huge_pages()
    assert not restarts and "GLIBC_TUNABLES" not in os.environ


def test_a_command_that_cannot_start_anew_goes_on(restarts, monkeypatch):
    def refuse(program: str, words: list[str]) -> None:
        raise OSError("no")

    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setattr(devices.os, "execv", refuse)
    devices.use_huge_pages()


def test_operations_are_ordered_for_memory_where_xla_knows_how(monkeypatch):
    flag = "--xla_cpu_enable_concurrency_optimized_scheduler"
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=a")
    devices.split_cpu(2)
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=a {flag}=false"
    devices.split_cpu(2)
    assert os.environ["XLA_FLAGS"].count(flag) == 1
    monkeypatch.setenv("XLA_FLAGS", f"{flag}=true")
    devices.split_cpu(2)
    assert os.environ["XLA_FLAGS"] == f"{flag}=true"
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(devices.jax, "__version_info__", (0, 99, 0))
    devices.split_cpu(2)
    assert "XLA_FLAGS" not in os.environ


def test_cores_share_the_machines_memory():
    # More than a gigabyte, no more than the machine's (read by another way).
    total = 1024 * int(pathlib.Path("/proc/meminfo").read_text().split()[1])
    assert 1 << 30 < devices.memory_bytes() * len(jax.local_devices()) <= total


def test_memory_is_the_containers_or_the_devices_own(monkeypatch):
    monkeypatch.setattr(pathlib.Path, "read_text", lambda path: str(4 << 30) if path.name == "memory.max" else "")
    assert devices.memory_bytes() == (4 << 30) // len(jax.local_devices())

    class Accelerator:
        def __init__(self, stats: dict[str, int] | None):
            self.memory_stats = lambda: stats

    monkeypatch.setattr(devices, "on_cpu", lambda: False)
    for stats, expected in (({"bytes_limit": 70 << 30}, 70 << 30), (None, 8 << 30)):
        monkeypatch.setattr(jax, "local_devices", lambda stats=stats: [Accelerator(stats)])
        assert devices.memory_bytes() == expected
