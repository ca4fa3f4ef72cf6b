"""Theory measures on hand-made scores whose counts are known, on a plain loop, and on Bach."""

import importlib.util
import itertools
import math
import pathlib

import numpy as np
import pytest

from coconet_jax import errors, pieces
from coconet_jax.judge import rates, theory

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
NPZ = REPOSITORY.parent / "shared" / "data" / "Jsb16thSeparated.npz"
needs_npz = pytest.mark.skipif(not NPZ.exists(), reason="the paper's npz is not beside the repository")

R = -1
C_MAJOR, F_MAJOR, G_SEVENTH = (72, 67, 64, 48), (72, 69, 65, 53), (71, 67, 65, 43)


def score(*chords, steps=4):
    """One piece [1,t,4] whose chords each last some steps."""
    return np.repeat(np.array([chords]), steps, axis=1)


def two_voices(*dyads):
    return score(*((high, R, R, low) for high, low in dyads))


def totals(pitches):
    return int(theory.count_parallel_fifths(pitches).sum()), int(theory.count_parallel_octaves(pitches).sum())


@pytest.fixture(scope="module")
def folds():
    """The paper's arrays as the splits of pieces.py, and all of them together."""
    with np.load(NPZ, allow_pickle=True, encoding="latin1") as file:
        arrays = {
            split: [np.where(np.isnan(a), -1, a).astype(int) for a in file[split]]
            for split in ("train", "valid", "test")
        }
    arrays["all"] = [piece for split in ("train", "valid", "test") for piece in arrays[split]]
    return {split: pieces.from_arrays(list_, [str(i) for i in range(len(list_))]) for split, list_ in arrays.items()}


