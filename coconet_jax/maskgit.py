"""Few-step decoding on the same network: draw all that is hidden, keep some of it, hide the rest again.

MaskGIT (Chang et al. 2022, arXiv 2202.04200) with its cosine schedule: kept are the most confident draws, but for a
noise that lets chance decide at first. Part of what was kept before is hidden again, so that early choices can be
mended (in the manner of ReMDM, Wang et al. 2025, arXiv 2503.00307; the least confident go, more or less by chance).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import masks
from coconet_jax.pianoroll import AnyArray

DEFAULT_STEPS = 32


class Inputs(NamedTuple):
    """What each call of a run is told.

    Attributes:
      number: of the call, for its keys.
      temperature: of the draws.
      hidden_share: of the free cells that stay hidden after the call.
      noise: scale of the Gumbel noise added to log-confidences; falls to 0.
      remask_share: of the cells kept so far that are hidden again before the call.
    """

    number: Int[AnyArray, " m"]
    temperature: Float[AnyArray, " m"]
    hidden_share: Float[AnyArray, " m"]
    noise: Float[AnyArray, " m"]
    remask_share: Float[AnyArray, " m"]


def inputs(config: config_lib.Sample) -> Inputs:
    """The schedule of `num_steps` calls: after call k of K a share cos(pi/2 (k+1)/K) stays hidden.

    Hidden again is `remask_share` of ReMDM's bound min(1, (1 - alpha_s) / alpha_t), for alpha the shares kept after the
    call before and after the one before that (its rescaled schedule): it falls to nothing with the other, so that the
    last calls draw few notes at once.
    """
    count = config.num_steps or DEFAULT_STEPS
    done = np.arange(1, count + 1) / count
    share = np.cos(np.pi / 2 * done)
    share[-1] = 0.0
    hidden = np.concatenate([[1.0, 1.0], share])  # alpha is 0 before the first call
    with np.errstate(divide="ignore"):
        bound = np.minimum(1.0, hidden[1:-1] / (1 - hidden[:-2]))
    return Inputs(
        np.arange(count, dtype=np.int32),
        np.full(count, config.temperature, np.float32),
        share.astype(np.float32),
        (config.confidence_noise * (1 - done)).astype(np.float32),
        (config.remask_share * bound).astype(np.float32),
    )


def _noisy(keys: Key[Array, " b"], confidence: Float[Array, "b t i"], noise: Float[Array, ""]) -> Array:
    gumbel = jax.vmap(lambda key: jax.random.gumbel(key, confidence.shape[1:]))(keys)
    return confidence + noise * gumbel


def choose(
    keys: Key[Array, " b"], kept: Bool[Array, "b t i"], confidence: Float[Array, "b t i"], now: Inputs
) -> Bool[Array, "b t i"]:
    """Which of the kept cells are hidden again: those that were written with the least confidence."""
    count = jnp.floor(now.remask_share * jnp.sum(kept, axis=(1, 2))).astype(jnp.int32)
    rank = masks.ranks(_noisy(keys, confidence, now.noise), kept)
    return kept & (rank < count[:, None, None])


def pick(
    keys: Key[Array, " b"],
    free: Bool[Array, "b t i"],
    target: Bool[Array, "b t i"],
    confidence: Float[Array, "b t i"],
    now: Inputs,
) -> Bool[Array, "b t i"]:
    """Which of the drawn cells are kept: the most confident, all but the share that the schedule leaves hidden."""
    stays = jnp.floor(now.hidden_share * jnp.sum(free, axis=(1, 2))).astype(jnp.int32)
    count = jnp.sum(target, axis=(1, 2)) - stays
    rank = masks.ranks(-_noisy(keys, confidence, now.noise), target)
    return target & (rank < count[:, None, None])
