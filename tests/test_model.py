"""The network: counts, layers, reach, the information barrier, padding, BatchNorm, and a slow plain twin."""

import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import config, convolution, devices, model, pianoroll

STRAIGHT = config.Model(num_layers=6, num_filters=8)
NETS = {
    "straight": STRAIGHT,
    "last kernel 3": config.Model(num_layers=6, num_filters=8, last_kernel=3),
    "dilated": config.Model(num_layers=7, num_filters=8, dilations=((2, 4), (4, 1))),
    "separable": config.Model(
        architecture="separable", num_layers=7, num_filters=8, dilations=((1, 2), (2, 4)), pointwise_splits=2
    ),
    "pitch embedding": config.Model(num_layers=4, num_filters=8, pitch_embedding=True),
    "pitch mixing": config.Model(num_layers=6, num_filters=8, pitch_mixing=True, dilations=((2, 1),)),
    "beats": config.Model(num_layers=6, num_filters=8, beat_steps=4),
    "separable throughout": config.Model(architecture="separable", num_layers=6, num_filters=8, full_layers=0),
}
each_net = pytest.mark.parametrize("net", NETS.values(), ids=NETS.keys())


@functools.cache
def noisy(net: config.Model) -> model.Variables:
    """Fresh variables moved a little, so that a scale, bias or statistic that is forgotten would show."""
    leaves, tree = jax.tree.flatten(model.init(jax.random.key(0), net))
    rng = np.random.default_rng(0)
    moved = [np.asarray(leaf) + rng.uniform(0, 0.3, leaf.shape).astype(np.float32) for leaf in leaves]
    return jax.tree.map(jnp.asarray, jax.tree.unflatten(tree, moved))


def example(lengths: tuple[int, ...] = (12, 7), steps: int = 12, seed: int = 0) -> tuple[jax.Array, ...]:
    """Random roll with rests, context and valid."""
    rng = np.random.default_rng(seed)
    pitches = rng.integers(36, 82, (len(lengths), steps, 4))
    pitches[rng.random(pitches.shape) < 0.1] = pianoroll.REST
    valid = np.arange(steps) < np.array(lengths)[:, None]
    context = (rng.random(pitches.shape) < 0.5) & valid[..., None]
    return pianoroll.from_pitches(jnp.asarray(pitches)), jnp.asarray(context), jnp.asarray(valid)


@functools.cache
def forward(net: config.Model, train: bool = False):
    return jax.jit(lambda variables, *args: model.apply(variables, net, *args, train=train))


# ---------------------------------------------------------------------------------------- shape of the net


def count(net: config.Model) -> int:
    return model.num_params(jax.eval_shape(lambda: model.init(jax.random.key(0), net)))


def test_parameter_counts_of_the_paper():
    assert count(config.Model(last_kernel=3)) == 9_172_232
    assert count(config.Model(last_kernel=2)) == 9_087_752  # as released


def test_parameter_count_of_the_separable_net():
    dilations = ((1, 1), (2, 2), (4, 4), (8, 8), (16, 16), (16, 32))
    net = config.Model(architecture="separable", num_layers=33, dilations=dilations)
    full = 9 * 8 * 128 + 9 * 128 * 128
    separable = 29 * (9 * 128 + 128 * 128)
    last = (4 * 128 + 128 * 128) + (4 * 128 + 128 * 4)
    norms = 2 * (32 * 128 + 4)
    assert count(net) == full + separable + last + norms == 691_336
    # Dilations cost nothing; four splits leave a quarter of the 30 square pointwise kernels.
    assert count(config.Model(architecture="separable", num_layers=33)) == 691_336
    split = config.Model(architecture="separable", num_layers=33, pointwise_splits=4)
    assert count(split) == 691_336 - 30 * 128 * 128 * 3 // 4


def test_pitch_offsets_start_at_nothing():
    net = config.Model(num_layers=4, num_filters=8, pitch_embedding=True)
    plain = dataclasses.replace(net, pitch_embedding=False)
    assert count(net) == count(plain) + 46 * 8 + 46 * 4
    variables = model.init(jax.random.key(0), net)
    params = {name: value for name, value in variables["params"].items() if name.startswith("layer")}
    expected = forward(plain)({**variables, "params": params}, *example())[0]
    np.testing.assert_allclose(forward(net)(variables, *example())[0], expected, rtol=1e-5, atol=1e-6)


