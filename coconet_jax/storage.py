"""Places where runs lie: local paths, and URLs such as gs://bucket/runs/first, whose objects are written whole.

A store of objects knows no rename, no append and no folders but what the names of its objects imply. `place` turns what
a user names into a `pathlib.Path` or a `Url`, which has those methods of a path that the project needs there.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import fnmatch
import os
import pathlib
import re
from typing import Any, Final

from coconet_jax import errors

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")  # two letters or more: C:\ is a disk


class StoreError(errors.InputError):
    """A store that cannot be reached, or refuses; nothing is said of what lies there.

    What starts commands may tell it from a bad setting by its code and start them again.
    """

    exit_code = 75  # EX_TEMPFAIL of sysexits.h


@dataclasses.dataclass(frozen=True)
class Url:
    """An object, or a folder of objects, in a store that fsspec knows. What it raises is named: `StoreError`."""

    text: str

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> "Url":
        return Url(f"{self.text}/{name}")

    @property
    def name(self) -> str:
        return self.text.rpartition("/")[2]

    @property
    def parent(self) -> "Url":
        return Url(self.text.rpartition("/")[0])

    def absolute(self) -> "Url":
        return self

    def exists(self) -> bool:
        """Whether there is such an object."""
        with _naming("read", self):
            store, path = _store(self)
            try:
                return store.info(path)["type"] == "file"
            except FileNotFoundError:
                return False

    def is_dir(self) -> bool:
        """Whether objects lie below."""
        return any(True for _ in self.iterdir())

    def iterdir(self) -> Iterator["Url"]:
        """What lies directly below, in order; nothing where nothing does."""
        with _naming("read", self):
            store, path = _store(self)
            try:
                found = [entry.rstrip("/") for entry in store.ls(path, detail=False)]
            except FileNotFoundError:
                return
        above = path.rstrip("/") + "/"
        yield from (self / entry.removeprefix(above) for entry in sorted(found) if entry.startswith(above))

    def glob(self, pattern: str) -> Iterator["Url"]:
        """Those directly below whose names are like this."""
        yield from (child for child in self.iterdir() if fnmatch.fnmatchcase(child.name, pattern))

    def read_bytes(self) -> bytes:
        """The object; FileNotFoundError where there is none."""
        with _naming("read", self, missing=True):
            store, path = _store(self)
            return store.cat_file(path)

    def write_bytes(self, data: bytes) -> None:
        """Writes the object, whole."""
        with _naming("write", self):
            store, path = _store(self)
            store.pipe_file(path, data)

    def unlink(self) -> None:
        """Deletes the object."""
        with _naming("delete", self):
            store, path = _store(self)
            store.rm_file(path)


Place = pathlib.Path | Url
Named = str | os.PathLike[str] | Url  # a place as users and callers name it


def _at_home(path: pathlib.Path) -> pathlib.Path:
    """With "~" as the home folder, which a shell leaves as it is after an equals sign."""
    try:
        return path.expanduser()
    except RuntimeError:  # there is no such home
        return path


def place(named: Named) -> Place:
    """The path or URL of this name.

    Raises:
      InputError: an unknown scheme, or one whose package is not installed.
    """
    if isinstance(named, Url):
        return named
    if not isinstance(named, str) or not _SCHEME.match(named):
        return _at_home(pathlib.Path(named))
    url = Url(named.rstrip("/"))
    if "://" not in url.text:
        raise errors.InputError(f"{named} names no place; give one such as gs://bucket/folder")
    with _naming("open", url):
        _store(url)
    return url


def tree(folder: Url) -> list[str]:
    """The names of all objects below, relative to the folder, in order."""
    with _naming("read", folder):
        store, path = _store(folder)
        above = path.rstrip("/") + "/"
        return sorted(entry.removeprefix(above) for entry in store.find(path) if entry.startswith(above))


def download(folder: Url, names: Sequence[str], target: pathlib.Path) -> None:
    """Copies these objects below a local folder, many at a time where the store can."""
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
    with _naming("read", folder):
        store, path = _store(folder)
        store.get([f"{path.rstrip('/')}/{name}" for name in names], [str(target / name) for name in names])


def upload(source: pathlib.Path, names: Sequence[str], folder: Url) -> None:
    """Copies these files below a local folder to objects, each whole, many at a time where the store can."""
    with _naming("write", folder):
        store, path = _store(folder)
        store.put([str(source / name) for name in names], [f"{path.rstrip('/')}/{name}" for name in names])


def remove_tree(folder: Url) -> None:
    """Deletes all objects below."""
    with _naming("delete", folder), contextlib.suppress(FileNotFoundError):
        store, path = _store(folder)
        store.rm(path, recursive=True)


def _store(url: Url) -> tuple[Any, str]:
    """The file system of fsspec that a URL is of, and the path in it."""
    scheme = url.text.partition(":")[0]
    try:
        import fsspec  # wanted by URLs alone

        # Other processes write there too: what a store remembers of its listings is out of date.
        options = {"auto_mkdir": True} if scheme in ("file", "local") else {}
        return fsspec.core.url_to_fs(url.text, use_listings_cache=False, **options)
    except ImportError as error:  # fsspec's own line says what other schemes want
        remedy = "pip install 'coconet-jax[gcs]'" if scheme in ("gs", "gcs") else str(error)
        raise errors.InputError(f"{url}: {scheme}:// needs a package that is not installed; {remedy}") from None
    except ValueError as error:
        if "Protocol not known" not in str(error):
            raise
        raise errors.InputError(f"{url}: {scheme}:// is unknown; give a gs:// URL or a local path") from None


@contextlib.contextmanager
def _naming(verb: str, url: Url, *, missing: bool = False) -> Iterator[None]:
    """Turns what a store raises into one line; with `missing`, FileNotFoundError passes."""
    try:
        yield
    except errors.InputError:
        raise
    except Exception as error:  # clients let out what HTTP, sign-in and sockets raise
        if missing and isinstance(error, FileNotFoundError):
            raise
        reason = f"{type(error).__name__}: {error}"[:200]
        raise StoreError(
            f"cannot {verb} {url}: {reason}; look at the name, your permission and the connection, and run the same "
            "command again"
        ) from None
