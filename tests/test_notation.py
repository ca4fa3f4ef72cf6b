"""The front of the readers: order of voices, limits, and one-line errors for every malformed file."""

import dataclasses
import os

import numpy as np
import pytest

from coconet_jax import errors, midi, notation, parts, score


def _chord(*voices, steps=8):
    return score.from_pitches(np.tile(np.array([voices], np.int16), (steps, 1)))


def _write(path, piece):
    (notation.write_midi if path.suffix == ".mid" else notation.write_musicxml)(path, piece)
    return path


def test_voices_rising_without_names_are_reversed(tmp_path):
    path = _write(tmp_path / "a.musicxml", _chord(48, 60, 72))
    assert notation.read_score(path).pitches[0].tolist() == [72, 60, 48]


def test_crossed_voices_stay_as_written(tmp_path):
    path = _write(tmp_path / "a.musicxml", _chord(60, 61, 62))
    assert notation.read_score(path).pitches[0].tolist() == [60, 61, 62]


@pytest.mark.parametrize("suffix", [".mid", ".musicxml"])
def test_names_decide_over_pitch(tmp_path, suffix):
    # The tenor sings above the alto throughout, and every voice above the one before.
    path = _write(tmp_path / f"a{suffix}", _chord(48, 55, 64, 72))
    assert notation.read_satb(path).pitches[0].tolist() == [48, 55, 64, 72]


@pytest.mark.parametrize("suffix", [".mid", ".musicxml"])
def test_melody_of_four_voices_is_the_soprano(tmp_path, suffix):
    path = _write(tmp_path / f"a{suffix}", _chord(72, 67, 64, 48))
    read = notation.read_melody(path)
    assert read.pitches[:8, 0].tolist() == [72] * 8 and (read.pitches[8:] == -1).all()


def test_melody_takes_the_only_staff_with_notes(tmp_path):
    path = _write(tmp_path / "a.musicxml", _chord(-1, -1, 60, -1))
    assert notation.read_melody(path).pitches[0].tolist() == [60]
    assert notation.read_satb(path).pitches[0].tolist() == [-1, -1, 60, -1]


@pytest.mark.parametrize("suffix", [".mid", ".musicxml"])
def test_wrong_number_of_voices(tmp_path, suffix):
    path = _write(tmp_path / f"a{suffix}", _chord(72, 60))
    with pytest.raises(errors.InputError, match="has 2 voices; give a melody"):
        notation.read_melody(path)
    with pytest.raises(errors.InputError, match="has 2 voices; give a score of four"):
        notation.read_satb(path)


@pytest.mark.parametrize(
    ("pitches", "match"),
    [
        ([60] * 20 + [91] * 4, r"G6 \(MIDI 91\) in bar 2, beat 2 is outside C2..A5.*--transpose=-10 \(or -12"),
        ([34, 34, 60, 60], r"Bb1 \(MIDI 34\) in bar 1, beat 1 .*--transpose=2 \(or 12"),
        ([36, 80, 82, 82], r"spans 46 semitones and no transposition fits"),
        ([37, 82, 82, 82], r"melody: --transpose=-1$"),
    ],
)
def test_range_error_names_pitch_place_and_transposition(tmp_path, pitches, match):
    path = _write(tmp_path / "a.mid", score.from_pitches(np.array(pitches, np.int16)[:, None]))
    with pytest.raises(errors.InputError, match=match):
        notation.read_melody(path)


def test_place_of_an_error_counts_from_the_pickup(tmp_path):
    piece = score.from_pitches(np.array([60] * 4 + [90] * 4, np.int16)[:, None], pickup_steps=4)
    with pytest.raises(errors.InputError, match="in bar 1, beat 1"):
        notation.read_melody(_write(tmp_path / "a.musicxml", piece))
    piece = dataclasses.replace(piece, pitches=piece.pitches[::-1])
    with pytest.raises(errors.InputError, match="in bar 0, beat 4"):
        notation.read_melody(_write(tmp_path / "b.musicxml", piece))


