"""How the voices go together: parallels, direct fifths and octaves, crossing, spacing, range. numpy, no model.

Arguments are as in `beats`: pitches [n,t,4] of MIDI numbers, -1 = rest, or `beats.Scores`.
"""

import itertools
from typing import Final

from jaxtyping import Float, Integer
import numpy as np

from coconet_jax import pianoroll
from coconet_jax.judge import beats, melody

FIFTH: Final = 7  # semitones, modulo the octave
OCTAVE: Final = 0


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


def _count_direct(pitches: Integer[np.ndarray, "n t 4"], interval: int) -> Integer[np.ndarray, "n t"]:
    moves, notes = beats.moves(pitches), pitches.astype(np.int16)
    similar = np.sign(moves[..., beats.SOPRANO]) * np.sign(moves[..., beats.BASS]) == 1
    leaps = np.abs(moves[..., beats.SOPRANO]) > melody.STEP
    reached = np.abs(notes[..., beats.SOPRANO] - notes[..., beats.BASS]) % 12 == interval
    counts = np.zeros(notes.shape[:2], np.int16)
    counts[:, 1:] = similar[:, 1:] & leaps[:, 1:] & reached[:, 1:] & ~reached[:, :-1]
    return counts


def count_direct_fifths(pitches: Integer[np.ndarray, "n t 4"]) -> Integer[np.ndarray, "n t"]:
    """1 where soprano and bass reach a perfect fifth (7 semitones modulo 12) by direct motion with a leaping soprano.

    Both change pitch into this step in the same direction, the soprano by more than 2 semitones, from an interval that
    is no perfect fifth. A soprano that moves by step makes no fault of it, as textbooks have it.
    """
    return _count_direct(pitches, FIFTH)


def count_direct_octaves(pitches: Integer[np.ndarray, "n t 4"]) -> Integer[np.ndarray, "n t"]:
    """1 where soprano and bass reach an octave or unison by direct motion, defined as direct fifths are."""
    return _count_direct(pitches, OCTAVE)


def crossing_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Share of steps at which a voice sounds below the next lower voice; nan where no two neighbours ever sound."""
    upper, lower = scores.pitches[..., :-1], scores.pitches[..., 1:]
    both = (upper != pianoroll.REST) & (lower != pianoroll.REST)
    return beats.ratio((both & (upper < lower)).any(-1).sum(1), both.any(-1).sum(1))


def wide_spacing_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Share of steps at which soprano and alto, or alto and tenor, are more than an octave apart.

    The bass may be as far below as it likes. nan where neither pair ever sounds.
    """
    upper, lower = scores.pitches[..., :2], scores.pitches[..., 1:3]
    both = (upper != pianoroll.REST) & (lower != pianoroll.REST)
    return beats.ratio((both & (np.abs(upper - lower) > 12)).any(-1).sum(1), both.any(-1).sum(1))


def out_of_range_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Share of the sounding time of all voices outside `pianoroll.VOICE_RANGES`; nan for a piece of rests."""
    low, high = np.array(pianoroll.VOICE_RANGES).T
    sounding = scores.pitches != pianoroll.REST
    outside = sounding & ((scores.pitches < low) | (scores.pitches > high))
    return beats.ratio(outside.sum((1, 2)), sounding.sum((1, 2)))


def range_semitones(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Highest less lowest pitch of a voice, averaged over the voices that sound; grows with a piece's length."""
    sounding = scores.pitches != pianoroll.REST
    span = np.where(sounding, scores.pitches, -1).max(1) - np.where(sounding, scores.pitches, 128).min(1)
    present = sounding.any(1)
    return beats.ratio((span * present).sum(1), present.sum(1))


def outer_distance_semitones(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Soprano less bass, averaged over the steps at which both sound; nan where they never do."""
    soprano, bass = scores.pitches[..., beats.SOPRANO], scores.pitches[..., beats.BASS]
    both = (soprano != pianoroll.REST) & (bass != pianoroll.REST)
    return beats.ratio(((soprano - bass) * both).sum(1), both.sum(1))
