"""Whether the size of a micro-batch shows in the samples, by dtype: the share of samples and of notes that differ.

  python benchmarks/micro_batches.py --micro_batches=2,8,32

Draws the same chains from nothing in each size and compares them with those of the first. In float32 on CPU none may
differ, and the command fails where one does; elsewhere products of other shapes are rounded otherwise, and where one
draw falls the other way the rest of the piece may go another way.
"""

import argparse
import dataclasses
import sys

import jax
import numpy as np

from coconet_jax import checkpoint, config, devices, errors, generate, tasks, weights


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=weights.DEFAULT, help=weights.HELP)
    parser.add_argument("--num_samples", type=int, default=64, help="default: 64")
    parser.add_argument("--steps", type=int, default=64, help="of a sample (default: 64)")
    parser.add_argument("--calls", type=int, default=256, help="model calls of annealed Gibbs (default: 256)")
    parser.add_argument("--micro_batches", default="2,8,32", help="with commas between them (default: 2,8,32)")
    parser.add_argument("--dtypes", default="float32,bfloat16", help="of activations (default: float32,bfloat16)")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.split_cpu(devices.num_cores())
    with errors.exit_on_input_error():
        words = args.micro_batches.split(",")
        if len(words) < 2 or not all(word.isdecimal() and int(word) for word in words):
            raise errors.InputError(f"--micro_batches={args.micro_batches}: use two numbers or more, such as 2,8,32")
        loaded = checkpoint.load(args.checkpoint)
        settings = config.usual_sample(num_steps=args.calls - 1)
        request = tasks.compose(args.steps)
        dtypes = args.dtypes.split(",")
        if unknown := set(dtypes) - {"float32", "bfloat16"}:
            raise errors.InputError(f"--dtypes has {unknown.pop()!r}; use float32,bfloat16 or one of them")
        print(f"step {loaded.step} of {args.checkpoint}, {args.num_samples} x {args.steps} steps, {args.calls} calls")
        print(f"on {jax.devices()[0].device_kind}\n\n| dtype | micro-batch | samples that differ | notes that differ |")
        print("| --- | --- | --- | --- |", flush=True)
        astray = []
        for dtype in dtypes:
            net = dataclasses.replace(loaded.config.model, dtype=dtype)
            first: np.ndarray | None = None
            for size in map(int, words):
                plan = generate.plan(loaded, request, args.num_samples, settings, micro_batch=size)
                made = generate.samples(plan._replace(model=net), np.arange(args.num_samples)).pitches
                first = made if first is None else first
                other = made != first
                samples, notes = other.any(axis=(1, 2)).mean(), other.mean()
                told = "(the reference) | -" if made is first else f"{samples:.1%} | {notes:.1%}"
                print(f"| {dtype} | {size} | {told} |", flush=True)
                if other.any() and dtype == "float32" and devices.on_cpu():
                    astray.append(size)
    sys.exit(f"float32 on CPU, and yet other samples in micro-batches of {astray}" if astray else 0)


if __name__ == "__main__":
    main()
