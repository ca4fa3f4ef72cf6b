"""Checkpoints: read back equal on any device count, damage noticed, mistakes named."""

import dataclasses
import gc
import json
import pathlib
import re

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import checkpoint, devices, errors, mirror, state, storage
from coconet_jax import config as config_lib
from coconet_jax import weights as weights_lib


@pytest.fixture(scope="module")
def run(tiny_config, tiny_variables, tmp_path_factory) -> pathlib.Path:
    """A run's folder with checkpoints of steps 1, 2 and 3; step 2 is the best, step 3 was not evaluated."""
    folder = tmp_path_factory.mktemp("run")
    manager = checkpoint.open_run(folder)
    begun = state.create(jax.random.key(0), tiny_config, tiny_variables)
    for step, nll in ((1, 2.0), (2, 1.5), (3, None)):
        weights = jax.tree.map(lambda x, step=step: x + step, tiny_variables)
        checkpoint.save(manager, begun._replace(step=jnp.asarray(step, jnp.int32)), weights, tiny_config, "data", nll)
    manager.close()
    return folder


def assert_equal(a, b) -> None:
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def test_best_or_named_step_is_loaded(run, tiny_config, tiny_variables):
    best = checkpoint.load(run)
    assert (best.step, best.metrics) == (2, {"valid_nll": 1.5})
    assert best.config == tiny_config
    assert_equal(best.variables, jax.tree.map(lambda x: x + 2, tiny_variables))
    assert checkpoint.load(run / "checkpoints", 3).step == 3
    assert best.sha256 == weights_lib.digest(best.variables) != checkpoint.load(run, 1).sha256


@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_state_comes_back_on_another_device_count(tiny_config, tiny_variables, tmp_path, ema_decay):
    config = dataclasses.replace(tiny_config, train=dataclasses.replace(tiny_config.train, ema_decay=ema_decay))
    before = state.create(jax.random.key(0), config, tiny_variables)._replace(step=jnp.asarray(7, jnp.int32))
    manager = checkpoint.open_run(tmp_path)
    assert checkpoint.restore(manager, config, devices.make_mesh(2), "data") is None
    checkpoint.save(manager, devices.replicate(before, devices.make_mesh(2)), tiny_variables, config, "data", 1.0)
    manager.close()
    manager = checkpoint.open_run(tmp_path)
    after = checkpoint.restore(manager, config, devices.make_mesh(4), "data")
    manager.close()
    assert after is not None and str(jax.tree.structure(after)) == str(jax.tree.structure(before))
    assert_equal(before, after)
    assert len(after.params["layer_00"]["kernel"].sharding.device_set) == 4


def test_digest_sees_every_bit(tiny_variables):
    flat, tree = jax.tree.flatten(tiny_variables)
    first = weights_lib.digest(tiny_variables)
    assert first == weights_lib.digest(jax.tree.map(np.asarray, tiny_variables))
    for place in (0, len(flat) - 1):
        bytes_of = np.array(flat[place]).view(np.uint32)
        bytes_of.flat[-1] ^= 1
        changed = [*flat[:place], bytes_of.view(np.float32), *flat[place + 1 :]]
        assert weights_lib.digest(jax.tree.unflatten(tree, changed)) != first


@pytest.mark.slow
def test_a_flipped_bit_is_noticed_wherever_it_is(run, tiny_config, tmp_path):
    """Orbax lets some pass and dies of others: here each is one line, and the other steps can still be had."""
    checkpoint.quiet()
    noticed, harmless = 0, 0
    files = [p.relative_to(run) for p in (run / "checkpoints" / "3").rglob("*") if p.is_file() and p.stat().st_size]
    for number, name in enumerate(files):
        folder = tmp_path / str(number)
        _copy(run, folder)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 4
        (folder / name).write_bytes(bytes(content))
        manager = checkpoint.open_run(folder)
        try:
            restored = checkpoint.restore(manager, tiny_config, devices.make_mesh(1), "data")
            loaded = checkpoint.load(folder, 3)
            # What was read is what was written: the bit stood where nobody reads.
            assert restored is not None and weights_lib.digest(loaded.variables) == loaded.sha256
            harmless += 1
        except errors.InputError as error:
            # In the header the bit may have made another number of a setting.
            assert "step 3" in str(error) or "started with other settings: train." in str(error)
            assert "\n" not in str(error).strip()
            noticed += 1
        finally:
            manager.close()
        assert checkpoint.load(folder, 1).step == 1
    assert noticed >= 4, (noticed, harmless)
    gc.collect()  # reads that Orbax dropped would complain now, and fail this test


