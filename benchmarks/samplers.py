"""Samplers side by side: parallels per 100 beats, triads and repeated chords of their samples, beside Bach's.

  python benchmarks/samplers.py --data=chorales.npz

Prints a Markdown table; resumes where it was stopped, and a larger --num_samples draws only what is missing. Seconds
are those of a sample, compiling included, in the fastest of a row's draws of up to 64: other work can only slow one.
"""

import argparse
import dataclasses
import pathlib
import time
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float, Integer
import numpy as np

from coconet_jax import (
    checkpoint,
    config,
    devices,
    errors,
    files,
    generate,
    masks,
    model,
    objective,
    pianoroll,
    pieces,
    tasks,
    weights,
)
from coconet_jax.judge import rates, sets, theory

Row = dict[str, Any]  # what a table prints: a name, an int or float, a rates.Rate or a rates.Measure

WHOLE_SET = "all"
REAL = (*pieces.SPLITS, WHOLE_SET)  # what real music there is to compare with
REAL_HELP = (
    "real music to compare with; all: the whole set, most of it training music, so that its NLL and what it copies say "
    "nothing (default: valid)"
)

SAMPLER_COLUMNS = {
    "sampler": "Sampler",
    "model_calls": "Model calls",
    "seconds": "Seconds a sample",
    "nll": "NLL (nats)",
}
THEORY_COLUMNS = {
    "num_samples": "Samples",
    "parallel_fifths": "Parallel fifths per 100 beats",
    "parallel_octaves": "Parallel octaves per 100 beats",
    "triads": "Triads on beats",
    "repeated_chords": "Repeated chords",
}


def cut_real(piece_set: pieces.PieceSet, split: str, steps: int) -> sets.Windows:
    """Bach's windows at bar hops, of a split or of the whole set.

    Raises:
      InputError: the set has no such split.
    """
    chosen = tuple(piece_set.splits) if split == WHOLE_SET else (split,)
    if split not in (WHOLE_SET, *piece_set.splits):
        raise errors.InputError(f"--split={split}: the data has {', '.join(piece_set.splits)}; use one of them, or all")
    return sets.join([sets.cut_windows(piece_set.splits[name], steps, 16) for name in chosen])


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


def measure_bach(path: str, split: str = "test", num_steps: int = 64, loaded: weights.Loaded | None = None) -> Row:
    """Bach's row, from windows as long as the samples, of a file written by `coconet_jax.chorales --export`.

    With the NLL under a model where one is given.
    """
    piece_set = pieces.read_npz(path)
    if split not in piece_set.splits:
        raise errors.InputError(f"{path} has no split {split}; it has {', '.join(piece_set.splits)}")
    windows = sets.cut_windows(piece_set.splits[split], num_steps).pitches
    known = {} if loaded is None else {"nll": format_nats(nll(loaded, windows))}
    return {"sampler": f"Bach, {split}", **known, **measure(windows, piece_set.steps_per_quarter)}


def format_nats(values: Float[np.ndarray, "n"]) -> str:
    """A mean in nats with its standard error."""
    return "{:.3f} ± {:.3f}".format(*rates.average(values))


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


# ------------------------------------------------------------------------------------------- sampling


