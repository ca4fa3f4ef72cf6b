"""Where the beats are."""

import handmade
import numpy as np

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
