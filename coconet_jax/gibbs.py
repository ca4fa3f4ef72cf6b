"""Annealed blocked Gibbs sampling (Yao et al. 2014; paper section 4.2): schedules, blocks, steps, the sampler.

All chains run at once in one compiled scan. A model is seen only as `predict(roll, context, valid) -> logits`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8, Integer, Key
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import model, pianoroll
from coconet_jax.pianoroll import AnyArray


def anneal_block_prob(config: config_lib.Sample, num_steps: int) -> Float[np.ndarray, " n"]:
    """Chance of a variable to be redrawn at each step n = 0..N-1: falls linearly, then stays at its least.

    p_n = max(p_min, p_max - n (p_max - p_min) / (alpha N)), as in the paper and the released code.
    """
    n = np.arange(num_steps)
    fall = n * (config.block_prob_max - config.block_prob_min) / (config.anneal_share * num_steps)
    return np.maximum(config.block_prob_min, config.block_prob_max - fall).astype(np.float32)


def num_steps(config: config_lib.Sample, free: Bool[np.ndarray, "b t i"]) -> int:
    """Gibbs steps to take: those asked for, or one per free variable of the chain that has most of them."""
    return config.num_steps or max(int(free.sum(axis=(1, 2)).max(initial=0)), 1)


def chain_keys(seed: int, chains: Int[AnyArray, " b"]) -> Key[Array, " b"]:
    """One key a chain, from the seed and the chain's number alone: asking for more chains changes none."""
    return jax.vmap(lambda chain: jax.random.fold_in(jax.random.key(seed), chain))(chains)


def sample_independent_block(
    keys: Key[Array, " b"], free: Bool[Array, "b t i"], prob: Float[Array, ""]
) -> Bool[Array, "b t i"]:
    """Every free variable joins the block with probability `prob`, independently."""
    chosen = jax.vmap(lambda key: jax.random.uniform(key, free.shape[1:]) < prob)(keys)
    return chosen & free


def draw(
    keys: Key[Array, " b"], logits: Float[Array, "b t p i"], temperature: float | Float[Array, ""]
) -> Int[Array, "b t i"]:
    """One MIDI pitch for every variable, independently, from softmax(logits / temperature)."""
    scaled = logits / temperature
    row = jax.vmap(lambda key, part: jax.random.categorical(key, part, axis=1))(keys, scaled)
    return row.astype(jnp.int32) + pianoroll.MIN_PITCH


def gibbs_step(
    predict: model.Predict,
    keys: Key[Array, " b"],
    pitches: Integer[Array, "b t i"],
    block: Bool[Array, "b t i"],
    valid: Bool[Array, "b t"],
    temperature: float | Float[Array, ""],
) -> Integer[Array, "b t i"]:
    """Redraws the variables of the block at once, each from its conditional given all notes outside the block.

    Args:
      predict: the model.
      keys: one a chain.
      pitches: the scores so far, -1 = rest.
      block: what is redrawn; all else stays as it is and is given to the model.
      valid: True inside the piece.
      temperature: divides the logits.
    """
    logits = predict(pianoroll.from_pitches(pitches), valid[..., None] & ~block, valid)
    return jnp.where(block, draw(keys, logits, temperature).astype(pitches.dtype), pitches)


class Chains(NamedTuple):
    """Scores to be completed, one a chain."""

    keys: Key[Array, " b"]
    pitches: Int8[AnyArray, "b t i"]  # what is given; free cells may hold anything
    free: Bool[AnyArray, "b t i"]
    valid: Bool[AnyArray, "b t"]


def steps(block_prob: Float[np.ndarray, " n"]) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """Numbers and block probabilities of a whole run: the first fill, whose block is everything, then the steps."""
    return np.arange(len(block_prob) + 1, dtype=np.int32), np.concatenate([[2.0], block_prob]).astype(np.float32)


def run(
    predict: model.Predict,
    chains: Chains,
    numbers: Int[Array, " m"],
    block_prob: Float[Array, " m"],
    temperature: float | Float[Array, ""],
) -> Int8[Array, "b t i"]:
    """Takes the given steps of a run, all chains at once, in one scan.

    Args:
      predict: the model.
      chains: keys, scores, free regions and lengths.
      numbers: of the steps to take, from `steps`; a run may be cut into parts, with the same result.
      block_prob: of these steps. 0 redraws nothing, so that a last part may be filled up to the length of the others.
      temperature: divides the logits.

    Returns:
      The scores after these steps. What is not free is as it was given, and -1 outside the piece.
    """
    keys, pitches, free, valid = chains
    free = free & valid[..., None]

    def step(
        pitches: Int8[Array, "b t i"], now: tuple[Int[Array, ""], Float[Array, ""]]
    ) -> tuple[Int8[Array, "b t i"], None]:
        number, prob = now
        pairs = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, number)))(keys)
        block = sample_independent_block(pairs[:, 0], free, prob)
        return gibbs_step(predict, pairs[:, 1], pitches, block, valid, temperature), None

    pitches = jnp.where(valid[..., None], pitches, jnp.int8(pianoroll.REST))
    return jax.lax.scan(step, pitches, (numbers, block_prob))[0]


def sample(
    predict: model.Predict, chains: Chains, block_prob: Float[np.ndarray, " n"], temperature: float | Float[Array, ""]
) -> Int8[Array, "b t i"]:
    """A whole run: fills the free region at once, then redraws annealed blocks of it (n + 1 model calls).

    Args:
      predict: the model.
      chains: keys, given notes, free regions and lengths.
      block_prob: of each step, from `anneal_block_prob`.
      temperature: divides the logits.
    """
    numbers, probs = steps(block_prob)
    return run(predict, chains, jnp.asarray(numbers), jnp.asarray(probs), temperature)
