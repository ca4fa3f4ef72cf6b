"""Who may have written this: a classifier of composers, and the musical Inception score that rests on it.

The classifier tells four-part windows of Bach's chorales, Palestrina's masses and Viennese quartets apart
(`works.py` says what was done so that it hears style and not register, rests or pace). `python
benchmarks/composers.py` trains and tests it.
"""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any, Final, NamedTuple

from jaxtyping import Float, Int, Integer
import numpy as np

from coconet_jax import errors, storage, work_windows, works
from coconet_jax.judge import calibration, distances, fit, judgefile, network

CLASSES: Final = works.FAMILIES[:3]
BACH: Final = CLASSES.index("bach")
KIND: Final = "composers"
NETWORK: Final = network.Config(num_classes=len(CLASSES), features=64, stem_features=16, dropout=0.3)
SHIPPED: Final = pathlib.Path(__file__).with_name("composers.npz")
MISLEADS: Final = (
    "For generators that write like one composer this score misleads: near 1 is right, as of real Bach; damaged Bach "
    "scores higher where it is taken for all sorts, and noise that is always taken for one class scores 1 again. Read "
    "mean log p(Bach) and the set distances beside it."
)
_MAX_BLOCKS: Final = 200
_WIDE: Final = (31, 35)  # semitones from a window's lowest pitch to its highest at which it counts as wider


class Classifier(NamedTuple):
    """A trained and calibrated ensemble; its logits are the mean of its members'."""

    config: network.Config
    params: network.Params
    temperature: float
    header: dict[str, Any]


class Estimate(NamedTuple):
    """A number and its standard error (nan where a single group cannot give one)."""

    value: float
    error: float


class Scores(NamedTuple):
    """What the classifier says of a set.

    Attributes:
      inception: exp(E KL(p(y|x) || p(y))), from 1 (all alike) to the number of classes.
      log_p_bach: mean log p(Bach|x), nats.
      shares: mean p(y|x), the set's p(y).
      num_windows: of the set.
      num_groups: pieces or samples that can be taken as independent.
    """

    inception: Estimate
    log_p_bach: Estimate
    shares: Float[np.ndarray, " k"]
    num_windows: int
    num_groups: int


class Report(NamedTuple):
    """How the classifier did on windows whose composer is known; windows of a class count as much as another's.

    Attributes:
      confusion: windows, true class by the class held likeliest.
      accuracy: balanced, by window, with a bootstrap error over works.
      work_accuracy: balanced, by work, whose windows' log-probabilities are averaged.
      nll_nats, ece, brier: after temperature scaling.
      raw_nll_nats, raw_ece, raw_brier: before it.
    """

    confusion: Int[np.ndarray, "k k"]
    accuracy: Estimate
    work_accuracy: Estimate
    nll_nats: float
    ece: float
    brier: float
    raw_nll_nats: float
    raw_ece: float
    raw_brier: float


def of_classes(windows: work_windows.Windows) -> work_windows.Windows:
    """Those of composers that the classifier knows."""
    return windows.take(windows.family < len(CLASSES))


