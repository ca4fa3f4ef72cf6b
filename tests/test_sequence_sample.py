"""Sampling from the LSTM: its law, chains of their own, strings that decode, files that load."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_lstm

from coconet_jax import checkpoint, events, lstm, samples, sequence_sample
from coconet_jax import state as state_lib

CONFIG = test_lstm.tiny(num_layers=1)


@pytest.fixture(scope="module")
def variables() -> Any:
    return test_lstm.variables_of(CONFIG)


def drawn(variables, ids, **fields) -> np.ndarray:
    config = fields.pop("config", CONFIG)
    given = {"seed": 3, "num_steps": 20, "micro_batch": 4, **fields}
    return sequence_sample.draw(variables, config, np.asarray(ids, np.int64), **given)


@pytest.mark.parametrize("order", list(events.ORDERS))
def test_what_comes_out_decodes_to_the_steps_asked_for(variables, order):
    """Weights without music: `decode` takes only what `encode` writes."""
    made = drawn(variables, range(10), config=dataclasses.replace(CONFIG, order=order), temperature=2.0)
    assert made.shape == (10, 20, 4) and made.dtype == np.int16
    assert len(np.unique(made, axis=0)) == 10
    assert ((made == -1) | ((made >= 36) & (made <= 81))).all()


def test_a_chain_depends_on_its_number_alone(variables):
    made = drawn(variables, range(10))
    np.testing.assert_array_equal(drawn(variables, [7]), made[7:8])
    np.testing.assert_array_equal(drawn(variables, range(10), micro_batch=8), made)
    assert (drawn(variables, [7], seed=4) != made[7:8]).any()
    np.testing.assert_array_equal(
        drawn(variables, [3, 9], greedy=(0.2, 0.9)), drawn(variables, range(10), greedy=(0.2, 0.9))[[3, 9]]
    )


def test_scores_come_out_as_often_as_the_law_says(monkeypatch):
    config = test_lstm.tiny(num_layers=1, num_units=9)  # of its own: what is compiled for it holds the small world
    monkeypatch.setattr(events, "allowed", test_lstm.only([1], [50, 52]))
    variables = test_lstm.variables_of(config)
    made = drawn(variables, range(4096), config=config, num_steps=3, micro_batch=4096)
    scores = test_lstm.every_score([1], [50, 52], 3)
    law = np.exp(test_lstm.total_log_probs(variables, config, scores))
    often = (made[:, None] == scores[None]).all(axis=(2, 3)).mean(axis=0)
    assert often.sum() == pytest.approx(1)
    np.testing.assert_allclose(often, law, atol=0.03)
    assert 0.05 < law.max() < 0.9


def test_the_likeliest_token_is_taken_by_each_chains_own_chance(variables):
    always = drawn(variables, range(6), greedy=(1.0, 1.0))
    np.testing.assert_array_equal(always, np.repeat(always[:1], 6, axis=0))
    np.testing.assert_array_equal(drawn(variables, range(2), seed=9, greedy=(1.0, 1.0)), always[:2])
    # Nearly always the likeliest, for a temperature near 0.
    np.testing.assert_array_equal(drawn(variables, range(2), temperature=1e-4), always[:2])
    # The first token of chains that are greedy by halves: about half of them have the likeliest.
    keys = jax.random.split(jax.random.key(0), 400)
    chances = jnp.repeat(jnp.array([0.0, 0.5, 1.0, 0.5]), 100)
    first = np.asarray(
        sequence_sample.draw_strings(variables, keys, chances, jnp.float32(1.0), config=CONFIG, num_steps=1)
    )[:, 0].reshape(4, 100)
    likeliest = first[2, 0]
    share = (first == likeliest).mean(axis=1)
    assert share[2] == 1 and share[0] < 0.6
    np.testing.assert_allclose(share[[1, 3]], 0.5 + share[0] / 2, atol=0.17)


@pytest.fixture(scope="module")
def run(variables, tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("run")
    config = lstm.read_config({"model": dataclasses.asdict(CONFIG)})
    manager = checkpoint.open_run(folder)
    state = state_lib.begin(variables, config.train)
    checkpoint.save(manager, state, variables, config, "data", 1.0, kind=lstm.KIND)
    manager.close()
    return str(folder)


def test_the_command_writes_samples_that_load_and_can_be_added_to(run, variables, tmp_path, capsys):
    words = [f"--checkpoint={run}", f"--out={tmp_path / 'out'}", "--steps=16", "--chunk_size=4", "--micro_batch=4"]
    sequence_sample.main([*words, "--num_samples=6", "--greedy=0,0.5", "--seed=2"])
    few = samples.load_samples(tmp_path / "out")
    sequence_sample.main([*words, "--num_samples=9", "--greedy=0,0.5", "--seed=2"])
    more = samples.load_samples(tmp_path / "out")
    np.testing.assert_array_equal(more.pitches[:6], few.pitches)
    by_hand = drawn(variables, range(9), seed=2, num_steps=16, greedy=(0.0, 0.5))
    np.testing.assert_array_equal(more.pitches, by_hand)
    assert more.sample_id.tolist() == list(range(9)) and more.seed == 2 and not more.given.any()
    assert "wrote 3 files" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        sequence_sample.main([*words, "--num_samples=9", "--temperature=0.9", "--seed=2"])
    assert "another run, with other settings.greedy" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "complaint"),
    [
        ("--num_samples=0", "--num_samples=0: use 1 to"),
        ("--temperature=0", "--temperature=0.0: use a value above 0"),
        ("--greedy=0.5,0.1", "--greedy=0.5,0.1: use a number in"),
        ("--greedy=much", "--greedy=much: use a number in"),
        ("--steps=0", "steps=0"),
        ("--checkpoint=", "--checkpoint is missing"),
    ],
)
def test_bad_flags_are_one_line(run, tmp_path, capsys, flag, complaint):
    with pytest.raises(SystemExit, match="2"):
        sequence_sample.main([f"--checkpoint={run}", f"--out={tmp_path}", flag])
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1
