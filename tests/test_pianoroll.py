"""Pitches and rolls: conversions both ways, room to transpose, onsets; every expectation made by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import pianoroll

R = pianoroll.REST


def test_roll_has_one_row_for_each_pitch():
    roll = pianoroll.from_pitches(jnp.array([[[81, 60, 37, 36]]]))
    assert roll.shape == (1, 1, 46, 4)
    assert roll.dtype == jnp.float32
    assert np.argwhere(np.asarray(roll[0, 0])).tolist() == [[0, 3], [1, 2], [24, 1], [45, 0]]


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
def test_round_trip_with_rests(dtype):
    rng = np.random.default_rng(0)
    pitches = rng.integers(36, 82, (3, 7, 4)).astype(dtype)
    pitches[rng.random(pitches.shape) < 0.3] = R
    roll = pianoroll.from_pitches(jnp.asarray(pitches))
    np.testing.assert_array_equal(roll.sum(axis=2), pitches != R)
    np.testing.assert_array_equal(pianoroll.to_pitches(roll), pitches)


def test_round_trip_of_every_pitch():
    pitches = jnp.arange(36, 82)[:, None]
    np.testing.assert_array_equal(pianoroll.to_pitches(pianoroll.from_pitches(pitches)), pitches)


@pytest.mark.parametrize("pitch", [-128, R, 0, 35, 82, 127])
def test_rest_and_what_is_outside_is_an_empty_column(pitch):
    roll = pianoroll.from_pitches(jnp.array([[pitch, 60]], jnp.int8), jnp.bfloat16)
    assert roll.dtype == jnp.bfloat16
    assert roll.astype(jnp.float32).sum(axis=1).tolist() == [[0, 1]]


@pytest.mark.parametrize(
    "piece, room",
    [
        # Soprano 60..81, alto 52..74, tenor 46..69, bass 36..66; all within 36..81.
        ([[70, 60, 55, 50]], [-14, 11, -8, 11]),
        ([[70, 60, 55, 50], [75, 62, 60, 38]], [-2, 6, -2, 6]),
        # Rests take no part, nor does a silent voice.
        ([[70, R, 55, 50], [R, 60, R, R]], [-14, 11, -8, 11]),
        ([[70, 60, 55, R]], [-19, 11, -8, 11]),
        # The lowest and the highest pitch leave no room.
        ([[81, 60, 55, 36]], [0, 0, 0, 0]),
        # A voice out of its range, or out of 36..81, gives no room on that side.
        ([[58, 57, 55, 50]], [-14, 23, 0, 14]),
        ([[85, 60, 55, 50]], [-14, 0, -8, 0]),
        ([[70, 60, 55, 30]], [0, 11, 0, 11]),
        ([[70, 60, 55, 0]], [0, 11, 0, 11]),
        ([[127, 60, 55, 50]], [-14, 0, -8, 0]),
        # Nothing but rests.
        ([[R, R, R, R]], [0, 0, 0, 0]),
    ],
)
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_transpose_room(piece, room, dtype):
    found = pianoroll.transpose_room(np.array(piece, dtype))
    assert found.dtype == np.int8
    assert found.tolist() == room


def test_room_is_all_there_is():
    rng = np.random.default_rng(1)
    low, high = np.array(pianoroll.VOICE_RANGES).T
    for _ in range(50):
        piece = rng.integers(low, high + 1, (3, 4)).astype(np.int16)
        down, up, voice_down, voice_up = pianoroll.transpose_room(piece).astype(int)
        shifts = range(-60, 60)
        inside = [s for s in shifts if (piece + s >= 36).all() and (piece + s <= 81).all()]
        in_voices = [s for s in shifts if (piece + s >= low).all() and (piece + s <= high).all()]
        assert inside == list(range(down, up + 1))
        assert in_voices == list(range(voice_down, voice_up + 1))


def test_in_range():
    found = pianoroll.in_range(np.array([[R, 35, 36, 81], [82, 60, 127, -2]], np.int8))
    assert found.tolist() == [[True, False, True, True], [False, True, False, False]]


def test_onsets_where_pitch_changes():
    pitches = np.array([[60, R, 50], [60, 55, 50], [R, 55, 52], [60, R, 52], [60, R, 50]], np.int8)
    expected = [[1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_array_equal(pianoroll.onsets_where_pitch_changes(pitches), np.array(expected, bool))
    assert pianoroll.onsets_where_pitch_changes(pitches[:0]).shape == (0, 3)
