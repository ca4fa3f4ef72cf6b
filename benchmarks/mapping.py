"""Training steps a second by `shard_map` and by `pmap`, side by side in one run, on forced CPU devices or real ones.

  python benchmarks/mapping.py --config=configs/test.py --cpu_devices=8

Prints one line of JSON: medians over alternating rounds, their ratio, hardware and versions.
"""

import argparse
import functools
import json
import platform
import statistics
import time

import jax
import measuring

from coconet_jax import data, devices, pieces, steps
from coconet_jax import state as state_lib


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/test.py")
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--cpu_devices", type=int, default=0, help="force so many CPU devices")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="steps in a round")
    args = parser.parse_args()
    if args.cpu_devices:
        jax.config.update("jax_num_cpu_devices", args.cpu_devices)
    config = measuring.load_recipe(args.config)
    mesh = devices.make_mesh()
    resident = data.make_resident(pieces.read_npz(args.data).splits["train"], config.data)
    source = devices.replicate(resident, mesh)
    body = functools.partial(steps.train_step, config=config)
    runs: dict[str, tuple] = {}
    for parallel in ("shard_map", "pmap"):
        step = devices.map_body(body, mesh, parallel, sharded=(False, False), donate=(0,))
        state = devices.replicate(state_lib.create(jax.random.key(0), config), mesh)
        state, _ = step(state, source)  # compiles
        runs[parallel] = (step, state, [])
    for _ in range(args.rounds):
        for parallel, (step, state, rates) in runs.items():
            start = time.perf_counter()
            for _ in range(args.steps):
                state, metrics = step(state, source)
            jax.block_until_ready(metrics)
            rates.append(args.steps / (time.perf_counter() - start))
            runs[parallel] = (step, state, rates)
    medians = {parallel: statistics.median(rates) for parallel, (_, _, rates) in runs.items()}
    print(
        json.dumps(
            {
                "config": args.config,
                "devices": devices.describe(mesh),
                "processor": platform.processor() or platform.machine(),
                "jax": jax.__version__,
                "steps_per_second": medians,
                "shard_map_over_pmap": medians["shard_map"] / medians["pmap"],
            }
        )
    )


if __name__ == "__main__":
    main()
