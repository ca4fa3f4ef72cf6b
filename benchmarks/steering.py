"""What the soft priors do: 64 samples at each strength, with 95 % intervals.

  python benchmarks/steering.py --data=chorales.npz

Prints a Markdown table. A prior works if its measure moves the way it should from each strength to the next, and the
command fails where one does not. Samples are of 64 steps, by `--calls` model calls of annealed Gibbs; what is rewritten
is the beginning of a validation chorale, all of it.
"""

import argparse
from collections.abc import Callable, Sequence
import sys
from typing import NamedTuple

import numpy as np

from coconet_jax import (
    checkpoint,
    config,
    devices,
    errors,
    generate,
    pianoroll,
    pieces,
    score,
    steering,
    tasks,
    weights,
)
from coconet_jax.judge import rates

STEPS = 64
NUM_SAMPLES = 64
NARROW = ((62, 74), (57, 69), (50, 62), (43, 57))
KEYS = {"G major": (7, 9, 11, 0, 2, 4, 6), "e minor": (4, 6, 7, 9, 11, 0, 1, 2, 3)}  # both sixths and sevenths


class Trial(NamedTuple):
    """A prior at rising strengths, and what it should move."""

    prior: str
    measure: str
    strengths: tuple[float, ...]
    steer: Callable[[float], steering.Steering]
    of: Callable[[np.ndarray], np.ndarray]  # pitches [n,t,4] to one number a sample [n]
    rewrites: bool
    rises: bool = True  # the measure, with the strength; else it falls


def does_what_it_says(means: Sequence[float], rises: bool) -> bool:
    """Whether the measure moves the right way from each strength to the next: level is not enough."""
    return bool((np.diff(means) * (1 if rises else -1) > 0).all())


def trials(original: score.Score) -> list[Trial]:
    """All of them; `original` is what similarity and freedom stay near to."""
    low, high = np.array(NARROW).T

    def changed(voices: slice, steps: slice = slice(None)) -> Callable[[np.ndarray], np.ndarray]:
        return lambda pitches: (pitches != original.pitches)[:, steps, voices].mean(axis=(1, 2))

    def entropy(pitches: np.ndarray) -> np.ndarray:
        """Of each sample's soprano: nats of its pitches' shares, and so higher where it roams."""
        found = []
        for column in pitches[:, :, 0]:
            share = np.unique(column, return_counts=True)[1] / len(column)
            found.append(-(share * np.log(share)).sum())
        return np.array(found)

    def freedom(value: float) -> steering.Steering:
        return steering.freedom(original, 5.0, by_voice=(0.0, value, 0.0, 0.0))

    def bar_freedom(value: float) -> steering.Steering:
        return steering.freedom(original, 5.0, by_bar=(0.0, 0.0, value, 0.0))

    def key(name: str) -> Trial:
        return Trial(
            f"key {name}",
            "notes in the key",
            (0, 1, 2, 4),
            lambda s: steering.key(STEPS, name, s),
            lambda p: np.isin(p % 12, KEYS[name]).mean(axis=(1, 2)),
            False,
        )

    return [
        *map(key, KEYS),
        Trial(
            "ranges",
            "notes outside narrow ranges",
            (0, 0.3, 1, 3),
            lambda s: steering.ranges(STEPS, NARROW, s),
            lambda p: ((p < low) | (p > high)).mean(axis=(1, 2)),
            False,
            rises=False,
        ),
        Trial(
            "similarity",
            "notes changed",
            (0, 1, 3, 6),
            lambda s: steering.similarity(original, s),
            changed(slice(0, 4)),
            True,
            rises=False,
        ),
        Trial("freedom of the alto", "alto notes changed", (0, 0.5, 1), freedom, changed(slice(1, 2)), True),
        Trial(
            "freedom of bar 3",
            "notes of bar 3 changed",
            (0, 0.5, 1),
            bar_freedom,
            changed(slice(0, 4), slice(32, 48)),
            True,
        ),
        Trial(
            "surprise of the soprano",
            "entropy of its pitches, nats",
            (0.5, 1, 1.5, 2),
            lambda s: steering.surprise(STEPS, (s, 1.0, 1.0, 1.0)),
            entropy,
            False,
        ),
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=weights.DEFAULT, help=weights.HELP)
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--calls", type=int, default=32, help="model calls of a sample (default: 32)")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.split_cpu(devices.num_cores())
    with errors.exit_on_input_error():
        loaded = checkpoint.load(args.checkpoint)
        original = score.from_pitches(pieces.read_npz(args.data).splits["valid"].pitches[0, :STEPS].astype(np.int16))
        print(f"step {loaded.step} of {args.checkpoint}, {args.calls} model calls, {NUM_SAMPLES} samples each\n")
        print("| Prior | Measure | Strength | Mean | 95 % interval |\n| --- | --- | --- | --- | --- |", flush=True)
        astray = []
        for trial in trials(original):
            sounding = original.pitches != pianoroll.REST
            request = tasks.excerpt(tasks.compose(STEPS))
            if trial.rewrites:
                request = tasks.Request(original, sounding, ends=(True, False))
            means = []
            for strength in trial.strengths:
                chosen = config.usual_sample(num_steps=args.calls - 1)
                plan = generate.plan(loaded, request, NUM_SAMPLES, chosen, prior=trial.steer(strength))
                found = rates.average(trial.of(generate.samples(plan, np.arange(NUM_SAMPLES)).pitches))
                means.append(found.mean)
                low, high = found.mean - 1.96 * found.error, found.mean + 1.96 * found.error
                print(
                    f"| {trial.prior} | {trial.measure} | {strength:g} | {found.mean:.3f} | {low:.3f} to {high:.3f} |",
                    flush=True,
                )
            if not does_what_it_says(means, trial.rises):
                astray.append(trial.prior)
    sys.exit(f"these do not do what they say: {', '.join(astray)}" if astray else 0)


if __name__ == "__main__":
    main()
