"""The sampling command: turns what the user asks for into scores on disk.

`python -m coconet_jax.sample --checkpoint=runs/small --num_samples=4 --bars=4 --out=chorales`
"""

import argparse
from collections.abc import Sequence
import contextlib
import dataclasses
import io
import pathlib
import sys
from typing import Literal, get_args, get_origin, get_type_hints

from jaxtyping import Int16, Int64
import numpy as np
import tqdm

from coconet_jax import (
    checkpoint,
    devices,
    errors,
    exporting,
    files,
    flags,
    generate,
    notation,
    offline,
    pianoroll,
    requests,
    samples,
)
from coconet_jax import config as config_lib

FORMATS = ("npz", "midi", "musicxml", "png", "wav")
DEFAULT_FORMATS = ("midi", "musicxml", "png")
MAX_SCORES = 64  # above so many samples the npz alone is written unless formats are asked for
_RECORDS = 8  # parts of a run after which the bar moves
_EXAMPLES = """examples:
  four chorales of four bars, as MIDI, MusicXML and pictures:
    python -m coconet_jax.sample --checkpoint=runs/small --num_samples=4 --bars=4 --out=chorales
  four harmonisations of a melody, with a wish for its key:
    python -m coconet_jax.sample --checkpoint=runs/small --harmonize=melody.mid --key="G major" --out=harmonised
  the gaps of a score filled, its written notes kept:
    python -m coconet_jax.sample --checkpoint=runs/small --complete=sketch.musicxml --out=completed
  bars 3 and 4 of a chorale anew:
    python -m coconet_jax.sample --checkpoint=runs/small --inpaint=chorale.mid --span=3-4 --out=inpainted
  finishing sweeps at the end; quick drafts, by few model calls:
    python -m coconet_jax.sample --checkpoint=runs/small --finish_sweeps=2 --out=finished
    python -m coconet_jax.sample --checkpoint=runs/small --sampler=maskgit --num_steps=16 --out=drafts
  ten thousand for a study, resumable, read back by coconet_jax.samples.load_samples("study"):
    python -m coconet_jax.sample --checkpoint=runs/small --num_samples=10000 --bars=8 --out=study
  some of them as scores:
    python -m coconet_jax.sample --export=0-15,40 --formats=midi,musicxml --out=study"""

# What the help says of each setting; the rest is in config.Sample.
_SETTINGS = {
    "sampler": "gibbs (default) rewrites blocks over and over; ancestral writes one note after another; "
    "ancestral_gibbs does so inside blocks; maskgit keeps the surest notes of few calls; upsample goes from "
    "quarters to sixteenths",
    "num_steps": "Gibbs steps, or model calls of ancestral and maskgit: more is slower and better (default: one for "
    "each note to be written, at most those of 8 bars; maskgit 32)",
    "temperature": "below 1 careful, above 1 adventurous",
    "top_p": "draw only from the likeliest notes that hold this share of the probability",
    "greedy": "chance that a call takes the likeliest notes instead of drawing: one number, or two such as 0,0.5 "
    "between which the samples are spread from adventurous to careful",
    "blocks": "gibbs: what is rewritten as a whole: variables (single cells), runs (4 steps or more of a voice), "
    "frames (all voices of a step), voices",
    "block_prob_max": "gibbs: share that is rewritten at first",
    "block_prob_min": "gibbs: and at last; the same as the first for a constant share",
    "anneal_share": "gibbs: share of the steps over which it falls",
    "order": "ancestral: random or chronological",
    "draws_per_call": "ancestral, ancestral_gibbs: notes written by one model call",
    "context_share": "ancestral_gibbs: share of the free notes that stays while a block is rewritten",
    "confidence_noise": "maskgit: how much chance there is in which notes are kept",
    "remask_share": "maskgit: share of the notes kept so far that every call may mend",
    "finish_sweeps": "sweeps at the end that rewrite every note with its neighbours given; each "
    "takes 4 x finish_stride model calls",
    "finish_stride": "steps between the notes that such a sweep rewrites at once",
    "finish_temperature": "of these sweeps (default: as before)",
}


