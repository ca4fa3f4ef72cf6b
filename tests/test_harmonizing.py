"""What harmonisations are counted by: where the harmony changes, and how often as in Bach's own."""

import sys

import conftest
import numpy as np

sys.path.insert(0, str(conftest.REPOSITORY / "benchmarks"))
import harmonizing

C, G, C_AGAIN = (72, 67, 64, 48), (71, 67, 62, 55), (76, 67, 60, 48)  # the last: the notes of the first in other voices


def piece(*chords):
    return np.repeat(np.array(chords, np.int16), 4, axis=0)[None]


def test_harmony_changes_where_a_beat_has_other_pitch_classes_than_the_one_before():
    assert harmonizing.mark_changes(piece(C, G, C_AGAIN, C, C), 4).tolist() == [[True, True, False, False]]
    own = piece(C, G, G, C)  # changes at beats 1 and 3
    (same,) = harmonizing.f1_of_changes(own, own, 4)
    (half,) = harmonizing.f1_of_changes(piece(C, G, C, C), own, 4)  # at 1 and 2: one of two is right
    (never,) = harmonizing.f1_of_changes(piece(C, C, C, C), own, 4)
    (neither,) = harmonizing.f1_of_changes(piece(C, C), piece(G, G), 4)
    assert (same, half, never) == (1, 0.5, 0) and np.isnan(neither)
