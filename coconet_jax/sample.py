"""Writes chorales: from nothing, or under a soprano. The command and the function behind it.

`python -m coconet_jax.sample --checkpoint=runs/small --num_samples=4 --bars=4 --out=chorales`
"""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import functools
import os
import pathlib
import shutil
import sys
import tempfile
from typing import NamedTuple

import jax
from jaxtyping import Bool, Int16
import numpy as np
import tqdm

from coconet_jax import checkpoint, devices, errors, gibbs, masks, model, notation, pianoroll, render, samples, score
from coconet_jax import config as config_lib

FORMATS = ("npz", "midi", "musicxml", "png")
MAX_SCORES = 64  # above so many samples the npz alone is written unless formats are asked for
MICRO_BATCH = 32
_PROGRESS_PARTS = 8


class Request(NamedTuple):
    """What is to be completed.

    Attributes:
      given: the score to start from; a voice that is free may hold anything.
      free: True where the model writes.
    """

    given: score.Score
    free: Bool[np.ndarray, "t 4"]


def compose(steps: int, *, meter: tuple[int, int] = (4, 4), steps_per_quarter: int = 4) -> Request:
    """A request for a chorale of so many steps from nothing."""
    silence = np.full((steps, pianoroll.NUM_VOICES), pianoroll.REST, np.int16)
    given = score.from_pitches(silence, meter=meter, steps_per_quarter=steps_per_quarter)
    return Request(given, np.asarray(masks.free_everything((1, *silence.shape))[0]))


def harmonize(melody: score.Score) -> Request:
    """A request for alto, tenor and bass under a melody [t,1], which stays as it is, rests and repeats included."""
    steps = len(melody.pitches)
    pitches = np.full((steps, pianoroll.NUM_VOICES), pianoroll.REST, np.int16)
    onset = np.zeros(pitches.shape, bool)
    pitches[:, 0], onset[:, 0] = melody.pitches[:, 0], melody.onset[:, 0]
    given = score.Score(
        pitches, onset, melody.meter, melody.pickup_steps, melody.steps_per_quarter, melody.qpm, melody.title
    )
    return Request(given, np.asarray(masks.free_but_voice((1, *pitches.shape), 0)[0]))


