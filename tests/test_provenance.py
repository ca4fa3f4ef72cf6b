"""Where numbers come from, told without asking the network."""

import re
import shlex
import subprocess

import conftest

from coconet_jax import provenance


def test_versions_are_of_what_is_installed():
    found = provenance.versions(["jax", "no-such-package"])
    assert list(found) == ["jax"] and re.match(r"\d+\.\d+", found["jax"])


def test_hardware_names_the_machine():
    assert re.match(r"\d+ (cores of|x) \S", provenance.hardware())


def test_the_commit_is_the_checkouts_or_the_version():
    told = provenance.commit()
    asked = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=conftest.REPOSITORY, capture_output=True, text=True, check=False
    )
    expected = asked.stdout.strip() if asked.returncode == 0 else provenance.versions(["coconet-jax"])["coconet-jax"]
    assert told.removesuffix("+") == expected


def test_the_command_can_be_given_again(monkeypatch):
    monkeypatch.setattr(provenance.sys, "argv", ["x", "--a=1", "--score=a b|c.mid"])
    told = provenance.command("coconet_jax.evaluate")
    assert shlex.split(told) == ["python", "-m", "coconet_jax.evaluate", "--a=1", "--score=a b|c.mid"]
