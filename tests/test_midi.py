"""MIDI files: what other readers see, pick-ups, channels, tracks and malformed headers."""

from fractions import Fraction
import time
from typing import Any
import warnings

import mido
import numpy as np
import pytest
import scorefiles as files

from coconet_jax import errors, midi, notation, parts, score


def _melody(cells, onsets=None, **fields):
    pitches = np.array(cells, np.int16)[:, None]
    piece = score.from_pitches(pitches, **fields)
    if onsets is not None:
        piece.onset[:, 0] = np.array(onsets, bool)
    return piece


def _save(path, tracks, ticks=480, kind=1):
    """Writes tracks of (delta ticks, message)."""
    file = mido.MidiFile(type=kind, ticks_per_beat=ticks)
    for messages in tracks:
        file.tracks.append(mido.MidiTrack([message.copy(time=delta) for delta, message in messages]))
    file.save(path)


def _note(pitch, length, channel=0, wait=0):
    on = mido.Message("note_on", note=pitch, velocity=64, channel=channel)
    return [(wait, on), (length, mido.Message("note_on", note=pitch, velocity=0, channel=channel))]


def test_symusic_reads_the_same_notes_programs_and_tempo(tmp_path):
    symusic = pytest.importorskip("symusic")
    rng = np.random.default_rng(3)
    pitches = np.repeat(rng.integers(48, 60, (20, 4)) + np.array([20, 12, 4, -8]), 3, axis=0).astype(np.int16)
    piece = score.from_pitches(pitches, meter=(3, 4), title="Düster")
    notation.write_midi(tmp_path / "a.mid", piece, programs=notation.PROGRAMS["strings"], qpm=100.0)
    read = symusic.Score(str(tmp_path / "a.mid"))
    assert [track.name for track in read.tracks] == ["Soprano", "Alto", "Tenor", "Bass"]
    assert [track.program for track in read.tracks] == [40, 41, 42, 43]
    assert read.tempos[0].qpm == pytest.approx(100, abs=1e-3)
    assert (read.time_signatures[0].numerator, read.time_signatures[0].denominator) == (3, 4)
    for voice, track in enumerate(read.tracks):
        expected = parts.merge_cells(pitches[:, voice], piece.onset[:, voice])
        assert [(n.time // 120, n.end // 120, n.pitch) for n in track.notes] == expected


def test_conductor_track_holds_title_and_no_notes(tmp_path):
    notation.write_midi(tmp_path / "a.mid", _melody([60] * 8, title="Größe ♪"))
    file = mido.MidiFile(tmp_path / "a.mid", charset="utf-8")
    assert (file.type, file.ticks_per_beat, len(file.tracks)) == (1, 480, 2)
    assert file.tracks[0].name == "Größe ♪"
    assert not [message for message in file.tracks[0] if not message.is_meta]
    assert notation.read_score(tmp_path / "a.mid").title == "Größe ♪"


def test_repeated_notes_and_rests_survive(tmp_path):
    piece = _melody([-1, -1, 60, 60, 60, 60, -1, 60, 62, 62, 62, 62], [0, 0, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1])
    notation.write_midi(tmp_path / "a.mid", piece)
    read = notation.read_melody(tmp_path / "a.mid")
    np.testing.assert_array_equal(read.pitches, piece.pitches)
    np.testing.assert_array_equal(read.onset, piece.onset)


@pytest.mark.parametrize(("meter", "pickup", "spq"), [((4, 4), 4, 4), ((3, 4), 2, 4), ((4, 4), 3, 4), ((6, 8), 1, 2)])
def test_pickup_survives(tmp_path, meter, pickup, spq):
    piece = _melody([60, 62, 64, 65] * 8, meter=meter, pickup_steps=pickup, steps_per_quarter=spq)
    notation.write_midi(tmp_path / "a.mid", piece)
    read = notation.read_score(tmp_path / "a.mid", steps_per_quarter=spq)
    assert (read.meter, read.pickup_steps) == (meter, pickup)
    np.testing.assert_array_equal(read.pitches, piece.pitches)


def test_silent_voice_is_kept(tmp_path):
    pitches = np.full((16, 4), 60, np.int16)
    pitches[:, 2] = -1
    notation.write_midi(tmp_path / "a.mid", score.from_pitches(pitches))
    np.testing.assert_array_equal(notation.read_satb(tmp_path / "a.mid").pitches, pitches)


def test_type_0_is_split_by_channel_and_drums_are_dropped(tmp_path):
    track = _note(72, 96) + _note(40, 96, channel=9)
    both = [(0, mido.Message("note_on", note=60, channel=1)), (0, mido.Message("note_on", note=70, channel=0))]
    both += [(96, mido.Message("note_off", note=60, channel=1)), (0, mido.Message("note_off", note=70, channel=0))]
    _save(tmp_path / "a.mid", [track + both], ticks=96, kind=0)
    read = notation.read_score(tmp_path / "a.mid")
    assert read.pitches.shape == (12, 2)
    assert read.pitches[0].tolist() == [72, -1]
    assert read.pitches[-1].tolist() == [70, 60]


def test_off_grid_notes_are_snapped_and_counted(tmp_path):
    # 100 ticks a quarter: a sixteenth is 25. The second note starts 6 ticks late and ends 3 early.
    _save(tmp_path / "a.mid", [_note(60, 25) + _note(62, 41, wait=6) + _note(64, 25, wait=3)], ticks=100)
    read = notation.read_melody(tmp_path / "a.mid")
    assert read.pitches[:, 0].tolist() == [60, 62, 62, 64]
    assert read.remarks == ("moved 1 off-grid note(s) to 4 steps a quarter, first D4 in bar 1, beat 1.31",)


def test_short_notes_fill_at_least_one_cell(tmp_path):
    _save(tmp_path / "a.mid", [_note(60, 10) + _note(62, 10, wait=470)])
    assert notation.read_melody(tmp_path / "a.mid").pitches[:, 0].tolist() == [60, -1, -1, -1, 62]


def test_legato_overlap_is_no_chord(tmp_path):
    on, off = (lambda p: mido.Message("note_on", note=p)), (lambda p: mido.Message("note_off", note=p))
    _save(tmp_path / "a.mid", [[(0, on(60)), (480, on(62)), (15, off(60)), (465, off(62))]])
    assert notation.read_melody(tmp_path / "a.mid").pitches[:, 0].tolist() == [60] * 4 + [62] * 4


def test_parts_are_in_quarters(tmp_path):
    _save(tmp_path / "a.mid", [[], _note(60, 32, wait=16)], ticks=96)
    assert midi.read(tmp_path / "a.mid").parts == [parts.Part("", [parts.Note(Fraction(1, 6), Fraction(1, 2), 60)])]


@pytest.mark.parametrize(
    ("programs", "qpm", "match"),
    [((0, 0), 80.0, "give 4 General MIDI"), ((0, 0, 0, 128), 80.0, "from 0 to 127"), ((0,) * 4, 0.0, "qpm=0.0")],
)
def test_bad_programs_and_tempo_are_refused(tmp_path, programs, qpm, match):
    piece = score.from_pitches(np.full((4, 4), 60, np.int16))
    with pytest.raises(errors.InputError, match=match):
        notation.write_midi(tmp_path / "a.mid", piece, programs=programs, qpm=qpm)
    assert not list(tmp_path.iterdir())


def test_a_key_that_does_not_exist_is_in_nobodys_way(tmp_path):
    notation.write_midi(tmp_path / "a.mid", _melody([60, 62] * 4))
    data = (tmp_path / "a.mid").read_bytes()
    at = data.index(b"MTrk") + 8
    key = b"\x00\xff\x59\x02\x00\xff"
    length = int.from_bytes(data[at - 4 : at], "big") + len(key)
    (tmp_path / "b.mid").write_bytes(data[: at - 4] + length.to_bytes(4, "big") + key + data[at:])
    assert notation.read_melody(tmp_path / "b.mid").pitches[:, 0].tolist() == [60, 62] * 4


def test_two_voices_in_unison_on_one_channel_are_released_one_by_one(tmp_path):
    on = lambda wait, pitch: (wait, mido.Message("note_on", note=pitch, velocity=64))  # noqa: E731
    off = lambda wait, pitch: (wait, mido.Message("note_off", note=pitch))  # noqa: E731
    _save(tmp_path / "a.mid", [[on(0, 72), on(0, 72), off(480, 72), off(1440, 72)]])
    read = notation.read_melody(tmp_path / "a.mid")
    assert read.pitches[:, 0].tolist() == [72] * 16 and read.onset[:, 0].sum() == 1 and read.remarks == ()
    again = [on(0, 72), on(0, 72), off(480, 72), on(0, 72), off(0, 72), on(0, 72), off(480, 72), off(0, 72)]
    _save(tmp_path / "c.mid", [again])
    read = notation.read_melody(tmp_path / "c.mid")
    assert np.flatnonzero(read.onset[:, 0]).tolist() == [0, 4] and len(read.onset) == 8 and read.remarks == ()
    # Four voices in two tracks: the soprano holds on where the alto, in unison with it, goes.
    women = [on(0, 72), on(0, 72), off(480, 72), on(0, 71), off(480, 72), off(0, 71), on(0, 74), on(0, 67)]
    women += [off(480, 74), off(0, 67)]
    men = [on(0, 64), on(0, 48), off(1440, 64), off(0, 48)]
    _save(tmp_path / "b.mid", [women, men])
    read = notation.read_satb(tmp_path / "b.mid")
    assert read.pitches[::4].tolist() == [[72, 72, 64, 48], [72, 71, 64, 48], [74, 67, 64, 48]]
    assert read.remarks == ()


def test_tempo_and_meter_are_the_last_that_stand_at_the_beginning(tmp_path):
    notes = _note(72, 1440)
    _save(tmp_path / "none.mid", [notes])
    assert notation.read_melody(tmp_path / "none.mid").qpm == 120  # what a file means that does not say
    for first, second in ((60, 140), (140, 60)):
        tempos = [(0, mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(qpm))) for qpm in (first, second)]
        meters = [(0, mido.MetaMessage("time_signature", numerator=beats, denominator=4)) for beats in (4, 3)]
        _save(tmp_path / "a.mid", [tempos + meters + notes])
        read = notation.read_melody(tmp_path / "a.mid")
        assert (round(read.qpm), read.meter, read.remarks) == (second, (3, 4), ())
    # Between tracks the first counts, which conducts.
    _save(tmp_path / "b.mid", [[meters[1]], [meters[0], *notes]])
    assert notation.read_melody(tmp_path / "b.mid").meter == (3, 4)


def test_a_file_without_tracks_is_one_line(tmp_path):
    (tmp_path / "a.mid").write_bytes(b"MThd\x00\x00\x00\x06\x00\x01\x00\x00\x01\xe0")
    with pytest.raises(errors.InputError, match="a.mid holds no notes"):
        notation.read_partial(tmp_path / "a.mid")


def test_times_without_end_are_one_line(tmp_path):
    notation.write_midi(tmp_path / "a.mid", _melody([60] * 4))
    data = (tmp_path / "a.mid").read_bytes()
    at = data.rindex(b"MTrk") + 8
    body = b"\x00\x90\x48\x40" + b"\xff" * 3000 + b"\x7f\x80\x48\x00\x00\xff\x2f\x00"
    (tmp_path / "b.mid").write_bytes(data[: at - 4] + len(body).to_bytes(4, "big") + body)
    for reader in (notation.read_melody, notation.read_partial, notation.read_satb):
        with pytest.raises(errors.InputError, match="b.mid lasts more than 1000000 quarters"):
            reader(tmp_path / "b.mid")


def test_notes_that_are_let_go_early_last_until_the_next(tmp_path):
    early: list[Any] = sum(
        (_note(pitch, 864, wait=wait) for pitch, wait in ((72, 0), (74, 96), (76, 96), (72, 96))), []
    )
    _save(tmp_path / "a.mid", [[(0, mido.MetaMessage("track_name", name="Soprano")), *early]])
    read = notation.read_partial(tmp_path / "a.mid")
    assert read.pitches[:31, 0].tolist() == [72] * 8 + [74] * 8 + [76] * 8 + [72] * 7
    assert read.remarks == ("moved 4 off-grid note(s) to 4 steps a quarter, first C5 of Soprano in bar 1, beat 1",)
    # Many programs let go a tick early, before written rests too, which stay.
    ticks = _note(72, 1679) + _note(74, 479, wait=241) + _note(76, 1439, wait=1) + _note(72, 959, wait=481)
    _save(tmp_path / "c.mid", [ticks])
    read = notation.read_melody(tmp_path / "c.mid")
    assert (np.flatnonzero(read.pitches[:, 0] == -1)).tolist() == [14, 15, *range(32, 36)]
    # A rest of some length stays one, and so does one that is written.
    staccato = _note(72, 300) + _note(74, 360, wait=180) + _note(76, 480, wait=120)
    _save(tmp_path / "b.mid", [staccato])
    assert (notation.read_melody(tmp_path / "b.mid").pitches[:8, 0] == -1).tolist() == [0, 0, 0, 1, 0, 0, 0, 1]


def test_smpte_time_is_refused(tmp_path):
    _save(tmp_path / "a.mid", [_note(60, 10)])
    data = bytearray((tmp_path / "a.mid").read_bytes())
    data[12:14] = b"\xe7\x28"  # 25 frames a second, 40 ticks a frame
    (tmp_path / "a.mid").write_bytes(data)
    with pytest.raises(errors.InputError, match="SMPTE"):
        notation.read_score(tmp_path / "a.mid")


def test_same_score_gives_same_bytes(tmp_path):
    piece = _melody([60, 62] * 4)
    notation.write_midi(tmp_path / "a.mid", piece)
    notation.write_midi(tmp_path / "b.mid", piece)
    assert (tmp_path / "a.mid").read_bytes() == (tmp_path / "b.mid").read_bytes()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.mid", "b.mid"]


def test_release_written_after_the_next_stroke_ends_the_note_before(tmp_path):
    on, off = mido.Message("note_on", note=60), mido.Message("note_off", note=60)
    files.midi(tmp_path / "a.mid", [[(0, on), (480, on), (0, off), (480, off)]])
    read = notation.read_melody(tmp_path / "a.mid")
    assert read.pitches[:, 0].tolist() == [60] * 8 and read.onset[:, 0].tolist() == ([True] + [False] * 3) * 2
    assert read.remarks == ()


def test_notes_never_released_sound_to_the_end_of_their_track(tmp_path):
    on = mido.Message("note_on", note=62)
    held = [*_note(60, 480), (0, on), (960, mido.MetaMessage("end_of_track"))]
    files.midi(tmp_path / "a.mid", [held])
    read = notation.read_melody(tmp_path / "a.mid")
    assert read.pitches[:, 0].tolist() == [60] * 4 + [62] * 8
    assert read.remarks == ("1 note(s) never released, first in bar 1, beat 2: held to the end of their track",)
    # Below the next note it is a chord, as players sound it.
    files.midi(tmp_path / "a.mid", [[(0, on), *_note(64, 480, wait=480)]])
    with pytest.raises(errors.InputError, match=r"\(D4 and E4\) in bar 1, beat 2"):
        notation.read_melody(tmp_path / "a.mid")


def test_notes_without_length_and_drums_are_said(tmp_path):
    empty = [(2400, mido.Message("note_on", note=62))]
    files.midi(tmp_path / "a.mid", [files.midi_track("", [(0, 480, 60)]), _note(40, 96, channel=9), empty])
    read = notation.read_melody(tmp_path / "a.mid")
    assert read.remarks == (
        "left out 1 note(s) without length, first in bar 2, beat 2",
        "left out the drums (channel 10)",
    )
    files.midi(tmp_path / "a.mid", [empty])
    with pytest.raises(errors.InputError, match=r"holds no notes \(left out 1 note\(s\) without length, first in"):
        notation.read_partial(tmp_path / "a.mid")


def test_names_of_tracks_go_before_their_channels(tmp_path):
    """Five tracks, one of them silent, on four channels."""
    tracks = [
        files.midi_track(name, [(0, 480, pitch)] if pitch else [], channel=at)
        for at, (name, pitch) in enumerate((("Organ", 40), ("Soprano", 72), ("Alto", 67), ("Tenor", 60), ("Bass", 0)))
    ]
    files.midi(tmp_path / "a.mid", tracks)
    read = notation.read_satb(tmp_path / "a.mid")
    assert read.pitches[0].tolist() == [72, 67, 60, -1] and read.remarks == ("left out Organ",)


def test_names_of_any_length_stay_on_one_line(tmp_path):
    name = "Viola\n\0" * 500
    files.midi(tmp_path / "a.mid", [files.midi_track(name, [(0, 480, 60), (5, 480, 64)])])
    with pytest.raises(errors.InputError, match="part 'Viola Viola") as caught:
        notation.read_melody(tmp_path / "a.mid")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_pitch_out_of_range_is_placed_by_the_files_own_bars(tmp_path):
    meters = [(0, mido.MetaMessage("time_signature", numerator=n, denominator=4)) for n in (4, 3)]
    conductor = [meters[0], (1920, meters[1][1])]
    notes = files.midi_track("", [(0, 480, 60), (1920 + 3 * 1440, 1920 + 4 * 1440, 90)])
    files.midi(tmp_path / "a.mid", [conductor, notes])
    for reader in (notation.read_melody, notation.read_partial):
        with pytest.raises(errors.InputError, match=r"F#6 \(MIDI 90\) in bar 5, beat 1 is outside"):
            reader(tmp_path / "a.mid")


def test_velocities_are_written_for_each_voice(tmp_path):
    piece = score.from_pitches(np.full((4, 4), 60, np.int16))
    notation.write_midi(tmp_path / "a.mid", piece, velocities=(100, 70, 71, 90))
    file = mido.MidiFile(tmp_path / "a.mid")
    assert [m.velocity for track in file.tracks for m in track if m.type == "note_on"] == [100, 70, 71, 90]
    for velocities in ((), (0,), (128,)):
        with pytest.raises(errors.InputError, match="from 1 to 127"):
            notation.write_midi(tmp_path / "a.mid", piece, velocities=velocities)


@pytest.mark.parametrize("name", ["choir", "organ", "piano", "strings", "winds"])
def test_named_programs_are_heard(tmp_path, name):
    piece = score.from_pitches(np.full((4, 4), 60, np.int16))
    notation.write_midi(tmp_path / "a.mid", piece, programs=notation.PROGRAMS[name])
    tracks = mido.MidiFile(tmp_path / "a.mid").tracks
    programs = [message.program for track in tracks for message in track if message.type == "program_change"]
    assert programs == list(notation.PROGRAMS[name])


def test_pretty_midi_reads_it_without_warnings(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its import
        pretty_midi = pytest.importorskip("pretty_midi")
    pitches = np.repeat(np.array([[72, 67, 64, 48], [71, 67, 62, 55]], np.int16), 8, axis=0)
    piece = score.from_pitches(pitches, qpm=90.0, meter=(3, 4), pickup_steps=4)
    notation.write_midi(tmp_path / "a.mid", piece, programs=notation.PROGRAMS["winds"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = pretty_midi.PrettyMIDI(str(tmp_path / "a.mid"))
    assert [(i.name, i.program) for i in read.instruments] == list(
        zip(("Soprano", "Alto", "Tenor", "Bass"), notation.PROGRAMS["winds"], strict=True)
    )
    assert [(n.pitch, round(n.start * 6), round(n.end * 6)) for n in read.instruments[1].notes] == [(67, 0, 16)]
    assert read.get_tempo_changes()[1].tolist() == pytest.approx([90], abs=1e-3)
    assert [(t.numerator, t.denominator) for t in read.time_signature_changes] == [(1, 4), (3, 4)]


def test_a_thousand_files_are_encoded_in_about_a_second():
    """0.35 s where nothing else runs; three seconds are for busy machines."""
    rng = np.random.default_rng(0)
    pieces = [
        score.from_pitches(np.repeat(rng.integers(40, 80, (64, 4)), 2, axis=0).astype(np.int16)) for _ in range(50)
    ]
    started = time.perf_counter()
    for piece in pieces * 20:
        midi.encode(piece, programs=notation.PROGRAMS["choir"])
    assert time.perf_counter() - started < 3


def test_overlaps_of_a_line_are_no_chords_and_what_is_let_go_a_tick_early_is_not_moved(tmp_path):
    falling = [(0, 540, 74), (480, 1020, 72), (960, 1440, 71)]
    files.midi(tmp_path / "a.mid", [files.midi_track("", falling)])
    read = notation.read_melody(tmp_path / "a.mid")
    assert read.pitches[:, 0].tolist() == [74] * 4 + [72] * 4 + [71] * 4
    early = [(0, 479, 72), (480, 959, 74), (960, 1919, 76)]
    files.midi(tmp_path / "a.mid", [files.midi_track("", early)])
    assert notation.read_melody(tmp_path / "a.mid").remarks == ()
    gated = [(0, 2736, 72), (2880, 3840, 74)]  # 95 % of six quarters
    files.midi(tmp_path / "a.mid", [files.midi_track("", gated)])
    assert notation.read_melody(tmp_path / "a.mid").pitches[:, 0].tolist() == [72] * 24 + [74] * 8


def test_the_first_of_two_releases_is_of_the_note_before(tmp_path):
    on, off = (mido.Message(kind, note=60) for kind in ("note_on", "note_off"))
    _save(tmp_path / "a.mid", [[(0, on), (480, on), (20, off), (460, off)]])
    read = notation.read_melody(tmp_path / "a.mid")
    assert read.pitches[:, 0].tolist() == [60] * 8 and np.flatnonzero(read.onset[:, 0]).tolist() == [0, 4]


def test_a_tempo_that_comes_late_is_a_change_and_a_control_track_no_title(tmp_path):
    slower = (1920, mido.MetaMessage("set_tempo", tempo=mido.bpm2tempo(50)))
    named = (0, mido.MetaMessage("track_name", name="control track"))
    files.midi(tmp_path / "a.mid", [[named, slower], files.midi_track("", [(0, 3840, 60)])])
    read = notation.read_melody(tmp_path / "a.mid")
    assert read.qpm == 120 and read.title == ""
    said = "tempo changes are not kept: 120 quarters a minute throughout (the first was to 50 in bar 2, beat 1)"
    assert read.remarks == (said,)
    files.midi(tmp_path / "a.mid", [[named, slower], files.midi_track("", [(1920, 3840, 60)])])
    assert notation.read_melody(tmp_path / "a.mid").qpm == 50  # after a bar of silence
