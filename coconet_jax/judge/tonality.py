"""Scales and keys: key clarity, notes in the scale, entropy of pitch classes. numpy, no model.

Of the whole piece, by sounding time; no beat is needed. Pitches are [n,t,4] of MIDI numbers, -1 = rest.
"""

import itertools
from typing import Final

from jaxtyping import Float, Integer
import numpy as np

from coconet_jax import pianoroll

_SCALES: Final = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 11))  # major, harmonic minor
# How well each degree fits a major and a minor key, as rated by listeners (Krumhansl and Kessler 1982).
_PROFILES: Final = (
    (6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88),
    (6.33, 2.68, 3.52, 5.38, 2.60, 3.53, 2.54, 4.75, 3.98, 2.69, 3.34, 3.17),
)


def _pitch_class_shares(pitches: Integer[np.ndarray, "n t 4"]) -> Float[np.ndarray, "n 12"]:
    """Share of sounding time of each pitch class; nan for a piece of rests."""
    classes = np.where(pitches != pianoroll.REST, pitches % 12, 12)
    counts = np.stack([(classes == number).sum(axis=(1, 2)) for number in range(12)], axis=1)
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), np.nan)


def in_scale_share(pitches: Integer[np.ndarray, "n t 4"]) -> Float[np.ndarray, " n"]:
    """Share of sounding time that lies in the best of 24 scales: 12 major, 12 harmonic minor; nan for rests only.

    Natural minor would add nothing to the relative major. All 24 have seven notes, so none is favoured.
    """
    scales = np.zeros((24, 12))
    for row, (shape, tonic) in zip(scales, itertools.product(_SCALES, range(12)), strict=True):
        row[[(tonic + degree) % 12 for degree in shape]] = 1.0
    return (_pitch_class_shares(pitches) @ scales.T).max(axis=1)


def pitch_class_entropy_nats(pitches: Integer[np.ndarray, "n t 4"]) -> Float[np.ndarray, " n"]:
    """Entropy of the pitch classes by sounding time, 0 to log 12 = 2.48 nats; nan for a piece of rests."""
    shares = _pitch_class_shares(pitches)
    return -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)


def key_clarity(pitches: Integer[np.ndarray, "n t 4"]) -> Float[np.ndarray, " n"]:
    """The best correlation of a piece's pitch class shares with the profiles of the 24 keys; nan where undefined.

    1 would be a piece that uses its key exactly as the profile says. It is undefined for rests only, and where all
    twelve classes sound equally long.
    """
    shares = _pitch_class_shares(pitches)
    profiles = np.array([np.roll(profile, tonic) for profile, tonic in itertools.product(_PROFILES, range(12))])
    profiles -= profiles.mean(axis=1, keepdims=True)
    profiles /= np.linalg.norm(profiles, axis=1, keepdims=True)
    centred = shares - shares.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(centred, axis=1)
    best = (centred @ profiles.T).max(axis=1)
    return np.where(norm > 1e-12, best / np.where(norm > 1e-12, norm, 1.0), np.nan)
