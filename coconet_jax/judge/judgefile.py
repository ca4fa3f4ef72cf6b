"""A trained judge in one plain file: an npz of its weights under a JSON header; no pickle.

Weights are kept in 8 bits, each output channel of a kernel with a scale of its own: 1.1 MB for three networks of 0.35 M
parameters, a quarter of float32. Judges are calibrated after that, on the weights as they are read back.

The npz holds `header` (JSON as a string: format, kind, network, sha256 and what else the judge needs), other arrays as
they are, and for each leaf of the parameters `params/a/b` (int8 [m,...]) and `scale/a/b` (float32 [m,1,...,f]).
"""

import dataclasses
import hashlib
import io
import json
from typing import Any, Final, NamedTuple
import zipfile

from flax import traverse_util
from jaxtyping import Float32, Int8
import numpy as np

from coconet_jax import errors, files, storage
from coconet_jax.judge import network

FORMAT: Final = 1
_LEVELS: Final = 127


class Stored(NamedTuple):
    """What is in a file.

    Attributes:
      header: all that is no array; "sha256" is of everything else in the file.
      config: of the network.
      params: of all members, stacked, float32.
      arrays: those that were given beside them.
    """

    header: dict[str, Any]
    config: network.Config
    params: network.Params
    arrays: dict[str, np.ndarray]


def quantise(kernel: Float32[np.ndarray, "m *d"]) -> tuple[Int8[np.ndarray, "m *d"], Float32[np.ndarray, "m *e"]]:
    """8 bits, and their scale: one for each member and last axis of a kernel, or for each member of a vector."""
    axes = tuple(range(1, max(kernel.ndim - 1, 2)))
    scale = np.maximum(np.abs(kernel).max(axis=axes, keepdims=True), 1e-30).astype(np.float32) / np.float32(_LEVELS)
    return np.rint(kernel / scale).astype(np.int8), scale


def as_stored(params: network.Params) -> network.Params:
    """Parameters as they will be read back."""
    flat = traverse_util.flatten_dict(params, sep="/")
    pairs = {name: quantise(np.asarray(leaf, np.float32)) for name, leaf in flat.items()}
    rounded = {name: levels.astype(np.float32) * scale for name, (levels, scale) in pairs.items()}
    return traverse_util.unflatten_dict(rounded, sep="/")


def write(
    path: storage.Named,
    kind: str,
    config: network.Config,
    params: network.Params,
    header: dict[str, Any],
    arrays: dict[str, np.ndarray] | None = None,
) -> storage.Place:
    """Writes a judge.

    Args:
      path: the file, or a URL.
      kind: such as "critic"; `read` refuses another.
      config: of the network.
      params: of all members, stacked.
      header: what else belongs to it, as JSON has it.
      arrays: and as arrays, by name.

    Raises:
      InputError: the file cannot be written.
    """
    fields = dict(arrays or {})
    for name, leaf in traverse_util.flatten_dict(params, sep="/").items():
        fields[f"params/{name}"], fields[f"scale/{name}"] = quantise(np.asarray(leaf, np.float32))
    full = {**header, "format": FORMAT, "kind": kind, "network": dataclasses.asdict(config)}
    full["sha256"] = _digest(full, fields)
    return files.replace_npz(path, header=json.dumps(full, sort_keys=True, allow_nan=False), **fields)


def _digest(header: dict[str, Any], fields: dict[str, np.ndarray]) -> str:
    rest = {name: value for name, value in header.items() if name != "sha256"}
    total = hashlib.sha256(json.dumps(rest, sort_keys=True, allow_nan=False).encode())
    for name in sorted(fields):
        array = np.ascontiguousarray(fields[name])
        total.update(f"{name} {array.dtype} {array.shape} ".encode())
        total.update(array.tobytes())
    return total.hexdigest()


def read(path: storage.Named, kind: str) -> Stored:
    """Reads what `write` wrote.

    Raises:
      InputError: it does not exist, is damaged, or is of another kind or format.
    """
    try:
        data = storage.place(path).read_bytes()
    except FileNotFoundError:
        raise errors.InputError(f"{path} does not exist; give a {kind} file") from None
    except OSError as error:  # a folder, or not ours to read
        raise errors.InputError(f"{path} cannot be read ({error.strerror}); give a {kind} file") from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            fields = {n: np.load(io.BytesIO(archive.read(f"{n}.npy")), allow_pickle=False) for n in names}
        header = json.loads(str(fields.pop("header")))
        found = (header["format"], header["kind"])
        digest = header["sha256"]
    except Exception as error:  # zipfile, zlib, json and numpy let a dozen kinds out of damaged bytes
        raise errors.InputError(f"{path} is damaged or no {kind} ({type(error).__name__}); fetch it anew") from None
    if found != (FORMAT, kind):
        raise errors.InputError(f"{path} holds format {found[0]}, kind {found[1]}; give a {kind} of format {FORMAT}")
    if digest != _digest(header, fields):
        raise errors.InputError(f"{path} is damaged: its sha256 is not the one that it was written with; fetch it anew")
    shape = header["network"]
    config = network.Config(**{**shape, "dilations": tuple(shape["dilations"])})
    flat = {
        name.removeprefix("params/"): leaf.astype(np.float32) * fields[name.replace("params/", "scale/", 1)]
        for name, leaf in fields.items()
        if name.startswith("params/")
    }
    arrays = {name: array for name, array in fields.items() if not name.startswith(("params/", "scale/"))}
    return Stored(header, config, traverse_util.unflatten_dict(flat, sep="/"), arrays)
