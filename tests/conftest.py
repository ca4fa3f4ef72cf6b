"""Test set-up: eight CPU devices, strict JAX, executable shape annotations, one compile cache for all runs."""

from collections.abc import Iterator
import dataclasses
import importlib.util
import os
import pathlib
import subprocess
import sys
from typing import Any

import jaxtyping

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
CACHE = REPOSITORY / ".cache"

# Before anything of the package is imported: every annotated function checks its arguments.
jaxtyping.install_import_hook("coconet_jax", "beartype.beartype")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE / "xla"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
# Most of the time goes into compiling small programs once: less optimising makes the suite 2.5 times faster. The
# quickstart, which CI runs too, has the programs as users have them.
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")  # commands need not start twice
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
assert len(jax.devices()) == 8  # settled before a command could choose otherwise

from coconet_jax import config as config_lib  # noqa: E402
from coconet_jax import model, pieces, storage  # noqa: E402


def load_benchmark(name: str) -> Any:
    """A module of benchmarks/, which is no package, also where the package has one of its name."""
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", REPOSITORY / "benchmarks" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_config() -> config_lib.Config:
    """The smallest run that has every part: six layers of eight channels, crops of 16 steps."""
    return config_lib.from_mapping(
        {
            "model": {"num_layers": 6, "num_filters": 8},
            "data": {"crop_steps": 16},
            "train": {
                "batch_size": 8,
                "num_steps": 8,
                "schedule_steps": 8,
                "warmup_steps": 2,
                "eval_every": 4,
                "eval_batch_size": 8,
                "report_every": 2,
                "bn_batches": 2,
            },
        }
    )


@pytest.fixture(scope="session")
def tiny_variables(tiny_config: config_lib.Config) -> model.Variables:
    """Weights whose BatchNorm statistics are not the initial ones, so that forgetting them would show."""
    variables = model.init(jax.random.key(3), tiny_config.model)
    leaves, tree = jax.tree.flatten(variables["batch_stats"])
    keys = jax.random.split(jax.random.key(4), len(leaves))
    noisy = [leaf + 0.3 * jax.random.uniform(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return {"params": variables["params"], "batch_stats": jax.tree.unflatten(tree, noisy)}


@pytest.fixture(scope="session")
def beating_config(tiny_config: config_lib.Config) -> config_lib.Config:
    """A run of a net that knows beats."""
    return dataclasses.replace(tiny_config, model=dataclasses.replace(tiny_config.model, beat_steps=4))


@pytest.fixture(scope="session")
def beating_variables(
    tiny_config: config_lib.Config, beating_config: config_lib.Config, tiny_variables: model.Variables
) -> model.Variables:
    """Weights with opinions, to which it matters which step of its beat a step is."""
    loud = jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.full_like(leaf, 1.5) if "scale" in jax.tree_util.keystr(path) else leaf, tiny_variables
    )
    variables = model.extend(loud, tiny_config.model, beating_config.model, jax.random.key(5))
    assert variables is not None
    variables["params"]["beat_embedding"] = 3 * jax.random.normal(jax.random.key(6), (4, 8))
    return variables


@pytest.fixture(scope="session")
def toy_pieces() -> pieces.PieceSet:
    """A small set of made-up pieces of several lengths, some with rests, one shorter than a crop."""
    rng = np.random.default_rng(0)

    def piece(steps: int) -> np.ndarray:
        low = np.array([62, 55, 50, 40])
        notes = low + rng.integers(0, 9, (-(-steps // 2), 4))
        pitches = np.repeat(notes, 2, axis=0)[:steps].astype(np.int16)
        pitches[rng.random(pitches.shape) < 0.02] = -1
        return pitches

    splits = {}
    for split, lengths in (("train", (40, 24, 64, 12, 33)), ("valid", (20, 36)), ("test", (28,))):
        splits[split] = pieces.from_arrays([piece(n) for n in lengths], [f"{split} {n}" for n in lengths])
    return pieces.PieceSet(splits, 4, "toy")


@pytest.fixture(scope="session")
def toy_path(toy_pieces: pieces.PieceSet, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The toy set as an exported npz."""
    path = tmp_path_factory.mktemp("toy") / "toy.npz"
    pieces.write_npz(path, toy_pieces)
    return str(path)


@pytest.fixture
def store(tmp_path: pathlib.Path) -> Iterator[storage.Url]:
    """An empty folder of a store of objects, which is in the memory of this process."""
    url = storage.Url(f"memory://{tmp_path.name}")
    yield url
    storage.remove_tree(url)


def run_command(*words: str, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a command of the package as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
