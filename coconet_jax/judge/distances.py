"""Distances between two sets of windows by any features: KID, Frechet distance, precision, recall, density, coverage.

numpy, no model. Features are [n,d], a row for each window: z-scored theory measures (`fit_theory`), or what a
classifier's last layer but one gives (`composers.fit_features`). Lower is closer for KID and Frechet; for the other
four higher is better.

Every distance depends on the number of windows and on their length: `between` refuses unequal lengths and draws equal
counts. Errors are by the jackknife over groups (pieces), since windows of a piece are alike. A bootstrap draws windows
twice, which would bias distances by nearest neighbours, and KID, which leaves out a window's pair with itself.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from jaxtyping import Bool, Float, Integer
import numpy as np

from coconet_jax import errors
from coconet_jax.judge import rates, sets, theory

NEIGHBOURS_PRECISION: Final = 3  # Kynkäänniemi et al. 2019
NEIGHBOURS_DENSITY: Final = 5  # Naeem et al. 2020
DISTANCES: Final = ("kid", "frechet", "precision", "recall", "density", "coverage")
CLIP: Final = 3.0  # standard deviations
MAX_BLOCKS: Final = 25  # blocks of the jackknife: an error is known to about 1 / sqrt(2 * 24) = 14 % of itself


# What turns windows into rows of numbers.
Features = Callable[[Integer[np.ndarray, "_n _t 4"]], Float[np.ndarray, "_n _d"]]


def fit_theory(training: Integer[np.ndarray, "n t 4"], steps_per_quarter: int = 4) -> Features:
    """The theory measures on the scale that each has on real training windows (see `fit`)."""
    return fit(
        lambda pitches: np.stack(list(theory.measure_pieces(pitches, steps_per_quarter).values()), axis=1), training
    )


def fit(measure: Features, training: Integer[np.ndarray, "n t 4"]) -> Features:
    """The same measures z-scored by real training windows, nan left out there.

    A measure without spread there (one that never varies, or that at most one window has) keeps its own unit; one that
    a window does not have counts as the training windows' mean, 0. Scores are clipped to -CLIP..CLIP: faults that are
    rare in Bach, such as parallels, have a spread so small that a single one scores high, and the cubic kernel would
    hear nothing else; a network's features go as far astray.
    """
    values = measure(training)
    known = ~np.isnan(values)
    number = known.sum(0)
    mean = np.where(known, values, 0.0).sum(0) / np.maximum(number, 1)
    variance = np.where(known, (values - mean) ** 2, 0.0).sum(0) / np.maximum(number - 1, 1)
    spread = np.where(variance > 0, np.sqrt(variance), 1.0)
    return lambda pitches: np.clip(np.nan_to_num((measure(pitches) - mean) / spread, nan=0.0), -CLIP, CLIP)


# Each on two sets of features, of which rows may be left out.


class Pair(NamedTuple):
    """Two sets of features and what compares their rows, made by `pair`: squared distances and the cubic kernel."""

    real: Float[np.ndarray, "n d"]
    sample: Float[np.ndarray, "m d"]
    gaps: tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "m m"], Float[np.ndarray, "n m"]]
    kernels: tuple[Float[np.ndarray, "n n"], Float[np.ndarray, "m m"], Float[np.ndarray, "n m"]]


def pair(real: Float[np.ndarray, "n d"], sample: Float[np.ndarray, "m d"]) -> Pair:
    """Compares every row with every other, real to real, sample to sample and real to sample."""
    gaps, kernels = [], []
    for one, other in ((real, real), (sample, sample), (real, sample)):
        products = one @ other.T
        gaps.append(np.maximum((one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * products, 0.0))
        base = products / real.shape[1] + 1.0
        kernels.append(base * base * base)  # the power function takes ten times as long
    return Pair(real, sample, (gaps[0], gaps[1], gaps[2]), (kernels[0], kernels[1], kernels[2]))


def leave_out(
    of: Pair, kept_real: Bool[np.ndarray, " n"] | None = None, kept_sample: Bool[np.ndarray, " m"] | None = None
) -> Pair:
    """The pair of what is kept on each side; None keeps all."""
    n, m = (np.arange(len(side)) for side in (of.real, of.sample))
    n, m = (n if kept_real is None else n[kept_real]), (m if kept_sample is None else m[kept_sample])
    blocks = (np.ix_(n, n), np.ix_(m, m), np.ix_(n, m))
    gaps, kernels = (
        [matrix[block] for matrix, block in zip(all_, blocks, strict=True)] for all_ in (of.gaps, of.kernels)
    )
    return Pair(of.real[n], of.sample[m], (gaps[0], gaps[1], gaps[2]), (kernels[0], kernels[1], kernels[2]))


def kid(of: Pair) -> float:
    """Kernel distance (Binkowski et al. 2018): the unbiased squared MMD under the kernel (x.y / d + 1)^3.

    Its mean is 0 where both sets follow one law and the rows are independent, whatever the counts, so that it may come
    out below 0. Windows of one piece are alike, which lifts it: compare with the floor of other real pieces.
    """
    within_real, within_sample = (
        (kernel.sum() - np.trace(kernel)) / (len(kernel) * (len(kernel) - 1)) for kernel in of.kernels[:2]
    )
    return float(within_real + within_sample - 2 * of.kernels[2].mean())


def frechet(of: Pair) -> float:
    """Squared Frechet distance of the normal laws with the sets' means and covariances.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), the trace of the root by the eigenvalues of C1^(1/2) C2 C1^(1/2). It is
    above 0 also for two sets of one law, the more so the fewer they are: compare with the floor.
    """
    one, other = (np.atleast_2d(np.cov(features, rowvar=False)) for features in (of.real, of.sample))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ other @ root)
    offset = of.real.mean(0) - of.sample.mean(0)
    return float(offset @ offset + np.trace(one) + np.trace(other) - 2 * np.sqrt(np.maximum(product, 0.0)).sum())


def _squared_radii(gaps: Float[np.ndarray, "n n"]) -> dict[int, Float[np.ndarray, " n"]]:
    """Squared distance of each row to its k-th nearest other, for the two k; the nearest of all is itself, at 0."""
    nearest = np.partition(gaps, (NEIGHBOURS_PRECISION, NEIGHBOURS_DENSITY), axis=1)
    return {k: nearest[:, k] for k in (NEIGHBOURS_PRECISION, NEIGHBOURS_DENSITY)}


def precision_recall_density_coverage(of: Pair) -> dict[str, float]:
    """How much of the sample lies among the real windows, and how much of the real is covered.

    precision: share of sample windows inside the ball of some real window, which reaches to its 3rd nearest real
      neighbour; recall: the same with the two sets exchanged (Kynkäänniemi et al. 2019).
    density: in how many balls of real windows, now to the 5th neighbour, a sample window lies, over 5: about 1 where
      both sets follow one law; coverage: share of real windows whose ball holds a sample window (Naeem et al. 2020).
    """
    fewest = min(len(of.real), len(of.sample))
    if fewest <= NEIGHBOURS_DENSITY:
        raise errors.InputError(f"{fewest} windows have no {NEIGHBOURS_DENSITY} neighbours each; give more")
    across, radii = of.gaps[2], _squared_radii(of.gaps[0])
    close = across <= radii[NEIGHBOURS_DENSITY][:, None]
    return {
        "precision": float((across <= radii[NEIGHBOURS_PRECISION][:, None]).any(0).mean()),
        "recall": float((across <= _squared_radii(of.gaps[1])[NEIGHBOURS_PRECISION]).any(1).mean()),
        "density": float(close.sum(0).mean() / NEIGHBOURS_DENSITY),
        "coverage": float(close.any(1).mean()),
    }


def measure(of: Pair) -> dict[str, float]:
    """Every distance by the names of DISTANCES."""
    return {"kid": kid(of), "frechet": frechet(of)} | precision_recall_density_coverage(of)


# With errors.


def jackknife(
    function: Callable[[Bool[np.ndarray, " n"]], dict[str, float]], groups: Integer[np.ndarray, " n"]
) -> dict[str, float]:
    """Standard errors of what a function gives for the rows it is told to keep.

    Groups of rows are left out in turn, in at most MAX_BLOCKS blocks of groups as even as they can be: the square root
    of (b - 1) / b times the sum of squared offsets of the b values from their mean. nan for a single group.
    """
    names = np.unique(groups)
    blocks = np.array_split(names, min(len(names), MAX_BLOCKS))
    if len(blocks) < 2:
        return dict.fromkeys(function(np.ones(len(groups), bool)), float("nan"))
    found = [function(~np.isin(groups, block)) for block in blocks]
    return {name: float(np.sqrt((len(blocks) - 1) * np.var([values[name] for values in found]))) for name in found[0]}


def between(
    real: sets.Windows,
    sample: sets.Windows,
    features: Features,
    number: int | None = None,
    seed: int = 0,
) -> dict[str, rates.Measure]:
    """Every distance of a sample from real windows, with its error.

    Args:
      real: the reference.
      sample: windows of the same length.
      features: what turns pitches into rows, such as `fit_theory` gives.
      number: windows drawn from each side; default as many as the smaller side has. Give the same to all the distances
        of one table, the floor among them: the Frechet distance falls with it and the neighbours' balls shrink.
      seed: of the drawing.

    The error adds those of both sides in squares, as of independent sets.

    Raises:
      InputError: the windows are of two lengths, or a side has fewer than `number`.
    """
    lengths = real.pitches.shape[1], sample.pitches.shape[1]
    if lengths[0] != lengths[1]:
        raise errors.InputError(
            f"windows of {lengths[0]} and of {lengths[1]} steps have no distance; cut both to {min(lengths)}"
        )
    number = min(len(real.pitches), len(sample.pitches)) if number is None else number
    if number < NEIGHBOURS_DENSITY + 2:  # one is left out in turn, at least
        raise errors.InputError(f"{number} windows have no {NEIGHBOURS_DENSITY} neighbours each; give more")
    rng = np.random.default_rng(seed)
    real, sample = sets.subsample(rng, real, number), sets.subsample(rng, sample, number)
    both = pair(features(real.pitches), features(sample.pitches))
    values = measure(both)
    by_real = jackknife(lambda kept: measure(leave_out(both, kept_real=kept)), real.groups)
    by_sample = jackknife(lambda kept: measure(leave_out(both, kept_sample=kept)), sample.groups)
    return {
        name: rates.Measure(value, float(np.hypot(by_real[name], by_sample[name]))) for name, value in values.items()
    }
