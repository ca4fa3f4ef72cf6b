"""Trains the composer classifier, tests it on held-out works, and shows what the musical Inception score is worth.

  python -m coconet_jax.work_windows --export=composers.npz          once: reads the scores inside music21
  python benchmarks/composers.py --data=composers.npz --train=classifier.npz
  python benchmarks/composers.py --data=composers.npz --chorales=chorales.npz --png=confusion.png --json=composers.json

The second command trains (minutes on 2 cores), the third tests: the classifier that comes with the package, or that of
--classifier. Tables are Markdown.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
import json
import shlex
import sys
import time
from typing import Any

import numpy as np

from coconet_jax import counter, devices, errors, files, pianoroll, pieces, provenance, render, work_windows, works
from coconet_jax.judge import composers, fit, network, sets

WINDOW_HOP = 16
NARROW = 35
_BINS = 20


def train(args: argparse.Namespace, windows: dict[str, work_windows.Windows]) -> None:
    """Writes a classifier, and says how it went and how long it took."""
    settings = fit.Settings(
        num_members=args.num_members,
        learning_rate=args.learning_rate,
        num_steps=args.num_steps,
        eval_every=args.eval_every,
        crop_steps=args.crop_steps,
        seed=args.seed,
    )
    begun = time.perf_counter()
    with counter.counting("training", "updates", settings.num_steps) as advance:

        def report(step: int, numbers: dict[str, float]) -> None:
            advance(settings.eval_every)
            print(f"{step}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()), flush=True)

        found = composers.train(windows, args.train, settings, report=report)
    seconds = time.perf_counter() - begun
    print(
        f"wrote {args.train}: {settings.num_members} networks of "
        f"{network.num_params(found.params) // settings.num_members:,} parameters, kept at updates "
        f"{found.header['steps']}, temperature {found.temperature:.2f}; {seconds:.0f} s on {provenance.hardware()}"
    )


def cues(windows: work_windows.Windows, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One number of each window that should not tell composers, after the random transposition of training."""
    low, high = windows.room.T.astype(int)
    pitches = windows.pitches + rng.integers(low, high + 1)[:, None, None]
    changes = np.diff(pitches, axis=1) != 0
    together = changes.all(axis=2).sum(axis=1) / np.maximum(changes.any(axis=2).sum(axis=1), 1)
    return {
        "mean pitch": pitches.mean(axis=(1, 2)),
        "span of pitches": np.ptp(windows.pitches, axis=(1, 2)).astype(float),
        "changes of pitch": changes.sum(axis=(1, 2)).astype(float),
        "first change": changes.any(axis=2).argmax(axis=1).astype(float),
        "cells that were rests": windows.filled,
        "changes of all voices at once": together,
    }


def cue_rows(windows: dict[str, work_windows.Windows]) -> Iterator[dict[str, Any]]:
    """Balanced accuracy on test of the best guess from each number alone: of the class densest in its bin of train."""
    rng = np.random.default_rng(0)
    every = {split: composers.of_classes(windows[split]) for split in ("train", "test")}
    ways = {
        "every": {split: (part, composers.balanced(part.family)) for split, part in every.items()},
        "fair": {split: composers.fair(part) for split, part in every.items()},
    }
    rows: dict[str, dict[str, Any]] = {}
    for way, given in ways.items():
        found = {split: cues(part, rng) for split, (part, _) in given.items()}
        for name, values in found["train"].items():
            edges = np.unique(np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1]))
            density = np.zeros((len(edges) + 1, len(composers.CLASSES)))
            np.add.at(density, (np.searchsorted(edges, values), given["train"][0].family), given["train"][1])
            guesses = density[np.searchsorted(edges, found["test"][name])].argmax(axis=1)
            part, weights = given["test"]
            rows.setdefault(name, {"cue": name})[way] = float(np.average(guesses == part.family, weights=weights))
    yield from rows.values()


def confusion_by_composer(classifier: composers.Classifier, windows: work_windows.Windows) -> np.ndarray:
    """Windows of each of works.COMPOSERS by the class they are taken for."""
    guesses = composers.log_probs(classifier, windows.pitches).argmax(axis=1)
    counts = np.zeros((len(works.COMPOSERS), len(composers.CLASSES)), int)
    np.add.at(counts, (windows.composer, guesses), 1)
    return counts


