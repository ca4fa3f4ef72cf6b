"""Blocked Gibbs sampling (Yao et al. 2014; paper section 4.2): annealing, block choosers, colouring, upsampling.

A call hides a block, and all of it is redrawn at once, each variable from its conditional given the notes outside.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax.pianoroll import AnyArray

MIN_RUN = 4  # steps
_RULE_WINDOW = 64  # steps; see num_steps
UPSAMPLING_FACTORS = (4, 2, 1)


def anneal_block_prob(config: config_lib.Sample, num_steps: int) -> Float[np.ndarray, " n"]:
    """Chance of a variable to be redrawn at each step n = 0..N-1: falls linearly, then stays at its least.

    p_n = max(p_min, p_max - n (p_max - p_min) / (alpha N)), as in the paper and the released code.
    """
    n = np.arange(num_steps)
    fall = n * (config.block_prob_max - config.block_prob_min) / (config.anneal_share * num_steps)
    return np.maximum(config.block_prob_min, config.block_prob_max - fall).astype(np.float32)


def num_steps(config: config_lib.Sample, free: Bool[np.ndarray, "b t i"]) -> int:
    """Gibbs steps to take: those asked for, or one per free variable (the paper's rule of thumb).

    Of a longer piece the fullest stretch of 64 steps counts, for a step redraws all of a piece alike and notes
    further apart than that hardly know of each other. Two or more voices that are written to a given one take half as
    many (docs/sampling.md: in both cases twice as many bring nothing measurable).
    """
    through = np.pad(np.cumsum(free.sum(axis=2), axis=1), ((0, 0), (1, 0)))
    width = min(_RULE_WINDOW, free.shape[1])
    most = int((through[:, width:] - through[:, :-width]).max(initial=0))
    led = 1 < free.any(axis=(0, 1)).sum() < free.shape[2]
    return config.num_steps or max(-(-most // 2) if led else most, 1)


class Inputs(NamedTuple):
    """What each call of a run is told.

    Attributes:
      number: of the call, for its keys.
      temperature: of the draws.
      block_prob: chance of a variable (or run, frame, voice) to join the block; above 1 takes all.
      colour: the colour class that is the block instead, or -1.
      factor: only steps that are a multiple of it are touched, and those of twice the factor are not (upsampling;
        0: all steps).
      first: the step that factors are counted from.
      repeat: whether what is hidden at these steps first takes the note of the step before (upsampling).
    """

    number: Int[AnyArray, " m"]
    temperature: Float[AnyArray, " m"]
    block_prob: Float[AnyArray, " m"]
    colour: Int[AnyArray, " m"]
    factor: Int[AnyArray, " m"]
    first: Int[AnyArray, " m"]
    repeat: Bool[AnyArray, " m"]


def _inputs(number: int, temperature: float, block_prob: np.ndarray, **fields: np.ndarray | int | bool) -> Inputs:
    count = len(block_prob)
    numbers = number + np.arange(count, dtype=np.int32)
    columns = {"colour": -1, "factor": 0, "first": 0, "repeat": False} | fields
    return Inputs(
        numbers,
        np.full(count, temperature, np.float32),
        block_prob.astype(np.float32),
        np.broadcast_to(np.asarray(columns["colour"], np.int32), count),
        np.broadcast_to(np.asarray(columns["factor"], np.int32), count),
        np.broadcast_to(np.asarray(columns["first"], np.int32), count),
        np.broadcast_to(np.asarray(columns["repeat"], bool), count),
    )


def annealed_inputs(config: config_lib.Sample, steps: int) -> Inputs:
    """The first fill, whose block is all that is hidden, then `steps` annealed blocks: steps + 1 calls."""
    return _inputs(0, config.temperature, np.concatenate([[0.0], anneal_block_prob(config, steps)]))


def colouring_inputs(config: config_lib.Sample, voices: int, first_number: int) -> Inputs:
    """Sweeps over all colours: one voice at steps a stride apart, so that what is drawn at once is nearly independent.

    voices * stride calls a sweep, less those without free cells (`samplers.phases`), the colours of each in a random
    order (the same in all chains).
    """
    rng = np.random.default_rng(0)
    colours = np.concatenate([rng.permutation(voices * config.finish_stride) for _ in range(config.finish_sweeps)])
    temperature = config.finish_temperature or config.temperature
    return _inputs(first_number, temperature, np.zeros(len(colours)), colour=colours)


def upsampling_inputs(config: config_lib.Sample, steps: int, first: int = 0) -> Inputs:
    """Coarse to fine: every fourth step, then every other, then all (of sixteenths: quarters first), each annealed.

    At each finer level the gaps first repeat the note before them (zero-order hold) and are then redrawn, those that
    the first block leaves out with the second; what was drawn on the coarser grid stays. On all levels together
    `steps` + 1 calls, at least three; steps are counted from `first`, such as that of the first bar line.
    """
    parts: list[Inputs] = []
    shares = np.diff(np.linspace(0, steps, len(UPSAMPLING_FACTORS) + 1).round().astype(int))
    for factor, share in zip(UPSAMPLING_FACTORS, shares.tolist(), strict=True):
        coarsest = factor == UPSAMPLING_FACTORS[0]
        probs = anneal_block_prob(config, share)
        probs = np.concatenate([[0.0], probs]) if coarsest else probs
        number = sum(len(part.number) for part in parts)
        # However small the share of a level, its cells must be drawn once.
        probs = probs if len(probs) > 1 else np.ones(1)
        repeat = (np.arange(len(probs)) == 0) & (not coarsest)
        parts.append(_inputs(number, config.temperature, probs, factor=factor, first=first, repeat=repeat))
    return Inputs(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def at_level(free: Bool[Array, "b t i"], factor: Int[Array, ""], first: Int[Array, ""]) -> Bool[Array, "b t i"]:
    """The cells that an upsampling level draws: see `Inputs`."""
    time = jnp.arange(free.shape[1]) - first
    coarsest = factor == UPSAMPLING_FACTORS[0]
    on_level = (time % jnp.maximum(factor, 1) == 0) & (coarsest | (time % jnp.maximum(2 * factor, 1) != 0))
    return free & ((factor == 0) | on_level)[None, :, None]


def hold(
    pitches: Int[Array, "b t i"], hidden: Bool[Array, "b t i"], factor: Int[Array, ""], first: Int[Array, ""]
) -> tuple[Int[Array, "b t i"], Bool[Array, "b t i"]]:
    """Hidden cells of a level take the note `factor` steps before, where one sounds; what is hidden after that."""
    before = jnp.roll(pitches, factor, axis=1)
    known = ~jnp.roll(hidden, factor, axis=1) & (before >= 0) & (jnp.arange(pitches.shape[1]) >= factor)[None, :, None]
    taken = at_level(hidden, factor, first) & known
    return jnp.where(taken, before, pitches), hidden & ~taken


def choose_colour(free: Bool[Array, "b t i"], colour: Int[Array, ""], stride: int) -> Bool[Array, "b t i"]:
    """The free cells of one voice (colour // stride) at the steps colour, colour + stride, ... (modulo stride)."""
    steps, voices = free.shape[1:]
    in_voice = jnp.arange(voices) == colour // stride
    in_time = jnp.arange(steps) % stride == colour % stride
    return free & in_time[None, :, None] & in_voice[None, None, :]


def choose_block(
    kind: str, keys: Key[Array, " b"], free: Bool[Array, "b t i"], valid: Bool[Array, "b t"], prob: Float[Array, ""]
) -> Bool[Array, "b t i"]:
    """A random block of the free cells; each unit joins with probability `prob`, independently.

    Args:
      kind: what a unit is: "variables", "runs" (stretches of one voice, MIN_RUN steps or more inside the piece),
        "frames" (all voices of a step) or "voices" (all steps of a voice; never none of them).
      keys: one a chain.
      free: what may be redrawn.
      valid: True inside the piece.
      prob: above 1 takes all.
    """
    return jax.vmap(lambda *args: _CHOOSERS[kind](*args, prob))(keys, free, valid)


def _choose_variables(key: Key[Array, ""], free: Array, valid: Array, prob: Array) -> Bool[Array, "t i"]:
    return free & (jax.random.uniform(key, free.shape) < prob)


def _choose_frames(key: Key[Array, ""], free: Array, valid: Array, prob: Array) -> Bool[Array, "t i"]:
    return free & (jax.random.uniform(key, (free.shape[0], 1)) < prob)


def _choose_voices(key: Key[Array, ""], free: Array, valid: Array, prob: Array) -> Bool[Array, "t i"]:
    # A voice that holds nothing free would make an empty block.
    lots = jnp.where(jnp.any(free, axis=0), jax.random.uniform(key, (free.shape[1],)), jnp.inf)
    return free & ((lots < prob) | (lots == lots.min()))[None, :]


def _choose_runs(key: Key[Array, ""], free: Array, valid: Array, prob: Array) -> Bool[Array, "t i"]:
    """Cuts each voice into stretches of a random length and phase, and takes each stretch or leaves it."""
    steps, voices = free.shape
    key_length, key_phase, key_lot = jax.random.split(key, 3)
    length = jax.random.randint(key_length, (1, voices), MIN_RUN, 2 * MIN_RUN + 1)
    phase = jax.random.randint(key_phase, (1, voices), 0, length)
    # The stretches that the ends of the piece would cut short join their neighbours.
    last = jnp.maximum((jnp.sum(valid) - phase) // length - 1, 0)
    stretch = jnp.clip((jnp.arange(steps)[:, None] - phase) // length, 0, last)
    lots = jax.random.uniform(key_lot, (steps, voices))
    return free & (jnp.take_along_axis(lots, stretch, axis=0) < prob)


_CHOOSERS: Final[dict[str, Callable[..., Array]]] = {
    "variables": _choose_variables,
    "runs": _choose_runs,
    "frames": _choose_frames,
    "voices": _choose_voices,
}
