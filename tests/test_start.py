"""What a start brings along: time that every command costs."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["", ".samples", ".train", ".sample", ".evaluate", ".export"])
def test_heavy_packages_are_imported_where_they_are_used(module):
    code = f"import sys, coconet_jax{module}; print([n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


HEAVY = ("music21", "tensorflow_datasets", "matplotlib", "tensorboardX", "verovio", "fsspec.implementations.http")
