"""The critic: tells real chorales from what only looks like them.

It adds up two opinions: an ensemble of networks, which hears what stands beside what, and a logistic regression on the
theory measures, which knows beforehand what to count (docs/critic.md has what each is worth). The spread of the
ensemble says how sure the networks are.

A critic comes as a file (judgefile.py) that holds both and hashes of the training music, by which quotations are told
without shipping the music. One is packaged: `load()`.
"""

from collections.abc import Callable, Sequence
import dataclasses
import pathlib
from typing import Any, Final, NamedTuple

import jax
from jaxtyping import Bool, Float, Integer, UInt32
import numpy as np

from coconet_jax import errors, pianoroll, provenance, storage
from coconet_jax import pieces as pieces_lib
from coconet_jax.judge import fit, judgefile, negatives, network, separation, theory

PATH: Final = pathlib.Path(__file__).with_name("critic.npz")
STEPS: Final = 64  # of the windows: 4 bars
CROP_STEPS: Final = 57  # 8 starts: after the crop every phase of the beat is as frequent as any other
QUOTE_STEPS: Final = 24  # a piece that takes more steps than these from the training music is a quotation
_KIND: Final = "critic"


class Critic(NamedTuple):
    """A trained critic.

    Attributes:
      config: of the networks.
      params: of all members, stacked.
      temperature: that their logits are divided by.
      measures: names of theory measures, and
      theory: the regression on them.
      mix: factors on the networks' logit (divided by the temperature) and on that of the theory, and a constant.
      grams: hashes of all runs of QUOTE_STEPS + 1 steps in the training music, sorted.
      sha256: as its file's header has it; "" before it is written.
      header: what else the file says of it.
    """

    config: network.Config
    params: network.Params
    temperature: float
    measures: tuple[str, ...]
    theory: separation.Logistic
    mix: Float[np.ndarray, "3"]
    grams: UInt32[np.ndarray, " g"]
    sha256: str
    header: dict[str, Any]


class Verdict(NamedTuple):
    """What the critic says of pieces.

    Attributes:
      logit: log-odds of being real, calibrated: the mean over members.
      sd: spread of the members' logits (0 of a single one).
      steps: the logit shared out among the steps; the mean over a piece's steps is `logit`. What the networks say
        stands where it comes from, what the theory measures say evenly on all.
    """

    logit: Float[np.ndarray, " n"]
    sd: Float[np.ndarray, " n"]
    steps: Float[np.ndarray, "n t"]

    @property
    def careful(self) -> Float[np.ndarray, " n"]:
        """The logit less one standard deviation of the ensemble: what to choose by."""
        return self.logit - self.sd


def examples(windows: negatives.Windows) -> fit.Examples:
    """Windows as the network learns them: class 1 is real."""
    labels = (windows.kind == negatives.REAL).astype(np.int32)
    return fit.make_examples(windows.pitches, labels, weights=negatives.weigh(windows))


def train(
    by_split: dict[str, negatives.Windows],
    settings: fit.Settings,
    config: network.Config,
    training: pieces_lib.Pieces,
    *,
    report: fit.Report = lambda step, numbers: None,
    interrupted: Callable[[int], bool] = lambda step: False,
) -> Critic:
    """Trains an ensemble and a regression on `train`; keeps the best members, calibrates and weighs both by `valid`.

    Args:
      by_split: from negatives.splits.
      settings: of training.
      config: of the network.
      training: the music whose quotations the critic shall know.
      report: gets a step and its numbers.
      interrupted: asked after every update; True ends with the best there is.
    """
    shown, held_out = examples(by_split["train"]), examples(by_split["valid"])
    fitted = fit.fit(shown, held_out, config, settings, report=report, interrupted=interrupted)
    header = {
        "settings": dataclasses.asdict(settings),
        "valid_loss_nats": fitted.loss_nats.tolist(),
        "valid_step": fitted.step.tolist(),
        "sources": sorted(set(by_split["train"].source.tolist())),
        "versions": provenance.versions(),
    }
    return complete(by_split, config, judgefile.as_stored(fitted.params), training, header)


