"""Runs a sampler: a sequence of calls of the model, all chains at once, in one scan for each phase.

Every sampler is the same step with another choice of cells: `choose` hides some, the model draws all that is
hidden, `pick` says which of the draws are written. A model is seen only as `predict(roll, context, valid) -> logits`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8, Key
import numpy as np

from coconet_jax import ancestral, drawing, gibbs, maskgit, model, pianoroll
from coconet_jax import config as config_lib
from coconet_jax.pianoroll import AnyArray

Inputs = gibbs.Inputs | ancestral.Inputs | maskgit.Inputs


class Chains(NamedTuple):
    """Scores to be completed, one a chain.

    Attributes:
      keys: one a chain, from `chain_keys`.
      pitches: what is given, -1 = rest; free cells may hold anything.
      free: what is to be drawn.
      valid: True inside the piece.
    """

    keys: Key[Array, " b"]
    pitches: Int8[AnyArray, "b t i"]
    free: Bool[AnyArray, "b t i"]
    valid: Bool[AnyArray, "b t"]


class State(NamedTuple):
    """Where the chains are.

    Attributes:
      pitches: the scores so far.
      hidden: free cells that hold no note yet.
      confidence: log-probability with which each cell was written, nats.
    """

    pitches: Int8[Array, "b t i"]
    hidden: Bool[Array, "b t i"]
    confidence: Float[Array, "b t i"]


class Phase(NamedTuple):
    """A part of a run that is one scan.

    Attributes:
      kind: "gibbs", "ancestral" or "maskgit": whose step it takes.
      draws: variables written by an ancestral call.
      inputs: what each call is told, arrays [m] for m model calls.
    """

    kind: str
    draws: int
    inputs: Inputs


def chain_keys(seed: int | Int[Array, ""], chains: Int[AnyArray, " b"]) -> Key[Array, " b"]:
    """One key a chain, from the seed and the chain's number alone: asking for more chains changes none."""
    return jax.vmap(lambda chain: jax.random.fold_in(jax.random.key(seed), chain))(chains)


def phases(config: config_lib.Sample, free: Bool[np.ndarray, "b t i"], first: int = 0) -> list[Phase]:
    """The run that the settings ask for.

    Args:
      config: see there.
      free: of the requests; settles the number of calls where it depends on the free variables. Chains with fewer
        of them take the same number.
      first: the step that upsampling counts from: that of the first bar line.

    Returns:
      One phase, or two where another sampler than Gibbs ends with colouring sweeps. The model is called once for
      each entry of their inputs.
    """
    draws = ancestral.draws_per_call(config, int(free.sum(axis=(1, 2)).max(initial=0)))
    if config.sampler == "gibbs":
        found = [Phase("gibbs", 1, gibbs.annealed_inputs(config, gibbs.num_steps(config, free)))]
    elif config.sampler == "upsample":
        found = [Phase("gibbs", 1, gibbs.upsampling_inputs(config, gibbs.num_steps(config, free), first))]
    elif config.sampler == "maskgit":
        found = [Phase("maskgit", 1, maskgit.inputs(config))]
    else:
        found = [Phase("ancestral", draws, ancestral.inputs(config, free))]
    if config.finish_sweeps:
        done = len(found[0].inputs.number)
        sweeps, stride = gibbs.colouring_inputs(config, free.shape[2], done), config.finish_stride
        # A colour without free cells needs no call.
        some = np.array([free[:, colour % stride :: stride, colour // stride].any() for colour in sweeps.colour], bool)
        sweeps = gibbs.Inputs(*(column[some] for column in sweeps))
        if found[0].kind == "gibbs":
            joined = [np.concatenate(pair) for pair in zip(found[0].inputs, sweeps, strict=True)]
            found = [Phase("gibbs", 1, gibbs.Inputs(*joined))]
        else:
            found.append(Phase("gibbs", 1, sweeps))
    return found


def num_calls(plan: Sequence[Phase]) -> int:
    """Model calls of a run."""
    return sum(len(phase.inputs.number) for phase in plan)


def start(chains: Chains) -> State:
    """Every free cell inside the piece is hidden; nothing sounds outside."""
    hidden = chains.free & chains.valid[..., None]
    inside = chains.valid[..., None] & ~hidden
    pitches = jnp.where(inside, chains.pitches, jnp.int8(pianoroll.REST))
    return State(pitches, hidden, jnp.zeros(pitches.shape, jnp.float32))


def step(
    predict: model.Predict,
    chains: Chains,
    rule: drawing.Rule,
    config: config_lib.Sample,
    kind: str,
    draws: int,
    state: State,
    now: Inputs,
) -> State:
    """One call of the model and what is made of it.

    Args:
      predict: the model.
      chains: keys, free regions and lengths.
      rule: how notes are drawn.
      config: of the sampler (the number and kind of calls are in `now`).
      kind: of the phase.
      draws: of the phase.
      state: before the call.
      now: scalars of the phase's inputs.
    """
    pitches, hidden, confidence = state
    free, valid = chains.free & chains.valid[..., None], chains.valid
    keys = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, now.number), 3))(chains.keys)
    due = jnp.zeros_like(hidden)
    if isinstance(now, gibbs.Inputs):
        held = gibbs.hold(pitches, hidden, now.factor, now.first)
        pitches = jnp.where(now.repeat, held[0], pitches)
        due = hidden & now.repeat  # a note that is only repeated is still to be drawn
        hidden = jnp.where(now.repeat, held[1], hidden)
        level = gibbs.at_level(free, now.factor, now.first)
        drawn = gibbs.choose_block(config.blocks, keys[:, 0], level, valid, now.block_prob)
        coloured = gibbs.choose_colour(free, now.colour, config.finish_stride)
        block = jnp.where(now.colour < 0, drawn, coloured) | (hidden & level)
    elif isinstance(now, ancestral.Inputs):
        block = ancestral.choose(config, chains.keys, free, now)
    else:
        block = maskgit.choose(keys[:, 0], free & ~hidden, confidence, now)
    target = hidden | block
    logits = predict(pianoroll.from_pitches(pitches), valid[..., None] & ~target, valid)
    notes, log_probs = drawing.draw(keys[:, 1], logits, now.temperature, rule)
    if isinstance(now, gibbs.Inputs):
        written = block
    elif isinstance(now, ancestral.Inputs):
        written = target & ancestral.pick(config, chains.keys, free, draws, now)
    else:
        written = maskgit.pick(keys[:, 2], free, target, log_probs, now)
    return State(
        jnp.where(written, notes.astype(pitches.dtype), pitches),
        (target | due) & ~written,
        jnp.where(written, log_probs, confidence),
    )


