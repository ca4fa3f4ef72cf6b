"""What the evaluation command is asked to evaluate: a split of chorales, samples or a score."""

import argparse
import dataclasses
import pathlib
from typing import NamedTuple

from jaxtyping import Int32
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import data, devices, errors, notation, pianoroll, pieces, samples, score, storage


class Subject(NamedTuple):
    """What is evaluated.

    Attributes:
      pieces: see there.
      number: of each piece, which settles its orderings.
      source: where they come from, to be printed.
      split: of a data set, else "".
      pickup: steps of each piece before its first bar line; those of data sets are taken to begin with a beat.
    """

    pieces: pieces.Pieces
    number: Int32[np.ndarray, " n"]
    source: str
    split: str = ""
    pickup: int = 0


def from_flags(args: argparse.Namespace, trained: config_lib.Data) -> tuple[Subject, score.Score | None]:
    """What the flags of `coconet_jax.evaluate` name, on the grid of the net that was trained on these data; and the
    score, where it is one.

    Raises:
      InputError: nothing there, another grid, or notes that the net cannot represent.
    """
    grid = trained.steps_per_quarter
    if args.score:
        piece = notation.read_satb(args.score, steps_per_quarter=grid, voices=args.voices)
        for remark in piece.remarks if devices.is_lead() else ():
            print(f"note: {remark}")
        one = pieces.from_arrays([piece.pitches], [pathlib.Path(args.score).name])
        return Subject(one, np.zeros(1, np.int32), args.score, pickup=piece.pickup_steps), piece
    if args.samples:
        made = samples.load_samples(args.samples)
        _check_grid(made.steps_per_quarter, grid, f"--samples={args.samples}")
        outside = made.pitches[~pianoroll.in_range(made.pitches)]
        if outside.size or not made.pitches.size:
            lowest, highest = pianoroll.MIN_PITCH, pianoroll.MAX_PITCH
            found = f"pitch {outside[0]}, outside {lowest}..{highest}" if outside.size else "no notes"
            raise errors.InputError(f"--samples={args.samples} holds {found}; give notes from {lowest} to {highest}")
        split = pieces.from_arrays(list(made.pitches), [f"sample {n}" for n in made.sample_id.tolist()])
        number = made.sample_id.astype(np.int32)
        return Subject(split, number, f"samples in {args.samples}", pickup=made.pickup_steps), None
    chosen = {name: getattr(args, name) for name in ("dataset", "source", "data_dir") if getattr(args, name)}
    if args.dataset and args.dataset != trained.dataset:
        chosen.setdefault("source", "")  # that of the training set is of another kind
    path = args.data or ("" if chosen else trained.path)
    if path and not args.data and not storage.place(path).exists():
        raise errors.InputError(
            f"{path}, which this net was trained on, is not there any more; give --data=FILE.npz or --dataset=music21"
        )
    piece_set = data.read(dataclasses.replace(trained, path=path, **chosen))
    _check_grid(piece_set.steps_per_quarter, grid, f"the set {piece_set.source}")
    fold = piece_set.splits.get(args.split)
    if fold is None or not len(fold.lengths):
        raise errors.InputError(f"{piece_set.source} has no {args.split} pieces; take another --split or --data")
    number = np.arange(len(fold.lengths), dtype=np.int32)
    return Subject(fold, number, f"{args.split} of {piece_set.source}", args.split), None


def _check_grid(there: int, net: int, what: str) -> None:
    if there != net:
        raise errors.InputError(
            f"{what} stands on {there} steps per quarter, this net was trained on {net}; take a net trained on {there}"
        )
