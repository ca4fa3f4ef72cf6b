"""Tests of coconet_jax.judge.fit: what is drawn, that it learns, keeps the best and repeats itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import errors, pianoroll
from coconet_jax.judge import calibration, fit, network

TINY = network.Config(features=8, stem_features=4, dilations=(1,), groups=2, dropout=0.0)
DRAW = jax.jit(fit.draw_batch, static_argnames="settings")
QUICK = fit.Settings(
    num_members=2, num_steps=60, batch_size=32, learning_rate=0.02, warmup_steps=5, ema_decay=0.8, eval_every=30
)


def make_windows(count: int, steps: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Held chords (class 0) and chords that change at every step (class 1)."""
    rng = np.random.default_rng(seed)
    low = np.array([62, 56, 50, 42])
    changing = low + rng.integers(0, 7, (count, steps, 4))
    labels = np.arange(count) % 2
    pitches = np.where(labels[:, None, None] == 0, changing[:, :1], changing)
    return pitches.astype(np.int8), labels


@pytest.fixture(scope="module")
def sets() -> tuple[fit.Examples, fit.Examples]:
    return fit.make_examples(*make_windows(200)), fit.make_examples(*make_windows(20, seed=1))


def test_it_learns_and_keeps_the_best(sets: tuple[fit.Examples, fit.Examples]) -> None:
    train, valid = sets
    reports: list[tuple[int, dict[str, float]]] = []
    fitted = fit.fit(train, valid, TINY, QUICK, report=lambda step, numbers: reports.append((step, numbers)))
    assert [step for step, _ in reports] == [30, 60]
    logits = fit.predict(fitted.params, TINY, valid.pitches).logits
    assert logits.shape == (2, 20, 2)
    assert (logits.argmax(-1) == valid.labels).mean() > 0.9
    # What is said of the members is true of the parameters that were kept.
    for member, loss in zip(logits, fitted.loss_nats, strict=True):
        temperature = calibration.fit_temperature(member, valid.labels, valid.weights)
        tempered = calibration.log_softmax(member, temperature)
        assert loss == pytest.approx(calibration.nll_nats(tempered, valid.labels, valid.weights), abs=1e-4)
    assert set(fitted.step) <= {30, 60}
    # Members differ; the same settings give the same parameters again.
    assert np.abs(logits[0] - logits[1]).max() > 0.01
    again = fit.fit(train, valid, TINY, QUICK)
    jax.tree.map(np.testing.assert_array_equal, fitted, again)
    stopped = fit.fit(train, valid, TINY, QUICK, interrupted=lambda step: step == 30)
    np.testing.assert_array_equal(stopped.step, 30)


def test_batches_are_drawn_by_weight_and_stay_in_range() -> None:
    pitches, labels = make_windows(4, steps=8)
    weights = np.array([1.0, 0.0, 3.0, 0.0])
    examples = jax.tree.map(jnp.asarray, fit.make_examples(pitches, labels, weights=weights))
    settings = fit.Settings(batch_size=400, crop_steps=5)
    notes, valid, drawn = DRAW(jax.random.key(0), examples, settings)
    assert notes.shape == (400, 5, 4) and valid.all() and not drawn.any()
    # Held chords tell the window by its intervals: a quarter of the draws are of window 0.
    intervals = np.asarray(notes[:, 0, 0] - notes[:, 0, 1])
    first = pitches[0, 0, 0] - pitches[0, 0, 1]
    assert first != pitches[2, 0, 0] - pitches[2, 0, 1]
    assert 70 < (intervals == first).sum() < 130
    for voice, (low, high) in enumerate(pianoroll.VOICE_RANGES):
        assert notes[..., voice].min() >= low and notes[..., voice].max() <= high
    room = np.asarray(examples.room[0])
    shifts = np.unique(np.asarray(notes)[intervals == first][:, 0, 0] - pitches[0, 0, 0])
    assert shifts.min() == room[0] and shifts.max() == room[1]


def test_crops_start_anywhere() -> None:
    pitches = np.arange(8)[None, :, None] + np.array([60, 55, 50, 40])
    examples = jax.tree.map(jnp.asarray, fit.make_examples(pitches, np.array([0])))
    notes, _, _ = DRAW(jax.random.key(1), examples, fit.Settings(batch_size=100, crop_steps=6))
    still = examples._replace(room=jnp.zeros((1, 2), jnp.int32))
    unmoved, _, _ = DRAW(jax.random.key(1), still, fit.Settings(batch_size=100, crop_steps=6))
    assert set(np.asarray(unmoved[:, 0, 0]).tolist()) == {60, 61, 62}
    assert len(set(np.asarray(notes[:, 0, 0]).tolist())) > 3


def test_labels_weigh_alike_unless_told() -> None:
    pitches, _ = make_windows(4)
    examples = fit.make_examples(pitches, np.array([0, 1, 1, 1]))
    np.testing.assert_allclose(examples.weights, [1 / 2, 1 / 6, 1 / 6, 1 / 6])


def test_padding_holds_no_notes_and_is_moved_nowhere() -> None:
    pitches, labels = make_windows(2, steps=8)
    valid = np.arange(8)[None] < np.array([[8], [5]])
    examples = fit.make_examples(pitches, labels, valid=valid)
    assert (examples.pitches[1, 5:] == pianoroll.REST).all()
    notes, inside, _ = DRAW(jax.random.key(2), jax.tree.map(jnp.asarray, examples), fit.Settings())
    assert (np.asarray(notes)[~np.asarray(inside)] == pianoroll.REST).all() and not inside.all()


def test_predictions_do_not_depend_on_the_company() -> None:
    params = fit.create(QUICK, TINY).params
    pitches, _ = make_windows(70)
    every = fit.predict(params, TINY, pitches)
    some = fit.predict(params, TINY, pitches[66:])
    for whole, part in zip(every, some, strict=True):
        np.testing.assert_array_equal(whole[:, 66:], part)


def test_unusable_examples_are_refused(sets: tuple[fit.Examples, fit.Examples]) -> None:
    train, valid = sets
    with pytest.raises(errors.InputError, match="valid has no windows, or labels above 1"):
        fit.fit(train, valid._replace(labels=valid.labels + 1), TINY, QUICK)
    with pytest.raises(errors.InputError, match="crop_steps=13: windows have 12"):
        fit.fit(train, valid, TINY, fit.Settings(crop_steps=13))
    with pytest.raises(errors.InputError, match="num_members=0: use 1 or more"):
        fit.Settings(num_members=0)
