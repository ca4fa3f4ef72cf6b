"""Harmonisations of sopranos by several numbers of model calls, beside Bach's own and those of a wrong chorale.

  python benchmarks/harmonizing.py --data=chorales.npz --calls=96,192,384

The first `--steps` of every piece that is long enough are harmonised once, all in one batch. Prints a Markdown table:
parallels per 100 beats with 95 % Poisson intervals; means over pieces with standard errors of the share of triads, of
the time in which alto, tenor and bass sing Bach's notes, and of F1 between the beats where the harmony changes and
those where Bach's does (the same pitch classes as on the beat before, or not). "Voices of another piece" puts each
soprano over the lower voices of the next: what agreement comes from the style alone. --calls=96,maskgit:32 compares
samplers; with --polish=1,2 each set is shown polished too, with --measures every theory measure of each set follows
beside Bach's.
"""

import argparse
import time
from typing import Any

from jaxtyping import Bool, Float, Integer
import numpy as np

from coconet_jax import checkpoint, config, devices, errors, files, generate, pieces, polish, score, tasks, weights
from coconet_jax.judge import critic, rates, theory

Pitches = Integer[np.ndarray, "n t 4"]

COLUMNS = ("By", "Model calls", "Seconds", "Pieces", "Parallel fifths", "Parallel octaves", "Triads", "Notes as Bach's")
CHANGES = "F1 of harmony changes"


def cut(split: pieces.Pieces, steps: int) -> Pitches:
    """The beginnings of all pieces that are at least so long."""
    long = [piece[:steps] for piece, length in zip(split.pitches, split.lengths, strict=True) if length >= steps]
    if not long:
        raise errors.InputError(f"steps={steps}: no piece is as long; use {split.lengths.max()} or less")
    return np.stack(long).astype(np.int16)


def harmonize_each(originals: Pitches) -> tasks.Request:
    """A request whose chain c harmonises the soprano of piece c."""
    blank = np.full(originals.shape[1:], -1, np.int16)
    free = np.broadcast_to(np.arange(4) != 0, blank.shape)

    def begin(seed: int, ids: np.ndarray) -> tasks.Given:
        pitches = np.where(free, -1, originals[ids]).astype(np.int8)
        onset = np.zeros(pitches.shape, bool)
        return tasks.Given(pitches, onset, np.broadcast_to(free, pitches.shape))

    return tasks.Request(score.from_pitches(blank), free, vary=begin, ends=(True, False))


def mark_changes(pitches: Pitches, steps_per_quarter: int) -> Bool[np.ndarray, "n beats"]:
    """True at each beat after the first whose pitch classes, as a set, are not those of the beat before."""
    beats = pitches[:, ::steps_per_quarter]
    sets = np.bitwise_or.reduce(np.where(beats < 0, 0, 1 << (beats.astype(int) % 12)), axis=2)
    return sets[:, 1:] != sets[:, :-1]


def f1_of_changes(made: Pitches, originals: Pitches, steps_per_quarter: int) -> Float[np.ndarray, " n"]:
    """F1 of the beats where the harmony changes against the original's, for each piece; nan where neither changes."""
    found, true = mark_changes(made, steps_per_quarter), mark_changes(originals, steps_per_quarter)
    both, either = (found & true).sum(axis=1), found.sum(axis=1) + true.sum(axis=1)
    return np.where(either > 0, 2 * both / np.maximum(either, 1), np.nan)


def sampler_of(text: str) -> tuple[str, config.Sample]:
    """A title and the settings for 96 (calls of annealed Gibbs) or maskgit:32.

    Raises:
      InputError: it is neither.
    """
    name, _, calls = text.rpartition(":")
    if not calls.isdecimal() or int(calls) < 2 or name not in ("", "maskgit"):
        raise errors.InputError(f"--calls={text}: use numbers of calls from 2 on, such as 96, or maskgit:32")
    if name:
        return "MaskGIT", config.usual_sample("maskgit", num_steps=int(calls))
    return "annealed Gibbs", config.usual_sample(num_steps=int(calls) - 1)


