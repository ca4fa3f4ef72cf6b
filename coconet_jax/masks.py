"""Draws contexts (what the network is given) and names free regions (what a user lets change).

`context` is True where a note is given, `target = valid & ~context` is what carries loss. Each example of
a batch has its own key, so that a batch is the same on any number of devices.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from coconet_jax import pianoroll


def stratified_uniforms(key: Key[Array, ""], index: Int[Array, " b"], batch_size: int) -> Float[Array, " b"]:
    """One uniform number in [0,1) for each example, evenly spread over a batch of `batch_size`.

    All examples share one random offset, so each number alone is uniform on [0,1) while together they fall
    one into each of `batch_size` equal strata: the same law for every example, at a lower variance of the mean.
    """
    return (jax.random.uniform(key) + index.astype(jnp.float32) / batch_size) % 1.0


def sample_orderless_context(
    keys: Key[Array, " b"],
    uniforms: Float[Array, " b"],
    valid: Bool[Array, "b t"],
    num_voices: int = pianoroll.NUM_VOICES,
) -> Bool[Array, "b t i"]:
    """The orderless NADE context (Uria et al. 2014; paper eq. 4): |targets| uniform on 1..D, then a uniform subset.

    Args:
      keys: one key an example, for the subset.
      uniforms: one number in [0,1) an example, for the size: |targets| = 1 + floor(u D).
      valid: True inside the piece; D counts these cells. Outside there is no context.
      num_voices: i.

    Returns:
      True where a variable is given. Targets are `valid & ~context`; never empty where a piece has a cell.
    """
    cells = jnp.broadcast_to(valid[..., None], (*valid.shape, num_voices))
    num_cells = jnp.sum(cells, axis=(1, 2))
    num_targets = 1 + jnp.minimum((uniforms * num_cells).astype(jnp.int32), num_cells - 1)

    def one(key: Key[Array, ""], inside: Bool[Array, "t i"], size: Int[Array, ""]) -> Bool[Array, "t i"]:
        lot = jnp.where(inside, jax.random.uniform(key, inside.shape), 2.0).ravel()
        # The rank of every cell among the drawn lots (not a threshold: lots may tie).
        rank = jnp.argsort(jnp.argsort(lot)).reshape(inside.shape)
        return inside & (rank >= size)

    return jax.vmap(one)(keys, cells, num_targets)


def sample_bernoulli_context(
    keys: Key[Array, " b"],
    context_prob: float,
    valid: Bool[Array, "b t"],
    num_voices: int = pianoroll.NUM_VOICES,
) -> Bool[Array, "b t i"]:
    """Gives every variable independently with probability `context_prob`; True where given.

    An example that would be left without a target gets its whole piece as target.
    """
    shape = (valid.shape[1], num_voices)
    given = jax.vmap(lambda key: jax.random.bernoulli(key, context_prob, shape))(keys) & valid[..., None]
    no_target = jnp.all(given == valid[..., None], axis=(1, 2), keepdims=True)
    return given & ~no_target


def free_everything(shape: tuple[int, int, int]) -> Bool[Array, "b t i"]:
    """Compose: every variable of [b,t,i] may change."""
    return jnp.ones(shape, bool)


def free_but_voice(shape: tuple[int, int, int], voice: int) -> Bool[Array, "b t i"]:
    """Harmonize: every variable of [b,t,i] may change but those of one given voice (0 = soprano)."""
    return jnp.broadcast_to(jnp.arange(shape[2]) != voice, shape)
