"""What one piece does well and badly: each measure beside Bach's range, and the bars that break a rule."""

from collections.abc import Iterator, Sequence
import itertools
from typing import Any, Final, NamedTuple

from jaxtyping import Float, Integer
import numpy as np

from coconet_jax import bars, errors, pianoroll, pieces, score
from coconet_jax.judge import beats, harmony, sets, theory, voice_leading

LOW, HIGH = 5, 95  # percentiles of Bach's range
_FEWEST: Final = 30  # windows that a range needs


class Finding(NamedTuple):
    """A measure of the piece beside Bach's.

    Attributes:
      name: of theory.MEASURES or COPY_MEASURES.
      value: of the piece; nan where it does not have it.
      low: what 5 % of Bach's windows are below.
      middle: Bach's median.
      high: what 5 % of them are above.
    """

    name: str
    value: float
    low: float
    middle: float
    high: float

    @property
    def outside(self) -> bool:
        """Whether the piece lies outside Bach's range; to copy less than his own pieces do is no fault."""
        return (self.value < self.low and self.name not in theory.COPY_MEASURES) or self.value > self.high


class Fault(NamedTuple):
    """A place where a rule is broken."""

    step: int
    voices: tuple[int, ...]
    text: str


def compare(piece: score.Score, training: pieces.Pieces) -> list[Finding]:
    """Every measure of a piece beside its range over windows of the training music as long as the piece.

    Where that has too few windows of that length, whole pieces are compared. Copies are looked for in it too; those of
    its own windows in its other pieces.

    Args:
      piece: of four voices.
      training: pieces of the piece's grid.

    Raises:
      InputError: the piece is shorter than a beat, or has not four voices.
    """
    grid = piece.steps_per_quarter
    pitches = bars.check_score(piece).pitches[None].astype(np.int16)
    if pitches.shape[1] < grid:
        raise errors.InputError(f"{piece.title or 'the piece'} has {pitches.shape[1]} steps; give a beat or more")
    ours = theory.measure_pieces(pitches, grid) | theory.measure_copies(pitches, training)
    theirs = _measure_real(training, pitches.shape[1], grid)
    found = []
    for name, values in ours.items():
        known = theirs.get(name, np.zeros(0))
        known = known[~np.isnan(known)]
        low, middle, high = np.percentile(known, (LOW, 50, HIGH)) if len(known) else (np.nan,) * 3
        found.append(Finding(name, float(values[0]), float(low), float(middle), float(high)))
    return found


def _measure_real(real: pieces.Pieces, num_steps: int, grid: int) -> dict[str, Float[np.ndarray, " n"]]:
    if (real.lengths >= num_steps).sum() < _FEWEST:
        own = np.arange(len(real.lengths))
        return theory.measure_pieces(real.pitches, grid, real.lengths) | theory.measure_copies(
            real.pitches, real, real.lengths, own
        )
    windows = sets.cut_windows(real, num_steps)
    return theory.measure_pieces(windows.pitches, grid) | theory.measure_copies(
        windows.pitches, real, own=windows.groups
    )


def find_faults(pitches: Integer[np.ndarray, "t 4"]) -> list[Fault]:
    """Places where voices break a rule of part-writing, in order; a fault that lasts is named where it begins."""
    found = [*_parallels(pitches), *_directs(pitches), *_crossings(pitches), *_wide(pitches), *_outside(pitches)]
    leaps = harmony.mark_dissonances_by_leap(pitches[None])[0]
    for step in np.flatnonzero(leaps.any(axis=1)).tolist():
        found.append(Fault(step, tuple(np.flatnonzero(leaps[step]).tolist()), "a dissonance reached by leap"))
    return sorted(found)


def _parallels(pitches: Integer[np.ndarray, "t 4"]) -> Iterator[Fault]:
    for one, other in itertools.combinations(range(pianoroll.NUM_VOICES), 2):
        alone = np.full_like(pitches, pianoroll.REST)
        alone[:, [one, other]] = pitches[:, [one, other]]
        for text, count in (
            ("parallel fifths", voice_leading.count_parallel_fifths),
            ("parallel octaves", voice_leading.count_parallel_octaves),
        ):
            for step in np.flatnonzero(count(alone[None])[0]).tolist():
                yield Fault(step, (one, other), text)


def _directs(pitches: Integer[np.ndarray, "t 4"]) -> Iterator[Fault]:
    for text, count in (
        ("direct fifths", voice_leading.count_direct_fifths),
        ("direct octaves", voice_leading.count_direct_octaves),
    ):
        for step in np.flatnonzero(count(pitches[None])[0]).tolist():
            yield Fault(step, (beats.SOPRANO, beats.BASS), text)


