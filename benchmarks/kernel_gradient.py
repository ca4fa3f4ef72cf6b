"""The gradient of a 3x3 convolution with respect to its kernel: XLA's own against `convolution.full`'s, in one run.

  python benchmarks/kernel_gradient.py --channels 20 24 32 64

Prints a line of JSON for each number of channels: medians in milliseconds, and the ratio. On accelerators both are
XLA's own.
"""

import argparse
import json
import platform
import statistics
import time

import jax
import jax.numpy as jnp

from coconet_jax import convolution, pianoroll


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", type=int, nargs="+", default=[16, 20, 24, 32, 64])
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--dilation", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    dilation = (args.dilation, args.dilation)

    def gradient(convolve):
        def run(x: jax.Array, kernel: jax.Array, grad: jax.Array) -> jax.Array:
            return jax.vjp(lambda k: convolve(x, k, dilation), kernel)[1](grad)[0]

        return jax.jit(run)

    for channels in args.channels:
        keys = jax.random.split(jax.random.key(0), 3)
        shape = (args.batch_size, args.steps, pianoroll.NUM_PITCHES, channels)
        x, grad = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)
        kernel = jax.random.normal(keys[2], (3, 3, channels, channels))
        runs = {"xla": gradient(convolution._plain), "ours": gradient(convolution.full)}
        results = {name: jax.block_until_ready(run(x, kernel, grad)) for name, run in runs.items()}  # compiles
        difference = jnp.abs(results["xla"] - results["ours"]).max() / jnp.abs(results["xla"]).max()
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(args.rounds):
            for name, run in runs.items():
                start = time.perf_counter()
                jax.block_until_ready(run(x, kernel, grad))
                seconds[name].append(time.perf_counter() - start)
        medians = {name: statistics.median(values) * 1e3 for name, values in seconds.items()}
        print(
            json.dumps(
                {
                    "channels": channels,
                    "milliseconds": medians,
                    "xla_over_ours": medians["xla"] / medians["ours"],
                    "largest_relative_difference": float(difference),
                    "shape": shape,
                    "dilation": args.dilation,
                    "device": jax.devices()[0].device_kind,
                    "processor": platform.processor() or platform.machine(),
                    "jax": jax.__version__,
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
