"""Likelihood of chorales under a model: the command.

`python -m coconet_jax.evaluate --checkpoint=runs/small --split=valid`
"""

import argparse
from collections.abc import Sequence
import dataclasses
import json
import pathlib
import sys
from typing import Any, Final

import jax
from jaxtyping import Float32, Int32
import numpy as np

from coconet_jax import (
    checkpoint,
    corpus,
    counter,
    devices,
    errors,
    estimates,
    evaluation,
    files,
    likelihood,
    model,
    pianoroll,
    pieces,
    provenance,
    score,
    storage,
    subjects,
    surprise,
    tables,
    weights,
)
from coconet_jax import config as config_lib

MAX_FRAMES: Final = 1000
ORDERINGS: Final = 5
_EXAMPLES = """examples:
  a model on the validation chorales, 1000 frames of them, for choosing:
    python -m coconet_jax.evaluate --checkpoint=runs/small
  the number to compare with the paper's, every frame; the same command again goes on after an interruption:
    python -m coconet_jax.evaluate --checkpoint=runs/small --split=test --full --json=test.json
  samples of a model, or of another, under this one:
    python -m coconet_jax.evaluate --checkpoint=runs/small --samples=chorales
  which notes of a score surprise the model, as a picture and as numbers:
    python -m coconet_jax.evaluate --checkpoint=runs/small --score=mine.musicxml

Framewise NLL is in nats per frame (four voices, a sixteenth), notewise in nats per note of a frame. A rest costs
nothing, as in the released code. Published, test, sixteenths: 0.57 +- 0.01 is framewise_released, averaged in
probability over 5 orderings frame by frame."""


def _parser() -> argparse.ArgumentParser:
    parser = errors.Parser(
        prog="python -m coconet_jax.evaluate",
        description="Negative log-likelihood of chorales under a trained model, in nats: the paper's measure, and "
        "likelihoods in the strict sense.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", default=weights.DEFAULT, metavar="DIR", help=weights.HELP)
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint to take (default: the best on validation)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--split",
        choices=pieces.SPLITS,
        default="valid",
        help="of the chorales (default: valid, for choosing; test is for what is to be published)",
    )
    what.add_argument("--samples", metavar="PATH", help="instead: the --out folder of a sampling run, or an npz of it")
    what.add_argument("--score", metavar="FILE", help="instead: a MIDI, MusicXML or npz score of four voices")
    parser.add_argument("--voices", metavar="LIST", help="with --score: which part is which, as in coconet_jax.sample")
    parser.add_argument(
        "--out", default="evaluation", metavar="DIR", help="what is done lies here, and pictures; or a gs:// URL"
    )
    parser.add_argument("--json", metavar="FILE", help="also write all numbers to this file")

    group = parser.add_argument_group("chorales")
    group.add_argument("--data", metavar="FILE.npz", help="a set written by python -m coconet_jax.chorales --export")
    group.add_argument("--dataset", metavar="NAME", help="music21, jsb16th, ... (default: the one trained on)")
    group.add_argument("--source", metavar="PATH", help="the npz of jsb16th, or the folder of folder")
    group.add_argument("--data_dir", metavar="DIR", help="where prepared data lie (default: ~/tensorflow_datasets)")

    group = parser.add_argument_group("how")
    group.add_argument(
        "--measures",
        default="all",
        metavar="LIST",
        help=f"with commas between them, of {', '.join(estimates.MEASURES)} (default: all)",
    )
    group.add_argument(
        "--orderings",
        type=int,
        default=ORDERINGS,
        metavar="K",
        help=f"of each piece (default: {ORDERINGS}, the paper's)",
    )
    group.add_argument(
        "--max_frames",
        type=int,
        metavar="N",
        help=f"frames, drawn evenly over all pieces, always the same ones (default: {MAX_FRAMES})",
    )
    group.add_argument("--full", action="store_true", help="every frame of every piece")
    group.add_argument("--seed", type=int, default=0, help="of orderings, frames and draws (default: 0)")
    group.add_argument(
        "--batch_size", type=int, metavar="N", help="frames at once on a device; does not change the numbers"
    )
    group.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="of activations (default: float32, on accelerators too)",
    )
    group.add_argument(
        "--distributed",
        default="off",
        metavar="WHERE",
        help="share the work among processes: auto on a Cloud TPU pod, GKE or Slurm; elsewhere host:port,P,K in each "
        "of P processes, K = 0 to P - 1, the address being that of process 0",
    )
    return parser


