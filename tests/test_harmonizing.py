"""What harmonisations are counted by: where the harmony changes, and how often as in Bach's own."""

import sys

import conftest
import numpy as np
import pytest

from coconet_jax import errors, pieces, tasks

sys.path.insert(0, str(conftest.REPOSITORY / "benchmarks"))
import harmonizing

C, G, C_AGAIN = (72, 67, 64, 48), (71, 67, 62, 55), (76, 67, 60, 48)  # the last: the notes of the first in other voices


def piece(*chords):
    return np.repeat(np.array(chords, np.int16), 4, axis=0)[None]


def some(*found):
    return pieces.from_arrays([each[0] for each in found], [str(number) for number in range(len(found))])


def test_harmony_changes_where_a_beat_has_other_pitch_classes_than_the_one_before():
    assert harmonizing.mark_changes(piece(C, G, C_AGAIN, C, C), 4).tolist() == [[True, True, False, False]]
    own = piece(C, G, G, C)  # changes at beats 1 and 3
    made = some(own, piece(C, G, C, C), piece(C, C, C, C), piece(C, C))  # the second at 1 and 2: one of two is right
    same, half, never, neither = harmonizing.f1_of_changes(made, some(own, own, own, piece(G, G)), 4)
    assert (same, half, never) == (1, 0.5, 0) and np.isnan(neither)


def test_whole_pieces_keep_their_lengths_and_beginnings_do_not():
    both = some(piece(C, G, C), piece(G, C))
    whole = harmonizing.cut(both, 0)
    assert whole.lengths.tolist() == [12, 8] and whole.pitches.shape == (2, 12, 4)
    begun = harmonizing.cut(both, 8)
    assert begun.lengths.tolist() == [8, 8] and np.array_equal(begun.pitches[0], piece(C, G)[0])
    assert harmonizing.cut(both, 9).names == ("0",) and harmonizing.cut(both, 0, most=1).names == ("0",)
    with pytest.raises(errors.InputError, match="steps=13: no piece is as long; use 12 or less"):
        harmonizing.cut(both, 13)


def test_the_voices_of_the_next_piece_begin_again_where_they_are_too_short():
    wrong = harmonizing.with_voices_of_the_next(some(piece(C, G, C), piece(G, C)))
    np.testing.assert_array_equal(wrong.pitches[0, :, 0], piece(C, G, C)[0, :, 0])
    np.testing.assert_array_equal(wrong.pitches[0, :, 1:], piece(G, C, G)[0, :, 1:])
    np.testing.assert_array_equal(wrong.pitches[1, :8, 1:], piece(C, G)[0, :, 1:])
    assert (wrong.pitches[1, 8:] == -1).all()


def test_each_chain_is_given_the_soprano_of_its_number():
    sopranos = np.concatenate([piece(C, G), piece(C_AGAIN, C)])
    begun = tasks.start(harmonizing.harmonize_each(sopranos, np.array([3, 8]), whole=True), 0, np.array([8, 3]))
    np.testing.assert_array_equal(np.array(begun.pitches)[..., 0], sopranos[[1, 0], :, 0])
    assert not np.array(begun.free)[..., 0].any() and np.array(begun.free)[..., 1:].all()
    assert np.array(begun.ends).all()
