"""Runs of many samples: the same bytes after any accident and over any number of processes, and nothing lost."""

import errno
import itertools
import json
import os
import pathlib
import subprocess
import sys
import textwrap
from typing import Any

import conftest
import numpy as np
import pytest

from coconet_jax import blends, constraints, counter, errors, files, offline, provenance, samples, score, storage, tasks

STEPS = 8
REQUEST = tasks.compose(STEPS)


def draw(ids):
    """Stands for the network: pitches that follow from the number."""
    noise = np.stack([np.random.default_rng([3, int(number)]).integers(36, 82, (STEPS, 4)) for number in ids])
    return noise.astype(np.int16)


def begin(folder, num_samples: int = 26, request=REQUEST, settings=None, **fields) -> dict[str, Any]:
    fields = {"seed": 3, "checkpoint_sha256": "c0ffee", "chunk_size": 4, "micro_batch": 2, **fields}
    settings = {"sampler": {"temperature": 0.99, "blocks": ("bernoulli", 4)}} if settings is None else settings
    return offline.begin(folder, request, settings, num_samples=num_samples, **fields)


def run(folder, num_samples: int = 26, draw=draw, **fields) -> list[pathlib.Path]:
    paths = offline.run(draw, REQUEST, folder, begin(folder, num_samples), **fields)
    return [pathlib.Path(str(path)) for path in paths]