def _measures(text: str) -> list[str]:
    names = list(estimates.MEASURES) if text == "all" else [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in names if name not in estimates.MEASURES]
    if unknown or not names:
        raise errors.InputError(f"--measures={text}: use all, or of {', '.join(estimates.MEASURES)}")
    return list(dict.fromkeys(names))


def _check(args: argparse.Namespace) -> None:
    for name, least, most in (
        ("orderings", 1, 1000),
        ("max_frames", 1, 10**9),
        ("batch_size", 1, 2**16),
        ("seed", 0, 2**31 - 1),
    ):
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise errors.InputError(f"--{name}={value}: use {least} to {most}")
    if args.full and args.max_frames is not None:
        raise errors.InputError(f"--max_frames={args.max_frames} and --full do not go together; leave one out")
    empty = [name for name, value in vars(args).items() if value == ""]
    if empty:
        raise errors.InputError(f"--{empty[0]}= is empty; give a value, or leave it out")
    if args.json and storage.place(args.json).is_dir():
        raise errors.InputError(f"--json={args.json} is a folder; name a file in it")
    others = [name for name in ("dataset", "source", "data_dir") if getattr(args, name)]
    if args.data and others:
        raise errors.InputError(f"--data={args.data} is a whole set; leave --{others[0]} out")
    if args.voices and not args.score:
        raise errors.InputError(f"--voices={args.voices} goes with --score alone")
    of_data = [name for name in ("data", "dataset", "source", "data_dir") if getattr(args, name)]
    if of_data and (args.samples or args.score):
        raise errors.InputError(f"--{of_data[0]} names chorales, --samples and --score other music; leave one out")


def _summarise(
    found: dict[str, list[Float32[np.ndarray, "k _ i"]]], subject: subjects.Subject, num_frames: np.ndarray
) -> dict[str, Any]:
    """All measures over all pieces with frames, and without those of which the training pieces hold a near copy."""
    leaking = np.isin(subject.pieces.names, corpus.leaking_names(subject.split)) if subject.split else None
    summary = {}
    for name, log_probs in found.items():
        summary[name] = estimates.summarise(name, [piece for piece in log_probs if piece.shape[1]])
        if leaking is not None and leaking[num_frames > 0].any():
            clean = [p for p, leaks in zip(log_probs, leaking, strict=True) if p.shape[1] and not leaks]
            if clean:
                summary[name]["without_leaks"] = estimates.summarise(name, clean)
    return summary


def _describe(
    args: argparse.Namespace,
    loaded: weights.Loaded,
    subject: subjects.Subject,
    on_device: likelihood.Corpus,
    frames: Sequence[Int32[np.ndarray, " _"]],
) -> dict[str, Any]:
    """What is known before the work: a report without its measures."""
    lengths = subject.pieces.lengths
    cells = np.concatenate([notes[steps] for notes, steps in zip(subject.pieces.pitches, frames, strict=True)])
    return {
        "checkpoint": args.checkpoint,
        "step": loaded.step,
        "sha256": loaded.sha256,
        "num_parameters": model.num_params(loaded.variables),
        "trained_on": loaded.config.data.path or loaded.config.data.dataset,
        "data": subject.source,
        "data_sha256": weights.digest(on_device),
        "steps_per_quarter": loaded.config.data.steps_per_quarter,
        "n_pieces": len(lengths),
        "n_frames": sum(len(steps) for steps in frames),
        "n_frames_of": int(lengths.sum()),
        "n_orderings": args.orderings,
        "rest_cells": int((cells == pianoroll.REST).sum()),
        "cells": int(cells.size),
        "seed": args.seed,
        "dtype": args.dtype,
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "command": provenance.command("coconet_jax.evaluate"),
    }


