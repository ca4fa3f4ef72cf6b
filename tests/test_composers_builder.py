"""Windows of four-part works: which scores, what a window is, and the round trip through TFDS and npz."""

import collections
import pathlib

import numpy as np
import pytest

from coconet_jax import corpus, errors, work_windows, works, works_builder

HANDFUL = ("bwv360", "bwv393", "palestrina/Credo_68_e", "palestrina/Credo_81_c", "mozart/k156/movement2")


@pytest.fixture(scope="module")
def sources():
    return works.find_sources()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, sources):
    """A data_dir with the windows of a handful of scores, and what load gave."""
    data_dir = tmp_path_factory.mktemp("works")
    return data_dir, works_builder.load(data_dir, [source for source in sources if source.name in HANDFUL])


def steady(steps: int, every: int, *, top: int = 72, bottom: int = 48) -> np.ndarray:
    """Four voices that all move by a semitone, to and fro, every so many cells."""
    turn = (np.arange(steps) // every % 2)[:, None]
    return (np.array([top, 64, 57, bottom]) - turn).astype(np.int16)


def test_every_work_is_in_one_split(sources):
    split_of = collections.defaultdict(set)
    for source in sources:
        split_of[source.composer, source.work].add(source.split)
    assert all(len(splits) == 1 for splits in split_of.values())
    found = {(source.composer, source.split) for source in sources}
    for composer in ("bach", "palestrina", "mozart", "beethoven"):
        assert {(composer, split) for split in ("train", "valid", "test")} <= found
    assert {("haydn", "train"), ("haydn", "test")} <= found
    assert {split for composer, split in found if works.FAMILY_OF[composer] == "other"} == {"test"}


def test_the_scores_are_those_of_four_parts(sources):
    """Every quartet movement but no piano sonata, and the masses and trecento works of four parts."""
    counts = collections.Counter(source.composer for source in sources)
    assert counts == {
        "bach": 225 + 73 + 76,  # without what leaks from train, and
        "palestrina": 498,
        "beethoven": 22,
        "mozart": 15,
        "schumann": 5,
        "haydn": 9,
        "trecento": 19,
    }
    assert len({source.name for source in sources}) == len(sources)


def test_masses_on_one_model_stay_together(sources):
    works_of = {source.work for source in sources if source.composer == "palestrina"}
    assert "Missa Ave Maria" in works_of and not any("(" in work for work in works_of)


def test_chorales_keep_their_split_and_leave_out_leaks(sources):
    leaks = {split: set(corpus.leaking_names(split)) for split in ("valid", "test")}
    for split, rows in corpus.table()["splits"].items():
        expected = [row["name"] for row in rows if row["name"] not in leaks.get(split, ())]
        assert [s.name for s in sources if s.composer == "bach" and s.split == split] == expected
    assert leaks["valid"]


@pytest.mark.parametrize(("every", "stretch"), [(4, 4.0), (8, 2.0), (16, 1.0), (32, 0.5), (128, 0.125)])
def test_pace_is_brought_to_a_pitch_in_four_steps(every, stretch):
    """Whatever a composer's beat is, the windows are the same and start every 7 steps."""
    found = works.cut(steady(every * 25, every))
    assert set(found.stretch.tolist()) == {stretch}
    assert len(found.windows) == (100 - 64) // 7 + 1
    np.testing.assert_array_equal(found.windows[0], steady(64, 4))
    np.testing.assert_array_equal(found.windows[1], steady(71, 4)[7:])
    assert found.dropped == 0 and not found.filled.any()


def test_pace_bounds_are_a_square_root_of_two_either_side():
    """4.5 steps a pitch: from 3.182 to 6.364."""

    def at_pace(every: float) -> bool:
        window = np.repeat((np.arange(64) // every % 2)[:, None], 4, axis=1)[None]
        return bool(works._at_pace(window)[0])

    # 64 steps of pitches that last 3, 3.2, 6.1 and 7.1: 22, 20, 11 (rounded up) and 10 of them.
    assert [at_pace(every) for every in (3.0, 3.2, 6.2, 7.1)] == [False, True, True, False]


def test_a_window_moves_no_further_than_it_must():
    high = works.cut(steady(1024, 16, top=84, bottom=48))  # 47..84
    assert (high.windows.min(), high.windows.max()) == (44, 81)
    np.testing.assert_array_equal(high.room[0], [-8, 0])
    low = works.cut(steady(1024, 16, bottom=30))  # 29..72
    assert (low.windows.min(), low.windows.max()) == (36, 79)
    np.testing.assert_array_equal(low.room[0], [0, 2])
    unmoved = works.cut(steady(1024, 16))
    assert (unmoved.windows.min(), unmoved.windows.max()) == (47, 72)
    np.testing.assert_array_equal(unmoved.room[0], [-11, 9])


def test_too_wide_a_window_is_left_out_and_counted():
    widest = works.cut(steady(1024, 16, top=90, bottom=46))  # 45..90 are 46 pitches
    assert len(widest.windows) == 28 and widest.dropped == 0
    wider = works.cut(steady(1024, 16, top=91, bottom=46))
    assert len(wider.windows) == 0 and wider.dropped == 28


def test_short_rests_are_held_and_long_ones_end_the_music():
    pitches = np.arange(40, 52, dtype=np.int16)[:, None].repeat(4, axis=1)
    pitches[2:6, 0] = -1  # 4 steps
    pitches[2:7, 1] = -1  # 5
    pitches[:2, 2] = -1  # nothing before it
    pitches[9:, 3] = -1
    held = works.hold_short_rests(pitches)
    assert held[:, 0].tolist() == [40, 41, 41, 41, 41, 41, *range(46, 52)]
    assert held[2:7, 1].tolist() == [-1] * 5 and held[:2, 2].tolist() == [-1, -1]
    assert held[9:, 3].tolist() == [48, 48, 48]
    assert (pitches[2:6, 0] == -1).all()


def test_windows_with_many_filled_cells_are_left_out():
    """5 % of 256 cells are 12: a window may hold three rests of a quarter, not four."""
    pitches = steady(256, 16)
    for number, voices in ((3, 1), (4, 0)):
        with_rests = pitches.copy()
        for voice in range(number):
            with_rests[64 : 64 + 16, voice] = -1
        found = works.cut(with_rests)
        assert len(found.windows) == voices
    assert works.cut(pitches).filled.tolist() == [0.0]


KERN = """**kern\t**kern\t**kern\t**kern
*M4/4\t*M4/4\t*M4/4\t*M4/4
=1\t=1\t=1\t=1
2C\t1c\t[2g\t4cc 4ee
.\t.\t.\t4r
2D\t.\t4g]\t4dd
.\t.\t4a\t8ee
.\t.\t.\t8ff
=2\t=2\t=2\t=2
1C\t1c\t1g\t1ee
==\t==\t==\t==
*-\t*-\t*-\t*-
"""


def test_reading_a_score(tmp_path):
    """Ties are one note, of a chord the highest counts, rests are -1, voices go from high to low."""
    path = tmp_path / "some.krn"
    path.write_text(KERN)
    pitches = works._read_score(path)
    assert pitches.shape == (8 * 16, 4)
    assert pitches[:64:8, 0].tolist() == [76, 76, -1, -1, 74, 74, 76, 77]
    assert pitches[:64:8, 1].tolist() == [67] * 6 + [69] * 2
    assert set(pitches[:, 2].tolist()) == {60}
    assert pitches[:64:16, 3].tolist() == [48, 48, 50, 50] and set(pitches[64:, 3].tolist()) == {48}


def test_a_score_that_cannot_be_used_is_named(tmp_path):
    path = tmp_path / "three.krn"
    path.write_text("\n".join("\t".join(line.split("\t")[:3]) for line in KERN.splitlines()) + "\n")
    with pytest.raises(errors.InputError, match=r"three\.krn has 3 parts, not 4"):
        works._read_score(path)
    (tmp_path / "broken.mxl").write_bytes(b"PK nonsense")
    with pytest.raises(errors.InputError, match=r"music21 cannot read broken\.mxl"):
        works._read_score(tmp_path / "broken.mxl")


def test_a_handful_of_scores_goes_through_tfds(prepared, sources):
    _, splits = prepared
    assert {split: set(part.score) for split, part in splits.items()} == {
        "train": {"bwv360"},
        "valid": {"mozart/k156/movement2"},
        "test": {"bwv393", "palestrina/Credo_68_e"},
    }
    by_name = {source.name: source for source in sources}
    test = splits["test"]
    assert set(test.work) == {"bwv393", by_name["palestrina/Credo_68_e"].work}
    for name, composer, family in (("bwv393", 0, 0), ("palestrina/Credo_68_e", 1, 1)):
        mine, found = test.take(test.score == name), works.read(by_name[name])
        np.testing.assert_array_equal(mine.pitches, found.windows)
        np.testing.assert_array_equal(mine.room, found.room)
        np.testing.assert_array_equal(mine.stretch, found.stretch)
        assert set(mine.composer.tolist()) == {composer} and set(mine.family.tolist()) == {family}
    assert set(test.take(test.composer == 1).stretch.tolist()) <= {0.5, 0.25}  # Palestrina's halves are quarters
    assert splits["valid"].family.tolist() == [2] * len(splits["valid"].pitches)
    for part in splits.values():
        assert part.pitches.dtype == np.int8
        low, high = part.pitches.min(axis=(1, 2)).astype(int), part.pitches.max(axis=(1, 2)).astype(int)
        np.testing.assert_array_equal(low + part.room[:, 0], 36)
        np.testing.assert_array_equal(high + part.room[:, 1], 81)


def test_a_second_load_reads_what_is_prepared(prepared, monkeypatch, capsys):
    data_dir, splits = prepared
    monkeypatch.setattr(works, "read", lambda source: pytest.fail("a score was read again"))
    again = works_builder.load(data_dir)
    for split, part in splits.items():
        for column, other in zip(part, again[split], strict=True):
            np.testing.assert_array_equal(column, other)
    assert capsys.readouterr() == ("", "")
    assert works_builder.read_skipped(data_dir) == [
        "palestrina/Credo_81_c: Credo_81_c.krn has 4 parts, not 4 that sound"
    ]


def test_damaged_files_are_named(prepared, tmp_path):
    data_dir = tmp_path / "copy"
    source = next(pathlib.Path(prepared[0]).rglob("dataset_info.json")).parent
    target = data_dir / source.relative_to(prepared[0])
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    next(target.glob("*test*")).write_bytes(b"short")
    with pytest.raises(errors.InputError, match="are damaged .* delete that folder"):
        works_builder.load(data_dir)


def test_npz_round_trip(prepared, tmp_path):
    path = tmp_path / "works.npz"
    work_windows.write_npz(path, prepared[1])
    again = work_windows.read_npz(path)
    for split, part in prepared[1].items():
        for column, other in zip(part, again[split], strict=True):
            np.testing.assert_array_equal(column, other)
    assert work_windows.describe(again)[0] == ("bach", "1 / 1 / 19", "0 / 0 / 0", "1 / 1 / 19")


def test_what_is_no_such_file_is_refused(prepared, tmp_path):
    with pytest.raises(errors.InputError, match=r"does not exist; make it with python -m coconet_jax\.work_windows"):
        work_windows.read_npz(tmp_path / "nothing.npz")
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    with pytest.raises(errors.InputError, match="holds no windows of four-part works"):
        work_windows.read_npz(tmp_path / "other.npz")
    part = prepared[1]["test"]
    for wrong, message in (
        (part._replace(pitches=part.pitches + 60), "test has pitches outside 36..81"),
        (part._replace(room=part.room[1:]), "arrays of test do not fit"),
    ):
        work_windows.write_npz(tmp_path / "wrong.npz", {**prepared[1], "test": wrong})
        with pytest.raises(errors.InputError, match=message):
            work_windows.read_npz(tmp_path / "wrong.npz")
