"""One piece judged: its measures beside real music's range, the places that break a rule, the bars in doubt."""

import json

import numpy as np
import pytest

from coconet_jax import errors, pieces, render, score
from coconet_jax.judge import critique, theory

CHORDS = {
    "C": (72, 67, 64, 48),
    "G": (74, 67, 59, 55),
    "F": (69, 65, 60, 53),
}


def piece_of(*chords, steps=4):
    return score.from_pitches(np.repeat(np.array(chords), steps, axis=0))


def faults(*chords):
    return [(fault.step, fault.voices, fault.text) for fault in critique.find_faults(piece_of(*chords).pitches)]


@pytest.mark.parametrize(
    ("chords", "found"),
    [
        pytest.param([(72, 67, 64, 48), (72, 67, 64, 48)], [], id="nothing moves"),
        pytest.param(
            [(72, 64, 55, 48), (74, 66, 57, 50)],
            [(4, (0, 3), "parallel octaves"), (4, (2, 3), "parallel fifths")],
            id="all in parallel",
        ),
        pytest.param([(67, 64, 60, 50), (76, 64, 60, 57)], [(4, (0, 3), "direct fifths")], id="direct fifth"),
        pytest.param([(67, 64, 60, 52), (72, 64, 60, 60)], [(4, (0, 3), "direct octaves")], id="direct octave"),
        pytest.param([(67, 64, 60, 48), (67, 60, 64, 48)], [(4, (1, 2), "voices cross")], id="crossing"),
        pytest.param([(79, 65, 60, 48)], [(0, (0, 1), "more than an octave apart")], id="wide from the start"),
        pytest.param([(72, 67, 60, 37)], [], id="a deep bass"),
        pytest.param([(59, 57, 55, 48)], [(0, (0,), "outside the voice's range")], id="soprano too low"),
    ],
)
def test_faults_are_named_with_their_voices(chords, found):
    named = faults(*chords)
    assert [fault for fault in named if fault[2] != "a dissonance reached by leap"] == found


def test_a_leap_into_a_dissonance_is_a_fault():
    assert (4, (3,), "a dissonance reached by leap") in faults((72, 67, 64, 48), (72, 67, 64, 53))


def test_bars_and_beats_are_those_of_the_score():
    piece = score.from_pitches(np.repeat([CHORDS["C"]], 40, axis=0), meter=(3, 4), pickup_steps=4)
    assert critique.place(piece, 0) == (0, 3) and critique.place(piece, 4) == (1, 1)
    assert critique.place(piece, 18) == (2, 1.5)
    doubts = critique.doubtful_bars(piece, np.where(np.arange(40) < 16, 1.0, -1.0), most=2)
    assert doubts == [(2, -1.0), (3, -1.0)]


@pytest.fixture
def real():
    rng = np.random.default_rng(0)
    choices = np.array(list(CHORDS.values()))
    return pieces.from_arrays(
        [np.repeat(choices[rng.integers(0, 3, 16)], 4, axis=0) for _ in range(40)], [str(n) for n in range(40)]
    )


def test_a_measure_is_outside_where_few_real_windows_are(real):
    ours = piece_of(*[CHORDS["C"], CHORDS["G"], CHORDS["F"], CHORDS["C"]] * 3)
    strange = score.from_pitches(np.random.default_rng(1).integers(40, 80, (48, 4)))
    by_name = [{f.name: f for f in critique.compare(one, real)} for one in (ours, strange)]
    assert not by_name[0]["triads"].outside and by_name[0]["triads"].value == 1.0
    assert by_name[1]["triads"].outside and by_name[1]["onsets"].outside
    assert by_name[0]["triads"].low <= by_name[0]["triads"].middle <= by_name[0]["triads"].high
    assert set(by_name[0]) == set(theory.MEASURES | theory.COPY_MEASURES)
    assert by_name[1]["copied_run"].value < by_name[0]["copied_run"].value
    copy = {f.name: f for f in critique.compare(score.from_pitches(real.pitches[3, :48]), real)}
    assert copy["copied_run"].value == 48 and copy["copied_run"].outside and not by_name[1]["copied_run"].outside


def test_the_text_marks_what_is_outside_and_names_every_fault(real):
    piece = score.from_pitches(np.random.default_rng(1).integers(40, 80, (48, 4)))
    findings, found = critique.compare(piece, real), critique.find_faults(piece.pitches)
    lines = list(critique.text(piece, findings, found))
    assert sum(line.startswith("!") for line in lines) == sum(f.outside for f in findings) > 0
    assert sum(line.startswith("  bar ") for line in lines) == len(found) > 0
    report = json.loads(json.dumps(critique.to_json(piece, findings, found), allow_nan=False))
    assert len(report["faults"]) == len(found) and report["measures"]["triads"]["outside"] is True


def test_the_picture_is_drawn(tmp_path):
    piece = piece_of(CHORDS["C"], CHORDS["G"])
    render.write_critique(tmp_path / "a.png", piece, np.linspace(-1, 1, 8), [(4, (0, 3)), (2, ())])
    render.write_critique(tmp_path / "b.png", piece, np.linspace(-1, 1, 8), [])
    first, second = (tmp_path / "a.png").read_bytes(), (tmp_path / "b.png").read_bytes()
    assert first.startswith(b"\x89PNG") and first != second


def test_a_piece_too_short_to_judge_is_said(real):
    with pytest.raises(errors.InputError, match="has 2 steps; give a beat or more"):
        critique.compare(piece_of(CHORDS["C"], steps=2), real)
