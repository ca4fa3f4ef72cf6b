"""Gibbs sampling's parts: the annealing, the blocks, the colours, the levels of upsampling."""

import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import config, gibbs, samplers

# ------------------------------------------------------------------------------------------------ schedule


def test_annealing_follows_the_papers_formula():
    settings = config.Sample()
    probs = gibbs.anneal_block_prob(settings, 100)
    assert probs.dtype == np.float32
    expected = [max(0.1, 0.9 - n * (0.9 - 0.1) / (0.7 * 100)) for n in range(100)]
    np.testing.assert_allclose(probs, expected, rtol=1e-6)
    assert probs[0] == np.float32(0.9)
    assert probs[35] == pytest.approx(0.5)
    assert probs[69] > 0.11
    np.testing.assert_allclose(probs[70:], 0.1, rtol=1e-6)
    other = config.Sample(block_prob_max=0.8, block_prob_min=0.2, anneal_share=1.0)
    np.testing.assert_allclose(gibbs.anneal_block_prob(other, 4), [0.8, 0.65, 0.5, 0.35], rtol=1e-6)
    assert gibbs.anneal_block_prob(settings, 1).tolist() == [np.float32(0.9)]


def test_number_of_steps_is_one_a_free_variable_of_the_fullest_chain():
    free = np.zeros((3, 4, 4), bool)
    assert gibbs.num_steps(config.Sample(), free) == 1
    free[1, :3] = True
    free[2, 0, 0] = True
    assert gibbs.num_steps(config.Sample(), free) == 12
    assert gibbs.num_steps(config.Sample(num_steps=5), free) == 5


def test_the_rule_of_thumb_counts_the_fullest_stretch_of_a_long_piece():
    free = np.zeros((1, 1000, 4), bool)
    free[0, :, 0] = True
    assert gibbs.num_steps(config.Sample(), free) == 64
    free[0, 500:550] = True
    assert gibbs.num_steps(config.Sample(), free) == 64 + 3 * 50
    assert gibbs.num_steps(config.Sample(), free[:, :32]) == 32


def test_voices_written_to_a_given_one_take_half_as_many():
    free = np.zeros((1, 64, 4), bool)
    free[0, :, 1:] = True
    assert gibbs.num_steps(config.Sample(), free) == 96
    assert gibbs.num_steps(config.Sample(), free[:, :, ::-1]) == 96
    assert gibbs.num_steps(config.Sample(), free & (np.arange(4) == 2)) == 64  # one voice: nothing else moves with it
    free[0, 5, 0] = True
    assert gibbs.num_steps(config.Sample(), free) == 193
    assert gibbs.num_steps(config.Sample(num_steps=300), free) == 300


def test_a_run_starts_by_drawing_everything_hidden():
    inputs = gibbs.annealed_inputs(config.Sample(block_prob_max=0.9), 2)
    assert inputs.number.tolist() == [0, 1, 2]
    np.testing.assert_allclose(inputs.block_prob[:2], [0.0, 0.9], rtol=1e-6)


# -------------------------------------------------------------------------------------------------- blocks

COUNT, STEPS = 400, 24


@pytest.mark.parametrize("kind", ["variables", "runs", "frames", "voices"])
def test_blocks_are_subsets_of_what_is_free(kind):
    rng = np.random.default_rng(0)
    free = jnp.asarray(rng.random((COUNT, STEPS, 4)) < 0.6)
    keys = samplers.chain_keys(0, np.arange(COUNT))
    valid = jnp.ones((COUNT, STEPS), bool)
    for prob in (0.1, 0.7):
        block = gibbs.choose_block(kind, keys, free, valid, jnp.float32(prob))
        assert not np.asarray(block & ~free).any()
        # The number of units that decide settles the spread.
        units = {"variables": int(free.sum()), "runs": COUNT * STEPS * 4 / 8, "frames": COUNT * STEPS}
        if kind != "voices":  # which never takes none
            spread = 4 * (prob * (1 - prob) / units[kind]) ** 0.5
            assert abs(float(block.sum()) / float(free.sum()) - prob) < spread
    np.testing.assert_array_equal(gibbs.choose_block(kind, keys, free, valid, jnp.float32(2.0)), free)


def everything(steps: int = STEPS) -> tuple:
    return jnp.ones((COUNT, steps, 4), bool), jnp.ones((COUNT, steps), bool)


def test_runs_are_four_steps_or_longer():
    for steps in (STEPS, 9, 5, 3):
        free, valid = everything(steps)
        keys = samplers.chain_keys(0, np.arange(COUNT))
        block = np.asarray(gibbs.choose_block("runs", keys, free, valid, jnp.float32(0.4)))
        lengths = []
        for row in block.transpose(0, 2, 1).reshape(-1, steps):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
            lengths += (edges[1::2] - edges[::2]).tolist()
        assert min(lengths) >= min(gibbs.MIN_RUN, steps)
        assert len(set(lengths)) > (3 if steps == STEPS else 0)
        if steps == STEPS:
            starts = block[:, 1:] & ~block[:, :-1]
            assert (starts.sum(axis=(0, 2)) > 0)[3:-4].all()  # anywhere, not on a fixed grid
            voices_agree = (block[..., 0] == block[..., 1]).mean()
            assert voices_agree < 0.65  # each voice is cut on its own


