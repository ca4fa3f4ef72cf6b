"""Prepared pieces on the host, and the one npz file that carries them to machines without TFDS or music21.

The file holds for each split: `{split}_pitches` int8 (n, T_max, 4) padded with -1, `{split}_lengths` int32 (n,),
`{split}_names` str (n,), `{split}_transpose_room` int8 (n, 4); and once `steps_per_quarter` and `source`.
"""

import io
from typing import NamedTuple
import zipfile
import zlib

from jaxtyping import Int8, Int32
import numpy as np

from coconet_jax import errors, files, pianoroll, storage

SPLITS = ("train", "valid", "test")


class Pieces(NamedTuple):
    """The pieces of one split.

    Attributes:
      pitches: MIDI pitches, -1 = rest, and -1 past a piece's end.
      lengths: steps of each piece.
      names: a name for each piece, in order.
      transpose_room: semitones [down, up] inside 36..81, then [down, up] inside the voice ranges.
    """

    pitches: Int8[np.ndarray, "n t 4"]
    lengths: Int32[np.ndarray, " n"]
    names: tuple[str, ...]
    transpose_room: Int8[np.ndarray, "n 4"]


class PieceSet(NamedTuple):
    """All splits of a prepared data set, the grid they stand on and where they come from."""

    splits: dict[str, Pieces]
    steps_per_quarter: int
    source: str


def from_arrays(arrays: list[np.ndarray], names: list[str]) -> Pieces:
    """Stacks pieces of (T, 4) pitches, computing each one's room to transpose."""
    longest = max((len(a) for a in arrays), default=0)
    pitches = np.full((len(arrays), longest, pianoroll.NUM_VOICES), pianoroll.REST, np.int8)
    for row, array in zip(pitches, arrays, strict=True):
        row[: len(array)] = array
    lengths = np.array([len(a) for a in arrays], np.int32)
    room = np.array([pianoroll.transpose_room(a) for a in arrays], np.int8).reshape(-1, 4)
    return Pieces(pitches, lengths, tuple(names), room)


def write_npz(path: storage.Named, piece_set: PieceSet) -> None:
    """Writes the set as one npz, a file or the object of a URL, whole or not at all."""
    fields: dict[str, np.ndarray] = {
        "steps_per_quarter": np.array(piece_set.steps_per_quarter, np.int32),
        "source": np.array(piece_set.source),
    }
    for split, pieces in piece_set.splits.items():
        fields[f"{split}_pitches"] = pieces.pitches
        fields[f"{split}_lengths"] = pieces.lengths
        fields[f"{split}_names"] = np.array(pieces.names, dtype=np.str_)
        fields[f"{split}_transpose_room"] = pieces.transpose_room
    files.replace_npz(path, **fields)


def _read_split(fields: dict[str, np.ndarray], split: str, path: storage.Named) -> Pieces:
    pitches, lengths = fields[f"{split}_pitches"], fields[f"{split}_lengths"]
    names, room = fields[f"{split}_names"], fields[f"{split}_transpose_room"]
    whole = all(array.dtype.kind in "iu" for array in (pitches, lengths, room))
    shaped = pitches.ndim == 3 and pitches.shape[2] == pianoroll.NUM_VOICES and room.shape == (len(pitches), 4)
    if not (whole and shaped and lengths.shape == names.shape == (len(pitches),)):
        raise errors.InputError(f"{path}: the arrays of {split} do not fit each other; export the set anew")
    if (lengths < 1).any() or (lengths > pitches.shape[1]).any() or not pianoroll.in_range(pitches).all():
        raise errors.InputError(
            f"{path}: {split} has lengths outside 1..{pitches.shape[1]} or pitches outside "
            f"{pianoroll.MIN_PITCH}..{pianoroll.MAX_PITCH}; export the set anew"
        )
    return Pieces(pitches.astype(np.int8), lengths.astype(np.int32), tuple(str(n) for n in names), room.astype(np.int8))


def read_npz(path: storage.Named) -> PieceSet:
    """Reads what write_npz wrote, from a file or a URL.

    Raises:
      InputError: the file is missing, is no npz, or lacks a field.
    """
    try:
        with np.load(io.BytesIO(storage.place(path).read_bytes()), allow_pickle=False) as file:
            fields = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise errors.InputError(
            f"{path} does not exist; make it with python -m coconet_jax.chorales --export={path}"
        ) from None
    except errors.InputError:  # of a store; a ValueError too
        raise
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise errors.InputError(f"{path} is not a set of chorales written by --export: {error}") from None
    try:
        splits = {split: _read_split(fields, split, path) for split in SPLITS if f"{split}_pitches" in fields}
        if "train" not in splits:
            raise KeyError("train_pitches")
        return PieceSet(splits, int(fields["steps_per_quarter"]), str(fields["source"]))
    except KeyError as error:
        raise errors.InputError(
            f"{path} has no field {error}; write it with python -m coconet_jax.chorales --export={path}"
        ) from None
