"""The LSTM on note events: a law of scores, the same token by token as all at once, and its training bodies."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import data, devices, errors, events, lstm, pianoroll
from coconet_jax import state as state_lib

R = pianoroll.REST


def tiny(**fields) -> lstm.Lstm:
    return lstm.Lstm(**{"num_layers": 2, "num_units": 8, "dropout": 0.0, **fields})


def variables_of(config: lstm.Lstm) -> Any:
    """Fresh ones are nearly indifferent: these are not."""
    shapes, tree = jax.tree.flatten(jax.eval_shape(lambda: lstm.init(jax.random.key(0), config)))
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(tree, [jnp.asarray(0.7 * rng.normal(size=x.shape), jnp.float32) for x in shapes])


def only(voices: list[int], pitches: list[int]):
    """`events.allowed` of a small world, in which other voices are silent and other pitches do not exist."""
    rules = events.allowed
    exist = np.zeros(events.NUM_EVENTS, bool)
    exist[events.FIRST_WAIT :] = True
    for voice in voices:
        exist[events.FIRST_OFF + voice] = True
        exist[[voice * 46 + pitch - 36 for pitch in pitches]] = True

    def allowed(position, order):
        may = rules(position, order)
        return may & jnp.array(exist).reshape((1,) * (may.ndim - 1) + (-1,))

    return allowed


def every_score(voices: list[int], pitches: list[int], steps: int) -> np.ndarray:
    """All arrays [n,steps,4] of that world."""
    cells = np.array(list(itertools.product([R, *pitches], repeat=len(voices) * steps)), np.int8)
    scores = np.full((len(cells), steps, 4), R, np.int8)
    scores[:, :, voices] = cells.reshape(len(cells), steps, len(voices))
    return scores


def total_log_probs(variables, config, scores: np.ndarray) -> np.ndarray:
    """Of scores of one length, in parts: all at once would take much memory."""
    steps = scores.shape[1]
    most = max(int(events.slots(score, np.array(steps), config.order)[1].sum()) for score in scores)
    size = -(-most // 8) * 8

    @jax.jit  # anew in each call: `events.allowed` may have been replaced
    def some(scores):
        lengths = jnp.full(len(scores), steps, jnp.int32)
        strings = events.pack(*events.slots(scores, lengths, config.order), size)
        return jnp.sum(lstm.log_probs(variables, config, strings, lengths), axis=1)

    rows = min(len(scores), 1024)
    parts = [some(np.resize(scores[n : n + rows], (rows, steps, 4))) for n in range(0, len(scores), rows)]
    return np.concatenate(parts)[: len(scores)]


@pytest.mark.parametrize(
    ("voices", "pitches", "steps", "count"),
    [([0, 3], [60, 62], 3, 729), ([1], [60], 13, 8192)],  # the second reaches past a wait of 12
)
@pytest.mark.parametrize("order", list(events.ORDERS))
def test_probabilities_of_all_scores_add_up_to_one(monkeypatch, voices, pitches, steps, count, order):
    monkeypatch.setattr(events, "allowed", only(voices, pitches))
    config = tiny(order=order)
    scores = every_score(voices, pitches, steps)
    assert len(scores) == count
    log_probs = total_log_probs(variables_of(config), config, scores)
    assert np.exp(log_probs.astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)
    assert np.ptp(log_probs) > 3  # a law that is not indifferent


def test_a_score_is_as_likely_as_all_that_go_on_from_it(monkeypatch):
    """The law of t steps is what that of t + 1 leaves of them: pieces are beginnings of endless ones."""
    monkeypatch.setattr(events, "allowed", only([2], [50, 51]))
    config = tiny()
    variables = variables_of(config)
    short, long = (every_score([2], [50, 51], steps) for steps in (3, 4))
    some = np.exp(total_log_probs(variables, config, long)).reshape(27, 3).sum(axis=1)
    np.testing.assert_allclose(np.exp(total_log_probs(variables, config, short)), some, rtol=1e-4)


@pytest.mark.parametrize("hears_position", [True, False])
def test_one_by_one_is_all_at_once(hears_position):
    config = tiny(hears_position=hears_position)
    variables = variables_of(config)
    rng = np.random.default_rng(0)
    apart = rng.integers(18, 40, (3, 8, 4)) * 2 + np.arange(8)[:, None] % 2  # each note another than the one before
    scores = np.repeat(apart, 2, axis=1).astype(np.int8)
    lengths = jnp.full(3, 16)
    strings = events.pack(*events.slots(jnp.asarray(scores), lengths, config.order), 40)
    assert (strings >= 0).all()
    before = jnp.pad(strings, ((0, 0), (1, 0)), constant_values=events.START)[:, :-1]
    position = events.follow(strings, config.order)
    network: Any = lstm.Network(config)
    at_once = jax.jit(network.apply)(variables, before, position)
    memory = lstm.empty(config, 3)
    step = jax.jit(lambda *heard: network.apply(variables, *heard, method="step"))
    for place in range(40):
        memory, logits = step(memory, before[:, place], jax.tree.map(lambda x, n=place: x[:, n], position))
        np.testing.assert_allclose(logits, at_once[:, place], atol=1e-5)


def test_what_follows_does_not_change_what_was():
    config = tiny()
    variables = variables_of(config)
    one = np.repeat(np.array([[60, 55, 50, 45], [62, 55, 50, 43]], np.int8), 4, axis=0)[None]
    other = one.copy()
    other[:, 4:] += 3

    @jax.jit
    def log_probs(score):
        strings = events.pack(*events.slots(score, jnp.array([8]), config.order), 10)
        return lstm.log_probs(variables, config, strings, jnp.array([8]))[0]

    first, second = log_probs(one), log_probs(other)
    np.testing.assert_array_equal(first[:5], second[:5])  # four notes and the wait of 4
    assert (first[5:7] != second[5:7]).all()


def test_the_kernels_gradient_is_that_of_the_plain_scan():
    kernel = jax.random.normal(jax.random.key(0), (4, 16))
    gates = jax.random.normal(jax.random.key(1), (3, 7, 16))
    grads = [
        jax.grad(lambda k, g, run=run: jnp.sum(jnp.sin(run(k, g))), argnums=(0, 1))(kernel, gates)
        for run in (lstm._run, lstm._scan)
    ]
    for mine, plain in zip(*grads, strict=True):
        np.testing.assert_allclose(mine, plain, atol=1e-5)


def run_config(**fields) -> lstm.Config:
    train = {"batch_size": 8, "num_steps": 8, "schedule_steps": 8, "warmup_steps": 2, "eval_batch_size": 8}
    model = {"num_units": 8, "events_per_step": 5.0, **fields.pop("model", {})}
    data_fields = {"crop_steps": 16}
    return lstm.read_config({"model": model, "data": data_fields, "train": {**train, **fields}})


def compiled(config: lstm.Config, num_devices: int, *, streamed: bool):
    mesh = devices.make_mesh(num_devices)
    body = functools.partial(lstm.train_step, config=config)
    step = devices.map_body(body, mesh, "shard_map", sharded=(False, streamed))
    begun = jax.jit(lambda: state_lib.begin(lstm.init(jax.random.key(0), config.model), config.train))()
    return mesh, step, devices.replicate(begun, mesh)


def test_overfits_one_batch(toy_pieces):
    config = run_config(
        learning_rate=3e-2, warmup_steps=0, schedule="constant", model={"num_units": 32, "dropout": 0.0}
    )
    batch = data.Batch(toy_pieces.splits["train"].pitches[:1, :16], np.ones((1, 16), bool))
    batch = jax.tree.map(lambda x: np.repeat(x, 8, axis=0), batch)
    mesh, step, state = compiled(config, 1, streamed=True)
    source = devices.shard_rows(batch, mesh)
    losses = []
    for _ in range(60):
        state, metrics = step(state, source)
        losses.append(float(metrics["loss"]))
    assert losses[0] > 1.5
    assert losses[-1] < 0.1 * losses[0]


def test_four_devices_agree_with_one(toy_pieces):
    config = run_config(model={"dropout": 0.5})
    resident = data.make_resident(toy_pieces.splits["train"], config.data)
    assert (toy_pieces.splits["train"].lengths < 16).any()  # devices hold different numbers of steps
    ended = []
    for count in (1, 4):
        mesh, step, state = compiled(config, count, streamed=False)
        source = devices.replicate(resident, mesh)
        for _ in range(3):
            state, metrics = step(state, source)
        ended.append((state.params, metrics))
    for one, many in zip(*map(jax.tree.leaves, ended), strict=True):
        np.testing.assert_allclose(one, many, atol=1e-5)


def test_validation_is_the_likelihood_of_whole_windows(toy_pieces):
    config = run_config()
    variables = variables_of(config.model)
    found = data.validation(toy_pieces.splits["valid"], config.data)
    windows, clean = data.pad_rows(found.windows, 8), np.array([True, False, True] + [False] * 5)
    mesh = devices.make_mesh(4)
    body = functools.partial(lstm.eval_step, config=config, num_windows=len(found.clean))
    run = devices.map_body(body, mesh, "shard_map", sharded=(False, False, False))
    nll = run(*(devices.replicate(x, mesh) for x in (variables, windows, clean)))
    by_hand, steps = [], []
    for pitches, valid in zip(found.windows.pitches, found.windows.valid, strict=True):
        by_hand.append(-total_log_probs(variables, config.model, pitches[None, valid])[0])
        steps.append(valid.sum())
    assert sorted(steps) == [4, 4, 16, 16, 16]
    assert float(nll[0]) == pytest.approx(sum(by_hand) / sum(steps) / 4, rel=1e-5)
    assert float(nll[1]) == pytest.approx((by_hand[0] + by_hand[2]) / (steps[0] + steps[2]) / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("order", "sideways"),
        ("num_layers", 0),
        ("num_units", 0),
        ("dropout", 1.0),
        ("dropout", float("nan")),
        ("events_per_step", 6.0),
    ],
)
def test_bad_settings_are_named(name, value):
    with pytest.raises(errors.InputError, match=f"model.{name}="):
        lstm.read_config({"model": {name: value}})


def test_settings_of_the_network_alone_are_refused():
    for name, value in (("weight_decay", 0.1), ("context", "bernoulli"), ("stratify", False), ("teachers", "small")):
        with pytest.raises(errors.InputError, match=f"train.{name}={value}: the LSTM trains without it"):
            lstm.check_settings(lstm.read_config({"train": {name: value}}))
    with pytest.raises(errors.InputError, match="data.ends=True: .*use False"):
        lstm.check_settings(lstm.read_config({"data": {"ends": True}}))
