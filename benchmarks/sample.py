"""Speed of sampling: milliseconds of a model call and chorales a second, over nets, lengths and chains at once.

  python benchmarks/sample.py --configs=configs/small.py --chains=8,32 --lengths=32,64,128

Fresh weights, as speed does not depend on them; annealed Gibbs from nothing. What is compared takes turns in one run.
"""

import argparse
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import measuring
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import devices, errors, generate, model, pianoroll, tasks

COLUMNS = {
    "config": "Recipe",
    "dtype": "dtype",
    "length": "Steps",
    "chains": "Chains at once",
    "milliseconds": "A model call of all chains, median, ms",
    "milliseconds_a_chain": "A chain, ms",
    "chorales_per_second": "Chorales/s at one call a variable",
    "share_of_peak": "Share of matmul peak",
    "counted_over_xla": "Counted / XLA's FLOPs",
    "first_seconds": "First run, compiling included, s",
    "temporary_megabytes": "Between operations, MB a device",
}


def one_call(net: config_lib.Model, batch: int, length: int) -> dict[str, float]:
    """Of the network alone, compiled for a device's share: our count of its operations over XLA's, and its memory."""
    variables = model.init(jax.random.key(0), net)
    cells = (batch, length, pianoroll.NUM_VOICES)
    shapes = (
        ((batch, length, pianoroll.NUM_PITCHES, pianoroll.NUM_VOICES), jnp.float32),
        (cells, bool),
        (cells[:2], bool),
    )
    inputs = [jax.ShapeDtypeStruct(shape, kind) for shape, kind in shapes]
    compiled = jax.jit(lambda v, *given: model.make_predict(v, net)(*given)).lower(variables, *inputs).compile()
    return {
        "counted_over_xla": measuring.forward_flops(net, batch, length) / measuring.xla_flops(compiled),
        "temporary_megabytes": measuring.temporary_megabytes(compiled),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default="configs/small.py", help="recipes (default: configs/small.py)")
    parser.add_argument("--lengths", default="64", help="steps of a chorale (default: 64)")
    parser.add_argument("--chains", default="16", help="on all devices together (default: 16)")
    parser.add_argument("--dtypes", default="float32", help="of activations (default: float32)")
    parser.add_argument("--calls", type=measuring.rounds, default=8, help="model calls in a turn (default: 8)")
    parser.add_argument("--rounds", type=measuring.rounds, default=5, help="turns of each (default: 5)")
    parser.add_argument("--json", help="file for all numbers")
    args = parser.parse_args()
    devices.split_cpu(devices.num_cores())
    measuring.forget_programs()
    with errors.exit_on_input_error():
        count = len(jax.local_devices())
        runs: dict[tuple[str, str, int, int], Any] = {}
        firsts = {}
        choices = (
            args.configs.split(","),
            measuring.words("dtypes", args.dtypes, measuring.DTYPES),
            measuring.numbers("lengths", args.lengths),
            measuring.numbers("chains", args.chains),
        )
        network = {}
        for recipe, dtype, length, chains in itertools.product(*choices):
            net = dataclasses.replace(measuring.load_recipe(recipe).model, dtype=dtype)
            share = -(-chains // count)
            plan = generate.Plan(
                model.init(jax.random.key(0), net),
                net,
                tasks.compose(length),
                config_lib.Sample(num_steps=args.calls - 1),
                micro_batch=share,
                num_devices=min(count, chains),
            )
            run = lambda plan=plan, n=chains: generate.samples(plan, np.arange(n)).pitches  # noqa: E731
            key = (recipe, dtype, length, chains)
            network[key] = one_call(net, share, length)
            runs[key], firsts[key] = run, measuring.clock(run)
        mesh = devices.make_mesh()
        seconds, peaks = measuring.beside_peaks(runs, args.rounds, choices[1], mesh)
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
                    **network[recipe, dtype, length, chains],
                    "flops": flops,
                    "peak_flops": peaks[dtype],
                    "seconds": found,
                }
            )
        measuring.finish("sample", rows, COLUMNS, args.json)


if __name__ == "__main__":
    main()
