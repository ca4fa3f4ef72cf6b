"""Files written whole or not at all, and what killed processes leave of those they were writing."""

import contextlib
import io
import os
import pathlib
import shutil
import socket
import time
from typing import Any, Final

import numpy as np

from coconet_jax import errors, storage

_SUFFIX: Final = ".partial"
_STALE_SECONDS: Final = 3600.0


def replace(path: storage.Named, data: bytes, *, durable: bool = True) -> storage.Place:
    """Writes a file that is there whole or not at all, in a folder that is made where it does not exist.

    Args:
      path: the file, or the URL of an object.
      data: its bytes.
      durable: also when the machine goes down; a score that can be written again does without, and is quicker.

    Raises:
      InputError: the folder cannot be written to, or the disk is full.
    """
    target = storage.place(path)
    if isinstance(target, storage.Url):
        target.write_bytes(data)
        return target
    temporary = temporary_path(target)
    try:
        if not target.parent.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(target, error) from None
    return target


def replace_npz(path: storage.Named, **arrays: Any) -> storage.Place:
    """Like `replace`, a compressed npz of these arrays; equal arrays are equal bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return replace(path, buffer.getvalue())


def make_folder(path: storage.Named) -> storage.Place:
    """A folder, with those above it; InputError where it cannot be made. A URL needs none."""
    folder = storage.place(path)
    try:
        if isinstance(folder, pathlib.Path):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from None
    return folder


def check_folder(path: storage.Named) -> None:
    """InputError where a folder cannot be written to or made, found out before the work and not after it."""
    folder = storage.place(path)
    if isinstance(folder, storage.Url):
        probe = folder / temporary_path("writable").name
        probe.write_bytes(b"")
        probe.unlink()
        return
    folder = folder.absolute()
    try:
        place = next((p for p in (folder, *folder.parents) if p.exists()), None)
        reason = "" if place and place.is_dir() and os.access(place, os.W_OK | os.X_OK) else "it is not writable"
    except OSError as error:  # a name too long, or a folder that cannot be looked into
        reason = str(error.strerror)
    if reason:
        raise errors.InputError(f"cannot write {path}: {reason}; choose another folder")


def cannot_write(path: storage.Named, error: OSError) -> errors.InputError:
    """What to tell the user about a file or folder that cannot be written."""
    return errors.InputError(
        f"cannot write {path}: {error.strerror or error}; make room or choose another folder, and run the same "
        "command again (what is written stays)"
    )


def temporary_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """A name beside `path` that tells `clean_up` whose it is."""
    target = pathlib.Path(path)
    return target.with_name(f".{target.name}.{_host()}.{os.getpid()}{_SUFFIX}")


def clean_up(folder: storage.Named) -> None:
    """Deletes the temporary files and folders of killed processes; to be called before this one makes any.

    Those of living processes stay. Whether one lives can be asked on its own host only: what another host began is
    left alone until nothing was added for an hour (a chunk takes moments, a staged score too). At a URL there are none.
    """
    place = storage.place(folder)
    for path in place.glob(f".*{_SUFFIX}") if isinstance(place, pathlib.Path) else ():
        *_, host, number = path.name.removesuffix(_SUFFIX).split(".")
        if not number.isdecimal():
            continue
        with contextlib.suppress(OSError):
            if host == _host():
                # Our own number is that of an earlier life: as the first process of a container, say.
                left = int(number) == os.getpid() or not _alive(int(number))
            else:
                left = time.time() - path.stat().st_mtime > _STALE_SECONDS
            if left and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif left:
                path.unlink()


def _alive(process: int) -> bool:
    if os.name == "nt":  # there os.kill ends the process that it asks for
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # it lives, and is another user's
    return True


def _host() -> str:
    return socket.gethostname().replace(".", "-") or "host"