def test_pitch_mixing_is_in_each_layer_that_keeps_its_channels():
    """The first layer and the last do not; one entry for each interval up and down and for the unison."""
    net = config.Model(num_layers=12, num_filters=20)
    more = count(dataclasses.replace(net, pitch_mixing=True)) - count(net)
    assert more == 10 * (2 * pianoroll.NUM_PITCHES - 1) * 20


@pytest.mark.parametrize("name", ["straight", "separable", "pitch mixing", "pitch embedding", "beats"])
def test_a_larger_net_starts_as_the_same_function(name):
    net = dataclasses.replace(NETS[name], num_layers=8)
    wanted = dataclasses.replace(net, num_layers=12, beat_steps=4)
    inner = [spec.dilation for spec in model.layer_specs(net)[1:-2]]
    wanted = dataclasses.replace(wanted, dilations=(*inner[:4], (3, 1), (1, 1), (1, 2), (1, 1), *inner[4:]))
    variables = noisy(net)
    larger = model.extend(variables, net, wanted, jax.random.key(1))
    assert larger is not None and model.num_params(larger) == count(wanted)
    expected = forward(net)(variables, *example())[0]
    np.testing.assert_allclose(forward(wanted)(larger, *example())[0], expected, rtol=1e-5, atol=1e-5)
    # What is new can be learned: all of it has a gradient, or gets one with the first step of the scales.
    loss = lambda params: jnp.sum(jnp.square(forward(wanted)({**larger, "params": params}, *example())[0]))  # noqa: E731
    grads = jax.grad(loss)(larger["params"])
    assert all(np.any(grads[f"layer_{n:02d}"]["norm"]["scale"]) for n in (6, 8)) and np.any(grads["beat_embedding"])
    for other in (
        dataclasses.replace(wanted, num_layers=11),
        dataclasses.replace(wanted, num_filters=9),
        dataclasses.replace(wanted, dilations=((5, 1), *wanted.dilations[1:])),
    ):
        assert model.extend(variables, net, other, jax.random.key(1)) is None
    if net.beat_steps:
        assert model.extend(variables, net, dataclasses.replace(wanted, beat_steps=0), jax.random.key(1)) is None
    shallow = dataclasses.replace(net, num_layers=4)
    assert model.extend(noisy(shallow), shallow, dataclasses.replace(net, num_layers=6), jax.random.key(1)) is None


def test_layer_specs():
    specs = model.layer_specs(config.Model(num_layers=8, num_filters=16, dilations=((1, 1), (2, 4), (8, 16))))
    assert [s.kernel for s in specs] == [3, 3, 3, 3, 3, 3, 2, 2]
    inner = [(1, 1), (2, 4), (8, 16), (1, 1), (2, 4)]
    assert [s.dilation for s in specs] == [(1, 1), *inner, (1, 1), (1, 1)]
    assert [s.features for s in specs] == [16] * 7 + [4]
    assert not any(s.separable for s in specs)
    specs = model.layer_specs(config.Model(architecture="separable", num_layers=6, last_kernel=3))
    assert [s.kernel for s in specs] == [3] * 6
    assert [s.separable for s in specs] == [False, False, True, True, True, True]


def test_initial_values_are_as_released():
    net = config.Model(num_layers=4, num_filters=32)
    variables = model.init(jax.random.key(0), net)
    layer = variables["params"]["layer_01"]
    assert layer["kernel"].shape == (3, 3, 32, 32)
    assert set(layer) == {"kernel", "norm"}  # no bias beside BatchNorm's
    assert float(np.std(layer["kernel"])) == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.03)
    assert np.abs(np.asarray(layer["kernel"])).max() > 3.5 * (2 / (9 * 32)) ** 0.5  # not truncated
    assert np.unique(layer["norm"]["scale"]).tolist() == [np.float32(0.1)]
    assert not layer["norm"]["bias"].any()
    stats = variables["batch_stats"]["layer_03"]["norm"]
    assert stats["mean"].tolist() == [0] * 4
    assert stats["var"].tolist() == [1] * 4
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    other = model.init(jax.random.key(1), net)["params"]["layer_01"]["kernel"]
    assert (np.asarray(other) != np.asarray(layer["kernel"])).all()


