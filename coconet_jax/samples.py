"""Sample files on disk: one npz of scores, written whole or not at all."""

import os
import pathlib
from typing import NamedTuple
import zipfile
import zlib

from jaxtyping import Bool, Int16, Int64
import numpy as np

from coconet_jax import errors

FILE_NAME = "samples.npz"


class Samples(NamedTuple):
    """Generated scores of equal length.

    Attributes:
      pitches: MIDI pitches, S A T B, -1 = rest.
      onset: True where a note is struck.
      given: True where the user gave the note.
      sample_id: the number of each chain; with `seed` it settles the sample.
      seed: of the run.
      steps_per_quarter: the grid.
    """

    pitches: Int16[np.ndarray, "n t 4"]
    onset: Bool[np.ndarray, "n t 4"]
    given: Bool[np.ndarray, "n t 4"]
    sample_id: Int64[np.ndarray, " n"]
    seed: int
    steps_per_quarter: int


def write_samples(folder: str | os.PathLike[str], samples: Samples) -> pathlib.Path:
    """Writes `samples.npz` into a folder that exists and returns its path."""
    target = pathlib.Path(folder) / FILE_NAME
    partial = target.with_name(f".{FILE_NAME}.{os.getpid()}")
    with open(partial, "wb") as file:
        np.savez_compressed(file, **samples._asdict())  # type: ignore[arg-type]
    os.replace(partial, target)
    return target


def load_samples(path: str | os.PathLike[str]) -> Samples:
    """Reads the samples in a folder, or in one npz of it.

    Raises:
      InputError: there are none, or the file is damaged.
    """
    file_path = pathlib.Path(path)
    if file_path.is_dir():
        file_path = file_path / FILE_NAME
    try:
        with open(file_path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            fields = {name: file[name] for name in Samples._fields}
    except FileNotFoundError:
        raise errors.InputError(f"{path} holds no {FILE_NAME}; give the --out folder of a sampling run") from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise errors.InputError(f"{file_path} is damaged or was not written by coconet_jax.sample: {error}") from None
    fields["seed"], fields["steps_per_quarter"] = int(fields["seed"]), int(fields["steps_per_quarter"])
    return Samples(**fields)
