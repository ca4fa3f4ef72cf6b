"""Which generators are good, and what is wrong with a piece: the command.

`python -m coconet_jax.judge rank mine=DIR other=DIR`, `python -m coconet_jax.judge score FILE.mid`,
`python -m coconet_jax.judge keep DIR`
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
import json
import pathlib
import re
from typing import Any, Final

import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import counter, data, devices, errors, files, notation, pieces, provenance, samples, storage
from coconet_jax.judge import composers, critic, critique, distances, evaluations, ranking, selection, sets, theory

_EXAMPLES: Final = """examples:
  two sampling runs beside real music, as a table, JSON and a picture:
    python -m coconet_jax.judge rank small=chorales other=study --out=judged
  sets that are known to be worse, to see what the measures can tell:
    python -m coconet_jax.judge rank small=chorales "shuffled=test:bars shuffled" "moved=test:5 % of notes moved"
  what is right and wrong with a piece:
    python -m coconet_jax.judge score chorale.mid
  a quarter of a large run, those that may be real music the more often the surer the critic is:
    python -m coconet_jax.judge keep study --share=0.25 --out=kept"""


def _parser() -> argparse.ArgumentParser:
    parser = errors.Parser(
        prog="python -m coconet_jax.judge",
        description="Judges chorales: by music theory, by networks that tell real from generated music and composers "
        "apart, and by their distance from Bach's.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="rank | score | keep", required=True, parser_class=errors.Parser)
    rank = verbs.add_parser(
        "rank",
        help="sets of samples beside real music, in order",
        description="Sets of samples beside real music, in order, with errors and ties: distances, measures, the "
        "critic, the composer classifier.",
    )
    rank.add_argument(
        "sets",
        nargs="+",
        metavar="NAME=SOURCE",
        help="a sampling run's --out folder, an npz of it, a split (valid), or a split damaged on purpose "
        f"(test:DAMAGE, of {', '.join(sets.DAMAGES)})".replace("%", "%%"),
    )
    rank.add_argument("--reference", default="test", choices=pieces.SPLITS, help="real music (default: test)")
    rank.add_argument("--steps", type=int, default=critic.STEPS, metavar="N", help="length of a window (default: 64)")
    rank.add_argument(
        "--evaluations",
        nargs="+",
        default=[],
        metavar="FILE",
        help="what coconet_jax.evaluate or .sequence_evaluate wrote with --json: NLL of the generators, known by their "
        "sha256",
    )
    rank.add_argument("--out", default="judged", metavar="DIR", help="for scoreboard.md, .json and .png")
    rank.add_argument("--seed", type=int, default=0, metavar="N", help="of halving and drawing (default: 0)")
    score = verbs.add_parser(
        "score",
        help="one piece: measures beside Bach's, faults, the critic's map",
        description="One piece explained: its measures beside Bach's, its faults by bar and beat, and where the critic "
        "holds it least for real.",
    )
    score.add_argument("file", metavar="FILE", help="MIDI, MusicXML or npz of four voices")
    score.add_argument("--voices", metavar="LIST", help="which part is which, as in coconet_jax.sample")
    score.add_argument("--out", default="judged", metavar="DIR", help="for the picture and the numbers")
    keep = verbs.add_parser(
        "keep",
        help="the part of a set that a critic lets pass, with its variety",
        description="Discriminator rejection sampling: each sample is kept with a chance in proportion to its odds of "
        "being real, as the critic sees them. Unlike --best_of of coconet_jax.sample it does not take the likeliest "
        "alone, so that the set stays varied.",
    )
    keep.add_argument("samples", metavar="DIR", help="a sampling run's --out folder, or an npz of it")
    keep.add_argument(
        "--share", type=float, default=0.25, metavar="X", help="kept on average, above 0 to 1 (default: 0.25)"
    )
    keep.add_argument("--out", default="kept", metavar="DIR", help="for samples.npz (default: kept)")
    keep.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="with a sample's number it draws its lot (default: 0); give another to keep a part of what was kept",
    )
    for verb in (rank, score):
        verb.add_argument("--data", metavar="FILE.npz", help="chorales written by coconet_jax.chorales --export")
        verb.add_argument("--dataset", default="music21", metavar="NAME", help="instead (default: music21)")
        verb.add_argument("--data_dir", default="", metavar="DIR", help="where prepared data lie")
    for verb in (rank, score, keep):
        verb.add_argument(
            "--critic", default=critic.PATH, metavar="FILE", help="a critic (default: the one that ships)"
        )
    rank.add_argument(
        "--classifier", default=composers.SHIPPED, metavar="FILE", help="of composers (default: the one that ships)"
    )
    return parser


def _chorales(args: argparse.Namespace) -> pieces.PieceSet:
    chosen = config_lib.Data(path=args.data or "", dataset=args.dataset, data_dir=args.data_dir)
    piece_set = data.read(chosen)
    absent = [split for split in pieces.SPLITS if split not in piece_set.splits]
    if absent:
        raise errors.InputError(f"{piece_set.source} has no {absent[0]} pieces; give a set with all three splits")
    return piece_set


def _split_name(text: str) -> tuple[str, str]:
    name, separator, source = text.partition("=")
    if not (name and separator and source):
        raise errors.InputError(f"{text}: give sets as NAME=SOURCE, such as mine=chorales")
    return name, source


def _split_of(source: str) -> str:
    """The split that a SOURCE is cut from; "": it is a run."""
    split = source.partition(":")[0]
    return split if split in pieces.SPLITS and not storage.place(source).exists() else ""


_Damage = Callable[[sets.Pitches], sets.Pitches]


def _read_set(source: str, piece_set: pieces.PieceSet, steps: int, seed: int) -> tuple[sets.Windows, _Damage, str]:
    """The windows of a SOURCE, what is done to them, and the sha256 of the weights that made them ("": not known)."""
    damage = source.partition(":")[2]
    if split := _split_of(source):
        if damage and damage not in sets.DAMAGES:
            raise errors.InputError(f"{source}: {damage} is no damage; use one of {', '.join(sets.DAMAGES)}")
        bar = 4 * piece_set.steps_per_quarter
        windows = sets.cut_windows(piece_set.splits[split], steps, bar)
        if not damage:
            return windows, lambda pitches: pitches, ""

        def harm(pitches: sets.Pitches) -> sets.Pitches:
            rng = np.random.default_rng(seed)
            return (
                sets.shuffle_bars(rng, pitches, bar)
                if damage == "bars shuffled"
                else sets.DAMAGES[damage](rng, pitches)
            )

        if np.array_equal(harm(windows.pitches), windows.pitches):
            raise errors.InputError(f"{source}: --steps={steps} leaves nothing to damage; use longer windows")
        return windows, harm, ""
    made = samples.load_samples(source)
    if made.steps_per_quarter != piece_set.steps_per_quarter:
        raise errors.InputError(
            f"{source} stands on {made.steps_per_quarter} steps per quarter, the chorales on "
            f"{piece_set.steps_per_quarter}; export chorales of that grid and give them by --data"
        )
    if made.pitches.shape[1] != steps:
        raise errors.InputError(
            f"{source} has samples of {made.pitches.shape[1]} steps; give --steps={made.pitches.shape[1]}, or samples "
            f"of {steps}"
        )
    place = storage.place(source)
    manifest = samples.read_manifest(place) if place.is_dir() else None
    sha256 = (manifest or {}).get("checkpoint_sha256", "")
    return sets.from_samples(made.pitches), lambda pitches: pitches, sha256


def _rank(args: argparse.Namespace) -> None:
    if args.seed < 0:
        raise errors.InputError(f"--seed={args.seed}: use 0 or more")
    wanted = dict(_split_name(text) for text in args.sets)
    real_names = (ranking.REAL, "Bach, train", f"Bach, {args.reference}")
    if len(wanted) < len(args.sets) or set(real_names) & set(wanted):
        raise errors.InputError(f"two sets have one name, or one of real music ({'; '.join(real_names)}); give others")
    devices.use_compile_cache()
    files.check_folder(storage.place(args.out))
    evaluated, notes = evaluations.read(args.evaluations)
    piece_set = _chorales(args)
    grid = piece_set.steps_per_quarter
    contestants, harms, known = {}, {}, {}
    for name, source in wanted.items():
        contestants[name], harms[name], sha256 = _read_set(source, piece_set, args.steps, args.seed)
        known[name] = evaluated.get(sha256, {})
    reference = sets.cut_windows(piece_set.splits[args.reference], args.steps, 4 * grid)
    training = sets.cut_windows(piece_set.splits["train"], args.steps)
    judge, classifier = critic.load(args.critic), composers.load(args.classifier)
    judges = ranking.Judges(
        distances.fit_theory(training.pitches, grid),
        piece_set.splits["train"],
    )
    if grid == 4:
        judges = judges._replace(
            critic=lambda pitches: critic.judge(judge, pitches).logit,
            log_probs=lambda pitches: composers.log_probs(classifier, pitches),
            classifier_features=composers.fit_features(classifier, training.pitches),
        )
    else:
        notes = [*notes, f"the critic and the classifier know sixteenths, and judge nothing on {grid} steps a quarter"]
    cut_from = {name: _split_of(source) for name, source in wanted.items()} | {ranking.REAL: args.reference}
    with counter.counting("judging", "sets", len(contestants) + 1) as advance:
        rows = ranking.rank(
            reference,
            contestants,
            judges,
            steps_per_quarter=grid,
            known=known,
            seed=args.seed,
            harms=harms,
            of_reference=[name for name in wanted if cut_from[name] == args.reference],
            of_training=[name for name, split in cut_from.items() if split == "train"],
            advance=advance,
        )
    table = ranking.to_markdown(rows)
    lines = [
        f"{rows[0].num_windows} windows of {args.steps} steps a set, against half of {args.reference} of "
        f"{piece_set.source} (the other half is {ranking.REAL}); means ± standard errors; a set's place is one more "
        "than the number of sets that beat it.",
        "",
        *(f"- {line}" for line in (*ranking.legend(rows), *notes)),
        f"- {composers.MISLEADS}",
        "",
        "Every theory measure, mean ± standard deviation over windows:",
        "",
    ]
    real = dict(zip(real_names[1:], (training, reference), strict=True))
    measured = {name: theory.measure_pieces(made.pitches, grid) for name, made in real.items()}
    measured |= {name: theory.measure_pieces(harms[name](made.pitches), grid) for name, made in contestants.items()}
    text = table + "\n" + "\n".join(lines) + "\n" + theory.compare(measured)
    print(text, end="")
    _write_ranking(args, rows, text, judge, classifier)


def _write_ranking(
    args: argparse.Namespace,
    rows: Sequence[ranking.Row],
    text: str,
    judge: critic.Critic,
    classifier: composers.Classifier,
) -> None:
    from coconet_jax import render  # matplotlib is wanted here alone

    folder = files.make_folder(args.out)
    about = {
        "sets": ranking.to_json(rows),
        "command": provenance.command("coconet_jax.judge"),
        "commit": provenance.commit(),
        "hardware": provenance.hardware(),
        "versions": provenance.versions(),
        "critic_sha256": judge.sha256,
        "classifier_sha256": classifier.header["sha256"],
    }
    files.replace(folder / "scoreboard.md", text.encode())
    files.replace(folder / "scoreboard.json", (json.dumps(about, indent=1, allow_nan=False) + "\n").encode())
    columns: Mapping[str, Any] = {
        criterion.title: [row.values.get(name) for row in rows]
        for name, criterion in ranking.CRITERIA.items()
        if any(name in row.values for row in rows)
    }
    names = [f"{row.place}. {row.name}" for row in rows]
    real = next(label for label, row in zip(names, rows, strict=True) if row.name == ranking.REAL)
    render.write_scoreboard(folder / "scoreboard.png", names, real, columns)
    print(f"wrote scoreboard.md, .json and .png to {folder}")


def _score(args: argparse.Namespace) -> None:
    from coconet_jax import render  # matplotlib is wanted here alone

    devices.use_compile_cache()
    files.check_folder(storage.place(args.out))
    piece_set = _chorales(args)
    if piece_set.steps_per_quarter != 4:
        raise errors.InputError(
            f"{args.data} stands on {piece_set.steps_per_quarter} steps a quarter, and the critic knows 4; give others"
        )
    piece = notation.read_satb(args.file, steps_per_quarter=piece_set.steps_per_quarter, voices=args.voices)
    for remark in piece.remarks:
        print(f"note: {remark}")
    training = piece_set.splits["train"]
    findings = critique.compare(piece, training)
    faults = critique.find_faults(piece.pitches)
    verdict = critic.judge(critic.load(args.critic), piece.pitches[None])
    steps = verdict.steps[0]
    chance = 1 / (1 + np.exp(-verdict.logit[0]))
    print("\n".join(critique.text(piece, findings, faults)))
    print(
        f"\nthe critic holds it real with a chance of {chance:.0%} (log-odds {verdict.logit[0]:+.2f}, members' spread ",
        end="",
    )
    print(f"{verdict.sd[0]:.2f}); least of all")
    doubtful = critique.doubtful_bars(piece, steps)
    for bar, mean in doubtful:
        print(f"  bar {bar}: {mean:+.2f}")
    folder, stem = files.make_folder(args.out), pathlib.Path(args.file).stem
    if one := re.fullmatch(r"(.*)\.npz#(\d+)", pathlib.Path(args.file).name, re.IGNORECASE | re.DOTALL):
        stem = f"{one[1]}_{one[2]}"  # of many in a file
    report = critique.to_json(piece, findings, faults) | {
        "critic": {"log_odds": float(verdict.logit[0]), "sd": float(verdict.sd[0]), "steps": steps.tolist()}
    }
    files.replace(folder / f"{stem}_judged.json", (json.dumps(report, indent=1, allow_nan=False) + "\n").encode())
    render.write_critique(folder / f"{stem}_judged.png", piece, steps, [(fault.step, fault.voices) for fault in faults])
    print(f"wrote {folder / f'{stem}_judged.png'} and .json")


def _keep(args: argparse.Namespace) -> None:
    if args.seed < 0:
        raise errors.InputError(f"--seed={args.seed}: use 0 or more")
    if not 0 < args.share <= 1:
        raise errors.InputError(f"--share={args.share}: use a value above 0, at most 1")
    devices.use_compile_cache()
    folder = storage.place(args.out)
    files.check_folder(folder)
    if (folder / samples.MANIFEST).exists() or (folder / samples.FILE_NAME).exists():
        raise errors.InputError(f"--out={args.out} holds samples already; name another folder")
    judge, made = critic.load(args.critic), samples.load_samples(args.samples)
    if made.steps_per_quarter != 4:
        raise errors.InputError(
            f"{args.samples} stands on {made.steps_per_quarter} steps per quarter, and the critic knows 4; give others"
        )
    odds = critic.judge(judge, made.pitches).logit
    lots = [np.random.default_rng([args.seed, number]).random() for number in made.sample_id.tolist()]
    kept = selection.accept(odds, np.array(lots), args.share)
    if not kept.any():
        raise errors.InputError(f"--share={args.share}: none of {len(kept)} samples is left; use a larger share")
    chosen = made._replace(**{name: getattr(made, name)[kept] for name in ("pitches", "onset", "given", "sample_id")})
    path = samples.write_samples(files.make_folder(folder), chosen)
    print(f"kept {kept.sum()} of {len(kept)} samples: mean log-odds {odds.mean():+.2f}, now {odds[kept].mean():+.2f}")
    print(f"wrote {path}; they have the numbers that they had")


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `--help` teaches it. Bad input ends it with one line and exit code 2."""
    args = _parser().parse_args(argv)
    with errors.exit_on_input_error():
        {"rank": _rank, "score": _score, "keep": _keep}[args.verb](args)


if __name__ == "__main__":
    main()
