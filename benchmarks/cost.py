"""What sampling and training would cost on accelerators: a model of it, from counted operations and bytes.

  python benchmarks/cost.py

Nothing here is measured. A pass through a net takes the longer of its operations at a share of a chip's peak and its
bytes at the same share of the memory's: each layer reads its input and the skip and writes its output, in bfloat16.
Channels fill up to a multiple of the matrix unit's side; layers over the whole pitch axis are a matrix of pitches for
each channel, whose sides fill up so, and read their input and write their output once more. Chains need no
communication; a training step adds up the gradients of all chips, which moves twice their float32 bytes through each
chip, unhidden. docs/scaling.md says where the chips' numbers are from.
"""

import argparse
import dataclasses
from typing import Any, NamedTuple

import jax
import measuring

from coconet_jax import config as config_lib
from coconet_jax import errors, model, pianoroll

STEPS, BATCH = 64, 32  # of a chorale; crops of a chip in training

SAMPLING = {
    "config": "Recipe",
    "chip": "Chip",
    "gflop": "Counted GFLOP a call and chorale",
    "bound": "Bound by",
    "per_second": "Chorales/s and chip",
    "hours": "A million: hours on a chip",
    "minutes": "minutes on --chips",
}
TRAINING = {
    "config": "Recipe",
    "chip": "Chip",
    "bound": "Bound by",
    "milliseconds": "A step of 32 crops a chip, ms",
    "reduce": "Adding up gradients, ms",
    "efficiency": "Weak scaling",
    "hours": "60,000 steps, hours",
}


class Chip(NamedTuple):
    """Peak bfloat16 FLOP/s, bytes/s of the memory and of the interconnect in one direction, side of the matrix unit."""

    flops: float
    memory: float
    links: float
    side: int


CHIPS = {
    "TPU v4": Chip(275e12, 1200e9, 268e9, 128),
    "TPU v5e": Chip(197e12, 819e9, 200e9, 128),
    "TPU v5p": Chip(459e12, 2765e9, 600e9, 128),
    "TPU v6e": Chip(918e12, 1638e9, 400e9, 256),
    "H100 SXM": Chip(989e12, 3350e9, 450e9, 16),
    "H200 SXM": Chip(989e12, 4800e9, 450e9, 16),
}


def padded(channels: int, side: int) -> int:
    return -(-channels // side) * side


def pass_seconds(net: config_lib.Model, chip: Chip, share: float) -> tuple[float, str]:
    """Seconds of one forward pass of one chorale, and by what it is bound."""
    specs = model.layer_specs(net)
    filled = sum(
        padded(spec.features, chip.side)
        * padded(before.features, chip.side)
        * (1 if spec.separable else spec.kernel**2)
        for before, spec in zip(specs, specs[1:], strict=False)
    )
    cells = STEPS * pianoroll.NUM_PITCHES
    mixing = [
        spec.features
        for before, spec in zip(specs, specs[1:], strict=False)
        if net.pitch_mixing and before.features == spec.features
    ]
    pitches = padded(pianoroll.NUM_PITCHES, chip.side)
    filled += sum(mixing) * pitches**2 // pianoroll.NUM_PITCHES
    operations = 2 * filled * cells
    moved = 2 * 3 * cells * sum(padded(spec.features, chip.side) * (2 if spec.separable else 1) for spec in specs)
    moved += 2 * 2 * cells * sum(mixing)
    compute, memory = operations / chip.flops, moved / chip.memory
    return max(compute, memory) / share, "operations" if compute > memory else "memory"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default="configs/paper.py,configs/separable.py,configs/small.py")
    parser.add_argument("--share", type=float, default=0.5, help="of the peak that is reached (default: 0.5)")
    parser.add_argument("--calls", type=int, default=256, help="model calls of a chorale (default: 256)")
    parser.add_argument("--chips", type=int, default=256, help="chips of a pod (default: 256)")
    parser.add_argument("--json", help="files for all numbers: NAME_sampling.json, NAME_training.json")
    args = parser.parse_args()
    sampling: list[dict[str, Any]] = []
    training: list[dict[str, Any]] = []
    with errors.exit_on_input_error():
        nets = {recipe: measuring.load_recipe(recipe).model for recipe in args.configs.split(",")}
    for recipe, found in nets.items():
        net = dataclasses.replace(found, dtype="bfloat16")
        params = model.num_params(jax.eval_shape(lambda net=net: model.init(jax.random.key(0), net)))
        for name, chip in CHIPS.items():
            seconds, bound = pass_seconds(net, chip, args.share)
            per_second = 1 / (seconds * args.calls)
            common = {"config": recipe, "chip": name, "bound": bound}
            sampling.append(
                common
                | {"gflop": measuring.forward_flops(net, 1, STEPS) / 1e9, "per_second": per_second}
                | {"hours": 1e6 / per_second / 3600, "minutes": 1e6 / per_second / 60 / args.chips}
            )
            step = 3 * BATCH * seconds
            reduce = 2 * 4 * params / chip.links * (args.chips - 1) / args.chips
            training.append(
                common
                | {"milliseconds": 1e3 * step, "reduce": 1e3 * reduce, "efficiency": step / (step + reduce)}
                | {"hours": 60_000 * (step + reduce) / 3600}
            )
    print(f"{args.calls} calls a chorale of {STEPS} steps, {args.share:.0%} of the peaks, pods of {args.chips} chips")
    for name, rows, columns in (("sampling", sampling, SAMPLING), ("training", training, TRAINING)):
        measuring.finish(
            f"cost of {name}", rows, columns, args.json and f"{args.json.removesuffix('.json')}_{name}.json"
        )


if __name__ == "__main__":
    main()
