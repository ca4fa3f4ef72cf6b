"""Chorales as note events, the encoding of C. McLeavey's Clara (2018), for four voices on a grid.

One token for each note that begins, whose number tells voice and pitch; a note off where a voice falls silent (a new
note ends the one before it, so it needs none); waits of 1 to 12 steps between the moments at which anything happens,
a longer one consolidated into twelves first: 24 steps are `wait12 wait12`, 15 are `wait12 wait3`. At one moment the
voices speak in a fixed order, from high to low or from low to high.

With these rules a score has one string of tokens and a string one score (`encode`, `decode`), and what may come next
is settled by what has come (`allowed`): a law of tokens that keeps to it is a law of scores. The array of pitches
cannot tell a note that is held from one that is struck again, so neither can the events: every note is a new pitch.

What draws and trains works on the device, on arrays; encoding and decoding whole pieces is numpy.
"""

from typing import Final, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Integer
import numpy as np

from coconet_jax import errors, pianoroll
from coconet_jax.pianoroll import MIN_PITCH, NUM_PITCHES, NUM_VOICES, REST, AnyArray

Order = Literal["high_to_low", "low_to_high"]
ORDERS: Final[dict[Order, tuple[int, ...]]] = {"high_to_low": (0, 1, 2, 3), "low_to_high": (3, 2, 1, 0)}
MAX_WAIT: Final = 12
FIRST_OFF: Final = NUM_VOICES * NUM_PITCHES  # after the notes: voice by voice, from the lowest pitch up
FIRST_WAIT: Final = FIRST_OFF + NUM_VOICES
NUM_EVENTS: Final = FIRST_WAIT + MAX_WAIT  # 200: 184 notes, 4 offs, 12 waits
START: Final = NUM_EVENTS  # what a network hears before the first event; never written
NOTHING: Final = -1  # past the end of a string
SLOTS: Final = NUM_VOICES + 1  # most tokens a step can take


class Position(NamedTuple):
    """What the tokens so far say, all that decides what may come next.

    Attributes:
      time: steps since the start.
      sounding: MIDI pitch of each voice, -1 = silent.
      turn: place in the order of the first voice that may still speak at this moment; 4 if none may.
      waited: True after a wait of less than 12 steps: it has ended where something happens.
    """

    time: Int[AnyArray, "*b"]
    sounding: Int[AnyArray, "*b 4"]
    turn: Int[AnyArray, "*b"]
    waited: Bool[AnyArray, "*b"]


def begin(*batch: int) -> Position:
    """Before the first token: all voices are silent."""
    zero = jnp.zeros(batch, jnp.int32)
    return Position(zero, jnp.full((*batch, NUM_VOICES), REST, jnp.int32), zero, jnp.zeros(batch, bool))


def advance(position: Position, event: Int[Array, "*b"], order: Order) -> Position:
    """After one more token, which is allowed; NOTHING changes nothing."""
    is_wait = event >= FIRST_WAIT
    is_note = (event >= 0) & (event < FIRST_OFF)
    speaks = (event >= 0) & ~is_wait
    voice = jnp.where(is_note, event // NUM_PITCHES, event - FIRST_OFF)
    pitch = jnp.where(is_note, event % NUM_PITCHES + MIN_PITCH, REST)
    steps = jnp.where(is_wait, event - FIRST_WAIT + 1, 0)
    voices = jnp.arange(NUM_VOICES).reshape((1,) * event.ndim + (-1,))
    spoken = (voice[..., None] == voices) & speaks[..., None]
    place = jnp.argsort(jnp.array(ORDERS[order]))[jnp.clip(voice, 0, NUM_VOICES - 1)]
    turn = jnp.where(is_wait, 0, jnp.where(speaks, place + 1, position.turn))
    waited = jnp.where(event >= 0, is_wait & (steps < MAX_WAIT), position.waited)
    sounding = jnp.where(spoken, pitch[..., None], position.sounding)
    return Position(position.time + steps, sounding, turn.astype(jnp.int32), waited)


def follow(events: Int[Array, "b e"], order: Order) -> Position:
    """The positions before each token of strings."""

    def one(position: Position, event: Int[Array, " b"]) -> tuple[Position, Position]:
        return advance(position, event, order), position

    _, before = jax.lax.scan(one, begin(len(events)), events.T)
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1), before)


def allowed(position: Position, order: Order) -> Bool[Array, "*b 200"]:
    """The tokens that may come next, of which there is always one.

    A voice speaks once at a moment and in its turn, takes no note that it holds already and does not end one that it
    does not hold. After a wait of less than 12 steps something must happen.
    """
    places = jnp.argsort(jnp.array(ORDERS[order])).reshape((1,) * position.turn.ndim + (-1,))
    in_turn = places >= position.turn[..., None]
    pitches = jnp.arange(MIN_PITCH, MIN_PITCH + NUM_PITCHES).reshape((1,) * position.sounding.ndim + (-1,))
    notes = in_turn[..., None] & (pitches != position.sounding[..., None])
    offs = in_turn & (position.sounding != REST)
    waits = jnp.broadcast_to(~position.waited[..., None], (*position.time.shape, MAX_WAIT))
    return jnp.concatenate([notes.reshape(*position.time.shape, FIRST_OFF), offs, waits], axis=-1)