def test_weights_that_are_not_those_written_are_refused(run, tmp_path):
    folder = tmp_path / "copy"
    _copy(run, folder)
    header = folder / "checkpoints" / "2" / "header" / "metadata"
    content = json.loads(header.read_text())
    content["sha256"] = "0" * 64
    header.write_text(json.dumps(content))
    with pytest.raises(errors.InputError, match="step 2 .* is damaged .*delete the folder 2 there"):
        checkpoint.load(folder)
    assert checkpoint.load(folder, 1).step == 1


def test_another_format_is_refused(run, tmp_path):
    folder = tmp_path / "copy"
    _copy(run, folder)
    header = folder / "checkpoints" / "2" / "header" / "metadata"
    header.write_text(json.dumps({**json.loads(header.read_text()), "format": 99}))
    with pytest.raises(errors.InputError, match="has format 99, this package reads 1"):
        checkpoint.load(folder)


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
    for path in source.rglob("*"):
        if path.is_file():
            (target / path.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            (target / path.relative_to(source)).write_bytes(path.read_bytes())


def test_missing_checkpoints_are_named(run, tmp_path):
    for place in (tmp_path / "nowhere", "memory://nowhere"):
        with pytest.raises(errors.InputError, match="holds no checkpoint"):
            checkpoint.load(place)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(errors.InputError, match="no finished checkpoint yet"):
        checkpoint.load(tmp_path)
    with pytest.raises(errors.InputError, match=r"step 9 is not among .*\[1, 2, 3\]"):
        checkpoint.load(run, 9)


def test_a_half_written_checkpoint_is_neither_served_nor_in_the_way(run, tiny_config, tiny_variables, tmp_path):
    """What a kill leaves behind: a folder under a temporary name with others in it."""
    folder = tmp_path / "copy"
    _copy(run, folder)
    leftover = folder / "checkpoints" / "4.orbax-checkpoint-tmp"
    for item in ("weights", "train_state"):
        (leftover / f"{item}.orbax-checkpoint-tmp" / "ocdbt.process_0" / "d").mkdir(parents=True)
        (leftover / f"{item}.orbax-checkpoint-tmp" / "ocdbt.process_0" / "d" / "0123").write_bytes(b"data")
    assert checkpoint.load(folder).step == 2 and leftover.exists()
    manager = checkpoint.open_run(folder)
    restored = checkpoint.restore(manager, tiny_config, devices.make_mesh(1), "data")
    assert restored is not None and int(restored.step) == 3
    assert not leftover.exists()
    four = restored._replace(step=jnp.asarray(4, jnp.int32))
    checkpoint.save(manager, four, tiny_variables, tiny_config, "data", 1.0)
    manager.close()
    assert checkpoint.load(folder).step == 4
    assert all(path.name.isdigit() for path in (folder / "checkpoints").iterdir())


def test_a_run_at_a_url_reads_as_one_on_disk(run, tiny_config, tiny_variables, store, tmp_path, monkeypatch):
    """A copy of one, gone on with: the best, the last, damage, an interrupted upload."""
    storage.upload(run, [str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()], store)
    monkeypatch.setattr(checkpoint.tempfile, "tempdir", str(tmp_path))
    best = checkpoint.load(str(store))
    assert (best.step, best.metrics) == (2, {"valid_nll": 1.5})
    assert checkpoint.load(store / "checkpoints", 3).step == 3
    with pytest.raises(errors.InputError, match=rf"step 9 is not among the checkpoints of {store}: \[1, 2, 3\]"):
        checkpoint.load(str(store), 9)

    manager = checkpoint.open_run(str(store))
    restored = checkpoint.restore(manager, tiny_config, devices.make_mesh(2), "data")
    assert restored is not None and int(restored.step) == 3
    four = restored._replace(step=jnp.asarray(4, jnp.int32))
    with monkeypatch.context() as patch:
        patch.setattr(storage.Url, "unlink", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(manager, four, tiny_variables, tiny_config, "data", 1.0)
    manager.close()
    assert storage.tree(store / "checkpoints" / "4") and checkpoint.load(str(store)).step == 2
    manager = checkpoint.open_run(str(store))
    assert not storage.tree(store / "checkpoints" / "4") and list(manager.all_steps()) == [1, 2, 3]
    for _ in range(2):  # the second time it is there
        checkpoint.save(manager, four, tiny_variables, tiny_config, "data", 1.0)
    manager.close()
    assert checkpoint.load(str(store)).step == 4 and mirror.steps(store / "checkpoints") == [2, 3, 4]

    header = store / "checkpoints" / "4" / "header" / "metadata"
    header.write_bytes(json.dumps({**json.loads(header.read_bytes()), "sha256": "0" * 64}).encode())
    with pytest.raises(errors.InputError, match=rf"step 4 in {store}/checkpoints is damaged .*delete the folder 4"):
        checkpoint.load(str(store))

    def refuse(*_):
        raise storage.StoreError("the line is down")

    monkeypatch.setattr(storage, "download", refuse)
    with pytest.raises(storage.StoreError, match="the line is down"):
        checkpoint.load(str(store))
    assert not list(tmp_path.iterdir())


def test_only_maths_that_agrees_is_resumed(run, tiny_config):
    manager = checkpoint.open_run(run)
    other = dataclasses.replace(tiny_config, model=config_lib.Model(num_layers=6, num_filters=9))
    with pytest.raises(errors.InputError, match=r"model.num_filters \(8 -> 9\)"):
        checkpoint.restore(manager, other, devices.make_mesh(1), "data")
    with pytest.raises(errors.InputError, match="started on other training pieces"):
        checkpoint.restore(manager, tiny_config, devices.make_mesh(1), "others")
    # An early checkpoint, which tells nothing of the validation pieces, is resumed on any.
    assert checkpoint.restore(manager, tiny_config, devices.make_mesh(1), "data", valid_sha256="any") is not None
    manager.close()


@pytest.mark.parametrize("at_a_url", [False, True])
def test_milestones_outlive_a_change_of_settings(tiny_config, tiny_variables, tmp_path, store, at_a_url):
    """Each resumed stretch evaluates at other steps, or wants no milestones: the old ones stay, by their own rule."""
    begun = state.create(jax.random.key(0), tiny_config, tiny_variables)
    stretches: tuple[tuple[dict, range, set[int]], ...] = (
        ({"eval_every": 2}, range(2, 13, 2), {2, 4, 8}),
        ({"eval_every": 3, "keep_milestones": False}, range(15, 22, 3), {2, 4, 8}),
        ({"eval_every": 5, "save_every": 25}, range(25, 126, 25), {2, 4, 8, 25, 50, 100}),
    )
    for fields, steps, milestones in stretches:
        config = dataclasses.replace(tiny_config, train=dataclasses.replace(tiny_config.train, **fields))
        workdir = str(store) if at_a_url else tmp_path
        manager = checkpoint.open_run(workdir, milestone_base=config_lib.milestone_base(config.train))
        for step in steps:  # ever better, so that the best are the last
            here = begun._replace(step=jnp.asarray(step, jnp.int32))
            checkpoint.save(manager, here, tiny_variables, config, "data", 1 / step)
        manager.wait_until_finished()
        assert set(manager.all_steps()) == milestones | set(steps[-2:])
        assert not at_a_url or set(mirror.steps(store / "checkpoints")) == milestones | set(steps[-2:])
        manager.close()


def test_the_landed_state_can_be_gone_on_with_and_names_no_machine(tmp_path):
    folder = conftest.REPOSITORY / "checkpoints" / "small"
    for path in folder.rglob("*"):
        if path.name in ("commit_success.txt", "metadata"):
            assert not re.search(r"[\s\"]/\w+/", path.read_text()), path
    _copy(folder, tmp_path)
    loaded = checkpoint.load(tmp_path)
    assert loaded.config.model.num_layers == 20
    manager = checkpoint.open_run(tmp_path)
    restored = checkpoint.restore(manager, loaded.config, devices.make_mesh(1), "")  # of whatever pieces
    manager.close()
    assert restored is not None and int(restored.step) == loaded.step
