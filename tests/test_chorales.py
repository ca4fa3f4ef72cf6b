"""The rebuilt data set against the paper's own arrays, and everything a user can get wrong."""

import functools
import io
import json
import pathlib
import shutil
import socket
import time
from typing import Any
import urllib.error
import urllib.request

import numpy as np
import pytest
import tqdm

from coconet_jax import chorales, corpus, errors, notation, pianoroll, pieces, score, sources

DATA = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data"
NPZ = DATA / "Jsb16thSeparated.npz"
COUNTS = {"train": 225, "valid": 75, "test": 77}

needs_npz = pytest.mark.skipif(not NPZ.exists(), reason="the paper's npz is not beside the repository")


@pytest.fixture(scope="session", autouse=True)
def read_each_chorale_once():
    """Every config reads the same files: keep what was read, so that the tests stay quick."""
    build, seen = corpus.build, {}

    def remember(name, encoding):
        if name not in seen:
            seen[name] = build(name, encoding)
        return seen[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "build", remember)
        yield


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """The default data set in a fresh folder, the processor time that took, and every connection it tried to make."""
    data_dir = tmp_path_factory.mktemp("prepared")
    attempts = []

    def refuse(_, address):
        attempts.append(address)
        raise OSError("the network is blocked")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        patch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: refuse(None, args))
        start = time.process_time()  # others may be using the machine
        piece_set = chorales.load(data_dir=data_dir)
        seconds = time.process_time() - start
    return data_dir, piece_set, seconds, attempts


@pytest.fixture(scope="session")
def folds():
    """The paper's arrays, read without any code of the project."""
    with np.load(NPZ, allow_pickle=True, encoding="latin1") as file:
        return {
            split: [np.where(np.isnan(a), -1, a).astype(int) for a in file[split]]
            for split in ("train", "valid", "test")
        }


@pytest.fixture(scope="session")
def jsb16th(tmp_path_factory):
    return chorales.load("jsb16th", source=NPZ, data_dir=tmp_path_factory.mktemp("jsb16th"))


def build(row) -> Any:
    """What corpus.build makes of a row of the table; Any, because onsets and fermatas are always there."""
    return corpus.build(row["name"], row)


def unpadded(fold):
    return [array[:length] for array, length in zip(fold.pitches, fold.lengths, strict=True)]


def test_default_has_the_papers_split_without_network(prepared):
    _, piece_set, seconds, attempts = prepared
    assert {split: len(fold.names) for split, fold in piece_set.splits.items()} == COUNTS
    assert (piece_set.source, piece_set.steps_per_quarter) == ("music21", 4)
    assert attempts == []
    assert seconds < 180


@needs_npz
def test_rebuilt_arrays_match_the_papers(prepared, folds):
    """DATA.md: 4125 of 365,056 cells differ: 1.06 % in train, 1.45 % in valid, 777 cells = 1.03 % in test."""
    differing, cells = {}, {}
    for split, fold in prepared[1].splits.items():
        differing[split] = cells[split] = 0
        for row, array in zip(corpus.table()["splits"][split], unpadded(fold), strict=True):
            truth = folds[split][row["index"]]
            assert array.shape == truth.shape, row
            differing[split] += int((array != truth).sum())
            cells[split] += truth.size
    share = {split: differing[split] / cells[split] for split in cells}
    print({split: f"{differing[split]}/{cells[split]} = {share[split]:.4%}" for split in cells})
    assert sum(cells.values()) == 365_056
    assert sum(differing.values()) / sum(cells.values()) <= 0.012
    assert share["train"] <= 0.0108 and share["valid"] <= 0.0148 and share["test"] <= 0.0105


def test_order_is_the_papers(prepared):
    for split, fold in prepared[1].splits.items():
        rows = corpus.table()["splits"][split]
        assert list(fold.names) == [row["name"] for row in rows]
        assert [row["index"] for row in rows] == sorted(row["index"] for row in rows)


def test_round_trip_of_every_feature(prepared):
    builder = chorales.prepare(data_dir=prepared[0])
    row = corpus.table()["splits"]["test"][3]
    built, example = build(row), chorales.read_examples(builder, "test")[3]
    assert set(example) == {"name", "pitches", "transpose_room", "onset", "fermata", "meter", "pickup_steps"}
    assert (example["pitches"].dtype, example["transpose_room"].dtype) == (np.int16, np.int8)
    np.testing.assert_array_equal(example["pitches"], built.pitches)
    np.testing.assert_array_equal(example["onset"], built.onset)
    np.testing.assert_array_equal(example["fermata"], built.fermata)
    assert tuple(example["meter"]) == built.meter and example["pickup_steps"] == built.pickup_steps
    assert built.fermata.any() and not built.fermata.all()


