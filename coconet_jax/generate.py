"""Runs a sampler for a request over all devices of this process, in micro-batches of one compiled shape."""

from collections.abc import Callable, Iterator
import functools
from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Int, Int16, Integer, Key
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import (
    devices,
    drawing,
    errors,
    model,
    offline,
    pianoroll,
    samplers,
    steering,
    tasks,
)
from coconet_jax import samples as samples_lib
from coconet_jax import weights as weights_lib

WINDOW_STEPS = 512  # longer pieces go through the network in windows
# At once on a device, where memory allows: a core is fastest with what stays in its cache (docs/performance.md), though
# not with one chain alone; an accelerator gains little from more chains.
_STEPS_ON_CPU = 256
_MOST = 512

ATTEMPTS = 8  # at drawing a chain that came out like another

Report = Callable[[float], None]


class Made(NamedTuple):
    """Scores in the order they were asked for.

    Attributes:
      pitches: MIDI pitches, -1 = rest.
      trace: the scores along the way, the last of them finished.
    """

    pitches: Int16[np.ndarray, "n t 4"]
    trace: Int16[np.ndarray, "r n t 4"]


class Plan(NamedTuple):
    """A request, how it is sampled, and by which network.

    Attributes:
      variables: of the network.
      model: the network.
      request: what is to be completed.
      settings: of the sampler.
      prior: soft priors of the user's; None: as `prior_of` has it.
      seed: with a chain's number it settles the chain.
      micro_batch: chains at once on a device. Every batch has this shape, the last is filled up with chains that
        are thrown away, so that what comes out depends neither on the number of samples nor on that of devices.
      num_devices: of this process, at most; 0: all.
      knows_ends: whether the network has learned how pieces begin and end, so that the request's `ends` matter.
      chains_each: consecutive chains that are answers of one sample, such as candidates, and equally careful.
    """

    variables: model.Variables
    model: config_lib.Model
    request: tasks.Request
    settings: config_lib.Sample
    prior: steering.Steering | None = None
    seed: int = 0
    micro_batch: int = 32
    num_devices: int = 0
    knows_ends: bool = False
    chains_each: int = 1


