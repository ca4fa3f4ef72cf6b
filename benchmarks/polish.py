"""What redraws under the critic's eye do to a set of samples, sweep by sweep, beside Bach.

  python benchmarks/polish.py --checkpoint=small --data=chorales.npz --num_samples=64 --calls=256 --sweeps=1,2

Samples of annealed Gibbs from nothing, and the same after so many sweeps, by --passages (steps x candidates x calls;
several with commas between). The critic chose them, so that its opinion says nothing of them; KID and coverage are on
theory measures, which it knows in part; it knows neither the NLL under the model (random contexts) nor the composer
classifier. Sets are kept in --out and not drawn again. Errors: jackknife (KID, coverage), Poisson intervals
(parallels), standard errors of means.
"""

import argparse
import pathlib
from typing import Any

import numpy as np
import samplers

from coconet_jax import checkpoint, config, devices, errors, files, generate, pieces, polish, tasks, weights
from coconet_jax.judge import composers, copies, critic, distances, ranking, rates, sets, theory

STEPS = critic.STEPS
SHARES = ("triads", "triads_or_sevenths", "repeated_chords")
COUNTS = ("dissonances_by_leap", "suspensions", "dominants", "stops")


def describe(name: str, calls: str, seconds: str, pitches: np.ndarray, known: dict[str, Any]) -> dict[str, str]:
    """A row of the table."""
    found = distances.between(known["real"], sets.from_samples(pitches), known["features"], known["number"])
    row = {"Set": name, "Model calls": calls, "Seconds": seconds, "n": str(len(pitches))}
    row["Critic"] = "{:.2f} ± {:.2f}".format(*rates.average(critic.judge(known["critic"], pitches).logit))
    row["KID"] = "{:.2f} ± {:.2f}".format(*found["kid"])
    row["Coverage"] = "{:.2f} ± {:.2f}".format(*found["coverage"])
    for title, count in (("fifths", theory.count_parallel_fifths), ("octaves", theory.count_parallel_octaves)):
        rate = rates.rate_per_100_beats(count(pitches))
        row[f"Parallel {title}"] = f"{rate.rate:.2f} [{rate.low:.2f}, {rate.high:.2f}]"
    measured = theory.measure_pieces(pitches)
    for key in SHARES:
        row[key] = "{:.1f} ± {:.1f} %".format(*(100 * part for part in rates.average(measured[key])))
    for key in COUNTS:
        row[key] = "{:.1f} ± {:.1f}".format(*rates.average(measured[key]))
    row["NLL"] = samplers.format_nats(samplers.nll(known["model"], pitches))
    row["log p(Bach)"] = "{:.2f} ± {:.2f}".format(
        *rates.average(composers.log_probs(known["classifier"], pitches)[:, 0].astype(float))
    )
    copied = copies.longest_run(pitches, known["training"]) >= 4 * ranking.COPIED_BEATS
    row["Copied"] = f"{100 * copied.mean():.1f} %"
    return row


def print_measures(real: np.ndarray, whole: list[pieces.Pieces], made: dict[str, np.ndarray]) -> None:
    """Every theory measure of Bach's windows and of the sets, and how far a set's mean is from Bach's in deviations
    of Bach's windows, with its standard error, and in those of his whole pieces, which vary less."""
    by_piece = [theory.measure_pieces(part.pitches, lengths=part.lengths) for part in whole]
    measured = {"Bach": theory.measure_pieces(real)} | {
        name: theory.measure_pieces(part) for name, part in made.items()
    }
    lines = theory.compare(measured).splitlines()
    titles = [f" {name} less Bach, deviations | of whole pieces |" for name in made]
    print("\n" + lines[0] + "".join(titles) + "\n" + lines[1] + " --- | --- |" * len(made))
    for line in lines[2:]:
        key = line.split("|")[1].strip()
        spread = np.nanstd(measured["Bach"][key])
        of_pieces = np.nanstd(np.concatenate([found[key] for found in by_piece]))
        for name in made:
            mean, error = rates.average(measured[name][key] - np.nanmean(measured["Bach"][key]))
            line += f" {mean / spread:+.2f} ± {error / spread:.2f} |" if spread else " - |"
            line += f" {mean / of_pieces:+.2f} |" if of_pieces else " - |"
        print(line)


