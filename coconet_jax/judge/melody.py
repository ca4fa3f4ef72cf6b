"""How single voices move: steps, leaps, what follows a leap. numpy, no model.

A move is a change of pitch from one step to the next in a voice that sounds at both: `beats.moves`. A note that is held
or struck again makes none; a rest breaks the line.
"""

from typing import Final

from jaxtyping import Bool, Float, Integer
import numpy as np

from coconet_jax import pianoroll
from coconet_jax.judge import beats

STEP: Final = 2  # the widest step, in semitones
LEAP: Final = 5  # the smallest leap; between them are the thirds
LARGE: Final = 9  # the smallest large leap
DISSONANT: Final = (6, 10, 11)  # tritone and sevenths; beyond the octave a ninth (1, 2) too


def step_shares(scores: beats.Scores) -> Float[np.ndarray, "n 4"]:
    """Share of each voice's moves that are steps of 1 or 2 semitones; nan for a voice that does not move."""
    size = np.abs(beats.moves(scores.pitches))
    return beats.ratio(((size > 0) & (size <= STEP)).sum(1), (size > 0).sum(1))


def leap_shares(scores: beats.Scores) -> Float[np.ndarray, "n 4"]:
    """Share of each voice's moves that are leaps of a fourth or more (>= 5 semitones); nan without moves."""
    size = np.abs(beats.moves(scores.pitches))
    return beats.ratio((size >= LEAP).sum(1), (size > 0).sum(1))


def _share_of_moves(marks: Bool[np.ndarray, "n t 4"], size: Integer[np.ndarray, "n t 4"]) -> Float[np.ndarray, " n"]:
    return beats.ratio(marks.sum((1, 2)), (size > 0).sum((1, 2)))


def large_leap_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Share of the moves of all voices that are of a major sixth or more (>= 9 semitones), other than the octave."""
    size = np.abs(beats.moves(scores.pitches))
    return _share_of_moves((size >= LARGE) & (size != 12), size)


def dissonant_leap_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Share of the moves of all voices that are of a tritone, a seventh, or one of these or a second past the octave.

    In semitones: 6, 10, 11, 13, 14, 18, 22, 23, ... A diminished fourth or seventh sounds like a third or sixth and
    cannot be told from it by pitch.
    """
    size = np.abs(beats.moves(scores.pitches))
    return _share_of_moves(np.isin(size % 12, DISSONANT) | ((size > 12) & np.isin(size % 12, (1, 2))), size)


def next_moves(scores: beats.Scores) -> Integer[np.ndarray, "n t 4"]:
    """At each step the next move of the voice after it; 0 where a rest or the end comes first."""
    moves, num_steps = beats.moves(scores.pitches), scores.pitches.shape[1]
    event = (moves != 0) | (scores.pitches == pianoroll.REST)
    at = np.where(event, np.arange(num_steps)[None, :, None], num_steps)
    following = np.minimum.accumulate(at[:, ::-1], axis=1)[:, ::-1]  # the first event at or after each step
    following = np.concatenate([following[:, 1:], np.full_like(following[:, :1], num_steps)], axis=1)
    padded = np.concatenate([moves, np.zeros_like(moves[:, :1])], axis=1)
    return np.take_along_axis(padded, following, axis=1)


def answered_leap_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Of the leaps (>= 5 semitones) whose voice moves on without a rest, the share followed by a step back.

    Back is against the leap's direction; a step is 1 or 2 semitones. All voices together; nan where no leap goes on.
    """
    moves, following = beats.moves(scores.pitches), next_moves(scores)
    leaps = (np.abs(moves) >= LEAP) & (following != 0)
    back = leaps & (np.sign(following) == -np.sign(moves)) & (np.abs(following) <= STEP)
    return beats.ratio(back.sum((1, 2)), leaps.sum((1, 2)))


def falling_step_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Of the moves of all voices by 1 or 2 semitones, the share that falls; nan without steps."""
    moves = beats.moves(scores.pitches)
    falls, rises = ((moves < 0) & (moves >= -STEP)).sum((1, 2)), ((moves > 0) & (moves <= STEP)).sum((1, 2))
    return beats.ratio(falls, falls + rises)


def rising_leap_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Of the leaps of all voices (>= 5 semitones), the share that rises; nan without leaps."""
    moves = beats.moves(scores.pitches)
    return beats.ratio((moves >= LEAP).sum((1, 2)), (np.abs(moves) >= LEAP).sum((1, 2)))
