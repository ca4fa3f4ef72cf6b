"""Whether a classifier's probabilities can be believed: temperature, expected calibration error, Brier score. numpy."""

from typing import Final

from jaxtyping import Float, Integer
import numpy as np

_BINS: Final = 15


def log_softmax(logits: Float[np.ndarray, "*n k"], temperature: float = 1.0) -> Float[np.ndarray, "*n k"]:
    """Log-probabilities of logits that are divided by a temperature first."""
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    return scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))


def nll_nats(
    log_probs: Float[np.ndarray, "n k"], labels: Integer[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> float:
    """Mean of -log p(label), in nats."""
    return float(np.average(-log_probs[np.arange(len(labels)), labels], weights=weights))


def fit_temperature(
    logits: Float[np.ndarray, "n k"], labels: Integer[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> float:
    """The temperature in 0.05..20 with the lowest NLL (Guo et al. 2017), by golden section over its logarithm.

    The NLL is convex in the inverse temperature, and so has a single minimum.
    """
    low, high = np.log(0.05), np.log(20.0)
    golden = (np.sqrt(5.0) - 1.0) / 2.0
    cost = lambda at: nll_nats(log_softmax(logits, float(np.exp(at))), labels, weights)  # noqa: E731
    for _ in range(50):
        left, right = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, right) if cost(left) < cost(right) else (left, high)
    return float(np.exp((low + high) / 2))


def expected_error(
    probs: Float[np.ndarray, "n k"], labels: Integer[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> float:
    """Expected calibration error of the class held likeliest: |share right - confidence| over 15 equal bins."""
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == labels
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(bins, weights * (right - confidence), _BINS)
    return float(np.abs(gaps).sum() / weights.sum())


def brier(
    probs: Float[np.ndarray, "n k"], labels: Integer[np.ndarray, " n"], weights: Float[np.ndarray, " n"]
) -> float:
    """Mean squared distance from the probabilities to the truth, 0 (certain and right) to 2 (certain and wrong)."""
    truth = np.eye(probs.shape[1])[labels]
    return float(np.average(((probs - truth) ** 2).sum(axis=1), weights=weights))