def test_transpose_room_is_stored_for_every_piece(prepared):
    for fold in prepared[1].splits.values():
        expected = [pianoroll.transpose_room(array) for array in unpadded(fold)]
        np.testing.assert_array_equal(fold.transpose_room, expected)
    assert (prepared[1].splits["train"].transpose_room != 0).any()


def test_onsets_tell_repeated_notes_from_held_ones(prepared):
    """DATA.md: 13.6 % of the scores' onsets repeat the pitch; they cannot be seen in pitches."""
    onsets = repeats = 0
    for split in COUNTS:
        for row in corpus.table()["splits"][split]:
            chorale = build(row)
            visible = pianoroll.onsets_where_pitch_changes(chorale.pitches)
            assert not (visible & ~chorale.onset).any() and not (chorale.onset & (chorale.pitches < 0)).any()
            onsets, repeats = onsets + chorale.onset.sum(), repeats + (chorale.onset & ~visible).sum()
    assert 0.12 < repeats / onsets < 0.15


def test_pickup_and_meter_are_kept():
    row = next(row for row in corpus.table()["splits"]["train"] if row["name"] == "bwv66.6")
    chorale = build(row)
    assert (chorale.meter, chorale.pickup_steps) == ((4, 4), 4)


def test_twins_of_valid_and_test_are_never_trained_on(prepared):
    held_out = {*corpus.table()["never_train"], *prepared[1].splits["valid"].names, *prepared[1].splits["test"].names}
    extra = {row["name"] for row in corpus.table()["extra"]}
    assert len(corpus.table()["never_train"]) == 5
    assert held_out.isdisjoint(prepared[1].splits["train"].names) and held_out.isdisjoint(extra)


def test_extra_adds_twelve_to_train_only(prepared, tmp_path):
    more = chorales.load("music21_extra", data_dir=tmp_path)
    assert {split: len(fold.names) for split, fold in more.splits.items()} == {**COUNTS, "train": 237}
    assert more.splits["train"].names[:225] == prepared[1].splits["train"].names
    assert more.splits["test"].names == prepared[1].splits["test"].names
    assert all(pianoroll.in_range(array).all() for array in unpadded(more.splits["train"]))


def test_leaks_are_named(prepared):
    assert chorales.leaking_names() == ("bwv253", "bwv280")
    assert set(chorales.leaking_names()) <= set(prepared[1].splits["valid"].names)
    assert set(chorales.leaking_names("test")) <= set(prepared[1].splits["test"].names)


@needs_npz
def test_jsb16th_equals_the_npz(jsb16th, folds):
    for split, fold in jsb16th.splits.items():
        assert len(fold.names) == len(set(fold.names)) == len(folds[split])
        for array, truth in zip(unpadded(fold), folds[split], strict=True):
            np.testing.assert_array_equal(array, truth)
        for row in corpus.table()["splits"][split]:
            assert fold.names[row["index"]] == row["name"]
    assert sum(len(fold) for fold in folds.values()) == 382


@needs_npz
def test_jsb16th_needs_its_source_only_once(tmp_path):
    with pytest.raises(errors.InputError, match="--source=PATH.*or with --download"):
        chorales.load("jsb16th", data_dir=tmp_path)
    first = chorales.load("jsb16th", source=NPZ, data_dir=tmp_path)
    again = chorales.load("jsb16th", data_dir=tmp_path)
    np.testing.assert_array_equal(first.splits["test"].pitches, again.splits["test"].pitches)


@needs_npz
def test_coarser_grids_take_every_second_and_fourth_step(prepared, jsb16th, tmp_path):
    for dataset, fine, source in (("music21", prepared[1], None), ("jsb16th", jsb16th, NPZ)):
        for steps, factor in ((2, 2), (1, 4)):
            coarse = chorales.load(dataset, steps_per_quarter=steps, source=source, data_dir=tmp_path)
            assert coarse.steps_per_quarter == steps
            for split in COUNTS:
                expected = [array[::factor] for array in unpadded(fine.splits[split])]
                assert all(np.array_equal(a, b) for a, b in zip(expected, unpadded(coarse.splits[split]), strict=True))


