"""Files that run without the package: the same samples bit for bit, in a process that cannot import it."""

import json
import pathlib
import subprocess
import sys
import zipfile

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_evaluate

from coconet_jax import config as config_lib
from coconet_jax import export, generate, model, pianoroll, tasks

SETTINGS = ("--num_steps=3", "--top_p=0.9", "--greedy=0,0.5")


@pytest.fixture(scope="module")
def run(tiny_config, tiny_variables, tmp_path_factory) -> pathlib.Path:
    return test_evaluate.save_run(tmp_path_factory.mktemp("run"), tiny_config, tiny_variables)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("exported") / "coconet.zip"
    export.main([f"--checkpoint={run}", "--bars=1", f"--out={path}", *SETTINGS])
    return path


def test_with_weights_nothing_is_asked_of_a_program(capsys):
    with pytest.raises(SystemExit, match="2"):
        export.main(["--weights", "--bars=3"])
    assert "--bars=3 is for a program; with --weights leave it out" in capsys.readouterr().err


@pytest.mark.slow
def test_the_script_in_the_file_makes_the_samples_of_the_package(exported, tiny_config, tiny_variables, tmp_path):
    with zipfile.ZipFile(exported) as archive:
        archive.extract("run.py", tmp_path)
        about = json.loads(archive.read("about.json"))
    assert len((tmp_path / "run.py").read_text().splitlines()) <= 25
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('coconet_jax', 'flax', 'optax', 'orbax', 'music21'):\n    sys.modules[name] = None\n"
    )
    done = subprocess.run(
        [sys.executable, str(tmp_path / "run.py"), str(exported), str(tmp_path / "made.npz"), "5"],
        cwd=tmp_path,
        env={**conftest.os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    settings = config_lib.Sample(num_steps=3, top_p=0.9, greedy=(0.0, 0.5))
    plan = generate.Plan(tiny_variables, tiny_config.model, tasks.compose(16), settings, micro_batch=5, num_devices=1)
    with np.load(tmp_path / "made.npz") as made:
        np.testing.assert_array_equal(made["pitches"], generate.samples(plan, np.arange(5)).pitches)
    assert about["sampler"]["num_steps"] == 3 and about["steps"] == 16


def test_a_sampler_of_a_network_that_knows_ends_writes_whole_pieces(tiny_config, tiny_variables):
    rng = np.random.default_rng(0)  # fresh weights hardly say anything
    moved = jax.tree.map(lambda x: x + rng.uniform(0, 0.4, x.shape).astype(np.float32), tiny_variables["params"])
    variables = tiny_variables | {"params": moved}
    settings = config_lib.Sample(num_steps=3)
    plan = generate.Plan(variables, tiny_config.model, tasks.compose(8), settings, micro_batch=3, num_devices=1)
    blank = jnp.full((3, 8, 4), -1, jnp.int8), jnp.ones((3, 8, 4), bool)
    found = []
    for knows_ends in (False, True):
        exported = export.export_sampler(variables, tiny_config.model, settings, 8, ("cpu",), knows_ends)
        made = exported.call(jax.tree.leaves(variables), np.int32(0), np.arange(3, dtype=np.int32), *blank)
        expected = generate.samples(plan._replace(knows_ends=knows_ends), np.arange(3)).pitches
        np.testing.assert_array_equal(made, expected)
        found.append(np.asarray(made))
    assert (found[0] != found[1]).any()


def test_predict_takes_any_number_of_scores_of_any_length(tiny_config, tiny_variables):
    exported = export.export_predict(tiny_variables, tiny_config.model)
    assert exported.platforms == ("cpu", "cuda", "tpu")

    @jax.jit
    def predict(variables, roll, context, valid):
        return model.make_predict(variables, tiny_config.model)(roll, context, valid)

    for batch, steps in ((1, 7), (3, 12)):
        rng = np.random.default_rng(steps)
        pitches = jnp.asarray(rng.integers(40, 80, (batch, steps, 4)), jnp.int8)
        context, valid = jnp.asarray(rng.random((batch, steps, 4)) < 0.5), jnp.ones((batch, steps), bool)
        found = exported.call(jax.tree.leaves(tiny_variables), pitches, context, valid)
        expected = predict(tiny_variables, pianoroll.from_pitches(pitches), context, valid)
        np.testing.assert_array_equal(found, expected)


def test_given_notes_stay(tiny_config, tiny_variables):
    settings = config_lib.Sample("maskgit", num_steps=2)
    exported = export.export_sampler(tiny_variables, tiny_config.model, settings, 8)
    pitches = np.full((2, 8, 4), -1, np.int8)
    pitches[..., 0] = 70
    free = np.ones((2, 8, 4), bool)
    free[..., 0] = False
    made = exported.call(
        jax.tree.leaves(tiny_variables),
        np.int32(1),
        np.arange(2, dtype=np.int32),
        jnp.asarray(pitches),
        jnp.asarray(free),
    )
    assert (np.asarray(made)[..., 0] == 70).all() and (np.asarray(made) != -1).all()


def test_the_same_file_twice(run, exported, tmp_path):
    export.main([f"--checkpoint={run}", "--bars=1", f"--out={tmp_path}/again.zip", *SETTINGS])
    with zipfile.ZipFile(exported) as first, zipfile.ZipFile(tmp_path / "again.zip") as second:
        for name in ("weights.npz", "about.json", "run.py"):
            assert first.read(name) == second.read(name)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--checkpoint=nowhere"], "nowhere holds no checkpoint"),
        (["--checkpoint=RUN/none"], "holds no checkpoint"),
        (["--checkpoint=RUN", "--bars=0"], "--bars=0: use 1 or more"),
        (["--checkpoint=RUN", "--platforms=abacus"], "--platforms=abacus: use one or more of cpu, cuda, tpu, rocm"),
        (["--checkpoint=RUN", "--out=RUN"], "is no file name"),
        (["--checkpoint=RUN", "--out="], "--out= is no file name"),
        (["--checkpoint=RUN", "--num_steps=-1"], "num_steps"),
    ],
)
def test_mistakes_are_one_line(run, capsys, words, complaint):
    with pytest.raises(SystemExit, match="2"):
        export.main([word.replace("RUN", str(run)) for word in words])
    error = capsys.readouterr().err
    assert complaint in error and len(error.strip().splitlines()) == 1


def test_a_missing_package_is_named(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(SystemExit, match="2"):
        export.main([f"--checkpoint={run}", f"--out={tmp_path}/a.zip"])
    assert "pip install 'coconet-jax[export]'" in capsys.readouterr().err


def test_each_platform_gets_its_own_convolutions():
    """Made on a CPU, whose formulation accelerators must not get, for a net that has one of its own there."""
    net = config_lib.Model(num_layers=4, num_filters=32)
    variables = model.init(jax.random.key(0), net)
    settings = config_lib.Sample(num_steps=3)

    def convolutions(platform: str) -> int:
        return (
            export.export_sampler(variables, net, settings, 16, [platform]).mlir_module().count("stablehlo.convolution")
        )

    assert convolutions("cuda") == convolutions("tpu") == 4
    assert convolutions("cpu") == 3 + 6  # of the four, one of 3x3 has 32 channels on both sides
