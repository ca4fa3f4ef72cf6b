"""Likelihood of chorales under the LSTM on note events: the command.

`python -m coconet_jax.sequence_evaluate --checkpoint=runs/lstm --split=valid`
"""

import argparse
from collections.abc import Sequence
import functools
import json
import time
from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
import numpy as np

from coconet_jax import (
    checkpoint,
    corpus,
    devices,
    errors,
    estimates,
    events,
    files,
    lstm,
    model,
    pieces,
    provenance,
    subjects,
)

BATCH: Final = 16  # pieces at once
_NOTE: Final = """Nats per frame (four voices, a sixteenth), by the chain rule in chronological order: the probabilities
of all scores of a length add up to 1, so it is a likelihood in the strict sense. Rests are paid for, as everything is.
Of Coconet, four times notewise_chronological of coconet_jax.evaluate is the same, but that rests cost nothing there;
framewise_released_chronological feeds the network its own guesses, and is no likelihood."""


@functools.partial(jax.jit, static_argnames=("config", "num_steps"))
def _frames(
    variables: model.Variables,
    strings: Int[Array, "b e"],
    length: Int[Array, " b"],
    *,
    config: lstm.Lstm,
    num_steps: int,
) -> Float[Array, "b t"]:
    log_probs = lstm.log_probs(variables, config, strings, length)
    time_of = jnp.where(strings == events.NOTHING, num_steps, events.follow(strings, config.order).time)
    rows = jnp.arange(len(strings))[:, None]
    return jnp.zeros((len(strings), num_steps)).at[rows, time_of].add(log_probs, mode="drop")


def score_pieces(
    variables: model.Variables, config: lstm.Lstm, split: pieces.Pieces, batch_size: int = BATCH
) -> list[Float[np.ndarray, "1 _ 1"]]:
    """Log-probabilities of each piece, nats: a token counts at the frame at which it stands.

    A wait stands where it begins, so single frames are not those of a net that writes frame by frame; sums are.
    """
    tokens = [events.encode(notes[:n], config.order) for notes, n in zip(split.pitches, split.lengths, strict=True)]
    size = max(map(len, tokens))
    found = []
    for start in range(0, len(tokens), batch_size):
        part = np.resize(np.arange(start, min(start + batch_size, len(tokens))), batch_size)
        strings = np.stack([np.pad(tokens[n], (0, size - len(tokens[n])), constant_values=-1) for n in part])
        lengths = split.lengths[part]
        made = _frames(variables, strings, lengths, config=config, num_steps=split.pitches.shape[1])
        found += [row[None, :n, None] for row, n in zip(np.asarray(made), lengths, strict=True)]
    return found[: len(tokens)]


def _parser() -> argparse.ArgumentParser:
    parser = errors.Parser(
        prog="python -m coconet_jax.sequence_evaluate",
        description="Negative log-likelihood of chorales under a trained LSTM on note events, in nats per frame.",
        epilog=_NOTE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="the --workdir of a run of coconet_jax.sequence")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint to take (default: the best on validation)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--split",
        choices=pieces.SPLITS,
        default="valid",
        help="of the chorales (default: valid, for choosing; test is for what is to be published)",
    )
    what.add_argument("--samples", metavar="PATH", help="instead: the --out folder of a sampling run, or an npz of it")
    parser.add_argument("--data", metavar="FILE.npz", help="a set written by python -m coconet_jax.chorales --export")
    parser.add_argument("--dataset", metavar="NAME", help="music21, jsb16th, ... (default: the one trained on)")
    parser.add_argument("--source", metavar="PATH", help="the npz of jsb16th, or the folder of folder")
    parser.add_argument("--json", metavar="FILE", help="also write all numbers to this file")
    parser.set_defaults(score=None, voices=None, data_dir=None)
    return parser


def _evaluate(args: argparse.Namespace) -> None:
    empty = [name for name, value in vars(args).items() if value == "" and name != "checkpoint"]
    if empty:
        raise errors.InputError(f"--{empty[0]}= is empty; give a value, or leave it out")
    if not args.checkpoint:
        raise errors.InputError("--checkpoint is missing; give the --workdir of a run of coconet_jax.sequence")
    for name in ("data", "dataset", "source"):
        if getattr(args, name) and args.samples:
            raise errors.InputError(
                f"--{name}={getattr(args, name)} names chorales, --samples other music; leave one out"
            )
    devices.use_compile_cache()
    jax.config.update("jax_default_matmul_precision", "float32")  # else accelerators multiply in fewer bits
    loaded = checkpoint.load_kind(lstm.KIND, args.checkpoint, args.step)
    subject, _ = subjects.from_flags(args, loaded.config.data)
    begun = time.perf_counter()
    found = score_pieces(loaded.variables, loaded.config.model, subject.pieces)
    leaking = np.isin(subject.pieces.names, corpus.leaking_names(subject.split)) if subject.split else np.zeros(1, bool)
    measures = {"all pieces": _measure(found)}
    if leaking.any() and not leaking.all():
        clean = [piece for piece, leaks in zip(found, leaking, strict=True) if not leaks]
        measures["without pieces of which train has a near copy"] = _measure(clean)
    report = {
        "checkpoint": args.checkpoint,
        "step": loaded.step,
        "sha256": loaded.sha256,
        "num_parameters": model.num_params(loaded.variables),
        "data": subject.source,
        "unit": "nats per frame, chain rule, chronological",
        "measures": measures,
        "seconds": round(time.perf_counter() - begun, 1),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "commit": provenance.commit(),
        "command": provenance.command("coconet_jax.sequence_evaluate"),
    }
    print(
        f"step {loaded.step} of {args.checkpoint} ({report['num_parameters']:,} parameters), {subject.source}; "
        f"{report['seconds']} s on {report['hardware']}\n{report['unit']}:"
    )
    for what, values in measures.items():
        error = "" if values["sem_grouped"] is None else f" ± {values['sem_grouped']:.4f} over pieces"
        print(
            f"  {values['mean']:.4f}{error} (mean of pieces "
            f"{values['mean_pieces']:.4f}): {what}, {values['n_pieces']} pieces, {values['n_frames']} frames"
        )
    if args.json:
        files.replace(args.json, (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
        print(f"wrote {args.json}")


def _measure(found: Sequence[Float[np.ndarray, "1 _ 1"]]) -> dict[str, Any]:
    values = estimates.estimate(found, "frame", "one_ordering")
    counts = {"n_pieces": len(found), "n_frames": sum(piece.shape[1] for piece in found)}
    known = {name: None if value is None or np.isnan(value) else value for name, value in values._asdict().items()}
    return {name: known[name] for name in ("mean", "mean_pieces", "sem_pieces", "sem_grouped")} | counts


def main(argv: Sequence[str] | None = None) -> None:
    """The command; a mistake of the user's is one line and exit code 2."""
    checkpoint.quiet()
    args = _parser().parse_args(argv)
    with errors.exit_on_input_error():
        _evaluate(args)


if __name__ == "__main__":
    main()
