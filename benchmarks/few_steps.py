"""Does a sampler of few model calls lose anything? Beside the full schedule, measure by measure.

  python benchmarks/few_steps.py --data=chorales.npz --num_samples=4096

Draws as many pieces of 64 steps by annealed Gibbs, a call a variable (256), and by MaskGIT in --calls, from nothing and
without polish, and holds both to Bach's windows. Resumes where it was stopped; a larger --num_samples draws only what
is missing. --settings compares several: noise x remask share x temperature, such as 12x0.3x0.8.

The first table has a row for each set; then, for each setting, how much further from Bach it is than the full schedule
in every theory measure, and how many standard errors that is. Of fifty measures two or three are beyond 2 by chance.
"""

import argparse
import pathlib
from typing import Any

import numpy as np
import samplers

from coconet_jax import checkpoint, config, devices, errors, files, pieces, weights
from coconet_jax.judge import composers, critic, distances, rates, sets, theory

STEPS = 64
FULL_CALLS = 256
USUAL = "x".join(
    f"{value:g}"
    for value in (config.Sample.confidence_noise, config.Sample.remask_share, config.TEMPERATURES["maskgit"])
)


def maskgit_of(text: str, calls: int) -> config.Sample:
    """Settings from a text such as 12x0.3x0.8.

    Raises:
      InputError: it is no such text.
    """
    try:
        noise, remask, temperature = map(float, text.split("x"))
    except ValueError:
        raise errors.InputError(f"--settings={text}: use noise x remask share x temperature, such as {USUAL}") from None
    return config.Sample(
        "maskgit", num_steps=calls, confidence_noise=noise, remask_share=remask, temperature=temperature
    )


def further(real: rates.Measure, full: rates.Measure, few: rates.Measure) -> rates.Measure:
    """|few - real| - |full - real| and its standard error, of three independent means.

    Where both lie on one side of the real mean it cancels, and its error with it.
    """
    sides = [1.0 if made.mean >= real.mean else -1.0 for made in (few, full)]
    of_real = (sides[1] - sides[0]) * real.error
    value = abs(few.mean - real.mean) - abs(full.mean - real.mean)
    return rates.Measure(value, float(np.sqrt(few.error**2 + full.error**2 + of_real**2)))


def kid_difference(
    real: sets.Windows, full: np.ndarray, few: np.ndarray, features: distances.Features
) -> tuple[rates.Measure, rates.Measure, rates.Measure]:
    """KID of the full schedule, of the few calls, and how much higher the latter's is; errors by jackknife.

    The difference is taken within each round of the jackknife, so that what both share, Bach, does not blur it.
    """
    rows = features(real.pitches)
    pairs = [distances.pair(rows, features(made)) for made in (full, few)]
    full_kid, few_kid = (distances.kid(each) for each in pairs)

    def of_real(kept: np.ndarray) -> dict[str, float]:
        found = [distances.kid(distances.leave_out(each, kept_real=kept)) for each in pairs]
        return {"full": found[0], "few": found[1], "gain": found[1] - found[0]}

    by_real = distances.jackknife(of_real, real.groups)
    by_full, by_few = (
        distances.jackknife(
            lambda kept, each=each: {"kid": distances.kid(distances.leave_out(each, kept_sample=kept))},
            np.arange(len(each.sample)),
        )["kid"]
        for each in pairs
    )
    return (
        rates.Measure(full_kid, float(np.hypot(by_real["full"], by_full))),
        rates.Measure(few_kid, float(np.hypot(by_real["few"], by_few))),
        rates.Measure(few_kid - full_kid, float(np.sqrt(by_real["gain"] ** 2 + by_full**2 + by_few**2))),
    )


def average_real(windows: sets.Windows, values: np.ndarray) -> rates.Measure:
    """Mean over windows, its error over the pieces that they are cut from: windows of a piece are alike."""
    error = distances.jackknife(lambda kept: {"mean": float(np.nanmean(values[kept]))}, windows.groups)["mean"]
    return rates.Measure(float(np.nanmean(values)), error)


def cell(value: rates.Measure, digits: int = 3) -> str:
    return f"{value.mean:.{digits}f} ± {value.error:.{digits}f}"


def print_cells(*cells: str) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def print_header(*cells: str) -> None:
    print_cells(*cells)
    print_cells(*["---"] * len(cells))


