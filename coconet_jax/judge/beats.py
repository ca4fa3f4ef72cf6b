"""Where the beats of scores are, and what the theory measures share. numpy, no model.

Pitches are [n,t,4]: n pieces of t steps, MIDI numbers, -1 = rest. Pieces of unequal length are padded with rests, and
`lengths` names the steps of each; without it every piece fills all t steps. A beat is a quarter: `steps_per_quarter`
steps. `phases` names for each piece the first step that falls on a beat (0 <= phase < steps_per_quarter).
"""

from typing import Final, NamedTuple

from jaxtyping import Bool, Float, Integer
import numpy as np

from coconet_jax import errors, pianoroll
from coconet_jax.judge import rates

SOPRANO: Final = 0
BASS: Final = 3


class Scores(NamedTuple):
    """Pieces as the measures take them; made by `prepare`.

    Attributes:
      pitches: MIDI numbers, -1 = rest and past a piece's end.
      valid: True inside each piece.
      phases: the first step of each piece that falls on a beat.
      steps_per_quarter: steps of a beat.
    """

    pitches: Integer[np.ndarray, "n t 4"]
    valid: Bool[np.ndarray, "n t"]
    phases: Integer[np.ndarray, " n"]
    steps_per_quarter: int


def mark_valid(
    pitches: Integer[np.ndarray, "n t 4"], lengths: Integer[np.ndarray, " n"] | None = None
) -> Bool[np.ndarray, "n t"]:
    """True inside each piece.

    Raises:
      InputError: there is nothing to measure, or a length is outside 1..t.
    """
    num_pieces, num_steps = pitches.shape[:2]
    if num_pieces == 0 or num_steps == 0:
        raise errors.InputError(f"pitches of shape {pitches.shape} hold nothing to measure; give at least one piece")
    if lengths is None:
        return np.ones((num_pieces, num_steps), bool)
    if lengths.min() < 1 or lengths.max() > num_steps:
        raise errors.InputError(f"lengths {lengths.min()}..{lengths.max()} are outside 1..{num_steps}")
    return np.arange(num_steps) < lengths[:, None]


def estimate_phases(
    pitches: Integer[np.ndarray, "n t 4"],
    steps_per_quarter: int = 4,
    lengths: Integer[np.ndarray, " n"] | None = None,
) -> Integer[np.ndarray, " n"]:
    """The phase at which most notes change pitch, for each piece; the earliest of equals.

    That is the beat in each of the 382 chorales of the paper's data, and in windows of 64 steps of its test split.
    """
    valid = mark_valid(pitches, lengths)
    valid[:, 0] = False  # nothing can change there
    changes = np.zeros(pitches.shape[:2])
    changes[:, 1:] = (pitches[:, 1:] != pitches[:, :-1]).sum(-1)
    return np.argmax(_share_at_phases(changes, valid, steps_per_quarter), axis=1)


def check_phases(phases: Integer[np.ndarray, " n"], steps_per_quarter: int) -> None:
    """Raises InputError where a phase is no step of a beat."""
    if phases.min() < 0 or phases.max() >= steps_per_quarter:
        raise errors.InputError(f"phases {phases.min()}..{phases.max()} are outside 0..{steps_per_quarter - 1}")


def _share_at_phases(
    values: Bool[np.ndarray, "n t"] | Float[np.ndarray, "n t"], valid: Bool[np.ndarray, "n t"], steps_per_quarter: int
) -> Float[np.ndarray, "n phases"]:
    """The mean of the values over the steps of each phase; 0 where a phase has no step."""
    rates.check_grid(steps_per_quarter)
    columns = []
    for phase in range(steps_per_quarter):
        at = np.s_[:, phase::steps_per_quarter]
        total, number = (values[at] * valid[at]).sum(1), valid[at].sum(1)
        columns.append(total / np.maximum(number, 1))
    return np.stack(columns, axis=1)


def share_at(
    marks: Bool[np.ndarray, "n t"],
    valid: Bool[np.ndarray, "n t"],
    steps_per_quarter: int,
    phases: Integer[np.ndarray, " n"] | None,
) -> Float[np.ndarray, " n"]:
    """The share of marked beats at the given phases, or at each piece's best."""
    shares = _share_at_phases(marks, valid, steps_per_quarter)
    if phases is None:
        return shares.max(axis=1)
    check_phases(phases, steps_per_quarter)
    return np.take_along_axis(shares, phases[:, None], axis=1)[:, 0]


def prepare(
    pitches: Integer[np.ndarray, "n t 4"],
    steps_per_quarter: int = 4,
    lengths: Integer[np.ndarray, " n"] | None = None,
    phases: Integer[np.ndarray, " n"] | None = None,
) -> Scores:
    """The pieces with rests past their ends and, where phases are not given, the best of each (`estimate_phases`)."""
    rates.check_grid(steps_per_quarter)
    valid = mark_valid(pitches, lengths)
    # Wide integers take three times as long.
    pitches = np.where(valid[..., None], pitches, pianoroll.REST).astype(np.int16)
    if phases is None:
        phases = estimate_phases(pitches, steps_per_quarter, lengths)
    check_phases(phases, steps_per_quarter)
    return Scores(pitches, valid, phases, steps_per_quarter)


def mark_beats(scores: Scores) -> Bool[np.ndarray, "n t"]:
    """True at the steps of each piece that fall on a beat."""
    steps = np.arange(scores.valid.shape[1])
    return scores.valid & ((steps - scores.phases[:, None]) % scores.steps_per_quarter == 0)


def num_beats(scores: Scores) -> Float[np.ndarray, " n"]:
    """Length of each piece in beats, a fraction where it is no multiple."""
    return scores.valid.sum(axis=1) / scores.steps_per_quarter


def beat_pitches(scores: Scores) -> Integer[np.ndarray, "n b 4"]:
    """The pitches at each piece's beats in order, one row a beat; rests past its end."""
    num_pieces, num_steps = scores.valid.shape
    at = scores.phases[:, None] + np.arange(0, num_steps, scores.steps_per_quarter)
    rows = scores.pitches[np.arange(num_pieces)[:, None], np.minimum(at, num_steps - 1)]
    return np.where((at < num_steps)[..., None], rows, pianoroll.REST)


def moves(pitches: Integer[np.ndarray, "n t 4"]) -> Integer[np.ndarray, "n t 4"]:
    """Semitones by which each voice moves into each step; 0 where it stays, or rests here or at the step before."""
    sounding = pitches != pianoroll.REST
    found = np.zeros_like(pitches)
    found[:, 1:] = np.diff(pitches, axis=1) * (sounding[:, 1:] & sounding[:, :-1])
    return found


def mark_onsets(pitches: Integer[np.ndarray, "n t 4"]) -> Bool[np.ndarray, "n t 4"]:
    """True where a voice sounds another pitch than at the step before, or rested there; never at the first step.

    Held notes and notes struck again cannot be told apart in pitches, so an onset is a change of pitch.
    """
    found = np.zeros(pitches.shape, bool)
    found[:, 1:] = (pitches[:, 1:] != pitches[:, :-1]) & (pitches[:, 1:] != pianoroll.REST)
    return found


def ratio(count: Integer[np.ndarray, "*n"], total: Integer[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """count / total; nan where there is nothing to count."""
    return np.where(total > 0, count / np.maximum(total, 1), np.nan)
