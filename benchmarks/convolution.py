"""A 3x3 convolution and its gradients: XLA's own against `convolution.full`'s, in turns.

  taskset -c 0 python benchmarks/convolution.py --channels=16,20,24,32,48,128

On one core, as a device of the CPU has it in training and sampling. Prints medians in milliseconds of the convolution,
of the gradient of its input and of that of its kernel, their ratios, and the largest difference. On accelerators both
are XLA's own.
"""

import argparse
import functools

import jax
import jax.numpy as jnp
import measuring

from coconet_jax import convolution, devices, pianoroll

COLUMNS = {
    "channels": "Channels",
    "what": "What",
    "xla": "XLA: median, ms",
    "ours": "Ours: median, ms",
    "ratio": "XLA / ours",
    "difference": "Largest difference, of the largest value",
}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--channels", default="16,20,24,32,48,128", help="numbers of channels")
    parser.add_argument("--batch", type=int, default=8, help="examples (default: 8)")
    parser.add_argument("--length", type=int, default=64, help="steps of each (default: 64)")
    parser.add_argument("--dilation", type=int, default=1, help="in time and pitch (default: 1)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each (default: 9)")
    parser.add_argument("--json", help="file for all numbers")
    args = parser.parse_args()
    devices.split_cpu(devices.num_cores())
    dilation = (args.dilation, args.dilation)
    plain, full = convolution._plain, convolution.full
    rows = []
    for channels in map(int, args.channels.split(",")):
        keys = jax.random.split(jax.random.key(0), 3)
        shape = (args.batch, args.length, pianoroll.NUM_PITCHES, channels)
        x, grad = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)
        kernel = jax.random.normal(keys[2], (3, 3, channels, channels))
        ways, results = {}, {}
        for who, convolve in (("xla", plain), ("ours", full)):
            for what, function in (
                ("forward", lambda x, k, g, f=convolve: f(x, k, dilation)),
                ("input gradient", lambda x, k, g, f=convolve: jax.vjp(lambda x: f(x, k, dilation), x)[1](g)[0]),
                ("kernel gradient", lambda x, k, g, f=convolve: jax.vjp(lambda k: f(x, k, dilation), k)[1](g)[0]),
            ):
                ways[what, who] = functools.partial(jax.jit(function), x, kernel, grad)
                results[what, who] = ways[what, who]()
        seconds = measuring.in_turns(ways, args.rounds)
        for what in ("forward", "input gradient", "kernel gradient"):
            xla, ours = (1e3 * measuring.median(seconds[what, who]) for who in ("xla", "ours"))
            theirs = results[what, "xla"]
            difference = float(jnp.abs(theirs - results[what, "ours"]).max() / jnp.abs(theirs).max())
            rows.append(
                {"channels": channels, "what": what, "xla": xla, "ours": ours, "ratio": xla / ours}
                | {"difference": difference, "shape": shape, "dilation": args.dilation}
            )
    measuring.finish("convolution", rows, COLUMNS, args.json)


if __name__ == "__main__":
    devices.use_huge_pages()
    main()
