"""Samplers side by side: parallels per 100 beats, triads and repeated chords of their samples, beside Bach's.

  python benchmarks/samplers.py --data=chorales.npz

Prints a Markdown table. Each row is what `measure` makes of pitches [n,t,4], with the columns of `SAMPLER_COLUMNS`
added by whoever drew them.
"""

import argparse
from typing import Any

from jaxtyping import Integer
import numpy as np

from coconet_jax import errors, pieces
from coconet_jax.judge import rates, theory

Row = dict[str, Any]  # what a table prints: a name, an int or float, a rates.Rate or a rates.Measure

SAMPLER_COLUMNS = {"sampler": "Sampler", "model_calls": "Model calls", "seconds": "Seconds", "nll": "NLL (nats)"}
THEORY_COLUMNS = {
    "num_samples": "Samples",
    "parallel_fifths": "Parallel fifths per 100 beats",
    "parallel_octaves": "Parallel octaves per 100 beats",
    "triads": "Triads on beats",
    "repeated_chords": "Repeated chords",
}


def measure(pitches: Integer[np.ndarray, "n t 4"], steps_per_quarter: int = 4) -> Row:
    """The theory columns of a row: rates with 95 % Poisson intervals, shares of beats with standard errors."""
    fifths, octaves = theory.count_parallel_fifths(pitches), theory.count_parallel_octaves(pitches)
    return {
        "num_samples": len(pitches),
        "parallel_fifths": rates.rate_per_100_beats(fifths, steps_per_quarter),
        "parallel_octaves": rates.rate_per_100_beats(octaves, steps_per_quarter),
        "triads": rates.average(theory.triad_share(pitches, steps_per_quarter)),
        "repeated_chords": rates.average(theory.repeated_chord_share(pitches, steps_per_quarter)),
    }


def cut_windows(split: pieces.Pieces, num_steps: int) -> Integer[np.ndarray, "m {num_steps} 4"]:
    """The pieces of a split cut into windows from their starts, without overlap, so that no event counts twice.

    What is left at a piece's end is dropped.
    """
    if num_steps < 1:
        raise errors.InputError(f"windows of {num_steps} steps hold nothing; use 64 for 4 bars of 16ths")
    windows = [
        piece[start : start + num_steps]
        for piece, length in zip(split.pitches, split.lengths, strict=True)
        for start in range(0, int(length) - num_steps + 1, num_steps)
    ]
    if not windows:
        raise errors.InputError(f"no piece has {num_steps} steps; use shorter windows")
    return np.stack(windows)


def measure_bach(path: str, split: str = "test", num_steps: int = 64) -> Row:
    """Bach's row, from windows as long as the samples, of a file written by `coconet_jax.chorales --export`."""
    piece_set = pieces.read_npz(path)
    if split not in piece_set.splits:
        raise errors.InputError(f"{path} has no split {split}; it has {', '.join(piece_set.splits)}")
    windows = cut_windows(piece_set.splits[split], num_steps)
    return {"sampler": f"Bach, {split}", **measure(windows, piece_set.steps_per_quarter)}


def format_cell(value: object) -> str:
    """One cell: a rate with its interval, a share in percent with its standard error, a number, a name, or a dash."""
    match value:
        case rates.Rate(rate, low, high):
            return f"{rate:.2f} [{low:.2f}, {high:.2f}]"
        case rates.Measure(mean, error):
            return f"{100 * mean:.1f} ± {100 * error:.1f} %"
        case float():
            return f"{value:.3g}"
        case None:
            return "-"
        case _:
            return str(value)


def to_markdown(rows: list[Row], bach: Row) -> str:
    """The table: Bach first, then the rows in order. Sampler columns that no row fills are left out."""
    filled = {key for row in (bach, *rows) for key, value in row.items() if value is not None}
    columns = {key: title for key, title in {**SAMPLER_COLUMNS, **THEORY_COLUMNS}.items() if key in filled}
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(format_cell(row.get(key)) for key in columns) + " |" for row in (bach, *rows)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--steps", type=int, default=64, help="length of a sample, 64 = 4 bars of 16ths")
    args = parser.parse_args()
    with errors.exit_on_input_error():
        rows: list[Row] = []  # one for each sampler and number of steps
        print(to_markdown(rows, measure_bach(args.data, num_steps=args.steps)), end="")


if __name__ == "__main__":
    main()
