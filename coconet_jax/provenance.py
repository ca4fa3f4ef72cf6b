"""Where a number comes from: packages, hardware, commit, command."""

from collections.abc import Sequence
import contextlib
import importlib.metadata
import pathlib
import platform
import re
import shlex
import subprocess
import sys

import jax

from coconet_jax import devices

PACKAGES = ("coconet-jax", "jax", "jaxlib", "flax", "numpy")  # those on which numbers and samples depend


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # run from a folder, not installed
            found[name] = importlib.metadata.version(name)
    return found


def hardware() -> str:
    """Such as "2 cores of an AMD EPYC" or "8 x NVIDIA H200"."""
    if not devices.on_cpu():
        return f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        models = re.findall(r"^model name\s*:\s*(.+)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        name = models[0].strip() if models else name
    return f"{devices.num_cores()} cores of {name}"


def commit() -> str:
    """The commit of the package's checkout, "+" where tracked files differ from it; the version outside of one."""
    folder = pathlib.Path(__file__).resolve().parent.parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):

        def git(*words: str) -> str:
            done = subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=20
            )
            return done.stdout.strip()

        if git("ls-files", "pyproject.toml"):  # else the checkout of something around the package
            changed = git("status", "--porcelain", "--untracked-files=no")
            return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    return versions(["coconet-jax"]).get("coconet-jax", "unknown")


def command(module: str) -> str:
    """The command that is running, to be given again."""
    return shlex.join(["python", "-m", module, *sys.argv[1:]])
