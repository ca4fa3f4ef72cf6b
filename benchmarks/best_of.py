"""What choosing the best of N by the critic does to a set, for N from 1 to 128; and rejection sampling beside it.

  python benchmarks/best_of.py --data=chorales.npz --out=runs/best_of

One pool of candidates is drawn once, by a sampler of few model calls, and kept in --out. For every N each of 128
requests gets N candidates of the pool by lot, so that requests share some. KID and coverage are on theory measures
against Bach's test windows; their errors are jackknifed and do not know that winners repeat. Coverage falls with the
size of a set: that of the sets by rejection, which are smaller, says less.
"""

import argparse
import pathlib
from typing import Any

import numpy as np

from coconet_jax import checkpoint, config, devices, errors, files, generate, pieces, tasks, weights
from coconet_jax.judge import critic, distances, selection, sets, theory

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
SHOWN = ("parallel_fifths", "parallel_octaves", "triads_or_sevenths", "dissonances_by_leap", "repeated_chords")
SAMPLERS = {
    "gibbs": lambda calls: config.Sample(num_steps=calls - 1),
    "maskgit": lambda calls: config.Sample("maskgit", num_steps=calls, confidence_noise=1.0, remask_share=0.0),
}


def draw_pool(path: pathlib.Path, workdir: str, chosen: config.Sample, count: int, steps: int) -> np.ndarray:
    """Candidates int16 [n,t,4], those that are in the file, or drawn and kept there."""
    if path.exists():
        with np.load(path) as file:
            return file["pitches"]
    loaded = checkpoint.load(workdir)
    micro_batch = generate.default_micro_batch(count, steps, loaded.config.model)
    plan = generate.Plan(
        loaded.variables,
        loaded.config.model,
        tasks.compose(steps),
        chosen,
        seed=7,  # another than the critic's negatives were drawn with
        micro_batch=micro_batch,
        num_devices=generate.num_devices(count, micro_batch),
    )
    pitches = generate.samples(plan, np.arange(count)).pitches
    files.replace_npz(path, pitches=pitches)
    return pitches


def describe(
    name: str, pitches: np.ndarray, logits: np.ndarray, real: sets.Windows, features: Any, number: int
) -> dict[str, Any]:
    """A row of the table."""
    found = distances.between(real, sets.from_samples(pitches), features, number)
    means = {key: float(np.nanmean(values)) for key, values in theory.measure_pieces(pitches).items()}
    row = {
        "set": name,
        "n": len(pitches),
        "distinct": len(np.unique(pitches.reshape(len(pitches), -1), axis=0)),
        "critic": f"{logits.mean():.2f} ± {logits.std(ddof=1) / len(logits) ** 0.5:.2f}",
        "kid": f"{found['kid'].mean:.3f} ± {found['kid'].error:.3f}",
        "coverage": f"{found['coverage'].mean:.2f} ± {found['coverage'].error:.2f}",
    }
    return row | {key: f"{means[key]:.2f}" for key in SHOWN}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=weights.DEFAULT, help=weights.HELP)
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--critic", default=str(critic.PATH), help="its file (default: the packaged one)")
    parser.add_argument("--out", default="runs/best_of", help="folder of the candidates (default: runs/best_of)")
    parser.add_argument("--sampler", choices=SAMPLERS, default="gibbs")
    parser.add_argument("--calls", type=int, default=16, help="model calls of a candidate (default: 16)")
    parser.add_argument("--num_candidates", type=int, default=256, help="in the pool (default: 256)")
    parser.add_argument("--num_requests", type=int, default=128, help="of each N (default: 128)")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.use_compile_cache()
    devices.split_cpu(devices.num_cores())
    with errors.exit_on_input_error():
        judge = critic.load(args.critic)
        folder = files.make_folder(args.out)
        path = pathlib.Path(str(folder)) / f"{args.sampler}_{args.calls}_{args.num_candidates}.npz"
        chosen = SAMPLERS[args.sampler](args.calls)
        pool = draw_pool(path, args.checkpoint, chosen, args.num_candidates, critic.STEPS)
        piece_set = pieces.read_npz(args.data)
        real = sets.cut_windows(piece_set.splits["test"], critic.STEPS)
        features = distances.fit_theory(sets.cut_windows(piece_set.splits["train"], critic.STEPS).pitches)
        verdict, quoting = critic.judge(judge, pool), critic.quotes(judge, pool)
        number = min(args.num_requests, len(real.pitches) // 2)
        half, other = sets.halve(np.random.default_rng(0), real)
        rows = [
            describe(
                "Bach, test, half of it",
                other.pitches,
                critic.judge(judge, other.pitches).logit,
                half,
                features,
                number,
            )
        ]
        for size in (size for size in SIZES if size <= len(pool)):
            rng = np.random.default_rng(size)
            lots = np.stack([rng.permutation(len(pool))[:size] for _ in range(args.num_requests)])
            won = lots[np.arange(len(lots)), selection.best(verdict.careful[lots], quoting[lots])]
            rows.append(describe(f"best of {size}", pool[won], verdict.logit[won], real, features, number))
        keep = selection.accept(verdict.logit, np.random.default_rng(0).random(len(pool)), 0.25)
        kept = np.flatnonzero(keep & ~quoting)
        few = min(number, len(kept))
        rows.append(describe("rejection, a quarter", pool[kept], verdict.logit[kept], real, features, few))
        print(f"{len(pool)} candidates of {args.sampler}, {args.calls} calls; {int(quoting.sum())} quote; n = {number}")
        print("\n| " + " | ".join(rows[0]) + " |\n|" + " --- |" * len(rows[0]))
        for row in rows:
            print("| " + " | ".join(map(str, row.values())) + " |")


if __name__ == "__main__":
    main()
