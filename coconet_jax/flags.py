"""The flags of the command for tasks and steering, and which go together.

Every flag is None unless given, so that one which does not go with the task can be refused by name. `requests` makes
of them what is asked for.
"""

import argparse
from typing import Final

from coconet_jax import errors, parts, pianoroll

COMPOSE_BARS: Final = 4
BRIDGE_BARS: Final = 2
SIMILARITY: Final = 0.7
KEEP_SHARE: Final = 0.5
KEY_STRENGTH: Final = 3.0
RANGE_STRENGTH: Final = 1.0
SIMILARITY_STRENGTH: Final = 5.0

_FILE_TASKS: Final = (
    "harmonize",
    "complete",
    "inpaint",
    "revoice",
    "transition",
    "hybrid",
    "variations",
    "extend",
    "upsample",
)
_REWRITES: Final = ("inpaint", "revoice", "variations", "upsample")  # whose free cells have old notes
_READING: Final = ("voices", "transpose")  # with every task that reads a score, and so with --given
# Flags that go with some tasks only.
_GOES_WITH: Final = {
    "bars": ("compose", "complete", "transition", "extend"),
    "steps": ("compose", "complete", "transition", "extend"),
    "meter": ("compose",),
    "voices": _FILE_TASKS,
    "transpose": _FILE_TASKS,
    "voice": ("harmonize",),
    "rests": ("harmonize", "complete", "inpaint", "revoice", "variations"),
    "span": ("inpaint",),
    "inpaint_voices": ("inpaint",),
    "revoice_voices": ("revoice",),
    "chunk_steps": ("hybrid", "variations"),
    "keep_share": ("hybrid",),
    "similarity": ("variations",),
    "before": ("extend",),
    "factor": ("upsample",),
    "similarity_strength": _REWRITES,
    "freedom": _REWRITES,
    "bar_freedom": _REWRITES,
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds what `from_flags` reads to a parser."""
    group = parser.add_argument_group(
        "what to write",
        "One of these; without any, a chorale from nothing. FILE is a score: .mid, .musicxml, .xml, .mxl or .npz.",
    )
    task = group.add_mutually_exclusive_group()
    for name, metavar, text in (
        (
            "harmonize",
            "FILE",
            "the other three voices to a melody, which is kept note for note (the soprano of a score)",
        ),
        ("complete", "FILE", "the gaps of a score: what is written stays, what is silent is filled"),
        ("inpaint", "FILE", "some bars of a score anew (--span)"),
        ("revoice", "FILE", "each voice of a score anew, one after another, fitted to the others"),
        (
            "transition",
            "A,B",
            f"a bridge from score A to score B (--bars, {BRIDGE_BARS} unless given, and up to half a bar more or less, "
            "so that the bar lines of B fit those of A)",
        ),
        ("hybrid", "A,B[,C]", "a chorale with passages out of each of these scores, and what joins them"),
        ("variations", "FILE", "a score changed here and there (--similarity)"),
        ("extend", "FILE", f"more bars after a score (--bars, {COMPOSE_BARS} unless given), or --before it"),
        ("upsample", "FILE", "a score of long notes livened up: the notes on the beats stay (--factor)"),
    ):
        task.add_argument(f"--{name}", metavar=metavar, help=text)

    group = parser.add_argument_group("how it is done", "Each goes with the tasks named in brackets.")
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--bars",
        type=int,
        metavar="N",
        help="bars to write (from nothing: default 4, or as many as --given has if that is more; extend, transition; "
        "complete: in all)",
    )
    length.add_argument(
        "--steps", type=int, metavar="N", help="the same in steps of the model's grid, usually sixteenths"
    )
    group.add_argument("--meter", metavar="B/U", help="(from nothing) default: that of --given, or 4/4")
    group.add_argument(
        "--voices",
        metavar="LIST",
        help="which parts of FILE are soprano, alto, tenor, bass: numbers or names, such as 1,2,3,4 (all with FILE; "
        "from nothing, of --given)",
    )
    group.add_argument(
        "--transpose",
        type=int,
        metavar="N",
        help="move the notes of FILE and --given up N semitones (down, if negative) into the model's range, "
        f"{parts.pitch_name(pianoroll.MIN_PITCH)} to {parts.pitch_name(pianoroll.MAX_PITCH)}; what is written stays "
        "there (all with FILE or --given)",
    )
    group.add_argument("--voice", metavar="NAME", help="(harmonize) which voice the melody is; default: soprano")
    group.add_argument(
        "--rests",
        metavar="HOW",
        help="the model writes no rests of its own. (harmonize) where the melody rests between its first note and its "
        "last, the others sound (default) or rest together. (complete, inpaint, revoice, variations) fill rests "
        "(default), keep those of voices that have notes, or together: keep those where no voice sounds",
    )
    group.add_argument(
        "--span",
        metavar="A-B",
        help="(inpaint) bars, such as 3-4, or one: 3; a pick-up is bar 0; bars of one length, the first meter's, as "
        "they are played: repeats are written out",
    )
    group.add_argument("--inpaint_voices", metavar="NAMES", help="(inpaint) such as alto,tenor; default: all")
    group.add_argument(
        "--revoice_voices", metavar="NAMES", help="(revoice) in this order, such as tenor,alto; default: all"
    )
    group.add_argument(
        "--similarity",
        type=float,
        metavar="X",
        help=f"(variations) share that survives, 0 (nothing) to 1 (all); default: {SIMILARITY}",
    )
    group.add_argument(
        "--keep_share", type=float, metavar="X", help=f"(hybrid) share taken from the scores; default: {KEEP_SHARE}"
    )
    group.add_argument(
        "--chunk_steps",
        type=int,
        metavar="N",
        help="(hybrid, variations) length of what is kept in one piece; default: four quarters, two in variations",
    )
    group.add_argument("--before", action="store_true", default=None, help="(extend) write what comes before the score")
    group.add_argument(
        "--factor", type=int, metavar="N", help="(upsample) 4 (default): every fourth step stays; 2: every other"
    )
    group.add_argument(
        "--given", metavar="FILE", help="(all) notes that must stand in every answer: a score, silent elsewhere"
    )
    group.add_argument(
        "--last_chord",
        metavar="NOTES",
        help='(all) the last chord, soprano to bass, such as "G4 D4 B3 G2"; C4 is middle C. Or tonic: a close on a '
        "major chord, as Bach's are, in --key, in the key of what is given, or in any",
    )
    group.add_argument(
        "--last_chord_steps",
        type=int,
        metavar="N",
        help="its length; default: two quarters, or less where the last note that is given is shorter",
    )

    group = parser.add_argument_group(
        "steering",
        "Wishes that the model weighs against what it would write. Strengths are in nats: 1 makes a note 2.7 times as "
        "likely against others, 3 twenty times, 5 a hundred and fifty times; 0 is off.",
    )
    group.add_argument("--key", metavar="KEY", help='favour the notes of a key, such as "G major" or "e minor"')
    group.add_argument(
        "--key_strength", type=float, metavar="S", help=f"against notes outside; default: {KEY_STRENGTH:g}"
    )
    group.add_argument(
        "--ranges",
        metavar="LIST",
        help='ranges of the voices, soprano to bass, such as "60-79,55-72,48-67,40-62" or "C4-G5,G3-C5,C3-G4,E2-D4"',
    )
    group.add_argument(
        "--range_strength",
        type=float,
        metavar="S",
        help=f"for each semitone outside; default: {RANGE_STRENGTH:g} with --ranges; without, those of Bach's "
        "chorales and of what is given, which no voice leaves unless a strength lets it (0: freely)",
    )
    group.add_argument(
        "--similarity_strength",
        type=float,
        metavar="S",
        help=f"favour the old note wherever one is rewritten ({', '.join(_REWRITES)})",
    )
    group.add_argument(
        "--freedom",
        metavar="LIST",
        help="how free each voice is of its old notes, soprano to bass, such as 1,1,0.5,0: 1 is free, 0 stays near "
        f"them (as --similarity_strength says, {SIMILARITY_STRENGTH:g} unless given)",
    )
    group.add_argument(
        "--bar_freedom", metavar="LIST", help="the same for each bar, such as 0,0,1,1, a pick-up included"
    )
    group.add_argument(
        "--surprise",
        metavar="LIST",
        help="factor on the temperature of each voice, such as 1,1.2,1.2,1; above 1 is bolder",
    )


def asked(args: argparse.Namespace) -> dict[str, str | int | float | bool]:
    """Those of these flags that were given, as they were written."""
    parser = argparse.ArgumentParser(add_help=False)
    add_flags(parser)
    return {name: getattr(args, name) for name in vars(parser.parse_args([])) if getattr(args, name) is not None}


def task_of(args: argparse.Namespace) -> str:
    """The task that was asked for.

    Raises:
      InputError: a flag that does not go with it.
    """
    task = next((name for name in _FILE_TASKS if getattr(args, name) is not None), "compose")
    for name, value in vars(args).items():
        if task == "compose" and args.given is not None and name in _READING:
            continue
        if value is not None and task not in _GOES_WITH.get(name, (task,)):
            said = f"--{name}" if value is True else f"--{name}={value}"
            others = " or ".join("a chorale from nothing" if t == "compose" else f"--{t}" for t in _GOES_WITH[name])
            here = "a chorale from nothing" if task == "compose" else f"--{task}"
            raise errors.InputError(f"{said} goes with {others}; with {here} leave it out")
    if args.transpose is not None and not -127 <= args.transpose <= 127:
        raise errors.InputError(f"--transpose={args.transpose}: use -127 to 127 semitones")
    for name, base in (("key_strength", "key"), ("last_chord_steps", "last_chord")):
        if getattr(args, name) is not None and getattr(args, base) is None:
            raise errors.InputError(f"--{name}={getattr(args, name)}: goes with --{base}; give that, or leave it out")
    return task
