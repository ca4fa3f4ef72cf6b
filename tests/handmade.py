"""Hand-made scores and Bach's for the tests of the judge."""

import functools
import pathlib

import numpy as np
import pytest

from coconet_jax import pieces

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
NPZ = REPOSITORY.parent / "shared" / "data" / "Jsb16thSeparated.npz"
needs_npz = pytest.mark.skipif(not NPZ.exists(), reason="the paper's npz is not beside the repository")

R = -1
C_MAJOR, F_MAJOR, G_SEVENTH = (72, 67, 64, 48), (72, 69, 65, 53), (71, 67, 65, 43)


def score(*chords, steps=4):
    """One piece [1,t,4] whose chords each last some steps."""
    return np.repeat(np.array([chords]), steps, axis=1)


def two_voices(*dyads):
    """One piece [1,t,4] of soprano and bass, a quarter each."""
    return score(*((high, R, R, low) for high, low in dyads))


def line(*notes, voice=0):
    """One piece [1,t,4] of one voice: pairs of a pitch and the steps it lasts."""
    melody = np.repeat([pitch for pitch, _ in notes], [steps for _, steps in notes])
    pitches = np.full((1, len(melody), 4), R)
    pitches[0, :, voice] = melody
    return pitches


@functools.cache
def folds():
    """The paper's arrays as the splits of pieces.py, and all of them together."""
    with np.load(NPZ, allow_pickle=True, encoding="latin1") as file:
        arrays = {
            split: [np.where(np.isnan(a), -1, a).astype(int) for a in file[split]]
            for split in ("train", "valid", "test")
        }
    arrays["all"] = [piece for split in ("train", "valid", "test") for piece in arrays[split]]
    return {split: pieces.from_arrays(list_, [str(i) for i in range(len(list_))]) for split, list_ in arrays.items()}
