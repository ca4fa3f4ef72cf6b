"""Likelihood evaluation against a plain loop over the same notes: agreement, and speed as a ratio in one run.

  python benchmarks/evaluate.py --checkpoint=checkpoints/small --data=chorales.npz

Three ways take turns: the plain loop of tests/reference_nll.py (the whole piece goes through the compiled network for
each note, on one device: of a CPU one core, where the other ways use all), windows of the network's reach in batches,
and those with each layer cut to the steps that the frame still depends on, which is what the command does. Prints the
largest difference and a Markdown table.
"""

import argparse
import pathlib
import statistics
import sys
import time

import jax
import numpy as np

from coconet_jax import (
    checkpoint,
    config,
    devices,
    errors,
    estimates,
    likelihood,
    model,
    pieces,
    provenance,
)

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tests"))
import reference_nll

ORDERING = 0


def wide(net: config.Model) -> likelihood.Net:
    """The logits of a step from a window, every layer computed for the whole window."""
    before = model.reach(net)[0]

    def make(variables: model.Variables) -> model.PredictStep:
        predict = model.make_predict(variables, net)
        return lambda roll, context, valid: predict(roll, context, valid)[:, before]

    return likelihood.Net(make, model.reach(net))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="the --workdir of a training run")
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each way takes (default: 5)")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.split_cpu(devices.num_cores())
    with errors.exit_on_input_error():
        loaded = checkpoint.load(args.checkpoint)
        split = pieces.read_npz(args.data).splits["valid"]
        piece = int(np.argsort(split.lengths)[len(split.lengths) // 2])  # of median length
        corpus = likelihood.Corpus(split.pitches, split.lengths, np.arange(len(split.lengths), dtype=np.int32))
        mesh = devices.make_mesh()
        num_frames = likelihood.default_batch_size() * mesh.size
        frames = np.linspace(0, split.lengths[piece] - 1, num_frames).astype(int).tolist()
        rows = likelihood.Rows(
            np.full(num_frames, piece, np.int32), np.array(frames, np.int32), np.full(num_frames, ORDERING, np.int32)
        )
        forward = jax.jit(model.make_predict(loaded.variables, loaded.config.model))
        nets = {
            "windows in batches": wide(loaded.config.model),
            "each layer cut to what is needed": likelihood.net_of(loaded.config.model),
        }
        size = likelihood.default_batch_size()
        runs = {
            way: likelihood.prepare(likelihood.Scorer(loaded.variables, net, corpus, 0, size, mesh))
            for way, net in nets.items()
        }

        def loop(name: str) -> np.ndarray:
            return reference_nll.row(forward, corpus, piece, ORDERING, frames, name, 0)

        def score(way: str, name: str) -> np.ndarray:
            measure = estimates.MEASURES[name]
            protocol = likelihood.Protocol(measure.order, measure.feed)
            return np.concatenate(list(likelihood.score(runs[way], rows, protocol)))

        worst = 0.0
        for name in estimates.MEASURES:
            expected = loop(name)
            difference = max(float(np.abs(score(way, name) - expected).max()) for way in runs)
            worst = max(worst, difference)
            print(f"{name}: largest difference {difference:.2g} nats in {expected.size} notes", flush=True)
        print(f"largest of all: {worst:.2g} nats")

        name = "framewise_released"
        seconds: dict[str, list[float]] = {way: [] for way in ("plain loop", *runs)}
        for _ in range(args.rounds):
            for way, found in seconds.items():
                begun = time.perf_counter()
                score(way, name) if way in runs else loop(name)
                found.append((time.perf_counter() - begun) / (4 * num_frames))
        slow = statistics.median(seconds["plain loop"])
        print(f"\n{name}, piece of {split.lengths[piece]} steps, {provenance.hardware()}, commit {provenance.commit()}")
        print("\n| | a note: median (best), ms | ratio of medians |\n| --- | --- | --- |")
        for way, found in seconds.items():
            median = statistics.median(found)
            print(f"| {way} | {1e3 * median:.1f} ({1e3 * min(found):.1f}) | {slow / median:.1f} |")


if __name__ == "__main__":
    main()
