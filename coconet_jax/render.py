"""Every PNG: pianorolls and curves. matplotlib is imported inside the functions and its global state left alone."""

from collections.abc import Mapping, Sequence
import io
import math
from typing import Any, Final

from jaxtyping import Bool, Float, Integer
import numpy as np

from coconet_jax import files, parts, pianoroll, score, storage

DPI: Final = 100
MAX_STRIPS: Final = 40  # of a trace: beyond, laying them out takes minutes
# Okabe and Ito's palette, told apart by colour-blind readers; blue next to orange, as neighbours in the score.
_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
_INK: Final = "#222222"
_BLACK_KEYS: Final = (1, 3, 6, 8, 10)
_FAR: Final = 20  # times the median at which a column of the scoreboard turns logarithmic
_SURPRISED: Final = 8.0  # nats at which the colour is darkest


def write_pianoroll(path: storage.Named, piece: score.Score, *, given: Bool[np.ndarray, "t i"] | None = None) -> None:
    """Draws a score: bars across, pitches up, one colour for each voice, a rectangle for each note.

    Args:
      path: the PNG.
      piece: T steps of I voices.
      given: cells the user gave rather than the sampler; they are hatched with a dark edge.

    Raises:
      InputError: the folder cannot be written.
    """
    from matplotlib import patches

    bars = len(piece.pitches) / _bar_length(piece)
    figure, axes = _figure(min(max(7.0, 2.2 + 1.0 * bars), 40.0), 5.0)
    sounding = piece.pitches[piece.pitches != pianoroll.REST]
    low, high = (int(sounding.min()) - 2, int(sounding.max()) + 2) if sounding.size else (58, 74)
    names = parts.voice_names(piece.pitches.shape[1])
    handles = []
    for voice, name in enumerate(names):
        colour = _COLOURS[voice % len(_COLOURS)]
        handles.append(patches.Patch(facecolor=colour, edgecolor="none", label=name))
        for start, end, pitch in parts.merge_cells(piece.pitches[:, voice], piece.onset[:, voice]):
            for first, last, is_given in _runs(given, voice, start, end):
                box = patches.Rectangle(
                    (first, pitch - 0.42),
                    last - first,
                    0.84,
                    facecolor=colour,
                    edgecolor=_INK if is_given else "white",
                    hatch="////" if is_given else None,
                    linewidth=0.8,
                    zorder=3 - 0.1 * voice,
                )
                axes.add_patch(box)
    if given is not None:
        handles.append(patches.Patch(facecolor="white", edgecolor=_INK, hatch="////", label="given"))
    _frame(axes, piece, low, high)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    _save(figure, path)


def _bar_length(piece: score.Score) -> float:
    """Steps of a bar, which need not be whole."""
    return 4 * piece.meter[0] * piece.steps_per_quarter / piece.meter[1]


def _frame(axes: Any, piece: score.Score, low: int, high: int) -> None:
    """Bars across and pitches up, the rows of black keys shaded, around the notes of a score."""
    steps = max(len(piece.pitches), 1)
    for pitch in range(low, high + 1):
        if pitch % 12 in _BLACK_KEYS:
            axes.axhspan(pitch - 0.5, pitch + 0.5, color="#F3F3F3", linewidth=0, zorder=0)
    _bar_grid(axes, piece, steps, _bar_length(piece))
    axes.set_xlim(0, steps)
    axes.set_ylim(low - 0.5, high + 0.5)
    ticks = [pitch for pitch in range(low, high + 1) if pitch % 12 in (0, 4, 7)]
    axes.set_yticks(ticks, [parts.pitch_name(pitch) for pitch in ticks])
    axes.set_xlabel(f"bar ({piece.meter[0]}/{piece.meter[1]})")
    axes.set_ylabel("pitch")
    axes.set_title(piece.title or " ", loc="left", color=_INK)