def generate(
    variables: model.Variables,
    config: config_lib.Model,
    request: Request,
    settings: config_lib.Sample,
    *,
    num_samples: int,
    seed: int = 0,
    micro_batch: int = MICRO_BATCH,
    progress: bool = False,
) -> Int16[np.ndarray, "n t 4"]:
    """Completes a request `num_samples` times, each chain depending on (seed, its number) alone.

    Chains run in micro-batches of one compiled shape over all devices; the last is filled up with chains that
    are thrown away.

    Args:
      variables: of the network.
      config: of the network.
      request: see there.
      settings: of the sampler.
      num_samples: n.
      seed: any number from 0.
      micro_batch: chains at once, at most; rounded up to a multiple of the number of devices.
      progress: whether to show a bar.

    Returns:
      MIDI pitches, -1 = rest.
    """
    steps = len(request.free)
    count = gibbs.num_steps(settings, request.free[None])
    numbers, probs = gibbs.steps(gibbs.anneal_block_prob(settings, count))
    # A bar needs to come back to the host now and then; the last part is filled up with steps that do nothing.
    parts = min(_PROGRESS_PARTS, len(numbers)) if progress else 1
    per_part = -(-len(numbers) // parts)
    fill = per_part * parts - len(numbers)
    numbers = np.concatenate([numbers, np.full(fill, len(numbers), np.int32)]).reshape(parts, per_part)
    probs = np.concatenate([probs, np.zeros(fill, np.float32)]).reshape(parts, per_part)

    mesh = devices.make_mesh()
    rows = -(-min(micro_batch, num_samples) // mesh.size) * mesh.size
    by_row = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(devices.AXIS))
    weights = devices.replicate(variables, mesh)
    run = _compiled(config, settings.temperature)
    written = np.empty((num_samples, steps, pianoroll.NUM_VOICES), np.int16)
    with tqdm.tqdm(total=num_samples, unit="chorale", disable=not progress, desc="sampling") as bar:
        for first in range(0, num_samples, rows):
            chains = jax.device_put(
                gibbs.Chains(
                    gibbs.chain_keys(seed, np.arange(first, first + rows, dtype=np.int32)),
                    np.broadcast_to(request.given.pitches.astype(np.int8), (rows, steps, pianoroll.NUM_VOICES)),
                    np.broadcast_to(request.free, (rows, steps, pianoroll.NUM_VOICES)),
                    np.ones((rows, steps), bool),
                ),
                by_row,
            )
            wanted = min(rows, num_samples - first)
            for part in range(parts):
                chains = chains._replace(pitches=run(weights, chains, numbers[part], probs[part]))
                if progress:
                    jax.block_until_ready(chains.pitches)
                bar.update(wanted / parts)
            written[first : first + wanted] = np.asarray(chains.pitches)[:wanted]
    return written


@functools.lru_cache(maxsize=8)
def _compiled(config: config_lib.Model, temperature: float) -> Callable[..., jax.Array]:
    """The compiled scan for a network; its weights are arguments, so that one program serves all checkpoints."""

    def run(weights: model.Variables, chains: gibbs.Chains, numbers: jax.Array, probs: jax.Array) -> jax.Array:
        return gibbs.run(model.make_predict(weights, config), chains, numbers, probs, temperature)

    return jax.jit(run)


def to_samples(request: Request, pitches: Int16[np.ndarray, "n t 4"], seed: int) -> samples.Samples:
    """Given notes are struck where the user struck them, written ones where the pitch changes."""
    changes = np.stack([pianoroll.onsets_where_pitch_changes(piece) for piece in pitches])
    given = np.broadcast_to(~request.free, pitches.shape)
    onset = np.where(given, request.given.onset, changes)
    ids = np.arange(len(pitches), dtype=np.int64)
    return samples.Samples(pitches, onset, np.array(given), ids, seed, request.given.steps_per_quarter)


def write_files(
    folder: pathlib.Path,
    request: Request,
    made: samples.Samples,
    formats: Sequence[str],
    *,
    qpm: float,
    programs: Sequence[int],
    progress: bool = False,
) -> list[pathlib.Path]:
    """Writes the samples in the given formats, all of them or none, and returns the paths in order.

    Raises:
      InputError: the folder cannot be written to, or the disk is full.
    """
    title = request.given.title or "Chorale"
    names: list[str] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        partial = pathlib.Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
        try:
            if "npz" in formats:
                names.append(samples.write_samples(partial, made).name)
            rows = zip(made.pitches, made.onset, made.given, made.sample_id, strict=True)
            for pitches, onset, given, number in tqdm.tqdm(
                rows if set(formats) - {"npz"} else [], total=len(made.pitches), disable=not progress, desc="writing"
            ):
                stem = f"chorale_{number:04d}"
                piece = score.Score(
                    pitches,
                    onset,
                    request.given.meter,
                    request.given.pickup_steps,
                    made.steps_per_quarter,
                    qpm,
                    f"{title} {number}" if len(made.pitches) > 1 else title,
                )
                if "midi" in formats:
                    notation.write_midi(partial / f"{stem}.mid", piece, programs=programs)
                    names.append(f"{stem}.mid")
                if "musicxml" in formats:
                    notation.write_musicxml(partial / f"{stem}.musicxml", piece)
                    names.append(f"{stem}.musicxml")
                if "png" in formats:
                    render.write_pianoroll(partial / f"{stem}.png", piece, given=given if given.any() else None)
                    names.append(f"{stem}.png")
            for name in names:
                os.replace(partial / name, folder / name)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise errors.InputError(
            f"--out={folder}: cannot write there ({error.strerror}); choose another folder"
        ) from None
    return [folder / name for name in names]


# --------------------------------------------------------------------------------------------- command


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m coconet_jax.sample",
        description="Writes four-part chorales with a trained model: from nothing, or under a soprano of yours.",
        epilog="""examples:
  four chorales of four bars, as MIDI, MusicXML and pictures:
    python -m coconet_jax.sample --checkpoint=runs/small --num_samples=4 --bars=4 --out=chorales
  three harmonisations of a melody:
    python -m coconet_jax.sample --checkpoint=runs/small --harmonize=melody.mid --num_samples=3 --out=harmonised
  a thousand for a study, as one array (samples.npz: pitches int16 (n,T,4)):
    python -m coconet_jax.sample --checkpoint=runs/small --num_samples=1000 --bars=8 --formats=npz --out=study""",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="the --workdir of a training run")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint to take (default: the best on validation)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--bars", type=int, metavar="N", help="bars to compose from nothing (default: 4)")
    what.add_argument(
        "--harmonize",
        metavar="FILE",
        help="a melody (.mid, .musicxml, .xml, .mxl): it is kept note for note as the soprano; of a score with four "
        "voices the highest is taken",
    )
    parser.add_argument("--meter", metavar="B/U", help="of what is composed (default: 4/4)")
    parser.add_argument("--num_samples", type=int, default=4, metavar="N", help="how many (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same music (default: 0)")
    parser.add_argument("--out", default="chorales", metavar="DIR", help="folder to write to (default: chorales)")
    parser.add_argument(
        "--formats",
        metavar="LIST",
        help=f"of {','.join(FORMATS)} (default: all up to {MAX_SCORES} samples, npz alone above)",
    )
    parser.add_argument("--tempo", type=float, metavar="QPM", help="quarters a minute (default: the melody's, or 80)")
    parser.add_argument(
        "--programs",
        default="choir",
        help=f"sound in MIDI: {', '.join(notation.PROGRAMS)}, or four General MIDI numbers 0-127 from soprano to bass, "
        "such as 73,71,69,70 (default: choir)",
    )
    defaults = config_lib.Sample()
    parser.add_argument(
        "--num_steps",
        type=int,
        default=defaults.num_steps,
        metavar="N",
        help="Gibbs steps: more is slower and better (default: one for each note to be written)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=defaults.temperature,
        help=f"below 1 careful, above 1 adventurous (default: {defaults.temperature})",
    )
    parser.add_argument(
        "--micro_batch", type=int, default=MICRO_BATCH, metavar="N", help=f"samples at once (default: {MICRO_BATCH})"
    )
    return parser


