"""Teachers: what they think is learned, they are asked as they were trained, and a run keeps those it began with."""

import dataclasses
import functools
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_train

from coconet_jax import checkpoint, data, devices, errors, model, pianoroll, pieces, steps, train
from coconet_jax import state as state_lib
from coconet_jax import weights as weights_lib


def opinion(pitch: int) -> steps.Teacher:
    """A teacher that thinks alike of all contexts: one pitch has half of the probability, the others share the rest."""
    logits = np.zeros(pianoroll.NUM_PITCHES)
    logits[pitch] = np.log(pianoroll.NUM_PITCHES - 1)
    return lambda roll, context, valid, silent: jnp.broadcast_to(logits[:, None], roll.shape)


def score_of(piece_set: pieces.PieceSet) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Roll, context and valid of two crops of which every other step is given."""
    pitches = jnp.asarray(piece_set.splits["train"].pitches[:2, :16])
    context = jnp.zeros(pitches.shape, bool).at[:, ::2].set(True)
    return pianoroll.from_pitches(pitches), context, jnp.ones(pitches.shape[:2], bool)


def test_what_teachers_think_takes_a_share_of_what_is_learned(toy_pieces):
    pitches = np.array(toy_pieces.splits["train"].pitches[:2, :16])
    pitches[0, 3, 1] = pianoroll.REST
    roll, context = pianoroll.from_pitches(jnp.asarray(pitches)), jnp.zeros(pitches.shape, bool)
    whole = (context, ~context[..., 0], context[..., 0])
    lesson = steps.Lesson((opinion(5), opinion(9)), 0.4)
    wanted = np.asarray(steps.soften(lesson, roll, *whole))
    thought = np.full(pianoroll.NUM_PITCHES, 0.5 / (pianoroll.NUM_PITCHES - 1))
    thought[[5, 9]] = (0.5 + thought[0]) / 2
    expected = 0.6 * np.asarray(roll) + 0.4 * thought[:, None]
    expected *= (pitches != pianoroll.REST)[:, :, None]
    np.testing.assert_allclose(wanted, expected, atol=1e-6)
    np.testing.assert_array_equal(steps.soften(steps.NO_LESSON, roll, *whole), roll)


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_a_net_learns_from_teachers_what_stands_in_no_piece(tiny_config, toy_pieces, parallel):
    config = test_train.with_train(tiny_config, learning_rate=1e-2, warmup_steps=0, schedule="constant")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, pitch_embedding=True))
    resident = data.make_resident(toy_pieces.splits["train"], config.data)
    mesh = devices.make_mesh(2)
    body = functools.partial(steps.train_step, config=config, lesson=steps.Lesson((opinion(7),), 1.0))
    step = devices.map_body(body, mesh, parallel, sharded=(False, False), donate=(0,))
    state = devices.replicate(state_lib.create(jax.random.key(0), config), mesh)
    source = devices.replicate(resident, mesh)
    for _ in range(120):
        state, _ = step(state, source)
    roll, context, valid = score_of(toy_pieces)
    variables = {"params": state.params, "batch_stats": state.batch_stats}  # whose statistics lag behind
    probs = jax.nn.softmax(model.make_predict(variables, config.model)(roll, context, valid), axis=2)
    by_pitch = np.asarray(jnp.mean(probs, axis=(0, 1, 3)))
    assert 0.2 < by_pitch[7] < 0.6 and np.delete(by_pitch, 7).max() < 0.1
    assert jnp.mean(roll, axis=(0, 1, 3))[7] < 0.1  # what the pieces alone would teach


def test_a_run_learns_from_other_runs(tiny_config, toy_path, tmp_path):
    config = dataclasses.replace(test_train.run_of(tiny_config, toy_path), num_devices=1)
    teacher = str(tmp_path / "alone")
    for name, teachers in (("alone", ""), ("taught", f"{teacher},{teacher}")):
        train.train(test_train.with_train(config, teachers=teachers), tmp_path / name)
    alone, taught = (checkpoint.load(tmp_path / name).variables["params"] for name in ("alone", "taught"))
    assert any(np.any(a != b) for a, b in zip(test_train.leaves(alone), test_train.leaves(taught), strict=True))
    with pytest.raises(errors.InputError, match="was started with teachers .*, here are no teachers; give the same"):
        train.train(test_train.with_train(config, num_steps=9), tmp_path / "taught")
    shutil.move(teacher, tmp_path / "elsewhere")  # teachers are known by what they are
    moved = test_train.with_train(config, teachers=f"{tmp_path / 'elsewhere'},{tmp_path / 'elsewhere'}", num_steps=9)
    assert train.train(moved, tmp_path / "taught").step == 9
    with pytest.raises(errors.InputError, match="nowhere"):
        train.train(test_train.with_train(config, teachers="nowhere"), tmp_path / "none")
    assert not (tmp_path / "none" / "checkpoints").exists()
    with pytest.raises(errors.InputError, match=r"train\.teachers=small: it has 4 steps per quarter"):
        train._lesson(test_train.with_data(test_train.with_train(config, teachers="small"), steps_per_quarter=2))


@pytest.mark.parametrize("ends", [False, True])
def test_teachers_are_the_nets_that_were_trained(tiny_config, beating_config, toy_pieces, beating_variables, ends):
    loaded = weights_lib.Loaded(beating_variables, test_train.with_data(beating_config, ends=ends), 1, "", {})
    teacher = train._teacher(loaded, tiny_config.model)
    roll, context, valid = score_of(toy_pieces)
    valid = valid.at[:, 12:].set(False)
    roll, context, silent = roll * valid[..., None, None], context & valid[..., None], ~valid
    shown = (context | silent[..., None], valid | silent) if ends else (context, valid)
    expected = model.make_predict(beating_variables, beating_config.model)(roll, *shown)
    np.testing.assert_allclose(teacher(roll, context, valid, silent), expected, atol=1e-5)
    other = model.make_predict(beating_variables, beating_config.model)(roll, context | silent[..., None], valid)
    assert not ends or np.abs(np.asarray(other - expected)[:, :12]).max() > 1e-3


def test_a_teacher_that_counts_beats_is_asked_on_beats_alone(
    tiny_config, beating_config, beating_variables, monkeypatch
):
    loaded = weights_lib.Loaded(beating_variables, beating_config, 1, "", {})
    monkeypatch.setattr(checkpoint, "load", lambda name: loaded)
    config = test_train.with_train(tiny_config, teachers="any")
    assert len(train._lesson(config)[0].teachers) == 1
    with pytest.raises(
        errors.InputError, match=r"train\.teachers=any: it counts beats of 4 steps, .* use data.crop_grid=4"
    ):
        train._lesson(test_train.with_data(config, crop_grid=2))