def test_subsample_keeps_onsets_between_kept_steps():
    pitches = np.full((8, 4), -1, np.int16)
    onset = np.zeros((8, 4), bool)
    pitches[:, 0], onset[[0, 3], 0] = 60, True  # struck again at step 3, still sounding at 4
    pitches[:6, 1], onset[[0, 2], 1] = 55, True  # struck again at 2, silent from 6
    pitches[:, 2], onset[[0, 5], 2] = 50, True  # struck again at 5, after the last kept step
    pitches[2:4, 3], onset[2, 3] = 40, True  # between the kept steps only
    fine = corpus.Chorale("x", pitches, onset, None, pickup_steps=4)
    quarters = sources.subsample(fine, 4)
    np.testing.assert_array_equal(quarters.onset, [[1, 1, 1, 0], [1, 1, 0, 0]])
    assert quarters.pickup_steps == 1 and sources.subsample(fine, 1) is fine
    eighths = sources.subsample(fine, 2)
    np.testing.assert_array_equal(eighths.onset, [[1, 1, 1, 0], [0, 1, 0, 1], [1, 0, 0, 0], [0, 0, 1, 0]])


def test_repeats_are_played_from_the_right_bar():
    assert corpus._play_order(5, set(), {1}) == [0, 1, 0, 1, 2, 3, 4]
    assert corpus._play_order(5, {3}, {1, 4}) == [0, 1, 0, 1, 2, 3, 4, 3, 4]
    assert corpus._play_order(4, set(), {0, 2}) == [0, 0, 1, 2, 1, 2, 3]


class _Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return pathlib.Path.touch, (self.marker,)


def test_a_wrong_file_is_refused_before_it_is_unpickled(tmp_path, monkeypatch):
    marker, bomb = tmp_path / "exploded", tmp_path / "Jsb16thSeparated.npz"
    arrays: dict[str, Any] = {split: np.array([_Bomb(marker)], dtype=object) for split in COUNTS}
    np.savez(bomb, **arrays)
    with pytest.raises(errors.InputError, match="not the published Jsb16thSeparated.npz"):
        chorales.load("jsb16th", source=bomb, data_dir=tmp_path / "data")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: io.BytesIO(bomb.read_bytes()))
    with pytest.raises(errors.InputError, match="not the published Jsb16thSeparated.npz"):
        chorales.load("jsb16th", download=True, data_dir=tmp_path / "data")
    assert not marker.exists()
    with pytest.raises(TypeError, match="isnan"):  # what the checksum stands in front of
        sources.read_jsb16th(bomb.read_bytes())
    assert marker.exists()


@needs_npz
def test_download_is_checked_and_used(tmp_path, monkeypatch):
    asked = []

    def fetch(url, timeout):
        asked.append((url, timeout))
        return io.BytesIO(NPZ.read_bytes())

    monkeypatch.setattr(urllib.request, "urlopen", fetch)
    assert len(chorales.load("jsb16th", download=True, data_dir=tmp_path).splits["train"].names) == 229
    assert len(asked) == 1 and asked[0][0].startswith("https://")