def _parser() -> argparse.ArgumentParser:
    parser = errors.Parser(
        prog="python -m coconet_jax.sample",
        description="Writes four-part chorales with a trained model: from nothing, or from notes of yours.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="the --workdir of a training run")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint to take (default: the best on validation)")
    count = parser.add_mutually_exclusive_group()
    count.add_argument("--num_samples", type=int, metavar="N", help="how many (default: 4)")
    count.add_argument("--alternatives", type=int, metavar="K", help="how many, all different from each other")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same music (default: 0)")
    parser.add_argument("--out", default="chorales", metavar="DIR", help="folder to write to (default: chorales)")
    parser.add_argument("--overwrite", action="store_true", help="replace what an earlier run wrote to that folder")
    flags.add_flags(parser)
    _add_settings(parser)

    group = parser.add_argument_group("files")
    group.add_argument(
        "--formats",
        metavar="LIST",
        help=f"of {','.join(FORMATS)}; the arrays (npz) are always written, and up to {MAX_SCORES} samples "
        f"{','.join(DEFAULT_FORMATS)} too unless this says otherwise; wav needs the program fluidsynth",
    )
    group.add_argument("--tempo", type=float, metavar="QPM", help="quarters a minute (default: the score's, or 80)")
    group.add_argument(
        "--programs",
        default="choir",
        help=f"sound: {', '.join(notation.PROGRAMS)}, or four General MIDI numbers 0-127 from soprano to bass, such as "
        "73,71,69,70 (default: choir)",
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
        help="also keep the scores after N stages of the work: trace.npz (pitches int16 (N,n,t,4)) and a picture each",
    )

    group = parser.add_argument_group("at scale")
    group.add_argument(
        "--shard_index", type=int, metavar="K", help="do part K of the run (from 0) in the folder shared by"
    )
    group.add_argument("--num_shards", type=int, metavar="P", help="P commands, run anywhere; any order")
    group.add_argument(
        "--distributed",
        default="off",
        metavar="WHERE",
        help="share the run among processes that share the folder: auto on a Cloud TPU pod, GKE or Slurm; elsewhere "
        "host:port,P,K in each of P processes, K = 0 to P - 1, the address being that of process 0",
    )
    group.add_argument(
        "--micro_batch",
        type=int,
        metavar="N",
        help=f"samples at once on a device (default: {generate.MICRO_BATCH}, fewer of long pieces)",
    )
    group.add_argument("--chunk_size", type=int, metavar="N", help="samples in a file (default: 256)")
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how notes are drawn")
    hints = get_type_hints(config_lib.Sample)
    for field in dataclasses.fields(config_lib.Sample):
        text, hint = _SETTINGS[field.name], hints[field.name]
        if field.default and field.default != (0.0, 0.0) and field.name != "sampler":
            text += f" (default: {field.default})"
        if get_origin(hint) is Literal:
            group.add_argument(f"--{field.name}", choices=get_args(hint), help=text)
        else:
            kind = hint if hint in (int, float) else str
            group.add_argument(f"--{field.name}", type=kind, metavar="N" if kind is int else "X", help=text)


def _settings(args: argparse.Namespace) -> config_lib.Sample:
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(config_lib.Sample)}
    given = {name: value for name, value in given.items() if value is not None}
    if "greedy" in given:
        try:
            numbers = [float(word) for word in given["greedy"].split(",")]
            least, most = numbers if len(numbers) == 2 else numbers * 2
        except ValueError:
            raise errors.InputError(f"--greedy={args.greedy}: use a number such as 0.3, or two such as 0,0.5") from None
        given["greedy"] = (least, most)
    # A constant share is asked for by one number.
    if "block_prob_max" in given and "block_prob_min" not in given:
        given["block_prob_min"] = min(config_lib.Sample.block_prob_min, given["block_prob_max"])
    return config_lib.Sample(**given)


