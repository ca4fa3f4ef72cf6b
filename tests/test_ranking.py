"""The scoreboard: its criteria, its order with ties, and what it says of real, damaged and copied music."""

import json
import math

import numpy as np
import pytest

from coconet_jax import errors, pieces
from coconet_jax.judge import distances, ranking, rates, sets


def measures(**values):
    return {name: rates.Measure(*value) for name, value in values.items()}


def row(name, **values):
    return ranking.Row(name, 50, measures(**values))


def test_the_area_is_the_chance_that_a_real_window_scores_higher():
    assert ranking.area_under_curve(np.array([1.0, 2.0]), np.array([-1.0, 0.0])) == 1.0
    assert ranking.area_under_curve(np.array([0.0, 3.0]), np.array([1.0, 2.0])) == 0.5
    assert ranking.area_under_curve(np.array([1.0]), np.array([1.0, 1.0, 0.0])) == pytest.approx(2 / 3)
    rng = np.random.default_rng(0)
    real, made = rng.integers(0, 5, 40) * 1.0, rng.integers(0, 4, 30) * 1.0
    pairs = np.mean([(r > m) + 0.5 * (r == m) for r in real for m in made])
    assert ranking.area_under_curve(real, made) == pytest.approx(pairs)


def test_what_differs_by_less_than_two_errors_ties():
    rows = [
        row(ranking.REAL, kid=(0.0, 0.01), parallel_fifths=(0.3, 0.1)),
        row("near", kid=(0.015, 0.01), parallel_fifths=(0.4, 0.1)),
        row("far", kid=(0.5, 0.01), parallel_fifths=(5.0, 0.1)),
    ]
    found = ranking.order(rows)
    assert [(one.name, one.place, one.beats) for one in found] == [(ranking.REAL, 1, 1), ("near", 1, 1), ("far", 3, 0)]
    assert "| 1 (tie) | near |" in ranking.to_markdown(found) and "| 3 | far |" in ranking.to_markdown(found)


def test_where_errors_are_unknown_nothing_is_decided():
    rows = [row(name, kid=(kid, math.nan)) for name, kid in ((ranking.REAL, 0.1), ("near", 0.2), ("far", 9.0))]
    assert {one.place for one in ranking.order(rows)} == {1}


def test_to_seem_more_real_than_real_music_is_no_merit():
    rows = [row(ranking.REAL, critic_auc=(0.5, 0.01)), row("chosen", critic_auc=(0.2, 0.01))]
    assert {one.name: one.place for one in ranking.order(rows)} == {ranking.REAL: 1, "chosen": 2}


def test_better_by_one_and_worse_by_another_decides_nothing():
    rows = [
        row(ranking.REAL, kid=(0.0, 0.001), critic_auc=(0.5, 0.001)),
        row("a", kid=(0.1, 0.001), critic_auc=(0.9, 0.001)),
        row("b", kid=(0.2, 0.001), critic_auc=(0.8, 0.001)),
    ]
    assert [one.place for one in ranking.order(rows)] == [1, 2, 2]


def test_too_few_parallels_are_no_merit_and_fewer_copies_than_real_music_neither():
    rows = [
        row(ranking.REAL, parallel_fifths=(1.0, 0.1), copied=(0.05, 0.01)),
        row("none", parallel_fifths=(0.0, 0.1), copied=(0.0, 0.01)),
        row("as many", parallel_fifths=(1.0, 0.1), copied=(0.05, 0.01)),
        row("copies", parallel_fifths=(1.0, 0.1), copied=(0.5, 0.01)),
    ]
    places = {one.name: one.place for one in ranking.order(rows)}
    assert places == {ranking.REAL: 1, "as many": 1, "none": 3, "copies": 3}


def test_to_be_more_bach_than_bach_is_no_merit():
    rows = [
        row(ranking.REAL, log_p_bach=(-0.3, 0.01)),
        row("surer", log_p_bach=(-0.1, 0.01)),
        row("less", log_p_bach=(-0.5, 0.01)),
    ]
    assert {one.name: one.place for one in ranking.order(rows)} == {ranking.REAL: 1, "surer": 1, "less": 3}


def test_a_criterion_that_a_set_lacks_orders_nothing_and_is_a_dash():
    rows = [
        row(ranking.REAL, kid=(0.0, 0.1), framewise=(0.5, math.nan)),
        row("a", kid=(0.05, 0.1), critic_auc=(1.0, 0.0)),
    ]
    found = ranking.order(rows)
    assert [one.place for one in found] == [1, 1]
    assert "| a | 0.050 ± 0.100 | 1.000 ± 0.000 | - |" in ranking.to_markdown(found)
    assert json.loads(json.dumps(ranking.to_json(found), allow_nan=False))[0]["values"]["framewise"]["error"] is None
    assert [line.split(":")[0] for line in ranking.legend(found)] == ["KID", "Critic AUC", "framewise"]


