"""Harmonisations of sopranos by several numbers of model calls, beside Bach's own and those of a wrong chorale.

  python benchmarks/harmonizing.py --data=chorales.npz --calls=97,192 --polish=2

Each soprano is harmonised once, whole, as the commands do; with --steps=128 the first of so many steps of those that
are as long. Prints a Markdown table: parallels per 100 beats with 95 % Poisson intervals; means over pieces with
standard errors of the share of triads, of the time in which alto, tenor and bass sing Bach's notes, and of F1 between
the beats where the harmony changes and those where Bach's does (the same pitch classes as on the beat before, or not);
of windows of 64 steps at bar hops the KID and the coverage on theory measures, of one half of Bach's settings from the
other and of each set from all of them (errors: jackknife over pieces), and how many take 32 steps or more from the
training music; and how much of the time voices leave the ranges that they have in the training chorales. "Voices of
another piece" puts each soprano over the lower voices of the next: what agreement comes from the style alone.
--calls=96,maskgit:32 compares samplers; with --polish=1,2 each set is shown polished too, with --measures every theory
measure of each set follows beside Bach's. Pieces are kept in --out and not drawn again.
"""

import argparse
import functools
import pathlib
from typing import NamedTuple

from jaxtyping import Bool, Float, Integer
import numpy as np
import samplers

from coconet_jax import checkpoint, config, devices, errors, files, generate, pieces, polish, score, tasks, weights
from coconet_jax.judge import beats, copies, critic, distances, ranking, rates, sets, theory, voice_leading

COLUMNS = ("By", "Model calls", "Seconds", "Pieces", "Parallel fifths", "Parallel octaves", "Triads", "Notes as Bach's")
CHANGES = "F1 of harmony changes"
OF_WINDOWS = ("KID", "Coverage", "Copied", "Out of range")


class Known(NamedTuple):
    """What sets are measured beside.

    Attributes:
      originals: Bach's settings of the sopranos.
      windows: of them, 64 steps at bar hops.
      training: where copies are looked for.
      features: the theory measures for distances.
      grid: steps a quarter.
    """

    originals: pieces.Pieces
    windows: sets.Windows
    training: pieces.Pieces
    features: distances.Features
    grid: int


def cut(split: pieces.Pieces, steps: int, most: int = 0) -> pieces.Pieces:
    """The beginnings of the first pieces, at most so many, that are at least so long; 0 steps: all of each; 0: all."""
    chosen = np.flatnonzero(split.lengths >= steps)[: most or None]
    if not len(chosen):
        raise errors.InputError(f"steps={steps}: no piece is as long; use {split.lengths.max()} or less")
    lengths = split.lengths[chosen]
    lengths = np.minimum(lengths, steps or lengths.max()).astype(np.int32)
    names = tuple(split.names[number] for number in chosen)
    return pieces.Pieces(split.pitches[chosen, : lengths.max()], lengths, names, split.transpose_room[chosen])


def with_voices_of_the_next(originals: pieces.Pieces) -> pieces.Pieces:
    """Each soprano over the lower voices of the next piece, which begin again where they are too short."""
    made, count = originals.pitches.copy(), len(originals.lengths)
    for number, length in enumerate(originals.lengths):
        after = (number + 1) % count
        lower = originals.pitches[after, : originals.lengths[after], 1:]
        made[number, :length, 1:] = np.resize(lower, (length, *lower.shape[1:]))
    return originals._replace(pitches=made)


def harmonize_each(
    originals: Integer[np.ndarray, "n t 4"], numbers: Integer[np.ndarray, " n"], *, whole: bool
) -> tasks.Request:
    """A request whose chains, of these numbers in rising order, harmonise the sopranos of these pieces."""
    blank = np.full(originals.shape[1:], -1, np.int16)
    free = np.broadcast_to(np.arange(4) != 0, blank.shape)

    def begin(seed: int, ids: np.ndarray) -> tasks.Given:
        pitches = np.where(free, -1, originals[np.searchsorted(numbers, ids)]).astype(np.int8)
        onset = np.zeros(pitches.shape, bool)
        return tasks.Given(pitches, onset, np.broadcast_to(free, pitches.shape))

    return tasks.Request(score.from_pitches(blank), free, vary=begin, ends=(True, whole))


def mark_changes(pitches: Integer[np.ndarray, "n t 4"], steps_per_quarter: int) -> Bool[np.ndarray, "n beats"]:
    """True at each beat after the first whose pitch classes, as a set, are not those of the beat before."""
    on_beats = pitches[:, ::steps_per_quarter]
    classes = np.bitwise_or.reduce(np.where(on_beats < 0, 0, 1 << (on_beats.astype(int) % 12)), axis=2)
    return classes[:, 1:] != classes[:, :-1]


