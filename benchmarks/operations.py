"""Where the time of a training step and of a Gibbs step goes, by kind of operation, from XLA's own profile.

  python benchmarks/operations.py --configs=configs/small.py,configs/paper.py

A loop's own entry is left out, its operations count. "Elsewhere" is what is left of the time that passed: waiting for
another device, starting operations, the host.
"""

import argparse
import collections
import dataclasses
import functools
import gzip
import json
import pathlib
import re
import tempfile
from typing import Any

import jax
import measuring
import train

from coconet_jax import config as config_lib
from coconet_jax import devices, errors, model, pianoroll

# What tells a kind in the text of an operation or of what is fused in it; the first that is found.
KINDS = {
    "convolutions": r" convolution\(|__cudnn\$conv",
    "matrix products": r" dot\(|__cublas|__triton_gemm",
    "between devices": r" all-reduce(-start|-done)?\(",
}
COLUMNS = {
    "config": "Recipe",
    "what": "What",
    "batch": "Batch",
    "milliseconds": "Passed, ms",
    "convolutions": "Convolutions",
    "matrix products": "Matrix products",
    "the rest": "All other operations",
    "between devices": "Between devices",
    "elsewhere": "Elsewhere",
}
OUTER = ("while", "call", "conditional")


def kinds_of(program: str) -> dict[str, str]:
    """The kind of each operation of a compiled program, by its name there."""
    bodies: dict[str, str] = collections.defaultdict(str)
    lines, body = {}, ""
    for line in program.splitlines():
        header = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        named = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
        if header:
            body = header[1]
        elif named:
            lines[named[1]] = line
            bodies[body] += line + "\n"
    found = {}
    for name, line in lines.items():
        fused = re.search(r"calls=%?([\w.\-]+)", line)
        text = line + bodies[fused[1]] if fused else line
        found[name] = next((kind for kind, pattern in KINDS.items() if re.search(pattern, text)), "the rest")
    return found


def profiled(run: Any, program: str) -> dict[str, float]:
    """Milliseconds of a call by kind, of all devices together, and those that passed."""
    kinds = kinds_of(program)
    for _ in range(3):  # after other work it takes memory from the system anew, in a loop it does not
        jax.block_until_ready(run())
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            passed = measuring.clock(run)
        (file,) = pathlib.Path(folder).rglob("*.trace.json.gz")
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
    total: dict[str, float] = collections.defaultdict(float, {"milliseconds": 1e3 * passed})
    for event in events:
        name = event.get("args", {}).get("hlo_op")
        if event.get("ph") == "X" and name and name.split(".")[0] not in OUTER:
            total[kinds.get(name, "the rest")] += event["dur"] / 1e3
    return total


def compiled_step(run: train.Run) -> str:
    step: Any = run._step
    return step.as_text()


def compiled_call(net: config_lib.Model, batch: int, length: int) -> tuple[Any, str]:
    """A call of the network by all its chains on one device, as a Gibbs step makes it."""
    variables = model.init(jax.random.key(0), net)
    voices = pianoroll.NUM_VOICES
    shapes = [(batch, length, pianoroll.NUM_PITCHES, voices), (batch, length, voices), (batch, length)]
    kinds: tuple[Any, ...] = ("float32", bool, bool)
    args = [jax.numpy.ones(shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
    step = jax.jit(lambda *a: model.make_predict(variables, net)(*a)).lower(*args).compile()
    step(*args)
    return functools.partial(step, *args), step.as_text() or ""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default="configs/small.py", help="recipes (default: configs/small.py)")
    parser.add_argument("--batch", type=measuring.rounds, default=16, help="crops or chains (default: 16)")
    parser.add_argument("--length", type=measuring.rounds, default=64, help="steps of each (default: 64)")
    parser.add_argument("--dtype", default="auto", help="of activations (default: auto)")
    parser.add_argument("--json", help="file for all numbers")
    args = parser.parse_args()
    devices.split_cpu(devices.num_cores())
    rows = []
    with errors.exit_on_input_error():
        mesh = devices.make_mesh()
        for recipe in args.configs.split(","):
            config = measuring.load_recipe(recipe)
            config = dataclasses.replace(
                config,
                data=dataclasses.replace(config.data, crop_steps=args.length),
                model=dataclasses.replace(config.model, dtype=args.dtype),
                train=dataclasses.replace(config.train, batch_size=args.batch),
            )
            step = train.Run(config, mesh)
            jax.block_until_ready(step())
            jax.block_until_ready(step())
            call, program = compiled_call(config.model, args.batch, args.length)
            for what, run, text, count in (
                (f"training step, {mesh.size} devices", step, compiled_step(step), mesh.size),
                ("a call of the network, 1 device", call, program, 1),
            ):
                found = profiled(run, text)
                passed = found.pop("milliseconds")
                shares = {kind: milliseconds / count / passed for kind, milliseconds in found.items()}
                rows.append(
                    {"config": recipe, "what": what, "batch": args.batch, "milliseconds": passed, **shares}
                    | {"elsewhere": 1 - sum(shares.values())}
                )
        measuring.finish("operations", rows, COLUMNS, args.json)


if __name__ == "__main__":
    devices.use_huge_pages()
    main()
