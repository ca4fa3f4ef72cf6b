"""Pitches [t,i] and one-hot pianorolls [t,p,i]: constants, conversions, voice ranges, room to transpose.

Integer pitches travel between functions, files and devices; the one-hot roll is made where a network
needs it (46 times less to move). Voices are ordered from high to low: soprano, alto, tenor, bass.
"""

from typing import Any, Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Integer
import numpy as np

AnyArray = Any  # in annotations: an array on the device or, as numpy, on the host

MIN_PITCH: Final = 36  # MIDI number of the lowest row, C2
MAX_PITCH: Final = 81  # A5
NUM_PITCHES: Final = MAX_PITCH - MIN_PITCH + 1  # 46
NUM_VOICES: Final = 4
REST: Final = -1

VOICES: Final = ("soprano", "alto", "tenor", "bass")
# Lowest and highest MIDI pitch of each voice in the 229 training chorales of the paper's dataset.
VOICE_RANGES: Final = ((60, 81), (52, 74), (46, 69), (36, 66))


def from_pitches(
    pitches: Integer[Array, "*b t i"], dtype: jax.typing.DTypeLike = jnp.float32
) -> Float[Array, "*b t p i"]:
    """One-hot roll of MIDI pitches; a rest (-1), or anything outside 36..81, is an all-zero column."""
    rows = jnp.arange(MIN_PITCH, MAX_PITCH + 1, dtype=jnp.int32)[:, None]
    notes = jnp.expand_dims(jnp.asarray(pitches, jnp.int32), -2)
    return (notes == jnp.expand_dims(rows, range(notes.ndim - 2))).astype(dtype)


def to_pitches(roll: Float[Array, "*b t p i"]) -> Int[Array, "*b t i"]:
    """MIDI pitches of a one-hot roll; an all-zero column gives a rest (-1)."""
    pitch = jnp.argmax(roll, axis=-2).astype(jnp.int32) + MIN_PITCH
    return jnp.where(jnp.any(roll > 0, axis=-2), pitch, REST)


def transpose_room(pitches: Integer[np.ndarray, "t i"]) -> Integer[np.ndarray, "4"]:
    """Semitones a piece may be moved: [down, up] inside 36..81, then [down, up] inside VOICE_RANGES.

    Down is <= 0 and up >= 0. A voice already outside its range gives no room (0) on that side, and a
    piece of nothing but rests gives [0, 0, 0, 0].
    """
    sounding = pitches != REST
    room = [-128, 127, -128, 127]
    for voice, (low, high) in enumerate(VOICE_RANGES):
        notes = pitches[:, voice][sounding[:, voice]].astype(int)
        if notes.size == 0:
            continue
        room[0] = max(room[0], MIN_PITCH - notes.min())
        room[1] = min(room[1], MAX_PITCH - notes.max())
        room[2] = max(room[2], low - notes.min())
        room[3] = min(room[3], high - notes.max())
    if not sounding.any():
        room = [0, 0, 0, 0]
    return np.array([min(room[0], 0), max(room[1], 0), min(room[2], 0), max(room[3], 0)], np.int8)


def in_range(pitches: Integer[np.ndarray, "*b t i"]) -> Bool[np.ndarray, "*b t i"]:
    """True where a cell is a rest or a pitch the network can represent (36..81)."""
    return (pitches == REST) | ((pitches >= MIN_PITCH) & (pitches <= MAX_PITCH))


def onsets_where_pitch_changes(pitches: Integer[np.ndarray, "t i"]) -> Bool[np.ndarray, "t i"]:
    """True where a note is struck if equal neighbours are held: at the start and at every new pitch."""
    before = np.concatenate([np.full_like(pitches[:1], REST), pitches[:-1]])
    return (pitches != REST) & (pitches != before)
