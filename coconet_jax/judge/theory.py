"""Music theory measures of four-part scores: parallels, chords, repeats, scale. numpy, no model.

Pitches are [n,t,4]: n pieces of t steps, MIDI numbers, -1 = rest. Pieces of unequal length are padded with rests, and
`lengths` names the steps of each; without it every piece fills all t steps. A beat is a quarter: `steps_per_quarter`
steps. `phases` names for each piece the first step that falls on a beat (0 <= phase < steps_per_quarter).

The figures "known beforehand" in the tests are means over pieces: on the 77 test chorales 0.35 parallel fifths per 100
beats, 0.13 octaves, triads on 75 % of beats, triads or sevenths on 91 %.
"""

import itertools
from typing import Final

from jaxtyping import Bool, Float, Integer
import numpy as np

from coconet_jax import errors, pianoroll
from coconet_jax.judge import rates

FIFTH: Final = 7  # semitones, modulo the octave
OCTAVE: Final = 0

_TRIADS: Final = ((0, 4, 7), (0, 3, 7), (0, 3, 6), (0, 4, 8))  # major, minor, diminished, augmented
# Dominant, minor, major, half-diminished and diminished.
_SEVENTHS: Final = ((0, 4, 7, 10), (0, 3, 7, 10), (0, 4, 7, 11), (0, 3, 6, 10), (0, 3, 6, 9))
_WITHOUT_FIFTH: Final = ((0, 4), (0, 3), (0, 4, 10), (0, 3, 10), (0, 4, 11))
_SCALES: Final = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 11))  # major, harmonic minor


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


# Counts for each step.


def _count_parallels(pitches: Integer[np.ndarray, "n t 4"], interval: int) -> Integer[np.ndarray, "n t"]:
    notes = pitches.astype(np.int16)
    sounding = notes != pianoroll.REST
    direction = np.sign(np.diff(notes, axis=1)) * (sounding[:, 1:] & sounding[:, :-1])
    counts = np.zeros(notes.shape[:2], np.int16)
    for one, other in itertools.combinations(range(pianoroll.NUM_VOICES), 2):
        distance = np.abs(notes[..., one] - notes[..., other]) % 12 == interval
        similar = direction[..., one] * direction[..., other] == 1
        counts[:, 1:] += similar & distance[:, 1:] & distance[:, :-1]
    return counts


def count_parallel_fifths(pitches: Integer[np.ndarray, "n t 4"]) -> Integer[np.ndarray, "n t"]:
    """Pairs of voices, 0 to 6, that reach this step in parallel fifths.

    Counted is a pair of voices that sounds a perfect fifth (or twelfth, ...: 7 semitones modulo 12) at this step and at
    the step before, where both voices change pitch between the two and in the same direction. Not counted: fifths that
    stand still or are struck again, contrary motion (fifth to twelfth with voices parting), fifths with another
    interval or a rest between them. The first step counts 0.

    The interval is measured from the lower sound to the higher, also where voices cross: two crossed voices a fourth
    apart are no fifth. Measured from one named voice down to another, as `(upper - lower) % 12 == 7`, they would be:
    that counts 18 on Bach's test chorales where there are 15, and is the 0.35 per 100 beats (mean over pieces) that was
    known beforehand; without the crossed fourths it is 0.30.
    """
    return _count_parallels(pitches, FIFTH)


def count_parallel_octaves(pitches: Integer[np.ndarray, "n t 4"]) -> Integer[np.ndarray, "n t"]:
    """Pairs of voices, 0 to 6, that reach this step in parallel octaves or unisons, defined as parallel fifths are."""
    return _count_parallels(pitches, OCTAVE)


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


def _tabulate(shapes: tuple[tuple[int, ...], ...]) -> Bool[np.ndarray, "4096"]:
    """True at every pitch class set (bit c = class c sounds) that is a transposition of one of the shapes."""
    table = np.zeros(1 << 12, bool)
    for shape, root in itertools.product(shapes, range(12)):
        table[sum(1 << ((root + interval) % 12) for interval in shape)] = True
    return table


