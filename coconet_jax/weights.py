"""Weights in plain files, read by numpy alone, and the models that ship with the package, by name.

    from coconet_jax import weights
    net = weights.read("small")  # or a folder that `python -m coconet_jax.export --weights` wrote

A folder holds `weights.npz`, an array for each leaf, `config.json` with the config, the step and sha256 of both, and,
where it ships, `card.md`: data, training and every measure. No Orbax, no pickle, no TFDS.
"""

import hashlib
from importlib import resources
import io
import json
import logging
from typing import Any, Final, Literal, NamedTuple
import zipfile
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import errors, files, model, provenance, storage

FORMAT: Final = 1
WEIGHTS: Final = "weights.npz"
CONFIG: Final = "config.json"
CARD: Final = "card.md"
DEFAULT: Final = "small"
HELP: Final = f"the --workdir of a training run, or the name of a model that ships (default: {DEFAULT})"  # of a flag

Dtype = Literal["float32", "bfloat16"]

_SEPARATOR: Final = "/"


_log = logging.getLogger(__name__)


class Loaded(NamedTuple):
    """Weights read back for sampling or evaluation."""

    variables: model.Variables
    config: config_lib.Config
    step: int
    sha256: str
    metrics: dict[str, float]


def digest(tree: Any) -> str:
    """sha256 over names, dtypes, shapes and bytes of all leaves."""
    total = hashlib.sha256()
    for path, leaf in sorted(jax.tree_util.tree_leaves_with_path(tree), key=lambda item: str(item[0])):
        array = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def shipped() -> dict[str, storage.Place]:
    """The models inside the package, by name."""
    folder = resources.files("coconet_jax") / "pretrained"
    if not folder.is_dir():
        return {}
    return {entry.name: storage.place(str(entry)) for entry in folder.iterdir() if (entry / CONFIG).is_file()}


def is_plain(named: storage.Named) -> bool:
    """Whether this names weights that `read` reads: a shipped model, or a folder with its files."""
    return str(named) in shipped() or (storage.place(named) / CONFIG).exists()


def write(folder: storage.Named, loaded: Loaded, dtype: Dtype = "float32") -> int:
    """Writes weights into a folder, made where it does not exist, and returns their bytes; equal weights, equal bytes.

    Args:
      folder: local or a URL.
      loaded: what is to be written.
      dtype: of the file. What is read back is float32 again, so bfloat16 is another net, of its own sha256.

    Raises:
      InputError: the folder cannot be written to.
    """
    place = files.make_folder(folder)
    leaves = {name: np.asarray(leaf) for name, leaf in _named(loaded.variables).items()}
    short = {name: leaf.astype(jnp.bfloat16) for name, leaf in leaves.items()}
    kept = leaves if dtype == "float32" else {name: leaf.view(np.uint16) for name, leaf in short.items()}
    back = leaves if dtype == "float32" else {name: leaf.astype(np.float32) for name, leaf in short.items()}
    packed = io.BytesIO()
    np.savez_compressed(packed, **kept)  # type: ignore[arg-type]
    about = {
        "format": FORMAT,
        "step": loaded.step,
        "sha256": digest(_nested(back)),
        "dtype": dtype,
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(loaded.variables["params"])),
        "metrics": loaded.metrics,
        "versions": provenance.versions(),
        "config": config_lib.to_dict(loaded.config),
    }
    files.replace(place / WEIGHTS, packed.getvalue())
    files.replace(place / CONFIG, (json.dumps(about, indent=1) + "\n").encode())
    return len(packed.getvalue())


def read(named: storage.Named = DEFAULT) -> Loaded:
    """A shipped model, or weights that `write` wrote, on the default device.

    Raises:
      InputError: neither is there, the files are damaged, or they are of another version's format.
    """
    place = shipped().get(str(named)) or storage.place(named)
    if str(named) in shipped() and any((storage.place(named) / name).exists() for name in (WEIGHTS, "checkpoints")):
        _log.warning("%s is the model that ships; ./%s is the folder of this name here", named, named)
    try:
        about = json.loads((place / CONFIG).read_bytes())
        packed = io.BytesIO((place / WEIGHTS).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        names = ", ".join(shipped()) or "none"
        raise errors.InputError(
            f"{named} is no model: the names that ship are {names}, and a folder needs {WEIGHTS} and {CONFIG}"
        ) from None
    except ValueError as error:
        raise errors.InputError(f"{place / CONFIG} is damaged ({error}); fetch or write it anew") from None
    if about.get("format") != FORMAT:
        raise errors.InputError(
            f"{place / CONFIG} has format {about.get('format')!r}, this package reads {FORMAT}; use the version of "
            "coconet_jax that wrote it"
        )
    try:
        with np.load(packed, allow_pickle=False) as file:
            leaves = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise errors.InputError(f"{place / WEIGHTS} is damaged ({error}); fetch or write it anew") from None
    if about["dtype"] == "bfloat16":
        leaves = {name: leaf.view(jnp.bfloat16).astype(np.float32) for name, leaf in leaves.items()}
    variables = _nested(leaves)
    if digest(variables) != about["sha256"]:
        raise errors.InputError(f"{place / WEIGHTS} is damaged or not of {CONFIG} beside it; fetch or write both anew")
    config = config_lib.from_mapping(about["config"])
    return Loaded(jax.tree.map(jnp.asarray, variables), config, about["step"], about["sha256"], about["metrics"])


def _named(tree: Any) -> dict[str, Any]:
    """Leaves by their path, such as params/layer_0/kernel."""
    return {
        _SEPARATOR.join(str(key.key) for key in path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """The tree whose leaves have these paths."""
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *folders, last = name.split(_SEPARATOR)
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = leaf
    return tree