def test_failed_download_names_the_remedy(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(urllib.request, "urlopen", fail)
    with pytest.raises(errors.InputError, match="cannot download .*no route.*--source"):
        chorales.load("jsb16th", download=True, data_dir=tmp_path)


@pytest.fixture
def scores(tmp_path):
    """A folder with 30 npz pieces, one MIDI file, and five files that cannot be used."""
    folder = tmp_path / "scores"
    (folder / "deep").mkdir(parents=True)
    piece = np.array([[72, 67, 60, 48]] * 4 + [[71, 67, 62, 43]] * 4, np.int16)
    for number in range(30):
        np.savez(folder / "deep" / f"{number:02}.npz", pitches=piece + number % 3)
    notation.write_midi(folder / "a.mid", score.from_pitches(piece))
    np.savez(folder / "high.npz", pitches=piece + 20)
    np.savez(folder / "rests.npz", pitches=np.full((4, 4), -1))
    np.savez(folder / "floats.npz", pitches=piece.astype(float))
    np.savez(folder / "objects.npz", pitches=np.array([None, piece], dtype=object))
    (folder / "broken.mid").write_bytes(b"not a MIDI file")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_folder_is_read_split_and_reported(scores, tmp_path, capsys):
    first = chorales.load("folder", source=scores, data_dir=tmp_path / "one")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading 36 files, once"
    skipped = {line.split()[1].rstrip(":"): line for line in lines if line.startswith("skipped ")}
    assert set(skipped) == {"high.npz", "rests.npz", "floats.npz", "objects.npz", "broken.mid"}
    assert "92 is outside 36..81" in skipped["high.npz"] and "no notes" in skipped["rests.npz"]
    assert "float64" in skipped["floats.npz"] and "plain arrays" in skipped["objects.npz"]
    names = [name for fold in first.splits.values() for name in fold.names]
    assert len(names) == 31 and "a.mid" in names and "deep/07.npz#0" in names
    for split, fold in first.splits.items():
        assert all(sources.folder_split(name.split("#")[0]) == split for name in fold.names)
    assert len(first.splits["train"].names) > 15
    assert first.source == "folder:scores"
    second = chorales.load("folder", source=scores, data_dir=tmp_path / "two")
    assert {s: f.names for s, f in first.splits.items()} == {s: f.names for s, f in second.splits.items()}
    where = next(split for split, fold in first.splits.items() if "a.mid" in fold.names)
    row = first.splits[where].names.index("a.mid")
    assert first.splits[where].pitches[row, 0].tolist() == [72, 67, 60, 48]


def test_skipped_files_are_counted_on_later_loads(scores, tmp_path, capsys):
    flags = ["--dataset=folder", f"--source={scores}", f"--data_dir={tmp_path / 'data'}"]
    chorales.main(flags)
    assert "not used" not in capsys.readouterr().err
    chorales.main(flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"files of {scores} not used: 5, listed in ")
    listed = json.loads(pathlib.Path(line.split(" listed in ")[1]).read_text())["skipped"]
    assert len(listed) == 5 and any("high.npz" in reason and "92 is outside" in reason for reason in listed)
    for name in ("high.npz", "rests.npz", "floats.npz", "objects.npz", "broken.mid"):
        (scores / name).unlink()
    chorales.main(flags)
    assert capsys.readouterr().err == "reading 31 files, once\n"
    chorales.main(flags)
    assert capsys.readouterr().err == ""


def test_reading_a_folder_shows_a_bar_on_a_terminal(scores, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setattr("tqdm.tqdm", functools.partial(tqdm.tqdm, mininterval=0))
    sources.read_folder(scores, 4)
    shown = capsys.readouterr().err
    assert "reading files (once)" in shown and "36/36 [" in shown


def _flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[bytes(content).index(b"npz")] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("*train.array_record*", pathlib.Path.unlink, "No such file"),
        ("*train.array_record*", lambda path: path.write_bytes(path.read_bytes()[:999]), "64KB"),
        ("*train.array_record*", _flip_a_byte, "hash mismatch"),
        ("dataset_info.json", pathlib.Path.unlink, "dataset_info.json is missing or empty"),
        ("dataset_info.json", lambda path: path.write_text("{"), "JSON"),
        ("dataset_info.json", lambda path: path.write_text('{"version": "1.0.0"}'), "missing or empty"),
        ("dataset_info.json", lambda path: path.write_text("{}"), "version"),
        ("metadata.json", lambda path: path.write_text("{"), "property name"),
    ],
)
def test_damaged_data_are_named_and_made_anew_when_deleted(file, damage, reason, tmp_path, capsys):
    (tmp_path / "scores").mkdir()
    for number in range(9):
        np.savez(tmp_path / "scores" / f"{number}.npz", pitches=np.full((8, 4), 60 + number))
    given = {"source": tmp_path / "scores", "data_dir": tmp_path / "data"}
    whole = chorales.load("folder", **given)
    (path,) = (tmp_path / "data").rglob(f"1.0.0/{file}")
    damage(path)
    with pytest.raises(errors.InputError, match=rf"prepared in .*damaged .*{reason}.*delete that folder") as caught:
        chorales.load("folder", **given)
    flags = ["--dataset=folder", f"--source={given['source']}", f"--data_dir={given['data_dir']}"]
    with pytest.raises(SystemExit, match="2"):
        chorales.main([*flags, "--piece=train/0", f"--out={tmp_path / 'x.mid'}"])
    complaint = capsys.readouterr().err
    assert complaint.removeprefix("reading 9 files, once\n").count("\n") == 1
    shutil.rmtree(str(caught.value).split("prepared in ")[1].split(" are damaged")[0])
    np.testing.assert_array_equal(
        chorales.load("folder", **given).splits["train"].pitches, whole.splits["train"].pitches
    )


