"""How well a score tells two classes apart: AUC, calibration, and a logistic regression to compare with. numpy.

Weights stand for how often an example counts; groups are what a bootstrap draws, such as pieces.
"""

from typing import NamedTuple

from jaxtyping import Bool, Float, Shaped
import numpy as np

from coconet_jax.judge import calibration as calibration_lib
from coconet_jax.judge import rates


def auc(
    scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], weights: Float[np.ndarray, " n"] | None = None
) -> float:
    """The chance that a positive example scores higher than a negative one, ties counting half; nan without both."""
    weights = np.ones(len(scores)) if weights is None else weights
    _, place = np.unique(scores, return_inverse=True)
    size = place.max(initial=-1) + 1
    above, below = (np.bincount(place[side], weights[side], minlength=size) for side in (positive, ~positive))
    lower = np.cumsum(below) - below
    total = above.sum() * below.sum()
    return float((above * (lower + below / 2)).sum() / total) if total else float("nan")


def bootstrap_auc(
    rng: np.random.Generator,
    scores: Float[np.ndarray, " n"],
    positive: Bool[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    groups: Shaped[np.ndarray, " n"],
    *,
    less: Float[np.ndarray, " n"] | None = None,
    rounds: int = 200,
) -> rates.Measure:
    """AUC, and its standard deviation over draws of the groups with replacement.

    With `less`, other scores of the same examples: how much higher the AUC is than theirs, in the same draws.
    """

    def gain(weights: Float[np.ndarray, " n"]) -> float:
        return auc(scores, positive, weights) - (0.0 if less is None else auc(less, positive, weights))

    names, group = np.unique(groups, return_inverse=True)
    draws = []
    for _ in range(rounds):
        counts = np.bincount(rng.integers(0, len(names), len(names)), minlength=len(names))
        draws.append(gain(weights * counts[group]))
    return rates.Measure(gain(weights), float(np.nanstd(draws)))


def sigmoid(logits: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Logits to probabilities."""
    return 0.5 * (1 + np.tanh(logits / 2))


def _mean_nll(logits: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], weights: np.ndarray) -> float:
    return float(np.average(np.logaddexp(0.0, np.where(positive, -logits, logits)), weights=weights))


def fit_temperature(
    logits: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> float:
    """What to divide logits by so that their probabilities cost least on these examples (`calibration`)."""
    both = np.stack([np.zeros_like(logits), logits], axis=1)
    return calibration_lib.fit_temperature(both, positive.astype(int), weights)


class Calibration(NamedTuple):
    """Of probabilities: nats per example, mean squared error, and the mean gap in ten bins of confidence."""

    nll_nats: float
    brier: float
    ece: float


def calibration(
    logits: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> Calibration:
    """How far probabilities are from what happens; the expected calibration error in ten bins of equal width."""
    probability = sigmoid(logits)
    weights = weights / weights.sum()
    bins = np.minimum((probability * 10).astype(int), 9)
    gap = np.bincount(bins, weights * (probability - positive), minlength=10)
    brier = float(np.sum(weights * (probability - positive) ** 2))
    return Calibration(_mean_nll(logits, positive, weights), brier, float(np.abs(gap).sum()))


class Logistic(NamedTuple):
    """A logistic regression on standardised features.

    In a plain one, features that are not a number count as the mean. In a two-sided one each feature has a slope above
    its mean, another below, and a constant where it is missing, as what is real can lie between too little and too
    much; and it counts by the logarithm of 1 + its distance in spreads, as the examples that are far off are very far
    off, and would settle the slopes of the near ones.

    Attributes:
      mean: of each feature among positive examples, and
      spread: its standard deviation there.
      coefficients: of each feature (of all above their means, all below, all missing), then the constant.
    """

    mean: Float[np.ndarray, " d"]
    spread: Float[np.ndarray, " d"]
    coefficients: Float[np.ndarray, " e"]

    def logits(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " n"]:
        """Of examples."""
        two_sided = len(self.coefficients) > len(self.mean) + 1
        return _standardise(features, self.mean, self.spread, two_sided) @ self.coefficients

    def plain(self) -> Float[np.ndarray, " e"]:
        """For features as they are: the coefficients, and the constant (not of a two-sided one)."""
        slopes = self.coefficients[:-1] / self.spread
        return np.append(slopes, self.coefficients[-1] - slopes @ self.mean)


def _standardise(
    features: Float[np.ndarray, "n d"], mean: Float[np.ndarray, " d"], spread: Float[np.ndarray, " d"], two_sided: bool
) -> Float[np.ndarray, "n e"]:
    scaled = np.nan_to_num((features - mean) / spread, nan=0.0)
    distance = np.log1p(np.abs(scaled))
    two_sides = [distance * (scaled > 0), distance * (scaled < 0), np.isnan(features)]
    parts = two_sides if two_sided else [scaled]
    return np.concatenate([*parts, np.ones((len(features), 1))], axis=1)


def fit_logistic(
    features: Float[np.ndarray, "n d"],
    positive: Bool[np.ndarray, " n"],
    weights: Float[np.ndarray, " n"],
    penalty: float = 1e-3,
    *,
    two_sided: bool = False,
) -> Logistic:
    """Newton's method on the mean cross-entropy plus `penalty` times half the squared coefficients."""
    known = positive[:, None] & ~np.isnan(features)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, features, 0.0).sum(axis=0) / count
    spread = np.sqrt((np.where(known, features - mean, 0.0) ** 2).sum(axis=0) / count)
    spread = np.where(spread > 1e-9, spread, 1.0)
    x, weights = _standardise(features, mean, spread, two_sided), weights / weights.sum()
    held = penalty * np.append(np.ones(x.shape[1] - 1), 1e-9)
    coefficients = np.zeros(x.shape[1])
    for _ in range(30):
        probability = sigmoid(x @ coefficients)
        gradient = x.T @ (weights * (probability - positive)) + held * coefficients
        curvature = (x * (weights * probability * (1 - probability))[:, None]).T @ x + np.diag(held + 1e-12)
        step = np.linalg.solve(curvature, gradient)
        coefficients -= step * min(1.0, 5.0 / max(np.abs(step).max(), 1e-12))
        if np.abs(step).max() < 1e-6:
            break
    return Logistic(mean, spread, coefficients)
