"""Bach by every theory measure, and how far damaged Bach is from Bach by distances on these measures.

  python benchmarks/theory.py --data=chorales.npz

Prints four Markdown tables: what each measure is; its mean and spread on whole pieces and on windows of the training
and test splits, with the parallels of all pieces of all splits counted together; and the distances of the test windows,
sound and damaged, from the training windows, by theory measures and by what the composer classifier hears. Between
them, how many real windows would not pass for new, and the test pieces they are from.
"""

import argparse
import dataclasses

from jaxtyping import Float
import numpy as np

from coconet_jax import errors, pieces
from coconet_jax.judge import beats, composers, distances, rates, sets, theory

TITLES = {
    "kid": "KID",
    "frechet": "Frechet",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
}


COPY_STEPS = 24  # more than these in a row are a quotation


@dataclasses.dataclass(frozen=True)
class Settings:
    """Steps of a window, steps from one to the next, windows of each side of a distance (0: all of test), the seed."""

    steps: int = 64
    hop: int = 16
    number: int = 0
    seed: int = 0


def definitions() -> str:
    """The first table: name, unit, definition."""
    lines = ["| Measure | Unit | What it counts |", "| --- | --- | --- |"]
    for name, (unit, text) in (theory.MEASURES | theory.COPY_MEASURES).items():
        lines.append(f"| {name} | {'%' if unit == theory.SHARE else unit} | {text} |")
    return "\n".join(lines) + "\n"


def measure_whole(piece_set: pieces.PieceSet, split: str) -> dict[str, Float[np.ndarray, " n"]]:
    """Whole pieces of a split. A training piece is not looked for in itself."""
    part, training = piece_set.splits[split], piece_set.splits["train"]
    own = np.arange(len(part.lengths)) if split == "train" else None
    found = theory.measure_pieces(part.pitches, piece_set.steps_per_quarter, part.lengths)
    return found | theory.measure_copies(part.pitches, training, part.lengths, own)


def measure_windows(
    piece_set: pieces.PieceSet, split: str, windows: sets.Windows
) -> dict[str, Float[np.ndarray, " n"]]:
    """Windows of a split, likewise."""
    own = windows.groups if split == "train" else None
    found = theory.measure_pieces(windows.pitches, piece_set.steps_per_quarter)
    return found | theory.measure_copies(windows.pitches, piece_set.splits["train"], own=own)


def count_copies(columns: dict[str, dict[str, Float[np.ndarray, " n"]]], names: tuple[str, ...]) -> str:
    """How many of each column have a run of more than COPY_STEPS steps in other training pieces; which test pieces."""
    lines = [f"Runs of more than {COPY_STEPS} steps found in other pieces of the training set:"]
    for title, found in columns.items():
        long = found["copied_run"] > COPY_STEPS
        lines.append(f"- {title}: {long.sum()} ({100 * long.mean():.1f} %)")
        if len(long) == len(names):
            lines[-1] += "; " + ", ".join(f"{names[n]} ({found['copied_run'][n]:.0f})" for n in np.flatnonzero(long))
    return "\n".join(lines) + "\n"


def pool_parallels(piece_set: pieces.PieceSet) -> str:
    """Parallels of all pieces of all splits, a beat counting alike in long and short ones."""
    parts = [(part.pitches, beats.mark_valid(part.pitches, part.lengths)) for part in piece_set.splits.values()]
    found = []
    for count in (theory.count_parallel_fifths, theory.count_parallel_octaves):
        counts = np.concatenate([count(pitches)[valid] for pitches, valid in parts])
        rate = rates.rate_per_100_beats(counts[None], piece_set.steps_per_quarter)
        found.append(f"{rate.rate:.3f} [{rate.low:.3f}, {rate.high:.3f}]")
    number = sum(len(pitches) for pitches, _ in parts)
    return f"All {number} pieces: parallel fifths {found[0]}, octaves {found[1]} per 100 beats\n"


def to_markdown(rows: dict[str, dict[str, rates.Measure]]) -> str:
    """The table of distances: value ± jackknife error."""
    lines = ["| Set | " + " | ".join(TITLES.values()) + " |", "|" + " --- |" * (1 + len(TITLES))]
    for title, found in rows.items():
        lines.append(f"| {title} | " + " | ".join(f"{found[k].mean:.3f} ± {found[k].error:.3f}" for k in TITLES) + " |")
    return "\n".join(lines) + "\n"


def measure_distances(
    train: sets.Windows, test: sets.Windows, features: distances.Features, chosen: Settings
) -> dict[str, dict[str, rates.Measure]]:
    """Distances from training windows: of the training windows themselves (halves with no piece in common), of test."""
    number = chosen.number or len(test.pitches)
    one, other = sets.halve(np.random.default_rng(chosen.seed), train)
    rows = {"real: train, half against half": distances.between(one, other, features, number, chosen.seed)}
    rows["real: test"] = distances.between(train, test, features, number, chosen.seed)
    for title, damage in sets.DAMAGES.items():
        damaged = test._replace(pitches=damage(np.random.default_rng(chosen.seed), test.pitches))
        rows[f"test, {title}"] = distances.between(train, damaged, features, number, chosen.seed)
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--steps", type=int, default=64, help="length of a window, 64 = 4 bars of 16ths")
    parser.add_argument("--hop", type=int, default=16, help="steps from a window to the next (default: 16, a bar)")
    parser.add_argument(
        "--number", type=int, default=0, help="windows of each side of a distance (default: all of test)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the damage and of the windows drawn")
    args = parser.parse_args()
    chosen = Settings(args.steps, args.hop, args.number, args.seed)
    with errors.exit_on_input_error():
        if args.seed < 0:
            raise errors.InputError(f"--seed={args.seed}: use 0 or more")
        piece_set = pieces.read_npz(args.data)
        if "test" not in piece_set.splits:
            raise errors.InputError(f"{args.data} has no split test; it has {', '.join(piece_set.splits)}")
        windows = {
            split: sets.cut_windows(piece_set.splits[split], chosen.steps, chosen.hop) for split in ("train", "test")
        }
        columns = {
            f"{split}, {len(piece_set.splits[split].lengths)} pieces": measure_whole(piece_set, split)
            for split in windows
        } | {
            f"{split}, {len(cut.pitches)} windows": measure_windows(piece_set, split, cut)
            for split, cut in windows.items()
        }
        copied = count_copies(columns, piece_set.splits["test"].names)
        print(definitions(), theory.compare(columns), pool_parallels(piece_set), copied, sep="\n")
        shown = windows["train"].pitches
        found = [("By theory measures", distances.fit_theory(shown, piece_set.steps_per_quarter))]
        if piece_set.steps_per_quarter == 4:  # what it knows
            found.append(("By what the composer classifier hears", composers.fit_features(composers.load(), shown)))
        for title, features in found:
            rows = measure_distances(windows["train"], windows["test"], features, chosen)
            print(f"{title}:\n\n{to_markdown(rows)}", flush=True)


if __name__ == "__main__":
    main()