def test_folder_split_is_about_80_10_10():
    draws = [sources.folder_split(f"{i}.mid") for i in range(2000)]
    assert 1500 < draws.count("train") < 1700 and 150 < draws.count("valid") < 250 and 150 < draws.count("test") < 250


def test_a_changed_folder_is_not_served_stale(tmp_path):
    folder = tmp_path / "scores"
    folder.mkdir()
    np.savez(folder / "a.npz", pitches=np.full((8, 4), 60))
    where = sources.folder_split("a.npz")
    before = chorales.load("folder", source=folder, data_dir=tmp_path / "data")
    np.savez(folder / "a.npz", pitches=np.full((8, 4), 61))
    after = chorales.load("folder", source=folder, data_dir=tmp_path / "data")
    assert (before.splits[where].pitches == 60).all() and (after.splits[where].pitches == 61).all()
    digest = sources.folder_digest(folder)
    (folder / "a.npz").rename(folder / "b.npz")
    assert sources.folder_digest(folder) != digest


def test_folder_without_a_usable_file(tmp_path):
    with pytest.raises(errors.InputError, match="is not a folder"):
        chorales.load("folder", source=tmp_path / "none", data_dir=tmp_path)
    (tmp_path / "scores").mkdir()
    with pytest.raises(errors.InputError, match="holds no scores"):
        chorales.load("folder", source=tmp_path / "scores", data_dir=tmp_path)
    np.savez(tmp_path / "scores" / "x.npz", wrong=np.zeros(3))
    with pytest.raises(errors.InputError, match="none of the 1 files .*x.npz: it has no array named pitches"):
        chorales.load("folder", source=tmp_path / "scores", data_dir=tmp_path)


def test_an_interrupted_preparation_is_not_served(tmp_path, monkeypatch):
    build, calls = corpus.build, []

    def interrupted(name, encoding):
        calls.append(name)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return build(name, encoding)

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "build", interrupted)
        with pytest.raises(KeyboardInterrupt, match="^$"):
            chorales.prepare(data_dir=tmp_path)
    monkeypatch.setattr(sources, "subsample", _fail_in_valid(sources.subsample))
    with pytest.raises(RuntimeError, match="in the middle of writing"):
        chorales.prepare(data_dir=tmp_path)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.array_record*"))
    assert len(chorales.load(data_dir=tmp_path).splits["test"].names) == 77


def _fail_in_valid(subsample):
    def fail(chorale, factor):
        if chorale.name == "bwv70.11":
            raise RuntimeError("in the middle of writing")
        return subsample(chorale, factor)

    return fail


@pytest.mark.parametrize(
    ("dataset", "given", "message"),
    [
        ("bach", {}, "dataset=bach is unknown; use one of music21"),
        ("music21", {"steps_per_quarter": 3}, "steps_per_quarter=3 is no grid"),
        ("folder", {}, "needs a source"),
        ("music21", {"source": "x.npz"}, "takes no source"),
        ("jsb16th", {"source": "/nowhere/x.npz"}, "cannot read /nowhere/x.npz: No such file"),
    ],
)
def test_bad_input_is_named(dataset, given, message, tmp_path):
    with pytest.raises(errors.InputError, match=message):
        chorales.load(dataset, data_dir=tmp_path, **given)


def test_unwritable_data_dir_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.InputError, match="cannot prepare chorales in .*--data_dir"):
        chorales.load(data_dir=tmp_path / "file")


def test_another_edition_of_the_corpus_is_named(tmp_path, monkeypatch):
    with pytest.raises(errors.InputError, match="has no bach/bwv9999"):
        corpus._read_parts("bwv9999")
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "folder", lambda: tmp_path)
        (tmp_path / "text.mxl").write_bytes(b"no archive")
        (tmp_path / "cut.xml").write_text("<score-partwise><part-list>")
        solo = f'<part id="x">{_measure(_note("C", 4))}</part>'
        listed = '<part-list><score-part id="x"><part-name>Alto</part-name></score-part></part-list>'
        (tmp_path / "solo.xml").write_text(f"<score-partwise>{listed}{solo}</score-partwise>")
        for name, message in (
            ("text", "bach/text.mxl cannot be read"),
            ("cut", "bach/cut.xml cannot be read"),
            ("solo", "no four"),
        ):
            with pytest.raises(errors.InputError, match=message):
                corpus._read_parts(name)
    parts = corpus._read_parts("bwv66.6")
    assert len(corpus.encode("bwv66.6", parts, {"form": "literal", "rests": "tutti"}).pitches) > 0


