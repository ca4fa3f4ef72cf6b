"""Likelihood evaluation: agreement with a plain loop over the same notes, and speed, as ratios in one run.

  python benchmarks/evaluate.py --checkpoint=small --data=chorales.npz
  python benchmarks/evaluate.py --configs=configs/small.py,configs/paper.py --notes=8,32

Given a checkpoint, three ways take turns: the plain loop of tests/reference_nll.py (the whole piece goes through the
compiled network for each note, on one device: of a CPU one core, where the other ways use all), windows of the
network's reach in batches, and those with each layer cut to the steps that the frame still depends on, which is what
the command does. The largest difference is printed. Without one, recipes are timed, with fresh weights and random
notes: the two ways in batches, over numbers of notes at once and dtypes.
"""

import argparse
import dataclasses
import itertools
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import measuring
import numpy as np

from coconet_jax import checkpoint, config, devices, errors, estimates, likelihood, model, pianoroll, pieces

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import reference_nll

ORDERING = 0


def wide(net: config.Model) -> likelihood.Net:
    """The logits of a step from a window, every layer computed for the whole window."""
    before = model.reach(net)[0]

    def make(variables: model.Variables) -> model.PredictStep:
        predict = model.make_predict(variables, net)
        return lambda *shown: predict(*shown)[:, before]

    return likelihood.Net(make, model.reach(net))


NAME = "framewise_released"  # the measure that is timed
CUT, WIDE = "each layer cut to what is needed", "windows in batches"
AGREEMENT = {
    "way": "Way",
    "milliseconds": "A note: median, ms",
    "best": "Best, ms",
    "ratio": "Plain loop / this, medians",
}
SPEED = {
    "config": "Recipe",
    "dtype": "dtype",
    "way": "Way",
    "notes": "Notes at once a device",
    "milliseconds": "A note, median, ms",
    "notes_per_second": "Notes/s",
    "share_of_peak": "Share of matmul peak",
    "counted_over_xla": "Counted / XLA's FLOPs",
    "first_seconds": "First run, compiling included, s",
    "temporary_megabytes": "Between operations, MB a device",
}


def protocol() -> likelihood.Protocol:
    """Of the measure that is timed."""
    return likelihood.Protocol(estimates.MEASURES[NAME].order, estimates.MEASURES[NAME].feed)


