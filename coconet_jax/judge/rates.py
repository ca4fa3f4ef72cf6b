"""Means and rates over a set of pieces, with their errors. numpy, no model."""

import math
from typing import NamedTuple

from jaxtyping import Bool, Float, Integer
import numpy as np

from coconet_jax import errors


class Measure(NamedTuple):
    """A mean with its standard error."""

    mean: float
    error: float


class Rate(NamedTuple):
    """Events per 100 beats with the bounds of a Poisson interval, and the count it comes from."""

    rate: float
    low: float
    high: float
    num_events: int


def check_grid(steps_per_quarter: int) -> None:
    """Raises InputError where steps_per_quarter is no grid."""
    if steps_per_quarter < 1:
        raise errors.InputError(f"steps_per_quarter={steps_per_quarter} is no grid; use 4 for 16ths, 2 or 1")


def _poisson_cdf(count: int, mean: float) -> float:
    """P(X <= count) for a Poisson X of this mean, summed in logarithms."""
    terms = np.arange(count + 1)
    log_factorials = np.cumsum(np.log(np.maximum(terms, 1)))
    return float(np.exp(terms * math.log(mean) - mean - log_factorials).sum())


def _solve_poisson_mean(count: int, probability: float) -> float:
    """The mean at which P(X <= count) is the given probability (< 1), by bisection."""
    low, high = 0.0, count + 10.0 * math.sqrt(count + 1) + 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _poisson_cdf(count, middle) > probability else (low, middle)
    return (low + high) / 2


def poisson_interval(count: int, confidence: float = 0.95) -> tuple[float, float]:
    """The exact central interval (Garwood 1936) for the mean of a Poisson variable that was seen once, as `count`.

    At a count of 0 it is (0, 3.69). It takes events as independent; parallels come in small clusters, so it is a little
    narrow for them.
    """
    if count < 0 or not 0.0 < confidence < 1.0:
        raise errors.InputError(f"no Poisson interval for count={count}, confidence={confidence}")
    tail = (1.0 - confidence) / 2
    low = _solve_poisson_mean(count - 1, 1.0 - tail) if count else 0.0
    return low, _solve_poisson_mean(count, tail)


def rate_per_100_beats(
    counts: Integer[np.ndarray, "n t"],
    steps_per_quarter: int = 4,
    where: Bool[np.ndarray, "n t"] | None = None,
    confidence: float = 0.95,
) -> Rate:
    """Events per 100 beats, pooled over all pieces, with a Poisson interval.

    Args:
      counts: events at each step, such as `theory.count_parallel_fifths` gives.
      steps_per_quarter: the grid.
      where: the steps that count, such as `beats.mark_valid` of whole pieces or those near a join. A beat is
        steps_per_quarter of them. Default all.
      confidence: of the interval.
    """
    check_grid(steps_per_quarter)
    where = np.ones(counts.shape, bool) if where is None else where
    count, num_steps = int(counts[where].sum()), int(where.sum())
    if num_steps == 0:
        raise errors.InputError("a rate needs at least one step; `where` marks none")
    scale = 100.0 * steps_per_quarter / num_steps
    low, high = poisson_interval(count, confidence)
    return Rate(count * scale, low * scale, high * scale, count)


def average(values: Float[np.ndarray, " n"]) -> Measure:
    """Mean over pieces and its standard error; a piece that has no value (nan) is left out; error nan for one piece."""
    known = values[~np.isnan(values)]
    if known.size == 0:
        return Measure(math.nan, math.nan)
    error = known.std(ddof=1) / math.sqrt(known.size) if known.size > 1 else math.nan
    return Measure(float(known.mean()), float(error))
