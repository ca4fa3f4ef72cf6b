"""Residual sums on CPU, computed anew by each of their users or once (`convolution.once`): time and memory.

  python benchmarks/residual.py --config=configs/small.py

One core, one device; the two ways take turns. Prints a Markdown table of medians and of memory.
"""

import argparse
from collections.abc import Callable
import statistics
import time
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import measuring
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import convolution, errors, model, objective, pianoroll, provenance


def compiled(net: config_lib.Model, batch: int, steps: int, gradient: bool) -> tuple[Callable[[], Any], float]:
    """A compiled forward pass, or loss with gradient, of random notes, and the megabytes it takes."""
    rng = np.random.default_rng(0)
    roll = pianoroll.from_pitches(jnp.asarray(rng.integers(40, 80, (batch, steps, 4))))
    context, valid = jnp.asarray(rng.random((batch, steps, 4)) < 0.5), jnp.ones((batch, steps), bool)
    variables = model.init(jax.random.key(0), net)

    def loss(params: Any, roll: jax.Array) -> jax.Array:
        logits, _ = model.apply({**variables, "params": params}, net, roll, context, valid, train=gradient)
        return objective.nll_per_variable(logits, roll, ~context).mean()

    run = jax.jit(jax.grad(loss) if gradient else loss).lower(variables["params"], roll).compile()
    memory: Any = run.memory_analysis()
    return lambda: run(variables["params"], roll), memory.temp_size_in_bytes / 1e6


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a recipe, for its network")
    parser.add_argument("--batch", type=int, default=8, help="crops (default: 8)")
    parser.add_argument("--steps", type=int, default=64, help="of a crop (default: 64)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each way (default: 7)")
    args = parser.parse_args()
    with errors.exit_on_input_error():
        net = measuring.load_recipe(args.config).model
        print(
            f"{args.config}, {args.batch} x {args.steps} steps, {provenance.hardware()}, commit {provenance.commit()}\n"
        )
        print("| | computed anew: ms, MB | once: ms, MB | ratio of medians |\n| --- | --- | --- | --- |")
        for name, gradient in (("forward", False), ("loss and gradient", True)):
            with mock.patch.object(convolution, "once", lambda x, like: x):
                anew = compiled(net, args.batch, args.steps, gradient)
            ways = {"anew": anew, "once": compiled(net, args.batch, args.steps, gradient)}
            seconds: dict[str, list[float]] = {way: [] for way in ways}
            for turn in range(args.rounds + 1):
                for way, (run, _) in ways.items():
                    begun = time.perf_counter()
                    jax.block_until_ready(run())
                    if turn:
                        seconds[way].append(1e3 * (time.perf_counter() - begun))
            medians = {way: statistics.median(found) for way, found in seconds.items()}
            cells = [f"{medians[way]:.0f}, {megabytes:.0f}" for way, (_, megabytes) in ways.items()]
            print(f"| {name} | {' | '.join(cells)} | {medians['anew'] / medians['once']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