def contents(folder: storage.Place) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    """The files of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run(folder)
    return contents(folder)


def test_a_run_holds_what_was_drawn(tmp_path, whole):
    paths = run(tmp_path / "new" / "folder")
    assert [path.name for path in paths] == [f"samples_0000{n}.npz" for n in range(7)]
    assert contents(tmp_path / "new" / "folder") == whole
    made = samples.load_samples(tmp_path / "new" / "folder")
    np.testing.assert_array_equal(made.sample_id, np.arange(26))
    np.testing.assert_array_equal(made.pitches, draw(range(26)))
    assert (made.seed, made.steps_per_quarter, made.meter) == (3, 4, (4, 4)) and not made.given.any()
    manifest = json.loads(whole["manifest.json"])
    assert manifest["checkpoint_sha256"] == "c0ffee" and manifest["micro_batch"] == 2 and manifest["versions"]["jax"]
    assert manifest["settings"]["sampler"]["blocks"] == ["bernoulli", 4]


def test_given_notes_are_struck_as_they_were(tmp_path):
    melody = score.Score(
        np.array([[60], [60], [62], [-1]], np.int16), np.array([[1], [1], [1], [0]], bool), (3, 4), 1, 2, 72.0, "Air"
    )
    request = tasks.harmonize(melody)
    pitches = np.broadcast_to(np.array([[60, 50, 50, 50]], np.int16), (2, 4, 4)).copy()
    pitches[:, :, 0] = melody.pitches[:, 0]
    pitches[:, 3] = -1  # after the last note all rest
    made = offline.to_samples(request, pitches, np.array([7, 9]), 1)
    for onset in made.onset:
        np.testing.assert_array_equal(onset.T, [[1, 1, 1, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    assert made.given[:, :, 0].all() and not made.given[:, :3, 1:].any() and made.given[:, 3].all()
    assert made[3].tolist() == [7, 9] and made[4:] == (1, 2, (3, 4), 1, 72.0, "Air")


def test_the_digest_of_a_request_is_what_it_was():
    """Folders of samples are continued by it."""
    digest = "f73b6104a6feeef9c5c924c93ec8924575ae673a80b3e1afc8eed3ac1a2c9d7d"
    assert offline.describe(tasks.compose(8), 0)["sha256"] == digest


def test_requests_that_differ_by_chain(tmp_path):
    def vary(seed, ids):
        free = np.ones((len(ids), STEPS, 4), bool)
        free[:, 0] = (np.asarray(ids) % 2 == 0)[:, None]
        pitches = np.where(free, -1, 60 + seed).astype(np.int8)
        return tasks.Given(pitches, ~free, free)

    request = tasks.Request(REQUEST.given, REQUEST.free, vary=vary)
    made = offline.to_samples(request, draw(range(4)), np.arange(4), 0)
    assert made.given[:, 0].all(axis=1).tolist() == [False, True, False, True] and not made.given[:, 1:].any()
    # Whether a note of the old music went on into what is rewritten shows in where the written ones are struck.
    pieces = [score.from_pitches(np.full((8, 4), 60)) for _ in range(2)]
    pieces[1].onset[4] = True
    assert len({offline.describe(tasks.inpaint(piece, 4, 6), 0)["sha256"] for piece in pieces}) == 2
    # Chains that do not show among the first eight tell requests apart all the same.
    piece, other = (score.from_pitches(np.arange(64)[:, None] % 20 + 48 + np.zeros((64, 4), int)) for _ in range(2))
    other.pitches[63] += 1
    asked = [blends.variations(piece, share) for share in (0.0, 0.001)] + [blends.variations(other, 0.0)]
    asked += [blends.hybrid([piece, one], keep_share=0.01) for one in (piece, other)]
    asked += [constraints.with_close(request) for request in asked]
    assert len({offline.describe(request, 0)["sha256"] for request in asked}) == len(asked)
    digests = [offline.describe(request, seed)["sha256"] for seed in (0, 1)]
    assert len({*digests, offline.describe(REQUEST, 0)["sha256"]}) == 3


@pytest.mark.parametrize("where", ["draw", "write"])
def test_interrupted_at_every_chunk(tmp_path, whole, monkeypatch, where):
    """Ctrl-C in each chunk in turn, in the network or just before the file is in place."""
    replace = os.replace
    for kept in range(7):
        calls = itertools.count(1)

        def stop(*args, calls=calls, act=draw if where == "draw" else replace):
            if next(calls) == 2:
                raise KeyboardInterrupt
            return act(*args)

        begin(tmp_path)
        with monkeypatch.context() as patch:
            if where == "write":
                patch.setattr(files.os, "replace", stop)
            if kept < 6:
                with pytest.raises(KeyboardInterrupt):
                    run(tmp_path, draw=stop if where == "draw" else draw)
            else:
                run(tmp_path, draw=stop if where == "draw" else draw)
        done = sorted(path.name for path in tmp_path.iterdir() if path.name != "manifest.json")
        assert done == [f"samples_0000{n}.npz" for n in range(kept + 1)]
    assert contents(tmp_path) == whole


def test_a_run_at_a_url_is_the_same_objects_after_interruptions(store, whole, monkeypatch, caplog):
    def stop(ids):
        if ids[0] >= 8:
            raise KeyboardInterrupt
        return draw(ids)

    folder = str(store)
    with pytest.raises(KeyboardInterrupt):
        run(folder, draw=stop)
    assert [path.name for path in store.iterdir()] == ["manifest.json", "samples_00000.npz", "samples_00001.npz"]
    drawn: list[int] = []

    def note(ids):
        drawn.extend(ids)
        return draw(ids)

    run(folder, draw=note, shard_index=1, num_shards=2)
    run(folder, draw=note)
    assert sorted(drawn) == list(range(8, 26))
    assert contents(store) == whole
    np.testing.assert_array_equal(samples.load_samples(folder, ids=[3, 20]).pitches, draw([3, 20]))
    with pytest.raises(errors.InputError, match=rf"{folder} holds another run, with other seed"):
        begin(folder, seed=4)

    def refuse(*_):
        raise storage.StoreError("the line is down")

    # Not to be looked at is not to be damaged: nothing is drawn again.
    monkeypatch.setattr(storage.Url, "read_bytes", refuse)
    manifest = json.loads(whole["manifest.json"])
    with pytest.raises(storage.StoreError, match="the line is down"):
        offline.run(draw, REQUEST, folder, manifest)
    assert not caplog.records


def test_what_is_there_is_not_drawn_again(tmp_path, whole):
    run(tmp_path)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    def refuse(ids):
        raise AssertionError("drawn again")

    assert len(run(tmp_path, draw=refuse)) == 7
    assert stamps == {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}


@pytest.mark.parametrize("shards", [2, 3, 9])
def test_shards_share_a_folder(tmp_path, whole, shards):
    for index in reversed(range(shards)):
        paths = run(tmp_path, shard_index=index, num_shards=shards)
        assert [int(path.stem[-1]) for path in paths] == list(range(index, 7, shards))
    assert contents(tmp_path) == whole


def test_processes_of_jax_share_a_shard(tmp_path, whole, monkeypatch):
    monkeypatch.setattr(offline.jax, "process_count", lambda: 2)
    dealt = {}
    for shard, process in itertools.product(range(2), range(2)):
        monkeypatch.setattr(offline.jax, "process_index", lambda process=process: process)
        paths = run(tmp_path, shard_index=shard, num_shards=2)
        dealt[shard, process] = [int(path.stem[-1]) for path in paths]
    assert dealt == {(0, 0): [0, 4], (0, 1): [1, 5], (1, 0): [2, 6], (1, 1): [3]}
    assert contents(tmp_path) == whole


def test_a_chunk_may_be_drawn_in_parts(tmp_path, whole):
    sizes = []

    def note(ids):
        sizes.append(len(ids))
        return draw(ids)

    run(tmp_path, draw=note, chains_at_once=3)
    assert sizes == [3, 1] * 6 + [2]
    assert contents(tmp_path) == whole


def test_chunks_may_be_drawn_together(tmp_path, whole):
    """Where there are more devices than a chunk can fill; what is there already is left out."""
    sizes = []

    def note(ids):
        sizes.append(len(ids))
        return draw(ids)

    run(tmp_path, 16)
    (tmp_path / "samples_00001.npz").unlink()
    run(tmp_path, draw=note, chains_at_once=11)
    assert sizes == [8, 6]
    assert contents(tmp_path) == whole


def test_the_micro_batch_does_not_show_in_the_files(tmp_path, whole):
    offline.run(draw, REQUEST, tmp_path, begin(tmp_path, micro_batch=7))
    found = contents(tmp_path)
    assert found.pop("manifest.json") != whole["manifest.json"]
    assert found == {name: data for name, data in whole.items() if name != "manifest.json"}


def test_asking_for_more_leaves_the_first(tmp_path, whole):
    for count in (1, 6, 8, 23):
        run(tmp_path, count)
        np.testing.assert_array_equal(samples.load_samples(tmp_path).pitches, draw(range(count)))
    kept = (tmp_path / "samples_00003.npz").stat().st_mtime_ns
    run(tmp_path)
    assert (tmp_path / "samples_00003.npz").stat().st_mtime_ns == kept
    assert contents(tmp_path) == whole
    with pytest.raises(errors.InputError, match=r"num_samples=25: the run in .* is one of 26; ask for that many"):
        run(tmp_path, 25)


def test_asking_for_more_where_other_samples_come_out(tmp_path):
    run(tmp_path, 6)
    before = contents(tmp_path)
    with pytest.raises(errors.InputError, match=r"samples_00001.npz: its samples come out differently here"):
        run(tmp_path, 8, draw=lambda ids: draw(ids) // 2 + 20)
    assert contents(tmp_path)["samples_00001.npz"] == before["samples_00001.npz"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": 4}, r"with other seed \(there 3, here 4\); choose another folder"),
        ({"checkpoint_sha256": "0" * 64}, r"checkpoint_sha256 \(there c0ffee, here 000000000000\.\.\.\)"),
        ({"micro_batch": 8}, r"micro_batch \(there 2, here 8\)"),
        ({"chunk_size": 2}, r"chunk_size \(there 4, here 2\)"),
        (
            {"settings": {"sampler": {"temperature": 0.5}}},
            r"other settings\.sampler\.blocks .* settings\.sampler\.temp",
        ),
        ({"request": tasks.compose(9)}, r"request\.sha256 .*request\.steps \(there 8, here 9\)"),
        ({"request": tasks.compose(STEPS, meter=(3, 4))}, r"request\.meter \(there \[4, 4\], here \[3, 4\]\)"),
        ({"num_samples": 0}, "num_samples=0: use 1 or more"),
        ({"chunk_size": 0}, "chunk_size=0: use 1 or more"),
        ({"micro_batch": -1}, "micro_batch=-1: use 1 or more"),
    ],
)
def test_a_folder_keeps_one_run(tmp_path, whole, fields, message):
    begin(tmp_path)
    with pytest.raises(errors.InputError, match=message):
        begin(tmp_path, **fields)
    assert contents(tmp_path) == {"manifest.json": whole["manifest.json"]}


def test_versions_belong_to_a_run(tmp_path, monkeypatch):
    begin(tmp_path)
    monkeypatch.setattr(provenance.importlib.metadata, "version", lambda name: "9" if name == "jax" else "1")
    with pytest.raises(errors.InputError, match=r"versions.jax \(there .*, here 9\)"):
        begin(tmp_path)


def test_sizes_are_those_a_run_was_begun_with(tmp_path):
    first = begin(tmp_path, micro_batch=None, chunk_size=None, default_micro_batch=6)
    assert (first["micro_batch"], first["chunk_size"]) == (6, 256)
    again = begin(tmp_path, micro_batch=None, chunk_size=None, default_micro_batch=32)
    assert again == first == begin(tmp_path, micro_batch=6, chunk_size=256)
    odd = begin(tmp_path / "odd", micro_batch=6, chunk_size=5)
    assert odd == begin(tmp_path / "odd", micro_batch=None, chunk_size=None)


def test_samples_without_a_manifest_are_left_alone(tmp_path):
    run(tmp_path)
    (tmp_path / "manifest.json").unlink()
    before = contents(tmp_path)
    with pytest.raises(errors.InputError, match=r"holds samples_00000.npz but no manifest.json"):
        begin(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-9], lambda data: data[:150] + b"?" * 300])
def test_a_damaged_chunk_is_drawn_again(tmp_path, whole, caplog, damage):
    run(tmp_path)
    path = tmp_path / "samples_00002.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(errors.InputError, match=r"samples_00002.npz is damaged .*run the same command again"):
        samples.load_samples(tmp_path)
    run(tmp_path)
    assert [record.message for record in caplog.records] == [f"{path} is damaged: it is drawn again"]
    assert contents(tmp_path) == whole


def test_a_chunk_of_another_run_is_not_overwritten(tmp_path):
    run(tmp_path / "a")
    offline.run(draw, REQUEST, tmp_path / "b", begin(tmp_path / "b", seed=4))
    stray = (tmp_path / "b" / "samples_00002.npz").read_bytes()
    (tmp_path / "a" / "samples_00002.npz").write_bytes(stray)
    with pytest.raises(errors.InputError, match=r"samples_00002.npz is of another run"):
        run(tmp_path / "a")
    assert (tmp_path / "a" / "samples_00002.npz").read_bytes() == stray


def test_a_full_disk_is_one_line_and_what_is_written_stays(tmp_path, whole, monkeypatch):
    begin(tmp_path)
    calls = itertools.count(1)
    fsync = os.fsync

    def fill(number: int) -> None:
        if next(calls) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(number)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fill)
        with pytest.raises(errors.InputError, match=r"cannot write .*samples_00003.npz: No space left on device; make"):
            run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["manifest.json", *[f"samples_0000{n}.npz" for n in range(3)]]
    )
    run(tmp_path)
    assert contents(tmp_path) == whole


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_device_that_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "temporary_path", lambda path: pathlib.Path("/dev/full"))
    monkeypatch.setattr(pathlib.Path, "unlink", lambda *_, **__: None)
    with pytest.raises(errors.InputError, match="cannot write .*manifest.json: No space left on device"):
        begin(tmp_path)


def test_a_file_that_cannot_be_read_is_not_taken_for_a_damaged_one(tmp_path, whole, monkeypatch):
    begin(tmp_path)
    run(tmp_path)
    read = pathlib.Path.read_bytes

    def refuse(path: pathlib.Path) -> bytes:
        if path.name == "samples_00001.npz":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "read_bytes", refuse)
        with pytest.raises(errors.InputError, match="cannot read .*samples_00001.npz: Permission denied; see what is"):
            run(tmp_path)
    assert contents(tmp_path) == whole


def test_folders_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    for name in ("file", "file/run", "x" * 300):
        with pytest.raises(errors.InputError, match="cannot write"):
            begin(tmp_path / name)


@pytest.mark.parametrize("index, count", [(-1, 2), (2, 2), (0, 0)])
def test_shards_that_do_not_exist(tmp_path, index, count):
    with pytest.raises(errors.InputError, match=f"shard_index={index}, num_shards={count}: use"):
        run(tmp_path, shard_index=index, num_shards=count)


DRIVER = """
    import os, pathlib, signal, sys, time
    import numpy as np
    sys.path.insert(0, "tests")
    import test_offline as t
    from coconet_jax import counter, offline, samples

    folder, runs = pathlib.Path(sys.argv[1]), []

    def draw(ids):
        time.sleep(0.05)
        return t.draw(ids)

    def manifest(count):
        return t.begin(folder, count, chunk_size=8, micro_batch=8)

    for kill in range(10):
        child = os.fork()
        if not child:
            try:
                offline.run(draw, t.REQUEST, folder, manifest(512), chains_at_once=4)
            finally:
                os._exit(0)
        before = len(list(folder.glob("*.npz")))  # every child finishes some chunks of its own
        while len(list(folder.glob("*.npz"))) < before + 2:
            time.sleep(0.003)
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
        time.sleep(0.0117 * kill)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        # What died half-way is invisible: every chunk that has a name is whole.
        there = samples.load_samples(folder, partial=True)
        assert len(there.sample_id) % 8 == 0
        (folder / f".samples_00063.npz.{os.uname().nodename.replace('.', '-')}.{child}.partial").write_text("half")
        runs.append(len(there.sample_id))
    assert len(set(runs)) == 10 and runs[-1] < 512, runs
    offline.run(t.draw, t.REQUEST, folder, manifest(512))