def _formats(text: str | None, num_samples: int) -> tuple[str, ...]:
    """The score formats to write."""
    if text is None:
        if num_samples <= MAX_SCORES:
            return DEFAULT_FORMATS
        print(
            f"{num_samples} samples: writing arrays alone (--formats=midi,musicxml,png for scores, or --export later)"
        )
        return ()
    chosen = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [part for part in chosen if part not in FORMATS]
    if unknown or not chosen:
        raise errors.InputError(f"--formats={text}: use one or more of {','.join(FORMATS)}")
    return tuple(name for name in chosen if name != "npz")


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


def _check_numbers(args: argparse.Namespace) -> None:
    for name, least, most in (
        ("num_samples", 1, 10**9),
        ("alternatives", 1, 1000),
        ("micro_batch", 1, 2**16),
        ("chunk_size", 1, 2**16),
        ("seed", 0, 2**31 - 1),
        ("trace", 0, 1000),
    ):
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise errors.InputError(f"--{name}={value}: use {least} to {most}")
    if args.tempo is not None and not 10 <= args.tempo <= 500:
        raise errors.InputError(f"--tempo={args.tempo}: use 10 to 500 quarters a minute")
    if (args.shard_index is None) != (args.num_shards is None):
        raise errors.InputError("--shard_index and --num_shards go together; give both, or neither")
    shared = args.num_shards is not None or args.distributed != "off"
    if args.overwrite and shared:
        raise errors.InputError("--overwrite would delete what other processes write; empty the folder by hand first")
    if args.alternatives and (shared or args.chunk_size or args.trace):
        raise errors.InputError(
            f"--alternatives={args.alternatives} compares all answers in one place; leave out --chunk_size, --trace, "
            "--num_shards and --distributed"
        )
    if args.num_shards is not None and not 0 <= args.shard_index < args.num_shards:
        raise errors.InputError(f"--shard_index={args.shard_index}: use 0 to {args.num_shards - 1}, below --num_shards")


def _write_scores(args: argparse.Namespace, made: samples.Samples, formats: Sequence[str], qpm: float | None) -> None:
    paths = exporting.export(
        made,
        args.out,
        formats,
        programs=_programs(args.programs),
        qpm=qpm,
        staves=args.staves,
        progress=len(made.pitches) > 4,
    )
    print(f"wrote {len(paths)} files to {args.out}")
    for path in paths[:12]:
        print(f"  {path}")
    if len(paths) > 12:
        print(f"  ... and {len(paths) - 12} more")


def _remove_run(folder: pathlib.Path) -> None:
    """Deletes what a run wrote, and nothing else."""
    try:
        for pattern in (samples.MANIFEST, "samples*.npz", "chorale_*.*", "trace*.*"):
            for path in folder.glob(pattern):
                path.unlink()
    except OSError as error:
        raise files.cannot_write(folder, error) from None


class _Bar:
    """A bar for runs of one batch, which moves with the model calls; longer runs count chorales instead."""

    def __init__(self, show: bool, calls: int):
        self._bar = tqdm.tqdm(total=100, unit="%", desc=f"sampling, {calls} model calls", disable=not show)

    def __call__(self, share: float) -> None:
        self._bar.update(100 * share)


