"""The sampling command: turns what the user asks for into scores on disk.

`python -m coconet_jax.sample --num_samples=4 --bars=4 --out=chorales`
"""

import argparse
from collections.abc import Callable, Sequence
import dataclasses
import functools
import sys
from typing import Any

import jax
import jax.numpy as jnp
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
    model,
    notation,
    offline,
    outputs,
    polish,
    requests,
    samples,
    settings,
    storage,
    tasks,
    weights,
)
from coconet_jax.judge import critic as critic_lib
from coconet_jax.judge import selection

_RECORDS = 8  # parts of a run after which the bar moves
_AT_ONCE = 64  # chains, in several micro-batches: so many that choosing and polishing seldom wait for the host
_EXPORTS = ("export", "out", "formats", "tempo", "programs", "velocities", "staves")  # flags of an export
_EXAMPLES = """examples:
  four chorales of four bars, as MIDI, MusicXML and pictures:
    python -m coconet_jax.sample --num_samples=4 --bars=4 --out=chorales
  the same, each with a close at its end:
    python -m coconet_jax.sample --num_samples=4 --bars=4 --last_chord=tonic --out=closed
  four harmonisations of a melody, with a wish for its key:
    python -m coconet_jax.sample --harmonize=melody.mid --key="G major" --out=harmonised
  the gaps of a score filled, its written notes kept:
    python -m coconet_jax.sample --complete=sketch.musicxml --out=completed
  bars 3 and 4 of a chorale anew:
    python -m coconet_jax.sample --inpaint=chorale.mid --span=3-4 --out=inpainted
  by a network that you have trained:
    python -m coconet_jax.sample --checkpoint=runs/mine --num_samples=4 --bars=4 --out=mine
  a melody that lies too high, a fifth lower:
    python -m coconet_jax.sample --harmonize=high.mid --transpose=-7 --out=lower
  quick drafts, in an eighth of the model calls, and unpolished:
    python -m coconet_jax.sample --sampler=maskgit --polish=0 --out=drafts
  ten thousand for a study, resumable, read back by coconet_jax.samples.load_samples("study"):
    python -m coconet_jax.sample --num_samples=10000 --bars=8 --out=study
  what the model writes by itself, without the critic's redraws; the best of sixteen, as the critic hears it:
    python -m coconet_jax.sample --polish=0 --out=raw
    python -m coconet_jax.sample --best_of=16 --out=chosen
  some of them as scores:
    python -m coconet_jax.sample --export=0-15,40 --formats=midi,musicxml --out=study"""


def _parser() -> argparse.ArgumentParser:
    parser = errors.Parser(
        prog="python -m coconet_jax.sample",
        description="Writes four-part chorales with a trained model: from nothing, or from notes of yours.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", metavar="DIR", help=weights.HELP)
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint to take (default: the best on validation)")
    count = parser.add_mutually_exclusive_group()
    count.add_argument(
        "--num_samples", type=int, metavar="N", help="how many (default: 4); more than lie in --out add to them"
    )
    count.add_argument("--alternatives", type=int, metavar="K", help="how many, all different from each other")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same music (default: 0)")
    parser.add_argument(
        "--out", default="chorales", metavar="DIR", help="folder or gs:// URL to write to (default: chorales)"
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what an earlier run wrote to that folder (the same run, interrupted, goes on)",
    )
    parser.add_argument(
        "--excerpt",
        action="store_true",
        help="music out of the middle of a piece, without a beginning and an end of its own (what a network that was "
        "trained without data.ends always writes)",
    )
    flags.add_flags(parser)
    settings.add_flags(parser)

    group = parser.add_argument_group("choosing")
    group.add_argument(
        "--polish",
        type=int,
        metavar="N",
        help="N times over, draw passages of two beats anew where a critic doubts that the music is real, "
        f"{polish.PASSAGES.candidates} times each, and keep what it takes most surely for that; 0: leave the model's "
        f"work as it is (default: {polish.USUAL}, and 0 for more than {outputs.MAX_SCORES} samples; what a run was "
        "begun with stays; the critic knows sixteenths alone)",
    )
    group.add_argument(
        "--best_of",
        type=int,
        nargs="?",
        const=selection.USUAL,
        metavar="N",
        help="draw N candidates for each sample and keep the one that the critic takes most surely for real, and none "
        f"that quotes the training music at length (without a number: {selection.USUAL})",
    )
    group.add_argument("--critic", metavar="FILE", help="written by benchmarks/critic.py (default: the packaged one)")

    outputs.add_flags(parser)
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
        help="samples at once on a device (default: what fits its memory, on CPU 256 steps of them, or two)",
    )
    group.add_argument("--chunk_size", type=int, metavar="N", help="samples in a file (default: 256)")
    return parser