def print_further(name: str, known: str, full: rates.Measure, few: rates.Measure, more: rates.Measure) -> None:
    errors_off = f"{more.mean / more.error:+.1f}" if more.error > 0 else "-"
    print_cells(name, known, cell(full), cell(few), cell(more), errors_off)


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
    parser.add_argument("--num_samples", type=int, default=4096, help="of each set (default: 4096)")
    parser.add_argument("--calls", type=int, default=32, help="model calls of MaskGIT (default: 32)")
    parser.add_argument(
        "--settings", default=USUAL, help=f"noise x remask share x temperature, with commas (default: {USUAL})"
    )
    parser.add_argument("--out", default="runs/few_steps", help="folder of samples (default: runs/few_steps)")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.use_compile_cache()
    devices.split_cpu(devices.num_cores())
    with errors.exit_on_input_error():
        if args.num_samples < 2:
            raise errors.InputError(f"--num_samples={args.num_samples}: a set needs 2 or more")
        full_name = f"{FULL_CALLS} calls of Gibbs"
        chosen = {full_name: config.usual_sample(num_steps=FULL_CALLS - 1)} | {
            text: maskgit_of(text, args.calls) for text in args.settings.split(",")
        }
        loaded, piece_set = checkpoint.load(args.checkpoint), pieces.read_npz(args.data)
        real = samplers.cut_real(piece_set, args.split, STEPS)
        training = sets.cut_windows(piece_set.splits["train"], STEPS).pitches
        features, by_ear = distances.fit_theory(training), composers.fit_features(composers.load(), training)
        judging = critic.load()
        folder, made = pathlib.Path(str(files.make_folder(args.out))), dict[str, Any]()
        for name, setting in chosen.items():
            stem = name.replace(" ", "_") if name == full_name else f"{name}_{args.calls}"
            row = samplers.complete_row(
                folder / f"{loaded.sha256[:8]}_{stem}.npz", loaded, setting, STEPS, args.num_samples
            )
            made[name] = {key: row[key][: args.num_samples] for key in ("pitches", "nll")} | {
                "seconds": float(row["seconds"]),
                "calls": int(row["model_calls"]),
            }
        full = made[full_name]
        kids = {  # by name: of either kind of features the full schedule's, the set's own and their difference
            name: [kid_difference(real, full["pitches"], few["pitches"], kind) for kind in (features, by_ear)]
            for name, few in made.items()
            if few is not full
        }
        print(f"\n{args.num_samples} pieces a set, beside {args.split}")
        kinds = ("parallel_fifths", "parallel_octaves", "triads", "repeated_chords")
        titles = ("Set", "Model calls", "Seconds a piece", "KID", "KID, classifier", "Critic", "NLL, nats", *kinds)
        print_header(*titles)
        for name, found in made.items():
            both = [of[1] for of in kids[name]] if name in kids else [of[0] for of in next(iter(kids.values()))]
            heard = rates.average(critic.judge(judging, found["pitches"]).logit.astype(float))
            nll, summary = rates.average(found["nll"].astype(float)), theory.summarize(found["pitches"])
            numbers = [cell(value, 2) for value in (*both, heard)] + [cell(nll)] + [cell(summary[key]) for key in kinds]
            print_cells(name, str(found["calls"]), f"{found['seconds']:.3g}", *numbers)
        of_real = {"NLL, nats": samplers.nll(loaded, real.pitches)} | theory.measure_pieces(real.pitches)
        bach = {name: average_real(real, values) for name, values in of_real.items()}
        for text, (by_theory, by_classifier) in kids.items():
            few = made[text]
            print()
            print_header("Measure", "Bach", full_name, text, "further from Bach by", "in errors")
            print_further("KID", "-", *by_theory)
            print_further("KID, classifier", "-", *by_classifier)
            of_full, of_few = (
                {"NLL, nats": rates.average(each["nll"].astype(float))} | theory.summarize(each["pitches"])
                for each in (full, few)
            )
            for name, known in bach.items():
                more = further(known, of_full[name], of_few[name])
                print_further(name, cell(known), of_full[name], of_few[name], more)
        print(f"\nstep {loaded.step} of {args.checkpoint} (sha256 {loaded.sha256[:8]})")


if __name__ == "__main__":
    main()
