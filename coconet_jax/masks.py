"""Draws contexts: what the network is given of a piece.

`context` is True where a note is given, `target = valid & ~context` is what carries loss. Each example of
a batch has its own key, so that a batch is the same on any number of devices.
"""

from typing import Final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from coconet_jax import pianoroll

PARTIAL_EVERY: Final = 8  # hidden frames: one among so many is given in part
HORIZON: Final = 4  # frames after a moment that are learned from what comes before it


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


def sample_frame_context(
    keys: Key[Array, " b"],
    uniforms: Float[Array, " b"],
    valid: Bool[Array, "b t"],
    num_voices: int = pianoroll.NUM_VOICES,
) -> Bool[Array, "b t i"]:
    """Gives whole frames: what the framewise NLL asks with. Which are hidden is uniform; few are more often than many.

    An ensemble of orderings believes those that know most: of five, the best knows all but a sixth of the frames.

    Of a hidden frame in PARTIAL_EVERY, on average, one to all but one voices are given all the same, so that all
    places within a frame are learned.

    Args:
      keys: one key an example.
      uniforms: one number in [0,1) an example, for the number of hidden frames: 1 + floor(u^2 T).
      valid: True inside the piece; T counts these frames.
      num_voices: i.

    Returns:
      True where a variable is given. Targets are `valid & ~context`.
    """
    num_frames = jnp.sum(valid, axis=1)
    num_hidden = 1 + jnp.minimum((uniforms**2 * num_frames).astype(jnp.int32), num_frames - 1)

    def lots(key: Key[Array, ""]) -> tuple[Array, Array, Array]:
        frames, partial, voices = jax.random.split(key, 3)
        size = valid.shape[1:]
        chosen = jax.random.bernoulli(partial, 1 / PARTIAL_EVERY, size)
        return jax.random.uniform(frames, size), chosen, _some_voices(voices, size[0], num_voices)

    order, chosen, some = jax.vmap(lots)(keys)
    hidden = ranks(order[..., None], valid[..., None])[..., 0] < num_hidden[:, None]
    return valid[..., None] & (~hidden[..., None] | (chosen[..., None] & some))


def sample_past_context(
    keys: Key[Array, " b"],
    uniforms: Float[Array, " b"],
    valid: Bool[Array, "b t"],
    num_voices: int = pianoroll.NUM_VOICES,
) -> tuple[Bool[Array, "b t i"], Bool[Array, "b t i"]]:
    """Gives all before a moment and nothing after it: what the chain rule in order of time asks with.

    Args:
      keys: one key an example.
      uniforms: one number in [0,1) an example, for the moment: frame floor(u T).
      valid: True inside the piece; T counts these frames.
      num_voices: i.

    Returns:
      The context, in which of the frame at the moment none to all but one voices are given, and the targets: what is
      hidden of the HORIZON frames from there on. Further ones hardly hang on what is given, and would outweigh them.
    """
    place = jnp.cumsum(valid, axis=1) - 1
    moment = (uniforms * jnp.sum(valid, axis=1)).astype(jnp.int32)[:, None]
    some, none = jax.vmap(
        lambda key: (
            _some_voices(key, valid.shape[1], num_voices),
            jax.random.bernoulli(jax.random.fold_in(key, 1), 1 / num_voices),
        )
    )(keys)
    now = (place == moment)[..., None] & some & ~none[:, None, None]
    context = valid[..., None] & ((place < moment)[..., None] | now)
    return context, valid[..., None] & ~context & (place < moment + HORIZON)[..., None]


def _some_voices(key: Key[Array, ""], num_frames: int, num_voices: int) -> Bool[Array, "t i"]:
    """In each frame one to all but one voices, any number as likely, any set of a number too."""
    number, lots = jax.random.split(key)
    count = jax.random.randint(number, (num_frames, 1), 1, num_voices)
    place = jnp.argsort(jnp.argsort(jax.random.uniform(lots, (num_frames, num_voices)), axis=1), axis=1)
    return place < count


def interleave(
    offset: Float[Array, ""], index: Int[Array, " b"], share: float
) -> tuple[Bool[Array, " b"], Int[Array, " b"]]:
    """Marks a share of the places 0, 1, 2, ... as evenly as can be, and counts the marked places before each.

    Over uniform offsets in [0,1) each place is marked with this probability.
    """
    before = jnp.floor(index * share + offset).astype(jnp.int32)
    return jnp.floor((index + 1) * share + offset).astype(jnp.int32) > before, before


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
