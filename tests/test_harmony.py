"""Chords and what becomes of them, on hand-made scores and on Bach."""

import handmade
import numpy as np
import pytest

from coconet_jax.judge import beats, harmony, theory

R = handmade.R


@pytest.mark.parametrize(
    ("chord", "triad", "wider"),
    [
        (handmade.C_MAJOR, True, True),
        ((72, 67, 63, 48), True, True),  # minor
        ((72, 66, 63, 48), True, True),  # diminished
        ((72, 68, 64, 48), True, True),  # augmented
        ((67, 64, 60, R), True, True),  # a voice rests
        ((72, 67, 64, 52), True, True),  # first inversion
        ((72, 64, 60, 48), False, True),  # no fifth
        ((72, 67, 60, 48), False, False),  # no third
        ((72, 60, 60, 48), False, False),  # a bare octave
        (handmade.G_SEVENTH, False, True),  # g b f: no fifth
        ((74, 71, 65, 55), False, True),  # g b d f
        ((72, 69, 65, 62), False, True),  # minor seventh
        ((71, 67, 64, 60), False, True),  # major seventh
        ((69, 65, 62, 59), False, True),  # half-diminished
        ((68, 65, 62, 59), False, True),  # diminished seventh
        ((72, 67, 65, 60), False, False),  # suspended fourth
        ((62, 61, 60, 59), False, False),
        ((R,) * 4, False, False),
    ],
)
def test_chords(chord, triad, wider):
    for transposition in range(12):
        pitches = np.where(np.array([[chord]]) >= 0, np.array([[chord]]) - transposition, R)
        assert harmony.mark_triads(pitches).tolist() == [[triad]]
        assert harmony.mark_triads_or_sevenths(pitches).tolist() == [[wider]]


def test_shares_take_the_given_phase_or_the_best():
    cluster, triad = (62, 61, 60, 59), handmade.C_MAJOR
    chords = [cluster, cluster, triad, cluster] * 3 + [cluster, cluster, cluster, cluster]
    pitches = handmade.score(*chords, steps=1)
    assert harmony.triad_share(pitches).tolist() == [0.75]
    for phase, share in enumerate((0.0, 0.0, 0.75, 0.0)):
        assert harmony.triad_share(pitches, phases=np.array([phase])).tolist() == [share]
    assert harmony.triad_share(pitches, steps_per_quarter=1).tolist() == [3 / 16]
    assert harmony.triad_share(pitches[:, 2:], phases=np.array([0])).tolist() == [0.75]


def test_sevenths_count_in_the_wider_share_only():
    pitches = handmade.score(handmade.C_MAJOR, handmade.G_SEVENTH, handmade.F_MAJOR, (72, 67, 65, 60))
    phase = np.array([0])
    assert harmony.triad_share(pitches, phases=phase).tolist() == [0.5]
    assert harmony.triad_or_seventh_share(pitches, phases=phase).tolist() == [0.75]


@handmade.needs_npz
def test_bachs_chords():
    """Known beforehand: triads on 75 % of the test chorales' beats, triads or sevenths on 91 %."""
    test = handmade.folds()["test"]
    summary = theory.summarize(test.pitches, lengths=test.lengths)
    assert summary["triads"].mean == pytest.approx(0.75, abs=0.005)
    assert summary["triads_or_sevenths"].mean == pytest.approx(0.91, abs=0.005)
    assert summary["triads"].error < 0.01 and summary["triads_or_sevenths"].error < 0.01
    on_beats = theory.summarize(test.pitches, lengths=test.lengths, phases=np.zeros(77, int))
    assert 0.745 < on_beats["triads"].mean < summary["triads"].mean
    assert 0.09 < summary["repeated_chords"].mean < 0.115 and 0.93 < summary["in_scale"].mean < 0.95


def prepare(pitches, phase=0, **kwargs):
    return beats.prepare(np.asarray(pitches), phases=np.full(len(pitches), phase), **kwargs)


def test_dissonances_by_leap():
    before, clash = (72, 67, 64, 48), (72, 70, 61, 48)  # alto and tenor leap by 3 into c b flat c sharp
    pitches = handmade.score(before, clash)
    assert harmony.count_dissonances_by_leap(pitches)[0].tolist() == [0, 0, 0, 0, 2, 0, 0, 0]
    by_step = handmade.score((72, 69, 63, 48), clash)
    assert not harmony.count_dissonances_by_leap(by_step).any()
    into_seventh = handmade.score((72, 67, 64, 48), (74, 71, 65, 43))  # alto by 4 to b, bass to g: a chord
    assert not harmony.count_dissonances_by_leap(into_seventh).any()
    after_rest = handmade.score((72, R, R, 48), clash)
    assert not harmony.count_dissonances_by_leap(after_rest).any()