def describe(name: str, made: Pitches, originals: Pitches, grid: int, calls: Any = "-", seconds: Any = "-") -> str:
    """One row of the table."""
    rows: list[Any] = [name, calls, seconds, len(made)]
    for count in (theory.count_parallel_fifths, theory.count_parallel_octaves):
        rate = rates.rate_per_100_beats(count(made), grid)
        rows.append(f"{rate.rate:.2f} [{rate.low:.2f}, {rate.high:.2f}]")
    same = (made == originals)[:, :, 1:].mean(axis=(1, 2))
    for values in (theory.triad_share(made, grid), same, f1_of_changes(made, originals, grid)):
        mean, error = rates.average(values)
        rows.append(f"{mean:.3f} ± {error:.3f}")
    return "| " + " | ".join(map(str, rows)) + " |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=weights.DEFAULT, help=weights.HELP)
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--split", default="valid", choices=pieces.SPLITS, help="whose sopranos (default: valid)")
    parser.add_argument("--steps", type=int, default=128, help="length (default: 128 = 8 bars of 16ths)")
    parser.add_argument("--pieces", type=int, default=0, help="at most so many pieces (default: all)")
    parser.add_argument(
        "--calls", default="96,192,384", help="model calls, maskgit:32 for another sampler (default: 96,192,384)"
    )
    parser.add_argument("--polish", default="0", help="sweeps of redraws under the critic's eye (default: 0)")
    parser.add_argument("--measures", action="store_true", help="also all theory measures of each set")
    parser.add_argument("--out", default="", help="npz for the pitches, by number of calls")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.split_cpu(devices.num_cores())
    with errors.exit_on_input_error():
        loaded, piece_set = checkpoint.load(args.checkpoint), pieces.read_npz(args.data)
        grid = piece_set.steps_per_quarter
        originals = cut(piece_set.splits[args.split], args.steps)[: args.pieces or None]
        wrong = originals.copy()
        wrong[:, :, 1:] = np.roll(originals, 1, axis=0)[:, :, 1:]
        rows = [
            describe("Bach", originals, originals, grid),
            describe("voices of another piece", wrong, originals, grid),
        ]
        kept = {"bach": originals}
        judge = polish.judge_with(critic.load())
        if not all(number.isdecimal() for number in args.polish.split(",")):
            raise errors.InputError(f"--polish={args.polish}: use numbers of sweeps, such as 2 or 2,3")
        all_sweeps = [int(number) for number in args.polish.split(",")]
        for word in args.calls.split(","):
            title, chosen = sampler_of(word)
            plan = generate.plan(loaded, harmonize_each(originals), len(originals), chosen)
            begun = time.perf_counter()
            made = generate.samples(plan, np.arange(len(originals))).pitches
            seconds = round(time.perf_counter() - begun, 1)
            assert np.array_equal(made[..., 0], originals[..., 0])
            rows.append(describe(title, made, originals, grid, generate.num_calls(plan), seconds))
            print(rows[-1], flush=True)
            kept[f"calls{word}"] = raw = made
            for sweeps in filter(None, all_sweeps):
                begun = time.perf_counter()
                made = polish.polish(judge, plan, raw, np.arange(len(raw)), sweeps)
                seconds = round(time.perf_counter() - begun, 1)
                assert np.array_equal(made[..., 0], originals[..., 0])
                more = f"{generate.num_calls(plan)} + up to {polish.num_calls(plan.request.free, sweeps)}"
                rows.append(describe(f"the same, polished, sweeps: {sweeps}", made, originals, grid, more, seconds))
                print(rows[-1], flush=True)
                kept[f"polished{word}, {sweeps}"] = made
    if args.out:
        files.replace_npz(args.out, **kept)
    titles = (*COLUMNS, CHANGES)
    print(f"\nstep {loaded.step} (sha256 {loaded.sha256[:8]}), {args.split}, {args.steps} steps")
    print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
    print("\n".join(rows))
    if args.measures:
        print("\n" + theory.compare({name: theory.measure_pieces(made, grid) for name, made in kept.items()}), end="")


if __name__ == "__main__":
    main()
