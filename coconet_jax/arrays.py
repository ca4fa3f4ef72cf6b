"""Scores as npz: arrays on the grid. What is read may come from anyone: nothing is unpickled, sizes are checked."""

from fractions import Fraction
import io
import math
import os
import re
from typing import Final
import zipfile

import numpy as np

from coconet_jax import errors, files, parts, pianoroll, score

_NPZ: Final = re.compile(r"(.*\.npz)(?:#(\d{1,9}))?", re.IGNORECASE | re.DOTALL)
_FIELDS: Final = ("pitches", "onset", "steps_per_quarter", "meter", "pickup_steps", "qpm", "title")


def is_npz(path: str | os.PathLike[str]) -> bool:
    """Whether a path ends in .npz, or in .npz#3, which is the fourth score of such a file."""
    return _NPZ.fullmatch(os.fspath(path)) is not None


def read(path: str | os.PathLike[str], steps_per_quarter: int) -> parts.Parts:
    """The voices of an npz with `pitches`, whole numbers (T, 4) or (n, T, 4) from soprano to bass, -1 for rests.

    Where there are `onset` and `steps_per_quarter`, as in sample files, they are used; without them a note is
    struck where the pitch changes, and the grid is the one given. Of several scores "samples.npz#3" is number 3.

    Raises:
      InputError: missing or malformed, other shapes, several scores, another grid.
    """
    matched = _NPZ.fullmatch(os.fspath(path))
    assert matched is not None
    file_path, number = matched[1], matched[2]
    data = parts.read_bytes(file_path)
    try:
        fields = _read_arrays(data)
    except Exception as error:  # zipfile, zlib and numpy's header parser raise a dozen kinds
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise errors.InputError(
            f"{file_path} is not an npz of plain arrays that can be read ({reason}); write it anew with np.savez"
        ) from None
    if "pitches" not in fields:
        raise errors.InputError(f"{file_path} has no array named pitches; save the score as np.savez(..., pitches=...)")
    pitches = fields["pitches"]
    if pitches.dtype.kind not in "iu" or pitches.ndim not in (2, 3) or pitches.shape[-1] != pianoroll.NUM_VOICES:
        raise errors.InputError(
            f"{file_path}: its pitches are {pitches.dtype} {pitches.shape}; give whole numbers (T, 4) or (n, T, 4), "
            "-1 for rests"
        )
    onset = fields.get("onset")
    if onset is not None and (onset.dtype != bool or onset.shape != pitches.shape):
        raise errors.InputError(f"{file_path}: its onset is {onset.dtype} {onset.shape}; give bool {pitches.shape}")
    if pitches.ndim == 3:
        chosen = 0 if number is None and len(pitches) == 1 else -1 if number is None else int(number)
        if not 0 <= chosen < len(pitches):
            raise errors.InputError(
                f"{path} holds {len(pitches)} scores; name one by its number, as in {file_path}#0"
                + (f" to #{len(pitches) - 1}" if len(pitches) > 1 else "")
            )
        pitches, onset = pitches[chosen], None if onset is None else onset[chosen]
    elif number not in (None, "0"):
        raise errors.InputError(f"{path}: the file holds one score; leave out #{number}")
    if ((pitches < pianoroll.REST) | (pitches > 127)).any():
        wrong = pitches[(pitches < pianoroll.REST) | (pitches > 127)][0]
        raise errors.InputError(f"{file_path}: pitch {wrong} is no MIDI pitch; give 0 to 127, or -1 for a rest")
    kept = int(_number(fields, "steps_per_quarter", steps_per_quarter))
    if kept != steps_per_quarter:
        raise errors.InputError(
            f"{file_path} stands on a grid of {kept} steps a quarter, not {steps_per_quarter}; use a checkpoint of "
            "that grid or write the score as MIDI"
        )
    pitches = pitches.astype(np.int16)
    onset = pianoroll.onsets_where_pitch_changes(pitches) if onset is None else onset
    return _to_parts(fields, pitches, onset, Fraction(1, kept))


def _to_parts(fields: dict[str, np.ndarray], pitches: np.ndarray, onset: np.ndarray, step: Fraction) -> parts.Parts:
    found = []
    for voice, name in enumerate(parts.voice_names(pianoroll.NUM_VOICES)):
        cells = parts.merge_cells(pitches[:, voice], onset[:, voice])
        found.append(parts.Part(name, [parts.Note(start * step, end * step, pitch) for start, end, pitch in cells]))
    meter = fields.get("meter", np.array((4, 4)))
    beats = (int(meter[0]), int(meter[1])) if meter.shape == (2,) and meter.dtype.kind in "iu" else (4, 4)
    pickup = step * int(_number(fields, "pickup_steps", 0))
    if not parts.is_meter(*beats) or not 0 <= pickup < parts.bar_quarters(beats):
        beats, pickup = (4, 4), Fraction(0)
    title = fields.get("title", np.array(""))
    return parts.Parts(
        found,
        beats,
        pickup,
        float(_number(fields, "qpm", parts.Parts([]).qpm)),
        str(title).encode(errors="replace").decode() if title.shape == () and title.dtype.kind == "U" else "",
        end=len(pitches) * step,
    )


def _number(fields: dict[str, np.ndarray], name: str, default: int | float) -> int | float:
    value = fields.get(name, np.array(default))
    good = value.shape == () and value.dtype.kind in "iuf" and math.isfinite(value) and abs(value) < 1e6
    return value.item() if good else default


def _read_arrays(data: bytes) -> dict[str, np.ndarray]:
    """The arrays a score has; sizes are looked at before memory is taken."""
    arrays = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = set(archive.namelist())
        for name in _FIELDS:
            if f"{name}.npy" not in names:
                continue
            with archive.open(f"{name}.npy") as member:
                raw = member.read(parts.MAX_BYTES + 1)
            if len(raw) > parts.MAX_BYTES:
                raise ValueError(f"{name} unpacks to more than {parts.MAX_BYTES // 10**6} MB")
            stream = io.BytesIO(raw)
            version = np.lib.format.read_magic(stream)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(stream)
            if dtype.hasobject or math.prod(shape) * dtype.itemsize > len(raw) or min(shape, default=0) < 0:
                raise ValueError(f"{name} is {dtype} {shape}, not numbers of that size")
            stream.seek(0)
            arrays[name] = np.lib.format.read_array(stream, allow_pickle=False)
    return arrays


def write(path: str | os.PathLike[str], piece: score.Score) -> None:
    """Writes `pitches` int16 (t, i), `onset` bool (t, i), meter, pick-up, grid, tempo and title.

    The same score gives the same bytes.

    Raises:
      InputError: a folder that cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        pitches=piece.pitches.astype(np.int16),
        onset=piece.onset,
        steps_per_quarter=np.array(piece.steps_per_quarter, np.int32),
        meter=np.array(piece.meter, np.int32),
        pickup_steps=np.array(piece.pickup_steps, np.int32),
        qpm=np.array(piece.qpm, np.float64),
        title=np.array(piece.title),
    )
    files.replace(path, buffer.getvalue(), durable=False)
