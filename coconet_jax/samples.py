"""Samples on disk: npz chunks by sample number beside a manifest, every file written whole or not at all.

A run's folder holds

    manifest.json         what was asked for: settings, seed, checkpoint, versions, num_samples, chunk_size; and
                          under "about" the task and wishes as they were written, and the network's shape
    samples_00000.npz     samples 0 .. chunk_size - 1, as arrays named like the fields of `Samples`
    samples_00001.npz     ...

and is read back by

    from coconet_jax import samples
    made = samples.load_samples("study")                  # all of them, in order of sample_id
    made.pitches                                          # int16 [n, t, 4], MIDI numbers, -1 = rest
    some = samples.load_samples("study", ids=[0, 7, 40])  # reads only the chunks that hold these
    soon = samples.load_samples("study", partial=True)    # of a run that is not finished

The same samples of the same run are the same bytes. Nothing here needs a model, music21 or a device, or, unless the
folder is a URL such as gs://bucket/study, a network.
"""

from collections.abc import Sequence
import hashlib
import io
import json
from typing import Any, Final, NamedTuple
import zipfile

from jaxtyping import Bool, Int16, Int64
import numpy as np

from coconet_jax import errors, files, storage

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
FILE_NAME: Final = "samples.npz"  # the only file of a run before there were chunks
_SIZE: Final = "num_samples"
ABOUT: Final = "about"  # for readers alone: the flags as they were written, the network's shape
_UNMARKED: Final = (_SIZE, "chunk_size", "micro_batch", ABOUT)  # what need not show in a sample


class Samples(NamedTuple):
    """Generated scores of equal length.

    Attributes:
      pitches: MIDI pitches, S A T B, -1 = rest.
      onset: True where a note is struck.
      given: True where the user gave the note.
      sample_id: the number of each chain; with `seed` it settles the sample.
      seed: of the run.
      steps_per_quarter: the grid.
      meter: beats and beat unit of a bar.
      pickup_steps: steps before the first full bar.
      qpm: tempo in quarters a minute.
      title: of the score they were made from, or "".
    """

    pitches: Int16[np.ndarray, "n t 4"]
    onset: Bool[np.ndarray, "n t 4"]
    given: Bool[np.ndarray, "n t 4"]
    sample_id: Int64[np.ndarray, " n"]
    seed: int
    steps_per_quarter: int
    meter: tuple[int, int] = (4, 4)
    pickup_steps: int = 0
    qpm: float = 80.0
    title: str = ""


_BY_SAMPLE: Final = Samples._fields[:4]  # arrays with a row for each sample; the other fields belong to the run
_REQUIRED: Final = Samples._fields[:6]  # what the first version of the file held


def load_samples(
    path: storage.Named, *, ids: Sequence[int] | Int64[np.ndarray, " k"] | None = None, partial: bool = False
) -> Samples:
    """Reads the samples of a run, or of one npz, in order of sample_id.

    Args:
      path: the folder of a run, or one npz of it; local or a URL.
      ids: the samples wanted, each once and in order (default: all).
      partial: whether to be content with those that are there already.

    Raises:
      InputError: there are none, some are missing, or a file is damaged or of another run.
    """
    place = storage.place(path)
    wanted = None if ids is None else np.unique(np.asarray(ids))
    if wanted is not None and (not len(wanted) or wanted.dtype.kind not in "iu"):
        raise errors.InputError(f"ids={ids}: give one or more whole numbers, or leave it out for all samples")
    manifest = read_manifest(place) if place.is_dir() else None
    if manifest is None:
        file_path = place / FILE_NAME if place.is_dir() else place
        found = read_chunk(file_path)[0] if file_path.exists() else None
        if found is None:
            what = f"{FILE_NAME} and no {MANIFEST}" if place.is_dir() else "samples: it does not exist"
            raise errors.InputError(f"{path} holds no {what}; give the --out folder of a sampling run")
        chunks, everything = [found], found.sample_id
    else:
        everything = np.arange(manifest[_SIZE])
        chunks = _read_chunks(place, manifest, everything if wanted is None else wanted)
    wanted = everything if wanted is None else wanted
    if unknown := np.setdiff1d(wanted, everything).tolist():
        raise errors.InputError(
            f"{path} has no sample {describe_ids(unknown)}; its numbers are {describe_ids(everything)}"
        )
    there = np.concatenate([chunk.sample_id for chunk in chunks]) if chunks else np.zeros(0, np.int64)
    absent = np.setdiff1d(wanted, there)
    if len(absent) and not (partial and len(absent) < len(wanted)):
        raise errors.InputError(
            f"{path} is not finished: {len(absent)} of {len(wanted)} samples are missing ({describe_ids(absent)}); "
            "run the same command again to finish it"
            + ("" if partial or len(absent) == len(wanted) else ", or load what is there with partial=True")
        )
    order = np.argsort(there, kind="stable")
    order = order[np.isin(there[order], wanted)]
    rows: dict[str, Any] = {
        name: np.concatenate([getattr(chunk, name) for chunk in chunks])[order] for name in _BY_SAMPLE
    }
    return chunks[0]._replace(**rows)


