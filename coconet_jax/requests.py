"""From the flags of the command, and the score files they name, to a request and its steering."""

import argparse
import dataclasses
import functools
import re

from coconet_jax import bars, blends, constraints, errors, flags, notation, parts, pianoroll, score, steering, tasks


def from_flags(args: argparse.Namespace, steps_per_quarter: int) -> tuple[tasks.Request, steering.Steering]:
    """The request and the steering that flags ask for, on a grid; reads the scores they name.

    Raises:
      InputError: flags that do not go together, values out of range, files that cannot be read.
    """
    task = flags.task_of(args)
    notes = None
    if args.given is not None:
        notes = notation.read_partial(
            args.given,
            steps_per_quarter=steps_per_quarter,
            voices=args.voices if task == "compose" else None,
            transpose=args.transpose or 0,
        )
        notes = bars.without_last_rests(notes)
    request = _request(args, task, steps_per_quarter, notes)
    if notes is not None:
        request = constraints.with_notes(request, notes)
    if args.last_chord is not None and args.last_chord.strip().lower() == "tonic":
        tonic = None if args.key is None else steering.parse_key(args.key)[0]
        request = constraints.with_close(request, tonic=tonic, steps=args.last_chord_steps)
    elif args.last_chord is not None:
        chord = [parse_pitch("--last_chord", word) for word in re.split(r"[\s,]+", args.last_chord.strip())]
        request = constraints.with_last_chord(request, chord, args.last_chord_steps)
    return request, _steering(args, request)