"""


def test_killed_ten_times_and_finished(tmp_path):
    """kill -9 in the middle of ten runs of 512 samples: the files are those of an uninterrupted run."""
    (tmp_path / "driver.py").write_text(textwrap.dedent(DRIVER))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path / "killed")],
        cwd=conftest.REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(conftest.REPOSITORY), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    whole = begin(tmp_path / "whole", 512, chunk_size=8, micro_batch=8)
    offline.run(draw, REQUEST, tmp_path / "whole", whole)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_progress_off_a_terminal_is_a_line_now_and_then(tmp_path, capsys, monkeypatch):
    clock = itertools.count(0, 20)
    monkeypatch.setattr(counter.time, "monotonic", lambda: float(next(clock)))
    run(tmp_path, 6)
    run(tmp_path, progress=True)
    lines = capsys.readouterr().out.splitlines()
    # Four samples were there already; the chunk of the smaller run is drawn again with two more.
    assert lines == [
        "sampling: 12/26 chorales, 0.2 chorales/s, about 1 min left",
        "sampling: 20/26 chorales, 0.2 chorales/s, about 30 s left",
        "sampling: 26/26 chorales, 0.183 chorales/s",
    ]


def test_progress_at_a_terminal_is_a_bar(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(tmp_path, progress=True)
    assert "26/26 [" in capsys.readouterr().err
    run(tmp_path, progress=True)
    assert capsys.readouterr().err == ""
