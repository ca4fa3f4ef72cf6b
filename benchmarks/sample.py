"""Speed of sampling: milliseconds of a model call and chorales a second, over nets, lengths and chains at once.

  python benchmarks/sample.py --configs=configs/small.py --chains=8,32 --lengths=32,64,128

Fresh weights, as speed does not depend on them; annealed Gibbs from nothing. What is compared takes turns in one run.
"""

import argparse
import dataclasses
import itertools
from typing import Any

import jax
import measuring
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import devices, errors, generate, model, tasks

COLUMNS = {
    "config": "Recipe",
    "dtype": "dtype",
    "length": "Steps",
    "chains": "Chains at once",
    "milliseconds": "A model call of all chains, median, ms",
    "milliseconds_a_chain": "A chain, ms",
    "chorales_per_second": "Chorales/s at one call a variable",
    "share_of_peak": "Share of matmul peak",
    "first_seconds": "First run, compiling included, s",
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default="configs/small.py", help="recipes (default: configs/small.py)")
    parser.add_argument("--lengths", default="64", help="steps of a chorale (default: 64)")
    parser.add_argument("--chains", default="16", help="on all devices together (default: 16)")
    parser.add_argument("--dtypes", default="float32", help="of activations (default: float32)")
    parser.add_argument("--calls", type=int, default=8, help="model calls in a turn (default: 8)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each (default: 5)")
    parser.add_argument("--json", help="file for all numbers")
    args = parser.parse_args()
    devices.split_cpu(devices.num_cores())
    devices.use_compile_cache()
    with errors.exit_on_input_error():
        count = len(jax.local_devices())
        runs: dict[tuple[str, str, int, int], Any] = {}
        firsts = {}
        choices = (args.configs, args.dtypes, args.lengths, args.chains)
        for recipe, dtype, length, chains in itertools.product(*(text.split(",") for text in choices)):
            net = dataclasses.replace(measuring.load_recipe(recipe).model, dtype=dtype)
            share = -(-int(chains) // count)
            plan = generate.Plan(
                model.init(jax.random.key(0), net),
                net,
                tasks.compose(int(length)),
                config_lib.Sample(num_steps=args.calls - 1),
                micro_batch=share,
                num_devices=min(count, int(chains)),
            )
            run = lambda plan=plan, n=int(chains): generate.samples(plan, np.arange(n)).pitches  # noqa: E731
            key = (recipe, dtype, int(length), int(chains))
            runs[key], firsts[key] = run, measuring.clock(run)
        mesh = devices.make_mesh()
        seconds, peaks = measuring.beside_peaks(runs, args.rounds, args.dtypes.split(","), mesh)
        rows = []
        for (recipe, dtype, length, chains), found in seconds.items():
            call = measuring.median(found) / args.calls
            flops = measuring.forward_flops(measuring.load_recipe(recipe).model, chains, length)
            rows.append(
                {
                    "config": recipe,
                    "dtype": dtype,
                    "length": length,
                    "chains": chains,
                    "milliseconds": 1e3 * call,
                    "milliseconds_a_chain": 1e3 * call / chains,
                    "chorales_per_second": chains / (call * 4 * length),
                    "share_of_peak": flops / call / peaks[dtype],
                    "first_seconds": firsts[recipe, dtype, length, chains],
                    "flops": flops,
                    "peak_flops": peaks[dtype],
                    "seconds": found,
                }
            )
        measuring.finish("sample", rows, COLUMNS, args.json)


if __name__ == "__main__":
    main()
