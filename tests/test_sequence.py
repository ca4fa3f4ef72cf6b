"""Runs of the LSTM: the loop, config and checkpoints of Coconet's runs serve it."""

import contextlib
import dataclasses

import conftest
import jax
import numpy as np
import pytest

from coconet_jax import checkpoint, errors, loop, lstm, sequence, train


@pytest.fixture(scope="module")
def settings(toy_path) -> lstm.Config:
    fields = {"batch_size": 8, "num_steps": 8, "schedule_steps": 8, "warmup_steps": 2, "eval_every": 4}
    groups = {
        "data": {"path": toy_path, "crop_steps": 16},
        "model": {"num_units": 8, "events_per_step": 5.0},
        "train": {**fields, "eval_batch_size": 8, "report_every": 2},
    }
    return lstm.read_config({**groups, "num_devices": 2})


def shortened(config: lstm.Config, num_steps: int) -> lstm.Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=num_steps))


def final_state(config: lstm.Config, workdir):
    manager = checkpoint.open_run(workdir)
    with contextlib.closing(manager):
        mesh = train.devices.make_mesh(1)
        return checkpoint.restore(manager, config, mesh, "", kind=lstm.KIND)


def assert_equal(a, b) -> None:
    assert str(jax.tree.structure(a)) == str(jax.tree.structure(b))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.fixture(scope="module")
def whole(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert train.train(settings, folder, sequence.NET) == loop.Stopped("done", 8)
    return folder


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(settings, whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:  # SIGTERM between two evaluations
        patch.setattr(loop, "signals", lambda _: contextlib.nullcontext(lambda step: step == 6))
        assert train.train(settings, tmp_path, sequence.NET) == loop.Stopped("signal", 6)
    assert int(final_state(settings, tmp_path).step) == 6
    assert train.train(settings, tmp_path, sequence.NET) == loop.Stopped("done", 8)
    assert_equal(final_state(settings, tmp_path), final_state(settings, whole))


def test_what_was_saved_is_loaded(settings, whole):
    loaded = checkpoint.load_kind(lstm.KIND, whole)
    assert loaded.config == settings and loaded.metrics.keys() == {"valid_nll"}
    state = final_state(settings, whole)
    assert state.batch_stats == {} and state.ema
    assert_equal(checkpoint.load_kind(lstm.KIND, whole, 8).variables, {"params": state.ema})
    init = dataclasses.replace(settings, train=dataclasses.replace(settings.train, init_from=str(whole)))
    assert_equal(train._initial_state(init, lstm.KIND).params, loaded.variables["params"])


def test_runs_of_another_kind_are_refused(settings, whole, tiny_config):
    with pytest.raises(errors.InputError, match="kind lstm, not coconet; give one that python -m coconet_jax.train"):
        checkpoint.load(whole)
    other = dataclasses.replace(tiny_config, data=settings.data, num_devices=2)
    with pytest.raises(errors.InputError, match="kind lstm, not coconet"):
        train.train(other, whole)


def test_other_settings_are_refused_by_name(settings, whole):
    other = dataclasses.replace(settings, model=dataclasses.replace(settings.model, order="low_to_high"))
    with pytest.raises(errors.InputError, match=r"model.order \('high_to_low' -> 'low_to_high'\)"):
        train.train(other, whole, sequence.NET)


def test_the_command_itself(toy_path, tmp_path):
    words = ("coconet_jax.sequence", "--config=configs/lstm.py", f"--workdir={tmp_path}")
    tiny = (f"--config.data.path={toy_path}", "--config.data.crop_steps=16", "--config.model.num_units=8")
    steps = ("--config.train.num_steps=2", "--config.train.batch_size=8", "--config.train.eval_batch_size=8")
    done = conftest.run_command(*words, *tiny, *steps, JAX_NUM_CPU_DEVICES="1")
    assert done.returncode == 0, done.stderr
    assert "5 pieces of toy" in done.stdout and "done at step 2" in done.stdout
    explained = conftest.run_command("coconet_jax.sequence", "--help")
    assert explained.returncode == 0 and "coconet_jax.sequence_sample" in explained.stdout
