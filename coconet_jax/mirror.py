"""Checkpoints at a URL and what of them is wanted here: folders of objects, named by their step.

While a step is uploaded or deleted, the object `<step>.partial` lies beside it: written first, deleted last. As long as
it lies there the step is not seen, so half of one never is.
"""

import pathlib
from typing import Final

from coconet_jax import storage

_PARTIAL: Final = ".partial"


def steps(url: storage.Url) -> list[int]:
    """The steps that are there whole, in order."""
    names = {child.name for child in url.iterdir()}
    return sorted(int(name) for name in names if name.isdecimal() and name + _PARTIAL not in names)


def fetch(url: storage.Url, step: int, items: tuple[str, ...], folder: pathlib.Path) -> None:
    """Downloads the objects of a step itself and of these items of it to the same place below a local folder."""
    below = tuple(f"{item}/" for item in items)
    names = [name for name in storage.tree(url / str(step)) if "/" not in name or name.startswith(below)]
    storage.download(url / str(step), names, folder / str(step))


def publish(folder: pathlib.Path, step: int, url: storage.Url) -> None:
    """Uploads a step that lies below a local folder."""
    marker, local = _marker(url, step), folder / str(step)
    marker.write_bytes(b"")
    names = sorted(path.relative_to(local).as_posix() for path in local.rglob("*") if path.is_file())
    storage.upload(local, names, url / str(step))
    marker.unlink()


def delete(url: storage.Url, step: int) -> None:
    """Deletes a step."""
    _marker(url, step).write_bytes(b"")
    storage.remove_tree(url / str(step))
    _marker(url, step).unlink()


def clean_up(url: storage.Url) -> None:
    """Deletes what killed processes left half uploaded or half deleted."""
    for marker in url.glob(f"*{_PARTIAL}"):
        delete(url, int(marker.name.removesuffix(_PARTIAL)))


def _marker(url: storage.Url, step: int) -> storage.Url:
    return url / f"{step}{_PARTIAL}"
