"""Draws what a critic learns from: samples of generators, and real crops partly masked and refilled by them.

  python benchmarks/critic_pool.py --data=chorales.npz --out=runs/critic_pool small-14000=runs/small

Every generator is named and has a training run; each sampler below is a file in --out, and those that are there are not
drawn again. Rows that benchmarks/samplers.py has drawn can join, --rows=small-4409=runs/samplers, samples of anything
else, --samples=lstm=DIR (a folder written by coconet_jax.sample or sequence_sample, or an npz with `pitches`), and
those that a critic has polished, --polished=small=DIR. `negatives.read_pool` reads them all.
"""

import argparse
import pathlib
import time
import zipfile

from jaxtyping import Bool, Int, Integer
import numpy as np

from coconet_jax import (
    checkpoint,
    config,
    devices,
    errors,
    files,
    generate,
    pianoroll,
    pieces,
    samples,
    score,
    tasks,
    weights,
)
from coconet_jax.judge import negatives

STEPS = 64  # of a sample: 4 bars
SAMPLERS = {  # by name: settings whose model calls are in the name too
    "gibbs 16 T0.8": config.Sample(num_steps=15, temperature=0.8),
    "gibbs 32": config.Sample(num_steps=31),
    "gibbs 64": config.Sample(num_steps=63),
    "maskgit 16": config.Sample("maskgit", num_steps=16, confidence_noise=1.0, remask_share=0.0),
    "maskgit 32 T1.1": config.Sample("maskgit", num_steps=32, temperature=1.1, confidence_noise=1.0, remask_share=0.0),
    "ancestral 32": config.Sample("ancestral", num_steps=32),
    "ancestral_gibbs 48": config.Sample("ancestral_gibbs", num_steps=4, draws_per_call=11),
}
REFILLS = {  # by name: how the hidden parts of real crops are written anew; the second as passages are when polished
    "refilled 16": config.Sample(num_steps=15),
    "refilled 8 T0.5": config.Sample(num_steps=7, temperature=0.5),
}
REFILLED = {"train": 0.6, "valid": 0.2, "test": 0.2}  # shares of the refilled crops


def draw(loaded: weights.Loaded, request: tasks.Request, chosen: config.Sample, count: int) -> np.ndarray:
    """Samples int16 [n,t,4] of a request."""
    micro_batch = generate.default_micro_batch(count, STEPS, loaded.config.model)
    plan = generate.Plan(
        loaded.variables,
        loaded.config.model,
        request,
        chosen,
        micro_batch=micro_batch,
        num_devices=generate.num_devices(count, micro_batch),
    )
    return generate.samples(plan, np.arange(count)).pitches


def named(word: str) -> tuple[str, pathlib.Path]:
    """The two parts of NAME=PLACE.

    Raises:
      InputError: one is missing, or nothing is at the place.
    """
    name, _, place = word.partition("=")
    if not (name and place):
        raise errors.InputError(f"{word}: use a name and a place, such as small-20000=runs/small")
    if not pathlib.Path(place).exists():
        raise errors.InputError(f"{word}: {place} does not exist; give another")
    return name, pathlib.Path(place)


