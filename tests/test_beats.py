"""Where the beats are."""

import handmade
import numpy as np
import pytest

from coconet_jax import errors
from coconet_jax.judge import beats, sets

R = handmade.R


def test_phase_is_where_notes_change():
    for phase in range(4):
        pitches = handmade.score(
            handmade.C_MAJOR, handmade.F_MAJOR, handmade.G_SEVENTH, handmade.C_MAJOR, handmade.F_MAJOR
        )[:, (-phase) % 4 :]
        assert beats.estimate_phases(pitches).tolist() == [phase]


def test_a_pieces_start_and_end_are_no_changes():
    ends = np.full((1, 8, 4), R)
    ends[0, :5], ends[0, 2:5, 0] = handmade.C_MAJOR, 74  # one voice moves at step 2; all fall silent at 5, the end
    assert beats.estimate_phases(ends, lengths=np.array([5])).tolist() == [2]
    starts = handmade.score(
        handmade.C_MAJOR, [pitch + 1 for pitch in handmade.C_MAJOR]
    )  # four voices move at the one change phase 0 can have
    starts[0, 1:, :2] += 2
    starts[0, 5:, :3] += 2  # two voices, then three, at phase 1
    assert beats.estimate_phases(starts).tolist() == [0]


@handmade.needs_npz
def test_bachs_beats_are_found():
    everything = handmade.folds()["all"]
    assert not beats.estimate_phases(everything.pitches, lengths=everything.lengths).any()
    for phase in range(4):
        shifted = handmade.folds()["test"]._replace(
            pitches=handmade.folds()["test"].pitches[:, 4 - phase :], lengths=handmade.folds()["test"].lengths - 4
        )
        assert (beats.estimate_phases(sets.cut_windows(shifted, 64).pitches) == phase).all()


def test_beats_follow_the_phase():
    pitches = np.stack([np.arange(40, 50)] * 4, axis=-1)[None].repeat(2, axis=0)
    scores = beats.prepare(pitches, lengths=np.array([10, 7]), phases=np.array([1, 3]))
    assert np.flatnonzero(beats.mark_beats(scores)[0]).tolist() == [1, 5, 9]
    assert np.flatnonzero(beats.mark_beats(scores)[1]).tolist() == [3]
    assert beats.beat_pitches(scores)[..., 0].tolist() == [[41, 45, 49], [43, R, R]]
    assert beats.num_beats(scores).tolist() == [2.5, 1.75]
    assert (scores.pitches[1, 7:] == R).all()


def test_moves_and_onsets():
    pitches = handmade.line((60, 1), (60, 1), (62, 1), (R, 1), (62, 1), (59, 1))
    assert beats.moves(pitches)[0, :, 0].tolist() == [0, 0, 2, 0, 0, -3]
    assert beats.mark_onsets(pitches)[0, :, 0].tolist() == [False, False, True, False, True, True]
    assert not beats.mark_onsets(pitches)[..., 1:].any()


def test_a_phase_outside_the_beat_is_named():
    with pytest.raises(errors.InputError, match=r"phases 2..2 are outside 0..1"):
        beats.prepare(handmade.score(handmade.C_MAJOR), 2, phases=np.array([2]))