def _formats(text: str | None, num_samples: int) -> tuple[str, ...]:
    if text is None:
        if num_samples <= MAX_SCORES:
            return FORMATS
        print(f"{num_samples} samples: writing samples.npz alone (--formats=npz,midi,musicxml,png for all)")
        return ("npz",)
    chosen = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [part for part in chosen if part not in FORMATS]
    if unknown or not chosen:
        raise errors.InputError(f"--formats={text}: use one or more of {','.join(FORMATS)}")
    return chosen


def _meter(text: str, steps_per_quarter: int) -> tuple[int, int]:
    try:
        beats, unit = (int(part) for part in text.split("/"))
        whole = 0 < beats <= 64 and unit in (1, 2, 4, 8, 16) and score.bar_steps((beats, unit), steps_per_quarter)
    except ValueError:
        whole = 0
    if not whole:
        raise errors.InputError(
            f"--meter={text}: use beats/unit, such as 4/4, 3/4 or 6/8, whose bar is a whole number of steps "
            f"({steps_per_quarter} to a quarter)"
        )
    return beats, unit


def _programs(text: str) -> tuple[int, ...]:
    if text in notation.PROGRAMS:
        return tuple(notation.PROGRAMS[text])
    with contextlib.suppress(ValueError):
        numbers = tuple(int(part) for part in text.split(","))
        if len(numbers) == pianoroll.NUM_VOICES and all(0 <= number <= 127 for number in numbers):
            return numbers
    raise errors.InputError(
        f"--programs={text}: use {', '.join(notation.PROGRAMS)}, or four numbers 0-127 such as 73,71,69,70"
    )


def _request(args: argparse.Namespace, steps_per_quarter: int) -> Request:
    if args.harmonize:
        if args.meter:
            raise errors.InputError(f"--meter={args.meter}: with --harmonize the meter is the melody's; leave it out")
        return harmonize(notation.read_melody(args.harmonize, steps_per_quarter=steps_per_quarter))
    bars = 4 if args.bars is None else args.bars
    if bars < 1:
        raise errors.InputError(f"--bars={bars}: use 1 or more")
    meter = _meter(args.meter or "4/4", steps_per_quarter)
    steps = bars * score.bar_steps(meter, steps_per_quarter)
    return compose(steps, meter=meter, steps_per_quarter=steps_per_quarter)


def _check_folder(folder: pathlib.Path) -> None:
    """Finds out before the work, not after it, that a folder cannot be written to."""
    try:
        place = next((p for p in (folder.absolute(), *folder.absolute().parents) if p.exists()), None)
        writable = place is not None and place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except OSError:  # a name too long, or a folder that cannot be looked into
        writable = False
    if not writable:
        raise errors.InputError(f"--out={folder}: cannot write there; choose another folder")


def _main(args: argparse.Namespace) -> None:
    for name, least in (("num_samples", 1), ("micro_batch", 1), ("seed", 0)):
        if not least <= getattr(args, name) < 2**31:
            raise errors.InputError(f"--{name}={getattr(args, name)}: use {least} or more, below {2**31}")
    if args.tempo is not None and not 10 <= args.tempo <= 500:
        raise errors.InputError(f"--tempo={args.tempo}: use 10 to 500 quarters a minute")
    settings = config_lib.Sample(num_steps=args.num_steps, temperature=args.temperature)
    programs = _programs(args.programs)
    folder = pathlib.Path(args.out)
    _check_folder(folder)
    formats = _formats(args.formats, args.num_samples)
    loaded = checkpoint.load(args.checkpoint, args.step)
    request = _request(args, loaded.config.data.steps_per_quarter)
    devices.use_compile_cache()
    progress = sys.stderr.isatty()
    if not progress:
        calls = gibbs.num_steps(settings, request.free[None]) + 1
        print(f"sampling {args.num_samples} x {len(request.free)} steps, {calls} model calls each", flush=True)
    pitches = generate(
        loaded.variables,
        loaded.config.model,
        request,
        settings,
        num_samples=args.num_samples,
        seed=args.seed,
        micro_batch=args.micro_batch,
        progress=progress,
    )
    paths = write_files(
        folder,
        request,
        to_samples(request, pitches, args.seed),
        formats,
        qpm=args.tempo or request.given.qpm,
        programs=programs,
        progress=progress and args.num_samples > 4,
    )
    print(f"step {loaded.step} of {args.checkpoint}: wrote {len(paths)} files to {folder}")
    for path in paths[:13]:
        print(f"  {path}")
    if len(paths) > 13:
        print(f"  ... and {len(paths) - 13} more")


def main(argv: Sequence[str] | None = None) -> None:
    """The command; a mistake of the user's is one line and exit code 2."""
    checkpoint.quiet()
    args = _parser().parse_args(argv)
    with errors.exit_on_input_error():
        _main(args)


if __name__ == "__main__":
    main()
