"""Every command of the README runs as it stands there (the trainings cut short)."""

import os
import re
import shlex
import subprocess
import sys

import conftest
import numpy as np
import pytest

from coconet_jax import notation, score

README = (conftest.REPOSITORY / "README.md").read_text()
COMMANDS = re.findall(r"^    (python -m coconet_jax\..*)$", README, re.MULTILINE)
SHORT = ["--config.train.num_steps=2", "--config.train.eval_every=2"]
SHORT += ["--config.data.crop_steps=16", "--config.train.eval_batch_size=64"]
SMALL_NET = ["--config.model.num_layers=6", "--config.train.bn_batches=1"]
SMALL_LSTM = ["--config.model.num_units=16"]


def test_the_first_screen_shows_the_two_commands():
    screen = "\n".join(README.splitlines()[:18])
    assert re.findall(r"^    (.*)$", screen, re.MULTILINE) == ["bash launch/quickstart.sh", "bash launch/test.sh"]


def test_every_file_that_is_named_exists():
    for name in re.findall(r"\]\(([^)]+)\)|`((?:configs|launch|docs|coconet_jax)/[\w./]+)`", README):
        path = name[0] or name[1]
        assert path.startswith("https://") or (conftest.REPOSITORY / path).exists(), path


@pytest.mark.slow
def test_the_python_runs(tmp_path):
    (code,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    code += "assert chorales.shape == (4, 64, 4) and (made.pitches[:, :, 0] == melody).all()"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "from_python").glob("*.mid"))) == 2


@pytest.mark.slow
def test_every_command_runs(tmp_path):
    for name in ("configs", "coconet_jax"):
        (tmp_path / name).symlink_to(conftest.REPOSITORY / name)
    rng = np.random.default_rng(0)
    (tmp_path / "my_scores").mkdir()
    for number in range(24):
        pitches = np.repeat(np.array([[67, 62, 55, 43]]) + rng.integers(0, 5, (8, 4)), 4, axis=0)
        notation.write_midi(tmp_path / "my_scores" / f"{number}.mid", score.from_pitches(pitches))
    notation.write_midi(tmp_path / "melody.mid", score.from_pitches(pitches[:, :1]))
    notation.write_midi(tmp_path / "chorale.mid", score.from_pitches(pitches))
    assert len(COMMANDS) >= 6
    # A reader begins with the network that ships, and comes to trained ones after training one.
    later = re.compile(r"=runs/first|coconet_jax\.evaluate")
    for command in sorted(COMMANDS, key=lambda command: bool(later.search(command)) and "train" not in command):
        words = shlex.split(command)
        if re.search(r"coconet_jax\.(train|sequence) ", command):
            words += SHORT
            words += SMALL_LSTM if "sequence" in command else SMALL_NET
        elif "coconet_jax.evaluate" in command:
            words = [word for word in words if word != "--full"] + ["--max_frames=20"]
            # A network of six layers, as the one that ships is slow where little is optimised.
            words += ["--checkpoint=runs/first"] * ("--checkpoint" not in command)
        elif re.search(r"coconet_jax\.(sample|export)", command) and not re.search("--export=|--weights", command):
            for much, little in (("--num_samples=1000", "--num_samples=65"), ("--best_of=8", "--best_of=2")):
                words = [word.replace(much, little) for word in words]
            words += ["--num_steps=2"]
            words += ["--polish=0"] * ("coconet_jax.sample" in command)  # what it does: the test of the Python above
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=tmp_path,
            env={"TFDS_DATA_DIR": str(conftest.CACHE / "tfds"), **os.environ},
            capture_output=True,
            text=True,
            timeout=400,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    assert len(list((tmp_path / "study").glob("chorale_*.mid"))) == 17
    made = {path.name for path in tmp_path.iterdir()}
    assert {"runs", "chorales", "harmonised", "chorales.npz", "melody.mid", "test.json"} <= made
    assert (tmp_path / "evaluation" / "chorale_surprise.png").exists()