@pytest.mark.parametrize("reader", [notation.read_score, notation.read_melody, notation.read_satb])
def test_no_notes_missing_unknown(tmp_path, reader):
    silent = _write(tmp_path / "silent.musicxml", _chord(-1, -1, -1, -1))
    empty = tmp_path / "empty.mid"
    midi.mido.MidiFile().save(empty)
    for path in (silent, empty):
        with pytest.raises(errors.InputError, match="holds no"):
            reader(path)
    with pytest.raises(errors.InputError, match="gone.mid does not exist"):
        reader(tmp_path / "gone.mid")
    with pytest.raises(errors.InputError, match=r"'.pdf'; give a score file, one of .mid, .midi, .*.mxl, .npz"):
        reader(tmp_path / "a.pdf")
    (tmp_path / "folder.mid").mkdir()
    with pytest.raises(errors.InputError, match="cannot be read"):
        reader(tmp_path / "folder.mid")


def test_suffix_may_be_in_capitals(tmp_path):
    path = _write(tmp_path / "a.mid", _chord(60)).rename(tmp_path / "A.MID")
    assert len(notation.read_score(path).pitches) == 8


def test_absurd_length_is_refused(tmp_path):
    track = midi.mido.MidiTrack([midi.mido.Message("note_on", note=60, time=2**27)])
    track.append(midi.mido.Message("note_off", note=60, time=2**20))
    file = midi.mido.MidiFile(tracks=[track])
    file.save(tmp_path / "a.mid")
    with pytest.raises(errors.InputError, match="more than 20000"):
        notation.read_score(tmp_path / "a.mid")


def test_grid_is_checked(tmp_path):
    with pytest.raises(errors.InputError, match="steps_per_quarter=3"):
        notation.read_score(_write(tmp_path / "a.mid", _chord(60)), steps_per_quarter=3)


@pytest.mark.parametrize("suffix", [".mid", ".musicxml"])
def test_damaged_files_give_a_score_or_one_line(tmp_path, suffix):
    """Cut, flipped and repeated bytes: never another exception, and not all of them may pass as good."""
    rng = np.random.default_rng(7)
    good = _write(tmp_path / f"good{suffix}", _chord(72, 67, 64, 48, steps=24)).read_bytes()
    refused = 0
    for case in range(40):
        data = bytearray(good)
        if case % 4 == 0:
            data = data[: rng.integers(len(data))]
        elif case % 4 == 1:
            data[rng.integers(len(data))] = rng.integers(256)
        elif case % 4 == 2:  # other numbers, where the file stays well formed
            digits = [at for at, byte in enumerate(data) if suffix == ".mid" or 48 <= byte <= 57]
            for at in rng.choice(digits, 6):
                data[at] = rng.integers(48, 58)
        else:
            start = int(rng.integers(len(data)))
            data[start:start] = data[start : start + 60]
        path = tmp_path / f"bad{suffix}"
        path.write_bytes(data)
        try:
            assert isinstance(notation.read_score(path), score.Score)
        except errors.InputError as error:
            refused += 1
            assert "\n" not in str(error) and str(path) in str(error)
    assert refused >= 10


def test_random_bytes_are_refused(tmp_path):
    for suffix in notation.SUFFIXES:
        path = tmp_path / f"a{suffix}"
        path.write_bytes(np.random.default_rng(0).bytes(500))
        with pytest.raises(errors.InputError, match="that can be read"):
            notation.read_score(path)


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="needs a file where a folder should be")
def test_unwritable_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (notation.write_midi, notation.write_musicxml):
        with pytest.raises(errors.InputError, match="cannot write .*choose another folder"):
            write(tmp_path / "file" / "a", _chord(60))


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = _write(tmp_path / "a.mid", _chord(60))
    before = path.read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts.os, "replace", fail)
    with pytest.raises(errors.InputError, match="No space left"):
        notation.write_midi(path, _chord(64))
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["a.mid"]