@pytest.fixture(scope="module")
def samplers():
    """benchmarks/samplers.py, which is no module of the package."""
    spec = importlib.util.spec_from_file_location("samplers", REPOSITORY / "benchmarks" / "samplers.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert totals(two_voices(*dyads)) == (fifths, octaves)


def test_parallels_are_counted_in_all_six_pairs_at_the_step_they_reach():
    pitches = score((79, 72, 67, 60), (81, 74, 69, 62))
    fifths, octaves = theory.count_parallel_fifths(pitches), theory.count_parallel_octaves(pitches)
    assert np.flatnonzero(fifths[0]).tolist() == np.flatnonzero(octaves[0]).tolist() == [4]
    assert (fifths[0, 4], octaves[0, 4]) == (3, 2)  # fifths S-A, T-B, the twelfth S-B; octaves S-T, A-B


def test_fifths_by_motion_at_different_steps_are_no_parallels():
    pitches = two_voices((67, 60), (69, 62)).copy()
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
    fifths, octaves = theory.count_parallel_fifths(pitches), theory.count_parallel_octaves(pitches)
    assert fifths.sum(1).tolist() == [count_by_loop(piece, 7) for piece in pitches]
    assert octaves.sum(1).tolist() == [count_by_loop(piece, 0) for piece in pitches]
    assert fifths.sum() > 20 and octaves.sum() > 20
    np.testing.assert_array_equal(theory.count_parallel_fifths(pitches[..., [2, 0, 3, 1]]), fifths)


@pytest.mark.parametrize(
    ("chord", "triad", "wider"),
    [
        (C_MAJOR, True, True),
        ((72, 67, 63, 48), True, True),  # minor
        ((72, 66, 63, 48), True, True),  # diminished
        ((72, 68, 64, 48), True, True),  # augmented
        ((67, 64, 60, R), True, True),  # a voice rests
        ((72, 67, 64, 52), True, True),  # first inversion
        ((72, 64, 60, 48), False, True),  # no fifth
        ((72, 67, 60, 48), False, False),  # no third
        ((72, 60, 60, 48), False, False),  # a bare octave
        (G_SEVENTH, False, True),  # g b f: no fifth
        ((74, 71, 65, 55), False, True),  # g b d f
        ((72, 69, 65, 62), False, True),  # minor seventh
        ((71, 67, 64, 60), False, True),  # major seventh
        ((69, 65, 62, 59), False, True),  # half-diminished
        ((68, 65, 62, 59), False, True),  # diminished seventh
        ((72, 67, 65, 60), False, False),  # suspended fourth
        ((62, 61, 60, 59), False, False),
        ((R, R, R, R), False, False),
    ],
)
def test_chords(chord, triad, wider):
    for transposition in range(12):
        pitches = np.where(np.array([[chord]]) >= 0, np.array([[chord]]) - transposition, R)
        assert theory.mark_triads(pitches).tolist() == [[triad]]
        assert theory.mark_triads_or_sevenths(pitches).tolist() == [[wider]]


def test_shares_take_the_given_phase_or_the_best():
    cluster, triad = (62, 61, 60, 59), C_MAJOR
    chords = [cluster, cluster, triad, cluster] * 3 + [cluster, cluster, cluster, cluster]
    pitches = score(*chords, steps=1)
    assert theory.triad_share(pitches).tolist() == [0.75]
    for phase, share in enumerate((0.0, 0.0, 0.75, 0.0)):
        assert theory.triad_share(pitches, phases=np.array([phase])).tolist() == [share]
    assert theory.triad_share(pitches, steps_per_quarter=1).tolist() == [3 / 16]
    assert theory.triad_share(pitches[:, 2:], phases=np.array([0])).tolist() == [0.75]


def test_sevenths_count_in_the_wider_share_only():
    pitches = score(C_MAJOR, G_SEVENTH, F_MAJOR, (72, 67, 65, 60))
    phase = np.array([0])
    assert theory.triad_share(pitches, phases=phase).tolist() == [0.5]
    assert theory.triad_or_seventh_share(pitches, phases=phase).tolist() == [0.75]


def test_phase_is_where_notes_change():
    for phase in range(4):
        pitches = score(C_MAJOR, F_MAJOR, G_SEVENTH, C_MAJOR, F_MAJOR)[:, (-phase) % 4 :]
        assert theory.estimate_phases(pitches).tolist() == [phase]


def test_a_pieces_start_and_end_are_no_changes():
    ends = np.full((1, 8, 4), R)
    ends[0, :5], ends[0, 2:5, 0] = C_MAJOR, 74  # one voice moves at step 2; all fall silent at 5, the end
    assert theory.estimate_phases(ends, lengths=np.array([5])).tolist() == [2]
    starts = score(C_MAJOR, [pitch + 1 for pitch in C_MAJOR])  # four voices move at the one change phase 0 can have
    starts[0, 1:, :2] += 2
    starts[0, 5:, :3] += 2  # two voices, then three, at phase 1
    assert theory.estimate_phases(starts).tolist() == [0]


def test_repeated_chords():
    pitches = score(C_MAJOR, C_MAJOR, F_MAJOR, F_MAJOR, F_MAJOR, (R, R, R, R), (R, R, R, R), C_MAJOR)
    marks = theory.mark_repeated_chords(pitches)
    assert np.flatnonzero(marks[0]).tolist() == [4, 5, 6, 7, *range(12, 20)]
    assert theory.repeated_chord_share(pitches).tolist() == [3 / 7]
    inner = score(C_MAJOR, (72, 67, 64, 52))
    assert not theory.mark_repeated_chords(inner).any()  # one voice moved
    assert theory.repeated_chord_share(score(C_MAJOR)).tolist() == [0.0]


def test_scale_and_entropy():
    major = [[60, 62, 64, 65], [67, 69, 71, 72]]
    harmonic = [[57, 59, 60, 62], [64, 65, 68, 69]]
    chromatic = [[60, 61, 62, 63], [64, 65, 66, 67]]
    silence = [[R] * 4, [R] * 4]
    one_of_four_outside = [[60, 64, 67, 66], [60, 64, 67, 65]]
    pitches = np.array([major, harmonic, chromatic, silence, one_of_four_outside])
    shares = theory.in_scale_share(pitches)
    np.testing.assert_allclose(shares[[0, 1, 2, 4]], [1.0, 1.0, 5 / 8, 7 / 8])
    entropy = theory.pitch_class_entropy_nats(pitches)
    np.testing.assert_allclose(entropy[2], math.log(8))
    np.testing.assert_allclose(entropy[0], -(0.25 * math.log(0.25) + 6 * 0.125 * math.log(0.125)))
    assert np.isnan([shares[3], entropy[3]]).all()
    assert theory.in_scale_share(np.array([major, chromatic]) + 5).tolist() == [1.0, 5 / 8]
    assert theory.pitch_class_entropy_nats(score((72, 60, 48, 36))).tolist() == [0.0]


def test_padding_changes_no_measure():
    rng = np.random.default_rng(1)
    short, long = rng.integers(48, 80, (1, 20, 4)), rng.integers(48, 80, (1, 32, 4))
    padded = np.concatenate([np.pad(short, ((0, 0), (0, 12), (0, 0)), constant_values=R), long])
    both = theory.measure_pieces(padded, lengths=np.array([20, 32]))
    for name, values in both.items():
        alone = [theory.measure_pieces(piece)[name][0] for piece in (short, long)]
        np.testing.assert_allclose(values, alone, err_msg=name)


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(0, 0.0, 3.6889), (1, 0.025318, 5.5716), (15, 8.3954, 24.7402), (1000, 938.973, 1063.952)],
)
def test_poisson_interval(count, low, high):
    """Half the chi-square quantiles at 2.5 and 97.5 %, with 2k and 2k + 2 degrees of freedom."""
    np.testing.assert_allclose(rates.poisson_interval(count), (low, high), rtol=1e-4)


