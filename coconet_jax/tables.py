"""What the evaluation command prints: tables of a report, and the row that docs/results.md collects."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from coconet_jax import estimates, pianoroll

_AVERAGES: Final = {
    "one_ordering": "one ordering",
    "unit_ensemble": "ensemble per {unit}",
    "piece_ensemble": "ensemble per piece",
}
RESULTS_HEADER: Final = (
    "| checkpoint | data | frames | framewise released: ensemble per frame | one ordering | ensemble per piece "
    "| notewise: random | chronological (x 4) | voice by voice | hardware, seconds | commit, command |"
)


def header(report: Mapping[str, Any]) -> Iterator[str]:
    """What is evaluated and how, before the work."""
    yield (
        f"step {report['step']} of {report['checkpoint']} (sha256 {report['sha256'][:8]}, "
        f"{report['num_parameters']:,} parameters), trained on {report['trained_on']}"
    )
    yield (
        f"{report['data']}: {report['n_frames']} of {report['n_frames_of']} frames of "
        f"{_count(report['n_pieces'], 'piece')}, {_count(report['steps_per_quarter'], 'step')} per quarter; "
        f"{_count(report['n_orderings'], 'ordering')}, seed {report['seed']}, {report['dtype']}, {report['hardware']}"
    )


def text(report: Mapping[str, Any]) -> Iterator[str]:
    """All numbers of a report for the terminal."""
    measures = report["measures"]
    whole = report["n_frames"] == report["n_frames_of"]
    yield from _rows("all pieces", measures, whole)
    clean = {name: entry["without_leaks"] for name, entry in measures.items() if "without_leaks" in entry}
    if clean:
        yield from _rows("without pieces of which train has a near copy", clean, whole)
    yield ""
    if estimates.PUBLISHED[0] in measures:
        yield "* as the paper's 0.57 +- 0.01 was computed (test, sixteenths, 5 orderings); it is no joint likelihood"
    yield "the chain rule along one ordering, or its ensemble per piece, is a likelihood in the strict sense"
    if not whole:
        yield "+ of few frames a piece, and too low as a rule: an ordering that suits a few frames is found more easily"
        yield "  than one that suits a piece; --full gives the true value"
    yield f"rests: {report['rest_cells']} of {report['cells']} cells cost nothing, as in the released code"
    yield f"{report['seconds']} s on {report['made_on']}, earlier commands that this one went on with included"


def _rows(what: str, measures: Mapping[str, Any], whole: bool) -> Iterator[str]:
    first = next(iter(measures.values()))
    counts = [_count(first["n_frames"], "frame"), _count(first["n_pieces"], "piece")]
    yield ""
    yield f"nats, {what}: {', '.join([*counts, _count(first['n_orderings'], 'ordering')])}"
    yield f"{'':<36}{'mean':>9}{'SEM frames':>12}{'over pieces':>13}{'SEM pieces':>12}{'per frame':>11}"
    for name, entry in measures.items():
        unit = estimates.MEASURES[name].unit
        yield f"{estimates.MEASURES[name].title} [{name}]"
        for average, title in _AVERAGES.items():
            mark = "*" if (name, average) == estimates.PUBLISHED else ""
            mark = "+" if average == "piece_ensemble" and not whole else mark
            yield _row(f"  {title.format(unit=unit)}", mark, unit, entry[average])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _row(title: str, mark: str, unit: str, values: Mapping[str, Any]) -> str:
    columns = [
        f"{'-' if values[key] is None else format(values[key], '.4f'):>{width}}"
        for key, width in (("mean", 9), ("sem", 12), ("mean_pieces", 13), ("sem_pieces", 12))
    ]
    per_frame = f"{pianoroll.NUM_VOICES * values['mean']:>11.4f}" if unit == "note" else ""
    return f"{title:<34}{mark:<2}{''.join(columns)}{per_frame}"


def markdown(report: Mapping[str, Any]) -> str:
    """A row for docs/results.md, under RESULTS_HEADER."""
    found = report["measures"]

    def cell(name: str, average: str, scale: int = 1) -> str:
        if name not in found:
            return "-"
        values = found[name][average]
        error = values["sem"] if values["sem"] is not None else values["sem_pieces"]
        more = f" ({scale * values['mean']:.3f})" if scale != 1 else ""
        return f"{values['mean']:.3f}" + ("" if error is None else f" ± {error:.3f}") + more

    cells = [
        f"{report['checkpoint']}, step {report['step']} ({report['sha256'][:8]}), "
        f"{report['num_parameters']:,} parameters",
        report["data"],
        f"{report['n_frames']} of {report['n_frames_of']}",
        cell("framewise_released", "unit_ensemble"),
        cell("framewise_released", "one_ordering"),
        cell("framewise_released", "piece_ensemble"),
        cell("notewise_random", "one_ordering"),
        cell("notewise_chronological", "one_ordering", 4),
        cell("notewise_voices", "one_ordering"),
        f"{report['made_on']}, {report['seconds']:.0f} s",
        f"{report['commit']}, `{report['command']}`",
    ]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def surprises(notes: Sequence[Mapping[str, Any]], most: int = 8) -> Iterator[str]:
    """The notes of a score that surprise the model most."""
    yield ""
    yield "the notes that surprise the model most, all others given:"
    for note in sorted(notes, key=lambda note: note["log_prob"])[:most]:
        expected = f"; it expects {note['likeliest']} ({note['likeliest_prob']:.0%})"
        other = expected if note["likeliest"] != note["name"] else ""
        yield (
            f"  bar {note['bar']} beat {note['beat']:g}, {note['voice']} {note['name']}: {-note['log_prob']:.2f} nats"
            f" ({note['prob_of_pitch']:.1%}){other}"
        )