@pytest.mark.parametrize(
    "net, expected",
    [
        (config.Model(num_layers=64, last_kernel=3), (64, 64)),
        (config.Model(num_layers=64, last_kernel=2), (62, 64)),
        (config.Model(num_layers=7, dilations=((2, 4), (4, 1))), (1 + 2 + 4 + 2 + 4, 15)),
    ],
)
def test_reach_adds_up(net, expected):
    assert model.reach(net) == expected


@pytest.mark.parametrize("name", ["straight", "last kernel 3", "dilated", "separable", "pitch mixing"])
def test_logits_depend_on_what_is_in_reach_and_nothing_else(name):
    net = NETS[name]
    before, after = model.reach(net)
    steps, at = before + after + 5, after + 2
    variables = noisy(net)
    roll, _, valid = example((steps,), steps)
    everything = jnp.ones((1, steps, 4), bool)
    run = forward(net)
    other = np.array(roll)
    other[:, at] = np.roll(other[:, at], 7, axis=1)  # other pitches
    logits, moved = (np.asarray(run(variables, r, everything, valid)[0]) for r in (roll, jnp.asarray(other)))
    changed = (logits != moved).any(axis=(0, 2, 3))
    # A step reaches `before` steps back: what changes at `at` is seen up to `before` steps later.
    assert np.flatnonzero(changed).tolist() == list(range(at - after, at + before + 1))


@pytest.mark.parametrize("name", ["straight", "last kernel 3", "dilated", "separable", "pitch mixing", "beats"])
def test_a_step_from_its_reach_has_the_logits_of_the_whole_piece(name):
    """At both ends of a piece, where the reach goes beyond it, and in the middle."""
    net = NETS[name]
    before, after = model.reach(net)
    steps = before + after + 5
    variables = noisy(net)
    roll, context, valid = example((steps,), steps)
    whole = np.asarray(forward(net)(variables, roll, context, valid)[0])[0]
    predict_step = jax.jit(model.make_predict_step(variables, net))
    padded = [jnp.pad(x, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2)) for x in (roll, context, valid)]
    for at in (0, 1, steps // 2, steps - 1):
        found = predict_step(*(x[:, at : at + before + 1 + after] for x in padded), jnp.array([at - before]))
        np.testing.assert_allclose(found[0], whole[at], atol=1e-5 * np.abs(whole).max())


def test_a_net_that_knows_beats_knows_its_place_among_them():
    net = NETS["beats"]
    assert count(net) == count(STRAIGHT) + 4 * 8
    predict = model.make_predict(noisy(net), net)
    roll, context, valid = example((12, 12, 12))
    begun = np.asarray(predict(roll, context, valid))
    np.testing.assert_array_equal(begun, predict(roll, context, valid, jnp.array([0, 4, -8])))
    moved = np.asarray(predict(roll, context, valid, jnp.array([0, 1, -3])))
    np.testing.assert_array_equal(begun[0], moved[0])
    assert np.abs(begun[1:] - moved[1:]).max() > 1e-2
    np.testing.assert_array_equal(moved[2], predict(roll, context, valid, 1)[2])
    # A score that begins within a beat is as one of which the rest of that beat is not there.
    there = jnp.arange(12)[None] >= 3
    whole = predict(roll, context, valid & there)
    np.testing.assert_allclose(
        predict(roll[:, 3:], context[:, 3:], valid[:, 3:], 3), whole[:, 3:], rtol=1e-4, atol=1e-4
    )


def test_windows_know_their_place_among_the_beats():
    net = NETS["beats"]
    predict, firsts = model.make_predict(noisy(net), net), jnp.array([2, -5])
    roll, context, valid = example((41, 30), 41)
    whole = predict(roll, context, valid, firsts)
    for steps in (5, 8):
        found = model.in_windows(predict, model.reach(net), steps)(roll, context, valid, firsts)
        np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------- information barrier


@each_net
@pytest.mark.parametrize("train", [False, True])
def test_targets_are_not_seen(net, train):
    variables = noisy(net)
    roll, context, valid = example()
    other = example(seed=9)[0]
    given = np.asarray(context)[:, :, None, :]
    replaced = jnp.asarray(np.where(given, roll, other))
    assert (np.asarray(replaced) != np.asarray(roll)).any(axis=2).sum() > 30
    run = forward(net, train)
    logits, stats = run(variables, roll, context, valid)
    other_logits, other_stats = run(variables, replaced, context, valid)
    np.testing.assert_array_equal(logits, other_logits)
    jax.tree.map(np.testing.assert_array_equal, stats, other_stats)
    # While a note of the context is.
    seen = jnp.asarray(np.where(given, other, roll))
    assert np.abs(np.asarray(run(variables, seen, context, valid)[0]) - np.asarray(logits)).max() > 1e-3


@each_net
@pytest.mark.parametrize("train", [False, True])
def test_gradient_at_targets_is_zero_and_at_context_is_not(net, train):
    variables = noisy(net)
    roll, context, valid = example()
    weights = jax.random.normal(jax.random.key(1), roll.shape)

    @jax.jit
    def gradient(roll: jax.Array) -> jax.Array:
        return jax.grad(lambda r: jnp.sum(weights * model.apply(variables, net, r, context, valid, train=train)[0]))(
            roll
        )

    touched = np.asarray(jnp.any(gradient(roll) != 0, axis=2))
    np.testing.assert_array_equal(touched, context)


def test_a_rest_given_differs_from_a_note_to_find():
    variables = noisy(STRAIGHT)
    _, _, valid = example((12,))
    silent = jnp.zeros((1, 12, 46, 4))
    given = jnp.ones((1, 12, 4), bool)
    one, other = (np.asarray(forward(STRAIGHT)(variables, silent, flags, valid)[0]) for flags in (given, ~given))
    assert np.abs(one - other).max() > 1e-3


# ------------------------------------------------------------------------------------------------- padding


@each_net
@pytest.mark.parametrize("train", [False, True])
def test_a_padded_piece_gives_the_piece_alone(net, train):
    variables = noisy(net)
    roll, context, valid = example((7, 7))
    context = context | ~valid[..., None]  # nonsense in the padding
    alone, alone_stats = forward(net, train)(variables, roll[:, :7], context[:, :7], valid[:, :7])
    padded, padded_stats = forward(net, train)(variables, roll, context, valid)
    scale = np.abs(np.asarray(alone)).max()
    assert scale > 0.1
    np.testing.assert_allclose(padded[:, :7], alone, atol=1e-5 * max(scale, 1))
    assert not np.asarray(padded[:, 7:]).any()
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), padded_stats, alone_stats)