def complete(
    by_split: dict[str, negatives.Windows],
    config: network.Config,
    params: network.Params,
    training: pieces_lib.Pieces,
    header: dict[str, Any],
) -> Critic:
    """Adds to trained networks, as they are read from a file, their temperature, the theory and what each counts."""
    shown, valid = by_split["train"], by_split["valid"]
    measures = tuple(theory.MEASURES)
    regression = separation.fit_logistic(
        measure(shown.pitches, measures), shown.kind == negatives.REAL, negatives.weigh(shown), two_sided=True
    )
    alone = np.array([1.0, 0.0, 0.0])
    critic = Critic(config, params, 1.0, measures, regression, alone, quotable(training), "", header)
    real, weights = valid.kind == negatives.REAL, negatives.weigh(valid)
    temperature = separation.fit_temperature(judge(critic, valid.pitches).logit, real, weights)
    critic = critic._replace(temperature=temperature)
    opinions = [judge(critic._replace(mix=one), valid.pitches).logit for one in np.eye(3)[:2]]
    return critic._replace(mix=separation.fit_logistic(np.stack(opinions, axis=1), real, weights).plain())


def average(critics: Sequence[Critic]) -> Critic:
    """The mean of the log-odds of critics that share their networks and differ in all that is fitted to a pool.

    A critic that has met what another chose takes back too much of what that one rewarded, and the next gives half of
    it back; their mean stands between (docs/critic.md).

    Raises:
      InputError: they have other networks, measures or training music.
    """
    first = critics[0]
    if len(critics) == 1:
        return first
    for number, other in enumerate(critics[1:], start=2):
        scales = [(each.theory.mean, each.theory.spread, each.theory.coefficients.shape) for each in (first, other)]
        same = {
            "networks": first.config == other.config
            and jax.tree.all(jax.tree.map(np.array_equal, first.params, other.params)),
            "theory measures": first.measures == other.measures and all(map(np.allclose, *scales)),
            "training music": np.array_equal(first.grams, other.grams),
        }
        if unlike := [name for name, equal in same.items() if not equal]:
            raise errors.InputError(
                f"critic {number} of {len(critics)} to average has other {unlike[0]} than the first; "
                "fit all by benchmarks/critic.py with the same --networks and --data"
            )
    networks, constant = np.mean([(each.mix[0] / each.temperature, each.mix[2]) for each in critics], axis=0)
    coefficients = np.mean([each.mix[1] * each.theory.coefficients for each in critics], axis=0)
    header = {
        "mean_of": [each.sha256 for each in critics],
        "networks_of": sorted({sha256 for each in critics for sha256 in each.header.get("networks_of", [each.sha256])}),
        "sources": sorted({source for each in critics for source in each.header["sources"]}),
        "versions": provenance.versions(),
    }
    return first._replace(
        theory=first.theory._replace(coefficients=coefficients),
        mix=np.array([networks * first.temperature, 1.0, constant]),
        sha256="",
        header=header,
    )


def measure(
    pitches: Integer[np.ndarray, "n t 4"], names: Sequence[str], valid: Bool[np.ndarray, "n t"] | None = None
) -> Float[np.ndarray, "n d"]:
    """The named theory measures of pieces, nan where a piece does not have one."""
    found = theory.measure_pieces(pitches, lengths=None if valid is None else valid.sum(axis=1))
    return np.stack([found[name] for name in names], axis=1)


def judge(
    critic: Critic, pitches: Integer[np.ndarray, "n t 4"], valid: Bool[np.ndarray, "n t"] | None = None
) -> Verdict:
    """What the critic says of pieces; each piece's numbers are its own, whatever is judged with it."""
    networks, measures, constant = critic.mix / np.array([critic.temperature, 1.0, 1.0])
    found = fit.predict(critic.params, critic.config, pitches, valid)
    rest = measures * critic.theory.logits(measure(pitches, critic.measures, valid)) + constant
    logits = networks * (found.logits[..., 1] - found.logits[..., 0]) + rest
    steps = networks * (found.steps[..., 1] - found.steps[..., 0]).mean(axis=0) + rest[:, None]
    steps = steps if valid is None else np.where(valid, steps, 0.0)
    return Verdict(logits.mean(axis=0), logits.std(axis=0), steps)


