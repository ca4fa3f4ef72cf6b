"""Bach chorales, prepared once and read without TensorFlow; and the command that prepares, lists and exports them.

The default rebuilds the paper's own split from the files inside music21 and needs no network. Prepared data lie in
`data_dir` (default: TFDS's, ~/tensorflow_datasets) under `bach_chorales/CONFIG/VERSION`.
"""

import argparse
from collections.abc import Sequence
import functools
import os
import pathlib
import sys
from typing import Any

import numpy as np

from coconet_jax import corpus, errors, notation, pianoroll, pieces, score, sources, storage

try:
    import tensorflow_datasets as tfds

    from coconet_jax import chorales_builder
except ImportError as error:
    if __name__ != "__main__":
        raise
    print(f"error: preparing chorales needs {error.name}, which is not installed here", file=sys.stderr)
    sys.exit(2)

BachChorales = chorales_builder.BachChorales
DATASETS = chorales_builder.DATASETS
read_examples = chorales_builder.read_examples
leaking_names = corpus.leaking_names

_EXAMPLES = """examples:
  the default: rebuild the paper's split from music21, once, and say what is in it
    python -m coconet_jax.chorales --dataset=music21
  one file for machines without TFDS or music21 (coconet_jax.train reads it)
    python -m coconet_jax.chorales --dataset=music21 --export=chorales.npz
  the soprano of the first test chorale, to harmonise
    python -m coconet_jax.chorales --piece=test/0 --voice=soprano --out=melody.mid
  a chorale by its name, as a score
    python -m coconet_jax.chorales --piece=bwv66.6 --out=bwv66.6.musicxml
  the paper's own arrays, downloaded or from your disk
    python -m coconet_jax.chorales --dataset=jsb16th --download
    python -m coconet_jax.chorales --dataset=jsb16th --source=Jsb16thSeparated.npz
  your own MIDI, MusicXML and npz files, on an eighth-note grid
    python -m coconet_jax.chorales --dataset=folder --source=~/scores --steps_per_quarter=2
"""


def prepare(
    dataset: str = "music21",
    *,
    steps_per_quarter: int = 4,
    source: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> BachChorales:
    """The builder of a data set whose files are complete on disk, made now if they are not.

    TFDS writes into a folder of another name and renames it when all is written: an interrupted preparation is
    never read. A folder's data are kept under a hash of its files, so a changed folder is prepared anew; files of
    it that cannot be used are named on stderr, the next time as a number only.

    Args:
      dataset: one of DATASETS.
      steps_per_quarter: grid: 4 (sixteenths), 2 or 1.
      source: path of the npz for jsb16th (not needed once prepared), folder of scores for folder.
      data_dir: where prepared data lie; TFDS's default if None.
      download: allow fetching jsb16th from its public repository.

    Raises:
      InputError: an unknown value, a missing or wrong source, a data_dir that cannot be written, or prepared
        files that were damaged since.
    """
    if dataset not in DATASETS:
        raise errors.InputError(f"dataset={dataset} is unknown; use one of {', '.join(DATASETS)}")
    if steps_per_quarter not in chorales_builder.GRIDS:
        raise errors.InputError(
            f"steps_per_quarter={steps_per_quarter} is no grid; use 4 (sixteenths), 2 (eighths) or 1 (quarters)"
        )
    if dataset.startswith("music21") and source is not None:
        raise errors.InputError(f"dataset={dataset} takes no source; use dataset=jsb16th or folder to read {source}")
    if dataset == "jsb16th" and source is not None:
        sources.fetch_jsb16th(source, download=False)  # a wrong file is named even when the data are prepared
    config: str | chorales_builder.ChoralesConfig = dataset + chorales_builder.GRIDS[steps_per_quarter]
    if dataset == "folder":
        if source is None:
            raise errors.InputError(
                "dataset=folder needs a source; give --source=DIR (in training --config.data.source) with your scores"
            )
        config = chorales_builder.ChoralesConfig(
            name=f"folder_{sources.folder_digest(source)}{chorales_builder.GRIDS[steps_per_quarter]}",
            description=f"the user's own scores, {steps_per_quarter} steps per quarter",
            dataset=dataset,
            steps_per_quarter=steps_per_quarter,
        )
    place = None if data_dir is None else os.path.abspath(os.path.expanduser(data_dir))
    make = functools.partial(chorales_builder.make, config, place, source=source, download=download)
    with chorales_builder.quiet_tfds():
        builder = make()
        fresh = not builder.info.initialized
        try:
            if fresh:
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(
                        try_download_gcs=False, compute_stats=tfds.download.ComputeStatsMode.SKIP
                    )
                )
        except OSError as error:
            builder = make()
            if not builder.info.initialized:  # else another process finished the same data first
                raise errors.InputError(
                    f"cannot prepare chorales in {builder.data_dir}: {error.strerror or error}; give --data_dir=DIR"
                ) from None
    skipped = chorales_builder.read_skipped(builder)
    if skipped and not fresh:  # a fresh preparation named each with its reason
        listed = pathlib.Path(builder.data_dir) / "metadata.json"
        print(f"files of {source} not used: {len(skipped)}, listed in {listed}", file=sys.stderr)
    return builder


