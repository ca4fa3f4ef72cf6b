"""WAV by fluidsynth: the sound is there and as long as the score; without the program one line says how to get it."""

import os
import shutil
import wave

import numpy as np
import pytest

from coconet_jax import audio, errors, notation, score

_PIECE = score.from_pitches(np.tile(np.array([[72, 67, 64, 48]], np.int16), (16, 1)), qpm=120.0)


def test_chord_sounds_for_two_seconds(tmp_path):
    if shutil.which("fluidsynth") is None or audio.find_soundfont() is None:
        pytest.skip("fluidsynth or a soundfont is not installed")
    notation.write_wav(tmp_path / "a.wav", _PIECE, programs=notation.PROGRAMS["organ"])
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (2, 2, 44_100)
        assert 2 <= file.getnframes() / 44_100 <= 8  # the last note dies away
        left = np.frombuffer(file.readframes(file.getnframes()), np.int16)[::2].astype(float)
    spectrum = np.abs(np.fft.rfft(left[: 2 * 44_100]))

    def level(pitch):  # of the loudest, at two bins a hertz; organs add octaves above
        place = round(2 * 440 * 2 ** ((pitch - 69) / 12))
        return spectrum[place - 3 : place + 4].max() / spectrum.max()

    assert min(level(pitch) for pitch in (48, 64, 67, 72)) > 0.1
    assert max(level(pitch) for pitch in (50, 62, 65, 70)) < 0.05
    assert [file.name for file in tmp_path.iterdir()] == ["a.wav"]


def test_missing_program_and_soundfont_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(audio.shutil, "which", lambda _: None)
    with pytest.raises(errors.InputError, match="fluidsynth is not installed; install it .*apt install fluidsynth"):
        notation.write_wav(tmp_path / "a.wav", _PIECE)
    monkeypatch.setattr(audio.shutil, "which", lambda _: "/bin/true")
    monkeypatch.setattr(audio, "_FOLDERS", (str(tmp_path / "none"),))
    with pytest.raises(errors.InputError, match="no soundfont .*apt install fluidsynth fluid-soundfont-gm"):
        notation.write_wav(tmp_path / "a.wav", _PIECE)
    with pytest.raises(errors.InputError, match="mine.sf2 does not exist; give the path of an .sf2 file"):
        notation.write_wav(tmp_path / "a.wav", _PIECE, soundfont=tmp_path / "mine.sf2")
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.skipif(os.name == "nt", reason="needs a shell script for a program")
def test_failing_program_is_quoted(tmp_path, monkeypatch):
    program, bank = tmp_path / "fluidsynth", tmp_path / "mine.sf2"
    program.write_text("#!/bin/sh\necho 'cannot load it' >&2\nexit 1\n")
    program.chmod(0o755)
    bank.write_bytes(b"RIFF")
    monkeypatch.setenv("PATH", str(tmp_path) + os.pathsep + os.environ["PATH"])
    with pytest.raises(errors.InputError, match=r"fluidsynth with mine.sf2 failed \(cannot load it\)"):
        notation.write_wav(tmp_path / "a.wav", _PIECE, soundfont=bank)


def test_known_soundfonts_come_first(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "_FOLDERS", (str(tmp_path),))
    assert audio.find_soundfont() is None
    for name in ("aaa.sf2", "FluidR3_GM.sf2", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert audio.find_soundfont() == tmp_path / "FluidR3_GM.sf2"