def save(path: storage.Named, critic: Critic) -> storage.Place:
    """Writes the critic to its file."""
    header = critic.header | {"temperature": critic.temperature, "measures": list(critic.measures)}
    arrays = {"grams": critic.grams, "mix": critic.mix} | critic.theory._asdict()
    return judgefile.write(path, _KIND, critic.config, critic.params, header, arrays)


def load(path: storage.Named = PATH) -> Critic:
    """Reads a critic, the packaged one unless another is named.

    Raises:
      InputError: there is none, or it is damaged.
    """
    stored = judgefile.read(path, _KIND)
    arrays, measures = stored.arrays, tuple(stored.header["measures"])
    if unknown := [name for name in measures if name not in theory.MEASURES]:
        raise errors.InputError(f"{path} wants the theory measure {unknown[0]}, unknown here; train a critic anew")
    return Critic(
        stored.config,
        stored.params,
        float(stored.header["temperature"]),
        measures,
        separation.Logistic(*(arrays[name] for name in separation.Logistic._fields)),
        arrays["mix"],
        arrays["grams"],
        stored.header["sha256"],
        stored.header,
    )


# ------------------------------------------------------------------------------------------ quotations


def quotable(training: pieces_lib.Pieces) -> UInt32[np.ndarray, " g"]:
    """Hashes of all runs of QUOTE_STEPS + 1 steps of the training music, sorted, each once."""
    hashes, sounding = _hash_runs(training.pitches)
    starts = np.arange(hashes.shape[1])[None]
    return np.unique(hashes[sounding & (starts + QUOTE_STEPS < training.lengths[:, None])])


def quotes(critic: Critic, pitches: Integer[np.ndarray, "n t 4"]) -> Bool[np.ndarray, " n"]:
    """True where a piece has more than QUOTE_STEPS steps in a row in all voices from the training music, in any key.

    By hash: of 10,000 pieces of 64 steps that quote nothing, some five are taken for quotations of the 50,000 runs in
    225 chorales.
    """
    if pitches.shape[1] <= QUOTE_STEPS:
        return np.zeros(len(pitches), bool)
    hashes, sounding = _hash_runs(pitches)
    return (np.isin(hashes, critic.grams) & sounding).any(axis=1)


def _hash_runs(
    pitches: Integer[np.ndarray, "n t 4"],
) -> tuple[UInt32[np.ndarray, "n s"], Bool[np.ndarray, "n s"]]:
    """A hash of each run of QUOTE_STEPS + 1 steps, the same in all transpositions, and where all runs sound.

    Each pair of neighbouring steps is numbered by its eight pitches counted from its first; runs with a rest in them
    are left out, as they have no such pitch for certain.
    """
    notes = pitches.astype(np.int64)
    pairs = np.concatenate([notes[:, :-1], notes[:, 1:]], axis=-1)
    relative = (pairs - pairs[..., :1] + 128).astype(np.uint64)
    codes = np.bitwise_or.reduce(relative << np.arange(0, 64, 8, dtype=np.uint64), axis=-1)
    codes = _mix(codes)
    count = notes.shape[1] - QUOTE_STEPS
    total = np.zeros((len(notes), max(count, 0)), np.uint64)
    for step in range(QUOTE_STEPS):
        total = total * np.uint64(0x9E3779B97F4A7C15) + codes[:, step : step + count]
    silent = (pitches == pianoroll.REST).any(axis=-1)
    through = np.concatenate([np.zeros((len(notes), 1), int), np.cumsum(silent, axis=1)], axis=1)
    sounding = through[:, QUOTE_STEPS + 1 :] == through[:, : through.shape[1] - QUOTE_STEPS - 1]
    return (_mix(total) >> np.uint64(32)).astype(np.uint32), sounding


def _mix(codes: np.ndarray) -> np.ndarray:
    """Spreads 64 bits over each other (the finishing steps of SplitMix64)."""
    codes = (codes ^ (codes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    codes = (codes ^ (codes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return codes ^ (codes >> np.uint64(31))