@each_net
def test_silence_is_given_around_what_begins_and_ends_and_nothing_else_changes(net):
    variables = noisy(net)
    roll, context, valid = example((9, 9, 9), 9)
    predict = model.make_predict(variables, net)
    ends = np.array([[False, False], [True, False], [True, True]])
    found = model.between_silences(predict, jnp.asarray(ends))(roll, context, valid)
    plain = predict(roll, context, valid)
    np.testing.assert_allclose(found[:1], plain[:1], rtol=1e-4, atol=1e-4)
    for row, (before, after) in enumerate(ends * model.SILENCE_STEPS):
        around = ((0, 0), (before, after))
        silent = jnp.pad(roll[row : row + 1], (*around, (0, 0), (0, 0)))
        given = jnp.pad(context[row : row + 1], (*around, (0, 0)), constant_values=True)
        whole = predict(silent, given, jnp.ones(silent.shape[:2], bool))
        np.testing.assert_allclose(found[row], whole[0, before : before + 9], rtol=1e-4, atol=1e-4)
    assert np.abs(found[1:] - plain[1:]).max() > 1e-3


def test_pieces_do_not_see_each_other_outside_training():
    variables = noisy(STRAIGHT)
    roll, context, valid = example((12, 7, 5))
    whole = forward(STRAIGHT)(variables, roll, context, valid)[0]
    one = forward(STRAIGHT)(variables, roll[1:2], context[1:2], valid[1:2])[0]
    np.testing.assert_allclose(whole[1:2], one, atol=1e-5)


# ----------------------------------------------------------------------------------------------- BatchNorm


def batch_norm_case() -> tuple[jax.Array, jax.Array, model.Variables]:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(2.0, 3.0, (3, 6, 5, 4)), jnp.float32)
    valid = jnp.asarray(np.arange(6) < np.array([6, 2, 4])[:, None])
    variables = {
        "params": {"scale": jnp.asarray(rng.uniform(0.5, 2, 4), jnp.float32), "bias": jnp.arange(4.0)},
        "batch_stats": {"mean": jnp.arange(4.0) / 3, "var": jnp.arange(1.0, 5.0)},
    }
    return x, valid, variables