def load(
    dataset: str = "music21",
    *,
    steps_per_quarter: int = 4,
    source: str | os.PathLike[str] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
) -> pieces.PieceSet:
    """All splits of a data set in memory, pieces in the order of the paper's folds; prepares them when needed.

    Arguments and errors are those of `prepare`.
    """
    builder = prepare(dataset, steps_per_quarter=steps_per_quarter, source=source, data_dir=data_dir, download=download)
    return read(builder, source)


def read(builder: BachChorales, source: str | os.PathLike[str] | None = None) -> pieces.PieceSet:
    """All splits of what `prepare` returned; `source` gives a folder's data their name.

    Raises:
      InputError: the prepared files are gone or damaged.
    """
    config = builder.builder_config
    splits = {}
    for split in pieces.SPLITS:
        examples = read_examples(builder, split)
        stacked = pieces.from_arrays([e["pitches"] for e in examples], [_text(e["name"]) for e in examples])
        room = np.array([e["transpose_room"] for e in examples], np.int8).reshape(-1, 4)
        splits[split] = stacked._replace(transpose_room=room)
    origin = f"folder:{pathlib.Path(str(source)).resolve().name}" if config.dataset == "folder" else config.dataset
    return pieces.PieceSet(splits, config.steps_per_quarter, origin)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def find_piece(builder: BachChorales, which: str) -> dict[str, Any]:
    """The example named `which`, or the n-th (from 0) of a split as in `test/0`.

    Raises:
      InputError: there is no such piece.
    """
    counts = {split: builder.info.splits[split].num_examples for split in pieces.SPLITS if split in builder.info.splits}
    split, _, number = which.partition("/")
    if split in counts and number.isdecimal():
        if int(number) >= counts[split]:
            raise errors.InputError(
                f"--piece={which} is past the end; {split} has {counts[split]} pieces, from {split}/0 "
                f"to {split}/{counts[split] - 1}"
            )
        return read_examples(builder, split)[int(number)]
    for split in counts:
        for example in read_examples(builder, split):
            if _text(example["name"]) == which:
                return example
    raise errors.InputError(f"--piece={which} is not in the data; use a split and a number (test/0) or a name")


def to_score(example: dict[str, Any], steps_per_quarter: int, voice: str = "all") -> score.Score:
    """An example as a score with the onsets, meter and pick-up stored for it, or one voice of it ([t,1])."""
    pitches, name = np.asarray(example["pitches"]), _text(example["name"])
    onset = example.get("onset")
    onset = pianoroll.onsets_where_pitch_changes(pitches) if onset is None else np.asarray(onset)
    if voice != "all":
        kept = pianoroll.VOICES.index(voice)
        pitches, onset, name = pitches[:, kept : kept + 1], onset[:, kept : kept + 1], f"{name} {voice}"
    beats, unit = (int(number) for number in example.get("meter", (4, 4)))
    return score.Score(
        pitches=pitches,
        onset=onset,
        meter=(beats, unit),
        pickup_steps=int(example.get("pickup_steps", 0)),
        steps_per_quarter=steps_per_quarter,
        title=name,
    )