def settings(name: str, calls: int) -> config.Sample | None:
    """The sampler of a row at so many model calls, for 64 steps of four voices; None where it makes no sense.

    Colouring sweeps take half of the calls or a little less; ancestral Gibbs half for its first fill.
    """
    gibbs = config.Sample(num_steps=calls - 1)
    stride = 8 if calls >= 64 else 4
    sweeps = max(calls // (8 * stride), 1)
    rest = calls - 4 * stride * sweeps
    by_name = {
        "Gibbs, annealed": gibbs,
        "Gibbs, constant 0.3": dataclasses.replace(gibbs, block_prob_max=0.3, block_prob_min=0.3),
        "Gibbs, runs": dataclasses.replace(gibbs, blocks="runs"),
        "Gibbs, frames": dataclasses.replace(gibbs, blocks="frames"),
        "Gibbs, voices": dataclasses.replace(gibbs, blocks="voices"),
        "upsampling": dataclasses.replace(gibbs, sampler="upsample"),
        "ancestral, random order": config.Sample("ancestral", num_steps=calls),
        "ancestral, chronological": config.Sample("ancestral", num_steps=calls, order="chronological"),
        "ancestral Gibbs": config.Sample("ancestral_gibbs", num_steps=4, draws_per_call=max(512 // calls, 1)),
        "MaskGIT": dataclasses.replace(MASKGIT, num_steps=calls),
        "MaskGIT, remasking": config.usual_sample("maskgit", num_steps=calls),
    }
    if name in SWEPT:
        if rest < 8:
            return None
        sweep: dict[str, Any] = {"finish_sweeps": sweeps, "finish_stride": stride}
        base = MASKGIT if name.startswith("MaskGIT") else config.Sample()
        return dataclasses.replace(base, num_steps=rest - (base.sampler == "gibbs"), **sweep)
    if calls > 256 and not name.startswith(("Gibbs", "ancestral Gibbs", "upsampling", "MaskGIT, remasking")):
        return None  # no more calls than variables, unless some are drawn anew
    return by_name[name]


SWEPT = ("Gibbs, annealed, then sweeps", "MaskGIT, then sweeps")
NAMES = (
    "Gibbs, annealed",
    *SWEPT,
    "MaskGIT",
    "MaskGIT, remasking",
    "ancestral, random order",
    "ancestral, chronological",
    "ancestral Gibbs",
    "upsampling",
    "Gibbs, constant 0.3",
    "Gibbs, runs",
    "Gibbs, frames",
    "Gibbs, voices",
)
MASKGIT = config.Sample("maskgit", confidence_noise=1.0, remask_share=0.0)  # the surest notes, and what is kept stays
DRAW = 64  # samples drawn and written at a time
CONTEXTS = 8  # random orderless contexts for each sample's NLL


def nll(loaded: weights.Loaded, pitches: Integer[np.ndarray, "n t 4"]) -> Float[np.ndarray, "n"]:
    """Nats per variable of each sample under the model that drew it, by orderless contexts, as in training."""

    @jax.jit
    def one(batch: jax.Array, numbers: jax.Array) -> jax.Array:
        predict = model.make_predict(loaded.variables, loaded.config.model)
        valid = jnp.ones(batch.shape[:2], bool)
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(1), n))(numbers)
        uniforms = (numbers % CONTEXTS + 0.5) / CONTEXTS  # sizes spread evenly
        context = masks.sample_orderless_context(keys, uniforms, valid)
        roll = pianoroll.from_pitches(batch)
        return objective.nll_per_variable(predict(roll, context, valid), roll, ~context)

    rows = np.repeat(pitches, CONTEXTS, axis=0)
    found = [
        np.asarray(one(jnp.asarray(rows[at : at + 32]), jnp.arange(at, at + len(rows[at : at + 32]))))
        for at in range(0, len(rows), 32)
    ]
    return np.concatenate(found).reshape(-1, CONTEXTS).mean(axis=1)


def draw_row(
    loaded: weights.Loaded, chosen: config.Sample, steps: int, numbers: Integer[np.ndarray, "n"]
) -> dict[str, Any]:
    """The samples of these numbers from nothing, how many model calls each took, seconds a sample, and their NLL."""
    plan = generate.plan(loaded, tasks.excerpt(tasks.compose(steps)), int(numbers[-1]) + 1, chosen)
    calls = generate.num_calls(plan)
    begun = time.perf_counter()
    pitches = generate.samples(plan, numbers).pitches
    seconds = (time.perf_counter() - begun) / len(numbers)
    return {"model_calls": calls, "seconds": seconds, "pitches": pitches, "nll": nll(loaded, pitches)}


def kept(path: pathlib.Path, draw: Any) -> tuple[np.ndarray, float]:
    """Pitches and seconds of the file, or those that are drawn and kept there."""
    if not path.exists():
        begun = time.perf_counter()
        files.replace_npz(path, pitches=draw(), seconds=np.float64(time.perf_counter() - begun))
    with np.load(path) as file:
        return file["pitches"], float(file["seconds"])


def complete_row(
    path: pathlib.Path, loaded: weights.Loaded, chosen: config.Sample, steps: int, num_samples: int
) -> dict[str, Any]:
    """The row of a file, which is first brought to so many samples: those that it lacks are drawn and added."""
    kept: dict[str, Any] = dict(np.load(path)) if path.exists() else {}
    if str(kept.setdefault("settings", repr(chosen))) != repr(chosen):
        raise errors.InputError(
            f"{path}: these samples were drawn by {kept['settings']}; remove them, or give another --out"
        )
    for at in range(len(kept["pitches"]) if "pitches" in kept else 0, num_samples, DRAW):
        more = draw_row(loaded, chosen, steps, np.arange(at, min(at + DRAW, num_samples)))
        if "pitches" in kept:
            more["seconds"] = min(more["seconds"], float(kept["seconds"]))
            more |= {key: np.concatenate([kept[key], more[key]]) for key in ("pitches", "nll")}
        kept = more | {"settings": repr(chosen)}
        print(f"{path.stem}: {kept['seconds']:.2f} s a sample, {len(kept['pitches'])} samples", flush=True)
        files.replace_npz(path, **kept)
    return kept


def numbers(flag: str, text: str) -> list[int]:
    """Numbers from 2 on with commas between them.

    Raises:
      InputError: it is something else.
    """
    words = text.split(",")
    if not all(word.isdecimal() and int(word) > 1 for word in words):
        raise errors.InputError(f"--{flag}={text}: use numbers from 2 on, with commas")
    return [int(word) for word in words]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=weights.DEFAULT, help=weights.HELP)
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument(
        "--out", default="runs/samplers", help="folder of samples; those that are there are not drawn again"
    )
    parser.add_argument("--steps", type=int, default=64, help="length of a sample, 64 = 4 bars of 16ths")
    parser.add_argument(
        "--num_samples", default="256", help="samples of each row, or a number for each of --calls (default: 256)"
    )
    parser.add_argument("--calls", default="8,16,32,64,128,256,512", help="model calls (default: 8,16,...,512)")
    parser.add_argument("--samplers", default=";".join(NAMES), help="names with ; between them (default: all)")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.split_cpu(devices.num_cores())
    with errors.exit_on_input_error():
        all_calls, counts = (numbers(flag, getattr(args, flag)) for flag in ("calls", "num_samples"))
        if len(counts) not in (1, len(all_calls)):
            raise errors.InputError(
                f"--num_samples={args.num_samples} has neither one number nor one for each of --calls"
            )
        if unknown := set(args.samplers.split(";")) - set(NAMES):
            raise errors.InputError(f"--samplers has {unknown.pop()!r}; use names of {'; '.join(NAMES)}")
        loaded = checkpoint.load(args.checkpoint)
        folder = pathlib.Path(str(files.make_folder(args.out)))
        rows = []
        for calls, num_samples in zip(all_calls, counts * (len(all_calls) // len(counts)), strict=True):
            for name in args.samplers.split(";"):
                if (chosen := settings(name, calls)) is None:
                    continue
                path = folder / f"{loaded.sha256[:8]}_{args.steps}_{calls}_{name.replace(' ', '_')}.npz"
                row = complete_row(path, loaded, chosen, args.steps, num_samples)
                found = {
                    "sampler": name,
                    "model_calls": int(row["model_calls"]),
                    "seconds": float(row["seconds"]),
                    "nll": format_nats(row["nll"]),
                }
                rows.append(found | measure(row["pitches"]))
        rows.sort(key=lambda row: (NAMES.index(row["sampler"]), row["model_calls"]))
        print(f"step {loaded.step} of {args.checkpoint} (sha256 {loaded.sha256[:8]}), {loaded.config.data.dataset}")
        print(to_markdown(rows, measure_bach(args.data, num_steps=args.steps, loaded=loaded)), end="")


if __name__ == "__main__":
    main()
