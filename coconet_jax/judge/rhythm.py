"""When notes begin, how long they last, what repeats, what stands still, where phrases end. numpy, no model.

Arguments are as in `beats`. An onset is a change of pitch (`beats.mark_onsets`): a note struck again is held here.
"""

from typing import Final, NamedTuple

from jaxtyping import Bool, Float, Integer
import numpy as np

from coconet_jax import pianoroll
from coconet_jax.judge import beats, harmony, rates

NOTE_LENGTHS: Final = (0.25, 0.5, 1.0, 2.0)  # quarters: sixteenth, eighth, quarter, half
STOP_BEATS: Final = 2
FROZEN_BEATS: Final = 4


def mark_repeated_chords(pitches: Integer[np.ndarray, "n t 4"], steps_per_quarter: int = 4) -> Bool[np.ndarray, "n t"]:
    """True where the four pitches equal those of one beat earlier. Silence repeats nothing; nor does the first beat.

    Held chords and chords struck again cannot be told apart in pitches. On a beat's first step this is the repeated
    chord of `repeated_chord_share`.
    """
    rates.check_grid(steps_per_quarter)
    marks = np.zeros(pitches.shape[:2], bool)
    same = (pitches[:, steps_per_quarter:] == pitches[:, :-steps_per_quarter]).all(-1)
    marks[:, steps_per_quarter:] = same & (pitches[:, steps_per_quarter:] != pianoroll.REST).any(-1)
    return marks


