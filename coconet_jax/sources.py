"""Where chorales come from besides music21: the paper's own npz and a user's folder; and coarser grids.

Everything here gives lists of corpus.Chorale per split and knows nothing of TFDS.
"""

from collections.abc import Callable, Iterator
import contextlib
import dataclasses
import hashlib
import io
import os
import pathlib
import sys
import urllib.request
import zipfile
import zlib

import numpy as np
import tqdm

from coconet_jax import corpus, errors, notation, parts, pianoroll, pieces, score

JSB16TH_URL = "https://raw.githubusercontent.com/czhuang/JSB-Chorales-dataset/master/Jsb16thSeparated.npz"
JSB16TH_SHA256 = "2adcdf0d57880c3763f104555072285fe7f9e3d6049fcc4b9830557b8d4a7820"
_DOWNLOAD_SECONDS = 30
_SUFFIXES = (".mid", ".midi", ".musicxml", ".mxl", ".xml", ".npz")


@contextlib.contextmanager
def show_reading(total: int, what: str, remark: str = "") -> Iterator[Callable[[], object]]:
    """A function that counts one of `total` as read: a bar on a terminal, a line elsewhere, as logs want it."""
    plain = not sys.stderr.isatty()
    if plain:
        print(f"reading {total} {what}, once{remark}", file=sys.stderr, flush=True)
    with tqdm.tqdm(total=total, desc=f"reading {what} (once)", leave=False, disable=plain) as bar:
        yield bar.update


def subsample(chorale: corpus.Chorale, factor: int) -> corpus.Chorale:
    """Every `factor`-th step of a chorale: 2 turns sixteenths into eighths, 4 into quarters.

    A kept step has an onset if a note was struck after the kept step before it and still sounds there, so that
    two quarters of one pitch stay two when the second is struck between the kept steps. The pick-up is dropped
    (0) where it is no whole number of the coarser steps.
    """
    if factor == 1:
        return chorale
    pitches = chorale.pitches[::factor]
    onset = chorale.onset
    if onset is not None:
        padded = np.concatenate([np.zeros((factor - 1, onset.shape[1]), bool), onset])
        # Window s is the steps s - factor + 1 .. s. Every new pitch has an onset, so of the onsets in the window of
        # a sounding step the last one belongs to the note that sounds there.
        struck = np.asarray(np.lib.stride_tricks.sliding_window_view(padded, factor, axis=0).any(axis=-1))
        onset = struck[::factor] & (pitches != pianoroll.REST)
    fermata = None if chorale.fermata is None else chorale.fermata[::factor]
    pickup, rest = divmod(chorale.pickup_steps, factor)
    return dataclasses.replace(
        chorale, pitches=pitches, onset=onset, fermata=fermata, pickup_steps=0 if rest else pickup
    )


def fetch_jsb16th(source: str | os.PathLike[str] | None, download: bool) -> bytes:
    """The bytes of Jsb16thSeparated.npz, from a path or the network, known to be the published ones.

    The file holds pickled arrays, so nothing but the published bytes may reach `read_jsb16th`.

    Raises:
      InputError: no path and no permission to download, or the file is missing or another one.
    """
    if source is not None:
        try:
            content = pathlib.Path(source).expanduser().read_bytes()
        except OSError as error:
            raise errors.InputError(
                f"cannot read {source}: {error.strerror}; give the path of Jsb16thSeparated.npz as --source "
                "(in training: --config.data.source)"
            ) from None
    elif download:
        try:
            with urllib.request.urlopen(JSB16TH_URL, timeout=_DOWNLOAD_SECONDS) as response:
                content = response.read()
        except OSError as error:
            raise errors.InputError(
                f"cannot download {JSB16TH_URL}: {error}; fetch it by other means and give its path as --source"
            ) from None
    else:
        raise errors.InputError(
            "dataset jsb16th is not prepared yet; run python -m coconet_jax.chorales --dataset=jsb16th with "
            "--source=PATH of Jsb16thSeparated.npz, or with --download"
        )
    found = hashlib.sha256(content).hexdigest()
    if found != JSB16TH_SHA256:
        raise errors.InputError(
            f"{source or JSB16TH_URL} is not the published Jsb16thSeparated.npz (its sha256 is {found[:12]}..., not "
            f"{JSB16TH_SHA256[:12]}...) and was not opened; get the file from {JSB16TH_URL}"
        )
    return content


def read_jsb16th(content: bytes) -> dict[str, list[corpus.Chorale]]:
    """The three folds of the paper's npz, in order, named as in the music21 corpus where they are known there.

    Args:
      content: what `fetch_jsb16th` returned.
    """
    names = {(split, row["index"]): row["name"] for split, rows in corpus.table()["splits"].items() for row in rows}
    folds = {}
    with np.load(io.BytesIO(content), allow_pickle=True, encoding="latin1") as file:
        for split in pieces.SPLITS:
            folds[split] = [
                corpus.Chorale(
                    names.get((split, index), f"jsb-{split}-{index}"),
                    np.where(np.isnan(array), pianoroll.REST, array).astype(np.int16),
                )
                for index, array in enumerate(file[split])
            ]
    return folds


