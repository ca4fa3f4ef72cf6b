"""Score files of samples: any subset, the same bytes from any number of processes, whole or not at all."""

import os
import pathlib
import subprocess
import sys

import conftest
import numpy as np
import pytest

from coconet_jax import errors, exporting, files, notation, pianoroll, samples, storage


def make(count: int, steps: int = 16, **fields) -> samples.Samples:
    rng = np.random.default_rng(1)
    pitches = np.repeat(np.array([70, 63, 56, 45]) + rng.integers(0, 9, (count, steps // 2, 4)), 2, axis=1)
    pitches = pitches.astype(np.int16)
    onset = np.stack([pianoroll.onsets_where_pitch_changes(piece) for piece in pitches])
    onset[:, 1, 2] = True
    given = np.zeros(pitches.shape, bool)
    given[1::2, :, 0] = True
    return samples.Samples(pitches, onset, given, np.arange(count), 0, 4, **fields)


def pick(made: samples.Samples, ids) -> samples.Samples:
    return made._replace(**{name: getattr(made, name)[list(ids)] for name in made._fields[:4]})


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_files_hold_the_samples(tmp_path):
    made = make(3, meter=(3, 4), pickup_steps=4, qpm=66.0, title="Air")
    paths = [
        pathlib.Path(str(path))
        for path in exporting.export(made, tmp_path / "new" / "out", ("midi", "musicxml", "png"))
    ]
    assert [path.name for path in paths[:4]] == [
        "chorale_0000.mid",
        "chorale_0000.musicxml",
        "chorale_0000.png",
        "chorale_0001.mid",
    ]
    assert sorted(paths) == sorted((tmp_path / "new" / "out").iterdir()) and len(paths) == 9
    for number in range(3):
        for path in paths[3 * number : 3 * number + 2]:
            piece = notation.read_satb(path)
            np.testing.assert_array_equal(piece.pitches, made.pitches[number])
            np.testing.assert_array_equal(piece.onset, made.onset[number])
            assert (piece.meter, piece.pickup_steps, piece.qpm) == ((3, 4), 4, pytest.approx(66))
        assert paths[3 * number + 2].read_bytes().startswith(b"\x89PNG")
    (faster,) = exporting.export(pick(made, [1]), tmp_path / "faster", ("midi",), qpm=120.0)
    assert notation.read_satb(str(faster)).qpm == pytest.approx(120)


@pytest.mark.parametrize("processes", [1, 2])
def test_at_a_url_the_files_are_the_same_and_nothing_stays_on_disk(tmp_path, store, monkeypatch, processes):
    made, formats = make(2), ("midi", "musicxml")
    exporting.export(made, tmp_path / "local", formats)
    staging = tmp_path / "staging"
    staging.mkdir()
    monkeypatch.setattr(exporting.tempfile, "tempdir", str(staging))
    paths = exporting.export(made, str(store), formats, processes=processes)
    assert paths[:2] == [store / "chorale_0000.mid", store / "chorale_0000.musicxml"] and len(paths) == 4
    assert {path.name: path.read_bytes() for path in store.iterdir()} == contents(tmp_path / "local")
    assert not list(staging.iterdir())

    def refuse(*_):
        raise storage.StoreError("refused")

    monkeypatch.setattr(storage, "upload", refuse)
    with pytest.raises(storage.StoreError, match="refused"):
        exporting.export(made, str(store), formats, processes=processes)
    assert not list(staging.iterdir())


def test_pictures_show_what_was_given(tmp_path, monkeypatch):
    shown = []

    def write(path, piece, *, given):
        pathlib.Path(path).touch()
        shown.append(given)

    monkeypatch.setattr(exporting.render, "write_pianoroll", write)
    exporting.export(made := make(2), tmp_path, ("png",), processes=1)
    assert shown[0] is None  # no legend of given notes where there are none
    np.testing.assert_array_equal(shown[1], made.given[1])


def test_two_staves(tmp_path):
    exporting.export(make(2), tmp_path, ("musicxml",), staves=2, processes=2)
    assert [(tmp_path / f"chorale_000{n}.musicxml").read_text().count("<score-part ") for n in range(2)] == [2, 2]


def test_sound(tmp_path, monkeypatch):
    """Where fluidsynth is not installed, the line comes before any file."""
    monkeypatch.setattr(exporting.notation, "write_wav", lambda path, *_, **__: pathlib.Path(path).write_bytes(b"RIFF"))
    monkeypatch.setattr(exporting.audio, "check", lambda: None)
    exporting.export(make(1), tmp_path / "a", ("wav",), processes=1)
    assert contents(tmp_path / "a") == {"chorale_0000.wav": b"RIFF"}

    def lack() -> None:
        raise errors.InputError("no fluidsynth")

    monkeypatch.setattr(exporting.audio, "check", lack)
    with pytest.raises(errors.InputError, match="no fluidsynth"):
        exporting.export(make(1), tmp_path / "b", ("midi", "wav"))
    assert not (tmp_path / "b").exists()


def test_neither_the_subset_nor_the_processes_show(tmp_path):
    made, formats = make(4, 8), ("musicxml", "midi", "png")
    exporting.export(made, tmp_path / "one", formats, processes=1)
    exporting.export(made, tmp_path / "two", formats, processes=2)
    exporting.export(pick(made, [1, 3]), tmp_path / "some", formats, processes=1)
    whole = contents(tmp_path / "one")
    assert len(whole) == 12 and len(set(whole.values())) == 12
    assert contents(tmp_path / "two") == whole
    some = contents(tmp_path / "some")
    assert len(some) == 6 and all(whole[name] == data for name, data in some.items())
    exporting.export(pick(made, [1, 3]), tmp_path / "one", formats, processes=1)  # once more, in place
    assert contents(tmp_path / "one") == whole


@pytest.mark.parametrize("processes", [1, 2])
def test_what_cannot_be_written_is_one_line_and_nothing_half(tmp_path, processes):
    made = make(4)
    blocked = tmp_path / "chorale_0002.musicxml"
    (blocked / "x").mkdir(parents=True)
    with pytest.raises(errors.InputError, match="cannot write .*: Is a directory; make room or choose another folder"):
        exporting.export(made, tmp_path, ("musicxml",), processes=processes)
    written = {path.name for path in tmp_path.iterdir() if path != blocked}
    assert written and written <= {f"chorale_000{n}.musicxml" for n in range(4)}
    for name in written:
        notation.read_satb(tmp_path / name)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize("format", ["midi", "musicxml", "png"])
def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, monkeypatch, format):
    name = f"chorale_0002{exporting.SUFFIXES[format]}"
    monkeypatch.setattr(files, "clean_up", lambda folder: None)
    staging = files.temporary_path(tmp_path / "export")
    staging.mkdir()
    for path in (staging / name, files.temporary_path(staging / name)):
        path.symlink_to("/dev/full")
    with pytest.raises(errors.InputError) as complaint:
        exporting.export(make(4), tmp_path, (format,), processes=1)
    assert str(complaint.value).startswith(f"cannot write {tmp_path / name}: No space left on device; make room or")
    written = {path.name for path in tmp_path.iterdir()}
    assert not staging.exists() and written <= {name.replace("2", digit) for digit in "013"}


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(errors.InputError, match="cannot write"):
        exporting.export(make(1), tmp_path / "out", ("midi",))


@pytest.mark.parametrize(("fields", "message"), [({"programs": (200,) * 4}, "programs="), ({"qpm": 0.0}, "0.0")])
def test_complaints_of_the_writers_come_through(tmp_path, fields, message):
    with pytest.raises(errors.InputError, match=message):
        exporting.export(make(1), tmp_path, ("midi",), **fields)
    with pytest.raises(errors.InputError, match="0.5"):
        exporting.export(make(4), tmp_path, ("musicxml",), qpm=0.5, processes=2)
    assert not list(tmp_path.iterdir())


def test_formats_that_are_none(tmp_path):
    with pytest.raises(errors.InputError, match="format 'pdf' is unknown; use one or more of midi, musicxml, png, wav"):
        exporting.export(make(1), tmp_path, ("midi", "pdf"))


def test_a_process_that_dies_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "_WORKER", "import os, sys; sys.stdin.buffer.read(1); os._exit(7)")
    with pytest.raises(errors.InputError, match="a process that writes scores ended with exit code 7; if memory"):
        exporting.export(make(3), tmp_path, ("musicxml",), processes=2)
    assert not list(tmp_path.iterdir())


def test_ctrl_c_ends_the_processes(tmp_path, monkeypatch):
    started = []
    popen = subprocess.Popen

    def start(*args, **kwargs):
        started.append(popen(*args, **kwargs))
        return started[-1]

    def count(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting.subprocess, "Popen", start)
    monkeypatch.setattr(exporting, "_WORKER", "import time; time.sleep(60)")
    monkeypatch.setattr(exporting.futures, "as_completed", count)
    with pytest.raises(KeyboardInterrupt):
        exporting.export(make(3), tmp_path, ("musicxml",), processes=2)
    assert [worker.returncode for worker in started] == [-9, -9]
    assert not list(tmp_path.iterdir())


def test_what_a_library_prints_is_no_reply(tmp_path, monkeypatch):
    monkeypatch.setattr(
        exporting,
        "_WORKER",
        "import os; from coconet_jax import exporting as e; write = e._write\n"
        "e._write = lambda job: (print('noise', flush=True), os.system('echo noise'), write(job))\n"
        "e.serve()",
    )
    assert len(exporting.export(make(2), tmp_path, ("musicxml",), processes=2)) == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_leftovers_of_a_killed_export_go(tmp_path):
    """kill -9 while files are staged: none is half there, its processes end, and the next export tidies up."""
    code = (
        "import os, signal, sys; sys.path.insert(0, 'tests')\n"
        "import test_exporting as t; from coconet_jax import exporting\n"
        "exporting.notation.write_midi = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"exporting.export(t.make(2), {str(tmp_path)!r}, ('midi',))"
    )
    environment = {**os.environ, "PYTHONPATH": str(conftest.REPOSITORY)}
    killed = subprocess.run([sys.executable, "-c", code], cwd=conftest.REPOSITORY, env=environment, timeout=60)
    assert killed.returncode == -9
    assert [path.name.startswith(".export") for path in tmp_path.iterdir()] == [True]
    exporting.export(make(2), tmp_path, ("midi",))
    assert sorted(contents(tmp_path)) == ["chorale_0000.mid", "chorale_0001.mid"]


def test_a_process_ends_with_whoever_started_it(capfd):
    done = subprocess.run([sys.executable, "-c", exporting._WORKER], cwd=conftest.REPOSITORY, input=b"", timeout=60)
    assert done.returncode == 0 and capfd.readouterr().err == ""


def test_sample_numbers():
    assert exporting.parse_ids("0-15,40,99", 100).tolist() == [*range(16), 40, 99]
    assert exporting.parse_ids(" 7 , 3 - 5,4-4,7", 8).tolist() == [3, 4, 5, 7]
    assert exporting.parse_ids("all", 3).tolist() == [0, 1, 2]
    assert exporting.parse_ids("0-1", 2).dtype == np.int64


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no number; use numbers and ranges such as 0-15,40,99"),
        ("1,,2", "'' is no number"),
        ("a", "'a' is no number"),
        ("-3", "'-3' is no number"),
        ("3-", "'3-' is no number"),
        ("1-2-3", "'1-2-3' is no number"),
        ("1.5", "'1.5' is no number"),
        ("٣", "is no number"),
        ("9" * 5000, r"^ids '9{40}\.\.\.': '9{20}' is no number"),
        ("5-2", "'5-2' runs backwards; use 2-5"),
        ("3,8", "there is no sample 8; use 0 to 7"),
        ("0-99999999999", "there is no sample 99999999999; use 0 to 7"),
    ],
)
def test_sample_numbers_that_are_none(text, message):
    with pytest.raises(errors.InputError, match=message):
        exporting.parse_ids(text, 8)