NORM: dict[str, Any] = {"momentum": 0.9, "epsilon": 1e-3}


def own_norm(axis_name: str | None = None) -> model.BatchNorm:
    return model.BatchNorm(**NORM, scale_init=0.1, train_bias=True, axis_name=axis_name)


def test_batch_norm_equals_numpy_over_what_is_valid():
    x, valid, variables = batch_norm_case()
    inside = np.asarray(x, np.float64)[np.asarray(valid)].reshape(-1, 4)
    scale, bias = (np.asarray(variables["params"][k]) for k in ("scale", "bias"))
    mean, var = inside.mean(axis=0), inside.var(axis=0)
    normed, updates = own_norm().apply(variables, x, valid, True, mutable=["batch_stats"])
    np.testing.assert_allclose(
        normed, (np.asarray(x) - mean) / np.sqrt(var + 1e-3) * scale + bias, rtol=1e-4, atol=1e-4
    )
    stats = updates["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.9 * np.arange(4) / 3 + 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 * np.arange(1, 5) + 0.1 * var, rtol=1e-5)
    found: Any = own_norm().apply(variables, x, valid, False)
    mean, var = np.arange(4) / 3, np.arange(1, 5)
    np.testing.assert_allclose(found, (np.asarray(x) - mean) / np.sqrt(var + 1e-3) * scale + bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("train", [True, False])
def test_batch_norm_equals_flax_where_nothing_is_padded(train):
    x, valid, variables = batch_norm_case()
    theirs, their_updates = nn.BatchNorm(use_running_average=not train, use_fast_variance=False, **NORM).apply(
        variables, x, mutable=["batch_stats"]
    )
    ours, updates = own_norm().apply(variables, x, jnp.ones_like(valid), train, mutable=["batch_stats"])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, their_updates)


@pytest.mark.parametrize("num_devices", [2, 4])
def test_statistics_span_devices_that_hold_unequal_numbers_of_cells(num_devices):
    variables = noisy(STRAIGHT)
    roll, context, valid = example((12, 12, 3, 1))
    mesh = devices.make_mesh(num_devices)

    def body(variables, *args):
        return model.apply(variables, STRAIGHT, *args, train=True, axis_name=devices.AXIS)[1]

    spread = devices.map_body(body, mesh, "shard_map", sharded=(False, True, True, True))
    parts = devices.shard_rows((roll, context, valid), mesh)
    found = spread(devices.replicate(variables, mesh), *parts)
    expected = forward(STRAIGHT, True)(variables, roll, context, valid)[1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, expected)


@pytest.mark.parametrize(
    ("num_layers", "more"), [(6, {}), (7, {}), (6, {"remat": True}), (6, {"architecture": "separable"})]
)
def test_dropout_is_of_whole_channels_between_the_layers_of_a_pair(num_layers, more):
    net = config.Model(num_layers=num_layers, num_filters=8, **more)
    pairs = (num_layers - 2) // 2
    assert model.num_pairs(net) == pairs
    variables, args = noisy(net), example()
    run = jax.jit(lambda variables, keep: model.apply(variables, net, *args, train=True, keep=keep)[0])
    plain = forward(net, True)(variables, *args)[0]
    np.testing.assert_allclose(run(variables, jnp.ones((2, pairs, 8))), plain, atol=1e-5)

    def moved(layer: int, channel: int) -> model.Variables:
        """What the layer's channel puts out is another, before its ReLU and behind its BatchNorm."""
        changed = jax.tree.map(lambda leaf: leaf, variables)
        norm = changed["params"][f"layer_{layer:02d}"]["norm"]
        norm["bias"] = norm["bias"].at[channel].add(1.0)
        return changed

    for pair in range(pairs):
        silent = jnp.ones((2, pairs, 8)).at[:, pair, 3].set(0)
        plain = run(variables, silent)
        np.testing.assert_array_equal(run(moved(2 * pair + 1, 3), silent), plain)
        assert (run(moved(2 * pair + 1, 4), silent) != plain).any()
        assert (run(moved(2 * pair + 2, 3), silent) != plain).any()
        assert (run(moved(num_layers - 2, 3), silent) != plain).any()  # which belongs to no pair where layers are odd


def test_statistics_change_in_training_alone():
    variables = noisy(STRAIGHT)
    stats = variables["batch_stats"]
    same = forward(STRAIGHT)(variables, *example())[1]
    jax.tree.map(np.testing.assert_array_equal, stats, same)
    moved = forward(STRAIGHT, True)(variables, *example())[1]
    assert all(
        (np.asarray(a) != np.asarray(b)).any()
        for a, b in zip(jax.tree.leaves(stats), jax.tree.leaves(moved), strict=True)
    )


def test_the_last_bias_which_a_softmax_does_not_see_has_no_gradient():
    variables = noisy(STRAIGHT)
    args = example()
    weights = jax.random.normal(jax.random.key(1), args[0].shape)

    @jax.jit
    def gradient(params):
        def loss(params):
            logits = model.apply({**variables, "params": params}, STRAIGHT, *args, train=True)[0]
            return jnp.sum(weights * logits)

        return jax.grad(loss)(params)

    biases = {name: np.asarray(layer["norm"]["bias"]) for name, layer in gradient(variables["params"]).items()}
    assert {name for name, bias in biases.items() if not bias.any()} == {"layer_05"}


# -------------------------------------------------------------------------------------- dtype and recompute


@pytest.mark.parametrize("name, train", [("straight", False), ("straight", True), ("separable", True)])
def test_bfloat16_computes_near_float32_and_keeps_float32_outside(name, train):
    half = dataclasses.replace(NETS[name], dtype="bfloat16")
    variables = model.init(jax.random.key(0), half)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    exact = np.asarray(forward(NETS[name], train)(variables, *example())[0])
    logits, stats = forward(half, train)(variables, *example())
    assert logits.dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
    error = np.abs(np.asarray(logits) - exact).max() / np.abs(exact).max()
    assert 1e-5 < error < 0.05


def test_compute_dtype_follows_the_machine(monkeypatch):
    assert model.compute_dtype(config.Model()) == jnp.float32
    assert model.compute_dtype(config.Model(dtype="bfloat16")) == jnp.bfloat16
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert model.compute_dtype(config.Model()) == jnp.bfloat16
    assert model.compute_dtype(config.Model(dtype="float32")) == jnp.float32


@pytest.mark.parametrize("name", ["straight", "separable"])
def test_remat_gives_equal_outputs_and_gradients(name):
    small = dataclasses.replace(NETS[name], num_layers=4, full_layers=1)
    variables = noisy(small)
    args = example()
    weights = jax.random.normal(jax.random.key(1), args[0].shape)

    def value_and_gradient(net: config.Model):
        def loss(params):
            logits, stats = model.apply({**variables, "params": params}, net, *args, train=True)
            return jnp.sum(weights * logits), (logits, stats)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(variables["params"])

    plain = value_and_gradient(small)
    again = value_and_gradient(dataclasses.replace(small, remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, again)


# --------------------------------------------------------------------------------------------- a slow twin


def plain_convolution(x: np.ndarray, kernel: np.ndarray, dilation: tuple[int, int]) -> np.ndarray:
    """SAME convolution one kernel entry at a time; an even kernel reaches one cell further right and up."""
    size = kernel.shape[0]
    steps, rows = x.shape[1:3]
    out = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for i in range(size):
        for j in range(size):
            dt, dp = (n * d - (size - 1) * d // 2 for n, d in zip((i, j), dilation, strict=True))
            for t in range(max(0, -dt), min(steps, steps - dt)):
                for p in range(max(0, -dp), min(rows, rows - dp)):
                    out[:, t, p] += x[:, t + dt, p + dp] @ kernel[i, j]
    return out


def plain_layer(x, variables, name, spec, splits, valid, skip=None, relu=True) -> np.ndarray:
    params, stats = variables["params"][name], variables["batch_stats"][name]["norm"]
    mixed = np.zeros(1)
    if "intervals" in params:
        rows = range(x.shape[2])
        by_interval = np.array([[params["intervals"][p - q + len(rows) - 1] for q in rows] for p in rows])
        mixed = np.einsum("pqc,btqc->btpc", by_interval, x)
    if spec.separable:
        depth = params["depthwise"]
        x = plain_convolution(x, np.stack([np.stack([np.diag(k) for k in row]) for row in depth]), spec.dilation)
        point = params["pointwise"][0, 0]
        ins = x.shape[-1] // splits
        outs = point.shape[1] // splits
        x = np.concatenate(
            [x[..., g * ins : (g + 1) * ins] @ point[:, g * outs : (g + 1) * outs] for g in range(splits)], axis=-1
        )
    else:
        x = plain_convolution(x, params["kernel"], spec.dilation)
    x = x + mixed
    norm = params["norm"]
    x = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-7) * norm["scale"] + norm["bias"]
    x = x if skip is None else x + skip
    x = np.maximum(x, 0) if relu else x
    return x * np.asarray(valid)[:, :, None, None]


@pytest.mark.parametrize(
    "net",
    [
        STRAIGHT,
        dataclasses.replace(STRAIGHT, pitch_mixing=True),
        config.Model(
            architecture="separable",
            num_layers=6,
            num_filters=8,
            dilations=((1, 2), (2, 1), (3, 4)),
            last_kernel=3,
            pointwise_splits=2,
        ),
    ],
    ids=["straight", "pitch mixing", "separable"],
)
def test_six_layers_equal_a_plain_reimplementation(net):
    variables = jax.tree.map(np.asarray, noisy(net))
    roll, context, valid = example()
    given = np.broadcast_to(np.asarray(context)[:, :, None, :], roll.shape).astype(float)
    x = np.concatenate([np.asarray(roll) * given, given], axis=-1)
    separable = net.architecture == "separable"
    shapes = [(3, (1, 1), False), (3, (1, 1), False), (3, (1, 1), False), (3, (1, 1), False)]
    shapes += [(2, (1, 1), False), (2, (1, 1), False)]
    if separable:
        shapes = [(3, (1, 1), False), (3, (1, 2), False), (3, (2, 1), True), (3, (3, 4), True)]
        shapes += [(3, (1, 1), True), (3, (1, 1), True)]
    specs = [model.LayerSpec(k, d, 8, s) for k, d, s in shapes]

    def layer(x: np.ndarray, n: int, **how: object) -> np.ndarray:
        return plain_layer(x, variables, f"layer_{n:02d}", specs[n], 2 if separable and n < 5 else 1, valid, **how)

    first = layer(x, 0)
    second = layer(layer(first, 1), 2, skip=first)
    third = layer(layer(second, 3), 4, skip=second)
    expected = layer(third, 5, relu=False)
    found = forward(net)(variables, roll, context, valid)[0]
    assert found.shape == (2, 12, 46, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "num_layers, pairs", [(6, [(1, 2), (3, 4)]), (7, [(1, 2), (3, 4)]), (8, [(1, 2), (3, 4), (5, 6)])]
)
def test_residual_pairs(num_layers, pairs, monkeypatch):
    net = config.Model(num_layers=num_layers, num_filters=8)
    seen: list[tuple[object, object]] = []
    plain = model.Layer.__call__

    def spy(self, x, skip, valid, train):
        seen.append((x, skip))
        return plain(self, x, skip, valid, train)

    monkeypatch.setattr(model.Layer, "__call__", spy)
    jax.eval_shape(lambda *args: model.Coconet(net).init_with_output(jax.random.key(0), *args, train=False), *example())
    assert len(seen) == num_layers
    found = [(m, n) for n, (_, skip) in enumerate(seen) for m, (x, _) in enumerate(seen) if skip is x]
    assert found == pairs


def test_predict_is_the_network_outside_training(tiny_config, tiny_variables):
    predict = model.make_predict(tiny_variables, tiny_config.model)
    found = jax.jit(predict)(*example())
    expected = forward(tiny_config.model)(tiny_variables, *example())[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert found.dtype == jnp.float32


def test_the_dtype_of_the_convolution_is_the_activations():
    x = jnp.ones((1, 4, 5, 8), jnp.bfloat16)
    assert convolution.full(x, jnp.ones((3, 3, 8, 4), jnp.bfloat16), (1, 1)).dtype == jnp.bfloat16
    assert convolution.depthwise(x, jnp.ones((3, 3, 8), jnp.bfloat16), (1, 1)).dtype == jnp.bfloat16
