"""Orders in which the variables of a piece are predicted, as ranks: 0 for the first.

Whatever has a lower rank is given, so that the context of a variable is `ranks < its rank`. An order follows from its
key and the length of the piece, not from the padding behind it.
"""

from collections.abc import Callable
from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from coconet_jax import masks

Ranks = Int[Array, "t i"]


def random_frames(key: Key[Array, ""], valid: Bool[Array, " t"], num_voices: int) -> Ranks:
    """Frames in random order, the voices of each in a random order of its own (the released code)."""
    frame_key, voice_key = jax.random.split(key)
    return _framewise(voice_key, _ranks(_lots(frame_key, len(valid)), valid), num_voices)


def chronological(key: Key[Array, ""], valid: Bool[Array, " t"], num_voices: int) -> Ranks:
    """Frames from first to last, the voices of each in a random order of its own."""
    return _framewise(key, jnp.arange(len(valid)), num_voices)


def random_variables(key: Key[Array, ""], valid: Bool[Array, " t"], num_voices: int) -> Ranks:
    """All variables in random order."""
    lots = _lots(key, len(valid) * num_voices).reshape(len(valid), num_voices)
    among = jnp.broadcast_to(valid[:, None], lots.shape)
    return masks.ranks(lots[None], among[None])[0]


def voice_by_voice(key: Key[Array, ""], valid: Bool[Array, " t"], num_voices: int) -> Ranks:
    """One voice after another in random order, each from its first step to its last."""
    place = _ranks(_lots(key, num_voices), jnp.ones(num_voices, bool))
    ranks = place[None, :] * jnp.sum(valid) + jnp.arange(len(valid))[:, None]
    return jnp.where(valid[:, None], ranks, len(valid) * num_voices)


ORDERS: Final[dict[str, Callable[[Key[Array, ""], Bool[Array, " t"], int], Ranks]]] = {
    "random_frames": random_frames,
    "chronological": chronological,
    "random_variables": random_variables,
    "voice_by_voice": voice_by_voice,
}


def _framewise(key: Key[Array, ""], frame_ranks: Int[Array, " t"], num_voices: int) -> Ranks:
    steps = len(frame_ranks)
    lots = _lots(key, steps * num_voices).reshape(steps, num_voices)
    voices = jax.vmap(lambda lot: _ranks(lot, jnp.ones(num_voices, bool)))(lots)
    return frame_ranks[:, None] * num_voices + voices


def _ranks(lots: Float[Array, " n"], among: Bool[Array, " n"]) -> Int[Array, " n"]:
    return masks.ranks(lots[None, :, None], among[None, :, None])[0, :, 0]


def _lots(key: Key[Array, ""], count: int) -> Float[Array, " n"]:
    """Each lot from a key of its own: the first ones are the same however many are drawn."""
    return jax.vmap(lambda n: jax.random.uniform(jax.random.fold_in(key, n)))(jnp.arange(count))
