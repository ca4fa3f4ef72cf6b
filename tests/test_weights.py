"""Plain weights: what is written is read, damage is named, and what ships loads by name with little beside numpy."""

import dataclasses
import json
import shutil
import subprocess
import sys
import zipfile

import conftest
import jax
import numpy as np
import pytest

from coconet_jax import checkpoint, errors, generate, score, tasks, weights


@pytest.fixture
def loaded(tiny_config, tiny_variables):
    return weights.Loaded(tiny_variables, tiny_config, 7, weights.digest(tiny_variables), {"valid_nll": 1.5})


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("kind", ["tmp_path", "store"])
def test_what_is_written_is_read(loaded, kind, request):
    place = request.getfixturevalue(kind)
    size = weights.write(place / "mine", loaded)
    back = weights.read(place / "mine")
    assert_equal(back.variables, loaded.variables)
    assert back[1:] == loaded[1:]
    assert size == len((place / "mine" / weights.WEIGHTS).read_bytes())
    first = (place / "mine" / weights.WEIGHTS).read_bytes()
    weights.write(place / "mine", loaded)
    assert (place / "mine" / weights.WEIGHTS).read_bytes() == first


def test_half_the_bits_are_half_the_bytes_and_another_net(loaded, tmp_path):
    whole, half = weights.write(tmp_path / "a", loaded), weights.write(tmp_path / "b", loaded, "bfloat16")
    back = weights.read(tmp_path / "b")
    assert half < 0.75 * whole and back.sha256 != loaded.sha256
    for rounded, exact in zip(jax.tree.leaves(back.variables), jax.tree.leaves(loaded.variables), strict=True):
        assert rounded.dtype == np.float32
        np.testing.assert_allclose(rounded, exact, rtol=2**-8)


def test_every_command_takes_such_a_folder(loaded, tmp_path):
    weights.write(tmp_path, loaded)
    assert checkpoint.load(tmp_path).sha256 == loaded.sha256
    with pytest.raises(errors.InputError, match="is one set of weights, no run; leave the step out"):
        checkpoint.load(tmp_path, 3)


def test_damage_is_named(loaded, tmp_path):
    weights.write(tmp_path, loaded)
    path, about = tmp_path / weights.WEIGHTS, tmp_path / weights.CONFIG
    good, text = path.read_bytes(), about.read_text()
    path.write_bytes(good[:-40])
    with pytest.raises(errors.InputError, match=r"weights.npz is damaged \("):
        weights.read(tmp_path)
    np.savez(path, kernel=np.array([{"pickled": 1}], object), allow_pickle=True)
    with pytest.raises(errors.InputError, match=r"weights.npz is damaged \(Object arrays cannot be loaded"):
        weights.read(tmp_path)
    changed = jax.tree.map(lambda leaf: leaf + 1, loaded.variables)
    weights.write(tmp_path, loaded._replace(variables=changed))
    about.write_text(text)
    with pytest.raises(errors.InputError, match=r"is damaged or not of config.json beside it"):
        weights.read(tmp_path)
    about.write_text(json.dumps({**json.loads(text), "format": 2}))
    with pytest.raises(errors.InputError, match="has format 2, this package reads 1"):
        weights.read(tmp_path)
    about.write_text(text[:50])
    with pytest.raises(errors.InputError, match=r"config.json is damaged"):
        weights.read(tmp_path)
    path.unlink()
    about.unlink()
    with pytest.raises(errors.InputError, match=r"is no model: the names that ship are .*small"):
        weights.read(tmp_path)


def test_the_small_model_ships():
    net = weights.read()
    place = weights.shipped()["small"]
    assert sum(len(path.read_bytes()) for path in place.iterdir()) <= 1_000_000
    assert net.config.model.num_layers == 20 and net.sha256 == weights.digest(net.variables)
    assert net.config.data.path == ""  # no path of the machine that trained it
    assert checkpoint.load("small").sha256 == net.sha256


def test_a_folder_of_a_shipped_name_is_not_passed_over_in_silence(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    sha256 = weights.read("small").sha256
    assert checkpoint.load("small").sha256 == sha256 and not caplog.messages
    (tmp_path / "small" / "checkpoints").mkdir(parents=True)
    assert checkpoint.load("small").sha256 == sha256
    assert caplog.messages == ["small is the model that ships; ./small is the folder of this name here"]


def test_every_model_that_ships_has_a_card_of_its_own_weights():
    assert weights.shipped()
    for name, place in weights.shipped().items():
        card = (place / weights.CARD).read_bytes().decode()
        found = weights.read(name)
        count = sum(leaf.size for leaf in jax.tree.leaves(found.variables["params"]))
        for fact in (found.sha256, f"format {weights.FORMAT}", f"{count:,} parameters", "steps a second"):
            assert fact in card, (name, fact)
        for heading in ("## Likelihood", "## Samples", "## Limits"):
            assert heading in card


@pytest.mark.slow
def test_the_wheel_brings_models_cards_and_critics(tmp_path):
    source = tmp_path / "source"
    bytecode = shutil.ignore_patterns("__pycache__")
    shutil.copytree(conftest.REPOSITORY / "coconet_jax", source / "coconet_jax", ignore=bytecode)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(conftest.REPOSITORY / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", f"--wheel-dir={tmp_path}", str(source)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=400)
    if "No matching distribution" in done.stderr:
        pytest.skip("what builds a wheel cannot be fetched here")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    for model in weights.shipped():
        place = f"coconet_jax/pretrained/{model}"
        assert {f"{place}/{name}" for name in (weights.CARD, weights.CONFIG, weights.WEIGHTS)} <= names
    assert {"coconet_jax/judge/critic.npz", "coconet_jax/judge/composers.npz", "coconet_jax/py.typed"} <= names
    assert all(name.startswith(("coconet_jax/", "coconet_jax-")) for name in names)


def test_it_loads_without_what_training_needs():
    heavy = ("orbax", "music21", "tensorflow_datasets", "optax", "matplotlib")
    code = (
        f"import sys\nfrom coconet_jax import weights\nweights.read()\nprint([n for n in {heavy} if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_request_is_completed_in_memory(loaded):
    melody = np.array([67, 67, 69, 69, 71, 71, 72, 72])
    request = tasks.harmonize(score.from_pitches(melody[:, None]))
    settings = dataclasses.replace(generate.plan(loaded, request, 1).settings, num_steps=3)
    made = generate.complete(loaded, request, 3, settings, seed=5)
    assert made.pitches.shape == (3, 8, 4) and (made.pitches[:, :, 0] == melody).all() and (made.pitches > 0).all()
    assert made.given[:, :, 0].all() and not made.given[:, :, 1:].any() and made.seed == 5
    again = generate.complete(loaded, request, 1, settings, seed=5)
    np.testing.assert_array_equal(again.pitches, made.pitches[:1])