def test_poisson_interval_covers():
    counts = np.random.default_rng(2).poisson(7.0, 2000)
    intervals = {count: rates.poisson_interval(int(count)) for count in set(counts.tolist())}
    covered = np.mean([intervals[count][0] <= 7.0 <= intervals[count][1] for count in counts.tolist()])
    assert 0.94 < covered < 0.99  # exact intervals cover a little too often


def test_rates_near_and_far_from_a_join():
    pitches = two_voices((67, 60), (69, 62), (69, 64), (69, 64))
    counts, near = theory.count_parallel_fifths(pitches), np.zeros((1, 16), bool)
    near[:, 2:6] = True
    rate = rates.rate_per_100_beats(counts, where=near)
    assert (rate.rate, rate.num_events) == (100.0, 1) and rate.low < 100.0 < rate.high
    assert rates.rate_per_100_beats(counts).rate == 25.0
    assert rates.rate_per_100_beats(counts, where=~near).rate == 0.0
    assert rates.rate_per_100_beats(counts, steps_per_quarter=2).rate == 12.5


def test_summary_has_means_and_errors():
    pitches = np.concatenate([score(C_MAJOR, F_MAJOR), score(C_MAJOR, (62, 61, 60, 59)), score(C_MAJOR, C_MAJOR)])
    summary = theory.summarize(pitches)
    assert set(summary) == set(theory.measure_pieces(pitches))
    np.testing.assert_allclose(summary["triads"], (5 / 6, 1 / 6))
    np.testing.assert_allclose(summary["repeated_chords"], (1 / 3, 1 / 3))
    assert summary["parallel_octaves"].mean == 0.0 and summary["parallel_octaves"].error > 0.0
    alone = theory.summarize(pitches[:1])
    assert alone["triads"].mean == 1.0 and math.isnan(alone["triads"].error)
    silent = theory.summarize(score((R, R, R, R)))
    assert math.isnan(silent["in_scale"].mean) and silent["triads"].mean == 0.0


