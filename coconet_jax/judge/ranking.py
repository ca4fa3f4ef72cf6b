"""Which generators are good: every measure of several sets beside real music, and an order in which ties are ties.

Real music, the reference, is cut into windows and halved by pieces: one half is what all sets are measured against, the
other is measured like a generator, so that every column has the value that real music itself reaches.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
import math
from typing import Any, Final, NamedTuple

from jaxtyping import Bool, Float, Integer
import numpy as np

from coconet_jax import errors, pieces
from coconet_jax.judge import composers, copies, distances, rates, sets, voice_leading

REAL: Final = "real music"  # the name of the reference's other half
COPIED_BEATS: Final = 8  # of training music, note for note in any transposition: two bars of 4/4
_TIE: Final = 2.0  # standard errors

Pitches = Integer[np.ndarray, "n t 4"]


class Judges(NamedTuple):
    """What sets are judged by.

    Attributes:
      features: theory measures, z-scored by the training set.
      training: pieces that are not to be copied.
      critic: calibrated log-odds of real against generated for each window; None: no critic.
      log_probs: calibrated log p(composer|window) with Bach's first; None: no classifier.
      classifier_features: what it hears in a window (`composers.fit_features`); None: no classifier.
    """

    features: Callable[..., Float[np.ndarray, "_n _d"]]
    training: pieces.Pieces
    critic: Callable[..., Float[np.ndarray, " _n"]] | None = None
    log_probs: Callable[..., Float[np.ndarray, "_n _k"]] | None = None
    classifier_features: Callable[..., Float[np.ndarray, "_n _d"]] | None = None


class Criterion(NamedTuple):
    """A column of the scoreboard by which sets are ordered.

    Attributes:
      title: of the column.
      text: what it says, in a line.
      cost: of a set, lower is better, from its value and real music's.
    """

    title: str
    text: str
    cost: Callable[[float, float], float]


def _less(value: float, _: float) -> float:
    return value


def _even(value: float, _: float) -> float:
    return abs(value - 0.5)


def _more(value: float, _: float) -> float:
    return -value


def _shortfall(value: float, real: float) -> float:
    return max(real - value, 0.0)


def _near(value: float, real: float) -> float:
    return abs(value - real)


def _excess(value: float, real: float) -> float:
    return max(value - real, 0.0)


CRITERIA: Final[dict[str, Criterion]] = {
    "kid": Criterion("KID", "kernel distance of theory measures from real music; lower is nearer", _less),
    "kid_classifier": Criterion(
        "KID, classifier", "the same of what the composer classifier hears in a window, not of theory measures", _less
    ),
    "coverage": Criterion(
        "Coverage", "share of real windows with a window of the set near by; higher is better", _more
    ),
    "parallel_fifths": Criterion("Parallel fifths", "per 100 beats; as many as real music has is best", _near),
    "parallel_octaves": Criterion("Parallel octaves", "per 100 beats; as many as real music has is best", _near),
    "critic_auc": Criterion("Critic AUC", "how well the critic tells the set from real music; 0.5 is best", _even),
    "log_p_bach": Criterion(
        "log p(Bach)",
        "mean over windows, by the composer classifier, nats; as high as real music's is best",
        _shortfall,
    ),
    "copied": Criterion(
        "Copied", f"share of windows with {COPIED_BEATS} beats or more of training music; real music's share", _excess
    ),
}
# Told, and left out of the order: a likelihood is not of the samples, and the Inception score misleads here.
TOLD: Final = {
    "chain_rule": "NLL of the generator on real music by the chain rule in order of time, nats per frame",
    "framewise": "framewise NLL on real music, orderings averaged frame by frame as published, nats per frame",
    "density": "in how many real neighbourhoods a window lies; 1 is real",
    "inception": "musical Inception score: near 1 for one composer, higher is not better",
}


class Row(NamedTuple):
    """A set on the scoreboard.

    Attributes:
      name: given by the user.
      num_windows: that were measured.
      values: by the names of CRITERIA and TOLD, with standard errors; what is not known is left out.
      place: 1 for the best; sets that tie share it.
      beats: how many of the other sets it beats.
    """

    name: str
    num_windows: int
    values: dict[str, rates.Measure]
    place: int = 0
    beats: int = 0


def area_under_curve(real: Float[np.ndarray, " n"], made: Float[np.ndarray, " m"]) -> float:
    """The chance that a real window scores above one of the set, ties counting half; 0.5 is chance, 1 tells all."""
    values, inverse = np.unique(np.concatenate([real, made]), return_inverse=True)
    counts = np.bincount(inverse[len(real) :], minlength=len(values))
    below = np.cumsum(counts) - counts
    return float((below + counts / 2)[inverse[: len(real)]].mean() / len(made))


def _jackknifed(
    function: Callable[[Bool[np.ndarray, " n"]], float], groups: Integer[np.ndarray, " n"]
) -> rates.Measure:
    error = distances.jackknife(lambda kept: {"": function(kept)}, groups)[""]
    return rates.Measure(function(np.ones(len(groups), bool)), error)


def measure(
    reference: sets.Windows,
    made: sets.Windows,
    judges: Judges,
    number: int,
    steps_per_quarter: int,
    seed: int = 0,
    of_training: bool = False,
) -> dict[str, rates.Measure]:
    """All measures of a set but those that come from elsewhere.

    Args:
      reference: half of the real windows.
      made: the set.
      judges: see there.
      number: windows drawn from both sides; the same for all sets that are compared.
      steps_per_quarter: the grid.
      seed: of the drawing.
      of_training: the set is cut from the training pieces, whose numbers are its groups: each is no copy of itself.
    """
    found = distances.between(reference, made, judges.features, number, seed)
    values = {name: found[name] for name in ("kid", "coverage", "density")}
    if judges.classifier_features is not None:
        values["kid_classifier"] = distances.between(reference, made, judges.classifier_features, number, seed)["kid"]
    made = sets.subsample(np.random.default_rng(seed), made, number)
    for name, count in (
        ("parallel_fifths", voice_leading.count_parallel_fifths),
        ("parallel_octaves", voice_leading.count_parallel_octaves),
    ):
        counts = count(made.pitches)
        rate = rates.rate_per_100_beats(counts, steps_per_quarter, confidence=0.6827)
        per_step = _jackknifed(lambda kept, counts=counts: float(counts[kept].mean()), made.groups)
        # Overlapping windows spread more than Poisson's law has it; sets without any parallels show no spread at all.
        values[name] = rates.Measure(
            rate.rate, float(np.maximum((rate.high - rate.low) / 2, 100 * steps_per_quarter * per_step.error))
        )
    if judges.critic is not None:
        real, ours = judges.critic(reference.pitches), judges.critic(made.pitches)
        by_set = _jackknifed(lambda kept: area_under_curve(real, ours[kept]), made.groups)
        by_real = _jackknifed(lambda kept: area_under_curve(real[kept], ours), reference.groups)
        values["critic_auc"] = rates.Measure(by_set.mean, math.hypot(by_set.error, by_real.error))
    if judges.log_probs is not None:
        log_probs = judges.log_probs(made.pitches)
        values["log_p_bach"] = _jackknifed(lambda kept: float(log_probs[kept, 0].mean()), made.groups)
        values["inception"] = _jackknifed(lambda kept: composers.inception_score(log_probs[kept]), made.groups)
    own = made.groups if of_training else None
    copied = copies.longest_run(made.pitches, judges.training, own=own) >= COPIED_BEATS * steps_per_quarter
    values["copied"] = _jackknifed(lambda kept: float(copied[kept].mean()), made.groups)
    return values


def rank(
    reference: sets.Windows,
    contestants: Mapping[str, sets.Windows],
    judges: Judges,
    *,
    steps_per_quarter: int = 4,
    known: Mapping[str, Mapping[str, rates.Measure]] | None = None,
    seed: int = 0,
    harms: Mapping[str, Callable[[Pitches], Pitches]] | None = None,
    of_reference: Collection[str] = (),
    of_training: Collection[str] = (),
    advance: Callable[[int], object] = lambda more: None,
) -> list[Row]:
    """The scoreboard, best first; real music's other half is in it as REAL.

    Args:
      reference: windows of real music, of at least two pieces.
      contestants: by name, windows of the same length; all are measured on as many windows as the smallest set has.
      judges: see there.
      steps_per_quarter: the grid.
      known: for a contestant what was measured elsewhere, such as its "chain_rule".
      seed: of halving and drawing.
      harms: by name, what is done to the windows of a contestant once it is settled which they are.
      of_reference: contestants cut from the reference's own pieces, with its groups: those of the half that all are
        measured against are left out of them.
      of_training: sets cut from the training pieces, with their numbers as groups; REAL if the reference is.
      advance: told of every set that is done.

    Raises:
      InputError: windows of two lengths, no contestants, or too few windows.
    """
    if not contestants:
        raise errors.InputError("nothing to rank; give one or more sets, such as mine=DIR")
    half, other = sets.halve(np.random.default_rng(seed), reference)
    everyone = {REAL: other, **contestants}
    for name in of_reference:
        new = ~np.isin(everyone[name].groups, half.groups)
        everyone[name] = sets.Windows(everyone[name].pitches[new], everyone[name].groups[new])
    for name, harm in (harms or {}).items():
        everyone[name] = everyone[name]._replace(pitches=harm(everyone[name].pitches))
    number = min(len(windows.pitches) for windows in (half, *everyone.values()))
    rows = []
    for name, windows in everyone.items():
        values = measure(half, windows, judges, number, steps_per_quarter, seed, name in of_training)
        rows.append(Row(name, number, dict((known or {}).get(name, {})) | values))
        advance(1)
    return order(rows)


def order(rows: Sequence[Row]) -> list[Row]:
    """Places and an order. A set beats another if it is better by more criteria than it is worse by.

    Better is a cost that is lower by more than two standard errors of the difference. A set's place is one more than
    the number of sets that beat it, so that sets between which nothing decides share a place.
    """
    real = {row.name: row for row in rows}[REAL].values
    won = np.zeros((len(rows), len(rows)), int)
    for name, criterion in CRITERIA.items():
        if any(name not in row.values for row in rows):
            continue
        costs = np.array([criterion.cost(row.values[name].mean, real[name].mean) for row in rows])
        found = np.nan_to_num([row.values[name].error for row in rows], nan=np.inf)  # unknown: nothing is decided
        won += costs[None] - costs[:, None] > _TIE * np.hypot(found[:, None], found[None])
    beats = won > won.T
    placed = [
        row._replace(place=1 + int(beats[:, at].sum()), beats=int(beats[at].sum())) for at, row in enumerate(rows)
    ]
    return sorted(placed, key=lambda row: (row.place, -row.beats))


# --- what is printed


def _format(name: str, value: rates.Measure | None) -> str:
    if value is None:
        return "-"
    mean, error = (100 * part if name == "copied" else part for part in value)
    digits = {"coverage": 2, "density": 2, "parallel_fifths": 2, "parallel_octaves": 2, "copied": 1}.get(name, 3)
    return f"{mean:.{digits}f}" + ("" if math.isnan(error) else f" ± {error:.{digits}f}")


def to_markdown(rows: Sequence[Row]) -> str:
    """The scoreboard as a table; columns that no set has are left out."""
    names = [name for name in (*CRITERIA, *TOLD) if any(name in row.values for row in rows)]
    titles = [CRITERIA[name].title if name in CRITERIA else name for name in names]
    places = [row.place for row in rows]
    lines = ["| Place | Set | " + " | ".join(titles) + " |", "|" + " --- |" * (2 + len(titles))]
    for row in rows:
        place = f"{row.place}" + (" (tie)" if places.count(row.place) > 1 else "")
        cells = [_format(name, row.values.get(name)) for name in names]
        lines.append(f"| {place} | {row.name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def legend(rows: Sequence[Row]) -> list[str]:
    """A line on each column of the table."""
    titles = {name: (criterion.title, criterion.text) for name, criterion in CRITERIA.items()}
    titles |= {name: (name, text) for name, text in TOLD.items()}
    return [f"{title}: {text}" for name, (title, text) in titles.items() if any(name in row.values for row in rows)]


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The scoreboard as JSON has it; an error that is not known is null."""
    return [
        {
            "place": row.place,
            "set": row.name,
            "windows": row.num_windows,
            "values": {
                name: {"mean": value.mean, "error": None if math.isnan(value.error) else value.error}
                for name, value in row.values.items()
            },
        }
        for row in rows
    ]
