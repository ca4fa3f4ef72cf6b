"""Parallels and the other measures of voices together, on hand-made scores and on a plain loop."""

import itertools

import handmade
import numpy as np
import pytest

from coconet_jax.judge import beats, theory, voice_leading

R = handmade.R


def totals(pitches):
    return int(voice_leading.count_parallel_fifths(pitches).sum()), int(
        voice_leading.count_parallel_octaves(pitches).sum()
    )


@pytest.mark.parametrize(
    ("dyads", "fifths", "octaves"),
    [
        pytest.param([(67, 60), (69, 62)], 1, 0, id="a fifth, up"),
        pytest.param([(69, 62), (67, 60)], 1, 0, id="a fifth, down"),
        pytest.param([(67, 60), (69, 62), (71, 64)], 2, 0, id="three fifths"),
        pytest.param([(79, 60), (69, 62)], 0, 0, id="twelfth to fifth, contrary"),
        pytest.param([(67, 60), (81, 62)], 1, 0, id="fifth to twelfth, both up"),
        pytest.param([(67, 60), (67, 60)], 0, 0, id="a fifth struck again"),
        pytest.param([(67, 60), (67, 48)], 0, 0, id="one voice stays"),
        pytest.param([(67, 60), (68, 62)], 0, 0, id="to a diminished fifth"),
        pytest.param([(67, 60), (70, 62), (71, 64)], 0, 0, id="another interval between"),
        pytest.param([(67, 60), (R, R), (69, 62)], 0, 0, id="silence between"),
        pytest.param([(67, 60), (69, R), (69, 62)], 0, 0, id="a rest in one voice"),
        pytest.param([(60, 67), (62, 69)], 1, 0, id="a fifth of crossed voices"),
        pytest.param([(60, 65), (62, 67)], 0, 0, id="a fourth of crossed voices"),
        pytest.param([(72, 60), (74, 62)], 0, 1, id="an octave"),
        pytest.param([(60, 60), (62, 62)], 0, 1, id="a unison"),
        pytest.param([(60, 60), (74, 62)], 0, 1, id="unison to octave, both up"),
        pytest.param([(72, 60), (62, 62)], 0, 0, id="octave to unison, contrary"),
        pytest.param([(72, 60), (72, 60)], 0, 0, id="an octave that stands still"),
    ],
)
def test_parallels_of_two_voices(dyads, fifths, octaves):
    assert totals(handmade.two_voices(*dyads)) == (fifths, octaves)


def test_parallels_are_counted_in_all_six_pairs_at_the_step_they_reach():
    pitches = handmade.score((79, 72, 67, 60), (81, 74, 69, 62))
    fifths, octaves = voice_leading.count_parallel_fifths(pitches), voice_leading.count_parallel_octaves(pitches)
    assert np.flatnonzero(fifths[0]).tolist() == np.flatnonzero(octaves[0]).tolist() == [4]
    assert (fifths[0, 4], octaves[0, 4]) == (3, 2)  # fifths S-A, T-B, the twelfth S-B; octaves S-T, A-B


def test_fifths_by_motion_at_different_steps_are_no_parallels():
    pitches = handmade.two_voices((67, 60), (69, 62)).copy()
    pitches[0, 4, 3] = 60  # the lower voice follows a 16th later
    assert totals(pitches) == (0, 0)


def count_by_loop(piece, interval):
    """The definition, cell by cell."""
    count = 0
    for (before, after), (a, b) in itertools.product(
        itertools.pairwise(piece.tolist()), itertools.combinations(range(4), 2)
    ):
        sounding = min(before[a], before[b], after[a], after[b]) >= 0
        together = (after[a] - before[a]) * (after[b] - before[b]) > 0
        intervals = {(max(chord[a], chord[b]) - min(chord[a], chord[b])) % 12 for chord in (before, after)}
        count += sounding and together and intervals == {interval}
    return count


def test_parallels_equal_a_loop_and_do_not_depend_on_the_order_of_voices():
    rng = np.random.default_rng(0)
    pitches = rng.choice([R, 48, 50, 52, 55, 57, 60, 62, 64, 67, 69, 72, 74], (20, 30, 4))
    fifths, octaves = voice_leading.count_parallel_fifths(pitches), voice_leading.count_parallel_octaves(pitches)
    assert fifths.sum(1).tolist() == [count_by_loop(piece, 7) for piece in pitches]
    assert octaves.sum(1).tolist() == [count_by_loop(piece, 0) for piece in pitches]
    assert fifths.sum() > 20 and octaves.sum() > 20
    np.testing.assert_array_equal(voice_leading.count_parallel_fifths(pitches[..., [2, 0, 3, 1]]), fifths)