def _runs(given: np.ndarray | None, voice: int, start: int, end: int) -> list[tuple[int, int, bool]]:
    """A note from start to end as stretches (start, end, given)."""
    if given is None:
        return [(start, end, False)]
    cells = given[start:end, voice]
    cuts = [0, *(np.flatnonzero(np.diff(cells)) + 1).tolist(), len(cells)]
    return [(start + a, start + b, bool(cells[a])) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def _bar_grid(axes: Any, piece: score.Score, steps: int, bar: float) -> None:
    """Bar lines with their numbers, and a finer line on each beat; the pick-up is bar 0."""
    pickup = piece.pickup_steps
    beat = 4 * piece.steps_per_quarter / piece.meter[1]
    number_of_bars = math.ceil((steps - pickup) / bar)
    beats = [pickup + index * beat for index in range(-int(pickup // beat), math.ceil((steps - pickup) / beat))]
    lines = [pickup + index * bar for index in range(number_of_bars + 1)]
    across = axes.get_xaxis_transform()  # steps along x, the whole height along y
    if number_of_bars <= 64:  # in a longer piece the beats would be a grey wash
        axes.vlines(beats, 0, 1, color="#DDDDDD", linewidth=0.6, zorder=1, transform=across)
    axes.vlines(lines, 0, 1, color="#888888", linewidth=1.0, zorder=1.5, transform=across)
    every = max(1, math.ceil(number_of_bars / 32))
    ticks = [(line, str(index + 1)) for index, line in enumerate(lines) if index % every == 0 and line < steps]
    if pickup:
        ticks.insert(0, (0, "0"))
    axes.set_xticks([tick for tick, _ in ticks], [label for _, label in ticks])


def write_loss_curve(path: storage.Named, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Draws training loss and validation NLL, both nats per variable, against the training step.

    Args:
      path: the PNG.
      metrics: dicts with `step` and optionally `loss` and `valid_nll`, in any order.

    Raises:
      InputError: the folder cannot be written.
    """
    figure, axes = _figure(8.0, 4.5)
    uniform = math.log(pianoroll.NUM_PITCHES)
    axes.axhline(uniform, color="#888888", linestyle="--", linewidth=1.0)
    axes.annotate(
        f"uniform ({uniform:.2f})", (1.0, uniform), (-4, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", va="bottom", color="#555555", fontsize=9,
    )  # fmt: skip
    top = uniform
    for field, label, style in (
        ("loss", "training loss", {"color": _COLOURS[0], "linewidth": 0.9}),
        ("valid_nll", "validation NLL", {"color": _COLOURS[5], "linewidth": 2.2, "marker": "o", "markersize": 5}),
    ):
        points = sorted((row["step"], float(row[field])) for row in metrics if row.get(field) is not None)
        points = [point for point in points if math.isfinite(point[1])]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, **style)
            top = max(top, np.percentile([value for _, value in points], 98))
    axes.set_ylim(0, 1.12 * top)
    axes.set_xlabel("training step")
    axes.set_ylabel("nats per variable")
    axes.grid(color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(loc="outside lower center", ncols=2, frameon=False)
    _save(figure, path)


def write_surprise(path: storage.Named, piece: score.Score, notes: Sequence[score.NoteSurprise]) -> None:
    """Draws a score with each note in the colour of its surprise, -log p in nats given all other notes.

    Notes of which the model would rather write another pitch have a dark edge; a dot is at that pitch.

    Args:
      path: the PNG.
      piece: for bars and title.
      notes: from `surprise.find`.

    Raises:
      InputError: the folder cannot be written.
    """
    import matplotlib
    from matplotlib import cm, colors, lines, patches

    bars = len(piece.pitches) / _bar_length(piece)
    figure, axes = _figure(min(max(8.0, 2.5 + 1.0 * bars), 40.0), 5.5)
    norm = colors.Normalize(0.0, _SURPRISED, clip=True)
    shades = matplotlib.colormaps["YlOrRd"]
    shown = [note.pitch for note in notes] + [note.likeliest for note in notes]
    low, high = (min(shown) - 2, max(shown) + 2) if shown else (58, 74)
    for note in sorted(notes, key=lambda note: -note.log_prob):  # of voices in unison the more surprising is on top
        other = note.likeliest != note.pitch
        box = patches.Rectangle(
            (note.start, note.pitch - 0.42), note.end - note.start, 0.84,
            facecolor=shades(norm(-note.log_prob)), edgecolor=_INK if other else "#999999",
            linewidth=1.2 if other else 0.5, zorder=3,
        )  # fmt: skip
        axes.add_patch(box)
        if other:
            axes.plot(note.start + 0.5, note.likeliest, "o", color=_COLOURS[0], markersize=3, zorder=4)
    _frame(axes, piece, low, high)
    figure.colorbar(
        cm.ScalarMappable(norm, shades),
        ax=axes,
        label="surprise: -log p(note | all others), nats",
        extend="max",
        pad=0.01,
    )
    dot = lines.Line2D(
        [], [], marker="o", color=_COLOURS[0], markersize=4, linestyle="none", label="what the model expects"
    )
    edge = patches.Patch(facecolor="white", edgecolor=_INK, label="it expects another pitch")
    figure.legend(handles=[edge, dot], loc="outside lower center", ncols=2, frameon=False)
    _save(figure, path)


def write_trace(path: storage.Named, stages: Integer[np.ndarray, "r t i"], piece: score.Score) -> None:
    """Draws how a score came about: a strip for each stage, first to last, with the colours of the voices.

    Args:
      path: the PNG.
      stages: MIDI pitches after each stage, -1 where nothing is written yet. Of more than MAX_STRIPS so many are drawn.
      piece: for meter and title.

    Raises:
      InputError: the folder cannot be written.
    """
    from matplotlib import colors
    from matplotlib import figure as figures
    from matplotlib.backends import backend_agg

    sounding = stages[stages != pianoroll.REST]
    low, high = (int(sounding.min()) - 1, int(sounding.max()) + 1) if sounding.size else (59, 73)
    steps = stages.shape[1]
    drawn = np.unique(np.linspace(0, len(stages) - 1, min(len(stages), MAX_STRIPS)).round().astype(int))
    size = (min(max(7.0, steps / 12), 40.0), 0.6 + 1.1 * len(drawn))
    figure = figures.Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
    backend_agg.FigureCanvasAgg(figure)
    bar = _bar_length(piece)
    for number, axes in zip(drawn, figure.subplots(len(drawn), 1, squeeze=False)[:, 0], strict=True):
        pitches = stages[number]
        picture = np.ones((high - low + 1, steps, 3))
        for voice in reversed(range(pitches.shape[1])):
            times = np.flatnonzero(pitches[:, voice] != pianoroll.REST)
            picture[pitches[times, voice] - low, times] = colors.to_rgb(_COLOURS[voice % len(_COLOURS)])
        axes.imshow(picture, origin="lower", aspect="auto", interpolation="nearest", extent=(0, steps, low, high + 1))
        lines = np.arange(piece.pickup_steps, steps, bar)
        axes.vlines(lines, low, high + 1, color="#888888", linewidth=0.6)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_ylabel(f"{number + 1}/{len(stages)}", rotation=0, ha="right", va="center")
    _save(figure, path)


def write_critique(
    path: storage.Named,
    piece: score.Score,
    steps: Float[np.ndarray, " t"],
    faults: Sequence[tuple[int, tuple[int, ...]]],
) -> None:
    """Draws a score under the critic's map, with a ring around each note that breaks a rule.

    Args:
      path: the PNG.
      piece: of four voices.
      steps: log-odds of real against generated that each step gives; drawn are means of beats.
      faults: steps and the voices concerned; none: all of them.

    Raises:
      InputError: the folder cannot be written.
    """
    from matplotlib import lines, patches

    figure, (above, axes) = _two_figures(min(max(8.0, 2.5 + len(piece.pitches) / _bar_length(piece)), 40.0))
    sounding = piece.pitches[piece.pitches != pianoroll.REST]
    low, high = (int(sounding.min()) - 2, int(sounding.max()) + 2) if sounding.size else (58, 74)
    handles: list[Any] = []
    for voice, name in enumerate(parts.voice_names(piece.pitches.shape[1])):
        colour = _COLOURS[voice % len(_COLOURS)]
        handles.append(patches.Patch(facecolor=colour, edgecolor="none", label=name))
        for start, end, pitch in parts.merge_cells(piece.pitches[:, voice], piece.onset[:, voice]):
            box = patches.Rectangle(
                (start, pitch - 0.42), end - start, 0.84, facecolor=colour, edgecolor="white", zorder=3 - 0.1 * voice
            )
            axes.add_patch(box)
    for step, voices in faults:
        for voice in voices or range(piece.pitches.shape[1]):
            if piece.pitches[step, voice] != pianoroll.REST:
                axes.plot(
                    step + 0.5, piece.pitches[step, voice], "o", mfc="none", mec=_COLOURS[5], ms=11, mew=2, zorder=5
                )
    handles.append(
        lines.Line2D([], [], marker="o", mfc="none", mec=_COLOURS[5], mew=2, linestyle="none", label="breaks a rule")
    )
    _frame(axes, piece, low, high)
    axes.set_title(" ", loc="left")
    # The maximum of a feature lends single steps high spikes; a beat is what one hears.
    beat = max(4 * piece.steps_per_quarter // piece.meter[1], 1)
    edges = np.unique([0, *range(piece.pickup_steps % beat, len(steps), beat), len(steps)])
    means = np.add.reduceat(steps, edges[:-1]) / np.diff(edges)
    colours = np.where(means < 0, _COLOURS[5], _COLOURS[0])
    above.bar(edges[:-1], means, width=np.diff(edges), align="edge", color=colours)
    above.axhline(0.0, color="#888888", linewidth=0.8)
    above.set_xlim(*axes.get_xlim())
    above.set_xticks([])
    above.set_ylabel("critic:\nreal > 0")
    above.set_title(piece.title or " ", loc="left", color=_INK)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    _save(figure, path)


def write_scoreboard(
    path: storage.Named, names: Sequence[str], real: str, columns: Mapping[str, Sequence[tuple[float, float] | None]]
) -> None:
    """Draws a scoreboard: a panel for each column, a row for each set, means with two standard errors.

    Args:
      path: the PNG.
      names: of the sets, first at the top.
      real: the name of real music, whose value is a line through each panel.
      columns: by title the mean and error of each set; None where it is not known. A column in which one set lies far
        from the others is linear as far as most of them lie and logarithmic beyond.

    Raises:
      InputError: the folder cannot be written.
    """
    from matplotlib import figure as figures
    from matplotlib import ticker
    from matplotlib.backends import backend_agg

    size = (2.6 + 1.9 * len(columns), 1.3 + 0.34 * len(names))
    figure = figures.Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
    backend_agg.FigureCanvasAgg(figure)
    rows = np.arange(len(names))[::-1]
    for axes, (title, values) in zip(
        figure.subplots(1, len(columns), sharey=True, squeeze=False)[0], columns.items(), strict=True
    ):
        for row, name, value in zip(rows, names, values, strict=True):
            if value is None:
                continue
            mean, error = value
            colour = _COLOURS[2] if name == real else _COLOURS[0]
            if name == real:
                axes.axvline(mean, color=colour, linewidth=0.8, zorder=1)
            axes.errorbar(mean, row, xerr=0.0 if math.isnan(error) else 2 * error, fmt="o", ms=5, color=colour)
        sizes = np.abs([value[0] for value in values if value is not None])
        if sizes.max(initial=0.0) > _FAR * np.median(sizes) > 0:  # one far away would press the others together
            near = 2 * np.median(sizes)
            axes.set_xscale("symlog", linthresh=near)
            powers = 10.0 ** np.arange(math.ceil(math.log10(near)), math.floor(math.log10(sizes.max())) + 1)
            axes.xaxis.set_major_locator(ticker.FixedLocator(sorted({0.0, *powers, *-powers})))
        axes.set_title(title, fontsize=10, color=_INK)
        axes.set_yticks(rows, names)
        axes.grid(color="#EEEEEE")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def _two_figures(width: float) -> tuple[Any, tuple[Any, Any]]:
    """A figure with narrow axes above the main ones."""
    from matplotlib import figure as figures
    from matplotlib.backends import backend_agg

    figure = figures.Figure(figsize=(width, 6.5), dpi=DPI, layout="constrained", facecolor="white")
    backend_agg.FigureCanvasAgg(figure)
    above, axes = figure.subplots(2, 1, height_ratios=(1, 4))
    for one in (above, axes):
        one.spines[["top", "right"]].set_visible(False)
    return figure, (above, axes)


def write_confusion(
    path: storage.Named,
    counts: Integer[np.ndarray, "r k"],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str = "",
) -> None:
    """Draws a table of counts, shaded by their shares of each row.

    Args:
      path: the PNG.
      counts: how many of each row's were taken for each column's.
      rows: what they are.
      columns: what they were taken for.
      title: above it.

    Raises:
      InputError: the folder cannot be written.
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    figure, axes = _figure(3.0 + 1.2 * len(columns), 1.6 + 0.62 * len(rows))
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto")
    for row, column in np.ndindex(*counts.shape):
        share = shares[row, column]
        axes.text(
            column, row, f"{share:.1%}\n{counts[row, column]}", ha="center", va="center", fontsize=9,
            color="white" if share > 0.55 else _INK,
        )  # fmt: skip
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("taken for")
    axes.set_ylabel("is by")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(title, loc="left", color=_INK, fontsize=10)
    _save(figure, path)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure of this many inches outside pyplot, so that nothing global is set, and its only axes."""
    from matplotlib import figure as figures
    from matplotlib.backends import backend_agg

    figure = figures.Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")
    backend_agg.FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: storage.Named) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    files.replace(path, buffer.getvalue(), durable=False)