def _check_numbers(args: argparse.Namespace) -> None:
    for name, least, most in (
        ("num_samples", 1, 10**9),
        ("alternatives", 1, 1000),
        ("micro_batch", 1, 2**16),
        ("chunk_size", 1, 2**16),
        ("seed", 0, 2**31 - 1),
        ("trace", 0, 1000),
        ("best_of", 1, selection.MOST),
        ("polish", 0, polish.MOST),
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
    if args.trace and (shared or args.chunk_size or (args.num_samples or 0) > outputs.MAX_SCORES):
        raise errors.InputError(
            f"--trace={args.trace} goes with up to {outputs.MAX_SCORES} samples in one place; ask for fewer, and leave "
            "out --chunk_size, --num_shards and --distributed"
        )
    if args.best_of and (args.alternatives or args.trace):
        raise errors.InputError(f"--best_of={args.best_of} chooses one of many; leave out --alternatives and --trace")
    for name, each in (("best_of", args.best_of or 1), ("polish", polish.PASSAGES.candidates if args.polish else 1)):
        if (chains := (args.num_samples or 4) * each) > 2**31:
            raise errors.InputError(
                f"--{name}={getattr(args, name)}: {chains} candidates in all, more than {2**31}; ask for fewer samples"
            )
    if args.num_shards is not None and not 0 <= args.shard_index < args.num_shards:
        raise errors.InputError(f"--shard_index={args.shard_index}: use 0 to {args.num_shards - 1}, below --num_shards")


def _sweeps(args: argparse.Namespace, num_samples: int, steps_per_quarter: int, folder: storage.Place) -> int:
    """How often passages are redrawn: as asked, or as the run in the folder was begun, or as is usual."""
    knows = steps_per_quarter == 4
    for name in ("best_of", "polish"):
        if getattr(args, name) and not knows:
            raise errors.InputError(
                f"--{name}={getattr(args, name)}: the critic knows sixteenths, and this model writes on a grid of "
                f"{steps_per_quarter} steps a quarter; leave it out"
            )
    if args.polish is not None:
        return args.polish
    begun = None if args.overwrite else samples.read_manifest(folder)
    if begun is not None:
        return begun["settings"].get("polish", 0)
    return polish.USUAL if knows and num_samples <= outputs.MAX_SCORES else 0


def _is_unfinished(begin: Callable[[], dict[str, Any]], folder: storage.Place, num_samples: int) -> bool:
    """Whether the very run that is asked for lies there in part: to replace it would be to begin it again."""
    try:
        if (samples.read_manifest(folder) or {}).get("num_samples") != num_samples:
            return False
        manifest = begin()
    except errors.InputError:
        return False
    numbers = range(samples.num_chunks(manifest))
    return not all(samples.chunk_path(folder, number).exists() for number in numbers)


def _sample(args: argparse.Namespace) -> None:
    chosen = settings.from_flags(args)
    outputs.programs(args.programs), outputs.velocities(args.velocities)  # before the work, not after it
    num_samples = args.alternatives or args.num_samples or 4
    in_parts = (args.num_shards or 1) > 1 or args.distributed != "off"
    if in_parts and args.formats not in (None, "npz"):
        raise errors.InputError(
            f"--formats={args.formats}: parts of a run write arrays alone; give it with --export when all are done"
        )
    formats = () if in_parts else outputs.formats(args.formats, num_samples)
    if args.tempo is not None and not formats:
        raise errors.InputError(
            f"--tempo={args.tempo:g} is for scores, and arrays alone are written; give it later, with --export"
        )
    if "wav" in formats:
        notation.audio.check()
    folder = storage.place(args.out)
    files.check_folder(folder)
    devices.use_compile_cache()
    devices.split_cpu(devices.num_cores())
    devices.join_processes(args.distributed)
    devices.check_shared("--out", args.out)
    named = args.checkpoint or weights.DEFAULT
    loaded = checkpoint.load(named, args.step)
    sweeps = _sweeps(args, num_samples, loaded.config.data.steps_per_quarter, folder)
    if args.critic and not (args.best_of or sweeps):
        raise errors.InputError(f"--critic={args.critic} chooses with --best_of or --polish; give one, or leave it out")
    critic = critic_lib.load(args.critic or critic_lib.PATH) if args.best_of or sweeps else None
    request, steering = requests.from_flags(args, loaded.config.data.steps_per_quarter)
    if args.best_of and request.vary is not None:
        raise errors.InputError(f"--best_of={args.best_of}: here every sample starts from other notes; leave it out")
    if args.excerpt:
        request = tasks.excerpt(request)
    for remark in request.given.remarks:
        print(f"note: {remark}")
    steps = len(request.free)
    candidates = args.best_of or 1
    usual = generate.default_micro_batch(num_samples * candidates, steps, loaded.config.model)
    described = dataclasses.asdict(chosen) | {
        "steering": offline.sha256(*steering),
        "alternatives": bool(args.alternatives),
    }
    if loaded.config.data.ends:
        described["ends"] = request.ends
    if critic is not None:
        described["critic_sha256"] = critic.sha256
        described |= {"best_of": candidates} if args.best_of else {}
        described |= {"polish": sweeps, "passages": list(polish.PASSAGES)} if sweeps else {}
    # What rounds otherwise may draw otherwise: another kind of device is another run.
    dtype = model.compute_dtype(loaded.config.model)
    described |= {} if dtype == jnp.float32 else {"dtype": jnp.dtype(dtype).name}
    described |= {} if devices.on_cpu() else {"device": jax.default_backend()}
    begin = functools.partial(
        offline.begin,
        folder,
        request,
        described,
        seed=args.seed,
        checkpoint_sha256=loaded.sha256,
        num_samples=num_samples,
        micro_batch=args.micro_batch,
        chunk_size=args.chunk_size or (num_samples if args.alternatives else None),
        default_micro_batch=usual,
        rounds_alike=devices.on_cpu() and dtype == jnp.float32,
        about=flags.asked(args) | {"checkpoint": str(named), "model": dataclasses.asdict(loaded.config.model)},
    )
    if args.overwrite and not _is_unfinished(begin, folder, num_samples):
        outputs.remove_run(folder)
    manifest = begin()
    plan = generate.plan(
        loaded,
        request,
        num_samples * candidates,
        chosen,
        prior=steering,
        seed=args.seed,
        micro_batch=manifest["micro_batch"],
    )._replace(chains_each=candidates)
    rows = plan.micro_batch * plan.num_devices
    # Of small chunks no more than one, which is what a kill costs, unless a batch over all devices fills several.
    at_once = rows * max(min(_AT_ONCE, manifest["chunk_size"] * candidates) // rows, 1)
    calls, redraws = generate.num_calls(plan) * candidates, polish.num_calls(request.free, sweeps)
    one_batch = num_samples * candidates <= at_once
    then = f", then up to {redraws} of passages that the critic chooses among (--polish)" if sweeps else ""
    print(
        f"{num_samples} x {steps} steps, {calls} model calls each{then}, from step {loaded.step} of {named}", flush=True
    )
    first = calls / (calls + redraws * min(polish.window_steps() / steps, 1))  # its share of the work
    bar = tqdm.tqdm(total=100, unit="%", desc="sampling", disable=not one_batch or not sys.stderr.isatty())
    trace: list[Int16[np.ndarray, "r n t 4"]] = []
    quoting: list[int] = []

    def report(share: float) -> None:
        bar.update(100 * share * first)

    def draw(ids: Int64[np.ndarray, " n"]) -> Int16[np.ndarray, "n t 4"]:
        pitches = draw_first(ids)
        if critic is None or not sweeps:
            return pitches
        share_out = lambda share: bar.update(100 * share * (1 - first))  # noqa: E731
        finish = polish.distinct if args.alternatives else polish.polish
        polished = finish(polish.judge_with(critic), plan, pitches, ids, sweeps, report=share_out)
        trace[:] = [np.concatenate([stages, polished[None]]) for stages in trace]
        return polished

    def draw_first(ids: Int64[np.ndarray, " n"]) -> Int16[np.ndarray, "n t 4"]:
        if args.alternatives:
            return generate.distinct(plan, ids, report=report).pitches
        if critic is not None and args.best_of:
            every = lambda chains: generate.samples(plan, chains, report=report).pitches  # noqa: E731
            chosen_ones = selection.best_of(critic, every, ids, candidates)
            quoting.append(int(chosen_ones.quotes.sum()))
            return chosen_ones.pitches
        records = args.trace or (_RECORDS if bar.disable is False else 1)
        made = generate.samples(plan, ids, records=records, report=report)
        trace[:] = [made.trace]
        return made.pitches

    with bar:
        offline.run(
            draw,
            request,
            folder,
            manifest,
            shard_index=args.shard_index or 0,
            num_shards=args.num_shards or 1,
            chains_at_once=None if args.alternatives or args.trace else max(at_once // candidates, 1),
            progress=not one_batch,
        )
        if args.trace and (not trace or trace[0].shape[1] < num_samples):  # some samples were there already
            draw(np.arange(num_samples))
    if sum(quoting):
        print(f"note: {sum(quoting)} samples quote the training music, as all of their candidates did")
    if args.trace:
        outputs.write_trace(folder, trace[0], request.given)
    if in_parts:
        number, parts = samples.num_chunks(manifest), (args.num_shards or 1) * jax.process_count()
        if number < parts:
            print(
                f"note: {number} chunks for {parts} parts, some of which have none; a smaller --chunk_size gives more"
            )
        print(f"this part of {folder} is done; when all are, --export=all writes scores")
        return
    if args.alternatives:
        again = generate.repeated(samples.load_samples(folder).pitches)
        if len(again):
            print(f"only {num_samples - len(again)} different answers were found; a higher --temperature gives more")
    if formats:
        outputs.write_scores(args, samples.load_samples(folder), formats, args.tempo)
    else:
        print(f"wrote {samples.num_chunks(manifest)} files of samples to {folder}")


def _main(args: argparse.Namespace) -> None:
    _check_numbers(args)
    if args.export is not None:
        usual = _parser()
        for name, value in vars(args).items():
            if name not in _EXPORTS and value != usual.get_default(name):
                said = f"--{name}" if value is True else f"--{name}={value}"
                raise errors.InputError(f"--export writes scores of samples that lie in --out; leave {said} out")
        formats = outputs.formats(args.formats, 0)
        if not formats:
            raise errors.InputError(f"--formats={args.formats}: the arrays are there; name score formats to export")
        if manifest := samples.read_manifest(args.out):
            chosen = exporting.parse_ids(args.export, manifest["num_samples"])
            made = samples.load_samples(args.out, ids=chosen)
        else:  # what was kept of a run, under the numbers that it had
            made = samples.load_samples(args.out)
            if args.export.strip() != "all":
                chosen = exporting.parse_ids(args.export, int(made.sample_id.max()) + 1)
                made = samples.load_samples(args.out, ids=chosen)
        outputs.write_scores(args, made, formats, args.tempo)
        return
    _sample(args)


def main(argv: Sequence[str] | None = None) -> None:
    """The command; a mistake of the user's is one line and exit code 2."""
    checkpoint.quiet()
    args = _parser().parse_args(argv)
    remedy = "give a smaller --micro_batch and another --out, or ask for fewer bars"
    with errors.exit_on_input_error(), devices.explain_lack_of_memory(remedy):
        _main(args)


if __name__ == "__main__":
    main()
