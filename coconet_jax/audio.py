"""Sound files, played by the external program fluidsynth with a soundfont (both are installed apart)."""

from collections.abc import Iterator
import os
import pathlib
import shutil
import subprocess
import tempfile
from typing import Final

from coconet_jax import errors, files

REMEDY: Final = (
    "install it (Debian, Ubuntu: apt install fluidsynth fluid-soundfont-gm; macOS: brew install fluid-synth and a "
    "General MIDI soundfont) or write MIDI instead"
)
TIMEOUT_SECONDS: Final = 600
_FOLDERS: Final = (
    "/usr/share/sounds/sf2",
    "/usr/share/sounds/sf3",
    "/usr/share/soundfonts",
    "/usr/local/share/soundfonts",
    "/opt/homebrew/share/soundfonts",
    "/opt/homebrew/share/fluid-synth/sf2",
    "~/Library/Audio/Sounds/Banks",
    "~/.local/share/soundfonts",
    "C:/soundfonts",
)
_FAVOURITES: Final = ("FluidR3_GM", "default-GM", "GeneralUser", "MuseScore_General")


def find_soundfont() -> pathlib.Path | None:
    """A General MIDI soundfont in the folders where systems keep them, well-known ones first."""
    found = list(_soundfonts())
    for name in _FAVOURITES:
        for path in found:
            if path.name.startswith(name):
                return path
    return found[0] if found else None


def _soundfonts() -> Iterator[pathlib.Path]:
    for folder in _FOLDERS:
        place = pathlib.Path(os.path.expanduser(folder))
        if place.is_dir():
            yield from sorted(path for path in place.iterdir() if path.suffix.lower() in (".sf2", ".sf3"))


def check(soundfont: str | os.PathLike[str] | None = None) -> tuple[str, pathlib.Path]:
    """Where fluidsynth and the soundfont are.

    Raises:
      InputError: one of them is not there; the line says how to install it.
    """
    program = shutil.which("fluidsynth")
    if program is None:
        raise errors.InputError(f"no WAV can be written: the program fluidsynth is not installed; {REMEDY}")
    bank = pathlib.Path(soundfont) if soundfont is not None else find_soundfont()
    if bank is None:
        raise errors.InputError(f"no WAV can be written: fluidsynth has no soundfont (.sf2) to play with; {REMEDY}")
    if not bank.is_file():
        raise errors.InputError(f"soundfont {bank} does not exist; give the path of an .sf2 file")
    return program, bank


def write(
    path: str | os.PathLike[str],
    midi_data: bytes,
    *,
    soundfont: str | os.PathLike[str] | None = None,
    sample_rate: int = 44_100,
) -> None:
    """Plays a MIDI file's bytes into a 16-bit stereo WAV.

    Raises:
      InputError: fluidsynth or the soundfont is missing or fails, or a folder that cannot be written.
    """
    program, bank = check(soundfont)
    with tempfile.TemporaryDirectory() as folder:
        score, sound = pathlib.Path(folder, "score.mid"), pathlib.Path(folder, "score.wav")
        score.write_bytes(midi_data)
        command = [program, "-n", "-i", "-q", "-T", "wav", "-r", str(sample_rate), "-g", "0.8", "-F", str(sound)]
        try:
            done = subprocess.run(
                [*command, str(bank.resolve()), str(score)],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, errors="replace",
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise errors.InputError(f"{path}: fluidsynth does not play ({error}); write MIDI instead") from None
        if done.returncode or not sound.is_file() or sound.stat().st_size <= 44:
            reason = " ".join((done.stderr or done.stdout).split())[:200] or f"exit code {done.returncode}"
            raise errors.InputError(f"{path}: fluidsynth with {bank.name} failed ({reason}); give another soundfont")
        files.replace(path, sound.read_bytes(), durable=False)
