"""Chords and what becomes of them: triads, sevenths, dissonances, dominants. numpy, no model.

Arguments are as in `beats`. A chord is a set of pitch classes; its voicing is not looked at, except for the bass where
a function says so. Chords at successive beats are compared, whatever passes between them.
"""

import itertools
from typing import Final

from jaxtyping import Bool, Float, Integer
import numpy as np

from coconet_jax import pianoroll
from coconet_jax.judge import beats, melody

_TRIADS: Final = ((0, 4, 7), (0, 3, 7), (0, 3, 6), (0, 4, 8))  # major, minor, diminished, augmented
# Dominant, minor, major, half-diminished and diminished.
_SEVENTHS: Final = ((0, 4, 7, 10), (0, 3, 7, 10), (0, 4, 7, 11), (0, 3, 6, 10), (0, 3, 6, 9))
_WITHOUT_FIFTH: Final = ((0, 4), (0, 3), (0, 4, 10), (0, 3, 10), (0, 4, 11))
_DOMINANTS: Final = ((0, 4, 7), (0, 4, 7, 10), (0, 4, 10))
_TONICS: Final = ((0, 4, 7), (0, 3, 7), (0, 4), (0, 3))


def _tabulate(shapes: tuple[tuple[int, ...], ...]) -> Bool[np.ndarray, "4096"]:
    """True at every pitch class set (bit c = class c sounds) that is a transposition of one of the shapes."""
    table = np.zeros(1 << 12, bool)
    for shape, root in itertools.product(shapes, range(12)):
        table[sum(1 << ((root + interval) % 12) for interval in shape)] = True
    return table


_IS_TRIAD: Final = _tabulate(_TRIADS)
_IS_TRIAD_OR_SEVENTH: Final = _tabulate((*_TRIADS, *_SEVENTHS, *_WITHOUT_FIFTH))


def _pitch_class_sets(pitches: Integer[np.ndarray, "*n 4"]) -> Integer[np.ndarray, "*n"]:
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
    return beats.share_at(mark_triads(pitches), beats.mark_valid(pitches, lengths), steps_per_quarter, phases)


def triad_or_seventh_share(
    pitches: Integer[np.ndarray, "n t 4"],
    steps_per_quarter: int = 4,
    lengths: Integer[np.ndarray, " n"] | None = None,
    phases: Integer[np.ndarray, " n"] | None = None,
) -> Float[np.ndarray, " n"]:
    """Share of beats that are triads or sevenths (`mark_triads_or_sevenths`); phases as in `triad_share`."""
    marks, valid = mark_triads_or_sevenths(pitches), beats.mark_valid(pitches, lengths)
    return beats.share_at(marks, valid, steps_per_quarter, phases)


def _mark_clashes(pitches: Integer[np.ndarray, "n t 4"]) -> Bool[np.ndarray, "n t 4"]:
    """True for a voice that sounds a second, seventh or ninth (1, 2, 10, 11 semitones modulo 12) with another voice."""
    notes = pitches.astype(np.int16)
    sounding = notes != pianoroll.REST
    clash = np.zeros(notes.shape, bool)
    for one, other in itertools.combinations(range(pianoroll.NUM_VOICES), 2):
        distance = np.abs(notes[..., one] - notes[..., other]) % 12
        near = ((distance == 1) | (distance == 2) | (distance >= 10)) & sounding[..., one] & sounding[..., other]
        clash[..., one] |= near
        clash[..., other] |= near
    return clash


def mark_dissonances_by_leap(pitches: Integer[np.ndarray, "n t 4"]) -> Bool[np.ndarray, "n t 4"]:
    """True for a voice that leaps into a dissonance at this step.

    Such a voice moves into the step by more than 2 semitones and is there a second, seventh or ninth away from another
    voice, in a chord that is no triad and no seventh (`mark_triads_or_sevenths`; the seventh of a chord may be reached
    by leap).
    """
    leaps = np.abs(beats.moves(pitches.astype(np.int16))) > melody.STEP
    return leaps & _mark_clashes(pitches) & ~mark_triads_or_sevenths(pitches)[..., None]


def count_dissonances_by_leap(pitches: Integer[np.ndarray, "n t 4"]) -> Integer[np.ndarray, "n t"]:
    """Voices that leap into a dissonance at this step (see `mark_dissonances_by_leap`)."""
    return mark_dissonances_by_leap(pitches).sum(-1).astype(np.int16)


def _mark_held_dissonances(scores: beats.Scores) -> Bool[np.ndarray, "n t 4"]:
    """True for a voice held into a beat where another voice enters, that makes a second, seventh or ninth there."""
    notes = scores.pitches
    held = np.zeros(notes.shape, bool)
    held[:, 1:] = (notes[:, 1:] == notes[:, :-1]) & (notes[:, 1:] != pianoroll.REST)
    enters = beats.mark_onsets(notes).any(-1) & beats.mark_beats(scores)
    return held & enters[..., None] & _mark_clashes(notes)