def run(
    predict: model.Predict,
    chains: Chains,
    rule: drawing.Rule,
    config: config_lib.Sample,
    phase: Phase,
    state: State,
    live: Bool[Array, "r m"] | None = None,
) -> tuple[State, Int8[Array, "r b t i"]]:
    """Takes the calls of a phase, all chains at once, in one scan, and keeps the score after each of r parts.

    Args:
      predict: the model.
      chains: keys, scores, free regions and lengths.
      rule: how notes are drawn.
      config: of the sampler.
      phase: its inputs cut into r parts of m calls, arrays [r, m].
      state: before the phase.
      live: False for calls that only fill up the last part and are not made; None where there are none.

    Returns:
      The state after the phase, and its trace. What is not free is as it was given, and -1 outside the piece.
    """

    def one(state: State, now: tuple[Inputs, Bool[Array, ""] | None]) -> tuple[State, None]:
        inputs, is_live = now

        def call(state: State) -> State:
            return step(predict, chains, rule, config, phase.kind, phase.draws, state, inputs)

        return (call(state) if is_live is None else jax.lax.cond(is_live, call, lambda state: state, state)), None

    def part(state: State, now: tuple[Inputs, Bool[Array, " m"] | None]) -> tuple[State, Int8[Array, "b t i"]]:
        state = jax.lax.scan(one, state, now)[0]
        return state, state.pitches

    return jax.lax.scan(part, state, (phase.inputs, live))


def cut(phase: Phase, parts: int) -> tuple[Phase, Bool[np.ndarray, "r m"] | None]:
    """A phase in so many parts of equal length, and which of its calls are real (None where all are)."""
    count = len(phase.inputs.number)
    parts = max(min(parts, count), 1)
    size = -(-count // parts)
    parts = -(-count // size)  # no part of nothing but filling
    fill = size * parts - count
    padded = [np.concatenate([column, np.repeat(column[-1:], fill)]).reshape(parts, size) for column in phase.inputs]
    live = (np.arange(size * parts) < count).reshape(parts, size) if fill else None
    return phase._replace(inputs=type(phase.inputs)(*padded)), live


def sample(
    predict: model.Predict,
    chains: Chains,
    config: config_lib.Sample,
    plan: Sequence[Phase],
    rule: drawing.Rule | None = None,
    records: int = 1,
) -> tuple[Int8[Array, "b t i"], Int8[Array, "r b t i"]]:
    """A whole run, inside a compiled program: what is free is filled and rewritten as the settings say.

    Args:
      predict: the model.
      chains: keys, given notes, free regions and lengths.
      config: the sampler and its settings.
      plan: from `phases(config, free)`.
      rule: how notes are drawn; None: by the settings alone.
      records: scores to keep along the way, evenly spread over the calls of each phase.

    Returns:
      The scores, and the trace (r <= records for each phase).
    """
    if rule is None:
        batch, steps, voices = chains.free.shape
        rule = drawing.plain(batch, steps, voices)._replace(top_p=config.top_p)
    state, trace = start(chains), []
    for phase in plan:
        pieces, live = cut(phase, records)
        state, kept = run(predict, chains, rule, config, pieces, state, None if live is None else jnp.asarray(live))
        trace.append(kept)
    return state.pitches, jnp.concatenate(trace)