def _write_score(path: str, piece: score.Score) -> None:
    if pathlib.Path(path).suffix.lower() == ".mid":
        notation.write_midi(path, piece)
    else:
        notation.write_musicxml(path, piece)


def _check_output(flag: str, path: str, suffixes: tuple[str, ...]) -> None:
    """Names a path that cannot be written before the time to prepare is spent."""
    if not path.lower().endswith(suffixes):
        raise errors.InputError(f"{flag}={path} must end in {' or '.join(suffixes)}")
    target = storage.place(path)
    if isinstance(target, storage.Url):
        if flag != "--export":
            raise errors.InputError(f"{flag}={path}: a score is written to disk; give a local file")
        return
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise errors.InputError(f"{flag}={path} cannot be written; choose a file in a folder you may write to")


def _print_table(builder: BachChorales, piece_set: pieces.PieceSet) -> None:
    print(f"{piece_set.source}: {piece_set.steps_per_quarter} steps per quarter, stored in {builder.data_dir}")
    print(f"{'split':<8}{'pieces':>8}{'steps':>10}{'rests':>9}")
    for split, fold in piece_set.splits.items():
        steps = int(fold.lengths.sum())
        inside = np.arange(fold.pitches.shape[1]) < fold.lengths[:, None]
        rests = float((fold.pitches[inside] == pianoroll.REST).mean()) if steps else 0.0
        print(f"{split:<8}{len(fold.names):>8}{steps:>10}{rests:>9.2%}")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = errors.Parser(
        prog="python -m coconet_jax.chorales",
        description="Prepares Bach chorales once, says what is in them, and writes them or one of them to a file.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--dataset", default="music21", help=f"{', '.join(DATASETS)} (default: %(default)s)")
    parser.add_argument(
        "--steps_per_quarter", type=int, default=4, help="grid: 4 (sixteenths), 2 or 1 (default: %(default)s)"
    )
    parser.add_argument("--source", metavar="PATH", help="the npz of jsb16th, or the folder of folder")
    parser.add_argument("--download", action="store_true", help="allow jsb16th to be fetched (100 kB)")
    parser.add_argument("--data_dir", metavar="DIR", help="where prepared data lie (default: ~/tensorflow_datasets)")
    parser.add_argument("--export", metavar="FILE.npz", help="write all splits to one npz")
    parser.add_argument("--piece", metavar="test/0|NAME", help="write this one piece to --out")
    parser.add_argument("--voice", default="all", help=f"with --piece: {', '.join(pianoroll.VOICES)} or all (default)")
    parser.add_argument("--out", metavar="FILE", help="with --piece: a .mid or .musicxml file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `--help` teaches it. Bad input ends it with one line and exit code 2."""
    args = _parse(argv)
    with errors.exit_on_input_error():
        if (args.piece is None) != (args.out is None):
            raise errors.InputError("--piece and --out go together: --piece=test/0 --out=piece.mid")
        if args.voice not in (*pianoroll.VOICES, "all"):
            raise errors.InputError(f"--voice={args.voice} is unknown; use {', '.join(pianoroll.VOICES)} or all")
        if args.out is not None:
            _check_output("--out", args.out, (".mid", ".musicxml"))
        if args.export is not None:
            _check_output("--export", args.export, (".npz",))
        builder = prepare(
            args.dataset,
            steps_per_quarter=args.steps_per_quarter,
            source=args.source,
            data_dir=args.data_dir,
            download=args.download,
        )
        if args.piece is not None:
            piece = to_score(find_piece(builder, args.piece), args.steps_per_quarter, args.voice)
            _write_score(args.out, piece)
            print(f"wrote {piece.title} to {args.out}")
        if args.export is not None or args.piece is None:
            piece_set = read(builder, args.source)
            _print_table(builder, piece_set)
            if args.export is not None:
                pieces.write_npz(args.export, piece_set)
                print(f"wrote {args.export}")


if __name__ == "__main__":
    main()