def compare(path: str, data: str, rounds: int, json_path: str | None) -> None:
    """A checkpoint's likelihoods by three ways."""
    loaded = checkpoint.load(path)
    split = pieces.read_npz(data).splits["valid"]
    piece = int(np.argsort(split.lengths)[len(split.lengths) // 2])  # of median length
    corpus = likelihood.Corpus(split.pitches, split.lengths, np.arange(len(split.lengths), dtype=np.int32))
    mesh, size = devices.make_mesh(), likelihood.default_batch_size()
    num_frames = size * mesh.size
    frames = np.linspace(0, split.lengths[piece] - 1, num_frames).astype(int).tolist()
    rows = likelihood.Rows(
        np.full(num_frames, piece, np.int32), np.array(frames, np.int32), np.full(num_frames, ORDERING, np.int32)
    )
    forward = jax.jit(model.make_predict(loaded.variables, loaded.config.model))
    nets = {WIDE: wide(loaded.config.model), CUT: likelihood.net_of(loaded.config.model)}
    runs = {
        way: likelihood.prepare(likelihood.Scorer(loaded.variables, net, corpus, 0, size, mesh))
        for way, net in nets.items()
    }

    def loop(name: str) -> np.ndarray:
        return reference_nll.row(forward, corpus, piece, ORDERING, frames, name, 0)

    def score(way: str, name: str) -> np.ndarray:
        measure = estimates.MEASURES[name]
        return np.concatenate(list(likelihood.score(runs[way], rows, likelihood.Protocol(measure.order, measure.feed))))

    worst = 0.0
    for name in estimates.MEASURES:
        expected = loop(name)
        difference = max(float(np.abs(score(way, name) - expected).max()) for way in runs)
        worst = max(worst, difference)
        print(f"{name}: largest difference {difference:.2g} nats in {expected.size} notes", flush=True)
    print(f"largest of all: {worst:.2g} nats; {NAME}, piece of {split.lengths[piece]} steps:")

    ways = {"plain loop": lambda: loop(NAME), **{way: lambda way=way: score(way, NAME) for way in runs}}
    seconds = measuring.in_turns(ways, rounds)
    notes = pianoroll.NUM_VOICES * num_frames
    slow = measuring.median(seconds["plain loop"])
    found = [
        {
            "way": way,
            "milliseconds": 1e3 * measuring.median(times) / notes,
            "best": 1e3 * min(times) / notes,
            "ratio": slow / measuring.median(times),
            "seconds": times,
        }
        for way, times in seconds.items()
    ]
    measuring.finish("evaluate", found, AGREEMENT, json_path)


def of_a_window(net: config.Model, way: str, notes: int) -> dict[str, float]:
    """Of the network alone, compiled for a device: our count of its operations, that over XLA's, and its memory."""
    variables = model.init(jax.random.key(0), net)
    width = sum(model.reach(net)) + 1
    make = (likelihood.net_of(net) if way == CUT else wide(net)).make_step
    cells = (notes, width, pianoroll.NUM_VOICES)
    shapes = [(notes, width, pianoroll.NUM_PITCHES, pianoroll.NUM_VOICES), cells, cells[:2]]
    inputs = [jax.ShapeDtypeStruct(shape, kind) for shape, kind in zip(shapes, (jnp.float32, bool, bool), strict=True)]
    compiled = jax.jit(lambda v, *given: make(v)(*given)).lower(variables, *inputs).compile()
    flops = measuring.cut_flops(net, notes) if way == CUT else measuring.forward_flops(net, notes, width)
    return {
        "flops": flops,
        "counted_over_xla": flops / measuring.xla_flops(compiled),
        "temporary_megabytes": measuring.temporary_megabytes(compiled),
    }


def time_recipes(args: argparse.Namespace) -> None:
    """Notes a second of recipes."""
    choices = (
        args.configs.split(","),
        measuring.words("dtypes", args.dtypes, measuring.DTYPES),
        (CUT, WIDE),
        measuring.numbers("notes", args.notes),
    )
    mesh = devices.make_mesh()
    made = measuring.random_pieces(4, 256)
    corpus = likelihood.Corpus(made, np.full(4, 256, np.int32), np.arange(4, dtype=np.int32))
    runs: dict[Any, Any] = {}
    facts: dict[Any, dict[str, float]] = {}
    for chosen in itertools.product(*choices):
        recipe, dtype, way, notes = chosen
        net = dataclasses.replace(measuring.load_recipe(recipe).model, dtype=dtype)
        own = likelihood.net_of(net) if way == CUT else wide(net)
        scorer = likelihood.prepare(likelihood.Scorer(model.init(jax.random.key(0), net), own, corpus, 0, notes, mesh))
        count = notes * mesh.size
        rows = likelihood.Rows(*np.zeros((3, count), np.int32))._replace(frame=np.arange(count, dtype=np.int32) % 256)
        runs[chosen] = lambda scorer=scorer, rows=rows: list(likelihood.score(scorer, rows, protocol()))
        facts[chosen] = of_a_window(net, way, notes) | {"first_seconds": measuring.clock(runs[chosen])}
    seconds, peaks = measuring.beside_peaks(runs, args.rounds, choices[1], mesh)
    found = []
    for chosen, times in seconds.items():
        recipe, dtype, way, notes = chosen
        # A row is a frame: its four notes are four calls of the network.
        call = measuring.median(times) / pianoroll.NUM_VOICES
        total = notes * mesh.size
        found.append(
            {
                "config": recipe,
                "dtype": dtype,
                "way": way,
                "notes": notes,
                "milliseconds": 1e3 * call / total,
                "notes_per_second": total / call,
                "share_of_peak": facts[chosen]["flops"] * mesh.size / call / peaks[dtype],
                "seconds": times,
                **facts[chosen],
            }
        )
    measuring.finish("evaluate recipes", found, SPEED, args.json)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="the --workdir of a training run")
    parser.add_argument("--data", help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--configs", default="configs/small.py", help="recipes (default: configs/small.py)")
    parser.add_argument("--dtypes", default="float32", help="of activations: float32, bfloat16 (default: float32)")
    parser.add_argument("--notes", default="8", help="notes at once on a device (default: 8)")
    parser.add_argument("--rounds", type=measuring.rounds, default=5, help="turns that each way takes (default: 5)")
    parser.add_argument("--json", help="file for all numbers")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.split_cpu(devices.num_cores())
    measuring.forget_programs()
    with errors.exit_on_input_error():
        if (args.checkpoint is None) != (args.data is None):
            raise errors.InputError("--checkpoint and --data go together; give both, or neither")
        if args.checkpoint:
            compare(args.checkpoint, args.data, args.rounds, args.json)
        else:
            time_recipes(args)


if __name__ == "__main__":
    main()
