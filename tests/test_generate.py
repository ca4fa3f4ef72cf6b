"""Running samplers: what comes out depends on (seed, chain number) alone; passes, traces, attempts, windows."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import (
    blends,
    config,
    constraints,
    devices,
    errors,
    generate,
    model,
    pianoroll,
    score,
    steering,
    tasks,
    weights,
)

SETTINGS = config.Sample(num_steps=5)


def plan(config_, variables, request=None, **fields: Any) -> generate.Plan:
    fields = {"settings": SETTINGS, "seed": 1, "micro_batch": 4, **fields}
    return generate.Plan(variables, config_.model, request or tasks.compose(16), **fields)


def test_candidates_of_one_sample_are_equally_careful(tiny_config, tiny_variables):
    """The golden ratio gives sample 0 the least chance of the likeliest notes, here none, and all others some."""
    spread = config.Sample(num_steps=3, greedy=(0.0, 1.0))
    never = plan(tiny_config, tiny_variables, settings=dataclasses.replace(spread, greedy=(0.0, 0.0)))
    own = plan(tiny_config, tiny_variables, settings=spread)
    drawn, alone, together = (
        generate.samples(one, np.arange(8)).pitches for one in (never, own, own._replace(chains_each=4))
    )
    np.testing.assert_array_equal(together[:4], drawn[:4])
    assert (alone[1:4] != drawn[1:4]).any() and (together[4:] != drawn[4:]).any()


@pytest.fixture
def chorale() -> score.Score:
    pitches = np.repeat([[67, 62, 59, 43], [69, 64, 60, 45], [71, 62, 55, 50], [72, 64, 55, 48]], 4, axis=0)
    return score.from_pitches(pitches)


@pytest.mark.parametrize("sampler", ["gibbs", "maskgit"])
def test_a_chain_depends_on_seed_and_number_alone(tiny_config, tiny_variables, sampler):
    settings = config.Sample(sampler, num_steps=5, finish_sweeps=1, finish_stride=2, greedy=(0.0, 0.5))
    base = plan(tiny_config, tiny_variables, settings=settings)
    many = generate.samples(base, np.arange(20)).pitches  # over eight devices, the last batch filled up
    assert len({piece.tobytes() for piece in many}) == 20
    order = np.array([17, 3, 8])
    np.testing.assert_array_equal(generate.samples(base, order).pitches, many[order])
    other = base._replace(micro_batch=3)
    np.testing.assert_array_equal(generate.samples(other, order).pitches, many[order])
    assert (generate.samples(base._replace(seed=2), order).pitches != many[order]).any()


def test_chains_are_told_how_long_their_pickup_is(beating_config, beating_variables):
    """Of which what is over a beat counts alone."""

    def drawn(pickup: int, steps: int = 40) -> np.ndarray:
        request = tasks.compose(steps)
        request = request._replace(given=dataclasses.replace(request.given, pickup_steps=pickup))
        return generate.samples(plan(beating_config, beating_variables, request, knows_ends=True), np.arange(5)).pitches

    np.testing.assert_array_equal(drawn(3), drawn(7))
    assert (drawn(3) != drawn(0)).any(axis=(1, 2)).all()
    np.testing.assert_array_equal(np.array(tasks.start(tasks.compose(8), 0, np.arange(2)).first), [0, 0])


SAMPLERS = {
    "gibbs": config.Sample(num_steps=3, finish_sweeps=1, finish_stride=2),
    "ancestral": config.Sample("ancestral", num_steps=4),
    "ancestral_gibbs": config.Sample("ancestral_gibbs", num_steps=1, draws_per_call=16),
    "maskgit": config.Sample("maskgit", num_steps=4, remask_share=0.2),
    "upsample": config.Sample("upsample", num_steps=6),
}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_task_goes_with_every_sampler(tiny_config, tiny_variables, chorale, sampler):
    """What is given stays, and what is free is written."""
    gaps = dataclasses.replace(chorale, pitches=chorale.pitches.copy(), onset=chorale.onset.copy())
    gaps.pitches[3:9, 1:3], gaps.onset[3:9, 1:3] = -1, False
    half = score.from_pitches(chorale.pitches[:8])
    requests = [
        tasks.compose(16),
        tasks.harmonize(score.from_pitches(chorale.pitches[:, :1])),
        tasks.harmonize(score.from_pitches(chorale.pitches[:, 3:]), 3),
        tasks.complete(gaps),
        tasks.inpaint(chorale, 4, 12, voices=[0, 2]),
        tasks.revoice(chorale, (2, 1)),
        tasks.transition(score.from_pitches(chorale.pitches[:4]), half, 4),
        tasks.extend(half, 8),
        tasks.extend(half, 8, before=True),
        tasks.upsample(chorale),
        blends.hybrid([chorale, chorale]),
        blends.variations(chorale, 0.5),
        constraints.with_last_chord(tasks.compose(16), (67, 62, 59, 43), 4),
    ]
    ids = np.arange(3)
    for request in requests:
        chosen = plan(tiny_config, tiny_variables, request, settings=SAMPLERS[sampler], num_devices=1)
        begun = tasks.start(request, 1, ids)
        made = generate.samples(chosen, ids).pitches
        free = np.array(begun.free)
        assert free.any() and (made[free] >= pianoroll.MIN_PITCH).all()
        np.testing.assert_array_equal(made[~free], np.array(begun.pitches)[~free])


def test_nor_do_micro_batches_and_devices_where_channels_are_many():
    """From 29 channels on convolutions are done otherwise (winograd.py): that must not round by the shape either."""
    net = config.Model(num_layers=4, num_filters=32)
    variables = model.init(jax.random.key(0), net)
    base = generate.Plan(variables, net, tasks.compose(16), SAMPLERS["gibbs"], seed=1, micro_batch=4)
    found = [generate.samples(base, np.arange(5)).pitches]
    for micro_batch, num_devices in ((1, 1), (3, 2)):
        found.append(
            generate.samples(base._replace(micro_batch=micro_batch, num_devices=num_devices), np.arange(5)).pitches
        )
    assert all((each == found[0]).all() for each in found)


def test_ends_matter_to_a_network_that_knows_of_them(tiny_config, tiny_variables):
    rng = np.random.default_rng(0)  # fresh weights hardly say anything
    moved = jax.tree.map(lambda x: x + rng.uniform(0, 0.4, x.shape).astype(np.float32), tiny_variables["params"])
    base, ids = plan(tiny_config, tiny_variables | {"params": moved}), np.arange(6)
    excerpt = base._replace(request=tasks.excerpt(base.request))
    plain = generate.samples(base, ids).pitches
    for same in (excerpt, excerpt._replace(knows_ends=True)):
        np.testing.assert_array_equal(generate.samples(same, ids).pitches, plain)
    whole = generate.samples(base._replace(knows_ends=True), ids).pitches
    assert (whole != plain).any()

    def vary(seed: int, numbers: np.ndarray) -> tasks.Given:
        told = (numbers % 2 == 0)[:, None]
        return tasks.start(base.request, seed, numbers)._replace(ends=np.repeat(told, 2, axis=1))

    mixed = generate.samples(base._replace(request=base.request._replace(vary=vary), knows_ends=True), ids).pitches
    np.testing.assert_array_equal(mixed[::2], whole[::2])
    np.testing.assert_array_equal(mixed[1::2], plain[1::2])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_devices_do_not_matter(tiny_config, tiny_variables, monkeypatch, sampler):
    base = plan(tiny_config, tiny_variables, settings=SAMPLERS[sampler])
    eight = generate.samples(base, np.arange(9)).pitches
    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    assert devices.make_local_mesh().size == 1
    np.testing.assert_array_equal(generate.samples(base, np.arange(9)).pitches, eight)


def test_the_trace_ends_with_the_result_and_reports_add_up(tiny_config, tiny_variables):
    base = plan(tiny_config, tiny_variables)
    shares: list[float] = []
    made = generate.samples(base, np.arange(40), records=3, report=shares.append)
    assert made.trace.shape == (3, 40, 16, 4)
    np.testing.assert_array_equal(made.trace[-1], made.pitches)
    assert (made.trace[0] != made.pitches).any()
    assert sum(shares) == pytest.approx(1) and len(shares) == 6  # two batches over eight devices, three parts each
    np.testing.assert_array_equal(generate.samples(base, np.arange(40)).pitches, made.pitches)


def test_voices_in_turn_know_what_became_of_those_before(tiny_config, tiny_variables, chorale):
    request = tasks.revoice(chorale, (1, 2))
    base = plan(tiny_config, tiny_variables, request)
    made = generate.samples(base, np.arange(6), records=1)
    np.testing.assert_array_equal(made.pitches[:, :, [0, 3]], np.broadcast_to(chorale.pitches[:, [0, 3]], (6, 16, 2)))
    assert generate.num_calls(base) == 12
    # After the first pass the alto is new and the tenor old.
    first, second = made.trace
    np.testing.assert_array_equal(first[:, :, 2], np.broadcast_to(chorale.pitches[:, 2], (6, 16)))
    np.testing.assert_array_equal(first[:, :, 1], second[:, :, 1])
    assert (first[:, :, 1] != chorale.pitches[:, 1]).any() and (second[:, :, 2] != first[:, :, 2]).any()


def test_upsampling_counts_from_the_bar_line(tiny_config, tiny_variables):
    """After a pick-up of two steps the quarters are the steps 2, 6, ..., drawn before all others."""
    request = tasks.compose(16)
    request = request._replace(given=dataclasses.replace(request.given, pickup_steps=2))
    settings = config.Sample("upsample", num_steps=8)
    trace = generate.samples(
        plan(tiny_config, tiny_variables, request, settings=settings), np.arange(2), records=9
    ).trace
    assert np.flatnonzero((trace[0, 0] != -1).all(axis=1)).tolist() == [2, 6, 10, 14]
    assert (trace[-1] != -1).all()


def test_a_trace_is_shared_out_among_phases(tiny_config, tiny_variables, chorale):
    settings = config.Sample("maskgit", num_steps=8, finish_sweeps=1, finish_stride=2)
    request = tasks.revoice(chorale, (1, 2))
    made = generate.samples(plan(tiny_config, tiny_variables, request, settings=settings), np.arange(2), records=8)
    assert 6 <= len(made.trace) <= 10


def test_a_prior_is_heeded(tiny_config, tiny_variables):
    wish = steering.key(16, "C major", 50.0)
    made = generate.samples(plan(tiny_config, tiny_variables, prior=wish), np.arange(8)).pitches
    assert np.isin(made % 12, [0, 2, 4, 5, 7, 9, 11]).all()
    plainly = generate.samples(plan(tiny_config, tiny_variables), np.arange(8)).pitches
    assert not np.isin(plainly % 12, [0, 2, 4, 5, 7, 9, 11]).all()
    loaded = weights.Loaded(tiny_variables, tiny_config, 1, "0" * 64, {})
    in_memory = generate.complete(loaded, tasks.compose(16), 8, SETTINGS, prior=wish).pitches
    assert np.isin(in_memory % 12, [0, 2, 4, 5, 7, 9, 11]).all()


def test_no_voice_leaves_its_range_unless_it_is_let(tiny_config, tiny_variables):
    low, high = np.array(pianoroll.VOICE_RANGES).T
    for temperature in (1e-4, 2.0):
        base = plan(tiny_config, tiny_variables, settings=config.Sample(temperature=temperature, num_steps=9))
        made = generate.samples(base, np.arange(16)).pitches
        assert ((made >= low) & (made <= high)).all()
    let = generate.samples(base._replace(prior=steering.neutral(16)), np.arange(16)).pitches
    assert ((let < low) | (let > high)).mean() > 0.1


def test_a_voice_may_go_as_far_as_in_what_is_given(tiny_config, tiny_variables):
    """A viola below the altos of Bach, of which every fourth step stays."""
    below = score.from_pitches(np.repeat([[67, 48, 47, 43]], 16, axis=0))
    for request in (tasks.upsample(below), blends.hybrid([below, below], keep_share=0.5)):
        base = plan(tiny_config, tiny_variables, request, settings=config.Sample(temperature=2.0, num_steps=9))
        alto = generate.samples(base, np.arange(16)).pitches[:, :, 1]
        assert alto.min() == 48 and {49, 50, 51} <= set(alto.ravel().tolist())


def test_answers_are_different_where_they_can_be(tiny_config, tiny_variables, chorale):
    pitches = chorale.pitches.copy()
    free = np.zeros(pitches.shape, bool)
    free[3, 1] = True  # one cell: 46 answers at most
    base = plan(tiny_config, tiny_variables, tasks.Request(chorale, free), seed=3)
    usual = generate.samples(base, np.arange(12)).pitches
    assert len(generate.repeated(usual)) > 0
    made = generate.distinct(base, np.arange(12)).pitches
    first = np.setdiff1d(np.arange(12), generate.repeated(usual))
    np.testing.assert_array_equal(made[first], usual[first])
    assert len(generate.repeated(made)) < len(generate.repeated(usual))
    np.testing.assert_array_equal(generate.distinct(base, np.arange(12)).pitches, made)


def test_batches_share_a_program_the_last_short_one_too(tiny_config, tiny_variables, monkeypatch):
    programs: dict[int, Any] = {}
    compiled = generate._compiled

    def noting(*how):
        program = compiled(*how)
        programs[id(program)] = program
        return program

    monkeypatch.setattr(generate, "_compiled", noting)
    settings = config.Sample(num_steps=4, top_p=0.93)  # of no other test, so that nothing is compiled yet
    base = plan(tiny_config, tiny_variables, settings=settings, micro_batch=2, num_devices=1)
    generate.samples(base, np.arange(5))
    generate.samples(base._replace(seed=9), np.arange(5, 8))
    assert [program._cache_size() for program in programs.values()] == [1]


def test_nothing_free_is_refused(tiny_config, tiny_variables, chorale):
    request = tasks.Request(chorale, np.zeros(chorale.pitches.shape, bool))
    with pytest.raises(errors.InputError, match="nothing is free"):
        generate.samples(plan(tiny_config, tiny_variables, request), np.arange(2))


@pytest.mark.parametrize("knows_ends", [False, True])
@pytest.mark.parametrize("sampler", ["gibbs", "maskgit"])
def test_long_pieces_are_the_same_in_windows(tiny_config, tiny_variables, monkeypatch, sampler, knows_ends):
    """What a window computes is what the whole piece would: there is no seam to hear."""
    base = plan(tiny_config, tiny_variables, tasks.compose(150), settings=SAMPLERS[sampler], knows_ends=knows_ends)
    whole = generate.samples(base, np.arange(4)).pitches
    monkeypatch.setattr(generate, "WINDOW_STEPS", 32)
    generate._compiled.cache_clear()
    in_windows = generate.samples(base, np.arange(4)).pitches
    generate._compiled.cache_clear()
    np.testing.assert_array_equal(in_windows, whole)


def test_micro_batches_suit_the_machine_and_the_length(monkeypatch):
    net = config.Model(num_filters=128, dtype="float32")
    monkeypatch.setattr(devices, "memory_bytes", lambda: 4 << 30)
    assert generate.default_micro_batch(1000, 64, net) == 4 and generate.default_micro_batch(1000, 16, net) == 16
    # Eight cores share few samples among them; devices that have none are left out.
    assert generate.default_micro_batch(20, 64, net) == 3 and generate.num_devices(20, 3) == 7
    assert generate.default_micro_batch(3, 64, net) == 1 and generate.num_devices(3, 1) == 3
    assert generate.default_micro_batch(1000, 1024, net) == 2
    assert generate.default_micro_batch(1000, 10**7, net) == 1
    monkeypatch.setattr(devices, "on_cpu", lambda: False)
    a_window = 1024 * (8 * 46 * 128 * 4 + 8 * 4 * 46 * 4)
    assert generate.default_micro_batch(1000, 1024, net) == (2 << 30) // a_window == 10
    assert generate.default_micro_batch(1000, 8192, net) == 8  # longer pieces go in windows, their scores do not
    assert generate.default_micro_batch(20, 64, net) == 20 and generate.num_devices(20, 20) == 1
    assert generate.default_micro_batch(10**4, 64, net) == (2 << 30) // (a_window // 16) == 172
    half = dataclasses.replace(net, dtype="bfloat16")
    assert generate.default_micro_batch(10**4, 64, half) == 335
    monkeypatch.setattr(devices, "memory_bytes", lambda: 80 << 30)
    assert generate.default_micro_batch(10**4, 64, net) == 512


@pytest.mark.parametrize("steps", [40, 41, 64, 100])
def test_logits_in_windows_are_those_of_the_whole_piece(tiny_config, tiny_variables, steps):
    predict = model.make_predict(tiny_variables, tiny_config.model)
    reach = model.reach(tiny_config.model)
    rng = np.random.default_rng(0)
    pitches = rng.integers(36, 82, (2, steps, 4)).astype(np.int8)
    context = rng.random((2, steps, 4)) < 0.5
    valid = np.arange(steps) < np.array([steps, steps - 7])[:, None]
    args = pianoroll.from_pitches(jnp.asarray(pitches)), jnp.asarray(context), jnp.asarray(valid)
    whole = predict(*args)
    for window in (8, 20, 37):
        np.testing.assert_allclose(model.in_windows(predict, reach, window)(*args), whole, atol=1e-6)
    # Windows that know less of the piece around them than they depend on would show.
    short = (1, 1)
    assert np.abs(np.asarray(model.in_windows(predict, short, 8)(*args) - whole)).max() > 1e-4
