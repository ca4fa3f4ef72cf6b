"""Training: learns, agrees over devices and processes, resumes bit for bit, survives kills, refuses nonsense."""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import pathlib
import runpy
import signal
import socket
import subprocess
import sys
import time
import types
from typing import Any

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import (
    checkpoint,
    data,
    devices,
    errors,
    export,
    files,
    loop,
    mirror,
    model,
    objective,
    pianoroll,
    pieces,
    progress,
    sample,
    samples,
    steps,
    storage,
    train,
)
from coconet_jax import config as config_lib
from coconet_jax import evaluate as evaluation_command
from coconet_jax import state as state_lib
from coconet_jax import weights as weights_lib


def with_train(config: config_lib.Config, **fields) -> config_lib.Config:
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **fields))


def with_data(config: config_lib.Config, **fields) -> config_lib.Config:
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **fields))


def compiled_step(config, num_devices, parallel, *, streamed=False):
    mesh = devices.make_mesh(num_devices)
    body = functools.partial(steps.train_step, config=config)
    return mesh, devices.map_body(body, mesh, parallel, sharded=(False, streamed), donate=(0,))


def leaves(tree) -> list[np.ndarray]:
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def assert_equal(a, b) -> None:
    for x, y in zip(leaves(a), leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def run_steps(config, resident, num_devices, parallel, count):
    mesh, step = compiled_step(config, num_devices, parallel)
    state = devices.replicate(state_lib.create(jax.random.key(0), config), mesh)
    source = devices.replicate(resident, mesh)
    losses = []
    for _ in range(count):
        state, metrics = step(state, source)
        losses.append(float(metrics["loss"]))
    return state, losses


def test_overfits_one_batch(tiny_config, toy_pieces):
    config = with_train(tiny_config, learning_rate=1e-2, warmup_steps=0, schedule="constant")
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, num_filters=16))
    batch = data.Batch(toy_pieces.splits["train"].pitches[:1, :16], np.ones((1, 16), bool))
    batch = jax.tree.map(lambda x: np.repeat(x, 8, axis=0), batch)
    mesh, step = compiled_step(config, 1, "shard_map", streamed=True)
    state = devices.replicate(state_lib.create(jax.random.key(0), config), mesh)
    source = devices.shard_rows(batch, mesh)
    losses = []
    for _ in range(120):
        state, metrics = step(state, source)
        losses.append(float(metrics["loss"]))
    assert losses[0] == pytest.approx(np.log(pianoroll.NUM_PITCHES), rel=0.03)
    assert np.mean(losses[-10:]) < 0.5 * losses[0]


