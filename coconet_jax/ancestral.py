"""Ancestral sampling: one variable after another, each given all before it; of a whole piece or inside Gibbs blocks.

The paper's section 4.1 (orderless NADE's own sampler) and its ancestral Gibbs, whose blocks are drawn one by one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import masks
from coconet_jax.pianoroll import AnyArray

_PARTS = 10_000  # of the free variables, in which a share is counted


class Inputs(NamedTuple):
    """What each call of a run is told.

    Attributes:
      number: of the call, for the keys of its draws.
      temperature: of the draws.
      block: which block the call belongs to; 0 is the first fill.
      place: how many calls of the block came before.
    """

    number: Int[AnyArray, " m"]
    temperature: Float[AnyArray, " m"]
    block: Int[AnyArray, " m"]
    place: Int[AnyArray, " m"]


def draws_per_call(config: config_lib.Sample, num_free: int) -> int:
    """Variables drawn by one call: those asked for, or as many as fill `num_free` in `num_steps` calls."""
    if config.sampler == "ancestral" and config.num_steps:
        return max(-(-num_free // config.num_steps), 1)
    return config.draws_per_call


def block_size(config: config_lib.Sample, num_free: Int[AnyArray, "..."]) -> Int[AnyArray, "..."]:
    """Variables that are not context, when a share rho of the free ones is; at least one."""
    # In whole numbers, which host and device round alike.
    xp, others = np if isinstance(num_free, np.ndarray) else jnp, _PARTS - round(config.context_share * _PARTS)
    return xp.maximum(-(-others * num_free // _PARTS), 1).astype(num_free.dtype)


def inputs(config: config_lib.Sample, free: Bool[np.ndarray, "b t i"]) -> Inputs:
    """A first fill of what is hidden; for ancestral Gibbs then blocks of a share 1 - rho of the free variables."""
    num_free = free.sum(axis=(1, 2))
    draws = draws_per_call(config, int(num_free.max()))
    calls = [-(-int(num_free.max()) // draws)]
    if config.sampler == "ancestral_gibbs":
        size = int(block_size(config, num_free).max())
        calls += [-(-size // draws)] * (config.num_steps or 8)
    block = np.repeat(np.arange(len(calls), dtype=np.int32), calls)
    place = np.concatenate([np.arange(count, dtype=np.int32) for count in calls])
    return Inputs(
        np.arange(len(block), dtype=np.int32), np.full(len(block), config.temperature, np.float32), block, place
    )


def _ranks(
    keys: Key[Array, " b"], free: Bool[Array, "b t i"], block: Int[Array, ""], chronological: bool
) -> Int[Array, "b t i"]:
    """The order in which a block's variables are drawn: random, or by time with the voices of a step at random."""
    # Keys of their own, apart from those of the calls.
    own = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, 2**30), block))(keys)
    lots = jax.vmap(lambda key: jax.random.uniform(key, free.shape[1:]))(own)
    if chronological:
        lots = lots + jnp.arange(free.shape[1], dtype=jnp.float32)[None, :, None]
    return masks.ranks(lots, free)


def choose(
    config: config_lib.Sample, keys: Key[Array, " b"], free: Bool[Array, "b t i"], now: Inputs
) -> Bool[Array, "b t i"]:
    """What a block hides when it begins: a random subset of the free cells of exactly its size."""
    size = block_size(config, jnp.sum(free, axis=(1, 2)))
    rank = _ranks(keys, free, now.block, chronological=False)
    return free & (rank < size[:, None, None]) & (now.block > 0) & (now.place == 0)


def pick(
    config: config_lib.Sample, keys: Key[Array, " b"], free: Bool[Array, "b t i"], draws: int, now: Inputs
) -> Bool[Array, "b t i"]:
    """The cells that this call writes: the next `draws` in the block's order."""
    # A block was chosen by the same ranks, so its cells are the first of the order.
    chronological = config.sampler == "ancestral" and config.order == "chronological"
    rank = _ranks(keys, free, now.block, chronological)
    return free & (rank // draws == now.place)