_IS_TRIAD: Final = _tabulate(_TRIADS)
_IS_TRIAD_OR_SEVENTH: Final = _tabulate((*_TRIADS, *_SEVENTHS, *_WITHOUT_FIFTH))


def _pitch_class_sets(pitches: Integer[np.ndarray, "n t 4"]) -> Integer[np.ndarray, "n t"]:
    bits = np.where(pitches != pianoroll.REST, np.left_shift(1, pitches.astype(np.int16) % 12), 0)
    return np.bitwise_or.reduce(bits, axis=-1)


def mark_triads(pitches: Integer[np.ndarray, "n t 4"]) -> Bool[np.ndarray, "n t"]:
    """True where the sounding pitch classes are a complete major, minor, diminished or augmented triad, no more.

    Any inversion and doubling; a voice may rest. Notes that are held count as those that are struck.
    """
    return _IS_TRIAD[_pitch_class_sets(pitches)]


def mark_triads_or_sevenths(pitches: Integer[np.ndarray, "n t 4"]) -> Bool[np.ndarray, "n t"]:
    """True where the chord is a triad as in `mark_triads`, a seventh, or either of them without its fifth.

    Sevenths are dominant, minor, major, half-diminished and diminished. The fifth is what part-writing leaves out: a
    root and its third pass here, and not in `mark_triads`.
    """
    return _IS_TRIAD_OR_SEVENTH[_pitch_class_sets(pitches)]


# Where the beats are.


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


def _share_at(
    marks: Bool[np.ndarray, "n t"],
    valid: Bool[np.ndarray, "n t"],
    steps_per_quarter: int,
    phases: Integer[np.ndarray, " n"] | None,
) -> Float[np.ndarray, " n"]:
    """The share of marked beats at the given phases, or at each piece's best."""
    shares = _share_at_phases(marks, valid, steps_per_quarter)
    if phases is None:
        return shares.max(axis=1)
    if phases.min() < 0 or phases.max() >= steps_per_quarter:
        raise errors.InputError(f"phases {phases.min()}..{phases.max()} are outside 0..{steps_per_quarter - 1}")
    return np.take_along_axis(shares, phases[:, None], axis=1)[:, 0]


# Measures of each piece.


