"""Steps, leaps and what follows them, on hand-made lines."""

import handmade
import numpy as np
import pytest

from coconet_jax.judge import beats, melody

R = handmade.R


def prepare(pitches, **kwargs):
    return beats.prepare(np.asarray(pitches), **kwargs)


def test_steps_and_leaps_of_each_voice():
    alto = handmade.line((60, 2), (62, 2), (61, 1), (64, 1), (69, 2), (69, 4), (57, 4), voice=1)  # 2 -1 3 5 -12
    scores = prepare(alto)
    assert melody.step_shares(scores)[0, 1] == 2 / 5 and melody.leap_shares(scores)[0, 1] == 2 / 5
    assert np.isnan(melody.step_shares(scores)[0, [0, 2, 3]]).all()
    assert np.isnan(melody.leap_shares(prepare(handmade.line((60, 4))))).all()


@pytest.mark.parametrize(
    ("by", "large", "dissonant"),
    [(1, 0, 0), (5, 0, 0), (6, 0, 1), (8, 0, 0), (9, 1, 0), (10, 1, 1), (11, 1, 1), (12, 0, 0), (13, 1, 1)]
    + [(14, 1, 1), (16, 1, 0), (18, 1, 1), (19, 1, 0), (24, 1, 0), (2, 0, 0)],
)
def test_large_and_dissonant_leaps(by, large, dissonant):
    for direction in (by, -by):
        scores = prepare(handmade.line((60, 2), (60 + direction, 2)))
        assert melody.large_leap_share(scores).tolist() == [large]
        assert melody.dissonant_leap_share(scores).tolist() == [dissonant]


@pytest.mark.parametrize(
    ("notes", "share"),
    [
        pytest.param([(60, 2), (67, 2), (65, 2)], 1.0, id="up, then a step down"),
        pytest.param([(67, 2), (60, 1), (61, 2)], 1.0, id="down, then a step up"),
        pytest.param([(60, 2), (67, 2), (69, 2)], 0.0, id="on in the same direction"),
        pytest.param([(60, 2), (67, 2), (64, 2)], 0.0, id="a third back"),
        pytest.param([(60, 2), (64, 2), (62, 2)], np.nan, id="a third is no leap"),
        pytest.param([(60, 2), (67, 2)], np.nan, id="nothing follows"),
        pytest.param([(60, 2), (67, 2), (R, 2), (65, 2)], np.nan, id="a rest follows"),
        pytest.param([(60, 2), (R, 2), (67, 2), (65, 2)], np.nan, id="no leap over a rest"),
        pytest.param([(60, 2), (67, 4), (60, 2), (62, 2)], 0.5, id="an answered leap after one that is not"),
    ],
)
def test_leaps_answered_by_a_step_back(notes, share):
    np.testing.assert_array_equal(melody.answered_leap_share(prepare(handmade.line(*notes))), [share])


def test_directions():
    scores = prepare(handmade.line((60, 1), (62, 1), (61, 1), (59, 1), (64, 1), (57, 1), (60, 1)))  # 2 -1 -2 5 -7 3
    assert melody.falling_step_share(scores).tolist() == [2 / 3]
    assert melody.rising_leap_share(scores).tolist() == [0.5]
    assert np.isnan(melody.falling_step_share(prepare(handmade.line((60, 4))))).all()