@pytest.mark.parametrize(("parallel", "dropout"), [("shard_map", 0.0), ("pmap", 0.0), ("shard_map", 0.3)])
def test_eight_devices_agree_with_one(tiny_config, toy_pieces, parallel, dropout):
    resident = data.make_resident(toy_pieces.splits["train"], tiny_config.data)
    # Pieces shorter than the crop make devices hold different numbers of cells.
    assert (toy_pieces.splits["train"].lengths < tiny_config.data.crop_steps).any()
    config = with_train(tiny_config, warmup_steps=0)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, dropout=dropout))
    assert config.train.learning_rate == config_lib.Train().learning_rate  # what recipes train with
    one, losses_one = run_steps(config, resident, 1, "shard_map", 5)
    many, losses_many = run_steps(config, resident, 8, parallel, 5)
    np.testing.assert_allclose(losses_one, losses_many, atol=1e-5)
    for x, y in zip(leaves(one), leaves(many), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    start = state_lib.create(jax.random.key(0), config)
    assert np.abs(leaves(one.params)[-1] - leaves(start.params)[-1]).max() > 1e-4
    if dropout:  # is heard in training
        assert losses_one != run_steps(with_train(tiny_config, warmup_steps=0), resident, 1, "shard_map", 5)[1]


@pytest.mark.parametrize("parallel", ["shard_map", "pmap"])
def test_several_steps_in_one_dispatch_agree_with_single_ones(tiny_config, toy_pieces, parallel):
    resident = data.make_resident(toy_pieces.splits["train"], tiny_config.data)
    single, losses = run_steps(tiny_config, resident, 2, "shard_map", 3)
    mesh = devices.make_mesh(2)
    body = functools.partial(steps.train_step, config=tiny_config)
    several = functools.partial(steps.train_steps, step=body)
    mapped = devices.map_body(several, mesh, parallel, sharded=(False, False, False), donate=(0,))
    state = devices.replicate(state_lib.create(jax.random.key(0), tiny_config), mesh)
    state, metrics = mapped(state, devices.replicate(resident, mesh), np.int32(3))
    assert int(state.step) == 3
    np.testing.assert_allclose(metrics["loss"][:3], losses, atol=1e-6)
    assert np.isnan(np.asarray(metrics["loss"][3:])).all()
    for x, y in zip(leaves(single.params), leaves(state.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


@pytest.mark.parametrize("ends", [False, True])
def test_streamed_batches_train_as_resident_ones_do(tiny_config, toy_pieces, ends):
    config = with_data(tiny_config, ends=ends)
    resident = data.make_resident(toy_pieces.splits["train"], config.data)
    expected, losses = run_steps(config, resident, 4, "shard_map", 3)
    mesh, step = compiled_step(config, 4, "shard_map", streamed=True)
    state = devices.replicate(state_lib.create(jax.random.key(0), config), mesh)
    rows = train._rows_of_process(config.train.batch_size, mesh)
    stream = data.stream(resident, config.data, seed=config.train.seed, first_step=0, rows=rows)
    for batch, loss in zip(itertools.islice(stream, 3), losses, strict=True):
        state, metrics = step(state, devices.shard_rows(batch, mesh))
        assert float(metrics["loss"]) == pytest.approx(loss, abs=1e-6)
    for x, y in zip(leaves(expected.params), leaves(state.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_dropout_belongs_to_the_example():
    keep = steps.draw_dropout(jax.random.key(0), jnp.arange(4), (2, 500), 0.25)
    assert keep.shape == (4, 2, 500) and set(np.unique(keep)) == {0.0, np.float32(1 / 0.75)}
    assert float(keep.mean()) == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(steps.draw_dropout(jax.random.key(0), jnp.array([2]), (2, 500), 0.25)[0], keep[2])
    assert (keep[0] != keep[1]).any()


def test_contexts_of_three_kinds_share_a_batch():
    key, index, valid = jax.random.key(1), jnp.arange(16), jnp.ones((16, 24), bool)
    orderless = config_lib.Train(batch_size=16)
    mixed = dataclasses.replace(orderless, frame_share=0.25, past_share=0.25)
    plain = np.asarray(steps.draw_task(key, index, valid, orderless).context)
    context, target, whole_pieces = map(np.asarray, steps.draw_task(key, index, valid, mixed))
    kept = np.flatnonzero(whole_pieces)
    assert len(kept) == 8 and (np.diff(kept) == 2).all()
    np.testing.assert_array_equal(context[kept], plain[kept])
    np.testing.assert_array_equal(target[kept], ~plain[kept])
    past = np.flatnonzero(
        ~whole_pieces & (target.sum(axis=(1, 2)) <= 16) & (target.sum(axis=(1, 2)) < 96 - context.sum(axis=(1, 2)))
    )
    frames = np.setdiff1d(np.arange(16), [*kept, *past])
    assert len(past) in (3, 4)
    whole = np.asarray(context.all(axis=2))
    assert (np.diff(whole[past].astype(int), axis=1) <= 0).all()  # given, then hidden
    assert (target[past].sum(axis=(1, 2)) <= 16).all()
    np.testing.assert_array_equal(target[frames], ~context[frames])
    assert (whole[frames] | (context[frames].sum(axis=2) < 4)).all()
    assert (np.diff(whole[frames].astype(int), axis=1) > 0).any()
    part = steps.draw_task(key, index[8:12], valid[8:12], mixed)  # on another device
    np.testing.assert_array_equal(part.context, context[8:12])


def test_what_lies_outside_of_a_piece_is_given_as_silence(tiny_config, toy_pieces):
    resident = data.make_resident(toy_pieces.splits["train"], with_data(tiny_config, ends=True).data)
    variables = model.init(jax.random.key(3), tiny_config.model)
    grid, size = config_lib.crop_grid(tiny_config.data), tiny_config.data.crop_steps
    batch = data.draw_batch(
        jax.random.key(0), jnp.arange(8), jax.tree.map(jnp.asarray, resident), crop_steps=size, grid=grid
    )
    assert not batch.valid.all()
    rng = np.random.default_rng(0)
    context = jnp.asarray(rng.random((*batch.valid.shape, 4)) < 0.5) & batch.valid[..., None]
    mesh = devices.make_mesh(1)

    def totals(batch: data.Batch, context: jax.Array) -> jax.Array:
        task = steps.Task(context, batch.valid[..., None] & ~context, jnp.ones(len(context), bool))
        return jnp.stack([steps.forward(variables, batch, task, tiny_config.model, ends)[0] for ends in (False, True)])

    run = devices.map_body(totals, mesh, "shard_map", sharded=(True, True), donate=())
    padded, silent = np.asarray(run(devices.shard_rows(batch, mesh), devices.shard_rows(context, mesh)))
    roll = pianoroll.from_pitches(batch.pitches)
    outside = ~batch.valid[..., None]
    for found, given, valid in (
        (padded, context, batch.valid),
        (silent, context | outside, jnp.ones_like(batch.valid)),
    ):
        logits, _ = model.apply(variables, tiny_config.model, roll, given, valid, train=True)
        expected = objective.nll_and_cells(logits, roll, batch.valid[..., None] & ~context, batch.valid)[0]
        assert found == pytest.approx(float(expected), rel=1e-5)
    assert abs(padded - silent) > 1e-3


def test_statistics_are_those_of_the_pooled_batches():
    rng = np.random.default_rng(1)
    mean, var = rng.normal(size=(2, 3)), rng.uniform(size=(2, 3))
    pooled = steps._pool_statistics({"norm": {"mean": jnp.asarray(mean), "var": jnp.asarray(var)}})["norm"]
    together = np.concatenate([rng.normal(size=(200_000, 3)) * np.sqrt(var[n]) + mean[n] for n in range(2)])
    np.testing.assert_allclose(pooled["mean"], together.mean(axis=0), atol=0.01)
    np.testing.assert_allclose(pooled["var"], together.var(axis=0), atol=0.01)


def test_statistics_belong_to_the_averaged_parameters(tiny_config, toy_pieces):
    resident = data.make_resident(toy_pieces.splits["train"], tiny_config.data)
    mesh = devices.make_mesh(1)
    body = functools.partial(steps.estimate_statistics, config=tiny_config)
    estimate = devices.map_body(body, mesh, "shard_map", sharded=(False, False))
    state = state_lib.create(jax.random.key(0), tiny_config)
    other = state._replace(ema=jax.tree.map(lambda x: 2 * x, state.ema))
    source = devices.replicate(resident, mesh)
    first = estimate(devices.replicate(state, mesh), source)
    second = estimate(devices.replicate(other, mesh), source)
    assert_equal(first["params"], state.ema)
    # Doubling the first layer's kernel doubles the mean of what goes into its normalisation.
    np.testing.assert_allclose(
        second["batch_stats"]["layer_00"]["norm"]["mean"],
        2 * first["batch_stats"]["layer_00"]["norm"]["mean"],
        rtol=1e-4,
        atol=1e-6,
    )


def evaluate(config, weights, windows, num_devices, clean=None):
    """Over all windows and over those named."""
    num_windows = len(windows.valid)
    multiple = num_devices * max(config.train.eval_batch_size // num_devices, 1)
    windows = data.pad_rows(windows, multiple)
    clean = np.ones(num_windows, bool) if clean is None else clean
    clean = np.pad(clean, (0, len(windows.valid) - num_windows))
    mesh = devices.make_mesh(num_devices)
    body = functools.partial(steps.eval_step, config=config, num_windows=num_windows)
    mapped = devices.map_body(body, mesh, "shard_map", sharded=(False, False, False))
    return np.asarray(mapped(*(devices.replicate(tree, mesh) for tree in (weights, windows, clean))))


def test_evaluation_is_the_same_on_any_number_of_devices_and_micro_batches(tiny_config, tiny_variables, toy_pieces):
    windows = data.windows(toy_pieces.splits["train"], 16)
    assert len(windows.valid) == 13  # so that each of these pads by another number of rows
    one = evaluate(with_train(tiny_config, eval_batch_size=8), tiny_variables, windows, 1)
    for size, num_devices in ((3, 1), (13, 1), (8, 8), (20, 4)):
        config = with_train(tiny_config, eval_batch_size=size, seed=5)
        assert evaluate(config, tiny_variables, windows, num_devices) == pytest.approx(one, 1e-6)
    assert one[0] == one[1]


def test_windows_that_leak_can_be_left_out(tiny_config, tiny_variables, toy_pieces):
    windows = data.windows(toy_pieces.splits["train"], 16)
    config = with_train(tiny_config, eval_batch_size=4)
    cells, parts = 4 * windows.valid.sum(axis=1), []
    for clean in (np.arange(13) < 5, np.arange(13) >= 5):
        whole, part = evaluate(config, tiny_variables, windows, 2, clean)
        parts.append(part * cells[clean].sum())
        assert part != whole
    assert sum(parts) / cells.sum() == pytest.approx(whole, rel=1e-5)


def test_an_untrained_net_knows_nothing(tiny_config, toy_pieces):
    """ln 46 = 3.83 nats per variable, less the rests, which cost nothing."""
    variables = model.init(jax.random.key(0), tiny_config.model)
    windows = data.windows(toy_pieces.splits["train"], 16)
    nll = evaluate(tiny_config, variables, windows, 1)[0]
    sounding = (windows.pitches != pianoroll.REST).sum() / (4 * windows.valid.sum())
    assert nll == pytest.approx(sounding * np.log(46), rel=0.02)


# ------------------------------------------------------------------------------------------- whole runs


def run_of(config, toy_path, **fields) -> config_lib.Config:
    return with_data(with_train(config, **fields), path=toy_path)


def final_state(workdir: storage.Named, config: config_lib.Config) -> state_lib.TrainState:
    manager = checkpoint.open_run(workdir)
    resident = data.make_resident(data.load(config.data).splits["train"], config.data)
    state = checkpoint.restore(manager, config, devices.make_mesh(1), weights_lib.digest(resident))
    manager.close()
    assert state is not None
    return state


@pytest.mark.parametrize(("steps_per_dispatch", "end"), [(1, 4), (3, 5)])
def test_resuming_is_exact(tiny_config, toy_path, tmp_path, steps_per_dispatch, end):
    """Also where the first end, or an evaluation, cuts a dispatch short."""
    config = run_of(tiny_config, toy_path, schedule="plateau", plateau_evals=1, steps_per_dispatch=steps_per_dispatch)
    config = dataclasses.replace(config, num_devices=1)
    assert train.train(config, tmp_path / "whole") == loop.Stopped("done", 8)
    assert train.train(with_train(config, num_steps=end), tmp_path / "parts").step == end
    assert train.train(config, tmp_path / "parts").step == 8
    whole, parts = final_state(tmp_path / "whole", config), final_state(tmp_path / "parts", config)
    assert int(whole.step) == 8
    assert_equal(whole, parts)
    assert_equal(checkpoint.load(tmp_path / "whole", 8).variables, checkpoint.load(tmp_path / "parts", 8).variables)
    reported = [line["step"] for line in progress.read_metrics(tmp_path / "parts" / "metrics.jsonl")]
    assert reported == sorted(set(reported)) and reported[-1] == 8
    assert (tmp_path / "parts" / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_prolonging_a_run_leaves_no_trace_off_the_evaluations(tiny_config, toy_path, tmp_path):
    """Each end evaluates, which must not count for the halving on plateau."""
    config = run_of(tiny_config, toy_path, schedule="plateau", plateau_evals=1, learning_rate=1e-12, num_steps=12)
    config = dataclasses.replace(config, num_devices=1)
    train.train(config, tmp_path / "whole")
    for end in (5, 6, 7, 9, 12):
        train.train(with_train(config, num_steps=end), tmp_path / "parts")
    whole = final_state(tmp_path / "whole", config)
    assert float(whole.progress.best_nll) < np.inf
    assert_equal(whole, final_state(tmp_path / "parts", config))


def test_resuming_on_more_devices_and_by_pmap_goes_on(tiny_config, toy_path, tmp_path):
    config = run_of(tiny_config, toy_path)
    train.train(dataclasses.replace(with_train(config, num_steps=4), num_devices=1), tmp_path)
    train.train(dataclasses.replace(config, num_devices=4, parallel="pmap"), tmp_path)
    train.train(dataclasses.replace(config, num_devices=1), tmp_path / "whole")
    parts, whole = final_state(tmp_path, config), final_state(tmp_path / "whole", config)
    for x, y in zip(leaves(parts.params), leaves(whole.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)


def test_a_checkpoint_need_not_follow_every_evaluation(tiny_config, toy_path, tmp_path, monkeypatch):
    config = run_of(tiny_config, toy_path, eval_every=2, save_every=4, num_steps=12)
    config = dataclasses.replace(config, num_devices=1)
    saved, save = [], checkpoint.save

    def note(manager, state, *args, **fields):
        saved.append(int(state.step))
        save(manager, state, *args, **fields)

    monkeypatch.setattr(checkpoint, "save", note)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "signals", lambda _: contextlib.nullcontext(lambda step: step == 6))
        assert train.train(config, tmp_path) == loop.Stopped("signal", 6)
    assert saved == checkpoints(tmp_path) == [4, 6]  # a signal saves, also where an evaluation alone does not
    train.train(with_train(config, num_steps=10), tmp_path)
    evaluated = [line["step"] for line in progress.read_metrics(tmp_path / "metrics.jsonl") if "valid_nll" in line]
    assert evaluated == [2, 4, 6, 8, 10]
    assert saved == [4, 6, 8, 10]


def test_steps_per_dispatch_do_not_step_over_an_evaluation(tiny_config, toy_path, tmp_path):
    config = dataclasses.replace(run_of(tiny_config, toy_path, steps_per_dispatch=3, num_steps=5), num_devices=1)
    assert train.train(config, tmp_path).step == 5
    evaluated = [line["step"] for line in progress.read_metrics(tmp_path / "metrics.jsonl") if "valid_nll" in line]
    assert evaluated == [4, 5]


def test_sets_larger_than_the_device_stream(tiny_config, toy_path, tmp_path, monkeypatch):
    config = dataclasses.replace(run_of(tiny_config, toy_path), num_devices=2)
    monkeypatch.setattr(train, "_is_too_large", lambda *_: True)
    train.train(config, tmp_path / "streamed")
    monkeypatch.undo()
    train.train(config, tmp_path / "resident")
    streamed, resident = final_state(tmp_path / "streamed", config), final_state(tmp_path / "resident", config)
    for x, y in zip(leaves(streamed.params), leaves(resident.params), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-6)


@pytest.mark.slow
def test_a_run_at_a_url_is_that_of_a_folder_and_serves_all_commands(tiny_config, toy_path, tmp_path, store, capsys):
    """Interrupted, resumed, started from, sampled from twice, evaluated twice, exported: nothing lies on disk."""
    config = dataclasses.replace(run_of(tiny_config, toy_path), num_devices=1)
    train.train(config, tmp_path / "whole")
    url = str(store / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "signals", lambda _: contextlib.nullcontext(lambda step: step == 6))
        assert train.train(config, url) == loop.Stopped("signal", 6)
    assert mirror.steps(store / "run" / "checkpoints") == [4, 6]
    assert train.train(config, url) == loop.Stopped("done", 8)
    assert mirror.steps(store / "run" / "checkpoints") == [4, 6, 8]
    assert_equal(final_state(tmp_path / "whole", config), final_state(url, config))
    reported = [line["step"] for line in progress.read_metrics(store / "run" / "metrics.jsonl")]
    assert reported == [2, 4, 6, 8] and (store / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert_equal(
        train._initial_state(with_train(config, init_from=url)).params, checkpoint.load(url).variables["params"]
    )
    capsys.readouterr()

    words = [f"--checkpoint={url}", "--num_samples=3", "--bars=1", "--num_steps=2", "--chunk_size=2", "--seed=1"]
    words.append("--polish=0")
    for overwrite in ([], [], ["--overwrite"]):
        sample.main([*words, "--formats=midi,png", f"--out={store}/out", *overwrite])
        output = capsys.readouterr().out
        assert f"wrote 6 files to {store}/out" in output and f"{store}/out/chorale_0002.png" in output
    names = [path.name for path in (store / "out").iterdir()]
    scores = [f"chorale_000{n}.{suffix}" for n in range(3) for suffix in ("mid", "png")]
    assert names == [*scores, "manifest.json", "samples_00000.npz", "samples_00001.npz"]
    sample.main(["--export=1", "--formats=musicxml", f"--out={store}/out"])
    assert (store / "out" / "chorale_0001.musicxml").exists()
    words[0] = f"--checkpoint={tmp_path}/whole"
    sample.main([*words, "--formats=midi", f"--out={tmp_path}/out"])
    for name in ("samples_00000.npz", "samples_00001.npz", "chorale_0002.mid"):
        assert (store / "out" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    assert samples.load_samples(f"{store}/out").pitches.shape == (3, 16, 4)

    words = [f"--checkpoint={url}", "--orderings=1", "--measures=notewise_random", f"--out={store}/evaluation"]
    capsys.readouterr()
    for first in (True, False):
        evaluation_command.main([*words, f"--samples={store}/out", f"--json={store}/numbers.json"])
        assert ("evaluating" in capsys.readouterr().out) == first  # the second time all is there
    assert json.loads((store / "numbers.json").read_bytes())["n_pieces"] == 3
    evaluation_command.main([*words, f"--score={tmp_path}/out/chorale_0002.mid"])
    names = [path.name for path in (store / "evaluation").glob("chorale*")]
    assert names == ["chorale_0002_surprise.json", "chorale_0002_surprise.png"]
    export.main([f"--checkpoint={url}", "--bars=1", "--num_steps=2", "--platforms=cpu", f"--out={store}/net.zip"])
    assert (store / "net.zip").read_bytes().startswith(b"PK")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def test_hosts_that_share_no_folder_are_refused(tiny_config, toy_path, tmp_path, store, monkeypatch):
    monkeypatch.setattr(devices, "num_hosts", lambda: 4)
    config = dataclasses.replace(run_of(tiny_config, toy_path, num_steps=1), num_devices=1)
    said = "^--workdir=runs/x: 4 hosts cannot share a local folder; give a gs:// one, or file:///.*/runs/x for a disk"
    with pytest.raises(errors.InputError, match=said):
        train.train(config, "runs/x")
    assert train.train(config, str(store)).step == 1


def test_changed_maths_is_refused_by_name(tiny_config, toy_path, toy_pieces, tmp_path):
    config = dataclasses.replace(run_of(tiny_config, toy_path, num_steps=2), num_devices=1)
    train.train(config, tmp_path)
    with pytest.raises(errors.InputError, match=r"train.learning_rate \(0.003 -> 0.5\)"):
        train.train(with_train(config, learning_rate=0.5), tmp_path)
    with pytest.raises(errors.InputError, match=r"data.crop_steps \(16 -> 8\)"):
        train.train(with_data(config, crop_steps=8), tmp_path)
    valid = toy_pieces.splits["valid"]
    others = valid._replace(pitches=valid.pitches[::-1], lengths=valid.lengths[::-1])
    pieces.write_npz(tmp_path / "others.npz", toy_pieces._replace(splits={**toy_pieces.splits, "valid": others}))
    with pytest.raises(errors.InputError, match="started on other validation pieces"):
        train.train(with_data(config, path=str(tmp_path / "others.npz")), tmp_path)
    moved = tmp_path / "moved.npz"
    moved.write_bytes(pathlib.Path(toy_path).read_bytes())
    same = with_data(config, path=str(moved))
    assert train.train(with_train(same, num_steps=3, report_every=1), tmp_path).step == 3


def test_starting_from_other_weights_takes_the_parameters_alone(tiny_config, toy_path, tmp_path):
    config = dataclasses.replace(run_of(tiny_config, toy_path), num_devices=1)
    train.train(config, tmp_path / "first")
    init = with_train(config, init_from=str(tmp_path / "first"), seed=9, learning_rate=1e-3)
    state = train._initial_state(init)
    assert int(state.step) == 0
    assert_equal(state.params, checkpoint.load(tmp_path / "first").variables["params"])
    assert not any(np.any(leaf) for leaf in leaves(state.opt_state))
    other = dataclasses.replace(init, model=dataclasses.replace(init.model, num_filters=9))
    with pytest.raises(errors.InputError, match="model.num_filters=9, there 8"):
        train._initial_state(other)
    deeper = dataclasses.replace(init.model, num_layers=init.model.num_layers + 2, bn_scale_init=0.2)
    state = train._initial_state(dataclasses.replace(init, model=deeper))
    assert len(state.params) == len(checkpoint.load(tmp_path / "first").variables["params"]) + 2
    with pytest.raises(errors.InputError, match=r"model.num_layers=\d+, there .* pairs of layers more"):
        train._initial_state(dataclasses.replace(init, model=dataclasses.replace(deeper, num_layers=7)))


def test_a_run_starts_from_what_ships():
    small = config_lib.from_mapping(recipe("small"))
    state = train._initial_state(with_train(small, init_from="small"))
    assert int(state.step) == 0
    assert_equal(state.params, weights_lib.read("small").variables["params"])


def test_a_run_starts_from_the_mean_of_several(tiny_config, toy_path, tmp_path):
    config = dataclasses.replace(run_of(tiny_config, toy_path), num_devices=1)
    places = [str(tmp_path / name) for name in ("first", "second")]
    for seed, place in enumerate(places):
        train.train(with_train(config, seed=seed), place)
    state = train._initial_state(with_train(config, init_from=",".join(places)))
    one, other = (checkpoint.load(place).variables for place in places)
    pairs = list(zip(leaves(one["params"]), leaves(other["params"]), strict=True))
    assert any(np.any(a != b) for a, b in pairs)
    for mine, (a, b) in zip(leaves(state.params), pairs, strict=True):
        np.testing.assert_allclose(mine, (a + b) / 2, rtol=1e-6, atol=1e-7)
    with pytest.raises(errors.InputError, match="nowhere"):
        train._initial_state(with_train(config, init_from=f"{places[0]},nowhere"))


def test_early_stop(tiny_config, toy_path, tmp_path, capsys):
    # A rate so small that BatchNorm's noise decides: progress ends soon.
    config = run_of(tiny_config, toy_path, learning_rate=1e-12, num_steps=60, eval_every=1, early_stop_evals=2)
    stopped = train.train(dataclasses.replace(config, num_devices=1), tmp_path)
    assert stopped.reason == "early" and stopped.step < 60
    capsys.readouterr()
    assert train.train(dataclasses.replace(config, num_devices=1), tmp_path) == stopped
    said = capsys.readouterr().out
    assert said.startswith(
        f"had stopped early at step {stopped.step}: 2 evaluations without progress; to go on, raise "
    )
    assert "train.early_stop_evals=2 or give 0" in said and said.count("\n") == 1


def test_pieces_that_leak_are_left_out_beside_the_whole(tiny_config, toy_pieces, tmp_path, capsys, monkeypatch):
    """And that validation pieces were too many for the device is said."""
    valid = toy_pieces.splits["valid"]._replace(names=("bwv253", "x"))
    pieces.write_npz(tmp_path / "leaking.npz", toy_pieces._replace(splits={**toy_pieces.splits, "valid": valid}))
    validation = data.validation
    monkeypatch.setattr(data, "validation", lambda *given: validation(*given)._replace(total=99))
    config = run_of(tiny_config, str(tmp_path / "leaking.npz"), num_steps=1)
    train.train(dataclasses.replace(config, num_devices=1), tmp_path)
    (line,) = progress.read_metrics(tmp_path / "metrics.jsonl")
    assert line["valid_nll_clean"] != line["valid_nll"] == pytest.approx(line["valid_nll_clean"], rel=0.2)
    assert "validating on 5 of 99 windows" in capsys.readouterr().out


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_last_checkpoint(tiny_config, toy_path, tmp_path):
    config = dataclasses.replace(run_of(tiny_config, toy_path), num_devices=1)
    train.train(with_train(config, num_steps=4), tmp_path)

    step = steps.train_step

    def poisoned(state, source, *, config):
        """An update that overflows although its loss is still a number, right before an evaluation."""
        new, metrics = step(state, source, config=config)
        bad = new.step == 8
        params = jax.tree.map(lambda x: jnp.where(bad, jnp.nan, x), new.params)
        return new._replace(params=params), {**metrics, "grad_norm": jnp.where(bad, jnp.inf, metrics["grad_norm"])}

    def lost(state, source, *, config):
        new, metrics = step(state, source, config=config)
        return new, {**metrics, "loss": jnp.where(new.step == 7, jnp.nan, metrics["loss"])}

    def broken_statistics(state, source, *, config):
        """Parameters that fail only when they are evaluated."""
        return jax.tree.map(lambda x: x * jnp.nan, estimate(state, source, config=config))

    estimate = steps.estimate_statistics
    for name, replacement, message in (
        ("train_step", poisoned, "gradient is inf at step 8"),
        ("train_step", lost, "loss is nan at step 7"),
        ("estimate_statistics", broken_statistics, "validation NLL is nan at step 8"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(steps, name, replacement)
            with pytest.raises(loop.NotFinite, match=message):
                train.train(config, tmp_path)
        assert checkpoints(tmp_path) == [4]
    assert int(final_state(tmp_path, config).step) == 4


def test_kept_checkpoints(tiny_config, toy_path, tmp_path):
    config = run_of(tiny_config, toy_path, num_steps=24, eval_every=2)
    train.train(dataclasses.replace(config, num_devices=1), tmp_path)
    kept = {int(path.name) for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()}
    nll = {
        line["step"]: line["valid_nll"]
        for line in progress.read_metrics(tmp_path / "metrics.jsonl")
        if "valid_nll" in line
    }
    best = set(sorted(nll, key=nll.__getitem__)[:2])
    assert kept == {22, 24} | best | {2, 4, 8, 16}
    assert checkpoint.load(tmp_path).step == min(nll, key=nll.__getitem__)


# ------------------------------------------------------------------------------------------ the command

ARGUMENTS = ["coconet_jax.train", "--config=configs/test.py", "--config.train.eval_every=4"]


def recipe(name: str) -> Any:
    return runpy.run_path(str(conftest.REPOSITORY / "configs" / f"{name}.py"))["get_config"]()


def launch(toy_path: str, workdir: storage.Named, *words: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *ARGUMENTS, f"--workdir={workdir}", f"--config.data.path={toy_path}", *words],
        cwd=conftest.REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def checkpoints(workdir: pathlib.Path) -> list[int]:
    folder = workdir / "checkpoints"
    return sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) if folder.is_dir() else []


_RESUMED = """
import pathlib, sys
from coconet_jax import config, train
train_fields = {"batch_size": 4, "steps_per_dispatch": 4, "eval_every": 12, "bn_batches": 1, "warmup_steps": 2}
model = {"num_layers": 4, "num_filters": 4}
groups = {"data": {"path": sys.argv[1], "crop_steps": 16}, "model": model, "num_devices": 1}
for name, end in (("whole", 12), ("parts", 5), ("parts", 12)):
    settings = config.from_mapping({**groups, "train": {**train_fields, "num_steps": end}})
    assert train.train(settings, pathlib.Path(sys.argv[2]) / name).step == end
"""


def test_resuming_is_exact_with_all_optimisations(toy_path, tmp_path):
    """The programs as users have them: there a step by itself and one among several differ in their last bits."""
    done = subprocess.run(
        [sys.executable, "-c", _RESUMED, toy_path, str(tmp_path)],
        cwd=conftest.REPOSITORY,
        env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "resuming at step 5" in done.stdout, done.stderr
    config = checkpoint.load(tmp_path / "whole").config
    assert_equal(final_state(tmp_path / "whole", config), final_state(tmp_path / "parts", config))


@pytest.mark.slow
def test_killed_five_times_ends_bit_equal(toy_path, tmp_path):
    long = "--config.train.num_steps=4000"
    kills, seen = 0, 0
    while kills < 5:
        process = launch(toy_path, tmp_path / "killed", long)
        deadline = time.monotonic() + 120
        target = seen + 8
        while time.monotonic() < deadline and process.poll() is None:
            if (checkpoints(tmp_path / "killed") or [0])[-1] > target:
                break
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()[0]
        process.kill()
        process.communicate()
        kills += 1
        seen = checkpoints(tmp_path / "killed")[-1]
    final = f"--config.train.num_steps={seen // 4 * 4 + 12}"
    for name in ("killed", "whole"):
        process = launch(toy_path, tmp_path / name, final)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
    config = checkpoint.load(tmp_path / "whole").config
    whole, killed = final_state(tmp_path / "whole", config), final_state(tmp_path / "killed", config)
    assert int(whole.step) == seen // 4 * 4 + 12
    assert_equal(whole, killed)
    lines = progress.read_metrics(tmp_path / "killed" / "metrics.jsonl")
    assert [line["step"] for line in lines] == sorted({line["step"] for line in lines})


@pytest.mark.slow
def test_sigterm_saves_where_it_stands(toy_path, tmp_path):
    # No evaluation comes before the signal: what is saved is saved by it.
    process = launch(toy_path, tmp_path, "--config.train.num_steps=100000", "--config.train.eval_every=100000")
    for line in process.stdout or ():
        if line.startswith("step "):
            break
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 143, output
    saved = checkpoints(tmp_path)
    assert len(saved) == 1 and f"saved at step {saved[0]}" in output
    assert checkpoint.load(tmp_path).step == saved[0]


def launch_pair(toy_path: str, workdir: storage.Named, *words: str) -> list[subprocess.Popen[str]]:
    """Two processes of two devices each on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spread = [
        "--config.distributed.mode=manual",
        f"--config.distributed.coordinator=127.0.0.1:{port}",
        "--config.distributed.num_processes=2",
    ]
    return [
        launch(toy_path, workdir, *words, *spread, f"--config.distributed.process_id={number}", JAX_NUM_CPU_DEVICES="2")
        for number in range(2)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("parallel", "streamed"), [("shard_map", False), ("pmap", True)])
def test_two_processes_agree_with_one(toy_path, toy_pieces, tmp_path, parallel, streamed):
    start = config_lib.from_mapping(recipe("test"))
    made = weights_lib.Loaded(model.init(jax.random.key(7), start.model), start, 0, "", {})
    weights_lib.write(files.make_folder(tmp_path / "start"), made)
    words = ["--config.train.num_steps=5", "--config.train.eval_every=5"]
    words.append(f"--config.train.init_from={tmp_path / 'start'}")
    pair_words = [*words, f"--config.parallel={parallel}"]
    if streamed:
        # More than a mebibyte of pieces: too large for a device that is given one.
        large = toy_pieces.splits["train"]
        large = large._replace(**{name: np.repeat(getattr(large, name), 1000, axis=0) for name in large._fields})
        toy_path = str(tmp_path / "large.npz")
        pieces.write_npz(toy_path, toy_pieces._replace(splits={**toy_pieces.splits, "train": large}))
        pair_words.append("--config.data.device_mib=1")
    pair = launch_pair(toy_path, tmp_path / "two", *pair_words)
    outputs = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert "step 5/5" in outputs[0] and "step" not in outputs[1].replace("stopp", "")
    single = launch(toy_path, tmp_path / "one", *words)
    output = single.communicate(timeout=300)[0]
    assert single.returncode == 0, output
    two, one = checkpoint.load(tmp_path / "two"), checkpoint.load(tmp_path / "one")
    for x, y in zip(leaves(two.variables["params"]), leaves(one.variables["params"]), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    if streamed:
        # Its statistics come from another choice of pieces.
        assert two.metrics["valid_nll"] == pytest.approx(one.metrics["valid_nll"], abs=0.05)
    else:
        assert two.metrics["valid_nll"] == pytest.approx(one.metrics["valid_nll"], abs=1e-5)


@pytest.mark.slow
def test_two_processes_share_a_url(toy_path, tmp_path):
    """One writes, both read: trained, resumed and sampled from as one process does it in a folder."""
    url = f"file://{tmp_path}/two"
    for end in (5, 8):
        words = [f"--config.train.num_steps={end}", "--config.parallel=shard_map"]
        pair = launch_pair(toy_path, url, *words)
        outputs = [process.communicate(timeout=300)[0] for process in pair]
        assert [process.returncode for process in pair] == [0, 0], outputs
        assert f"step {end}/{end}" in outputs[0] and "step" not in outputs[1].replace("stopp", "")
        single = launch(toy_path, tmp_path / "one", *words)
        assert single.wait(timeout=300) == 0 and single.communicate()
    assert "resuming at step 5" in outputs[0]
    place = storage.place(f"{url}/checkpoints")
    assert isinstance(place, storage.Url) and mirror.steps(place) == checkpoints(tmp_path / "one") == [4, 5, 8]
    two, one = checkpoint.load(url), checkpoint.load(tmp_path / "one")
    for x, y in zip(leaves(two.variables["params"]), leaves(one.variables["params"]), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5)
    words = [f"--checkpoint={url}", "--num_samples=6", "--bars=1", "--num_steps=2", "--chunk_size=2", "--formats=npz"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "coconet_jax.sample", *words, "--polish=0", f"--out={url}/samples"]
    pair = [
        subprocess.Popen(
            [*command, f"--distributed={address},2,{number}"],
            cwd=conftest.REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], outputs
    assert samples.load_samples(f"{url}/samples").pitches.shape == (6, 16, 4)


@pytest.mark.slow
def test_where_one_of_two_processes_cannot_write_both_end(toy_path, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").touch()  # no folder
    pair = launch_pair(toy_path, f"file://{tmp_path}/run", "--config.train.num_steps=4")
    outputs = [process.communicate(timeout=120)[0] for process in pair]
    assert [process.returncode for process in pair] == [75, 75], outputs
    assert "error: cannot write file://" in outputs[0] and "checkpoints/4.partial: " in outputs[0]
    assert "error: process 0 could not write the checkpoint of step 4; see what it says" in outputs[1]


@pytest.mark.slow
def test_a_signal_to_one_of_two_processes_saves_both(toy_path, tmp_path):
    """With several steps a dispatch, so that no process looks at every step."""
    words = [
        "--config.train.num_steps=100000",
        "--config.train.eval_every=90000",
        "--config.train.steps_per_dispatch=3",
    ]
    pair = launch_pair(toy_path, tmp_path, *words)
    for line in pair[0].stdout or ():
        if line.startswith("step "):
            break
    pair[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=120)[0] for process in pair]
    assert [process.returncode for process in pair] == [143, 143], outputs
    assert len(checkpoints(tmp_path)) == 1
    assert checkpoint.load(tmp_path).step == checkpoints(tmp_path)[0]


@pytest.mark.slow
def test_a_lost_peer_aborts_the_other(toy_path, tmp_path):
    """kill -9 of the lead. (Of another process it is noticed by its silence only, which takes a minute and a half.)"""
    url = f"file://{tmp_path}/run"
    pair = launch_pair(toy_path, url, "--config.train.num_steps=100000", "--config.parallel=shard_map")
    deadline = time.monotonic() + 120
    while not mirror.steps(storage.Url(f"{url}/checkpoints")) and time.monotonic() < deadline:
        time.sleep(0.05)
    pair[0].kill()
    outputs = [process.communicate(timeout=300)[0] for process in pair]
    assert pair[1].returncode == -signal.SIGABRT, outputs[1]  # 134 to a shell, and to launch/rerun.sh


MISTAKES = [
    (["--workdir=W"], "--config is missing"),
    (["--config=configs/test.py"], "--workdir is missing"),
    (["--config=configs/none.py", "--workdir=W"], "configs/none.py"),
    (["--config=configs/test.py", "--workdir=W", "--config.train.num_stepz=3"], "num_stepz"),
    (["--config=configs/test.py", "--workdir=W", "--config.train.num_steps=many"], "num_steps"),
    (["--config=configs/test.py", "--workdir=W", "--config.train.num_steps=0"], "train.num_steps=0: use 1 or more"),
    (["--config=configs/test.py", "--workdir=W", "--config.parallel=maybe"], "parallel='maybe'"),
    (["--config=configs/test.py", "--workdir=W", "--config.data.path=gone.npz"], "gone.npz does not exist"),
    (["--config=configs/test.py", "--workdir=W", "extra"], "'extra' is no flag"),
    (["--config=configs/test.py", "--workdir=W", "--nonsense=1"], "nonsense"),
    (["--config=configs/test.py", "--workdir=pyproject.toml/sub"], "cannot write"),
    (["--config=configs/test.py", "--workdir=F"], "checkpoints there is no folder; remove it or choose another"),
    (["--config=N", "--workdir=W"], "--config: NameError: name 'undefined' is not defined"),
    (["--config=R", "--workdir=W"], "--config: RuntimeError: odd"),
]


@pytest.mark.slow
def test_mistakes_are_one_line_and_exit_code_2(tmp_path):
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "checkpoints").touch()
    (tmp_path / "name.py").write_text("def get_config():\n    return undefined\n")
    (tmp_path / "runtime.py").write_text("raise RuntimeError('odd')\n")
    places = {"=W": "run", "=F": "odd", "=N": "name.py", "=R": "runtime.py"}

    def start(words: list[str]) -> subprocess.Popen[str]:
        words = [f"{word[:-1]}{tmp_path}/{places[word[-2:]]}" if word[-2:] in places else word for word in words]
        command = [sys.executable, "-m", "coconet_jax.train", *words]
        return subprocess.Popen(
            command, cwd=conftest.REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    processes = [(start(words), message) for words, message in MISTAKES]
    for process, message in processes:
        output, complaint = process.communicate(timeout=300)
        assert process.returncode == 2, complaint
        assert message in complaint and complaint.startswith("error: ") and complaint.count("\n") == 1
        assert not output
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_cpu_is_as_many_devices_as_divide_the_batches():
    def count(cores: int, batch_size: int, eval_batch_size: int = 32) -> int:
        return train._cpu_devices(config_lib.Train(batch_size=batch_size, eval_batch_size=eval_batch_size), cores)

    assert [count(cores, 16) for cores in (1, 2, 3, 12, 64)] == [1, 2, 2, 8, 16]
    assert (count(8, 20, 20), count(8, 20, 32), count(4, 7)) == (5, 4, 1)


@pytest.mark.parametrize("error", [MemoryError("512 GiB"), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 512 GiB")])
def test_too_little_memory_is_one_line(tiny_config, tmp_path, monkeypatch, capsys, error):
    def fail(*_):
        raise error

    settings = config_lib.to_dict(dataclasses.replace(tiny_config, num_devices=1))
    monkeypatch.setattr(train, "_CONFIG", types.SimpleNamespace(value=settings))
    monkeypatch.setattr(train, "_WORKDIR", types.SimpleNamespace(value=str(tmp_path)))
    monkeypatch.setattr(checkpoint, "quiet", lambda: None)
    monkeypatch.setattr(train, "train", fail)
    with pytest.raises(SystemExit, match="2"):
        train.main([])
    complaint = capsys.readouterr().err
    assert "512 GiB); lower train.batch_size=8" in complaint and complaint.count("\n") == 1
    error = jax.errors.JaxRuntimeError("INTERNAL: a bug")
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        train.main([])


def test_the_command_itself(toy_path, tmp_path):
    """One true process: trains, reports lines of JSON, refuses with exit code 2, explains itself."""
    done = launch(toy_path, tmp_path, "--config.train.num_steps=4")
    output = done.communicate(timeout=300)[0]
    assert done.returncode == 0, output
    count = train._cpu_devices(config_lib.Train(batch_size=8), devices.num_cores())
    assert f"training: 2,776 parameters, 5 pieces of toy, {count} x cpu in 1 process" in output
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert {"step", "loss", "valid_nll", "steps_per_second", "examples_per_second"} <= set(lines[-1])
    assert "valid_nll_clean" not in lines[-1]  # nothing of the toy set leaks
    refused = launch(toy_path, tmp_path, "--config.train.batch_size=7", JAX_NUM_CPU_DEVICES="4")
    output = refused.communicate(timeout=300)[0]
    assert refused.returncode == 2 and "batch_size=7 is not divisible by 4 devices; use 4 or 8" in output
    assert output.count("\n") == 1
    explained = conftest.run_command("coconet_jax.train", "--help")
    assert explained.returncode == 0 and "--config.train.init_from" in explained.stdout
