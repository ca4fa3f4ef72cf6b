"""Windows of four-part works in memory, and the npz that carries them to machines without TFDS or music21.

  python -m coconet_jax.work_windows --export=composers.npz

reads the scores inside music21 (four minutes, once) and writes the file; it is the user's own and not to be shared:
editors of some of the scores reserve their rights.
"""

from collections.abc import Sequence
import io
from typing import NamedTuple
import zipfile
import zlib

from jaxtyping import Bool, Float32, Int8, Int16, Integer
import numpy as np

from coconet_jax import errors, files, pianoroll, pieces, storage, works


class Windows(NamedTuple):
    """Windows of one split; all arrays have a row for each.

    Attributes:
      pitches: MIDI pitches, no rests.
      room: semitones [down, up] inside 36..81.
      composer: places in works.COMPOSERS.
      stretch: by what the score's note lengths were multiplied.
      filled: share of cells that were rests.
      score: the name of the score.
      work: the work that it is a movement of; no work is in two splits.
    """

    pitches: Int8[np.ndarray, "n 64 4"]
    room: Int8[np.ndarray, "n 2"]
    composer: Int16[np.ndarray, " n"]
    stretch: Float32[np.ndarray, " n"]
    filled: Float32[np.ndarray, " n"]
    score: np.ndarray
    work: np.ndarray

    def take(self, rows: Integer[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> "Windows":
        """Those of some rows."""
        return Windows(*(column[rows] for column in self))

    @property
    def family(self) -> Integer[np.ndarray, " n"]:
        """Places in works.FAMILIES, the classes that are told apart."""
        places = [works.FAMILIES.index(works.FAMILY_OF[composer]) for composer in works.COMPOSERS]
        return np.array(places)[self.composer]


def from_cut(found: works.Cut, composer: int, score: str, work: str) -> Windows:
    """The windows of one score."""
    count = len(found.windows)
    return Windows(
        found.windows,
        found.room,
        np.full(count, composer, np.int16),
        found.stretch,
        found.filled,
        np.full(count, score),
        np.full(count, work),
    )


def empty() -> Windows:
    """None at all."""
    return from_cut(works.cut(np.zeros((0, pianoroll.NUM_VOICES), np.int16)), 0, "", "")


def join(parts: list[Windows]) -> Windows:
    """One after another."""
    return Windows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def write_npz(path: storage.Named, splits: dict[str, Windows]) -> None:
    """Writes all splits as one npz, whole or not at all."""
    fields = {f"{split}_{name}": column for split, part in splits.items() for name, column in part._asdict().items()}
    files.replace_npz(path, **fields)


def read_npz(path: storage.Named) -> dict[str, Windows]:
    """Reads what write_npz wrote.

    Raises:
      InputError: the file is missing, or is not such a file.
    """
    remedy = f"make it with python -m coconet_jax.work_windows --export={path}"
    try:
        with np.load(io.BytesIO(storage.place(path).read_bytes()), allow_pickle=False) as file:
            splits = {split: Windows(*(file[f"{split}_{name}"] for name in Windows._fields)) for split in pieces.SPLITS}
    except FileNotFoundError:
        raise errors.InputError(f"{path} does not exist; {remedy}") from None
    except errors.InputError:
        raise
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise errors.InputError(f"{path} holds no windows of four-part works ({error}); {remedy}") from None
    for split, part in splits.items():
        count, pitches = len(part.pitches), part.pitches
        if pitches.shape != (count, works.WINDOW, pianoroll.NUM_VOICES) or any(len(c) != count for c in part):
            raise errors.InputError(f"{path}: the arrays of {split} do not fit each other; {remedy}")
        if not ((pitches >= pianoroll.MIN_PITCH) & (pitches <= pianoroll.MAX_PITCH)).all():
            raise errors.InputError(f"{path}: {split} has pitches outside 36..81; {remedy}")
    return splits


def describe(splits: dict[str, Windows]) -> list[tuple[str, ...]]:
    """Rows for a table: composer, then works, scores and windows of each split."""
    rows = []
    for place, composer in enumerate(works.COMPOSERS):
        cells = [composer]
        for part in splits.values():
            mine = part.take(part.composer == place)
            cells.append(f"{len(set(mine.work))} / {len(set(mine.score))} / {len(mine.pitches)}")
        rows.append(tuple(cells))
    return rows


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `--help` teaches it."""
    parser = errors.Parser(
        prog="python -m coconet_jax.work_windows",
        description="Reads the four-part works inside music21, once, and says how many windows of each composer there "
        "are.",
        allow_abbrev=False,
    )
    parser.add_argument("--export", metavar="FILE.npz", help="write all windows to one npz")
    parser.add_argument("--data_dir", metavar="DIR", help="where prepared data lie (default: ~/tensorflow_datasets)")
    args = parser.parse_args(argv)
    with errors.exit_on_input_error():
        if args.export is not None and not args.export.endswith(".npz"):
            raise errors.InputError(f"--export={args.export} must end in .npz")
        try:
            from coconet_jax import works_builder
        except ImportError as error:
            raise errors.InputError(f"preparing works needs {error.name}, which is not installed here") from None
        splits = works_builder.load(args.data_dir)
        print(f"{'works / scores / windows':<26}" + "".join(f"{split:>20}" for split in splits))
        for composer, *cells in describe(splits):
            print(f"{composer:<26}" + "".join(f"{cell:>20}" for cell in cells))
        if args.export is not None:
            write_npz(args.export, splits)
            print(f"wrote {args.export}")


if __name__ == "__main__":
    main()