def balanced(labels: Integer[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Weights that sum to 1 for every class there is."""
    return 1.0 / np.bincount(labels)[labels]


def fair(windows: work_windows.Windows, seed: int = 0) -> tuple[work_windows.Windows, Float[np.ndarray, " n"]]:
    """What a classifier is trained on: windows with two cues taken away, and how often each is drawn.

    Filled rests, notes held too long, are in most of Palestrina's windows and hardly any of Bach's. So as many cells of
    the other classes' windows are held over (see `hold_over`) as were rests in one of Palestrina's, drawn for each; of
    their windows with rests of their own, none. And some music lies wider than other: of windows of about one width (up
    to 30 semitones, 31..34, more) every class that has any is drawn equally often.
    """
    rng = np.random.default_rng(seed)
    windows = of_classes(windows)
    shares = windows.filled[windows.family == CLASSES.index("palestrina")]
    pitches, filled = windows.pitches.copy(), windows.filled.copy()
    for row in np.flatnonzero((windows.filled == 0) & (windows.family != CLASSES.index("palestrina"))):
        if len(shares):
            pitches[row] = hold_over(rng, pitches[row], round(float(rng.choice(shares)) * pitches[row].size))
            filled[row] = (pitches[row] != windows.pitches[row]).mean()
    windows = windows._replace(pitches=pitches, filled=filled)
    width = np.searchsorted(_WIDE, np.ptp(windows.pitches.astype(int), axis=(1, 2)), side="right")
    cell = width * len(CLASSES) + windows.family
    weights = 1.0 / np.bincount(cell, minlength=1)[cell]
    return windows, weights / weights.sum()


def hold_over(
    rng: np.random.Generator, window: Integer[np.ndarray, "t 4"], num_cells: int
) -> Integer[np.ndarray, "t 4"]:
    """Holds notes for 1 to 4 steps into those that follow, as a filled rest does, in so many cells altogether."""
    held = window.copy()
    for step, voice in rng.permutation(np.argwhere(window[1:] != window[:-1])):
        if num_cells < 1:
            break
        first = int(step) + 1
        last = min(first + min(int(rng.integers(1, 5)), num_cells), len(window))
        held[first:last, voice] = window[step, voice]
        num_cells -= last - first
    return held


def make_examples(windows: work_windows.Windows) -> fit.Examples:
    """Labelled windows by `fair`, which may be moved as far as they stay in 36..81."""
    windows, weights = fair(windows)
    return fit.Examples(
        windows.pitches,
        np.ones(windows.pitches.shape[:2], bool),
        windows.family.astype(np.int32),
        weights.astype(np.float32),
        windows.room.astype(np.int32),
    )


def train(
    windows: dict[str, work_windows.Windows],
    path: storage.Named,
    settings: fit.Settings,
    *,
    config: network.Config = NETWORK,
    report: fit.Report = lambda step, numbers: None,
    interrupted: Callable[[int], bool] = lambda step: False,
) -> Classifier:
    """Trains on `train`, keeps and calibrates by `valid`, writes the file and reads it back.

    Args:
      windows: by split; `test` is not looked at.
      path: of the classifier's file.
      settings: of training.
      config: of the network, of as many classes as CLASSES.
      report: gets a step and its numbers.
      interrupted: asked after every update.

    Raises:
      InputError: a class has no windows in a split, or the file cannot be written.
    """
    examples = {split: make_examples(windows[split]) for split in ("train", "valid")}
    for split, given in examples.items():
        counts = np.bincount(given.labels, minlength=len(CLASSES))
        if not counts.all():
            raise errors.InputError(f"{split} has no windows of {CLASSES[int(counts.argmin())]}; prepare all works")
    fitted = fit.fit(examples["train"], examples["valid"], config, settings, report=report, interrupted=interrupted)
    said = {"classes": list(CLASSES), "settings": dataclasses.asdict(settings), "steps": fitted.step.tolist()}
    # As they are read back, in 8 bits, so are they calibrated.
    valid = examples["valid"]
    logits = _logits(config, judgefile.as_stored(fitted.params), np.asarray(valid.pitches))
    temperature = calibration.fit_temperature(logits, np.asarray(valid.labels), np.asarray(valid.weights))
    judgefile.write(path, KIND, config, fitted.params, {**said, "temperature": temperature})
    return load(path)


def load(path: storage.Named | None = None) -> Classifier:
    """The classifier that comes with the package, or another.

    Raises:
      InputError: the file is missing or damaged, or has other classes.
    """
    stored = judgefile.read(SHIPPED if path is None else path, KIND)
    if stored.header["classes"] != list(CLASSES):
        raise errors.InputError(f"{path} tells {stored.header['classes']} apart; train one for {', '.join(CLASSES)}")
    return Classifier(stored.config, stored.params, stored.header["temperature"], stored.header)


def _logits(
    config: network.Config, params: network.Params, pitches: Integer[np.ndarray, "n t 4"]
) -> Float[np.ndarray, "n k"]:
    return fit.predict(params, config, pitches).logits.mean(axis=0)


def log_probs(classifier: Classifier, pitches: Integer[np.ndarray, "n t 4"]) -> Float[np.ndarray, "n k"]:
    """Calibrated log p(class|window), in nats."""
    return calibration.log_softmax(_logits(classifier.config, classifier.params, pitches), classifier.temperature)


def features(classifier: Classifier, pitches: Integer[np.ndarray, "n t 4"]) -> Float[np.ndarray, "n d"]:
    """What the classes are a linear function of, of every member: its last layer but one."""
    return np.concatenate(fit.predict(classifier.params, classifier.config, pitches).features, axis=1, dtype=float)


def fit_features(classifier: Classifier, training: Integer[np.ndarray, "n t 4"]) -> distances.Features:
    """The same on the scale that each feature has on real training windows, for distances of sets."""
    return distances.fit(lambda pitches: features(classifier, pitches), training)


def inception_score(log_probs: Float[np.ndarray, "n k"]) -> float:
    """exp(E KL(p(y|x) || p(y))) (Salimans et al. 2016), p(y) being the mean over the set."""
    probs = np.exp(log_probs)
    marginal = np.log(probs.mean(axis=0))
    return float(np.exp((probs * (log_probs - marginal)).sum(axis=1).mean()))


def score(log_probs: Float[np.ndarray, "n k"], groups: Integer[np.ndarray, " n"]) -> Scores:
    """The scores of a set, with jackknife errors.

    Args:
      log_probs: from `log_probs`.
      groups: windows with the same number are of one piece and not independent; they are left out together, in at
        most 200 blocks.
    """
    names = np.unique(groups)
    blocks = np.array_split(names, min(len(names), _MAX_BLOCKS))
    rests = [log_probs[~np.isin(groups, block)] for block in blocks] if len(blocks) > 1 else []

    def estimate(function: Callable[[np.ndarray], float]) -> Estimate:
        left = np.array([function(rest) for rest in rests])
        error = np.sqrt((len(left) - 1) * left.var()) if len(left) else np.nan
        return Estimate(function(log_probs), float(error))

    return Scores(
        estimate(inception_score),
        estimate(lambda rows: float(rows[:, BACH].mean())),
        np.exp(log_probs).mean(axis=0),
        len(log_probs),
        len(names),
    )


def evaluate(classifier: Classifier, windows: work_windows.Windows, *, num_draws: int = 1000, seed: int = 0) -> Report:
    """Tests a classifier on windows of known composers.

    Args:
      classifier: from `load`.
      windows: those of other composers are left out.
      num_draws: of the bootstrap over the works of each class.
      seed: of it.
    """
    windows = of_classes(windows)
    labels = windows.family
    logits = _logits(classifier.config, classifier.params, windows.pitches)
    scaled, raw = (calibration.log_softmax(logits, t) for t in (classifier.temperature, 1.0))
    guesses = scaled.argmax(axis=1)
    confusion = np.zeros((len(CLASSES), len(CLASSES)), int)
    np.add.at(confusion, (labels, guesses), 1)

    # Of each class: for each of its works, windows that are right, all windows, and whether the work is.
    tallies = []
    for label in range(len(CLASSES)):
        rows = [(labels == label) & (windows.work == work) for work in np.unique(windows.work[labels == label])]
        right = [(guesses[row] == label).sum() for row in rows]
        tallies.append(
            np.array(
                [(n, row.sum(), scaled[row].mean(0).argmax() == label) for n, row in zip(right, rows, strict=True)]
            )
        )
    rng = np.random.default_rng(seed)
    by_window, by_work = [], []
    for draw in range(num_draws + 1):  # the first is the set itself
        picked = [tally[rng.integers(len(tally), size=len(tally))] if draw else tally for tally in tallies]
        by_window.append(np.mean([rows[:, 0].sum() / rows[:, 1].sum() for rows in picked]))
        by_work.append(np.mean([rows[:, 2].mean() for rows in picked]))

    weights = balanced(labels)
    measures = [
        function(values, labels, weights)
        for log_probs in (scaled, raw)
        for function, values in (
            (calibration.nll_nats, log_probs),
            (calibration.expected_error, np.exp(log_probs)),
            (calibration.brier, np.exp(log_probs)),
        )
    ]
    accuracy, work_accuracy = (Estimate(float(found[0]), float(np.std(found[1:]))) for found in (by_window, by_work))
    return Report(confusion, accuracy, work_accuracy, *measures)
