"""From log-probabilities along several orderings to the measures of likelihood, each with its errors. numpy, no model.

Three averages over the k orderings of a piece differ enormously, and none stands for another:

  one_ordering    the mean over the orderings: what one of them gives
  unit_ensemble   the orderings averaged in probability for each frame (framewise) or each note (notewise), as the
                  released code does; the best ordering of each unit dominates, and no joint law has this likelihood
  piece_ensemble  the orderings averaged in probability for each whole piece: where true notes are given, the likelihood
                  of a proper mixture of k models
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, Final, NamedTuple

from jaxtyping import Float
import numpy as np

LogProbs = Float[np.ndarray, "k n i"]  # of one piece: orderings, frames, voices; nats
Pieces = Sequence[Float[np.ndarray, "k _ i"]]


class Measure(NamedTuple):
    """A way to score a piece.

    Attributes:
      order: the name of an order (`orderings.ORDERS`).
      feed: what a frame's later voices see of its earlier ones (`likelihood.FEEDS`).
      unit: "frame", whose voices are summed, or "note", a variable.
      headline: the average that is meant when the measure is named without one.
      title: in a table.
    """

    order: str
    feed: str
    unit: str
    headline: str
    title: str


MEASURES: Final[dict[str, Measure]] = {
    "framewise_released": Measure(
        "random_frames", "argmax", "frame", "unit_ensemble", "framewise, random order, argmax fed (released code)"
    ),
    "framewise_drawn": Measure(
        "random_frames", "draw", "frame", "unit_ensemble", "framewise, random order, draws fed (paper's words)"
    ),
    "framewise_released_chronological": Measure(
        "chronological", "argmax", "frame", "unit_ensemble", "framewise, chronological, argmax fed"
    ),
    "framewise_drawn_chronological": Measure(
        "chronological", "draw", "frame", "unit_ensemble", "framewise, chronological, draws fed"
    ),
    "notewise_random": Measure(
        "random_variables", "truth", "note", "one_ordering", "notewise chain rule, random order"
    ),
    "notewise_chronological": Measure(
        "chronological", "truth", "note", "one_ordering", "notewise chain rule, chronological"
    ),
    "notewise_voices": Measure(
        "voice_by_voice", "truth", "note", "one_ordering", "notewise chain rule, voice by voice"
    ),
}  # fmt: skip
PUBLISHED: Final = ("framewise_released", "unit_ensemble")  # what the paper's 0.57 is


class Estimate(NamedTuple):
    """A mean over pieces in nats per unit, with its standard errors (nan where there are too few).

    Attributes:
      mean: over all frames.
      sem: of it, the frames taken as independent; None where there is no value for a frame alone.
      mean_pieces: over pieces, each counting alike.
      sem_pieces: of that.
      sem_grouped: of `mean`, not the frames but the pieces taken as independent.
    """

    mean: float
    sem: float | None
    mean_pieces: float
    sem_pieces: float
    sem_grouped: float


def log_mean_exp(log_probs: Float[np.ndarray, "k *n"]) -> Float[np.ndarray, "*n"]:
    """log of the mean probability over the first axis."""
    highest = log_probs.max(axis=0)
    return np.asarray(highest + np.log(np.exp(log_probs - highest).mean(axis=0)))


def one_ordering(log_probs: LogProbs, unit: str) -> Float[np.ndarray, " n"]:
    """NLL at each frame, nats per unit, the mean over orderings."""
    return -log_probs.sum(axis=2).mean(axis=0) / _units(log_probs, unit)


def unit_ensemble(log_probs: LogProbs, unit: str) -> Float[np.ndarray, " n"]:
    """NLL at each frame, nats per unit, each unit's orderings averaged in probability."""
    if unit == "frame":
        return -log_mean_exp(log_probs.sum(axis=2))
    return -log_mean_exp(log_probs).mean(axis=1)


def piece_ensemble(log_probs: LogProbs, unit: str) -> Float[np.ndarray, " n"]:
    """NLL of the piece, nats per unit, its orderings averaged in probability: one number, given to every frame."""
    frames = log_probs.shape[1]
    whole = -float(log_mean_exp(log_probs.sum(axis=(1, 2))))
    return np.full(frames, whole / (frames * _units(log_probs, unit)))


AVERAGES: Final[dict[str, Callable[[LogProbs, str], Float[np.ndarray, " n"]]]] = {
    "one_ordering": one_ordering,
    "unit_ensemble": unit_ensemble,
    "piece_ensemble": piece_ensemble,
}


def _units(log_probs: LogProbs, unit: str) -> int:
    return 1 if unit == "frame" else log_probs.shape[2]


def estimate(pieces: Pieces, unit: str, average: str) -> Estimate:
    """A measure over pieces, of which each has one frame at least."""
    values = [AVERAGES[average](piece.astype(np.float64), unit) for piece in pieces]
    frames = np.concatenate(values)
    means = np.array([piece.mean() for piece in values])
    per_frame = None if average == "piece_ensemble" else _sem(frames)
    mean, sizes, number = float(frames.mean()), np.array([len(piece) for piece in values]), len(values)
    offsets = sizes * (means - mean)
    grouped = math.sqrt(number / (number - 1) * (offsets**2).sum()) / sizes.sum() if number > 1 else math.nan
    return Estimate(mean, per_frame, float(means.mean()), _sem(means), grouped)


def _sem(values: Float[np.ndarray, " n"]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def summarise(name: str, pieces: Pieces) -> dict[str, Any]:
    """A measure as JSON has it: its headline's numbers first, then all three averages; errors that are nan are None."""
    measure = MEASURES[name]
    averages = {
        average: {key: _finite(value) for key, value in estimate(pieces, measure.unit, average)._asdict().items()}
        for average in AVERAGES
    }
    return {
        **averages[measure.headline],
        "unit": f"nats per {measure.unit}",
        "headline": measure.headline,
        "n_frames": sum(piece.shape[1] for piece in pieces),
        "n_pieces": len(pieces),
        "n_orderings": pieces[0].shape[0],
        **averages,
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