def _sample(args: argparse.Namespace) -> None:
    settings, programs = _settings(args), _programs(args.programs)
    del programs  # checked before the work
    num_samples = args.alternatives or args.num_samples or 4
    formats = _formats(args.formats, num_samples)
    if "wav" in formats:
        notation.audio.check()
    folder = pathlib.Path(args.out)
    files.check_folder(folder)
    devices.use_compile_cache()
    devices.split_cpu(devices.num_cores())
    _join_processes(args.distributed)
    loaded = checkpoint.load(args.checkpoint, args.step)
    request, steering = requests.from_flags(args, loaded.config.data.steps_per_quarter)
    for remark in request.given.remarks:
        print(f"note: {remark}")
    if args.overwrite:
        _remove_run(folder)
    steps = len(request.free)
    usual = generate.default_micro_batch(num_samples, steps)
    described = dataclasses.asdict(settings) | {
        "steering": offline.sha256(*steering),
        "alternatives": bool(args.alternatives),
    }
    manifest = offline.begin(
        folder,
        request,
        described,
        seed=args.seed,
        checkpoint_sha256=loaded.sha256,
        num_samples=num_samples,
        micro_batch=args.micro_batch,
        chunk_size=args.chunk_size or (num_samples if args.alternatives else None),
        default_micro_batch=usual,
    )
    micro_batch = manifest["micro_batch"]
    plan = generate.Plan(
        loaded.variables,
        loaded.config.model,
        request,
        settings,
        steering,
        args.seed,
        micro_batch,
        generate.num_devices(num_samples, micro_batch),
    )
    rows = plan.micro_batch * plan.num_devices
    calls = generate.num_calls(plan)
    one_batch = num_samples <= rows
    print(
        f"{num_samples} x {steps} steps, {calls} model calls each, from step {loaded.step} of {args.checkpoint}",
        flush=True,
    )
    bar = _Bar(one_batch and sys.stderr.isatty(), calls)

    def draw(ids: Int64[np.ndarray, " n"]) -> Int16[np.ndarray, "n t 4"]:
        if args.alternatives:
            return generate.distinct(plan, ids, report=bar).pitches
        return generate.samples(plan, ids, records=_RECORDS if one_batch else 1, report=bar).pitches

    offline.run(
        draw,
        request,
        folder,
        manifest,
        shard_index=args.shard_index or 0,
        num_shards=args.num_shards or 1,
        chains_at_once=None if args.alternatives else rows,
        progress=not one_batch,
    )
    if args.trace:
        _write_trace(folder, plan, num_samples, args.trace)
    if (args.num_shards or 1) > 1 or args.distributed != "off":
        print(f"this part of {folder} is done")
        return
    if args.alternatives:
        again = generate.repeated(samples.load_samples(folder).pitches)
        if len(again):
            print(f"only {num_samples - len(again)} different answers were found; a higher --temperature gives more")
    if formats:
        _write_scores(args, samples.load_samples(folder), formats, args.tempo)
    else:
        print(f"wrote {samples.num_chunks(manifest)} files of samples to {folder}")


def _join_processes(where: str) -> None:
    if where in ("off", "auto"):
        devices.start_processes(where, "", 1, 0)
        return
    try:
        coordinator, count, number = where.split(",")
        devices.start_processes("manual", coordinator, int(count), int(number))
    except ValueError as error:
        if isinstance(error, errors.InputError):
            raise
        raise errors.InputError(f"--distributed={where}: use off, auto or host:port,P,K") from None


def _write_trace(folder: pathlib.Path, plan: generate.Plan, num_samples: int, records: int) -> None:
    """The way of each sample, as arrays and as pictures."""
    from coconet_jax import render  # matplotlib is wanted here alone

    ids = np.arange(min(num_samples, plan.micro_batch * plan.num_devices))
    trace = generate.samples(plan, ids, records=records).trace
    buffer = io.BytesIO()
    np.savez_compressed(buffer, pitches=trace)
    files.replace(folder / "trace.npz", buffer.getvalue())
    for number, stages in zip(ids[:MAX_SCORES], trace.transpose(1, 0, 2, 3), strict=False):
        render.write_trace(folder / f"trace_{number:04d}.png", stages, plan.request.given)
    print(f"wrote {len(trace)} stages of {len(ids)} samples to {folder}/trace.npz, with pictures")


def _main(args: argparse.Namespace) -> None:
    _check_numbers(args)
    if args.export:
        if args.checkpoint:
            raise errors.InputError("--export writes scores of samples that lie in --out; leave --checkpoint out")
        formats = _formats(args.formats or ",".join(DEFAULT_FORMATS), 0)
        manifest = samples.read_manifest(args.out)
        count = manifest["num_samples"] if manifest else len(samples.load_samples(args.out).pitches)
        chosen = exporting.parse_ids(args.export, count)
        _write_scores(args, samples.load_samples(args.out, ids=chosen), formats, args.tempo)
        return
    if not args.checkpoint:
        raise errors.InputError("--checkpoint is missing; give the --workdir of a training run")
    _sample(args)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; a mistake of the user's is one line and exit code 2."""
    checkpoint.quiet()
    args = _parser().parse_args(argv)
    with errors.exit_on_input_error():
        _main(args)


if __name__ == "__main__":
    main()
