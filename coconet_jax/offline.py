"""Samples by the thousand: a folder of chunks that processes share, fill in any order and finish after any accident.

Samples are numbered 0 .. num_samples - 1, a chunk holds `chunk_size` of them in a row, and chunk k is the matter of
process k % (number of processes). Nothing is exchanged between processes: what a sample is follows from the manifest
and its number, so files are the same bytes for any number of devices and processes and after any interruption.
"""

from collections.abc import Callable, Iterator, Mapping
import hashlib
import json
import logging
from typing import Any, Final

import jax
from jaxtyping import Int16, Int64
import numpy as np

from coconet_jax import counter, errors, files, provenance, samples, storage, tasks

CHUNK_SIZE: Final = 256  # unless it is asked for; not made of what depends on the devices at hand
_OUR_NAMES: Final = ("num_samples", "chunk_size", "micro_batch")

_log = logging.getLogger(__name__)

Draw = Callable[[Int64[np.ndarray, " n"]], Int16[np.ndarray, "n t 4"]]


def begin(
    folder: storage.Named,
    request: tasks.Request,
    settings: Mapping[str, Any],
    *,
    seed: int,
    checkpoint_sha256: str,
    num_samples: int,
    micro_batch: int | None = None,
    chunk_size: int | None = None,
    default_micro_batch: int = 32,
    rounds_alike: bool = False,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Opens a folder for a run, new or begun, and returns its manifest.

    Processes that share the folder call this with the same arguments, in any order.

    Args:
      folder: made where it does not exist; local or a URL.
      request: what is to be completed; its music is told apart by a digest.
      settings: of the sampler, the steering and whatever else changes the music, as JSON has it.
      seed: of the run.
      checkpoint_sha256: of the weights.
      num_samples: may grow from run to run: the first samples stay as they are.
      micro_batch: chains of one compiled program; None for what the run was begun with, or the default.
      chunk_size: samples in a file; None for what the run was begun with, or 256.
      default_micro_batch: of new runs.
      rounds_alike: whether samples are the same in any micro-batch (float32 on CPU): a begun run may then go on in
        another, and one that grows takes the default.
      about: what a reader wants to know besides, as JSON has it; kept as the run was begun, and no matter of whether
        two runs are the same.

    Raises:
      InputError: the folder holds another run (the fields that differ are named), more samples than are asked for,
        or cannot be written to.
    """
    for name, value in zip(_OUR_NAMES, (num_samples, chunk_size, micro_batch), strict=True):
        if value is not None and value < 1:
            raise errors.InputError(f"{name}={value}: use 1 or more")
    place = files.make_folder(folder)
    # In this order: another process may be writing its manifest, and its first chunk after that.
    strays = sorted(path.name for path in place.glob("samples*.npz"))
    stored = samples.read_manifest(place)
    if stored is None and strays:
        raise errors.InputError(
            f"{folder} holds {strays[0]} but no {samples.MANIFEST}, so it cannot be continued; choose another folder, "
            "or move the samples there elsewhere"
        )
    begun = stored or {}
    if rounds_alike and begun and num_samples > begun["num_samples"]:
        micro_batch = micro_batch or default_micro_batch
    micro_batch = micro_batch or begun.get("micro_batch") or default_micro_batch
    chunk_size = chunk_size or begun.get("chunk_size") or CHUNK_SIZE
    manifest = {
        "format": samples.FORMAT,
        "num_samples": num_samples,
        "chunk_size": chunk_size,
        "micro_batch": micro_batch,
        "seed": seed,
        "checkpoint_sha256": checkpoint_sha256,
        "request": describe(request, seed),
        "settings": dict(settings),
        "versions": provenance.versions(),
        samples.ABOUT: dict(about or {}),
    }
    manifest = json.loads(json.dumps(manifest, allow_nan=False))  # tuples are lists once they were read back
    if stored is not None:
        manifest[samples.ABOUT] = stored.get(samples.ABOUT, manifest[samples.ABOUT])
        free = {samples.ABOUT: manifest[samples.ABOUT]} | ({"micro_batch": micro_batch} if rounds_alike else {})
        _check_same_run(folder, stored | free, manifest)
    if stored != manifest:
        samples.write_manifest(place, manifest)
    return manifest


def _check_same_run(folder: storage.Named, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    there, here = _flat(stored), _flat(asked)
    differing = [name for name in {**there, **here} if name != "num_samples" and there.get(name) != here.get(name)]
    if differing:
        texts = [f"{name} (there {_short(there.get(name))}, here {_short(here.get(name))})" for name in differing[:4]]
        more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise errors.InputError(
            f"{folder} holds another run, with other {', '.join(texts)}{more}; choose another folder, ask for the "
            "same, or empty it (coconet_jax.sample: --overwrite)"
        )
    if stored["num_samples"] > asked["num_samples"]:
        raise errors.InputError(
            f"num_samples={asked['num_samples']}: the run in {folder} is one of {stored['num_samples']}; ask for that "
            "many or more, or choose another folder"
        )


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return flat


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else text[:12] + "..."


def describe(request: tasks.Request, seed: int) -> dict[str, Any]:
    """A request for a manifest: what a score file needs, and a digest of the music that is given."""
    given = request.given
    # Where a request differs from chain to chain, what settles that and the first eight tell it from another.
    first = tasks.start(request, seed, np.arange(8 if request.vary else 1))
    held = tasks.went_on(given.pitches, given.onset) if first.went_on is None else first.went_on
    held = held & tasks.follows_given(first.free)  # what else of the old music is in the samples
    return {
        "steps": len(request.free),
        "steps_per_quarter": given.steps_per_quarter,
        "meter": list(given.meter),
        "pickup_steps": given.pickup_steps,
        "qpm": float(given.qpm),
        "title": given.title,
        "in_turn": list(request.in_turn),
        "sha256": sha256(*first[:3], request.free, *([held] if held.any() else []), *request.sources),
    }


def sha256(*arrays: Any) -> str:
    """Digest of arrays, such as those of a steering, for the settings of a manifest."""
    total = hashlib.sha256()
    for array in map(np.asarray, arrays):
        total.update(f"{array.dtype} {array.shape} ".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def to_samples(
    request: tasks.Request, pitches: Int16[np.ndarray, "n t 4"], ids: Int64[np.ndarray, " n"], seed: int
) -> samples.Samples:
    """Given notes are struck where the user struck them, written ones where the pitch changes."""
    begun = tasks.start(request, seed, ids)
    given = np.array(~begun.free)
    score = request.given
    return samples.Samples(
        pitches,
        tasks.struck(request, begun, pitches),
        given,
        ids,
        seed,
        score.steps_per_quarter,
        score.meter,
        score.pickup_steps,
        float(score.qpm),
        score.title,
    )


def run(
    draw: Draw,
    request: tasks.Request,
    folder: storage.Named,
    manifest: dict[str, Any],
    *,
    shard_index: int = 0,
    num_shards: int = 1,
    chains_at_once: int | None = None,
    progress: bool = False,
) -> list[storage.Place]:
    """Writes the chunks of this process that are not there yet, and returns the paths of all of its chunks.

    Args:
      draw: sample numbers to MIDI pitches; what it gives for a number depends on the manifest and that number alone.
      request: that `draw` completes.
      folder: of the run.
      manifest: from `begin`.
      shard_index: which part of the run this is, of
      num_shards: parts; with `jax.distributed` a part is again shared out among its processes.
      chains_at_once: numbers to draw in a call: fewer than a chunk's show progress within it, more fill many devices
        by several chunks at a time (default: a chunk's).
      progress: whether to show chorales/s and the time left.

    Raises:
      InputError: a folder that cannot be written to, a full disk, or chunks of another run.
    """
    if not 0 <= shard_index < num_shards:
        raise errors.InputError(
            f"shard_index={shard_index}, num_shards={num_shards}: use shard_index 0 to {max(num_shards, 1) - 1} and "
            "num_shards 1 or more"
        )
    place, owner = storage.place(folder), samples.digest(manifest)
    files.clean_up(place)
    first = shard_index * jax.process_count() + jax.process_index()
    numbers = range(first, samples.num_chunks(manifest), num_shards * jax.process_count())
    ids = {number: samples.chunk_ids(manifest, number) for number in numbers}
    todo = {}  # the chunks to draw, with what is there of them: only the last of a smaller run is there in part
    for number in numbers:
        found = _found(place, number, owner, ids[number])
        if found is None or len(found) < len(ids[number]):
            todo[number] = found
    total, missing = sum(map(len, ids.values())), sum(len(ids[number]) for number in todo)
    at_once = chains_at_once or manifest["chunk_size"]
    with counter.counting("sampling", "chorales", total, done=total - missing, show=progress) as advance:
        for group in _groups(list(todo), max(at_once // manifest["chunk_size"], 1)):
            wanted, drawn = np.concatenate([ids[number] for number in group]), []
            for start in range(0, len(wanted), at_once):
                drawn.append(draw(wanted[start : start + at_once]))
                advance(len(drawn[-1]))
            ends = np.cumsum([len(ids[number]) for number in group])[:-1]
            for number, pitches in zip(group, np.split(np.concatenate(drawn), ends), strict=True):
                _check_grown(place, number, todo[number], pitches)
                made = to_samples(request, pitches, ids[number], manifest["seed"])
                samples.write_chunk(samples.chunk_path(place, number), made, owner)
    return [samples.chunk_path(place, number) for number in numbers]


def _groups(numbers: list[int], size: int) -> Iterator[list[int]]:
    """Chunks that are drawn together: where one alone would leave devices idle, more is at stake at a time."""
    for first in range(0, len(numbers), size):
        yield numbers[first : first + size]


def _found(
    folder: storage.Place, number: int, owner: str, ids: Int64[np.ndarray, " n"]
) -> Int16[np.ndarray, "m t 4"] | None:
    """The pitches of a chunk as it lies there; None where it is missing, or damaged and must be drawn again."""
    path = samples.chunk_path(folder, number)
    try:
        chunk, chunk_owner = samples.read_chunk(path)
    except FileNotFoundError:
        return None
    except storage.StoreError:
        raise
    except errors.InputError:
        _log.warning("%s is damaged: it is drawn again", path)
        return None
    samples.check_chunk(path, chunk, chunk_owner, owner, ids)
    return chunk.pitches


def _check_grown(
    folder: storage.Place, number: int, before: Int16[np.ndarray, "m t 4"] | None, now: Int16[np.ndarray, "n t 4"]
) -> None:
    """The last chunk of a smaller run is drawn anew: what was there must come out again, or the run is another."""
    if before is not None and not np.array_equal(before, now[: len(before)]):
        raise errors.InputError(
            f"{samples.chunk_path(folder, number)}: its samples come out differently here than where the run was "
            "begun; finish it on devices of that kind, or choose another folder"
        )