def f1_of_changes(made: pieces.Pieces, originals: pieces.Pieces, steps_per_quarter: int) -> Float[np.ndarray, " n"]:
    """F1 of the beats where the harmony changes against the original's, for each piece; nan where neither changes."""
    inside = beats.mark_valid(originals.pitches, originals.lengths)[:, ::steps_per_quarter][:, 1:]
    found, true = (inside & mark_changes(each.pitches, steps_per_quarter) for each in (made, originals))
    both, either = (found & true).sum(axis=1), found.sum(axis=1) + true.sum(axis=1)
    return np.where(either > 0, 2 * both / np.maximum(either, 1), np.nan)


def sampler_of(text: str) -> tuple[str, config.Sample]:
    """A title and the settings for 96 (calls of annealed Gibbs) or maskgit:32.

    Raises:
      InputError: it is neither.
    """
    name, _, calls = text.rpartition(":")
    if not calls.isdecimal() or int(calls) < 2 or name not in ("", "maskgit"):
        raise errors.InputError(f"--calls={text}: use numbers of calls from 2 on, such as 96, or maskgit:32")
    if name:
        return "MaskGIT", config.usual_sample("maskgit", num_steps=int(calls))
    return "annealed Gibbs", config.usual_sample(num_steps=int(calls) - 1)


def harmonize_all(
    judge: polish.Judge,
    loaded: weights.Loaded,
    originals: pieces.Pieces,
    chosen: config.Sample,
    all_sweeps: list[int],
    stem: pathlib.Path,
    *,
    whole: bool,
) -> dict[int, tuple[pieces.Pieces, float, str]]:
    """Harmonisations as they are drawn (0) and polished by so many sweeps, with their seconds and model calls.

    Args:
      judge: for the polish.
      loaded: the network.
      originals: whose sopranos are given.
      chosen: settings of the sampler.
      all_sweeps: of polishing, 1 or more.
      stem: beginning of the names of the files that keep them, some for each length of a piece.
      whole: whether the pieces end where they end.

    Raises:
      InputError: the files hold harmonisations of other sopranos.
    """
    made = {sweeps: originals.pitches.copy() for sweeps in (0, *all_sweeps)}
    seconds, calls = dict.fromkeys(made, 0.0), dict[int, str]()
    for length in np.unique(originals.lengths):  # all that are as long in one batch
        numbers = np.flatnonzero(originals.lengths == length)
        sopranos = originals.pitches[numbers, :length]
        request = harmonize_each(sopranos, numbers, whole=whole)
        plan = generate.plan(loaded, request, len(numbers), chosen)
        path = stem.with_name(f"{stem.name}_{length}_{len(numbers)}")
        found = {0: samplers.kept(path.with_name(f"{path.name}.npz"), functools.partial(draw, plan, numbers))}
        for sweeps in all_sweeps:
            again = functools.partial(polish.polish, judge, plan, found[0][0], numbers, sweeps)
            found[sweeps] = samplers.kept(path.with_name(f"{path.name}_{sweeps}.npz"), again)
        for sweeps, (pitches, took) in found.items():
            if not np.array_equal(pitches[..., 0], sopranos[..., 0]):
                raise errors.InputError(f"{path}*.npz hold other sopranos; remove them, or give another --out")
            made[sweeps][numbers, :length] = pitches
            seconds[sweeps] += took
            more = polish.num_calls(request.free, sweeps)
            calls[sweeps] = f"{generate.num_calls(plan)}{f' + up to {more}' * bool(more)}"  # of the longest at last
        print(f"{len(numbers)} of {length} steps", flush=True)
    return {n: (originals._replace(pitches=pitches), seconds[n], calls[n]) for n, pitches in made.items()}


def draw(plan: generate.Plan, numbers: Integer[np.ndarray, " n"]) -> Integer[np.ndarray, "n t 4"]:
    """Pitches of the chains of these numbers."""
    return generate.samples(plan, numbers).pitches


