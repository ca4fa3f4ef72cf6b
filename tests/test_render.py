"""PNGs: the same bytes every time, colours where the notes are, no global state of matplotlib touched."""

import sys

import numpy as np
import pytest

from coconet_jax import render, score

image = pytest.importorskip("matplotlib.image")


def _piece():
    pitches = np.repeat(np.array([[72, 67, 64, 48], [71, 67, 62, 43]], np.int16), 16, axis=0)
    return score.from_pitches(pitches, title="Two chords")


def _share(path, colour):
    """Share of pixels within a little of an RGB colour."""
    pixels = (image.imread(path)[..., :3] * 255).round().astype(int)
    return (np.abs(pixels - np.array(colour)).max(axis=-1) <= 8).mean()


def test_pianoroll_has_each_voice_and_repeats_its_bytes(tmp_path):
    render.write_pianoroll(tmp_path / "a.png", _piece())
    render.write_pianoroll(tmp_path / "b.png", _piece())
    data = (tmp_path / "a.png").read_bytes()
    assert data == (tmp_path / "b.png").read_bytes()
    assert b"Software" not in data
    for colour in ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167)):
        assert _share(tmp_path / "a.png", colour) > 0.01


def test_missing_voice_has_no_notes(tmp_path):
    piece = _piece()
    piece.pitches[:, 3] = -1
    render.write_pianoroll(tmp_path / "a.png", piece)
    assert _share(tmp_path / "a.png", (204, 121, 167)) < 0.003  # the legend only


def test_given_cells_are_hatched(tmp_path):
    given = np.zeros((32, 4), bool)
    given[:, 0] = True
    render.write_pianoroll(tmp_path / "plain.png", _piece())
    render.write_pianoroll(tmp_path / "given.png", _piece(), given=given)
    # The edges alone leave the blue inside the notes whole; the legend has it too.
    blue = (0, 114, 178)
    assert _share(tmp_path / "given.png", blue) < 0.9 * _share(tmp_path / "plain.png", blue)


def test_long_scores_and_odd_ones_are_drawn(tmp_path):
    long = score.from_pitches(np.full((20000, 1), 60, np.int16))
    silent = score.from_pitches(np.full((5, 4), -1, np.int16), pickup_steps=2, meter=(3, 8))
    for piece in (long, silent):
        render.write_pianoroll(tmp_path / "a.png", piece)
        assert image.imread(tmp_path / "a.png").shape[1] <= 4000


def test_loss_curve_has_both_lines_and_repeats_its_bytes(tmp_path):
    metrics = [{"step": step, "loss": 3.8 - step / 100} for step in range(1, 200)]
    metrics += [{"step": step, "valid_nll": 3.5 - step / 100} for step in range(50, 200, 50)]
    metrics.append({"step": 200, "loss": float("nan")})
    render.write_loss_curve(tmp_path / "a.png", metrics)
    render.write_loss_curve(tmp_path / "b.png", metrics)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    both = [_share(tmp_path / "a.png", colour) for colour in ((0, 114, 178), (213, 94, 0))]
    assert min(both) > 0.0005
    render.write_loss_curve(tmp_path / "c.png", metrics[:199])
    assert _share(tmp_path / "c.png", (213, 94, 0)) == 0


def test_empty_metrics_are_drawn(tmp_path):
    render.write_loss_curve(tmp_path / "a.png", [])
    assert image.imread(tmp_path / "a.png").shape[0] > 100


def test_pyplot_is_not_loaded(tmp_path):
    before = "matplotlib.pyplot" in sys.modules
    render.write_pianoroll(tmp_path / "a.png", _piece())
    assert ("matplotlib.pyplot" in sys.modules) == before


def test_surprising_notes_are_darker_and_a_dot_shows_what_was_expected(tmp_path):
    piece = _piece()

    def notes(log_prob: float, likeliest: int) -> list[score.NoteSurprise]:
        return [score.NoteSurprise(0, 0, 16, 72, log_prob, 0.5, likeliest, 0.9)]

    render.write_surprise(tmp_path / "calm.png", piece, notes(-0.01, 72))
    render.write_surprise(tmp_path / "again.png", piece, notes(-0.01, 72))
    render.write_surprise(tmp_path / "dark.png", piece, notes(-9.0, 69))
    assert (tmp_path / "calm.png").read_bytes() == (tmp_path / "again.png").read_bytes()
    darkest, palest = (128, 0, 38), (255, 255, 204)  # ends of YlOrRd; the colour bar has a little of both
    assert _share(tmp_path / "dark.png", darkest) > _share(tmp_path / "calm.png", darkest) + 0.01
    assert _share(tmp_path / "calm.png", palest) > _share(tmp_path / "dark.png", palest) + 0.01
    blue = (0, 114, 178)  # of the dots; the legend has one
    assert _share(tmp_path / "dark.png", blue) > _share(tmp_path / "calm.png", blue) > 0


def test_a_score_without_notes_has_a_picture_of_its_surprise_too(tmp_path):
    silent = score.from_pitches(np.full((5, 4), -1, np.int16), meter=(3, 8))
    render.write_surprise(tmp_path / "a.png", silent, [])
    assert image.imread(tmp_path / "a.png").shape[1] > 100


def test_of_many_stages_some_are_drawn(tmp_path):
    piece = score.from_pitches(np.full((8, 4), 60))
    stages = np.full((2 * render.MAX_STRIPS, 8, 4), 60)
    heights = []
    for count in (render.MAX_STRIPS, 2 * render.MAX_STRIPS):
        render.write_trace(tmp_path / f"{count}.png", stages[:count], piece)
        heights.append(image.imread(tmp_path / f"{count}.png").shape[0])
    assert heights[0] == heights[1]
