"""Files are there whole or not at all; what the dead left goes, what the living write stays."""

import errno
import os
import subprocess
import sys

import numpy as np
import pytest

from coconet_jax import errors, files, storage


def test_a_file_is_replaced_whole(tmp_path):
    target = tmp_path / "a.json"
    files.replace(target, b"one")
    files.replace(target, b"two")
    assert target.read_bytes() == b"two" and os.listdir(tmp_path) == ["a.json"]


def test_an_object_is_replaced_whole(store):
    files.check_folder(store)
    files.clean_up(files.make_folder(store))
    assert files.replace(str(store / "a.json"), b"one") == files.replace(store / "a.json", b"two") == store / "a.json"
    assert (store / "a.json").read_bytes() == b"two" and storage.tree(store) == ["a.json"]


def test_a_store_that_cannot_be_written_is_found_out_before_the_work(store, monkeypatch):
    def refuse(*_):
        raise storage.StoreError("refused")

    monkeypatch.setattr(storage.Url, "write_bytes", refuse)
    with pytest.raises(storage.StoreError, match="refused"):
        files.check_folder(store)


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS])
def test_what_fails_leaves_the_old_file_and_one_line(tmp_path, monkeypatch, call, error):
    target = tmp_path / "a.json"
    files.replace(target, b"one")

    def fail(*_):
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(files.os, call, fail)
    with pytest.raises(errors.InputError, match=f"cannot write .*a.json: {os.strerror(error)}; make room or choose"):
        files.replace(target, b"two")
    assert target.read_bytes() == b"one" and os.listdir(tmp_path) == ["a.json"]


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.InputError, match="cannot write .*file/b: Not a directory"):
        files.replace(tmp_path / "file" / "b", b"")
    with pytest.raises(errors.InputError, match="cannot write .*file/b: Not a directory"):
        files.make_folder(tmp_path / "file" / "b")
    with pytest.raises(errors.InputError, match="File name too long"):
        files.make_folder(tmp_path / ("x" * 300))


def test_what_the_dead_left_goes(tmp_path):
    sleeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ours = files.temporary_path(tmp_path / "a.npz").name
    host = ours.split(".")[-3]

    def name(host: str, process: int) -> str:
        return f".a.npz.{host}.{process}.partial"

    assert ours == name(host, os.getpid())
    living, elsewhere, old, odd = name(host, sleeper.pid), name("other", 1), name("other", 2), ".a.partial"
    kept = {living, elsewhere, odd, "a.npz"}
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for part in (*kept, old, ours, name(host, dead.pid)):
        (tmp_path / part).write_text("")
    os.utime(tmp_path / old, (0, 0))
    folder = tmp_path / f".export.{host}.{dead.pid}.partial"
    folder.mkdir()
    (folder / "b.mid").write_text("")
    files.clean_up(tmp_path)
    assert set(os.listdir(tmp_path)) == kept
    sleeper.communicate(b"\n")
    files.clean_up(tmp_path)
    assert set(os.listdir(tmp_path)) == kept - {living}


def test_equal_arrays_are_equal_bytes(tmp_path):
    made = np.arange(1000).reshape(10, 100)
    first, second = tmp_path / "a.npz", tmp_path / "b.npz"
    for path in (first, second):
        assert files.replace_npz(path, a=made, b=np.array("x")) == path
    assert first.read_bytes() == second.read_bytes() and first.stat().st_size < made.nbytes
    with np.load(first) as stored:
        np.testing.assert_array_equal(stored["a"], made)
    files.replace_npz(first, a=made[:1])
    with np.load(first) as stored:
        assert stored.files == ["a"] and len(stored["a"]) == 1