def _read_chunks(folder: storage.Place, manifest: dict[str, Any], wanted: Int64[np.ndarray, " k"]) -> list[Samples]:
    """The chunks that exist among those with wanted samples."""
    run, chunks = digest(manifest), []
    inside = wanted[(wanted >= 0) & (wanted < manifest[_SIZE])]
    for number in np.unique(inside // manifest["chunk_size"]).tolist():
        path = chunk_path(folder, number)
        try:
            chunk, owner = read_chunk(path)
        except FileNotFoundError:
            continue
        check_chunk(path, chunk, owner, run, chunk_ids(manifest, number))
        chunks.append(chunk)
    return chunks


# --------------------------------------------------------------------------------------------- chunks


def chunk_path(folder: storage.Named, number: int) -> storage.Place:
    """Where a chunk lies."""
    return storage.place(folder) / f"samples_{number:05d}.npz"


def num_chunks(manifest: dict[str, Any]) -> int:
    """Chunks of a run, the last perhaps shorter."""
    return -(-manifest[_SIZE] // manifest["chunk_size"])


def chunk_ids(manifest: dict[str, Any], number: int) -> Int64[np.ndarray, " n"]:
    """The samples that belong to a chunk."""
    size = manifest["chunk_size"]
    return np.arange(number * size, min((number + 1) * size, manifest[_SIZE]), dtype=np.int64)


def write_chunk(path: storage.Named, samples: Samples, run: str = "") -> storage.Place:
    """Writes samples into a folder that exists, marked as of a run (its digest).

    Raises:
      InputError: the folder cannot be written to, or the disk is full.
    """
    return files.replace_npz(path, **samples._asdict(), run=run)


def read_chunk(path: storage.Named) -> tuple[Samples, str]:
    """The samples in one npz, and the digest of the run they are of ("" in files without one).

    Raises:
      FileNotFoundError: it does not exist.
      InputError: it is damaged or something else; a StoreError where it could not be looked at.
    """
    try:
        data = storage.place(path).read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:  # for want of permission, say: nothing that the file is to blame for
        raise storage.StoreError(f"cannot read {path}: {error.strerror or error}; see what is in the way") from None
    try:
        arrays: dict[str, Any] = {}
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in archive.namelist():
                # An entry is read whole, and its checksum looked at, before numpy trusts the sizes written in it.
                arrays[name.removesuffix(".npy")] = np.load(io.BytesIO(archive.read(name)), allow_pickle=False)
        return _from_arrays(arrays), str(arrays.get("run", ""))
    except MemoryError:
        raise
    except Exception as error:  # zipfile, zlib and numpy let a dozen kinds out of damaged bytes
        reason = str(error) or type(error).__name__
        raise errors.InputError(
            f"{path} is damaged or was not written by coconet_jax.sample ({reason}); delete it and run the same "
            "command again"
        ) from None


def _from_arrays(arrays: dict[str, Any]) -> Samples:
    """Samples from an npz; ValueError where its arrays are not such."""
    if lacking := [name for name in _REQUIRED if name not in arrays]:
        raise ValueError(f"no {', '.join(lacking)} in it")
    pitches = arrays["pitches"]
    if pitches.ndim != 3 or pitches.shape[2] != 4 or pitches.dtype.kind not in "iu":
        raise ValueError(f"pitches are {pitches.dtype} {pitches.shape}, not integers (n, t, 4)")
    for name in ("onset", "given"):
        if arrays[name].shape != pitches.shape or arrays[name].dtype != bool:
            raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, not bool {pitches.shape}")
    if arrays["sample_id"].shape != pitches.shape[:1]:
        raise ValueError(f"sample_id is {arrays['sample_id'].shape} for {len(pitches)} samples")
    defaults: dict[str, Any] = Samples._field_defaults
    beats, unit = arrays.get("meter", defaults["meter"])
    return Samples(
        pitches.astype(np.int16),
        arrays["onset"],
        arrays["given"],
        arrays["sample_id"].astype(np.int64),
        int(arrays["seed"]),
        int(arrays["steps_per_quarter"]),
        (int(beats), int(unit)),
        int(arrays.get("pickup_steps", defaults["pickup_steps"])),
        float(arrays.get("qpm", defaults["qpm"])),
        str(arrays.get("title", defaults["title"])),
    )


def check_chunk(path: storage.Named, chunk: Samples, owner: str, run: str, ids: Int64[np.ndarray, " n"]) -> None:
    """InputError unless a chunk is of this run (owner == run) and holds these samples, or the first of them."""
    if owner != run:
        raise errors.InputError(f"{path} is of another run than the {MANIFEST} beside it; move one of them elsewhere")
    if not 0 < len(chunk.sample_id) <= len(ids) or (chunk.sample_id != ids[: len(chunk.sample_id)]).any():
        raise errors.InputError(
            f"{path} holds samples {describe_ids(chunk.sample_id)}, not {describe_ids(ids)}; delete it and run the "
            "same command again"
        )


def write_samples(folder: storage.Named, samples: Samples) -> storage.Place:
    """Writes `samples.npz`, a file of its own, into a folder that exists and returns its path."""
    return write_chunk(storage.place(folder) / FILE_NAME, samples)


# --------------------------------------------------------------------------------------------- manifest


def read_manifest(folder: storage.Named) -> dict[str, Any] | None:
    """What a run was asked for; None where the folder or the manifest does not exist.

    Raises:
      InputError: it cannot be read, or is of another version's format.
    """
    path = storage.place(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise errors.InputError(
                f"{path} has format {manifest['format']!r}, this package reads {FORMAT}; use the version of "
                "coconet_jax that wrote it"
            )
        if not all(type(manifest[name]) is int and manifest[name] > 0 for name in (_SIZE, "chunk_size")):
            raise ValueError(f"{_SIZE} and chunk_size are not numbers above 0")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except errors.InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.InputError(f"{path} cannot be read ({error}); put it back, or use another folder") from None
    return manifest


def write_manifest(folder: storage.Named, manifest: dict[str, Any]) -> storage.Place:
    """Writes a manifest into a folder that exists; the same manifest is the same bytes."""
    text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False)
    return files.replace(storage.place(folder) / MANIFEST, (text + "\n").encode())


def digest(manifest: dict[str, Any]) -> str:
    """sha256 of what the samples of a run follow from; its chunks carry it.

    The size of a micro-batch is left out: on CPU in float32 it does not show in samples, so not in their files either.
    """
    fixed = {name: value for name, value in manifest.items() if name not in _UNMARKED}
    return hashlib.sha256(json.dumps(fixed, sort_keys=True, allow_nan=False).encode()).hexdigest()


def describe_ids(ids: Sequence[int] | Int64[np.ndarray, " n"]) -> str:
    """Numbers in order as ranges, such as "0-15, 40, 99"; a long list is cut."""
    numbers = np.asarray(ids, np.int64)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) != 1) + 1) if len(numbers) else []
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    return ", ".join(texts[:8]) + (f" and {len(texts) - 8} more ranges" if len(texts) > 8 else "")