def test_ten_thousand_samples_are_measured_at_once():
    """About a second on one core; not asserted, others may be using the machine."""
    pitches = np.random.default_rng(3).integers(36, 82, (10_000, 64, 4)).astype(np.int8)
    summary = theory.summarize(pitches)
    # A pair's interval is a fifth with chance near 1/12 at each of two steps; about half the pairs move together.
    expected = 100 * 4 * 6 * (1 / 12) ** 2 / 2 * 63 / 64
    assert 0.6 * expected < summary["parallel_fifths"].mean < 1.2 * expected
    assert 0 < summary["parallel_fifths"].error < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.summarize(np.zeros((0, 4, 4), int)), r"shape \(0, 4, 4\) hold nothing to measure"),
        (lambda: theory.triad_share(score(C_MAJOR), 0), "steps_per_quarter=0 is no grid"),
        (lambda: theory.triad_share(score(C_MAJOR), lengths=np.array([5])), "lengths 5..5 are outside 1..4"),
        (lambda: theory.triad_share(score(C_MAJOR), phases=np.array([4])), "phases 4..4 are outside 0..3"),
        (lambda: rates.poisson_interval(-1), "count=-1"),
        (lambda: rates.rate_per_100_beats(np.zeros((1, 4), int), where=np.zeros((1, 4), bool)), "at least one step"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(errors.InputError, match=message):
        call()


@needs_npz
def test_bachs_parallels(folds):
    """Known beforehand: 0.35 and 0.13 per 100 beats on test, about 0.30 and 0.18 on all, crossed fourths among them."""
    counts = {}
    for split in ("test", "all"):
        pitches = folds[split].pitches
        counts[split] = totals(pitches)
    assert counts == {"test": (15, 6), "all": (59, 41)}
    assert counts["test"] == tuple(
        sum(count_by_loop(p, interval) for p in folds["test"].pitches) for interval in (7, 0)
    )
    assert folds["test"].lengths.sum() / 4 == 4725 and folds["all"].lengths.sum() / 4 == 23134

    def count_with_named_voices(piece):
        """The figure's definition: from one voice down to the next, so that crossed fourths are fifths."""
        moves, total = np.sign(np.diff(piece, axis=0)), 0
        for a, b in itertools.combinations(range(4), 2):
            fifth = ((piece[:, a] - piece[:, b]) % 12 == 7) & (piece[:, a] >= 0) & (piece[:, b] >= 0)
            total += (fifth[1:] & fifth[:-1] & (moves[:, a] * moves[:, b] == 1)).sum()
        return total

    named = {split: np.array([count_with_named_voices(p) for p in folds[split].pitches]) for split in counts}
    assert (named["test"].sum(), named["all"].sum()) == (18, 70)
    beats = folds["test"].lengths / 4
    assert (100 * named["test"] / beats).mean() == pytest.approx(0.35, abs=0.005)
    assert theory.measure_pieces(folds["test"].pitches, lengths=folds["test"].lengths)[
        "parallel_octaves"
    ].mean() == pytest.approx(0.13, abs=0.005)
    assert 100 * named["all"].sum() / 23134 == pytest.approx(0.30, abs=0.005)
    assert 100 * counts["all"][1] / 23134 == pytest.approx(0.18, abs=0.005)


@needs_npz
def test_bachs_chords(folds):
    """Known beforehand: triads on 75 % of the test chorales' beats, triads or sevenths on 91 %."""
    test = folds["test"]
    summary = theory.summarize(test.pitches, lengths=test.lengths)
    assert summary["triads"].mean == pytest.approx(0.75, abs=0.005)
    assert summary["triads_or_sevenths"].mean == pytest.approx(0.91, abs=0.005)
    assert summary["triads"].error < 0.01 and summary["triads_or_sevenths"].error < 0.01
    on_beats = theory.summarize(test.pitches, lengths=test.lengths, phases=np.zeros(77, int))
    assert 0.745 < on_beats["triads"].mean < summary["triads"].mean
    assert 0.09 < summary["repeated_chords"].mean < 0.115 and 0.93 < summary["in_scale"].mean < 0.95


@needs_npz
def test_bachs_beats_are_found(folds, samplers):
    everything = folds["all"]
    assert not theory.estimate_phases(everything.pitches, lengths=everything.lengths).any()
    for phase in range(4):
        shifted = folds["test"]._replace(
            pitches=folds["test"].pitches[:, 4 - phase :], lengths=folds["test"].lengths - 4
        )
        assert (theory.estimate_phases(samplers.cut_windows(shifted, 64)) == phase).all()


def test_rows_of_the_samplers_table(samplers):
    pitches = np.concatenate([score(C_MAJOR, F_MAJOR), two_voices((67, 60), (69, 62))])
    row = samplers.measure(pitches)
    assert (row["num_samples"], row["parallel_fifths"].rate, row["parallel_octaves"].num_events) == (2, 25.0, 0)
    assert row["triads"].mean == 0.5 and row["repeated_chords"].mean == 0.0
    bach = {"sampler": "Bach, test", **row}
    table = samplers.to_markdown([{"sampler": "gibbs", "model_calls": 64, "seconds": 1.25, **row}], bach).splitlines()
    assert [line.count("|") for line in table] == [9] * 4  # eight columns: NLL, which no row has, is left out
    assert table[2].startswith("| Bach, test | - | - | 2 | 25.00 [0.63, 139.29] | 0.00 [0.00, 92.22] | 50.0 ± 50.0 % |")
    assert table[3].startswith("| gibbs | 64 | 1.25 | 2 |")


def test_windows_of_bach_do_not_overlap(samplers, toy_pieces, toy_path):
    windows = samplers.cut_windows(toy_pieces.splits["train"], 16)
    assert len(windows) == 2 + 1 + 4 + 0 + 2
    np.testing.assert_array_equal(windows[1], toy_pieces.splits["train"].pitches[0, 16:32])
    assert samplers.measure_bach(toy_path, "train", 16)["num_samples"] == 9
    with pytest.raises(errors.InputError, match="no piece has 99 steps"):
        samplers.measure_bach(toy_path, "test", 99)
    with pytest.raises(errors.InputError, match="windows of 0 steps"):
        samplers.measure_bach(toy_path, "test", 0)
    with pytest.raises(errors.InputError, match="no split nope; it has train, valid, test"):
        samplers.measure_bach(toy_path, "nope", 16)
