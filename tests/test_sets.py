"""Windows, what is drawn from them, and what damage does and leaves."""

import handmade
import numpy as np
import pytest

from coconet_jax import errors, pianoroll
from coconet_jax.judge import sets

R = handmade.R


def draw_windows(number=6, steps=64):
    """Notes of two steps, some rests."""
    rng = np.random.default_rng(0)
    low = np.array(pianoroll.VOICE_RANGES)[:, 0]
    pitches = np.repeat(low + rng.integers(3, 13, (number, steps // 2, 4)), 2, axis=1).astype(np.int8)
    pitches[rng.random(pitches.shape) < 0.02] = R
    return pitches


def test_windows_at_hops(toy_pieces):
    train = toy_pieces.splits["train"]  # of 40, 24, 64, 12 and 33 steps
    windows = sets.cut_windows(train, 16, 8)
    assert windows.groups.tolist() == [0] * 4 + [1] * 2 + [2] * 7 + [4] * 3
    np.testing.assert_array_equal(windows.pitches[5], train.pitches[1, 8:24])
    apart = sets.cut_windows(train, 16)
    assert apart.groups.tolist() == [0, 0, 1, 2, 2, 2, 2, 4, 4]
    with pytest.raises(errors.InputError, match="a hop of 0 steps"):
        sets.cut_windows(train, 16, 0)
    with pytest.raises(errors.InputError, match="no piece has 99 steps"):
        sets.cut_windows(train, 99)


@handmade.needs_npz
def test_bachs_windows():
    assert len(sets.cut_windows(handmade.folds()["test"], 64, 16).pitches) == 934


def test_subsamples_and_halves():
    windows = sets.Windows(draw_windows(40), np.repeat(np.arange(8), 5))
    drawn = sets.subsample(np.random.default_rng(1), windows, 13)
    again = sets.subsample(np.random.default_rng(1), windows, 13)
    np.testing.assert_array_equal(drawn.pitches, again.pitches)
    places = [np.flatnonzero((windows.pitches == window).all((1, 2)))[0] for window in drawn.pitches]
    assert len(set(places)) == 13 and (windows.groups[places] == drawn.groups).all()
    np.testing.assert_array_equal(sets.subsample(np.random.default_rng(2), windows, 40).pitches, windows.pitches)
    one, other = sets.halve(np.random.default_rng(1), windows)
    assert len(one.pitches) == len(other.pitches) == 20 and not set(one.groups) & set(other.groups)
    with pytest.raises(errors.InputError, match="41 windows cannot be drawn from 40"):
        sets.subsample(np.random.default_rng(1), windows, 41)
    assert sets.from_samples(draw_windows(3)).groups.tolist() == [0, 1, 2]


def test_joined_parts_share_no_piece():
    parts = [sets.Windows(draw_windows(n), np.arange(n) // 2) for n in (6, 4, 2)]
    joined = sets.join(parts)
    np.testing.assert_array_equal(joined.pitches, np.concatenate([part.pitches for part in parts]))
    assert joined.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert sets.join(parts[:1]).groups.tolist() == parts[0].groups.tolist()


@pytest.mark.parametrize("name", sets.DAMAGES)
def test_damage_is_drawn_from_the_generator_and_leaves_its_input(name):
    pitches = draw_windows()
    before = pitches.copy()
    damaged = sets.DAMAGES[name](np.random.default_rng(3), pitches)
    np.testing.assert_array_equal(damaged, sets.DAMAGES[name](np.random.default_rng(3), pitches))
    np.testing.assert_array_equal(pitches, before)
    assert damaged.shape == pitches.shape and damaged.dtype == pitches.dtype
    assert (damaged != pitches).any() and pianoroll.in_range(damaged).all()


def test_bars_change_places():
    pitches = draw_windows(steps=70)
    shuffled = sets.shuffle_bars(np.random.default_rng(4), pitches)
    orders = set()
    for before, after in zip(pitches, shuffled, strict=True):
        bars = [before[16 * n : 16 * n + 16].tolist() for n in range(4)]
        orders.add(tuple(bars.index(after[16 * n : 16 * n + 16].tolist()) for n in range(4)))
    assert all(sorted(order) == [0, 1, 2, 3] for order in orders) and len(orders) > 1
    np.testing.assert_array_equal(shuffled[:, 64:], pitches[:, 64:])


def test_notes_move_as_a_whole():
    pitches = draw_windows(200)
    moved = sets.move_notes(np.random.default_rng(5), pitches, 0.2)
    by = moved.astype(int) - pitches
    assert set(np.unique(by)) == {-2, -1, 0, 1, 2}
    assert not by[pitches == R].any()
    inside = pitches[:, 1:] == pitches[:, :-1]
    assert (by[:, 1:] == by[:, :-1])[inside].all()
    starts = np.ones(pitches.shape, bool)
    starts[:, 1:] = ~inside
    starts &= pitches != R
    share = (by != 0)[starts].mean()
    assert abs(share - 0.2) < 4 * np.sqrt(0.2 * 0.8 / starts.sum())
    assert not (sets.move_notes(np.random.default_rng(5), pitches, 0.0) != pitches).any()
    edge = np.full((50, 1, 4), 81, np.int8)
    assert sets.move_notes(np.random.default_rng(5), edge, 1.0).max() == 80


def test_voices_come_from_other_windows_and_time_runs_back():
    pitches = draw_windows(12)
    mixed = sets.shuffle_voices(np.random.default_rng(6), pitches)
    for voice in range(4):
        assert sorted(mixed[..., voice].tolist()) == sorted(pitches[..., voice].tolist())
    np.testing.assert_array_equal(sets.reverse_time(np.random.default_rng(0), pitches)[:, ::-1], pitches)
    uniform = sets.draw_uniform(np.random.default_rng(7), np.full((200, 64, 4), R, np.int8))
    for voice, (low, high) in enumerate(pianoroll.VOICE_RANGES):
        assert (uniform[..., voice].min(), uniform[..., voice].max()) == (low, high)
