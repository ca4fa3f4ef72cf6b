"""The masked negative log-likelihood of orderless NADE, in nats."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def cell_nll(logits: Float[Array, "b t p i"], roll: Float[Array, "b t p i"]) -> Float[Array, "b t i"]:
    """Cross-entropy of each variable in nats, a softmax over pitch.

    A rest is an all-zero column: it has no cross-entropy and counts 0, as in the released code.
    """
    return -jnp.sum(jax.nn.log_softmax(logits.astype(jnp.float32), axis=2) * roll, axis=2)


def nll_per_variable(
    logits: Float[Array, "b t p i"], roll: Float[Array, "b t p i"], target: Bool[Array, "b t i"]
) -> Float[Array, " b"]:
    """Mean cross-entropy over the targets of each example, nats per variable (weight 1 / num_targets).

    With orderless contexts, D times this is an unbiased estimate of the negative log-likelihood of the piece
    under a uniformly random ordering (Uria et al. 2014; paper eq. 5). An example without targets counts 0.
    """
    num_targets = jnp.sum(target, axis=(1, 2))
    return jnp.sum(cell_nll(logits, roll) * target, axis=(1, 2)) / jnp.maximum(num_targets, 1)


def nll_and_cells(
    logits: Float[Array, "b t p i"],
    roll: Float[Array, "b t p i"],
    target: Bool[Array, "b t i"],
    valid: Bool[Array, "b t"],
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum over the batch of the ordering NLL of each piece (nats), and of D, its number of variables.

    Their quotient is the loss, nats per variable: as in the released code a padded example counts by what it
    holds. Both are sums so that devices can add them before dividing.
    """
    num_cells = jnp.sum(valid, axis=1) * target.shape[-1]
    total = jnp.sum(nll_per_variable(logits, roll, target) * num_cells)
    return total, jnp.sum(num_cells).astype(jnp.float32)