def test_suspensions_fall_by_step():
    """The soprano's c, held over g in the bass (no second), then over d in the alto, falls to b."""
    pitches = handmade.score((72, 67, 64, 48), (72, 67, 62, 43), (71, 67, 62, 43), steps=4)
    assert harmony.count_suspensions(prepare(pitches)).tolist() == [1]
    assert harmony.suspension_share(prepare(pitches)).tolist() == [1.0]
    assert harmony.count_suspensions(prepare(pitches, phase=1)).tolist() == [0]  # no beat there
    rising = pitches.copy()
    rising[0, 8:, 0] = 74
    assert harmony.count_suspensions(prepare(rising)).tolist() == [0]
    assert harmony.suspension_share(prepare(rising)).tolist() == [0.0]
    struck = pitches.copy()
    struck[0, 3, 0] = 71  # the c is not held into the beat
    assert np.isnan(harmony.suspension_share(prepare(struck))).all()
    late = pitches.copy()
    late[0, 4:6, 0] = 72
    late[0, 6:, 0] = 70  # on the eighth after the beat, by a whole tone
    assert harmony.count_suspensions(prepare(late)).tolist() == [1]


@pytest.mark.parametrize(
    ("before", "after", "marked"),
    [
        pytest.param((67, 62, 59, 43), (67, 64, 60, 48), True, id="G to C"),
        pytest.param((71, 67, 65, 43), (72, 67, 64, 48), True, id="G7 without fifth to C"),
        pytest.param((74, 67, 65, 47), (72, 67, 64, 48), True, id="G7 in first inversion"),
        pytest.param((71, 67, 65, 43), (72, 67, 63, 48), True, id="to c minor"),
        pytest.param((71, 67, 65, 43), (72, 60, 64, 48), True, id="to C without fifth"),
        pytest.param((71, 67, 65, 43), (72, 67, 60, 52), False, id="to C over e"),
        pytest.param((70, 67, 65, 43), (72, 67, 64, 48), False, id="a minor seventh chord is no V"),
        pytest.param((72, 67, 64, 48), (71, 67, 62, 43), False, id="C to G"),
        pytest.param((71, 67, 65, 43), (72, 69, 64, 45), False, id="deceptive"),
        pytest.param((R, R, R, R), (72, 67, 64, 48), False, id="from silence"),
        pytest.param((71, 67, 65, 43), (72, 67, 64, R), False, id="no bass"),
    ],
)
def test_dominants(before, after, marked):
    for transposition in range(12):
        chords = [np.where(np.array([c]) >= 0, np.array([c]) - transposition + 5, R) for c in (before, after)]
        assert harmony.mark_resolutions(*chords).tolist() == [marked]
    counted = prepare(handmade.score(before, after, after))
    assert harmony.count_cadences(counted).tolist() == [int(marked)]


def test_leading_tones_and_sevenths_resolve():
    """G7 to C twice: b rises, f falls; then b falls to g in the tenor, and f rises in the soprano."""
    good, bad = [(71, 67, 65, 43), (72, 67, 64, 48)], [(77, 67, 59, 43), (79, 64, 55, 48)]
    scores = prepare(handmade.score(*good, *bad))
    assert harmony.count_cadences(scores).tolist() == [2]
    assert harmony.leading_tone_share(scores).tolist() == [0.5]
    assert harmony.seventh_share(scores).tolist() == [0.5]
    triad = prepare(handmade.score((67, 62, 59, 43), (67, 64, 60, 48)))
    assert harmony.leading_tone_share(triad).tolist() == [1.0] and np.isnan(harmony.seventh_share(triad)).all()
    assert np.isnan(harmony.leading_tone_share(prepare(handmade.score(handmade.C_MAJOR)))).all()


def test_roots_that_fall_a_fifth():
    c, f, g7 = handmade.C_MAJOR, handmade.F_MAJOR, handmade.G_SEVENTH
    scores = prepare(handmade.score(c, f, c, c, g7, c, f, (69, 65, 62, 50)))  # falls rises - rises falls falls, a third
    assert harmony.falling_fifth_share(scores).tolist() == [0.6]
    assert np.isnan(harmony.falling_fifth_share(prepare(handmade.score(c, c)))).all()


@handmade.needs_npz
def test_bachs_dominants():
    """V-I of any key between beats: 12.5 per 100 beats. Known beforehand was 9.7: V to a major I at the best phase."""
    test = handmade.folds()["test"]
    scores = beats.prepare(test.pitches, lengths=test.lengths)
    rate = (100 * harmony.count_cadences(scores) / beats.num_beats(scores)).mean()
    assert rate == pytest.approx(12.5, abs=0.05)
    pitches = beats.beat_pitches(scores)
    resolved = harmony.mark_resolutions(pitches[:, :-1], pitches[:, 1:])
    before, after = pitches[:, :-1][resolved], pitches[:, 1:][resolved]
    root = after[:, 3] % 12  # of the I, a fourth above that of the V
    seventh = (before - root[:, None]) % 12 == 5
    falls = np.isin((after - before)[seventh], (-1, -2))
    assert (falls.sum(), falls.size) == (95, 97)
    assert 0.9 < np.nanmean(harmony.seventh_share(scores)) < 1.0

    def count_major_tonics(phase):
        """Only a complete major I, and every piece at this phase."""
        pitches = beats.beat_pitches(scores._replace(phases=np.full(77, phase)))
        before, after = pitches[:, :-1], pitches[:, 1:]
        degrees = (after - after[..., 3:]) % 12
        major = (degrees == 4).any(-1) & (degrees == 7).any(-1)
        return 100 * (harmony.mark_resolutions(before, after) & major).sum(1) / beats.num_beats(scores)

    best = np.max([count_major_tonics(phase) for phase in range(4)], axis=0)
    assert best.mean() == pytest.approx(9.65, abs=0.005)
