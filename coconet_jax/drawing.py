"""How a note is drawn from the network's logits: temperature, top-p, the likeliest or a draw, a user's priors."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from coconet_jax import pianoroll
from coconet_jax.pianoroll import AnyArray


class Rule(NamedTuple):
    """The draw rule of a batch of chains.

    Attributes:
      bias: added to the logits after they are divided by the temperature, nats (`steering`).
      temperature: of each cell; multiplies the call's own (`steering`).
      greedy: chance of each chain to take, in a call, the likeliest values instead of a draw.
      top_p: the least set of values that holds this share of the probability is drawn from; 1 turns it off.
    """

    bias: Float[AnyArray, "t p i"]
    temperature: Float[AnyArray, "t i"]
    greedy: Float[AnyArray, " b"]
    top_p: float = 1.0


def plain(batch: int, steps: int, voices: int = pianoroll.NUM_VOICES) -> Rule:
    """Nothing but the call's temperature."""
    return Rule(jnp.zeros((steps, pianoroll.NUM_PITCHES, voices)), jnp.ones((steps, voices)), jnp.zeros((batch,)), 1.0)


def keep_likeliest(logits: Float[Array, "b t p i"], top_p: float) -> Float[Array, "b t p i"]:
    """-inf for all but the least set of values whose probabilities add up to `top_p` (nucleus sampling)."""
    probs = jax.nn.softmax(logits, axis=2)
    falling = -jnp.sort(-probs, axis=2)
    before = jnp.cumsum(falling, axis=2) - falling
    # The least probability that is kept: that of the last value reached before the share is full.
    least = jnp.min(jnp.where(before < top_p, falling, jnp.inf), axis=2, keepdims=True)
    return jnp.where(probs >= least, logits, -jnp.inf)


def draw(
    keys: Key[Array, " b"], logits: Float[Array, "b t p i"], temperature: float | Float[Array, ""], rule: Rule
) -> tuple[Int[Array, "b t i"], Float[Array, "b t i"]]:
    """One MIDI pitch for every variable, independently of the others, and its log-probability in nats.

    Args:
      keys: one a chain.
      logits: of the network.
      temperature: of this call.
      rule: of the chains.
    """
    scaled = logits / (temperature * rule.temperature[None, :, None, :]) + rule.bias[None]
    if rule.top_p < 1:
        scaled = keep_likeliest(scaled, rule.top_p)
    pairs = jax.vmap(jax.random.split)(keys)
    drawn = jax.vmap(lambda key, part: jax.random.categorical(key, part, axis=1))(pairs[:, 0], scaled)
    is_greedy = jax.vmap(jax.random.uniform)(pairs[:, 1]) < rule.greedy
    rows = jnp.where(is_greedy[:, None, None], jnp.argmax(scaled, axis=2), drawn).astype(jnp.int32)
    log_probs = jax.nn.log_softmax(scaled, axis=2)
    chosen = jnp.take_along_axis(log_probs, rows[:, :, None, :], axis=2)[:, :, 0, :]
    return rows + pianoroll.MIN_PITCH, chosen


def spread_greedy(chains: Int[AnyArray, " b"], least: float, most: float) -> Float[Array, " b"]:
    """A chance in [least, most] for each chain number, evenly spread over any run of consecutive numbers.

    Multiples of the golden ratio, modulo 1, so that a batch of any size goes from careful to adventurous, and a
    chain's value does not depend on how many others there are.
    """
    # In whole numbers, modulo 2^32: float32 would lose the fraction of large chain numbers.
    place = jnp.asarray(chains).astype(jnp.uint32) * jnp.uint32(2654435769)
    return least + (most - least) * (place.astype(jnp.float32) / 2.0**32)
