"""The files that the sampling command writes of its samples: its flags for them, what they ask for, the writing."""

import argparse
from collections.abc import Sequence
import re

from jaxtyping import Int16
import numpy as np

from coconet_jax import errors, exporting, files, midi, notation, pianoroll, samples, score, storage

FORMATS = ("npz", "midi", "musicxml", "png", "wav")
DEFAULT_FORMATS = ("midi", "musicxml", "png")
MAX_SCORES = 64  # above so many samples the npz alone is written unless formats are asked for
_OURS = re.compile(  # the files of a run
    r"manifest\.json|samples(_\d{5,})?\.npz|chorale_\d{4,}\.(mid|musicxml|png|wav)|trace(\.npz|_\d{4,}\.png)"
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds them to a command."""
    group = parser.add_argument_group("files")
    group.add_argument(
        "--formats",
        metavar="LIST",
        help=f"of {','.join(FORMATS)}; the arrays (npz) are always written, and up to {MAX_SCORES} samples "
        f"{','.join(DEFAULT_FORMATS)} too unless this says otherwise; wav needs the program fluidsynth",
    )
    group.add_argument(
        "--tempo", type=float, metavar="QPM", help="quarters a minute (default: the score's; from nothing 80)"
    )
    group.add_argument(
        "--programs",
        default="choir",
        help=f"sound: {', '.join(notation.PROGRAMS)}, or four General MIDI numbers 0-127 from soprano to bass, such as "
        "73,71,69,70 (default: choir)",
    )
    group.add_argument(
        "--velocities",
        metavar="LIST",
        help="how loud each voice is in MIDI and wav, 1-127, soprano to bass "
        f"(default: {','.join(map(str, midi.VELOCITIES))})",
    )
    group.add_argument("--staves", type=int, choices=(2, 4), default=4, help="of MusicXML (default: 4)")
    group.add_argument(
        "--export",
        metavar="IDS",
        help="samples nothing: writes scores of samples that lie in --out, such as 0-15,40 or all",
    )
    group.add_argument(
        "--trace",
        type=int,
        default=0,
        metavar="N",
        help=f"also keep the scores after about N stages of the work, of up to {MAX_SCORES} samples: trace.npz "
        "(pitches int16 (stages,n,t,4)) and a picture each",
    )


def formats(text: str | None, num_samples: int) -> tuple[str, ...]:
    """The score formats to write."""
    if text is None:
        if num_samples <= MAX_SCORES:
            return DEFAULT_FORMATS
        print(
            f"{num_samples} samples: writing arrays alone (--formats=midi,musicxml,png for scores, or --export later)"
        )
        return ()
    chosen = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [part for part in chosen if part not in FORMATS]
    if unknown or not chosen:
        raise errors.InputError(f"--formats={text}: use one or more of {','.join(FORMATS)}")
    return tuple(name for name in chosen if name != "npz")


def programs(text: str) -> tuple[int, ...]:
    """General MIDI programs of the voices, soprano to bass."""
    found = tuple(notation.PROGRAMS[text]) if text in notation.PROGRAMS else _four(text, 0)
    if found is None:
        known = ", ".join(notation.PROGRAMS)
        raise errors.InputError(f"--programs={text}: use {known}, or four numbers 0-127 such as 73,71,69,70")
    return found


def velocities(text: str | None) -> tuple[int, ...]:
    """Of the voices, soprano to bass."""
    found = midi.VELOCITIES if text is None else _four(text, 1)
    if found is None:
        raise errors.InputError(f"--velocities={text}: use four numbers 1-127 such as 110,70,70,80")
    return found


def _four(text: str, least: int) -> tuple[int, ...] | None:
    """A number for each voice, `least` to 127; None where the text is anything else."""
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        return None
    right = len(numbers) == pianoroll.NUM_VOICES and all(least <= number <= 127 for number in numbers)
    return numbers if right else None


def write_scores(args: argparse.Namespace, made: samples.Samples, formats: Sequence[str], qpm: float | None) -> None:
    """Scores of samples, by what the flags ask for, and what was written on the terminal."""
    paths = exporting.export(
        made,
        args.out,
        formats,
        programs=programs(args.programs),
        velocities=velocities(args.velocities),
        qpm=qpm,
        staves=args.staves,
        progress=len(made.pitches) > 4,
    )
    print(f"wrote {len(paths)} files to {args.out}")
    for path in paths[:12]:
        print(f"  {path}")
    if len(paths) > 12:
        print(f"  ... and {len(paths) - 12} more")


def write_trace(folder: storage.Place, trace: Int16[np.ndarray, "r n t 4"], given: score.Score) -> None:
    """The way of each sample, as arrays and as pictures."""
    from coconet_jax import render  # matplotlib is wanted here alone

    files.replace_npz(folder / "trace.npz", pitches=trace)
    for number in range(trace.shape[1]):
        render.write_trace(folder / f"trace_{number:04d}.png", trace[:, number], given)
    print(f"wrote {len(trace)} stages of {trace.shape[1]} samples to {folder}/trace.npz, with pictures")


def remove_run(folder: storage.Place) -> None:
    """Deletes what a run wrote, told by its names, and nothing else."""
    try:
        for path in folder.iterdir() if folder.is_dir() else ():
            if _OURS.fullmatch(path.name):
                path.unlink()
    except OSError as error:
        raise files.cannot_write(folder, error) from None