def _evaluate(args: argparse.Namespace) -> None:
    names = _measures(args.measures)
    folder = storage.place(args.out)
    files.check_folder(folder)
    if args.json:
        files.check_folder(storage.place(args.json).absolute().parent)
    devices.use_compile_cache()
    if args.distributed == "off":
        devices.split_cpu(devices.num_cores())
    devices.join_processes(args.distributed)
    if args.dtype == "float32":  # else accelerators multiply in fewer bits
        jax.config.update("jax_default_matmul_precision", "float32")
    loaded = checkpoint.load(args.checkpoint, args.step)
    config = dataclasses.replace(loaded.config.model, dtype=args.dtype)
    subject, piece = subjects.from_flags(args, loaded.config.data)
    lengths = subject.pieces.lengths
    frames = evaluation.choose_frames(lengths, sys.maxsize if args.full else args.max_frames or MAX_FRAMES, args.seed)
    sizes = np.array([len(steps) for steps in frames])
    mesh = devices.make_mesh()
    batch_size = args.batch_size or likelihood.default_batch_size()
    pickup = np.full_like(subject.number, subject.pickup) if subject.pickup else None
    on_device = likelihood.Corpus(subject.pieces.pitches, lengths, subject.number, pickup)
    net = likelihood.net_of(config)
    scorer = likelihood.prepare(likelihood.Scorer(loaded.variables, net, on_device, args.seed, batch_size, mesh))
    report = _describe(args, loaded, subject, on_device, frames)
    if devices.is_lead():
        print("\n".join(tables.header(report)), flush=True)
    names_of_fixed = ("sha256", "data_sha256", "seed", "n_orderings", "dtype", "versions")
    fixed = [likelihood.PROTOCOL, *(report[name] for name in names_of_fixed)]
    digest = weights.digest([np.array(json.dumps(fixed)), *frames])
    stores = evaluation.score_pieces(scorer, frames, names, args.orderings, folder, digest)
    report["seconds"] = round(sum(store.seconds for store in stores.values()), 1)
    report["made_on"] = "; ".join(dict.fromkeys(store.made_on for store in stores.values()))
    report["measures"] = _summarise({name: store.pieces() for name, store in stores.items()}, subject, sizes)
    if not devices.is_lead():
        return
    print("\n".join(tables.text(report)))
    if args.json:
        files.replace(args.json, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
        print(f"wrote {args.json}")
    if piece is None:
        print(tables.markdown(report))
    else:
        _write_surprise(args, piece, loaded, config, batch_size)


def _write_surprise(
    args: argparse.Namespace,
    piece: score.Score,
    loaded: weights.Loaded,
    config: config_lib.Model,
    batch_size: int,
) -> None:
    """The heat map of a score and its numbers."""
    from coconet_jax import render  # matplotlib is wanted here alone

    cells = int((piece.pitches != pianoroll.REST).sum())
    with counter.counting("looking at each note", "cells", cells) as advance:
        notes = surprise.find(loaded.variables, config, piece, batch_size=batch_size, advance=advance)
    stem = pathlib.Path(args.score).stem
    picture, numbers = (storage.place(args.out) / f"{stem}_surprise{suffix}" for suffix in (".png", ".json"))
    render.write_surprise(picture, piece, notes)
    described = {
        "score": args.score,
        "checkpoint": args.checkpoint,
        "sha256": loaded.sha256,
        "unit": "nats; a note hidden whole and written cell by cell, all others given",
        "notes": [surprise.describe(note, piece) for note in notes],
    }
    files.replace(numbers, (json.dumps(described, indent=1) + "\n").encode())
    print("\n".join(tables.surprises([surprise.describe(note, piece) for note in notes])))
    print(f"wrote {picture} and {numbers}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `--help` teaches it. Bad input ends it with one line and exit code 2."""
    checkpoint.quiet()
    args = _parser().parse_args(argv)
    with errors.exit_on_input_error():
        _check(args)
        size = args.batch_size or likelihood.default_batch_size()
        with devices.explain_lack_of_memory(f"give a smaller --batch_size (now {size})"):
            _evaluate(args)


if __name__ == "__main__":
    main()
