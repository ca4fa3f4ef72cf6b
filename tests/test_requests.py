"""The command's words: each task reads its files and makes the request its function makes; what does not go is said."""

import argparse
import dataclasses
import pathlib

import numpy as np
import pytest
from test_tasks import filled, mask, with_rests

from coconet_jax import blends, errors, flags, notation, offline, pianoroll, requests, score, steering, tasks

PICKUP = filled(44, pickup=4, meter=(3, 4), qpm=90.0)  # a pick-up, three bars of 12, four steps
LONG = filled(32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    """Score files: four voices with and without a pick-up, a lone melody, one with gaps."""
    place = tmp_path_factory.mktemp("scores")
    notation.write_midi(place / "pickup.mid", PICKUP)
    notation.write_midi(place / "long.mid", LONG)
    notation.write_midi(place / "melody.mid", score.from_pitches(np.repeat([67, 65, -1, 64], 8)[:, None]))
    # Four named tracks, so that the reader knows that the bass is the empty one.
    notation.write_midi(place / "gaps.mid", with_rests(LONG, (slice(8, 16), 1), (..., 3)))
    return place


def asked(folder: pathlib.Path, *words: str) -> tuple[tasks.Request, steering.Steering]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    flags.add_flags(parser)
    args = parser.parse_args([word.replace("DIR", str(folder)) for word in words])
    return requests.from_flags(args, 4)


def same(one: tasks.Request, other: tasks.Request) -> None:
    np.testing.assert_array_equal(one.free, other.free)
    np.testing.assert_array_equal(one.given.pitches, other.given.pitches)
    np.testing.assert_array_equal(one.given.onset, other.given.onset)
    for name in ("meter", "pickup_steps", "steps_per_quarter", "qpm"):
        assert getattr(one.given, name) == pytest.approx(getattr(other.given, name), rel=1e-5)
    assert one.in_turn == other.in_turn
    for left, right in zip(*(tasks.start(request, 1, np.arange(3)) for request in (one, other)), strict=True):
        np.testing.assert_array_equal(left, right)


def moved(piece: score.Score, semitones: int) -> score.Score:
    return dataclasses.replace(piece, pitches=np.where(piece.pitches < 0, -1, piece.pitches + semitones))


MELODY = score.from_pitches(np.repeat([67, 65, -1, 64], 8)[:, None])
GAPS = with_rests(LONG, (slice(8, 16), 1), (..., 3))


@pytest.mark.parametrize(
    "words, expected",
    [
        ([], tasks.compose(64)),
        (["--bars=2", "--meter=3/4"], tasks.compose(24, meter=(3, 4))),
        (["--steps=7"], tasks.compose(7)),
        (["--harmonize=DIR/melody.mid"], tasks.harmonize(MELODY)),
        (["--harmonize=DIR/melody.mid", "--rests=together"], tasks.harmonize(MELODY, rests="together")),
        (["--harmonize=DIR/melody.mid", "--voice=Tenor"], tasks.harmonize(MELODY, 2)),
        (["--harmonize=DIR/pickup.mid"], tasks.harmonize(PICKUP)),
        (["--harmonize=DIR/melody.mid", "--transpose=-7"], tasks.harmonize(moved(MELODY, -7))),
        (["--harmonize=DIR/pickup.mid", "--voice=bass", "--transpose=2"], tasks.harmonize(moved(PICKUP, 2), 3)),
        (["--complete=DIR/gaps.mid", "--transpose=3"], tasks.complete(moved(GAPS, 3))),
        (["--harmonize=DIR/pickup.mid", "--voice=bass"], tasks.harmonize(PICKUP, 3)),
        (["--complete=DIR/gaps.mid"], tasks.complete(GAPS)),
        (["--complete=DIR/gaps.mid", "--rests=keep", "--bars=3"], tasks.complete(GAPS, rests="keep", steps=48)),
        (["--complete=DIR/pickup.mid", "--bars=4"], tasks.complete(PICKUP, steps=52)),  # and the pick-up
        (["--complete=DIR/pickup.mid", "--steps=50"], tasks.complete(PICKUP, steps=50)),
        (["--inpaint=DIR/pickup.mid", "--span=2-3"], tasks.inpaint(PICKUP, 16, 40)),
        (["--inpaint=DIR/pickup.mid", "--span=0"], tasks.inpaint(PICKUP, 0, 4)),
        (
            ["--inpaint=DIR/pickup.mid", "--span=4", "--inpaint_voices=alto,bass"],
            tasks.inpaint(PICKUP, 40, 44, voices=[1, 3]),
        ),
        (["--revoice=DIR/long.mid"], tasks.revoice(LONG)),
        (["--revoice=DIR/long.mid", "--revoice_voices=tenor, alto"], tasks.revoice(LONG, [2, 1])),
        (["--transition=DIR/long.mid,DIR/long.mid"], tasks.transition(LONG, LONG, 32)),
        (["--transition=DIR/pickup.mid,DIR/pickup.mid", "--bars=1"], tasks.transition(PICKUP, PICKUP, 12)),
        (["--hybrid=DIR/long.mid,DIR/long.mid"], blends.hybrid([LONG, LONG])),
        (
            ["--hybrid=DIR/long.mid,DIR/long.mid", "--chunk_steps=4", "--keep_share=0.3"],
            blends.hybrid([LONG, LONG], chunk_steps=4, keep_share=0.3),
        ),
        (["--variations=DIR/long.mid"], blends.variations(LONG, 0.7)),
        (
            ["--variations=DIR/long.mid", "--similarity=0", "--chunk_steps=4"],
            blends.variations(LONG, 0.0, chunk_steps=4),
        ),
        (["--extend=DIR/pickup.mid"], tasks.extend(PICKUP, 48)),
        (["--extend=DIR/pickup.mid", "--steps=5", "--before"], tasks.extend(PICKUP, 5, before=True)),
        (["--upsample=DIR/pickup.mid"], tasks.upsample(PICKUP)),
        (["--upsample=DIR/long.mid", "--factor=2"], tasks.upsample(LONG, 2)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_make_the_request(folder, words, expected):
    request, prior = asked(folder, *words)
    same(request, expected)
    usual = steering.usual(len(request.free), *tasks.known_pitches(request))
    assert all(np.array_equal(one, other) for one, other in zip(prior, usual, strict=True))


def test_notes_and_last_chord_go_with_any_task(folder):
    request, _ = asked(folder, "--bars=3", "--given=DIR/melody.mid", "--last_chord=G4 D4, Bb3 43")
    melody = MELODY.pitches[:, 0]
    expected = ~mask(48, slice(40, 48))
    expected[:32, 0] = melody == pianoroll.REST
    np.testing.assert_array_equal(request.free, expected)
    np.testing.assert_array_equal(request.given.pitches[:32, 0], melody)
    assert (request.given.pitches[40:] == [67, 62, 58, 43]).all()
    below, _ = asked(folder, "--bars=3", "--given=DIR/melody.mid", "--voices=-,-,-,1", "--transpose=-24")
    np.testing.assert_array_equal(below.given.pitches[:32, 3], np.where(melody < 0, -1, melody - 24))
    assert (below.given.pitches[:, :3] == pianoroll.REST).all()
    closed, _ = asked(folder, "--bars=2", "--last_chord=tonic", "--key=e minor", "--last_chord_steps=4")
    assert (tasks.start(closed, 0, np.arange(3)).pitches[:, -4:, 3] % 12 == 4).all()
    short, _ = asked(folder, "--variations=DIR/long.mid", "--last_chord=G4 D4 B3 G2", "--last_chord_steps=3")
    np.testing.assert_array_equal(short.free, ~mask(32, slice(29, 32)))


def test_a_piece_from_nothing_is_barred_as_the_notes_that_are_given(folder, tmp_path):
    upper = dataclasses.replace(PICKUP, pitches=PICKUP.pitches[:, :1], onset=PICKUP.onset[:, :1])
    notation.write_midi(tmp_path / "upper.mid", upper)
    request, _ = asked(folder, f"--given={tmp_path}/upper.mid")
    assert (request.given.meter, request.given.pickup_steps, len(request.free)) == ((3, 4), 4, 4 + 4 * 12)
    np.testing.assert_array_equal(request.free[:, 0], np.arange(52) >= 44)
    request, _ = asked(folder, f"--given={tmp_path}/upper.mid", "--steps=44")
    assert request.given.pickup_steps == 4 and not request.free[:, 0].any()
    with pytest.raises(errors.InputError, match="given: pickup_steps=4, but 0 in the piece"):
        asked(folder, f"--given={tmp_path}/upper.mid", "--meter=4/4")
    notation.write_midi(tmp_path / "waltz.mid", dataclasses.replace(upper, pickup_steps=0))
    request, _ = asked(folder, f"--given={tmp_path}/waltz.mid", "--meter=4/4")
    assert request.given.meter == (4, 4)
    assert request.given.remarks[-1] == "given: written in 3/4, and kept step by step in a piece in 4/4"


def test_rests_that_fill_the_last_bar_of_a_file_are_in_nobodys_way(folder, tmp_path):
    melody = score.from_pitches(np.repeat([67, 65, 64, 62, 60], 4)[:, None])
    notation.write_musicxml(tmp_path / "melody.musicxml", melody)
    notation.write_midi(tmp_path / "long.mid", score.from_pitches(np.r_[melody.pitches, np.full((300, 1), -1)]))
    for words in (["--harmonize=DIR/melody.musicxml"], ["--harmonize=DIR/long.mid", "--voice=tenor"]):
        request, _ = asked(tmp_path, *words, "--last_chord=C4 C4 C4 C3")
        assert len(request.free) == 32 and not request.free[16:].any() and (request.given.pitches[20:] == -1).all()
        np.testing.assert_array_equal(request.given.pitches[16:20], [[60, 60, 60, 48]] * 4)
    request, _ = asked(tmp_path, "--given=DIR/melody.musicxml", "--steps=24")
    assert len(request.free) == 24 and (request.free[:, 0] == (np.arange(24) >= 20)).all()


def test_steering_words(folder):
    def bias(*words: str) -> np.ndarray:
        return asked(folder, *words)[1].bias

    four = ((60, 79), (55, 72), (48, 67), (40, 62))
    key, ranges = steering.key(64, "e minor", 3.0).bias, steering.ranges(64, four, 1.0).bias
    usual = steering.usual(64).bias
    np.testing.assert_array_equal(bias("--key=e minor"), usual + key)
    np.testing.assert_array_equal(bias("--key=e minor", "--key_strength=1.5"), usual + key / 2)
    assert offline.sha256(bias("--range_strength=0")) == offline.sha256(steering.neutral(64).bias)
    np.testing.assert_array_equal(bias("--ranges=60-79,55-72,48-67,40-62"), ranges)
    np.testing.assert_array_equal(bias("--ranges=C4-G5,g3-C5, C3-G4,E2-D4", "--range_strength=2"), 2 * ranges)
    bach = steering.ranges(64, pianoroll.VOICE_RANGES, 0.5).bias
    np.testing.assert_array_equal(bias("--range_strength=0.5", "--key=e minor"), key + bach)
    surprise = asked(folder, "--surprise=1,1,1.5,2")[1].temperature
    np.testing.assert_array_equal(surprise[9], np.array([1, 1, 1.5, 2], np.float32))


def test_words_of_likeness_to_the_old_notes(folder):
    def bias(*words: str) -> np.ndarray:
        return asked(folder, "--inpaint=DIR/pickup.mid", "--span=1-2", "--range_strength=0", *words)[1].bias

    np.testing.assert_array_equal(bias("--similarity_strength=2"), steering.similarity(PICKUP, 2.0).bias)
    by_voice, by_bar = [1.0, 1.0, 0.5, 0.0], [0.0, 0.0, 1.0, 0.5, 1.0]
    np.testing.assert_array_equal(bias("--freedom=1,1,.5,0"), steering.freedom(PICKUP, 5.0, by_voice=by_voice).bias)
    np.testing.assert_array_equal(
        bias("--freedom=1,1,.5,0", "--bar_freedom=0,0,1,0.5,1", "--similarity_strength=3"),
        steering.freedom(PICKUP, 3.0, by_voice=by_voice, by_bar=by_bar).bias,
    )


@pytest.mark.parametrize(
    "words, message",
    [
        (["--bars=0"], "--bars=0: use 1 or more"),
        (["--bars=-3"], "--bars=-3"),
        (["--bars=1000000"], "--bars=1000000: .* up to 1250"),
        (["--steps=0"], "--steps=0: use 1 to 20000"),
        (["--meter=waltz"], "--meter=waltz: use beats/unit"),
        (["--meter=3/32"], "--meter=3/32"),
        (
            ["--harmonize=DIR/melody.mid", "--meter=3/4"],
            "--meter=3/4 goes with a chorale from nothing; .* leave it out",
        ),
        (["--harmonize=DIR/melody.mid", "--bars=3"], "--bars=3 goes with .*; with --harmonize leave it out"),
        (["--span=3-4"], "--span=3-4 goes with --inpaint; with a chorale from nothing leave it out"),
        (["--extend=DIR/long.mid", "--similarity=0.5"], "--similarity=0.5 goes with --variations; with --extend"),
        (["--hybrid=DIR/long.mid,DIR/long.mid", "--freedom=1,1,1,1"], "--freedom=1,1,1,1 goes with --inpaint or"),
        (["--upsample=DIR/long.mid", "--before"], "--before goes with --extend; with --upsample leave it out"),
        (["--bars=2", "--transpose=3"], "--transpose=3 goes with --harmonize or"),
        (["--harmonize=DIR/melody.mid", "--transpose=300"], "--transpose=300: use -127 to 127"),
        (["--harmonize=DIR/melody.mid", "--transpose=20"], "transpose the melody: --transpose=14$"),
        (["--complete=DIR/gaps.mid", "--transpose=-30"], "transpose the score: --transpose=-18$"),
        (["--key_strength=2"], "--key_strength=2.0: goes with --key"),
        (["--last_chord_steps=2"], "--last_chord_steps=2: goes with --last_chord"),
        (["--harmonize=DIR/melody.mid", "--voice=organ"], "--voice=organ: name one of soprano"),
        (["--harmonize=DIR/melody.mid", "--voice=alto,bass"], "--voice=alto,bass: name one of"),
        (["--harmonize=DIR/gaps.mid", "--voice=bass"], "voice=bass: it has no notes"),
        (["--harmonize=DIR/gone.mid"], "gone.mid"),
        (["--complete=DIR/long.mid"], "nothing is left to write"),
        (["--complete=DIR/gaps.mid", "--steps=8"], "steps=8: the score has 32 already"),
        (["--complete=DIR/gaps.mid", "--rests=loud"], "rests=loud: use fill or keep or together"),
        (["--inpaint=DIR/long.mid"], "--inpaint needs --span"),
        (["--inpaint=DIR/long.mid", "--span=two"], "--span=two: use bars such as 3-4"),
        (["--inpaint=DIR/long.mid", "--span=2-9"], "span=2-9: the piece has bars 1 to 2"),
        (["--inpaint=DIR/long.mid", "--span=1", "--inpaint_voices=viola"], "--inpaint_voices=viola: name one or more"),
        (["--revoice=DIR/long.mid", "--revoice_voices=alto,alto"], "--revoice_voices=alto,alto: name one or more"),
        (["--transition=DIR/long.mid"], "--transition=.*: give files with a comma"),
        (["--transition=a,b,c"], "--transition=a,b,c: give two files"),
        (["--transition=DIR/long.mid,DIR/pickup.mid"], "meters 4/4 .* and 3/4"),
        (["--hybrid=DIR/long.mid,"], "give files with a comma"),
        (["--given=DIR/long.mid", "--bars=1"], "given: 32 steps, but 16"),
        (["--last_chord=G4 H4 B3 G2"], "--last_chord: 'H4' is no pitch"),
        (["--last_chord=G4 D4 B3"], "last_chord=G4 D4 B3: give four"),
        (["--last_chord=G9 D4 B3 200"], "last_chord=G9 D4 B3 200: give four pitches"),
        (["--last_chord=G4 D4 B3 G2", "--last_chord_steps=99"], "last_chord_steps=99: the piece has 64"),
        (["--key=H major"], "key='H major'"),
        (["--ranges=60-79"], "ranges=.*give four"),
        (["--ranges=60"], "--ranges=60: use four of lowest-highest"),
        (["--surprise=1,x,1,1"], "--surprise=1,x,1,1: use numbers"),
        (["--surprise=1,1"], "surprise=.* give four"),
    ],
)
def test_mistakes_are_one_line(folder, words, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        asked(folder, *words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("words", (["--extend=a.mid", "--revoice=b.mid"], ["--bars=2", "--steps=9"], ["--rest=keep"]))
def test_one_task_one_length_and_no_other_flags(folder, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        asked(folder, *words)
    assert "error:" in capsys.readouterr().err


@pytest.mark.parametrize("word, pitch", [("C4", 60), ("c4", 60), ("F#3", 54), ("Bb3", 58), ("Cb4", 59), ("67", 67)])
def test_names_of_pitches(word, pitch):
    assert requests.parse_pitch("--last_chord", word) == pitch