def triad_share(
    pitches: Integer[np.ndarray, "n t 4"],
    steps_per_quarter: int = 4,
    lengths: Integer[np.ndarray, " n"] | None = None,
    phases: Integer[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " n"]:
    """Share of beats that are triads (`mark_triads`); where phases are not given, at each piece's best phase.

    The best of four is at least what the true phase gives, the more so the shorter the pieces: compare sets of equal
    length. A silent beat is a beat.
    """
    return _share_at(mark_triads(pitches), mark_valid(pitches, lengths), steps_per_quarter, phases)


def triad_or_seventh_share(
    pitches: Integer[np.ndarray, "n t 4"],
    steps_per_quarter: int = 4,
    lengths: Integer[np.ndarray, " n"] | None = None,
    phases: Integer[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " n"]:
    """Share of beats that are triads or sevenths (`mark_triads_or_sevenths`); phases as in `triad_share`."""
    return _share_at(mark_triads_or_sevenths(pitches), mark_valid(pitches, lengths), steps_per_quarter, phases)


def repeated_chord_share(
    pitches: Integer[np.ndarray, "n t 4"],
    steps_per_quarter: int = 4,
    lengths: Integer[np.ndarray, " n"] | None = None,
    phases: Integer[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " n"]:
    """Share of beats, among those with a beat before them, whose four pitches equal those of the beat before.

    No phase is the best for repeats: where phases are not given, they are estimated (`estimate_phases`).
    """
    repeated, valid = mark_repeated_chords(pitches, steps_per_quarter), mark_valid(pitches, lengths)
    if phases is None:
        phases = estimate_phases(pitches, steps_per_quarter, lengths)
    valid[:, :steps_per_quarter] = False  # nothing stands before the first beat
    return _share_at(repeated, valid, steps_per_quarter, phases)


def _pitch_class_shares(pitches: Integer[np.ndarray, "n t 4"]) -> Float[np.ndarray, "n 12"]:
    """Share of sounding time of each pitch class; nan for a piece of rests."""
    classes = np.where(pitches != pianoroll.REST, pitches % 12, 12)
    counts = np.stack([(classes == number).sum(axis=(1, 2)) for number in range(12)], axis=1)
    total = counts.sum(axis=1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), np.nan)


def in_scale_share(pitches: Integer[np.ndarray, "n t 4"]) -> Float[np.ndarray, " n"]:
    """Share of sounding time that lies in the best of 24 scales: 12 major, 12 harmonic minor; nan for rests only.

    Natural minor would add nothing to the relative major. All 24 have seven notes, so none is favoured.
    """
    scales = np.zeros((24, 12))
    for row, (shape, tonic) in zip(scales, itertools.product(_SCALES, range(12)), strict=True):
        row[[(tonic + degree) % 12 for degree in shape]] = 1.0
    return (_pitch_class_shares(pitches) @ scales.T).max(axis=1)


def pitch_class_entropy_nats(pitches: Integer[np.ndarray, "n t 4"]) -> Float[np.ndarray, " n"]:
    """Entropy of the pitch classes by sounding time, 0 to log 12 = 2.48 nats; nan for a piece of rests."""
    shares = _pitch_class_shares(pitches)
    return -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)


def measure_pieces(
    pitches: Integer[np.ndarray, "n t 4"],
    steps_per_quarter: int = 4,
    lengths: Integer[np.ndarray, " n"] | None = None,
    phases: Integer[np.ndarray, " n"] | None = None,
) -> dict[str, Float[np.ndarray, " n"]]:
    """Every measure of every piece; parallels per 100 beats, the others as their functions say."""
    pitches = pitches.astype(np.int16)  # wide integers take three times as long
    per_100_beats = 100.0 * steps_per_quarter / mark_valid(pitches, lengths).sum(axis=1)
    grid = (steps_per_quarter, lengths, phases)
    return {
        "parallel_fifths": count_parallel_fifths(pitches).sum(axis=1) * per_100_beats,
        "parallel_octaves": count_parallel_octaves(pitches).sum(axis=1) * per_100_beats,
        "triads": triad_share(pitches, *grid),
        "triads_or_sevenths": triad_or_seventh_share(pitches, *grid),
        "repeated_chords": repeated_chord_share(pitches, *grid),
        "in_scale": in_scale_share(pitches),
        "pitch_class_entropy_nats": pitch_class_entropy_nats(pitches),
    }


def summarize(
    pitches: Integer[np.ndarray, "n t 4"],
    steps_per_quarter: int = 4,
    lengths: Integer[np.ndarray, " n"] | None = None,
    phases: Integer[np.ndarray, " n"] | None = None,
) -> dict[str, rates.Measure]:
    """Mean and error of every measure over a set of pieces.

    Parallels are pooled: events per 100 beats of the whole set, error half the width of the 68 % Poisson interval (so
    that no events do not mean no error). The others are means over pieces with their standard errors.
    """
    summary = {
        name: rates.average(values)
        for name, values in measure_pieces(pitches, steps_per_quarter, lengths, phases).items()
    }
    pitches, valid = pitches.astype(np.int16), mark_valid(pitches, lengths)
    for name, count in (("parallel_fifths", count_parallel_fifths), ("parallel_octaves", count_parallel_octaves)):
        rate = rates.rate_per_100_beats(count(pitches), steps_per_quarter, valid, confidence=0.6827)
        summary[name] = rates.Measure(rate.rate, (rate.high - rate.low) / 2)
    return summary