@handmade.needs_npz
def test_bachs_parallels():
    """Known beforehand: 0.35 and 0.13 per 100 beats on test, about 0.30 and 0.18 on all, crossed fourths among them."""
    counts = {}
    for split in ("test", "all"):
        pitches = handmade.folds()[split].pitches
        counts[split] = totals(pitches)
    assert counts == {"test": (15, 6), "all": (59, 41)}
    assert counts["test"] == tuple(
        sum(count_by_loop(p, interval) for p in handmade.folds()["test"].pitches) for interval in (7, 0)
    )
    assert handmade.folds()["test"].lengths.sum() / 4 == 4725 and handmade.folds()["all"].lengths.sum() / 4 == 23134

    def count_with_named_voices(piece):
        """The figure's definition: from one voice down to the next, so that crossed fourths are fifths."""
        moves, total = np.sign(np.diff(piece, axis=0)), 0
        for a, b in itertools.combinations(range(4), 2):
            fifth = ((piece[:, a] - piece[:, b]) % 12 == 7) & (piece[:, a] >= 0) & (piece[:, b] >= 0)
            total += (fifth[1:] & fifth[:-1] & (moves[:, a] * moves[:, b] == 1)).sum()
        return total

    named = {split: np.array([count_with_named_voices(p) for p in handmade.folds()[split].pitches]) for split in counts}
    assert (named["test"].sum(), named["all"].sum()) == (18, 70)
    num_beats = handmade.folds()["test"].lengths / 4
    assert (100 * named["test"] / num_beats).mean() == pytest.approx(0.35, abs=0.005)
    assert theory.measure_pieces(handmade.folds()["test"].pitches, lengths=handmade.folds()["test"].lengths)[
        "parallel_octaves"
    ].mean() == pytest.approx(0.13, abs=0.005)
    assert 100 * named["all"].sum() / 23134 == pytest.approx(0.30, abs=0.005)
    assert 100 * counts["all"][1] / 23134 == pytest.approx(0.18, abs=0.005)


def prepare(pitches, **kwargs):
    return beats.prepare(np.asarray(pitches), **kwargs)


@pytest.mark.parametrize(
    ("dyads", "fifths", "octaves"),
    [
        pytest.param([(64, 60), (69, 62)], 1, 0, id="third to fifth, soprano leaps"),
        pytest.param([(67, 64), (69, 62)], 0, 0, id="contrary"),
        pytest.param([(67, 60), (72, 65)], 0, 0, id="a parallel fifth is no direct one"),
        pytest.param([(68, 58), (69, 62)], 0, 0, id="soprano by step"),
        pytest.param([(76, 60), (69, 50)], 1, 0, id="down from a tenth to a nineteenth"),
        pytest.param([(64, 55), (72, 60)], 0, 1, id="sixth to octave"),
        pytest.param([(64, R), (72, 60)], 0, 0, id="bass was silent"),
    ],
)
def test_direct_fifths_and_octaves_of_the_outer_voices(dyads, fifths, octaves):
    pitches = handmade.two_voices(*dyads)
    found = voice_leading.count_direct_fifths(pitches), voice_leading.count_direct_octaves(pitches)
    assert (found[0].sum(), found[1].sum()) == (fifths, octaves)
    assert not found[0][:, [0, 1, 2, 3]].any()  # at the step that is reached
    inner = pitches[..., [1, 0, 3, 2]]
    assert not voice_leading.count_direct_fifths(inner).any() and not voice_leading.count_direct_octaves(inner).any()


def test_crossing_spacing_and_range():
    crossed, wide = (72, 60, 64, 48), (77, 64, 60, 40)  # tenor above alto; 13 semitones from soprano to alto
    scores = prepare(handmade.score(handmade.C_MAJOR, crossed, wide, (72, R, 60, 48)))
    assert voice_leading.crossing_share(scores).tolist() == [0.25]
    assert voice_leading.wide_spacing_share(scores).tolist() == [1 / 3]  # of the three chords with alto
    assert voice_leading.out_of_range_share(scores).tolist() == [0.0]
    assert voice_leading.range_semitones(scores).tolist() == [(5 + 7 + 4 + 8) / 4]
    assert voice_leading.outer_distance_semitones(scores).tolist() == [(24 + 24 + 37 + 24) / 4]
    octave = prepare(handmade.score((72, 60, 48, 36)))
    assert voice_leading.wide_spacing_share(octave).tolist() == [0.0]
    low = prepare(handmade.score((59, 52, 46, 36), (60, 51, 46, 67)))
    assert voice_leading.out_of_range_share(low).tolist() == [3 / 8]


def test_what_a_piece_of_one_voice_has_not():
    alone = prepare(handmade.line((60, 4), (62, 4)))
    for measure in ("crossing_share", "wide_spacing_share", "outer_distance_semitones"):
        assert np.isnan(getattr(voice_leading, measure)(alone)).all()
    assert voice_leading.range_semitones(alone).tolist() == [2.0]
    silent = prepare(np.full((1, 8, 4), R))
    assert np.isnan(voice_leading.range_semitones(silent)).all()
    assert np.isnan(voice_leading.out_of_range_share(silent)).all()
