"""Runs found in a training set: planted ones, against a plain loop, and real ones."""

import handmade
import numpy as np
import pytest

from coconet_jax import errors, pieces
from coconet_jax.judge import copies, sets

R = handmade.R


def make_training(*arrays):
    return pieces.from_arrays([np.asarray(array) for array in arrays], [str(n) for n in range(len(arrays))])


def draw(rng, *shape):
    return rng.integers(50, 70, (*shape, 4))


def longest_by_loop(window, training, voices=(0, 1, 2, 3), own=-1):
    """The definition, place by place."""
    best = 0
    for number, (piece, length) in enumerate(zip(training.pitches, training.lengths, strict=True)):
        if number == own:
            continue
        for i in range(len(window)):
            for j in range(length):
                run, shift = 0, None
                while i + run < len(window) and j + run < length:
                    ours, theirs = window[i + run, list(voices)].astype(int), piece[j + run, list(voices)].astype(int)
                    if ((ours == R) != (theirs == R)).any():
                        break
                    shifts = set((ours - theirs)[ours != R].tolist()) | ({shift} if shift is not None else set())
                    if len(shifts) > 1:
                        break
                    shift = shifts.pop() if shifts else None
                    run += 1
                best = max(best, run)
    return best


@pytest.mark.parametrize("shift", [0, 5, -12])
def test_a_planted_run_is_found_in_any_transposition(shift):
    rng = np.random.default_rng(0)
    training = make_training(draw(rng, 40), draw(rng, 80), draw(rng, 30))
    windows = draw(rng, 3, 64)
    windows[1, 20:45] = training.pitches[1, 50:75] + shift
    windows[2, :30] = training.pitches[2, :30] + shift
    found = copies.longest_run(windows, training)
    assert found[1:].tolist() == [25, 30] and found[0] < 3
    windows[1, 30, 2] += 1  # one note amiss in the middle
    assert copies.longest_run(windows, training)[1] == 14


def test_runs_do_not_cross_pieces_or_padding():
    rng = np.random.default_rng(1)
    one, other = draw(rng, 20), draw(rng, 24)
    training = make_training(one, other)
    window = np.concatenate([one[10:], other[:12]])[None]
    assert copies.longest_run(window, training).tolist() == [12]
    padded = np.concatenate([one[10:], np.full((8, 4), R)])[None]
    assert copies.longest_run(padded, training, lengths=np.array([10])).tolist() == [10]
    assert copies.longest_run(padded[:, :18], make_training(other), lengths=np.array([3]))[0] < 3


def test_voices_and_own_pieces():
    rng = np.random.default_rng(2)
    training = make_training(draw(rng, 30), draw(rng, 30))
    window = draw(rng, 1, 16)
    window[0, 4:12, 0] = training.pitches[1, 10:18, 0] - 3
    assert copies.longest_run(window, training)[0] < 3
    assert copies.longest_run(window, training, voices=(0,)).tolist() == [8]
    whole = training.pitches
    assert copies.longest_run(whole, training).tolist() == [30, 30]
    assert (copies.longest_run(whole, training, own=np.arange(2)) < 4).all()
    twice = make_training(whole[0], whole[0], whole[1])
    assert copies.longest_run(whole, twice, own=np.array([0, 2])).tolist()[0] == 30


def test_runs_equal_a_loop():
    rng = np.random.default_rng(3)

    def draw_few(*shape):
        pitches = rng.choice([R, 60, 62], (*shape, 4))
        pitches[..., 3] = rng.choice([50, 51], shape)  # the bass always sounds
        return pitches

    training = make_training(*(draw_few(n) for n in (12, 20, 14)))
    windows = np.stack([training.pitches[n % 3, n % 4 : n % 4 + 9] + n for n in range(12)]).astype(int)
    windows = np.where(np.arange(12)[:, None, None] % 4 > 0, windows, windows.max())  # some with nothing in common
    windows[np.stack([training.pitches[n % 3, n % 4 : n % 4 + 9] for n in range(12)]) == R] = R
    changed = rng.random((12, 9, 1)) < 0.25
    windows = np.where(changed, draw_few(12, 9), windows)
    for voices in ((0, 1, 2, 3), (0,), (1, 3)):
        expected = [longest_by_loop(window, training, voices) for window in windows]
        found = copies.longest_run(windows, training, voices=voices)
        if voices == (0,):  # rests of all the voices compared let the transposition change: longer, never shorter
            assert (found >= expected).all()
        else:
            assert found.tolist() == expected
    expected = [longest_by_loop(window, training, own=1) for window in windows]
    assert copies.longest_run(windows, training, own=np.full(12, 1)).tolist() == expected
    assert len(set(expected)) > 2


def test_nothing_in_common():
    training = make_training(np.tile([72, 67, 64, 48], (8, 1)))
    assert copies.longest_run(handmade.score((72, 69, 65, 53)), training).tolist() == [0]
    assert copies.longest_run(handmade.score((74, 69, 66, 50)), training).tolist() == [4]
    with pytest.raises(errors.InputError, match="lengths 9..9 are outside 1..4"):
        copies.longest_run(handmade.score((72, 69, 65, 53)), training, lengths=np.array([9]))


@handmade.needs_npz
def test_bachs_own_runs():
    """A thousand windows take about a second; not asserted, others may be using the machine."""
    train, test = handmade.folds()["train"], handmade.folds()["test"]
    windows = sets.cut_windows(train, 64, 16)
    assert (copies.longest_run(windows.pitches[:200] - 1, train) == 64).all()
    fresh = copies.longest_run(sets.cut_windows(test, 64).pitches, train)
    assert 12 < fresh.mean() < 16 and (fresh > 24).mean() < 0.05
