"""Local paths and URLs alike: objects whole, folders implied, and a line for what a store refuses."""

import pathlib
import sys

import fsspec.implementations.memory
import pytest

from coconet_jax import errors, storage


@pytest.fixture(params=["memory", "file"])
def url(request, store, tmp_path) -> storage.Url:
    """An empty folder of a store in memory, and of one on disk."""
    made = store if request.param == "memory" else storage.place(f"file://{tmp_path}/folder")
    assert isinstance(made, storage.Url)
    return made


def test_what_is_a_url():
    for text in ("a", "/a/b", "C:\\a", "C://a", "gs:/a", "a/gs://b", ""):
        assert storage.place(text) == pathlib.Path(text)
    assert storage.place(pathlib.Path("a")) == pathlib.Path("a")
    url = storage.place("memory://a/b/")
    assert url == storage.Url("memory://a/b") == storage.place(url)
    assert (str(url / "c.npz"), (url / "c.npz").name, url.parent) == (
        "memory://a/b/c.npz",
        "c.npz",
        storage.Url("memory://a"),
    )


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert storage.place("~/runs/first") == tmp_path / "runs" / "first"
    assert storage.place("runs/~first") == pathlib.Path("runs/~first")


def test_objects_and_the_folders_they_imply(url):
    assert not url.is_dir() and not (url / "a").exists() and not list(url.iterdir())
    (url / "b" / "c.npz").write_bytes(b"one")
    (url / "a.npz").write_bytes(b"two")
    (url / "a.npz").write_bytes(b"three")
    assert (url / "a.npz").read_bytes() == b"three" and (url / "b" / "c.npz").read_bytes() == b"one"
    assert [child.name for child in url.iterdir()] == ["a.npz", "b"]
    assert list(url.glob("*.npz")) == [url / "a.npz"]
    assert url.is_dir() and not (url / "a.npz").is_dir() and (url / "a.npz").exists() and not (url / "b").exists()
    assert storage.tree(url) == ["a.npz", "b/c.npz"]
    (url / "a.npz").unlink()
    assert storage.tree(url) == ["b/c.npz"]
    with pytest.raises(FileNotFoundError):
        (url / "a.npz").read_bytes()
    storage.remove_tree(url)
    storage.remove_tree(url)
    assert not storage.tree(url) and not url.is_dir()


def test_copies_from_and_to_disk(url, tmp_path):
    for name in ("a/b", "a/c", "d"):
        (url / name).write_bytes(name.encode())
    storage.download(url, ["a/b", "d"], tmp_path / "copy")
    assert (tmp_path / "copy" / "a" / "b").read_bytes() == b"a/b" and not (tmp_path / "copy" / "a" / "c").exists()
    storage.upload(tmp_path / "copy", ["a/b", "d"], url / "again")
    assert storage.tree(url / "again") == ["a/b", "d"] and (url / "again" / "d").read_bytes() == b"d"
    with pytest.raises(storage.StoreError, match=r"cannot read .*: FileNotFoundError"):
        storage.download(url, ["gone"], tmp_path / "copy")


def test_schemes_that_cannot_be_used(monkeypatch):
    with pytest.raises(errors.InputError, match="^foo://a: foo:// is unknown; give a gs:// URL or a local path$"):
        storage.place("foo://a")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(errors.InputError, match=r"not installed; pip install 'coconet-jax\[gcs\]'$"):
        storage.place("gs://bucket/a")


@pytest.mark.parametrize(
    ("method", "act"),
    [
        ("pipe_file", lambda url: url.write_bytes(b"")),
        ("cat_file", lambda url: url.read_bytes()),
        ("info", lambda url: url.exists()),
        ("ls", lambda url: url.is_dir()),
        ("rm_file", lambda url: url.unlink()),
        ("find", storage.tree),
        ("rm", storage.remove_tree),
    ],
)
def test_a_store_that_refuses_is_one_line(store, monkeypatch, method, act):
    def refuse(*_, **__):
        raise PermissionError("no such right")

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, method, refuse)
    with pytest.raises(storage.StoreError, match=rf"cannot \w+ {store}: PermissionError: no such right; look at"):
        act(store)


@pytest.mark.parametrize("named", ["gs://", "memory:///"])
def test_a_scheme_alone_is_no_place(named):
    with pytest.raises(errors.InputError, match=f"{named} names no place"):
        storage.place(named)
