"""Draws contexts: what the network is given of a piece.

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

    lots = jax.vmap(lambda key: jax.random.uniform(key, cells.shape[1:]))(keys)
    return cells & (ranks(lots, cells) >= num_targets[:, None, None])


def ranks(lots: Float[Array, "b t i"], among: Bool[Array, "b t i"]) -> Int[Array, "b t i"]:
    """Place of each cell, 0 first, in the order of its lot among the cells named, in each example.

    Ties go by place in the score, so that "rank < n" holds for exactly n cells. Cells that are not among those
    named come after them.
    """

    def one(lot: Float[Array, "t i"], inside: Bool[Array, "t i"]) -> Int[Array, "t i"]:
        order = jnp.argsort(jnp.where(inside, lot, jnp.inf).ravel())
        return jnp.zeros(order.shape, jnp.int32).at[order].set(jnp.arange(order.size)).reshape(inside.shape)

    return jax.vmap(one)(lots, among)


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