def slots(
    pitches: Integer[AnyArray, "*b t 4"], length: Int[AnyArray, "*b"], order: Order
) -> tuple[Int[AnyArray, "*b t 5"], Bool[AnyArray, "*b t 5"]]:
    """What each step of pieces of these lengths holds: a token for each voice and a wait, and which of them are there.

    A wait stands where it begins, so that reading the tokens that are there in order gives the string. Numpy or, of
    arrays on the device, jax.numpy.
    """
    on_host = isinstance(pitches, np.ndarray)
    xp = np if on_host else jnp
    pitches = pitches.astype(np.int32)
    steps = pitches.shape[-2]
    times = xp.broadcast_to(xp.arange(steps, dtype=np.int32), pitches.shape[:-1])
    inside = times < length[..., None]
    before = xp.concatenate([xp.full_like(pitches[..., :1, :], REST), pitches[..., :-1, :]], axis=-2)
    changes = (pitches != before) & inside[..., None]
    happens = changes.any(axis=-1)
    last = _running_max(xp.where(happens, times, 0))
    # The next moment at which anything happens, or the end: a running minimum from behind, of what is strictly later.
    ahead = xp.where(happens, times, length[..., None])[..., 1:]
    ahead = xp.concatenate([ahead, xp.broadcast_to(length[..., None], (*ahead.shape[:-1], 1))], axis=-1)
    later = -_running_max(-ahead[..., ::-1])[..., ::-1]
    wait = xp.minimum(later - times, MAX_WAIT)
    waits = inside & ((times - last) % MAX_WAIT == 0)
    voices = np.arange(NUM_VOICES, dtype=np.int32).reshape((1,) * (pitches.ndim - 1) + (-1,))
    notes = xp.where(pitches == REST, FIRST_OFF + voices, voices * NUM_PITCHES + pitches - MIN_PITCH)
    chosen = np.array(ORDERS[order])
    tokens = xp.concatenate([notes[..., chosen], (FIRST_WAIT + wait - 1)[..., None]], axis=-1)
    return tokens, xp.concatenate([changes[..., chosen], waits[..., None]], axis=-1)


def _running_max(values: Int[AnyArray, "*b t"]) -> Int[AnyArray, "*b t"]:
    if isinstance(values, np.ndarray):
        return np.maximum.accumulate(values, axis=-1)
    return jax.lax.cummax(values, axis=values.ndim - 1)


def encode(pitches: Integer[np.ndarray, "t 4"], order: Order = "high_to_low") -> Int[np.ndarray, " e"]:
    """The string of a piece.

    Raises:
      InputError: a pitch outside 36..81.
    """
    if not pianoroll.in_range(pitches).all():
        wrong = pitches[~pianoroll.in_range(pitches)][0]
        raise errors.InputError(f"pitch {wrong}: events hold {MIN_PITCH}..{pianoroll.MAX_PITCH}; transpose the piece")
    tokens, there = slots(pitches, np.array(len(pitches), np.int32), order)
    return tokens[there]


def pack(tokens: Int[Array, "b t 5"], there: Bool[Array, "b t 5"], size: int) -> Int[Array, "b e"]:
    """The strings of `slots` on the device, in `size` places; NOTHING after their ends, and what is beyond is cut."""
    there = there.reshape(len(there), -1)
    place = jnp.where(there, jnp.cumsum(there, axis=1) - 1, size)
    blank = jnp.full((len(there), size), NOTHING, jnp.int32)
    rows = jnp.arange(len(there))[:, None]
    return blank.at[rows, place].set(tokens.reshape(there.shape), mode="drop")


def decode(events: Integer[np.ndarray, " e"], order: Order = "high_to_low") -> Int[np.ndarray, "t 4"]:
    """The piece of a string, with NOTHING left out.

    Raises:
      InputError: a string that `encode` does not write, with the place where it leaves the rules.
    """
    events = events[events != NOTHING].astype(np.int32)
    if ((events < 0) | (events >= NUM_EVENTS)).any():
        raise errors.InputError(f"there is no event {events[(events < 0) | (events >= NUM_EVENTS)][0]}")
    steps = np.where(events >= FIRST_WAIT, events - FIRST_WAIT + 1, 0)
    total = int(steps.sum())
    at = np.cumsum(steps) - steps
    speaks = events < FIRST_WAIT
    is_note = events < FIRST_OFF
    voice = np.where(is_note, events // NUM_PITCHES, events - FIRST_OFF)
    pitch = np.where(is_note, events % NUM_PITCHES + MIN_PITCH, REST)
    # One row more, for what stands behind the last wait; it is refused below.
    spoken = np.zeros((total + 1, NUM_VOICES), bool)
    values = np.full((total + 1, NUM_VOICES), REST, np.int32)
    spoken[at[speaks], voice[speaks]] = True
    values[at[speaks], voice[speaks]] = pitch[speaks]
    since = np.maximum.accumulate(np.where(spoken, np.arange(total + 1)[:, None], 0), axis=0)
    pitches = np.take_along_axis(values, since, axis=0)[:total]
    again = encode(pitches, order)
    if not np.array_equal(again, events):
        same = again[: len(events)] == events[: len(again)]
        place = int(np.argmin(same)) if not same.all() else len(same)
        raise errors.InputError(
            f"event {place} ({describe(events[place : place + 1])}) breaks the rules of the encoding, order={order}"
        )
    return pitches


def describe(events: Integer[np.ndarray, " e"]) -> str:
    """Tokens in words, such as "s60 b48 wait12 off_s"."""
    letters = [voice[0] for voice in pianoroll.VOICES]
    words = []
    for event in events.tolist():
        if event < 0:
            words.append("nothing")
        elif event < FIRST_OFF:
            words.append(f"{letters[event // NUM_PITCHES]}{event % NUM_PITCHES + MIN_PITCH}")
        elif event < FIRST_WAIT:
            words.append(f"off_{letters[event - FIRST_OFF]}")
        else:
            words.append(f"wait{event - FIRST_WAIT + 1}" if event < NUM_EVENTS else "start")
    return " ".join(words)