def default_micro_batch(num_samples: int, steps: int, net: config_lib.Model) -> int:
    """Chains at once on a device: no more than there are samples, and few enough for half of its memory.

    On CPU the samples are first shared out among the cores, which does not change them (float32; tested). Elsewhere
    programs of other shapes may round otherwise, so a run that is begun on accelerators of unequal memory at once wants
    a number by hand (--micro_batch); one that is begun by one of them has the number in its manifest.
    """
    most, share = _MOST, num_samples
    if devices.on_cpu():
        most, share = max(_STEPS_ON_CPU // steps, 2), -(-num_samples // len(jax.local_devices()))
    # Scores of all steps as one-hot floats, some at a time, and what the network holds of the longest window.
    scores = 8 * 4 * pianoroll.NUM_PITCHES * pianoroll.NUM_VOICES * steps
    a_chain = scores + model.step_bytes(net) * min(steps, 2 * WINDOW_STEPS)
    return max(min(most, share, devices.memory_bytes() // 2 // max(a_chain, 1)), 1)


def plan(
    loaded: weights_lib.Loaded,
    request: tasks.Request,
    num_samples: int,
    settings: config_lib.Sample | None = None,
    *,
    prior: steering.Steering | None = None,
    seed: int = 0,
    micro_batch: int = 0,
) -> Plan:
    """A plan for so many samples on the devices at hand.

    Args:
      loaded: the network, such as `weights.read("small")`.
      request: such as `tasks.compose(64)`.
      num_samples: that will be drawn, by one call or several.
      settings: of the sampler; None: annealed Gibbs as the commands have it (`config.usual_sample`).
      prior: see Plan.
      seed: see Plan.
      micro_batch: chains at once on a device; 0: `default_micro_batch`.
    """
    micro_batch = micro_batch or default_micro_batch(num_samples, len(request.free), loaded.config.model)
    return Plan(
        loaded.variables,
        loaded.config.model,
        request,
        settings or config_lib.usual_sample(),
        prior,
        seed,
        micro_batch,
        num_devices(num_samples, micro_batch),
        loaded.config.data.ends,
    )


def complete(
    loaded: weights_lib.Loaded,
    request: tasks.Request,
    num_samples: int = 1,
    settings: config_lib.Sample | None = None,
    *,
    prior: steering.Steering | None = None,
    seed: int = 0,
) -> samples_lib.Samples:
    """Completes a request, in memory: what `python -m coconet_jax.sample` does without its files.

    Four harmonisations of a melody of MIDI pitches, one for each sixteenth:

        net = weights.read("small")
        request = tasks.harmonize(score.from_pitches(np.array(melody)[:, None]))
        made = generate.complete(net, request, num_samples=4)
        made.pitches  # int16 [4, t, 4]
        exporting.export(made, "harmonised", ["midi", "musicxml"])

    Arguments are those of `plan`.

    Raises:
      InputError: the request leaves the model nothing to write.
    """
    ids = np.arange(num_samples)
    pitches = samples(plan(loaded, request, num_samples, settings, prior=prior, seed=seed), ids).pitches
    return offline.to_samples(request, pitches, ids, seed)


def num_devices(num_samples: int, micro_batch: int) -> int:
    """Devices of this process that have something to do."""
    return min(len(jax.local_devices()), -(-num_samples // micro_batch))


def with_ends(plan: Plan) -> bool:
    """Whether the network is told where pieces begin or end."""
    return plan.knows_ends and any(plan.request.ends)


def prior_of(plan: Plan) -> steering.Steering:
    """What is heeded: the plan's prior, or else that voices keep to their ranges, those of what is given among them."""
    return plan.prior or steering.usual(len(plan.request.free), *tasks.known_pitches(plan.request))


def num_calls(plan: Plan) -> int:
    """Model calls that each chain takes."""
    return sum(samplers.num_calls(_phases(plan, free)) for free in _passes(plan.request))


def _phases(plan: Plan, free: Bool[np.ndarray, "t 4"]) -> list[samplers.Phase]:
    return samplers.phases(plan.settings, free[None], plan.request.given.pickup_steps)


def samples(
    plan: Plan,
    ids: Integer[np.ndarray, " n"],
    *,
    attempt: int = 0,
    records: int = 1,
    report: Report = lambda share: None,
) -> Made:
    """Completes the request once for each chain number, which with the seed settles the chain.

    Args:
      plan: see there.
      ids: chain numbers.
      attempt: draws the same chains by other keys, 1, 2, ...
      records: scores to keep along the way of each chain, about: the phases of a run share them out by their calls,
        and each has one at least. More also makes `report` speak more often.
      report: called with the share of the work done since it was last called, in all 1.

    Raises:
      InputError: the request leaves the model nothing to write.
    """
    if not plan.request.free.any():
        raise errors.InputError("nothing is free in this request; leave the model some notes to write")
    mesh = devices.make_local_mesh(plan.num_devices)
    rows = plan.micro_batch * mesh.size
    weights = devices.replicate(plan.variables, mesh)
    steps = len(plan.request.free)
    prior = prior_of(plan)
    batches = -(-len(ids) // rows)
    pitches = np.empty((len(ids), steps, pianoroll.NUM_VOICES), np.int16)
    traces = []
    for first in range(0, len(ids), rows):
        batch = ids[first : first + rows]
        padded = np.concatenate([batch, np.repeat(batch[-1:], rows - len(batch))]).astype(np.int32)
        run = _run_batch(plan, weights, prior, padded, mesh, attempt, records, lambda share: report(share / batches))
        parts = [np.asarray(part) for part in run]
        pitches[first : first + len(batch)] = parts[-1][-1, : len(batch)]
        traces.append(np.concatenate(parts)[:, : len(batch)].astype(np.int16))
    return Made(pitches, np.concatenate(traces, axis=1))


def distinct(plan: Plan, ids: Integer[np.ndarray, " n"], report: Report = lambda share: None) -> Made:
    """Like `samples`, but chains that come out like one before them are drawn again, a few times at most."""
    made = samples(plan, ids, report=report)
    for attempt in range(1, ATTEMPTS + 1):
        again = repeated(made.pitches)
        if not len(again):
            break
        made.pitches[again] = samples(plan, ids[again], attempt=attempt).pitches
    return made


def repeated(pitches: Int16[np.ndarray, "n t 4"]) -> Int[np.ndarray, " k"]:
    """Places of the scores that equal one before them."""
    first = np.unique(pitches.reshape(len(pitches), -1), axis=0, return_index=True)[1]
    return np.setdiff1d(np.arange(len(pitches)), first)


def _passes(request: tasks.Request) -> list[np.ndarray]:
    """What is free in each of the sampling runs that follow one another."""
    if not request.in_turn:
        return [request.free]
    passes = [request.free & (np.arange(pianoroll.NUM_VOICES) == voice) for voice in request.in_turn]
    return [free for free in passes if free.any()]


def _run_batch(
    plan: Plan,
    weights: model.Variables,
    prior: steering.Steering,
    ids: Int[np.ndarray, " rows"],
    mesh: devices.Mesh,
    attempt: int,
    records: int,
    report: Report,
) -> Iterator[jax.Array]:
    """The traces [r, rows, t, 4] of the batch, one after another; the last score of the last is finished."""
    by_row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(devices.AXIS))
    begun = tasks.start(plan.request, plan.seed, ids)
    valid = np.ones(begun.free.shape[:2], bool)
    calls = num_calls(plan)
    pitches = jax.device_put(begun.pitches, by_row)
    for number, free in enumerate(_passes(plan.request)):
        keys = _keys(plan.seed, ids, number, attempt)
        chains = jax.device_put(samplers.Chains(keys, pitches, begun.free & free, valid), by_row)
        greedy = jax.device_put(drawing.spread_greedy(ids // plan.chains_each, *plan.settings.greedy), by_row)
        ends, first = jax.device_put((np.array(begun.ends), np.array(begun.first)), by_row)
        state = _compiled_start(mesh)(chains)
        for phase in _phases(plan, free):
            share = len(phase.inputs.number) / calls
            pieces, live = samplers.cut(phase, max(round(records * share), 1))
            # One part a call from the host: it costs nothing next to the model and lets the bar move.
            for part in range(len(pieces.inputs.number)):
                inputs = type(pieces.inputs)(*(column[part : part + 1] for column in pieces.inputs))
                how = (phase.kind, phase.draws, live is not None, with_ends(plan))
                run = _compiled(mesh, plan.model, plan.settings, *how)
                alive = np.ones_like(inputs.number, bool) if live is None else live[part : part + 1]
                state, trace = run(weights, chains, prior, greedy, (ends, first), state, inputs, alive)
                if records > 1:
                    jax.block_until_ready(trace)
                report(int(alive.sum()) / calls)
                yield trace
        pitches = state.pitches


def _keys(seed: int, ids: Int[np.ndarray, " rows"], number: int, attempt: int) -> Key[Array, " rows"]:
    """A key for each chain; later passes and further attempts draw from keys of their own."""
    keys = samplers.chain_keys(seed, ids)
    if not number and not attempt:
        return keys
    apart = jax.vmap(lambda key: jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), number))(keys)
    return jax.vmap(lambda key: jax.random.fold_in(key, attempt))(apart)


@functools.lru_cache(maxsize=8)
def _compiled_start(mesh: devices.Mesh) -> Callable[[samplers.Chains], samplers.State]:
    return jax.jit(_mapped(samplers.start, mesh, in_specs=(True,)))


@functools.lru_cache(maxsize=32)
def _compiled(
    mesh: devices.Mesh,
    config: config_lib.Model,
    settings: config_lib.Sample,
    kind: str,
    draws: int,
    padded: bool,
    between: bool,
) -> Callable[..., tuple[samplers.State, jax.Array]]:
    """The compiled scan of a phase. Weights are arguments, so that one program serves all checkpoints."""

    def run(
        weights: model.Variables,
        chains: samplers.Chains,
        prior: steering.Steering,
        greedy: jax.Array,
        places: tuple[jax.Array, jax.Array],
        state: samplers.State,
        inputs: samplers.Inputs,
        live: jax.Array,
    ) -> tuple[samplers.State, jax.Array]:
        ends, first = places
        network = model.in_windows(model.make_predict(weights, config), model.reach(config), WINDOW_STEPS)
        network = model.between_silences(network, ends) if between else network

        def predict(roll: jax.Array, context: jax.Array, valid: jax.Array) -> jax.Array:
            return network(roll, context, valid, first)

        rule = drawing.Rule(prior.bias, prior.temperature, greedy, settings.top_p)
        phase = samplers.Phase(kind, draws, inputs)
        return samplers.run(predict, chains, rule, settings, phase, state, live if padded else None)

    mapped = _mapped(run, mesh, in_specs=(False, True, False, True, True, True, False, False), traced=True)
    return jax.jit(mapped, donate_argnums=(5,))


def _mapped(body: Callable, mesh: devices.Mesh, in_specs: tuple[bool, ...], traced: bool = False) -> Callable:
    """The body on every device of the mesh, each with a micro-batch of its own, of the same shape on any number."""
    spec = jax.sharding.PartitionSpec
    rows = spec(devices.AXIS)
    return jax.shard_map(
        body,
        mesh=mesh,
        in_specs=tuple(rows if split else spec() for split in in_specs),
        out_specs=(rows, spec(None, devices.AXIS)) if traced else rows,
        check_vma=False,
    )
