"""Onsets, note lengths, repeats and stops on hand-made scores."""

import handmade
import numpy as np

from coconet_jax.judge import rhythm

R = handmade.R


def test_repeated_chords():
    pitches = handmade.score(
        handmade.C_MAJOR,
        handmade.C_MAJOR,
        handmade.F_MAJOR,
        handmade.F_MAJOR,
        handmade.F_MAJOR,
        (R,) * 4,
        (R,) * 4,
        handmade.C_MAJOR,
    )
    marks = rhythm.mark_repeated_chords(pitches)
    assert np.flatnonzero(marks[0]).tolist() == [4, 5, 6, 7, *range(12, 20)]
    assert rhythm.repeated_chord_share(pitches).tolist() == [3 / 7]
    inner = handmade.score(handmade.C_MAJOR, (72, 67, 64, 52))
    assert not rhythm.mark_repeated_chords(inner).any()  # one voice moved
    assert rhythm.repeated_chord_share(handmade.score(handmade.C_MAJOR)).tolist() == [0.0]