def describe(
    name: str,
    made: pieces.Pieces,
    known: Known,
    seconds: float | None = None,
    calls: str = "-",
    halves: tuple[sets.Windows, sets.Windows] | None = None,
) -> str:
    """One row of the table; the distances are those of the set's windows from Bach's, or between two halves."""
    bach, grid = known.originals, known.grid
    valid = beats.mark_valid(made.pitches, made.lengths)
    row = [name, calls, "-" if seconds is None else f"{seconds:.0f}", str(len(made.lengths))]
    for count in (theory.count_parallel_fifths, theory.count_parallel_octaves):
        rate = rates.rate_per_100_beats(count(made.pitches), grid, valid)
        row.append(f"{rate.rate:.2f} [{rate.low:.2f}, {rate.high:.2f}]")
    same = ((made.pitches == bach.pitches)[..., 1:].mean(axis=2) * valid).sum(axis=1) / valid.sum(axis=1)
    for values in (theory.triad_share(made.pitches, grid, made.lengths), same, f1_of_changes(made, bach, grid)):
        row.append("{:.3f} ± {:.3f}".format(*rates.average(values)))
    windows = sets.cut_windows(made, critic.STEPS, 4 * grid)
    far = distances.between(*(halves or (known.windows, windows)), known.features)
    row += ["{:.2f} ± {:.2f}".format(*far[key]) for key in ("kid", "coverage")]
    copied = copies.longest_run(windows.pitches, known.training) >= grid * ranking.COPIED_BEATS
    outside = voice_leading.out_of_range_share(beats.prepare(made.pitches, grid, made.lengths))
    row.append(f"{100 * copied.mean():.1f} %")
    row.append("{:.2f} ± {:.2f} %".format(*(100 * part for part in rates.average(outside))))
    return "| " + " | ".join(row) + " |"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", default=weights.DEFAULT, help=weights.HELP)
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--split", default="valid", choices=("valid", "test"), help="whose sopranos (default: valid)")
    parser.add_argument("--steps", type=int, default=0, help="length, such as 128 = 8 bars of 16ths (default: whole)")
    parser.add_argument("--pieces", type=int, default=0, help="at most so many pieces (default: all)")
    parser.add_argument(
        "--calls", default="97", help="model calls, maskgit:32 for another sampler, with commas (default: 97)"
    )
    parser.add_argument("--polish", default="0", help="sweeps of redraws under the critic's eye (default: 0)")
    parser.add_argument("--measures", action="store_true", help="also all theory measures of each set")
    parser.add_argument("--out", default="runs/harmonizing", help="folder of the sets (default: runs/harmonizing)")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.use_compile_cache()
    devices.split_cpu(devices.num_cores())
    with errors.exit_on_input_error():
        if not all(number.isdecimal() for number in args.polish.split(",")):
            raise errors.InputError(f"--polish={args.polish}: use numbers of sweeps, such as 2 or 2,3")
        if args.steps and args.steps < critic.STEPS:
            raise errors.InputError(
                f"--steps={args.steps}: windows of {critic.STEPS} are measured; use as many or more"
            )
        all_sweeps = sorted({int(number) for number in args.polish.split(",")} - {0})
        named = {word: sampler_of(word) for word in args.calls.split(",")}
        loaded, piece_set = checkpoint.load(args.checkpoint), pieces.read_npz(args.data)
        training, judging, grid = piece_set.splits["train"], critic.load(), piece_set.steps_per_quarter
        originals = cut(piece_set.splits[args.split], args.steps, args.pieces)
        features = distances.fit_theory(sets.cut_windows(training, critic.STEPS).pitches, grid)
        windows = sets.cut_windows(originals, critic.STEPS, 4 * grid)
        known = Known(originals, windows, training, features, grid)
        folder = pathlib.Path(str(files.make_folder(args.out)))
        wrong = with_voices_of_the_next(originals)
        all_sets = {"Bach": originals, "voices of another piece": wrong}
        rows = [
            describe("Bach", originals, known, halves=sets.halve(np.random.default_rng(0), windows)),
            describe("voices of another piece", wrong, known),
        ]
        print("\n".join(rows), flush=True)
        for word, (title, chosen) in named.items():
            stem = f"{loaded.sha256[:8]}_{judging.sha256[:8]}_{args.split}_{args.steps}_{word.replace(':', '_')}"
            found = harmonize_all(
                polish.judge_with(judging), loaded, originals, chosen, all_sweeps, folder / stem, whole=not args.steps
            )
            for sweeps, (made, seconds, calls) in found.items():
                name = f"the same, polished, sweeps: {sweeps}" if sweeps else title
                all_sets[f"{name}, {word}"] = made
                rows.append(describe(name, made, known, seconds, calls))
                print(rows[-1], flush=True)
    titles = (*COLUMNS, CHANGES, *OF_WINDOWS)
    how = f"the first {args.steps} steps" if args.steps else "whole"
    print(f"\nstep {loaded.step} (sha256 {loaded.sha256[:8]}), critic {judging.sha256[:8]}, {args.split}, {how}")
    print("| " + " | ".join(titles) + " |\n|" + " --- |" * len(titles))
    print("\n".join(rows))
    if args.measures:
        measured = {name: theory.measure_pieces(each.pitches, grid, each.lengths) for name, each in all_sets.items()}
        print("\n" + theory.compare(measured), end="")


if __name__ == "__main__":
    main()
