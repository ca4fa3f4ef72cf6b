"""Notes put on the grid: what is moved, what is lost, where bars are, how long a score is."""

from fractions import Fraction

import mido
import numpy as np
import pytest
import scorefiles as files

from coconet_jax import grid, notation, parts, score


def _melody(tmp_path, notes, *, ticks=480, end=0, **arguments):
    files.midi(tmp_path / "a.mid", [files.midi_track("", notes, end=end)], ticks=ticks)
    return notation.read_melody(tmp_path / "a.mid", **arguments)


def test_a_melody_of_repeated_notes_comes_back_note_for_note(tmp_path):
    lengths = [4, 1, 1, 2, 6, 2, 3, 1, 16, 4, 8]
    onset = np.zeros((sum(lengths), 1), bool)
    onset[np.cumsum([0, *lengths[:-1]]), 0] = True
    piece = score.Score(np.full((sum(lengths), 1), 67, np.int16), onset)
    for name, write in (("a.mid", notation.write_midi), ("a.musicxml", notation.write_musicxml)):
        write(tmp_path / name, piece)
        read = notation.read_melody(tmp_path / name)
        np.testing.assert_array_equal(read.pitches, piece.pitches)
        np.testing.assert_array_equal(read.onset, piece.onset)
        assert read.remarks == ()


def test_swing_is_straightened_and_counted(tmp_path):
    # Every second eighth comes 20 ticks late and is as much shorter.
    notes = [(240 * at + 20 * (at % 2), 240 * (at + 1) + 20 * ((at + 1) % 2), 60 + at) for at in range(16)]
    read = _melody(tmp_path, notes)
    assert read.pitches[:, 0].tolist() == np.repeat(np.arange(60, 76), 2).tolist()
    assert read.onset[::2].all() and not read.onset[1::2].any()
    assert read.remarks == ("moved 16 off-grid note(s) to 4 steps a quarter, first C4 in bar 1, beat 1",)


@pytest.mark.parametrize("ticks", [24, 96, 100, 384, 480, 960, 10080, 32767])
def test_any_resolution(tmp_path, ticks):
    notes = [(ticks * at, ticks * (at + 1), 60 + at) for at in range(4)]
    read = _melody(tmp_path, notes, ticks=ticks)
    assert read.pitches[:, 0].tolist() == np.repeat([60, 61, 62, 63], 4).tolist() and read.remarks == ()


def test_notes_between_two_steps_are_lost_and_named(tmp_path):
    trill = [(480 + 30 * at, 480 + 30 * (at + 1), 72 - at % 2) for at in range(8)]
    read = _melody(tmp_path, [(0, 480, 60), *trill, (720, 960, 64)])
    assert read.pitches[:, 0].tolist() == [60] * 4 + [72, 72, 64, 64]
    assert read.remarks[-1] == "dropped 6 note(s) between two steps of the grid, first B4 in bar 1, beat 2.062"


def test_two_tempos_and_meters_are_said_with_the_right_bar(tmp_path):
    def change(at, beats, unit):
        return at, mido.MetaMessage("time_signature", numerator=beats, denominator=unit)

    conductor = [
        change(0, 4, 4), (0, mido.MetaMessage("set_tempo", tempo=600_000)), change(3840, 3, 4), change(2880, 2, 2),
        (0, mido.MetaMessage("set_tempo", tempo=500_000)),
    ]  # fmt: skip
    off = 3840 + 2880 + 1920 + 960 + 10  # two bars of 4/4, two of 3/4, one of 2/2, its second half
    files.midi(tmp_path / "a.mid", [conductor, files.midi_track("", [(0, 480, 60), (off, off + 480, 62)])])
    read = notation.read_melody(tmp_path / "a.mid")
    assert (read.meter, read.qpm) == ((4, 4), 100)
    assert read.remarks == (
        "tempo changes are not kept: 100 quarters a minute throughout (the first was to 120 in bar 5, beat 1)",
        "changes of meter are not kept: 4/4 throughout (the first was to 3/4 in bar 3, beat 1)",
        "moved 1 off-grid note(s) to 4 steps a quarter, first D4 in bar 6, beat 2.01",
    )


def test_places_after_a_pickup_and_in_odd_meters():
    bars = (*parts.first_bars((3, 4), Fraction(1)), parts.Bar(Fraction(7), 3, (6, 8)))
    places = {0: "bar 0, beat 3", 1: "bar 1, beat 1", 6: "bar 2, beat 3", 7: "bar 3, beat 1", 10: "bar 4, beat 1"}
    assert {time: parts.locate(Fraction(time), bars) for time in places} == places
    assert parts.locate(Fraction(17, 2), bars) == "bar 3, beat 4"


@pytest.mark.parametrize("end", [0, 1920 * 3, 1920 * 3 + 7])
def test_partial_scores_last_to_the_end_of_the_tracks(tmp_path, end):
    files.midi(tmp_path / "a.mid", [files.midi_track("Tenor", [(0, 480, 60)], end=end)])
    read = notation.read_partial(tmp_path / "a.mid")
    assert read.pitches.shape == (48 if end else 4, 4)
    tracks = [files.midi_track(name, [(0, 480, 60)], end=end) for name in ("Soprano", "Alto", "Tenor", "Bass")]
    files.midi(tmp_path / "b.mid", tracks)
    assert len(notation.read_satb(tmp_path / "b.mid").pitches) == 4


def test_written_gaps_at_the_end_come_back(tmp_path):
    pitches = np.full((64, 4), -1, np.int16)
    pitches[:20, 0], pitches[8:12, 3] = 72, 48
    piece = score.from_pitches(pitches)
    for name, write in (
        ("a.mid", notation.write_midi),
        ("a.musicxml", notation.write_musicxml),
        ("a.npz", notation.write_npz),
    ):
        write(tmp_path / name, piece)
        np.testing.assert_array_equal(notation.read_partial(tmp_path / name).pitches, pitches)


def test_a_melody_ends_with_the_bar_of_its_last_note(tmp_path):
    """Also where the last note is let go a little late, and by the bars of the file where its meter changes."""
    for late in (0, 10, -10):
        assert len(_melody(tmp_path, [(0, 1920 + late, 60)], end=9000).pitches) == 16
    assert len(_melody(tmp_path, [(0, 1920 + 480, 60)], end=9000).pitches) == 32
    assert len(_melody(tmp_path, [(0, 1920 + 480, 60)], end=1920 + 960).pitches) == 24  # the file has no more
    meters = [(0, mido.MetaMessage("time_signature", numerator=n, denominator=4)) for n in (4, 3)]
    notes = files.midi_track("", [(0, 1920 + 480, 60)], end=9000)
    files.midi(tmp_path / "a.mid", [[meters[0], (1920, meters[1][1])], notes])
    assert len(notation.read_melody(tmp_path / "a.mid").pitches) == 16 + 12


def test_next_bar_line():
    bars = (*parts.first_bars((3, 4), Fraction(1)), parts.Bar(Fraction(7), 3, (6, 8)), parts.Bar(Fraction(14), 4))
    lines = {0: 0, 0.5: 1, 1: 1, 1.5: 4, 4: 4, 5: 7, 7: 7, 8: 14, 11: 14, 14: 14, 15: 18, 18: 18, 18.5: 22}
    assert {time: parts.next_bar_line(Fraction(time), bars) for time in lines} == lines


def test_nearest_rounds_halves_up():
    assert [grid.nearest(Fraction(n, 2)) for n in (-1, 0, 1, 2, 3)] == [0, 0, 1, 1, 2]