def chorale_windows(path: str, split: str) -> sets.Windows:
    """Windows of the chorales at every bar in which all voices sound."""
    found = sets.cut_windows(pieces.read_npz(path).splits[split], works.WINDOW, WINDOW_HOP)
    sounds = (found.pitches != pianoroll.REST).all(axis=(1, 2))
    return sets.Windows(found.pitches[sounds], found.groups[sounds])


def score_row(name: str, classifier: composers.Classifier, pitches: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """A set's scores, as a row."""
    found = composers.score(composers.log_probs(classifier, pitches), groups)
    return {
        "set": name,
        "n": f"{found.num_windows} / {found.num_groups}",
        "inception": f"{found.inception.value:.3f} ± {found.inception.error:.3f}",
        "log_p_bach": f"{found.log_p_bach.value:.2f} ± {found.log_p_bach.error:.2f}",
        **{label: f"{share:.1%}" for label, share in zip(composers.CLASSES, found.shares, strict=True)},
    }


def score_rows(
    classifier: composers.Classifier, test: work_windows.Windows, chorales: sets.Windows
) -> Iterator[dict[str, Any]]:
    """Real music, then Bach damaged more and more, then what is nobody's."""
    rng = np.random.default_rng(0)
    known = composers.of_classes(test)
    _, groups = np.unique(known.work, return_inverse=True)
    fewest = min(np.bincount(known.family))
    even = np.concatenate(
        [rng.permutation(np.flatnonzero(known.family == label))[:fewest] for label in range(len(composers.CLASSES))]
    )
    yield score_row("all three, held out, as many of each", classifier, known.pitches[even], groups[even])
    yield score_row("Bach, test chorales", classifier, *chorales)
    for label in ("palestrina", "quartets"):
        rows = known.family == composers.CLASSES.index(label)
        yield score_row(f"{label}, held out", classifier, known.pitches[rows], groups[rows])
    others = test.take(test.family >= len(composers.CLASSES))
    for place in np.unique(others.composer):
        rows = others.composer == place
        _, groups = np.unique(others.score[rows], return_inverse=True)
        yield score_row(f"{works.COMPOSERS[place]}, never trained on", classifier, others.pitches[rows], groups)
    for name, damage in sets.DAMAGES.items():
        yield score_row(f"Bach, {name}", classifier, damage(rng, chorales.pitches), chorales.groups)


def report_row(name: str, report: composers.Report) -> dict[str, str]:
    """An evaluation, as a row."""
    accuracies = [f"{each.value:.1%} ± {each.error:.1%}" for each in (report.accuracy, report.work_accuracy)]
    return {
        "windows of": name,
        "n": str(report.confusion.sum()),
        **{
            f"{label} found": f"{row[k] / row.sum():.1%}"
            for k, (label, row) in enumerate(zip(composers.CLASSES, report.confusion, strict=True))
        },
        "balanced accuracy": accuracies[0],
        "by work": accuracies[1],
        "NLL, nats": f"{report.nll_nats:.3f} (was {report.raw_nll_nats:.3f})",
        "ECE": f"{report.ece:.3f} (was {report.raw_ece:.3f})",
        "Brier": f"{report.brier:.3f} (was {report.raw_brier:.3f})",
    }


def table(rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> None:
    """Prints Markdown."""
    print("| " + " | ".join(titles.values()) + " |\n|" + " --- |" * len(titles))
    for row in rows:
        cells = (f"{value:.3f}" if isinstance(value, float) else str(value) for value in (row[key] for key in titles))
        print("| " + " | ".join(cells) + " |")


def test(args: argparse.Namespace, windows: dict[str, work_windows.Windows]) -> None:
    """Prints all tables, and saves what is asked for."""
    classifier = composers.load(args.classifier)
    print(f"classifier: {classifier.header['settings']}")
    print(f"temperature {classifier.temperature:.3f}, kept at updates {classifier.header['steps']}")

    print("\nworks / scores / windows\n")
    tally = [dict(zip(("composer", *windows), row, strict=True)) for row in work_windows.describe(windows)]
    table(tally, {"composer": "composer", **{split: split for split in windows}})

    print("\nbalanced accuracy on test of one number alone (chance 0.333)\n")
    cue_table = list(cue_rows(windows))
    table(cue_table, {"cue": "cue", "every": "every window", "fair": "as drawn in training"})

    strict = {split: part.take(part.filled == 0) for split, part in windows.items()}
    by = np.random.default_rng(0).integers(strict["test"].room[:, 0], strict["test"].room[:, 1] + 1)
    moved = strict["test"]._replace(pitches=(strict["test"].pitches + by[:, None, None]).astype(np.int8))
    narrow = strict["test"].take(np.ptp(strict["test"].pitches.astype(int), axis=(1, 2)) < NARROW)
    reports = {
        "valid": composers.evaluate(classifier, strict["valid"]),
        "test": composers.evaluate(classifier, strict["test"]),
        "test, transposed at random": composers.evaluate(classifier, moved),
        f"test, spans below {NARROW} semitones": composers.evaluate(classifier, narrow),
        "test, with filled rests too": composers.evaluate(classifier, windows["test"]),
    }
    print("\nheld-out works\n")
    accuracy = [report_row(name, report) for name, report in reports.items()]
    table(accuracy, {key: key for key in accuracy[0]})

    counts = confusion_by_composer(classifier, strict["test"])
    labels = [f"{name} ({total})" for name, total in zip(works.COMPOSERS, counts.sum(axis=1), strict=True)]
    print("\ntest windows, by composer\n")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [
        {"is by": label, **{c: f"{v:.1%}" for c, v in zip(composers.CLASSES, row, strict=True)}}
        for label, row in zip(labels, shares, strict=True)
    ]
    table(rows, {key: key for key in rows[0]})
    if args.png:
        title = f"test windows of held-out works, {reports['test'].accuracy.value:.1%} balanced"
        render.write_confusion(args.png, counts, works.COMPOSERS, composers.CLASSES, title)
        print(f"\nwrote {args.png}")

    found = []
    if args.chorales:
        print(f"\nmusical Inception score; n: windows / independent pieces. {composers.MISLEADS}\n")
        found = list(score_rows(classifier, strict["test"], chorale_windows(args.chorales, "test")))
        titles = {"set": "set", "n": "n", "inception": "Inception score", "log_p_bach": "mean log p(Bach), nats"}
        table(found, {**titles, **{label: f"p({label})" for label in composers.CLASSES}})
    if args.json:
        numbers = {name: {**r._asdict(), "confusion": r.confusion.tolist()} for name, r in reports.items()}
        result = {
            "command": shlex.join(["python", *sys.argv]),
            "commit": provenance.commit(),
            "hardware": provenance.hardware(),
            "versions": provenance.versions(),
            "classifier": classifier.header,
            "works": tally,
            "cues": cue_table,
            "reports": numbers,
            "by_composer": counts.tolist(),
            "scores": found,
        }
        files.replace(args.json, (json.dumps(result, indent=1) + "\n").encode())
        print(f"\nwrote {args.json}")


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="windows of works, from coconet_jax.work_windows")
    parser.add_argument("--train", metavar="FILE", help="train a classifier and write it here; nothing is tested")
    parser.add_argument("--learning_rate", type=float, default=1e-3, help="at its highest (default: %(default)s)")
    parser.add_argument("--num_members", type=int, default=2, help="networks (default: %(default)s)")
    parser.add_argument("--num_steps", type=int, default=400, help="updates of each (default: %(default)s)")
    parser.add_argument(
        "--eval_every", type=int, default=25, help="updates between looks at valid (default: %(default)s)"
    )
    parser.add_argument(
        "--crop_steps", type=int, default=0, help="steps of a window that an update sees (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of training (default: %(default)s)")
    parser.add_argument("--classifier", metavar="FILE", help="test this one (default: the package's)")
    parser.add_argument("--chorales", metavar="FILE", help="exported chorales, for the Inception score")
    parser.add_argument("--png", metavar="FILE", help="write the confusion matrix")
    parser.add_argument("--json", metavar="FILE", help="write all numbers")
    args = parser.parse_args()
    with errors.exit_on_input_error():
        devices.use_compile_cache()
        windows = work_windows.read_npz(args.data)
        (train if args.train else test)(args, windows)


if __name__ == "__main__":
    main()