def test_runs_end_with_the_piece():
    free, valid = everything()
    valid = valid.at[:, 10:].set(False)
    free = free & valid[..., None]
    keys = samplers.chain_keys(0, np.arange(COUNT))
    block = np.asarray(gibbs.choose_block("runs", keys, free, valid, jnp.float32(0.5)))
    row_ends = block[:, 6:10].any(axis=1) & ~block[:, :10].all(axis=1)
    tails = block[:, :10].transpose(0, 2, 1).reshape(-1, 10)
    ends_open = tails[tails[:, 9] & ~tails.all(axis=1)]
    run = np.argmin(ends_open[:, ::-1], axis=1)  # length of the run at the end
    assert row_ends.any() and run.min() >= gibbs.MIN_RUN


def test_frames_and_voices_are_whole():
    free, valid = everything()
    keys = samplers.chain_keys(0, np.arange(COUNT))
    frames = np.asarray(gibbs.choose_block("frames", keys, free, valid, jnp.float32(0.4)))
    assert (frames == frames[..., :1]).all() and 0.3 < frames.mean() < 0.5
    voices = np.asarray(gibbs.choose_block("voices", keys, free, valid, jnp.float32(0.05)))
    assert (voices == voices[:, :1]).all() and voices.any(axis=(1, 2)).all()
    only_bass = jnp.zeros_like(free).at[..., 3].set(True)
    assert np.asarray(gibbs.choose_block("voices", keys, only_bass, valid, jnp.float32(0.05))).any(axis=(1, 2)).all()


def test_a_sweep_visits_every_cell_once_and_no_two_neighbours_at_once():
    settings = config.Sample(finish_sweeps=2, finish_stride=8, finish_temperature=0.5)
    inputs = gibbs.colouring_inputs(settings, 4, first_number=100)
    assert inputs.number.tolist() == list(range(100, 164)) and (inputs.temperature == np.float32(0.5)).all()
    free = jnp.ones((1, STEPS, 4), bool)
    for sweep in (inputs.colour[:32], inputs.colour[32:]):
        blocks = np.stack([np.asarray(gibbs.choose_colour(free, jnp.int32(c), 8))[0] for c in sweep])
        assert (blocks.sum(axis=0) == 1).all()
        for block in blocks:
            times, voices = np.nonzero(block)
            assert len(set(voices)) == 1 and (np.diff(times) == 8).all()
    assert inputs.colour[:32].tolist() != inputs.colour[32:].tolist()


def test_levels_of_upsampling_part_the_grid():
    free = jnp.ones((1, 16, 4), bool)
    levels = [np.asarray(gibbs.at_level(free, jnp.int32(f), jnp.int32(0)))[0, :, 0] for f in gibbs.UPSAMPLING_FACTORS]
    np.testing.assert_array_equal(np.stack(levels).sum(axis=0), 1)
    assert np.flatnonzero(levels[0]).tolist() == [0, 4, 8, 12]
    assert np.flatnonzero(levels[1]).tolist() == [2, 6, 10, 14]
    after_pickup = np.asarray(gibbs.at_level(free, jnp.int32(4), jnp.int32(2)))[0, :, 0]
    assert np.flatnonzero(after_pickup).tolist() == [2, 6, 10, 14]
    assert np.asarray(gibbs.at_level(free, jnp.int32(0), jnp.int32(0))).all()


def test_gaps_repeat_the_note_before_where_there_is_one():
    pitches = jnp.full((1, 8, 4), -1, jnp.int8).at[0, 0].set(60).at[0, 4, 0].set(62)
    hidden = jnp.ones((1, 8, 4), bool).at[0, 0].set(False).at[0, 4].set(False)  # voices 1 to 3 rest at step 4
    held, still = gibbs.hold(pitches, hidden, jnp.int32(2), jnp.int32(0))
    assert held[0, :, 0].tolist() == [60, -1, 60, -1, 62, -1, 62, -1]
    assert held[0, :, 1].tolist() == [60, -1, 60, -1, -1, -1, -1, -1]
    assert np.flatnonzero(np.asarray(still)[0, :, 0]).tolist() == [1, 3, 5, 7]
    assert np.flatnonzero(np.asarray(still)[0, :, 1]).tolist() == [1, 3, 5, 6, 7]


def test_upsampling_has_three_levels_of_calls():
    inputs = gibbs.upsampling_inputs(config.Sample(), 30)
    assert inputs.number.tolist() == list(range(31))
    assert inputs.factor.tolist() == [4] * 11 + [2] * 10 + [1] * 10
    assert np.flatnonzero(inputs.repeat).tolist() == [11, 21]
    short = gibbs.upsampling_inputs(config.Sample(), 1)  # every level is drawn all the same
    assert set(short.factor.tolist()) == {4, 2, 1}
