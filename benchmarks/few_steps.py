"""Does a sampler of few model calls lose anything? Beside the full schedule, measure by measure.

  python benchmarks/few_steps.py --data=chorales.npz --num_samples=4096

Draws as many pieces of 64 steps by annealed Gibbs, a call a variable (256), and by MaskGIT in --calls, from nothing and
without polish, and holds both to Bach's windows. Resumes where it was stopped; a larger --num_samples draws only what
is missing. 4096 pieces take 2.1 hours of 2 cores, eight ninths of them for the full schedule.

The last columns say how much further from Bach the few calls are than the full schedule, and how many standard errors
that is: below 2 nothing is lost.
"""

import argparse
import pathlib

import numpy as np
import samplers

from coconet_jax import checkpoint, config, devices, errors, files, pieces, settings, weights
from coconet_jax.judge import distances, rates, sets, theory

STEPS = 64
FULL_CALLS = 256


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
    values = [distances.kid(each) for each in pairs]

    def of_real(kept: np.ndarray) -> dict[str, float]:
        found = [distances.kid(distances.leave_out(each, kept_real=kept)) for each in pairs]
        return {"full": found[0], "few": found[1], "gain": found[1] - found[0]}

    by_real = distances.jackknife(of_real, real.groups)
    by_sample = [
        distances.jackknife(
            lambda kept, each=each: {"kid": distances.kid(distances.leave_out(each, kept_sample=kept))},
            np.arange(len(each.sample)),
        )["kid"]
        for each in pairs
    ]
    return (
        rates.Measure(values[0], float(np.hypot(by_real["full"], by_sample[0]))),
        rates.Measure(values[1], float(np.hypot(by_real["few"], by_sample[1]))),
        rates.Measure(
            values[1] - values[0], float(np.sqrt(by_real["gain"] ** 2 + by_sample[0] ** 2 + by_sample[1] ** 2))
        ),
    )


def average_real(windows: sets.Windows, values: np.ndarray) -> rates.Measure:
    """Mean over windows, its error over the pieces that they are cut from: windows of a piece are alike."""
    error = distances.jackknife(lambda kept: {"mean": float(np.nanmean(values[kept]))}, windows.groups)["mean"]
    return rates.Measure(float(np.nanmean(values)), error)


def cell(value: rates.Measure, scale: float = 1.0) -> str:
    return f"{value.mean * scale:.3f} ± {value.error * scale:.3f}"


def print_row(
    name: str, real: rates.Measure | None, full: rates.Measure, few: rates.Measure, more: rates.Measure
) -> None:
    known = "-" if real is None else cell(real)
    errors_off = f"{more.mean / more.error:+.1f}" if more.error > 0 else "-"
    print(f"| {name} | {known} | {cell(full)} | {cell(few)} | {cell(more)} | {errors_off} |", flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=weights.DEFAULT, help=weights.HELP)
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--split", default="valid", help="real music to compare with (default: valid)")
    parser.add_argument("--num_samples", type=int, default=4096, help="of each set (default: 4096)")
    parser.add_argument("--calls", type=int, default=32, help="model calls of MaskGIT (default: 32)")
    parser.add_argument("--out", default="runs/few_steps", help="folder of samples (default: runs/few_steps)")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.use_compile_cache()
    devices.split_cpu(devices.num_cores())
    with errors.exit_on_input_error():
        loaded, piece_set = checkpoint.load(args.checkpoint), pieces.read_npz(args.data)
        real = sets.cut_windows(piece_set.splits[args.split], STEPS, 16)
        features = distances.fit_theory(sets.cut_windows(piece_set.splits["train"], STEPS).pitches)
        folder, made = pathlib.Path(str(files.make_folder(args.out))), []
        for calls, chosen in (
            (args.calls, config.Sample("maskgit", num_steps=args.calls, temperature=settings.MASKGIT_TEMPERATURE)),
            (FULL_CALLS, config.Sample(num_steps=FULL_CALLS - 1)),
        ):
            path = folder / f"{loaded.sha256[:8]}_{chosen.sampler}_{calls}.npz"
            row = samplers.complete_row(path, loaded, chosen, STEPS, args.num_samples)
            made.append({key: row[key][: args.num_samples] for key in ("pitches", "nll")} | {"seconds": row["seconds"]})
        few, full = made
        print(
            f"\n{args.num_samples} pieces each; {float(full['seconds']):.3g} and {float(few['seconds']):.3g} s a piece"
        )
        print("| Measure | Bach | 256 calls of Gibbs | few calls | further from Bach by | in errors |")
        print("| --- | --- | --- | --- | --- | --- |")
        print_row("KID", None, *kid_difference(real, full["pitches"], few["pitches"], features))
        of_real = {"NLL, nats": samplers.nll(loaded, real.pitches)} | theory.measure_pieces(real.pitches)
        summaries = [
            {"NLL, nats": rates.average(each["nll"].astype(float))} | theory.summarize(each["pitches"])
            for each in (full, few)
        ]
        for name, values in of_real.items():
            of_bach, of_full, of_few = average_real(real, values), summaries[0][name], summaries[1][name]
            print_row(name, of_bach, of_full, of_few, further(of_bach, of_full, of_few))
        print(f"\nstep {loaded.step} of {args.checkpoint} (sha256 {loaded.sha256[:8]})")


if __name__ == "__main__":
    main()