@pytest.fixture(scope="module")
def world():
    """Made-up music of two chords: training pieces, real windows, and judges without networks."""
    rng = np.random.default_rng(1)
    chords = np.array([[72, 67, 64, 48], [71, 67, 62, 55], [69, 65, 60, 53], [74, 67, 59, 43]])

    def draw(count, steps):
        return np.repeat(chords[rng.integers(0, 4, (count, steps // 4))], 4, axis=1)

    training = pieces.from_arrays(list(draw(6, 64)), [str(n) for n in range(6)])
    real = sets.Windows(draw(40, 32), np.arange(40) // 2)
    return training, real, draw


def judges_of(training):
    features = distances.fit_theory(training.pitches)
    return ranking.Judges(
        features,
        training,
        lambda pitches: -features(pitches)[:, :3].sum(axis=1),
        lambda pitches: np.log(np.tile([0.8, 0.1, 0.1], (len(pitches), 1))),
        distances.fit(lambda pitches: pitches.mean(axis=1), training.pitches),
    )


def test_real_music_comes_first_and_noise_last(world):
    training, real, draw = world
    noise = sets.draw_uniform(np.random.default_rng(2), real.pitches)
    contestants = {"noise": sets.from_samples(noise), "same law": sets.from_samples(draw(30, 32))}
    told: list[int] = []
    rows = ranking.rank(
        real, contestants, judges_of(training), known={"noise": measures(framewise=(4.0, 0.1))}, advance=told.append
    )
    assert rows[-1].name == "noise" and rows[-1].place == 3 and {rows[0].place, rows[1].place} == {1}
    assert {one.num_windows for one in rows} == {20} and sum(told) == 3
    assert rows[-1].values["framewise"].mean == 4.0 and rows[-1].values["inception"].mean == pytest.approx(1.0)
    assert rows[-1].values["log_p_bach"].mean == pytest.approx(math.log(0.8))
    again = ranking.rank(real, contestants, judges_of(training))
    assert [one.values["kid"] for one in again] == [one.values["kid"] for one in rows]


def test_windows_of_one_piece_are_no_news_about_parallels(world):
    training, _, draw = world
    chorus = sets.Windows(np.repeat(draw(20, 32), 8, axis=0), np.arange(160) // 8)  # each piece heard eight times
    real = sets.Windows(np.repeat(draw(20, 32), 8, axis=0), np.arange(160) // 8)
    rows = ranking.rank(real, {"eightfold": chorus}, judges_of(training))
    rate, error = next(one.values["parallel_fifths"] for one in rows if one.name == "eightfold")
    beats = 8 * rows[0].num_windows
    independent = math.sqrt(rate * beats / 100) * 100 / beats  # by Poisson's law
    assert rate > 0 and error > 1.5 * independent


def test_a_set_cut_from_the_reference_shares_no_piece_with_what_it_is_measured_against(world):
    training, real, _ = world
    asked = ranking.rank(real, {"again": real}, judges_of(training), of_reference=["again"])
    values = {one.name: one.values for one in asked}
    # Then it is real music's other half, and no nearer.
    assert values["again"]["kid"] == values[ranking.REAL]["kid"] and asked[0].place == asked[1].place == 1
    told = {one.name: one.values for one in ranking.rank(real, {"again": real}, judges_of(training))}
    assert told["again"]["kid"].mean < values["again"]["kid"].mean


def test_training_pieces_are_no_copies_of_themselves(world):
    training, real, _ = world
    windows = sets.cut_windows(training, 32, 16)
    rows = ranking.rank(real, {"train": windows}, judges_of(training), of_training=["train"])
    copied = {one.name: one.values["copied"].mean for one in rows}["train"]
    plain = ranking.rank(real, {"train": windows}, judges_of(training))
    assert copied < 0.1 and {one.name: one.values["copied"].mean for one in plain}["train"] == 1.0


def test_copies_of_the_training_music_are_told(world):
    training, real, _ = world
    copied = sets.from_samples(np.stack([piece[:32] for piece in training.pitches] * 4) + 1)  # in another key
    rows = ranking.rank(real, {"copies": copied}, judges_of(training))
    values = {one.name: one.values["copied"].mean for one in rows}
    assert values["copies"] == 1.0 and values[ranking.REAL] < 0.1


def test_nothing_to_rank_is_said(world):
    training, real, _ = world
    with pytest.raises(errors.InputError, match="nothing to rank; give one or more sets"):
        ranking.rank(real, {}, judges_of(training))
    with pytest.raises(errors.InputError, match="windows of 32 and of 16 steps have no distance"):
        ranking.rank(real, {"short": sets.from_samples(real.pitches[:, :16])}, judges_of(training))
    for count in (1, 6):
        with pytest.raises(errors.InputError, match=f"{count} windows? have no 5 neighbours each; give more"):
            ranking.rank(real, {"few": sets.from_samples(real.pitches[:count])}, judges_of(training))