def test_command_lists_and_exports(prepared, tmp_path, capsys):
    target = tmp_path / "out" / "chorales.npz"
    chorales.main([f"--data_dir={prepared[0]}", f"--export={target}"])
    printed = capsys.readouterr().out
    assert "train        225     54084" in printed and str(prepared[0]) in printed
    again = pieces.read_npz(target)
    np.testing.assert_array_equal(again.splits["valid"].pitches, prepared[1].splits["valid"].pitches)
    assert again.splits["valid"].names == prepared[1].splits["valid"].names


def test_command_writes_a_voice_with_its_repeated_notes(prepared, tmp_path):
    out = tmp_path / "melody.mid"
    chorales.main([f"--data_dir={prepared[0]}", "--piece=test/0", "--voice=soprano", f"--out={out}"])
    row = corpus.table()["splits"]["test"][0]
    built, melody = build(row), notation.read_melody(out)
    steps = min(len(melody.pitches), len(built.pitches))
    np.testing.assert_array_equal(melody.pitches[:steps, 0], built.pitches[:steps, 0])
    np.testing.assert_array_equal(melody.onset[:steps, 0], built.onset[:steps, 0])
    assert steps > len(built.pitches) - 16


def test_command_writes_a_whole_piece_by_name(prepared, tmp_path):
    out = tmp_path / "piece.musicxml"
    chorales.main([f"--data_dir={prepared[0]}", "--piece=bwv66.6", f"--out={out}"])
    row = next(row for row in corpus.table()["splits"]["train"] if row["name"] == "bwv66.6")
    written = notation.read_satb(out)
    np.testing.assert_array_equal(written.pitches, build(row).pitches)
    assert written.pickup_steps == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset=nope"], "dataset=nope is unknown"),
        (["--piece=test/0"], "--piece and --out go together"),
        (["--piece=test/77", "--out=x.mid"], "test has 77 pieces, from test/0 to test/76"),
        (["--piece=bwv1", "--out=x.mid"], "--piece=bwv1 is not in the data"),
        (["--piece=test/0", "--voice=viola", "--out=x.mid"], "--voice=viola is unknown"),
        (["--piece=test/0", "--out=x.wav"], "--out=x.wav must end in"),
        (["--export=/dev/null/x.npz"], "--export=/dev/null/x.npz cannot be written"),
        (["--export=."], "--export=. must end in .npz"),
    ],
)
def test_command_ends_on_bad_input_with_one_line(flags, message, prepared, capsys):
    with pytest.raises(SystemExit, match="2"):
        chorales.main([f"--data_dir={prepared[0]}", *flags])
    printed = capsys.readouterr().err
    assert message in printed and printed.startswith("error: ") and printed.count("\n") == 1


def _measure(notes, before="", after=""):
    return f'<measure number="1">{before}{notes}{after}</measure>'


def _note(step, duration, extra=""):
    pitch = f"<pitch><step>{step}</step><octave>4</octave></pitch>" if step else "<rest/>"
    return f"<note>{pitch}<duration>{duration}</duration>{extra}</note>"