def read_pitches(path: pathlib.Path) -> Integer[np.ndarray, "n t 4"]:
    """Those of a folder of samples, or of one file."""
    if path.is_dir():
        return samples.load_samples(path).pitches
    try:
        with np.load(path, allow_pickle=False) as file:
            return file["pitches"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise errors.InputError(f"{path} holds no samples ({error}); give an npz with pitches") from None


def cut(pitches: Integer[np.ndarray, "n t 4"]) -> Integer[np.ndarray, "m t 4"]:
    """Windows of STEPS steps, one after another; what is left over falls away."""
    count = pitches.shape[1] // STEPS
    return pitches[:, : count * STEPS].reshape(-1, STEPS, pitches.shape[2])


def hide(rng: np.random.Generator, shape: tuple[int, int, int]) -> Bool[np.ndarray, "n t 4"]:
    """What is rewritten of each crop: a span of steps, one or two voices, or scattered cells, in turn."""
    free = np.zeros(shape, bool)
    for number, row in enumerate(free):
        if number % 3 == 0:
            length = int(rng.integers(8, 33))
            start = int(rng.integers(0, shape[1] - length + 1))
            row[start : start + length] = True
        elif number % 3 == 1:
            row[:, rng.permutation(shape[2])[: rng.integers(1, 3)]] = True
        else:
            row[:] = rng.random(row.shape) < rng.uniform(0.2, 0.8)
    return free


def refill(
    loaded: weights.Loaded, crops: Integer[np.ndarray, "n t 4"], chosen: config.Sample, seed: int
) -> Integer[np.ndarray, "n t 4"]:
    """Crops with a part of each written anew."""
    free = hide(np.random.default_rng(seed), crops.shape)
    given = np.where(free, pianoroll.REST, crops).astype(np.int8)

    def vary(_: int, ids: Int[np.ndarray, " n"]) -> tasks.Given:
        return tasks.Given(given[ids], np.zeros_like(free[ids]), free[ids])

    piece = score.from_pitches(crops[0].astype(np.int16), meter=(4, 4), steps_per_quarter=4)
    return draw(loaded, tasks.Request(piece, np.ones(crops.shape[1:], bool), (), vary), chosen, len(crops))


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("generators", nargs="+", metavar="NAME=DIR", help="names and workdirs of training runs")
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--out", default="runs/critic_pool", help="folder of the pool (default: runs/critic_pool)")
    parser.add_argument("--rows", metavar="NAME=DIR", help="a generator whose samples benchmarks/samplers.py has drawn")
    parser.add_argument(
        "--samples", metavar="NAME=PATH", action="append", default=[], help="other samples; again for more"
    )
    parser.add_argument(
        "--polished", metavar="NAME=PATH", action="append", default=[], help="polished samples; again for more"
    )
    parser.add_argument("--num_samples", type=int, default=24, help="of each sampler (default: 24)")
    parser.add_argument(
        "--num_refilled", type=int, default=120, help="crops that each generator refills in each way (default: 120)"
    )
    args = parser.parse_args()
    checkpoint.quiet()
    devices.use_compile_cache()
    devices.split_cpu(devices.num_cores())
    with errors.exit_on_input_error():
        # All that is named is looked for before anything is drawn.
        generators = [named(word) for word in args.generators]
        others = [(*named(word), False) for word in args.samples] + [(*named(word), True) for word in args.polished]
        drawn = [named(args.rows)] if args.rows else []
        for flag, least in (("num_samples", 1), ("num_refilled", 3)):
            if getattr(args, flag) < least:
                raise errors.InputError(f"--{flag}={getattr(args, flag)}: use {least} or more")
        piece_set = pieces.read_npz(args.data)
        folder = pathlib.Path(str(files.make_folder(args.out)))
        for name, rows in drawn:
            for path in sorted(rows.glob(f"*_{STEPS}_*.npz")):
                with np.load(path) as file:
                    made = file["pitches"]
                calls, sampler = path.stem.split("_", 3)[2:]
                source = f"{name} {sampler.replace('_', ' ')} {calls}"
                row = negatives.generated(made, source, name)
                negatives.write_pool(folder / f"{name}_{path.stem}.npz", row)
        for name, place, polished in others:
            source = f"{name} {place.name.removesuffix('.npz')}"
            row = negatives.generated(cut(read_pitches(place)), source, name, polished=polished)
            negatives.write_pool(folder / f"{source}.npz".replace(" ", "_"), row)
        for number, (name, workdir) in enumerate(generators):
            loaded = checkpoint.load(str(workdir))
            for sampler, chosen in SAMPLERS.items():
                path = folder / f"{name} {sampler}.npz".replace(" ", "_")
                if path.exists():
                    continue
                begun = time.perf_counter()
                # Other seeds would do as well: generators differ.
                made = draw(loaded, tasks.compose(STEPS), chosen, args.num_samples)
                negatives.write_pool(path, negatives.generated(made, f"{name} {sampler}", name))
                print(f"{path}: {len(made)} samples, {time.perf_counter() - begun:.1f} s", flush=True)
            for kind, (how, chosen) in enumerate(REFILLS.items()):
                path = folder / f"{name} {how}.npz".replace(" ", "_")
                if path.exists():
                    continue
                begun = time.perf_counter()
                parts = []
                for split, share in REFILLED.items():
                    real = negatives.real_windows(piece_set.splits[split], split, STEPS, hop=4)
                    rng = np.random.default_rng([number, kind])
                    crops = real.take(rng.permutation(len(real.pitches))[: round(args.num_refilled * share)])
                    made = refill(loaded, crops.pitches, chosen, seed=len(REFILLS) * number + kind)
                    parts.append(crops.refilled(made, how, name))
                negatives.write_pool(path, negatives.join(parts))
                print(f"{path}: {args.num_refilled} crops, {time.perf_counter() - begun:.1f} s", flush=True)


if __name__ == "__main__":
    main()