def _begins(marks: np.ndarray) -> list[int]:
    return np.flatnonzero(marks & ~np.concatenate([[False], marks[:-1]])).tolist()


def _crossings(pitches: Integer[np.ndarray, "t 4"]) -> Iterator[Fault]:
    for upper in range(pianoroll.NUM_VOICES - 1):
        pair = pitches[:, upper : upper + 2]
        crossed = (pair != pianoroll.REST).all(axis=1) & (pair[:, 0] < pair[:, 1])
        for step in _begins(crossed):
            yield Fault(step, (upper, upper + 1), "voices cross")


def _wide(pitches: Integer[np.ndarray, "t 4"]) -> Iterator[Fault]:
    for upper in (0, 1):
        pair = pitches[:, upper : upper + 2]
        wide = (pair != pianoroll.REST).all(axis=1) & (np.abs(pair[:, 0] - pair[:, 1]) > 12)
        for step in _begins(wide):
            yield Fault(step, (upper, upper + 1), "more than an octave apart")


def _outside(pitches: Integer[np.ndarray, "t 4"]) -> Iterator[Fault]:
    for voice, (low, high) in enumerate(pianoroll.VOICE_RANGES):
        line = pitches[:, voice]
        outside = (line != pianoroll.REST) & ((line < low) | (line > high))
        for step in _begins(outside):
            yield Fault(step, (voice,), "outside the voice's range")


def place(piece: score.Score, step: int) -> tuple[int, float]:
    """Bar and beat of a step; the pick-up is bar 0."""
    beat = 4 * piece.steps_per_quarter / piece.meter[1]
    return bars.number_of(piece, step), round(1 + (step - piece.pickup_steps) % (beat * piece.meter[0]) / beat, 3)


def doubtful_bars(piece: score.Score, steps: Float[np.ndarray, " t"], most: int = 3) -> list[tuple[int, float]]:
    """The bars that the critic holds least likely to be real: number and mean of its steps, the worst first."""
    numbers = np.array([bars.number_of(piece, step) for step in range(len(steps))])
    means = [(int(number), float(steps[numbers == number].mean())) for number in np.unique(numbers)]
    return sorted(means, key=lambda bar: bar[1])[:most]


# --- what is printed


def _format(name: str, value: float) -> str:
    if np.isnan(value):
        return "-"
    unit = (theory.MEASURES | theory.COPY_MEASURES)[name].unit
    return f"{100 * value:.1f} %" if unit == theory.SHARE else f"{value:.2f}"


def text(piece: score.Score, findings: Sequence[Finding], faults: Sequence[Fault]) -> Iterator[str]:
    """Findings and faults for the terminal; measures outside Bach's range have a mark."""
    definitions = theory.MEASURES | theory.COPY_MEASURES
    width = max(len(finding.name) for finding in findings)
    yield f"  {'measure':<{width}} {'piece':>9} {'Bach, 5 %':>10} {'median':>9} {'95 %':>9}  what"
    for finding in findings:
        cells = [_format(finding.name, part) for part in finding[1:]]
        unit, what = definitions[finding.name]
        mark = "!" if finding.outside else " "
        yield f"{mark} {finding.name:<{width}} {cells[0]:>9} {cells[1]:>10} {cells[2]:>9} {cells[3]:>9}  {what}" + (
            "" if unit == theory.SHARE else f" ({unit})"
        )
    outside = sum(finding.outside for finding in findings)
    yield f"{outside} of {len(findings)} measures lie outside the middle 90 % of Bach's windows (!)"
    yield ""
    yield f"{len(faults)} places break a rule of part-writing" + (":" if faults else "")
    for fault in faults:
        bar, beat = place(piece, fault.step)
        voices = " and ".join(pianoroll.VOICES[voice] for voice in fault.voices)
        yield f"  bar {bar} beat {beat:g}: {fault.text}" + (f", {voices}" if voices else "")


def to_json(piece: score.Score, findings: Sequence[Finding], faults: Sequence[Fault]) -> dict[str, Any]:
    """The same as JSON has it; what a piece or Bach does not have is null."""

    def number(value: float) -> float | None:
        return None if np.isnan(value) else value

    return {
        "measures": {
            f.name: {
                "value": number(f.value),
                "bach_5": number(f.low),
                "bach_median": number(f.middle),
                "bach_95": number(f.high),
                "outside": f.outside,
            }
            for f in findings
        },
        "faults": [
            dict(
                zip(("bar", "beat"), place(piece, fault.step), strict=True),
                step=fault.step,
                voices=[pianoroll.VOICES[voice] for voice in fault.voices],
                what=fault.text,
            )
            for fault in faults
        ],
    }
