"""What the benchmarks share: the machine's own speed, counted operations, medians, JSON and Markdown."""

import argparse
from collections.abc import Callable, Mapping, Sequence
import importlib.util
import json
import pathlib
import shlex
import statistics
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import devices, errors, files, model, pianoroll, provenance


def load_recipe(path: str) -> config_lib.Config:
    """The frozen config of a recipe such as configs/cpu.py."""
    if not pathlib.Path(path).is_file():
        raise errors.InputError(f"there is no recipe {path}; give one such as configs/small.py")
    spec = importlib.util.spec_from_file_location("recipe", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return config_lib.from_mapping(module.get_config())


def numbers(flag: str, text: str) -> list[int]:
    """The whole numbers above 0 of a flag such as --batches=8,16."""
    words = text.split(",")
    if not all(word.isdecimal() and int(word) for word in words):
        raise errors.InputError(f"--{flag}={text}: use whole numbers from 1 on with commas between them")
    return [int(word) for word in words]


def words(flag: str, text: str, known: Sequence[str]) -> list[str]:
    """The words of a flag such as --dtypes=float32,bfloat16, all of them known."""
    found = text.split(",")
    if unknown := [word for word in found if word not in known]:
        raise errors.InputError(f"--{flag}={text}: {unknown[0]!r} is none of {', '.join(known)}")
    return found


def rounds(text: str) -> int:
    """The type of --rounds."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: use 1 or more")
    return int(text)


def forget_programs() -> None:
    """Compiles anew from here on, whatever lies in a cache, so that the time of compiling is that."""
    jax.config.update("jax_enable_compilation_cache", False)


DTYPES = ("float32", "bfloat16")
MAPS = ("shard_map", "pmap")


def forward_flops(net: config_lib.Model, batch: int, steps: int) -> int:
    """Multiplications and additions of the convolutions of one forward pass, each counted; all else is left out."""
    total, channels = 0, 2 * pianoroll.NUM_VOICES
    for spec in model.layer_specs(net):
        if net.pitch_mixing and channels == spec.features:
            total += pianoroll.NUM_PITCHES * channels
        if spec.separable:
            splits = net.pointwise_splits if spec.features == net.num_filters else 1
            total += spec.kernel**2 * channels + channels * spec.features // splits
        else:
            total += spec.kernel**2 * channels * spec.features
        channels = spec.features
    return 2 * total * batch * steps * pianoroll.NUM_PITCHES


def cut_flops(net: config_lib.Model, batch: int) -> int:
    """Of the logits of one step, from windows of which each layer is computed for what that step depends on alone."""
    width, total, channels = sum(model.reach(net)) + 1, 0, 2 * pianoroll.NUM_VOICES
    for spec in model.layer_specs(net):
        width -= (spec.kernel - 1) * spec.dilation[0]
        if net.pitch_mixing and channels == spec.features:
            total += width * pianoroll.NUM_PITCHES * channels
        if spec.separable:
            splits = net.pointwise_splits if spec.features == net.num_filters else 1
            total += width * (spec.kernel**2 * channels + channels * spec.features // splits)
        else:
            total += width * spec.kernel**2 * channels * spec.features
        channels = spec.features
    assert width == 1
    return 2 * total * batch * pianoroll.NUM_PITCHES


def training_flops(net: config_lib.Model, batch: int, steps: int) -> int:
    """Of a training step: forward, and as much again for the kernels and for the inputs (not those of the net)."""
    first = model.layer_specs(net)[0]
    inputs = 2 * first.kernel**2 * 2 * pianoroll.NUM_VOICES * first.features * batch * steps * pianoroll.NUM_PITCHES
    return 3 * forward_flops(net, batch, steps) - inputs


def peak_flops(dtype: Any, mesh: devices.Mesh, size: int = 0) -> float:
    """Operations a second of a matrix product on all devices at once, the best of a few: the machine's own limit."""
    size = size or (1536 if devices.on_cpu() else 8192)
    count = 4 if devices.on_cpu() else 32

    def chain(a: jax.Array, b: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, count, lambda _, x: (x @ b) * jnp.asarray(1 / size, dtype), a)

    spec = devices.PartitionSpec(devices.AXIS)
    run = jax.jit(jax.shard_map(chain, mesh=mesh, in_specs=(spec, devices.PartitionSpec()), out_specs=spec))
    a, b = jnp.ones((size * mesh.size, size), dtype), jnp.ones((size, size), dtype)
    seconds = [clock(lambda: run(a, b)) for _ in range(6)][1:]
    return 2 * size**3 * count * mesh.size / min(seconds)


def clock(run: Callable[[], Any]) -> float:
    """Seconds until the result is there."""
    begun = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - begun


def in_turns(ways: Mapping[Any, Callable[[], Any]], rounds: int) -> dict[Any, list[float]]:
    """Seconds of each way, which take turns, so that a busy minute falls on all of them.

    Each turn begins with two calls that are not timed: they take memory from the system that the way before has given
    back, which a loop of the same way does not (1.2 s of a training step of `paper` after one of PyTorch's).
    """
    found: dict[Any, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, run in ways.items():
            for _ in range(2):
                jax.block_until_ready(run())
            found[way].append(clock(run))
    return found


def beside_peaks(
    ways: Mapping[Any, Callable[[], Any]], rounds: int, dtypes: Sequence[str], mesh: devices.Mesh
) -> tuple[dict[Any, list[float]], dict[str, float]]:
    """`in_turns`, and the machine's peak in each dtype, the better of one taken before and one taken after."""
    peaks = {dtype: peak_flops(dtype, mesh) for dtype in dtypes}
    found = in_turns(ways, rounds)
    peaks = {dtype: max(peak, peak_flops(dtype, mesh)) for dtype, peak in peaks.items()}
    for dtype, peak in peaks.items():
        print(f"matrix product, {dtype}: {peak / 1e9:.0f} GFLOP/s on all devices")
    return found, peaks


def random_pieces(count: int, steps: int) -> np.ndarray:
    """Pitches int8 [n,t,4] of no meaning: speed does not depend on the music."""
    return np.random.default_rng(0).integers(40, 80, (count, steps, pianoroll.NUM_VOICES)).astype(np.int8)


def temporary_megabytes(compiled: Any) -> float:
    """What a device holds between the operations of a compiled program, arguments and results apart."""
    return compiled.memory_analysis().temp_size_in_bytes / 1e6


def xla_flops(compiled: Any) -> float:
    """XLA's own count of a compiled program, of one device; nan where it gives none."""
    analysis = compiled.cost_analysis()
    return float((analysis[0] if isinstance(analysis, list) else analysis or {}).get("flops", np.nan))


def finish(name: str, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], json_path: str | None) -> None:
    """Prints rows as a Markdown table, and writes them with the machine, versions and commit.

    Args:
      name: of the benchmark.
      rows: numbers by key; "seconds" is a list of all turns.
      columns: of the table: a row's key -> its title.
      json_path: file for all numbers, if any.
    """
    report = {
        "benchmark": name,
        "hardware": provenance.hardware(),
        "devices": jax.device_count(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "command": shlex.join(["python", *sys.argv]),
        "rows": list(rows),
    }
    print(f"\n{report['hardware']}, {report['devices']} devices, jax {jax.__version__}, commit {report['commit']}\n")
    print("| " + " | ".join(columns.values()) + " |\n|" + " --- |" * len(columns))
    for row in rows:
        print("| " + " | ".join(_cell(row.get(key)) for key in columns) + " |")
    if json_path:
        files.replace(pathlib.Path(json_path), (json.dumps(report, indent=1) + "\n").encode())
        print(f"\nwrote {json_path}")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    return "-" if value is None else str(value)


def median(seconds: Sequence[float]) -> float:
    return statistics.median(seconds)
