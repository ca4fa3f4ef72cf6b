"""Chords and what becomes of them, on hand-made scores and on Bach."""

import handmade
import numpy as np
import pytest

from coconet_jax.judge import harmony, theory

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