def passages_of(text: str) -> polish.Passages:
    """Passages from a text such as 8x4x8 or 8x4x8x0.5x1.5.

    Raises:
      InputError: it is no such text.
    """
    kinds = (int, int, int, float, float)  # of the fields of Passages
    words = text.split("x")
    try:
        found = polish.Passages(*(kind(word) for kind, word in zip(kinds, words, strict=False)))
    except (TypeError, ValueError):
        found = None
    if found is None or not 3 <= len(words) <= len(kinds) or min(found[:3]) < 1:
        raise errors.InputError(f"--passages={text}: use steps x candidates x calls, such as 8x4x8 or 8x4x8x0.5x1")
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=weights.DEFAULT, help=weights.HELP)
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument(
        "--split",
        default="valid",
        choices=samplers.REAL,
        help=samplers.REAL_HELP,
    )
    parser.add_argument("--num_samples", type=int, default=64, help="of each set (default: 64)")
    parser.add_argument("--calls", default="256", help="model calls before polishing, with commas (default: 256)")
    parser.add_argument("--sweeps", default="1,2", help="numbers of sweeps (default: 1,2)")
    parser.add_argument(
        "--passages", default="8x4x8", help="steps x candidates x calls [x coolness [x enough]] (default: 8x4x8)"
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=config.TEMPERATURES["gibbs"],
        help="of all draws (default: the commands')",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--whole",
        action="store_true",
        help="pieces with a beginning and an end, as commands write them (default: excerpts, as Bach's windows are)",
    )
    parser.add_argument(
        "--critic", default=str(critic.PATH), help="file of the critic that chooses (default: packaged)"
    )
    parser.add_argument("--measures", action="store_true", help="also all theory measures of each set")
    parser.add_argument("--out", default="runs/polish", help="folder of the sets (default: runs/polish)")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.use_compile_cache()
    devices.split_cpu(devices.num_cores())
    with errors.exit_on_input_error():
        all_passages = [passages_of(text) for text in args.passages.split(",")]
        loaded, piece_set = checkpoint.load(args.checkpoint), pieces.read_npz(args.data)
        real = samplers.cut_real(piece_set, args.split, STEPS)
        training = sets.cut_windows(piece_set.splits["train"], STEPS)
        half, other = sets.halve(np.random.default_rng(0), real)
        known = {
            "real": half,
            "features": distances.fit_theory(training.pitches),
            "number": min(args.num_samples, len(half.pitches), len(other.pitches)),
            "critic": critic.load(args.critic),
            "classifier": composers.load(),
            "model": loaded,
            "training": piece_set.splits["train"],
        }
        row = describe(f"Bach, {args.split}, half against half", "-", "-", other.pitches, known)
        print("| " + " | ".join(row) + " |\n|" + " --- |" * len(row))
        print("| " + " | ".join(row.values()) + " |", flush=True)
        folder, ids = pathlib.Path(str(files.make_folder(args.out))), np.arange(args.num_samples)
        name_of_critic = known["critic"].sha256[:8]
        judge, made_by = polish.judge_with(known["critic"]), dict[str, np.ndarray]()
        for calls in (int(word) for word in args.calls.split(",")):
            chosen = config.Sample(num_steps=calls - 1, temperature=args.temperature)
            request = tasks.compose(STEPS) if args.whole else tasks.excerpt(tasks.compose(STEPS))
            plan = generate.plan(loaded, request, len(ids), chosen, seed=args.seed)
            stem = f"{loaded.sha256[:8]}_{args.seed}_{len(ids)}_{calls}_{args.temperature}{'_whole' * args.whole}"
            raw, seconds = samplers.kept(folder / f"{stem}.npz", lambda plan=plan: generate.samples(plan, ids).pitches)
            row = describe("annealed Gibbs", str(calls), f"{seconds:.0f}", raw, known)
            print("| " + " | ".join(row.values()) + " |", flush=True)
            made_by[row["Set"] + f", {calls}"] = raw
            for text, passages in zip(args.passages.split(","), all_passages, strict=True):
                for sweeps in (int(word) for word in args.sweeps.split(",")):
                    made, more = samplers.kept(
                        folder / f"{stem}_{'x'.join(f'{field:g}' for field in passages)}_{sweeps}_{name_of_critic}.npz",
                        lambda plan=plan, raw=raw, sweeps=sweeps, passages=passages: polish.polish(
                            judge, plan, raw, ids, sweeps, passages=passages
                        ),
                    )
                    name = f"polished, {sweeps} x {text}"
                    all_calls = f"{calls} + up to {polish.num_calls(plan.request.free, sweeps, passages)}"
                    made_by[f"{name}, {calls}"] = made
                    row = describe(name, all_calls, f"{seconds + more:.0f}", made, known)
                    print("| " + " | ".join(row.values()) + " |", flush=True)
        if args.measures:
            names = piece_set.splits if args.split == samplers.WHOLE_SET else (args.split,)
            print_measures(real.pitches, [piece_set.splits[name] for name in names], made_by)
        print(f"\nstep {loaded.step} of {args.checkpoint} (sha256 {loaded.sha256[:8]})")


if __name__ == "__main__":
    main()