def count_suspensions(scores: beats.Scores) -> Integer[np.ndarray, " n"]:
    """Voices held into a beat where another voice enters, in a second, seventh or ninth, that then fall by a step.

    The voice sounds the same pitch at the step before the beat; its next change of pitch is 1 or 2 semitones down,
    whenever that is, with no rest before it. The seventh of a chord counts where it is prepared so.
    """
    return (_mark_held_dissonances(scores) & np.isin(melody.next_moves(scores), (-1, -2))).sum((1, 2))


def suspension_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Of the voices held into a dissonance as in `count_suspensions`, the share that then falls by a step; nan if none.

    The other note of the dissonance may be the one to move: the share is about 0.8 for Bach.
    """
    return beats.ratio(count_suspensions(scores), _mark_held_dissonances(scores).sum((1, 2)))


def _tabulate_roots(shapes: tuple[tuple[int, ...], ...]) -> Integer[np.ndarray, "4096"]:
    """The root (0 to 11) of every pitch class set that is a transposition of one of the shapes; -1 for the others."""
    table = np.full(1 << 12, -1, np.int16)
    for shape, root in itertools.product(shapes, range(12)):
        table[sum(1 << ((root + interval) % 12) for interval in shape)] = root
    return table


_DOMINANT_ROOT: Final = _tabulate_roots(_DOMINANTS)
_TONIC_ROOT: Final = _tabulate_roots(_TONICS)
_CHORD_ROOT: Final = _tabulate_roots((*_DOMINANTS, *_TONICS))


def mark_resolutions(before: Integer[np.ndarray, "*n 4"], after: Integer[np.ndarray, "*n 4"]) -> Bool[np.ndarray, "*n"]:
    """True where the chord `before` is the V of the chord `after`, of any key.

    V is a major triad or a dominant seventh, which may lack its fifth, in any inversion; I is the major or minor triad
    a fifth below, which may lack its fifth, with its root in the bass. No key is looked for: a I going to a IV counts.
    """
    root, tonic = _DOMINANT_ROOT[_pitch_class_sets(before)], _TONIC_ROOT[_pitch_class_sets(after)]
    return (
        (root >= 0)
        & (tonic == (root + 5) % 12)
        & (after[..., beats.BASS] % 12 == tonic)
        & (after[..., beats.BASS] >= 0)
    )


def count_cadences(scores: beats.Scores) -> Integer[np.ndarray, " n"]:
    """V-I (`mark_resolutions`) from one beat to the next."""
    pitches = beats.beat_pitches(scores)
    return mark_resolutions(pitches[:, :-1], pitches[:, 1:]).sum(1)


def _resolution_share(scores: beats.Scores, degree: int, steps: tuple[int, ...]) -> Float[np.ndarray, " n"]:
    """Of the voices with this degree of V (semitones above its root) in a V-I, the share that moves by one of steps."""
    pitches = beats.beat_pitches(scores)
    before, after = pitches[:, :-1], pitches[:, 1:]
    root = _DOMINANT_ROOT[_pitch_class_sets(before)]
    has = (before != pianoroll.REST) & (after != pianoroll.REST) & mark_resolutions(before, after)[..., None]
    has &= (before - root[..., None]) % 12 == degree
    return beats.ratio((has & np.isin(after - before, steps)).sum((1, 2)), has.sum((1, 2)))


def leading_tone_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Of the voices with the third of V in a V-I (`mark_resolutions`), the share that rises by a semitone; nan if none.

    Bach lets it fall to the fifth in inner voices.
    """
    return _resolution_share(scores, 4, (1,))


def seventh_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Of the voices with the seventh of V7 in a V-I, the share that falls by 1 or 2 semitones; nan without V7-I."""
    return _resolution_share(scores, 10, (-1, -2))


def falling_fifth_share(scores: beats.Scores) -> Float[np.ndarray, " n"]:
    """Of the moves from a beat to the next between roots a fifth apart, the share that falls a fifth (rises a fourth).

    Roots are those of major and minor triads and dominant sevenths, with or without the fifth, in any inversion; nan
    without such moves.
    """
    root = _CHORD_ROOT[_pitch_class_sets(beats.beat_pitches(scores))]
    interval = np.where((root[:, :-1] >= 0) & (root[:, 1:] >= 0), (root[:, 1:] - root[:, :-1]) % 12, -1)
    falls, rises = (interval == 5).sum(1), (interval == 7).sum(1)
    return beats.ratio(falls, falls + rises)