def folder_files(folder: str | os.PathLike[str]) -> list[pathlib.Path]:
    """The score and npz files below a folder, sorted; hidden files and other kinds are not looked at.

    Raises:
      InputError: there is no such folder, or nothing in it.
    """
    root = pathlib.Path(folder).expanduser()
    if not root.is_dir():
        raise errors.InputError(f"source {folder} is not a folder; name one with your scores")
    found = [
        path
        for path in root.rglob("*")
        if path.suffix.lower() in _SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    ]
    if not found:
        raise errors.InputError(f"folder {folder} holds no scores; put {' '.join(_SUFFIXES)} files there")
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def folder_digest(folder: str | os.PathLike[str]) -> str:
    """16 hexadecimal digits that change with any name or byte of the folder's files."""
    root = pathlib.Path(folder).expanduser()
    digest = hashlib.sha256()
    for path in folder_files(folder):
        name = path.relative_to(root).as_posix().encode()
        # Lengths and fixed-size digests keep a byte moved from a name to a file from going unseen.
        digest.update(len(name).to_bytes(8, "big") + name)
        try:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        except OSError as error:
            digest.update(f"unreadable {error.strerror}".encode())
    return digest.hexdigest()[:16]


def read_folder(
    folder: str | os.PathLike[str], steps_per_quarter: int
) -> tuple[dict[str, list[corpus.Chorale]], list[str]]:
    """Reads a folder's scores and splits them 80/10/10 by a hash of each file's path below the folder.

    A file's split depends on nothing but its name, so adding files never moves one to another split. The
    pieces of one npz stay together. Arrays of one that does not say its grid are taken to stand on that asked for.

    Returns:
      The chorales of each split, and one line for each file that cannot be used: its name and the reason.

    Raises:
      InputError: no file can be used.
    """
    root = pathlib.Path(folder).expanduser()
    folds: dict[str, list[corpus.Chorale]] = {split: [] for split in pieces.SPLITS}
    skipped = []
    files = folder_files(folder)
    with show_reading(len(files), "files") as count:
        for path in files:
            name = path.relative_to(root).as_posix()
            try:
                folds[folder_split(name)].extend(_read_file(path, name, steps_per_quarter))
            except errors.InputError as error:
                skipped.append(f"{name}: {' '.join(str(error).split())}")
            count()
    if not any(folds.values()):
        raise errors.InputError(f"none of the {len(skipped)} files in {folder} can be used; the first is {skipped[0]}")
    return folds, skipped


def folder_split(name: str) -> str:
    """train (8 of 10 names), valid or test, by a hash of the file's path below its folder."""
    draw = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % 10
    return {8: "valid", 9: "test"}.get(draw, "train")


def _read_file(path: pathlib.Path, name: str, steps_per_quarter: int) -> list[corpus.Chorale]:
    if path.suffix.lower() == ".npz":
        found = list(_read_npz(path, name, steps_per_quarter))
    else:
        piece = notation.read_satb(path, steps_per_quarter=steps_per_quarter)
        pitches = np.asarray(piece.pitches, np.int16)
        found = [corpus.Chorale(name, pitches, np.asarray(piece.onset, bool), None, piece.meter, piece.pickup_steps)]
    for chorale in found:
        if not (chorale.pitches != pianoroll.REST).any():
            raise errors.InputError("it has no notes")
        outside = chorale.pitches[~pianoroll.in_range(chorale.pitches)]
        if outside.size:
            raise errors.InputError(
                f"pitch {outside[0]} is outside {pianoroll.MIN_PITCH}..{pianoroll.MAX_PITCH}; transpose the piece"
            )
    return found


def _read_npz(path: pathlib.Path, name: str, steps_per_quarter: int) -> Iterator[corpus.Chorale]:
    """The pieces of the array `pitches`, (T, 4) or (n, T, 4), rests past the end of each cut off.

    With `onset`, `meter` and `pickup_steps`, where the file has them as score files and samples do.
    """
    try:
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            array = file["pitches"]
            fields = {key: file[key] for key in ("onset", "steps_per_quarter", "meter", "pickup_steps") if key in file}
    except KeyError:
        raise errors.InputError("it has no array named pitches") from None
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        raise errors.InputError("it is no npz file of plain arrays (pickled objects are not read)") from None
    if array.dtype.kind not in "iu" or array.ndim not in (2, 3) or array.shape[-1] != pianoroll.NUM_VOICES:
        raise errors.InputError(
            f"its pitches are {array.dtype} {array.shape}, not whole numbers (T, 4) or (n, T, 4) with -1 for rests"
        )
    grid, meter, pickup = (fields.get(key, np.zeros(0)) for key in ("steps_per_quarter", "meter", "pickup_steps"))
    if grid.shape == () and grid != steps_per_quarter:
        raise errors.InputError(f"it stands on {grid} steps a quarter, not {steps_per_quarter}")
    beats = (int(meter[0]), int(meter[1])) if meter.shape == (2,) and meter.dtype.kind in "iu" else (4, 4)
    beats = beats if parts.is_meter(*beats) else (4, 4)
    before = int(pickup) if pickup.shape == () and pickup.dtype.kind in "iu" else 0
    before = before if 0 <= before < score.bar_steps(beats, steps_per_quarter) else 0
    onset = fields.get("onset", np.zeros(0))
    many = array[None] if array.ndim == 2 else array
    struck = onset.reshape(many.shape) if onset.shape == array.shape and onset.dtype == bool else None
    for number, piece in enumerate(many):
        piece = np.clip(piece, -2, 999).astype(np.int16)  # what is far outside the range stays outside it
        sounding = (piece != pianoroll.REST).any(axis=1)
        end = int(np.flatnonzero(sounding)[-1]) + 1 if sounding.any() else 0
        begins = None if struck is None else struck[number, :end]
        yield corpus.Chorale(f"{name}#{number}", piece[:end], begins, None, beats, before)