def test_musicxml_details_reach_the_grid(tmp_path, monkeypatch):
    """Pick-up, tie over a bar line, grace note, fermata, repeat sign, short last bar, a part for an instrument."""
    attributes = (
        "<attributes><divisions>2</divisions><time><beats>3</beats><beat-type>4</beat-type></time></attributes>"
    )
    grace = "<note><grace/><pitch><step>B</step><octave>4</octave></pitch></note>"
    tie, untie = '<tie type="start"/>', '<tie type="stop"/>'
    held = "<notations><fermata/></notations>"
    repeat = '<barline><repeat direction="backward"/></barline>'
    part = (
        _measure(_note(None, 2), attributes)
        + _measure(_note("D", 4) + grace + _note("E", 2, tie), after=repeat)
        + _measure(_note("E", 2, untie) + _note("E", 2, held))
    )
    names = ["Flute", "Soprano", "Alto", "Tenor", "Bass"]
    listed = "".join(f'<score-part id="{name}"><part-name>{name}</part-name></score-part>' for name in names)
    flute = '<part id="Flute">' + _measure(_note("A", 20), attributes) + "</part>"
    parts = flute + "".join(f'<part id="{name}">{part}</part>' for name in names[1:])
    (tmp_path / "x.xml").write_text(f"<score-partwise><part-list>{listed}</part-list>{parts}</score-partwise>")
    monkeypatch.setattr(corpus, "folder", lambda: tmp_path)
    parts = corpus._read_parts("x")
    literal: Any = corpus.encode("x", parts, {"form": "literal", "rests": "tutti"})
    assert literal.pitches[:, 0].tolist() == [62] * 8 + [64] * 16
    assert np.flatnonzero(literal.onset[:, 0]).tolist() == [0, 8, 16]
    assert np.flatnonzero(literal.fermata[:, 0]).tolist() == list(range(16, 24))
    assert literal.meter == (3, 4)
    cut = corpus.encode("x", parts, {"form": [[4, 8], [16, 20]], "rests": "tutti", "transpose": -2, "scale": 2})
    assert cut.pitches[:, 1].tolist() == [60] * 4
    expanded = corpus.encode("x", parts, {"form": "expand", "rests": "tutti"})
    assert expanded.pitches[:, 3].tolist() == ([62] * 8 + [64] * 4 + [-1] * 4 + [62] * 8 + [64] * 16)


def test_chords_voices_and_instruments_reach_the_grid(tmp_path, monkeypatch):
    """The highest head of a chord or voice written later counts; a transposing part is read as it sounds."""
    attributes = (
        "<attributes><divisions>1</divisions><time><beats>4</beats><beat-type>4</beat-type></time>{}</attributes>"
    )
    octave_lower = (
        "<transpose><diatonic>0</diatonic><chromatic>0</chromatic><octave-change>-1</octave-change></transpose>"
    )
    chord = _note("C", 2) + _note("G", 2).replace("<note>", "<note><chord/>") + _note("E", 2)
    two = _note("C", 2, "<voice>1</voice>") + "<backup><duration>2</duration></backup><forward><duration>2</duration>"
    two += "</forward>" + _note("D", 2, "<voice>2</voice>")
    written = [_measure(_note("C", 4), attributes.format(more)) for more in ("", "", octave_lower, "")]
    written[1], written[3] = _measure(chord, attributes.format("")), _measure(two, attributes.format(""))
    listed = "".join(f'<score-part id="P{i}"><part-name>x</part-name></score-part>' for i in range(4))
    parts = "".join(f'<part id="P{i}">{measure}</part>' for i, measure in enumerate(written))
    (tmp_path / "x.xml").write_text(f"<score-partwise><part-list>{listed}</part-list>{parts}</score-partwise>")
    monkeypatch.setattr(corpus, "folder", lambda: tmp_path)
    pitches = corpus.encode("x", corpus._read_parts("x"), {"form": "literal", "rests": "keep"}).pitches
    assert pitches[::8].tolist() == [[60, 67, 48, 60], [60, 64, 48, 62]]


def test_a_score_as_npz_keeps_what_it_says_of_itself(tmp_path):
    piece = np.full((24, 4), 60, np.int16)
    onset = np.zeros((24, 4), bool)
    onset[[0, 6]] = True
    for name, notes, begins in (("a", piece, onset), ("b", piece[None], onset[None])):
        fields: Any = {"steps_per_quarter": 4, "meter": [3, 4], "pickup_steps": 2}
        np.savez(tmp_path / f"{name}.npz", pitches=notes, onset=begins, **fields)
    for name, shape in (("none", (0, 4)), ("nothing", (2, 0, 4))):
        np.savez(tmp_path / f"{name}.npz", pitches=np.zeros(shape, np.int16))
    folds, skipped = sources.read_folder(tmp_path, 4)
    found = sum(folds.values(), [])
    assert len(found) == 2 and sorted(line.split(":")[0] for line in skipped) == ["none.npz", "nothing.npz"]
    for chorale in found:
        np.testing.assert_array_equal(chorale.onset, onset)
        assert (chorale.meter, chorale.pickup_steps) == ((3, 4), 2)
    with pytest.raises(errors.InputError, match="it stands on 4 steps a quarter, not 2"):
        sources.read_folder(tmp_path, 2)