def _request(args: argparse.Namespace, task: str, grid: int, notes: score.Score | None) -> tasks.Request:
    def read(path: str) -> score.Score:
        piece = notation.read_partial(path, steps_per_quarter=grid, voices=args.voices, transpose=args.transpose or 0)
        # Empty bars at the end are there to be filled, by the one task that fills.
        return piece if task == "complete" else bars.without_last_rests(piece)

    def length(meter: tuple[int, int], usual: int) -> int:
        if args.steps is not None:
            return bars.check_length("--steps", args.steps)
        return bars.to_steps("--bars", usual if args.bars is None else args.bars, meter, grid)

    if task == "compose":
        usual = (4, 4) if notes is None else notes.meter
        meter = usual if args.meter is None else parse_meter(args.meter, grid)
        pickup = notes.pickup_steps if notes is not None and notes.meter == meter else 0
        written = 0 if notes is None else len(notes.pitches) - pickup
        bar = score.bar_steps(meter, grid)
        usual_bars = max(flags.COMPOSE_BARS, -(-written // bar) if bar else 0)
        steps = length(meter, usual_bars) + (pickup if args.steps is None else 0)
        return tasks.compose(steps, meter=meter, steps_per_quarter=grid, pickup_steps=pickup)
    if task == "harmonize":
        return _harmonize(args, grid)
    if task == "hybrid":
        pieces = [read(path) for path in _paths("hybrid", args.hybrid)]
        keep_share = flags.KEEP_SHARE if args.keep_share is None else args.keep_share
        return blends.hybrid(pieces, keep_share=keep_share, chunk_steps=args.chunk_steps)
    if task == "transition":
        paths = _paths("transition", args.transition)
        if len(paths) != 2:
            raise errors.InputError(f"--transition={args.transition}: give two files, as in --transition=a.mid,b.mid")
        first, second = (read(path) for path in paths)
        bars.check_alike((first, second))  # before a length in bars of either
        return tasks.transition(first, second, length(first.meter, flags.BRIDGE_BARS))
    if task == "inpaint":
        first_bar, last_bar = _parse_span(args.span)
        voices = tasks.ALL_VOICES if args.inpaint_voices is None else _voices("inpaint_voices", args.inpaint_voices)
    elif task == "revoice":
        voices = tasks.ALL_VOICES if args.revoice_voices is None else _voices("revoice_voices", args.revoice_voices)
    piece = read(getattr(args, task))
    rests = args.rests or "fill"
    if task == "complete":
        asked = args.bars is not None or args.steps is not None
        pickup = piece.pickup_steps if args.bars is not None else 0
        return tasks.complete(piece, rests=rests, steps=pickup + length(piece.meter, 1) if asked else None)
    if task == "inpaint":
        begin, end = bars.span(piece, first_bar, last_bar)
        return tasks.inpaint(piece, begin, end, voices=voices, rests=rests)
    if task == "revoice":
        return tasks.revoice(piece, voices, rests=rests)
    if task == "variations":
        similarity = flags.SIMILARITY if args.similarity is None else args.similarity
        return blends.variations(piece, similarity, chunk_steps=args.chunk_steps, rests=rests)
    if task == "extend":
        return tasks.extend(piece, length(piece.meter, flags.COMPOSE_BARS), before=bool(args.before))
    return tasks.upsample(piece, 4 if args.factor is None else args.factor)


def _harmonize(args: argparse.Namespace, grid: int) -> tasks.Request:
    (voice,) = (0,) if args.voice is None else _voices("voice", args.voice)
    rests, how = args.rests or "sound", {"voices": args.voices, "transpose": args.transpose or 0}
    if voice == 0:
        melody = notation.read_melody(args.harmonize, steps_per_quarter=grid, **how)
        return tasks.harmonize(melody, rests=rests)
    piece = notation.read_partial(args.harmonize, steps_per_quarter=grid, **how)
    piece = bars.without_last_rests(piece, to_bar_line=True)  # as readers of melodies do
    written = [v for v in tasks.ALL_VOICES if (piece.pitches[:, v] != pianoroll.REST).any()]
    if len(written) == 1:  # a melody alone is the voice asked for, whatever the reader took it for
        piece = dataclasses.replace(piece, pitches=piece.pitches[:, written], onset=piece.onset[:, written])
    return tasks.harmonize(piece, voice, rests=rests)


def _steering(args: argparse.Namespace, request: tasks.Request) -> steering.Steering:
    given, steps = request.given, len(request.free)
    if args.ranges is not None:
        strength = _or(args.range_strength, flags.RANGE_STRENGTH)
        wishes = [steering.ranges(steps, _parse_ranges(args.ranges), strength)]
    elif args.range_strength is not None:
        wishes = [steering.ranges(steps, pianoroll.VOICE_RANGES, args.range_strength)]
    else:
        wishes = [steering.usual(steps, *tasks.known_pitches(request))]
    if args.key is not None:
        wishes.append(steering.key(steps, args.key, _or(args.key_strength, flags.KEY_STRENGTH)))
    if args.freedom is not None or args.bar_freedom is not None or args.similarity_strength is not None:
        wishes.append(
            steering.freedom(
                given,
                _or(args.similarity_strength, flags.SIMILARITY_STRENGTH),
                by_voice=(0.0, 0.0, 0.0, 0.0) if args.freedom is None else _numbers("freedom", args.freedom),
                by_bar=None if args.bar_freedom is None else _numbers("bar_freedom", args.bar_freedom),
            )
        )
    if args.surprise is not None:
        wishes.append(steering.surprise(steps, _numbers("surprise", args.surprise)))
    return functools.reduce(steering.combine, wishes, steering.neutral(steps))


def _or(value: float | None, usual: float) -> float:
    return usual if value is None else value


# ---------------------------------------------------------------------------------------------- words


def parse_pitch(flag: str, word: str) -> int:
    """A MIDI number from a name such as "G4", "F#3", "Bb3" (C4 = 60) or from the number itself."""
    if re.fullmatch(r"\d{1,3}", word):
        return int(word)
    found = re.fullmatch(r"([A-Ga-g])(#|b)?(-?\d)", word)
    if found is None:
        raise errors.InputError(f"{flag}: {word!r} is no pitch; use names such as G4, F#3 or Bb3, or MIDI numbers")
    letter, sign, octave = found.groups()
    return parts.SEMITONES[letter.upper()] + {"#": 1, "b": -1}.get(sign, 0) + 12 * (int(octave) + 1)


def parse_meter(text: str, steps_per_quarter: int) -> tuple[int, int]:
    """Beats and beat unit of "3/4", if such a bar is a whole number of steps."""
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


def _parse_span(text: str | None) -> tuple[int, int]:
    if text is None:
        raise errors.InputError("--inpaint needs --span; name the bars to rewrite, as in --span=3-4")
    found = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", text)
    if found is None:
        raise errors.InputError(f"--span={text}: use bars such as 3-4, or one bar: 3")
    return int(found[1]), int(found[2] or found[1])


def _parse_ranges(text: str) -> list[tuple[int, int]]:
    limits = []
    for entry in text.split(","):
        words = entry.strip().split("-")
        if len(words) != 2:
            raise errors.InputError(f"--ranges={text}: use four of lowest-highest, such as 60-79,55-72,48-67,40-62")
        low, high = (parse_pitch(f"--ranges={text}", word.strip()) for word in words)
        limits.append((low, high))
    return limits


def _voices(flag: str, text: str) -> tuple[int, ...]:
    names = [name.strip().lower() for name in text.split(",")]
    if len(set(names)) < len(names) or not set(names) <= set(pianoroll.VOICES) or (flag == "voice" and len(names) > 1):
        many = "one" if flag == "voice" else "one or more, each once,"
        raise errors.InputError(f"--{flag}={text}: name {many} of {','.join(pianoroll.VOICES)}")
    return tuple(pianoroll.VOICES.index(name) for name in names)


def _numbers(flag: str, text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise errors.InputError(f"--{flag}={text}: use numbers with commas between them, such as 1,1,0.5,0") from None


def _paths(flag: str, text: str) -> list[str]:
    paths = [path.strip() for path in text.split(",")]
    if len(paths) < 2 or not all(paths):
        raise errors.InputError(f"--{flag}={text}: give files with a comma between them, as in --{flag}=a.mid,b.mid")
    return paths