def repeated_chord_share(
    pitches: Integer[np.ndarray, "n t 4"],
    steps_per_quarter: int = 4,
    lengths: Integer[np.ndarray, " n"] | None = None,
    phases: Integer[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " n"]:
    """Share of beats, among those with a beat before them, whose four pitches equal those of the beat before.

    No phase is the best for repeats: where phases are not given, they are estimated (`beats.estimate_phases`).
    """
    repeated, valid = mark_repeated_chords(pitches, steps_per_quarter), beats.mark_valid(pitches, lengths)
    if phases is None:
        phases = beats.estimate_phases(pitches, steps_per_quarter, lengths)
    valid[:, :steps_per_quarter] = False  # nothing stands before the first beat
    return beats.share_at(repeated, valid, steps_per_quarter, phases)


def onsets_per_beat(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Onsets of all four voices in a beat. The first step has none; its beat counts."""
    return beats.mark_onsets(scores.pitches).sum((1, 2)) / beats.num_beats(scores)


def onsets_on_beat_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Share of onsets that fall on a beat; nan without onsets."""
    onsets = beats.mark_onsets(scores.pitches).sum(-1)
    return beats.ratio((onsets * beats.mark_beats(scores)).sum(1), onsets.sum(1))


def onsets_off_eighths_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Share of onsets that fall neither on a beat nor halfway between two; nan without onsets; 0 on coarser grids."""
    onsets, half = beats.mark_onsets(scores.pitches).sum(-1), max(scores.steps_per_quarter // 2, 1)
    off = (np.arange(onsets.shape[1]) - scores.phases[:, None]) % half != 0
    return beats.ratio((onsets * off).sum(1), onsets.sum(1))


class _Runs(NamedTuple):
    """Stretches without a change: their steps where they begin, 0 elsewhere; whether one lasts to the piece's end."""

    steps: Integer[np.ndarray, "n t"]
    last: Bool[np.ndarray, "n t"]


def _find_runs(changes: Bool[np.ndarray, "n t"], valid: Bool[np.ndarray, "n t"]) -> _Runs:
    """The stretches from each change to the next, or to the piece's end; the first step always begins one."""
    num_steps = valid.shape[1]
    begins = changes & valid
    begins[:, 0] = True
    ends = valid.sum(1, keepdims=True)
    at = np.where(begins, np.arange(num_steps), ends)
    following = np.minimum.accumulate(at[:, ::-1], axis=1)[:, ::-1]  # the first change at or after each step
    following = np.concatenate([following[:, 1:], ends], axis=1)
    return _Runs(np.where(begins, following - np.arange(num_steps), 0), begins & (following == ends))


def _find_chord_runs(scores: beats.Scores) -> _Runs:
    """The stretches in which no voice changes."""
    changes = np.zeros(scores.valid.shape, bool)
    changes[:, 1:] = (scores.pitches[:, 1:] != scores.pitches[:, :-1]).any(-1)
    return _find_runs(changes, scores.valid)


def _find_line_runs(line: Integer[np.ndarray, "n t"], valid: Bool[np.ndarray, "n t"]) -> _Runs:
    """The notes and rests of one voice."""
    changes = np.zeros(line.shape, bool)
    changes[:, 1:] = line[:, 1:] != line[:, :-1]
    return _find_runs(changes, valid)


def note_length_shares(scores: beats.Scores) -> Float[np.ndarray, "n 4"]:
    """Shares of the notes of all voices that last a sixteenth, an eighth, a quarter and a half.

    Notes of other lengths count in the whole, so that the shares add up to less than 1. A note is a stretch of one
    pitch in a voice. Left out are those that a piece begins or ends with, of which a window shows only a part. nan
    where no note is left.
    """
    counts, total = np.zeros((len(scores.valid), len(NOTE_LENGTHS)), int), np.zeros(len(scores.valid), int)
    for voice in range(pianoroll.NUM_VOICES):
        line = scores.pitches[..., voice]
        runs = _find_line_runs(line, scores.valid)
        steps = np.where((line != pianoroll.REST) & ~runs.last, runs.steps, 0)
        steps[:, 0] = 0
        total += (steps > 0).sum(1)
        for column, quarters in enumerate(NOTE_LENGTHS):
            counts[:, column] += ((steps > 0) & (steps == quarters * scores.steps_per_quarter)).sum(1)
    return beats.ratio(counts, np.broadcast_to(total[:, None], counts.shape))


def count_syncopations(scores: beats.Scores) -> Integer[np.ndarray, " n"]:
    """Notes of all voices that begin off the beat and last into the next beat: an onset with no change at that beat.

    A note of the same pitch struck on that beat cannot be told from it.
    """
    steps, beat = np.arange(scores.valid.shape[1]), scores.steps_per_quarter
    to_next_beat = beat - (steps - scores.phases[:, None]) % beat  # a whole beat where the step is on one
    counts = np.zeros(len(scores.valid), int)
    for voice in range(pianoroll.NUM_VOICES):
        line = scores.pitches[..., voice]
        runs = _find_line_runs(line, scores.valid)
        begun = beats.mark_onsets(scores.pitches)[..., voice] & (to_next_beat < beat)
        counts += (begun & (runs.steps > to_next_beat)).sum(1)
    return counts


def longest_frozen_beats(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """The longest stretch without a change of pitch in any voice, silence included, in beats."""
    return _find_chord_runs(scores).steps.max(1) / scores.steps_per_quarter


def frozen_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Share of steps that lie in stretches of 4 beats or more without a change in any voice."""
    steps = _find_chord_runs(scores).steps
    return (steps * (steps >= FROZEN_BEATS * scores.steps_per_quarter)).sum(1) / scores.valid.sum(1)


# Where phrases end. Nothing in the pitches marks a fermata: a phrase ends where the music stands still.


def mark_stops(scores: beats.Scores) -> Bool[np.ndarray, "n t"]:
    """True at the first step of each stop: a chord that stays for 2 beats or more, in which all four voices sound."""
    steps = _find_chord_runs(scores).steps
    return (steps >= STOP_BEATS * scores.steps_per_quarter) & (scores.pitches != pianoroll.REST).all(-1)


def stops_on_triads_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Share of the stops (`mark_stops`) whose chord is a complete triad; nan without stops."""
    stops = mark_stops(scores)
    return beats.ratio((stops & harmony.mark_triads(scores.pitches)).sum(1), stops.sum(1))


def stops_by_dominant_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Of the stops with a beat before them, the share reached by V-I; nan without any.

    V-I as in `harmony.mark_resolutions`, from the chord that sounds one beat before the stop's first step.
    """
    beat = scores.steps_per_quarter
    stops = mark_stops(scores)[:, beat:]
    reached = stops & harmony.mark_resolutions(scores.pitches[:, :-beat], scores.pitches[:, beat:])
    return beats.ratio(reached.sum(1), stops.sum(1))
