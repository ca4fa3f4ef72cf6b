"""The surprise of notes: equal to direct passes over the whole piece, and told in words that fit the score."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import model, pianoroll, score, surprise


@pytest.fixture
def piece() -> score.Score:
    """Three bars of 3/4 after a pick-up of a quarter; a repeated note in the alto, a rest in the tenor."""
    rng = np.random.default_rng(0)
    pitches = np.repeat(np.array([64, 60, 52, 45]) + rng.integers(0, 8, (10, 4)), 4, axis=0).astype(np.int16)
    pitches[4:12, 1] = 67
    pitches[20:24, 2] = -1
    onset = pianoroll.onsets_where_pitch_changes(pitches)
    onset[8, 1] = True
    return score.Score(pitches, onset, (3, 4), 4)


def find(tiny_config, tiny_variables, piece, batch_size=7):
    done: list[int] = []
    notes = surprise.find(tiny_variables, tiny_config.model, piece, batch_size=batch_size, advance=done.append)
    assert sum(done) == (piece.pitches != -1).sum()
    return notes


def test_a_note_costs_what_filling_its_gap_costs(tiny_config, tiny_variables, piece):
    notes = find(tiny_config, tiny_variables, piece)
    predict = model.make_predict(tiny_variables, tiny_config.model)
    roll = pianoroll.from_pitches(jnp.asarray(piece.pitches))[None]
    for note in (notes[0], next(n for n in notes if n.voice == 1 and n.start == 8), notes[-1]):
        total = 0.0
        for step in range(note.start, note.end):
            context = np.ones((1, 40, 4), bool)
            context[0, step : note.end, note.voice] = False
            logits = predict(roll, jnp.asarray(context), jnp.ones((1, 40), bool))[0, step, :, note.voice]
            log_probs = np.asarray(jax.nn.log_softmax(logits))
            if step == note.start:
                assert note.prob == pytest.approx(np.exp(log_probs[note.pitch - 36]), rel=1e-4)
                assert note.likeliest == 36 + log_probs.argmax()
                assert note.likeliest_prob == pytest.approx(np.exp(log_probs.max()), rel=1e-4)
            total += log_probs[note.pitch - 36]
        assert note.log_prob == pytest.approx(total, abs=1e-4)


def test_a_net_that_knows_beats_is_told_of_the_pickup(beating_config, beating_variables, piece):
    late = dataclasses.replace(piece, pickup_steps=3)
    note = find(beating_config, beating_variables, late)[-1]
    context = np.ones((1, 40, 4), bool)
    context[0, note.start : note.end, note.voice] = False
    roll = pianoroll.from_pitches(jnp.asarray(piece.pitches))[None]
    predict = model.make_predict(beating_variables, beating_config.model)
    probs = [
        float(
            jax.nn.softmax(predict(roll, jnp.asarray(context), jnp.ones((1, 40), bool), first)[0, :, :, note.voice])[
                note.start, note.pitch - 36
            ]
        )
        for first in (-3, 0, 3)
    ]
    assert note.prob == pytest.approx(probs[0], rel=1e-4)
    assert abs(np.log(probs[1:]) - np.log(probs[0])).min() > 0.01


def test_notes_are_those_of_the_score_whatever_the_batch(tiny_config, tiny_variables, piece):
    notes = find(tiny_config, tiny_variables, piece)
    cells = np.full(piece.pitches.shape, -1)
    for note in notes:
        assert (cells[note.start : note.end, note.voice] == -1).all()
        cells[note.start : note.end, note.voice] = note.pitch
    np.testing.assert_array_equal(cells, piece.pitches)
    assert [(n.start, n.end) for n in notes if n.voice == 1][1:3] == [(4, 8), (8, 12)]  # struck again
    other = find(tiny_config, tiny_variables, piece, batch_size=64)
    np.testing.assert_allclose([n.log_prob for n in notes], [n.log_prob for n in other], atol=1e-5)


def test_descriptions_count_bars_and_beats(piece):
    note = score.NoteSurprise(3, 18, 20, 48, -2.5, 0.1, 50, 0.6)
    found = surprise.describe(note, piece)
    assert (found["voice"], found["bar"], found["beat"], found["name"], found["likeliest"]) == (
        "bass",
        2,
        1.5,
        "C3",
        "D3",
    )
    assert surprise.describe(note._replace(start=0), piece)["bar"] == 0  # the pick-up
    assert surprise.describe(note._replace(start=0), piece)["beat"] == 3
