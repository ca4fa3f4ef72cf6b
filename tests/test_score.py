"""Pieces in memory, and how a command ends on a user's mistake."""

import numpy as np
import pytest

from coconet_jax import errors, score


def test_notes_are_struck_where_the_pitch_changes():
    piece = score.from_pitches(np.array([[60, -1], [60, 50], [62, 50], [-1, 50]]), meter=(3, 4))
    assert piece.onset.tolist() == [[True, False], [False, True], [True, False], [False, False]]
    assert piece.pitches.dtype == np.int16 and piece.meter == (3, 4)


@pytest.mark.parametrize(
    ("meter", "steps_per_quarter", "steps"), [((4, 4), 4, 16), ((3, 4), 2, 6), ((6, 8), 4, 12), ((3, 8), 1, 0)]
)
def test_steps_in_a_bar(meter, steps_per_quarter, steps):
    assert score.bar_steps(meter, steps_per_quarter) == steps


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [(errors.InputError("bars=0:\nuse 1"), 2, "error: bars=0: use 1\n"), (KeyboardInterrupt(), 130, "interrupted\n")],
)
def test_mistakes_and_interrupts_end_a_command_in_one_line(error, code, text, capsys):
    with pytest.raises(SystemExit, match=str(code)), errors.exit_on_input_error():
        raise error
    assert capsys.readouterr().err == text


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError, match="zero"), errors.exit_on_input_error():
        print(1 / 0)
