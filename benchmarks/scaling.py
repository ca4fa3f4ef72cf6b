"""How time grows: with devices, processes, length, batch and number of samples.

  python benchmarks/scaling.py --config=configs/small.py --json=scaling.json

Devices are the CPU's, forced (--devices). They share one pool of threads, so that a single one has all cores already:
more of them show what sharing out costs, not what it gains. Processes are local ones that find each other by
jax.distributed. "Ideal" is the time of the first row of a block in proportion to the work: the same in strong scaling,
where the batch stays, and linear elsewhere. Random notes and weights, as speed depends on neither.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import jax
import measuring
import numpy as np
import train

from coconet_jax import config as config_lib
from coconet_jax import devices, errors, generate, model, tasks

COLUMNS = {
    "what": "What",
    "over": "Over",
    "size": "",
    "milliseconds": "Median, ms",
    "ideal": "Ideal, ms",
    "efficiency": "Ideal / measured",
}


def training(config: config_lib.Config, batch: int, mesh: devices.Mesh) -> train.Run:
    return train.Run(dataclasses.replace(config, train=dataclasses.replace(config.train, batch_size=batch)), mesh)


def sampling(config: config_lib.Config, num_samples: int, micro_batch: int, count: int, length: int, calls: int) -> Any:
    variables = model.init(jax.random.key(0), config.model)
    settings = config_lib.Sample(num_steps=calls - 1)
    plan = generate.Plan(
        variables, config.model, tasks.compose(length), settings, micro_batch=micro_batch, num_devices=count
    )
    return lambda: generate.samples(plan, np.arange(num_samples)).pitches


def block(what: str, over: str, ways: dict[int, Any], work: dict[int, float], rounds: int) -> list[dict[str, Any]]:
    """Rows of one curve: `work` is what each size has to do, in any unit."""
    seconds = measuring.in_turns(ways, rounds)
    return rows_of(what, over, seconds, work)


def rows_of(what: str, over: str, seconds: dict[Any, list[float]], work: dict[Any, float]) -> list[dict[str, Any]]:
    first = next(iter(seconds))
    unit = measuring.median(seconds[first]) / work[first]
    rows = []
    for size, found in seconds.items():
        median, ideal = measuring.median(found), unit * work[size]
        rows.append(
            {"what": what, "over": over, "size": size, "milliseconds": 1e3 * median, "ideal": 1e3 * ideal}
            | {"efficiency": ideal / median, "seconds": found}
        )
        print(f"{what}, {over} {size}: {1e3 * median:.1f} ms", flush=True)
    return rows


def over_devices(config: config_lib.Config, counts: list[int], batch: int, rounds: int, calls: int) -> list[dict]:
    """Strong scaling: the same batch on more devices. Weak: a batch that grows with them."""
    length = config.data.crop_steps
    strong = {n: training(config, batch, devices.make_mesh(n)) for n in counts}
    rows = block("training step, strong", "devices", strong, dict.fromkeys(counts, 1.0), rounds)
    weak = {n: training(config, batch // counts[-1] * n, devices.make_mesh(n)) for n in counts}
    rows += block("training step, weak", "devices", weak, {n: n for n in counts}, rounds)
    fixed = {n: sampling(config, batch, -(-batch // n), n, length, calls) for n in counts}
    rows += block("sampling, strong", "devices", fixed, dict.fromkeys(counts, 1.0), rounds)
    share = batch // counts[-1]
    grown = {n: sampling(config, share * n, share, n, length, calls) for n in counts}
    return rows + block("sampling, weak", "devices", grown, {n: n for n in counts}, rounds)


def over_sizes(config: config_lib.Config, count: int, rounds: int, calls: int) -> list[dict]:
    """Time against length, batch and number of samples: linear means that the last column stays near one."""
    lengths = [32, 64, 128, 256, 512, 1024]
    rows = block(
        "sampling 8 chains",
        "steps",
        {n: sampling(config, 8, -(-8 // count), count, n, calls) for n in lengths},
        {n: n for n in lengths},
        rounds,
    )
    numbers = [8, 16, 32, 64, 128]
    rows += block(
        "sampling, 4 chains at once on a device",
        "samples",
        {n: sampling(config, n, 4, count, 64, calls) for n in numbers},
        {n: n for n in numbers},
        rounds,
    )
    batches = [8, 16, 32, 64]
    mesh = devices.make_mesh(count)
    return rows + block(
        "training step", "batch", {n: training(config, n, mesh) for n in batches}, {n: n for n in batches}, rounds
    )


def over_processes(args: argparse.Namespace) -> list[dict]:
    """A training step of as many devices in one process, and in a process each."""
    found: dict[Any, list[float]] = {}
    for processes in (1, args.processes):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            address = f"localhost:{free.getsockname()[1]}"
        here = pathlib.Path(__file__)
        command = [sys.executable, str(here), f"--config={args.config}", f"--batch={args.batch}"]
        command += [f"--rounds={args.rounds}", f"--processes={processes}"]
        environment = os.environ | {"JAX_NUM_CPU_DEVICES": str(args.processes // processes)}
        children = [
            subprocess.Popen([*command, f"--join={address},{processes},{k}"], env=environment, stdout=subprocess.PIPE)
            for k in range(processes)
        ]
        printed = [child.communicate()[0] for child in children]
        if any(child.returncode for child in children):
            raise errors.InputError(f"a process of {processes} ended with an error, see above")
        found[processes] = json.loads(printed[0].splitlines()[-1])  # Gloo prints lines of its own
    return rows_of(f"training step, {args.processes} devices", "processes", found, dict.fromkeys(found, 1.0))


def join(where: str, config: config_lib.Config, batch: int, rounds: int) -> None:
    """What each process of `over_processes` does: prints the seconds of its steps."""
    devices.join_processes(where)
    step = training(config, batch, devices.make_mesh())
    print(json.dumps(measuring.in_turns({0: step}, rounds)[0]))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/small.py", help="recipe (default: configs/small.py)")
    parser.add_argument("--devices", default="1,2,4,8", help="numbers of devices (default: 1,2,4,8)")
    parser.add_argument("--batch", type=int, default=16, help="crops, or chains, of strong scaling (default: 16)")
    parser.add_argument("--processes", type=int, default=2, help="local processes (default: 2)")
    parser.add_argument("--calls", type=int, default=8, help="model calls of a sample (default: 8)")
    parser.add_argument("--rounds", type=measuring.rounds, default=3, help="turns of each (default: 3)")
    parser.add_argument("--join", help=argparse.SUPPRESS)
    parser.add_argument("--json", help="file for all numbers")
    args = parser.parse_args()
    with errors.exit_on_input_error():
        config = measuring.load_recipe(args.config)
        counts = sorted(measuring.numbers("devices", args.devices))
        if args.join:
            devices.split_cpu(1)
            join(args.join, config, args.batch, args.rounds)
            return
        if args.batch % counts[-1]:
            raise errors.InputError(f"--batch={args.batch} is not divisible by {counts[-1]} devices")
        devices.split_cpu(counts[-1])
        # Each local process would take all GPUs of a machine.
        rows = over_processes(args) if devices.on_cpu() else []
        devices.use_compile_cache()
        rows += over_devices(config, counts, args.batch, args.rounds, args.calls)
        rows += over_sizes(config, min(devices.num_cores(), counts[-1]), args.rounds, args.calls)
        measuring.finish("scaling", rows, COLUMNS, args.json)


if __name__ == "__main__":
    devices.use_huge_pages()
    main()
