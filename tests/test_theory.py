"""All measures of a set by name, tables of sets, and the table of samplers."""

import math

import conftest
import handmade
import numpy as np
import pytest

from coconet_jax import errors, pieces
from coconet_jax.judge import harmony, rates, sets, theory

R = handmade.R


@pytest.fixture(scope="module")
def samplers():
    return conftest.load_benchmark("samplers")


def test_padding_changes_no_measure():
    rng = np.random.default_rng(1)
    short, long = rng.integers(48, 80, (1, 20, 4)), rng.integers(48, 80, (1, 32, 4))
    padded = np.concatenate([np.pad(short, ((0, 0), (0, 12), (0, 0)), constant_values=R), long])
    both = theory.measure_pieces(padded, lengths=np.array([20, 32]))
    for name, values in both.items():
        alone = [theory.measure_pieces(piece)[name][0] for piece in (short, long)]
        np.testing.assert_allclose(values, alone, err_msg=name)


def test_summary_has_means_and_errors():
    pitches = np.concatenate(
        [
            handmade.score(handmade.C_MAJOR, handmade.F_MAJOR),
            handmade.score(handmade.C_MAJOR, (62, 61, 60, 59)),
            handmade.score(handmade.C_MAJOR, handmade.C_MAJOR),
        ]
    )
    summary = theory.summarize(pitches)
    assert set(summary) == set(theory.measure_pieces(pitches))
    np.testing.assert_allclose(summary["triads"], (5 / 6, 1 / 6))
    np.testing.assert_allclose(summary["repeated_chords"], (1 / 3, 1 / 3))
    assert summary["parallel_octaves"].mean == 0.0 and summary["parallel_octaves"].error > 0.0
    alone = theory.summarize(pitches[:1])
    assert alone["triads"].mean == 1.0 and math.isnan(alone["triads"].error)
    silent = theory.summarize(handmade.score((R,) * 4))
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
        (lambda: harmony.triad_share(handmade.score(handmade.C_MAJOR), 0), "steps_per_quarter=0 is no grid"),
        (
            lambda: harmony.triad_share(handmade.score(handmade.C_MAJOR), lengths=np.array([5])),
            "lengths 5..5 are outside 1..4",
        ),
        (
            lambda: harmony.triad_share(handmade.score(handmade.C_MAJOR), phases=np.array([4])),
            "phases 4..4 are outside 0..3",
        ),
        (lambda: rates.poisson_interval(-1), "count=-1"),
        (lambda: rates.rate_per_100_beats(np.zeros((1, 4), int), where=np.zeros((1, 4), bool)), "at least one step"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(errors.InputError, match=message):
        call()


def test_rows_of_the_samplers_table(samplers):
    pitches = np.concatenate(
        [handmade.score(handmade.C_MAJOR, handmade.F_MAJOR), handmade.two_voices((67, 60), (69, 62))]
    )
    row = samplers.measure(pitches)
    assert (row["num_samples"], row["parallel_fifths"].rate, row["parallel_octaves"].num_events) == (2, 25.0, 0)
    assert row["triads"].mean == 0.5 and row["repeated_chords"].mean == 0.0
    bach = {"sampler": "Bach, test", **row}
    table = samplers.to_markdown([{"sampler": "gibbs", "model_calls": 64, "seconds": 1.25, **row}], bach).splitlines()
    assert [line.count("|") for line in table] == [9] * 4  # eight columns: NLL, which no row has, is left out
    assert table[2].startswith("| Bach, test | - | - | 2 | 25.00 [0.63, 139.29] | 0.00 [0.00, 92.22] | 50.0 ± 50.0 % |")
    assert table[3].startswith("| gibbs | 64 | 1.25 | 2 |")


def test_parallels_are_pooled_over_all_pieces_without_their_padding():
    chords = np.array([[72, 67, 64, 48], [74, 69, 65, 50]], np.int8)  # two octaves (S and B), a fifth (A and B), ...
    piece = np.repeat(chords, 4, axis=0)[None]
    long = np.concatenate([piece, piece[:, ::-1]], axis=1)  # what lies behind the first's end counts for nothing
    room = np.zeros((1, 4), np.int8)
    parts = {str(n): pieces.Pieces(long, np.array([n], np.int32), ("a",), room) for n in (8, 16)}
    found = [int(theory.count_parallel_fifths(long[:, :length]).sum()) for length in (8, 16)]
    assert 0 < found[0] < found[1]
    text = conftest.load_benchmark("theory").pool_parallels(pieces.PieceSet(parts, 4, "toy"))
    assert text.startswith(f"All 2 pieces: parallel fifths {100 * sum(found) / 6:.3f} [")


def test_windows_of_bach_do_not_overlap(samplers, toy_pieces, toy_path):
    windows = sets.cut_windows(toy_pieces.splits["train"], 16).pitches
    assert len(windows) == 2 + 1 + 4 + 0 + 2
    np.testing.assert_array_equal(windows[1], toy_pieces.splits["train"].pitches[0, 16:32])
    assert samplers.measure_bach(toy_path, "train", 16)["num_samples"] == 9
    with pytest.raises(errors.InputError, match="no piece has 99 steps"):
        samplers.measure_bach(toy_path, "test", 99)
    with pytest.raises(errors.InputError, match="windows of 0 steps"):
        samplers.measure_bach(toy_path, "test", 0)
    with pytest.raises(errors.InputError, match="no split nope; it has train, valid, test"):
        samplers.measure_bach(toy_path, "nope", 16)


def test_every_measure_is_defined_and_in_order():
    found = theory.measure_pieces(handmade.score(handmade.C_MAJOR, handmade.F_MAJOR))
    assert list(found) == list(theory.MEASURES)
    assert all(values.shape == (1,) for values in found.values())
    shares = [name for name, (unit, _) in theory.MEASURES.items() if unit == theory.SHARE]
    rng = np.random.default_rng(4)
    random = theory.measure_pieces(np.repeat(rng.integers(40, 80, (50, 30, 4)), 2, axis=1))
    known = np.concatenate([random[name][~np.isnan(random[name])] for name in shares])
    assert known.size > 1000 and known.min() >= 0 and known.max() <= 1
    assert all(text for _, text in (theory.MEASURES | theory.COPY_MEASURES).values())


def test_events_are_counted_per_100_beats():
    """Four chords of a beat each: two V-I."""
    c, g7 = handmade.C_MAJOR, handmade.G_SEVENTH
    found = theory.measure_pieces(handmade.score(g7, c, g7, c))
    assert found["dominants"].tolist() == [50.0] and found["sevenths"].tolist() == [1.0]


def test_tables_compare_sets():
    bach = theory.measure_pieces(np.concatenate([handmade.score(handmade.C_MAJOR, handmade.F_MAJOR)] * 2))
    other = {"triads": np.array([0.5, 1.0, np.nan]), "copied_run": np.array([3.0, 7.0])}
    lines = theory.compare({"Bach": bach, "other": other}).splitlines()
    assert lines[0] == "| Measure | Unit | Bach | other |" and len(lines) == 2 + len(theory.MEASURES) + 1
    rows = {line.split(" | ")[0][2:]: line for line in lines[2:]}
    assert rows["triads"] == "| triads | % | 100.0 ± 0.0 | 75.0 ± 35.4 |"
    assert rows["sevenths"] == "| sevenths | % | - | - |"
    assert rows["onsets"] == "| onsets | per beat | 1.50 ± 0.00 | - |"
    assert rows["copied_run"] == "| copied_run | steps | - | 5.00 ± 2.83 |"
    with pytest.raises(errors.InputError, match="no sets to compare"):
        theory.compare({})


def test_copies_of_all_voices_and_of_the_soprano():
    rng = np.random.default_rng(5)
    pitches = rng.integers(50, 70, (2, 20, 4))
    training = pieces.from_arrays([pitches[0], pitches[1]], ["a", "b"])
    mixed = pitches[:1].copy()
    mixed[0, 12:, 1:] += 1
    found = theory.measure_copies(mixed, training)
    assert (found["copied_run"].tolist(), found["copied_run_soprano"].tolist()) == ([12.0], [20.0])
    assert theory.measure_copies(mixed, training, own=np.array([0]))["copied_run_soprano"][0] < 6
