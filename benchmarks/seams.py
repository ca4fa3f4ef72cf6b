"""Whether long pieces show where the network's windows join: measures within 4 steps of a join, and elsewhere.

  python benchmarks/seams.py

Draws 64 pieces of 256 steps in windows of 64 and prints a Markdown table: means, their standard errors over pieces, and
by how many errors of the difference they differ; and how many notes differ from those of the same chains drawn in one
piece: where none does, what differs near joins is chance, and the command fails where one does (in float32 on CPU;
elsewhere rounding may differ). That logits in windows equal those of the whole piece is tested in
tests/test_generate.py.
"""

import argparse
import sys

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int16
import numpy as np

from coconet_jax import (
    checkpoint,
    config,
    devices,
    errors,
    generate,
    masks,
    model,
    objective,
    pianoroll,
    tasks,
    weights,
)
from coconet_jax.judge import rhythm, theory

STEPS, WINDOW, PIECES, NEAR = 256, 64, 64, 4
_USUAL = generate.WINDOW_STEPS
CONTEXTS = 8


def cell_nll(loaded: weights.Loaded, pitches: np.ndarray) -> Float[np.ndarray, "n t"]:
    """Nats per variable at each step, under orderless contexts, by the network over whole pieces."""

    @jax.jit
    def one(batch: jax.Array, number: jax.Array) -> tuple[jax.Array, jax.Array]:
        predict = model.make_predict(loaded.variables, loaded.config.model)
        valid = jnp.ones(batch.shape[:2], bool)
        keys = jax.random.split(jax.random.fold_in(jax.random.key(2), number), len(batch))
        context = masks.sample_orderless_context(keys, jnp.full(len(batch), (number + 0.5) / CONTEXTS), valid)
        roll = pianoroll.from_pitches(batch)
        cost = objective.cell_nll(predict(roll, context, valid), roll) * ~context
        return jnp.sum(cost, axis=2), jnp.sum(~context, axis=2)

    total, count = np.zeros(pitches.shape[:2]), np.zeros(pitches.shape[:2])
    for number in range(CONTEXTS):
        for at in range(0, len(pitches), 8):
            cost, cells = one(jnp.asarray(pitches[at : at + 8]), jnp.int32(number))
            total[at : at + 8] += cost
            count[at : at + 8] += cells
    return total / np.maximum(count, 1)


def compare(values: Float[np.ndarray, "n t"], near: Bool[np.ndarray, " t"]) -> tuple[float, float, float, float]:
    """Mean near and elsewhere, error of the difference over pieces, and the difference in errors."""
    there, elsewhere = values[:, near].mean(axis=1), values[:, ~near].mean(axis=1)
    difference = there - elsewhere
    error = float(difference.std(ddof=1) / len(values) ** 0.5)
    return float(there.mean()), float(elsewhere.mean()), error, float(difference.mean()) / max(error, 1e-12)


def draw(loaded: weights.Loaded, calls: int, seed: int) -> tuple[Int16[np.ndarray, "n t 4"], int]:
    """Pieces drawn in windows, and how many of their notes are others in the same chains drawn in one piece."""
    drawn = []
    try:
        for window in (WINDOW, STEPS):
            generate.WINDOW_STEPS = window
            generate._compiled.cache_clear()  # which has the window in it
            plan = generate.plan(
                loaded,
                tasks.excerpt(tasks.compose(STEPS)),
                PIECES,
                config.usual_sample(num_steps=calls - 1),
                seed=seed,
                micro_batch=8,
            )
            drawn.append(generate.samples(plan, np.arange(PIECES)).pitches)
    finally:
        generate.WINDOW_STEPS = _USUAL
        generate._compiled.cache_clear()
    return drawn[0], int((drawn[0] != drawn[1]).sum())


def at_joins(loaded: weights.Loaded, pitches: Int16[np.ndarray, "n t 4"]) -> dict[str, tuple[float, ...]]:
    """Measures near joins and elsewhere, as in `compare`."""
    steps, joins = np.arange(STEPS), np.arange(WINDOW, STEPS, WINDOW)
    near = (np.abs(steps[:, None] - joins[None]) <= NEAR).any(axis=1)
    inner = slice(NEAR, STEPS - NEAR)  # the ends of a piece are another matter
    values = {
        "parallel fifths a step": theory.count_parallel_fifths(pitches),
        "parallel octaves a step": theory.count_parallel_octaves(pitches),
        "repeated chords, share": rhythm.mark_repeated_chords(pitches, 4),
        "NLL, nats per variable": cell_nll(loaded, pitches),
    }
    return {name: compare(np.asarray(of, float)[:, inner], near[inner]) for name, of in values.items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=weights.DEFAULT, help=weights.HELP)
    parser.add_argument("--calls", type=int, default=24, help="model calls of a piece (default: 24)")
    parser.add_argument("--seed", type=int, default=0, help="of the pieces (default: 0)")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.split_cpu(devices.num_cores())
    with errors.exit_on_input_error():
        loaded = checkpoint.load(args.checkpoint)
        pitches, differing = draw(loaded, args.calls, args.seed)
        print(f"step {loaded.step} of {args.checkpoint}, {args.calls} model calls, {PIECES} pieces\n")
        print("| Measure | near a join | elsewhere | error | difference in errors |\n| --- | --- | --- | --- | --- |")
        for name, found in at_joins(loaded, pitches).items():
            print(f"| {name} | " + " | ".join(f"{number:.4f}" for number in found[:3]) + f" | {found[3]:+.1f} |")
        print(f"\n{differing} of {pitches.size} notes differ from those of the pieces drawn whole")
    sys.exit(bool(differing) and devices.on_cpu() and model.compute_dtype(loaded.config.model) == jnp.float32)


if __name__ == "__main__":
    main()
