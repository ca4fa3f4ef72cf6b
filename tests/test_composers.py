"""The composer classifier: its scores on tables with known answers, calibration, training on a toy."""

import math

import jax
import numpy as np
import pytest

from coconet_jax import corpus, errors, render, work_windows, works
from coconet_jax.judge import calibration, composers, fit, network, sets

CERTAIN = 1e-12


def certain(labels: list[int]) -> np.ndarray:
    """Log-probabilities of a classifier that is sure of these classes."""
    return calibration.log_softmax(np.eye(3)[labels] * -math.log(CERTAIN))


def toy_windows(composer: list[int], work: list[str]) -> work_windows.Windows:
    """A window of each composer, who can be told by how long his notes last, and the work it is from."""
    count = len(composer)
    turns = np.arange(64)[None] // np.array([2, 4, 8, 8, 8, 8, 8])[composer][:, None] % 2
    pitches = (np.array([70, 64, 57, 50]) + 2 * turns[..., None]).astype(np.int8)
    column = np.array(work)
    return work_windows.Windows(
        pitches,
        np.tile(np.array([-3, 3], np.int8), (count, 1)),
        np.array(composer, np.int16),
        np.ones(count, np.float32),
        np.zeros(count, np.float32),
        column,
        column,
    )


@pytest.mark.parametrize(
    ("log_probs", "expected"),
    [
        (certain([0, 1, 2]), 3.0),
        (certain([0, 0, 1, 1]), 2.0),
        (certain([0, 0, 0]), 1.0),
        (np.log(np.full((5, 3), 1 / 3)), 1.0),
        # p = (.8, .1, .1) and (.1, .8, .1): p(y) = (.45, .45, .1), KL = .8 ln(.8/.45) + .1 ln(.1/.45).
        (np.log([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]), math.exp(0.8 * math.log(0.8 / 0.45) + 0.1 * math.log(0.1 / 0.45))),
    ],
)
def test_inception_score_of_known_sets(log_probs, expected):
    assert composers.inception_score(log_probs) == pytest.approx(expected, abs=1e-6)


def test_error_of_a_mean_is_its_standard_error():
    """The jackknife of a mean over single windows is s / sqrt(n)."""
    rows = calibration.log_softmax(np.random.default_rng(0).normal(size=(50, 3)))
    found = composers.score(rows, np.arange(50))
    assert found.log_p_bach.value == pytest.approx(rows[:, 0].mean())
    assert found.log_p_bach.error == pytest.approx(rows[:, 0].std(ddof=1) / math.sqrt(50))
    assert (found.num_windows, found.num_groups) == (50, 50)
    np.testing.assert_allclose(found.shares, np.exp(rows).mean(axis=0))


def test_windows_of_a_piece_count_once():
    """Every window four times over: the same error, not half of it."""
    rows = calibration.log_softmax(np.random.default_rng(1).normal(size=(40, 3)))
    once = composers.score(rows, np.arange(40))
    four = composers.score(np.repeat(rows, 4, axis=0), np.repeat(np.arange(40), 4))
    for name in ("inception", "log_p_bach"):
        assert getattr(four, name).value == pytest.approx(getattr(once, name).value)
        assert getattr(four, name).error == pytest.approx(getattr(once, name).error)
    assert once.inception.error > 0
    assert math.isnan(composers.score(rows, np.zeros(40, int)).inception.error)


def test_error_of_the_inception_score_is_that_of_repeated_draws():
    rng = np.random.default_rng(2)
    pool = calibration.log_softmax(2 * rng.normal(size=(20_000, 3)))
    draws = [pool[rng.integers(len(pool), size=150)] for _ in range(300)]
    spread = np.std([composers.inception_score(rows) for rows in draws])
    claimed = np.mean([composers.score(rows, np.arange(150)).inception.error for rows in draws[:20]])
    assert claimed == pytest.approx(spread, rel=0.15)


def test_temperature_undoes_overconfidence():
    rng = np.random.default_rng(3)
    truth = calibration.log_softmax(1.5 * rng.normal(size=(20_000, 3)))
    labels = np.array([rng.choice(3, p=row) for row in np.exp(truth)])
    weights = np.ones(len(labels))
    assert calibration.fit_temperature(3 * truth, labels, weights) == pytest.approx(3.0, rel=0.05)
    good, bad = np.exp(truth), np.exp(calibration.log_softmax(3 * truth))
    assert (
        calibration.expected_error(good, labels, weights)
        < 0.02
        < 0.1
        < calibration.expected_error(bad, labels, weights)
    )
    assert calibration.brier(good, labels, weights) < calibration.brier(bad, labels, weights)


def test_calibration_by_hand():
    """0.9 sure and right, 0.9 sure and wrong, 0.6 sure and right with a weight of 2."""
    probs = np.array([[0.9, 0.1, 0.0], [0.9, 0.1, 0.0], [0.2, 0.2, 0.6]])
    labels, weights = np.array([0, 1, 2]), np.array([1.0, 1.0, 2.0])
    # |0.5 - 0.9| on half of the weight, |1 - 0.6| on the other.
    assert calibration.expected_error(probs, labels, weights) == pytest.approx(0.4)
    assert calibration.brier(probs, labels, weights) == pytest.approx((0.02 + 1.62 + 2 * 0.24) / 4)
    log_probs = np.log(np.maximum(probs, CERTAIN))
    assert calibration.nll_nats(log_probs, labels, weights) == pytest.approx(
        -(math.log(0.9) + math.log(0.1) + 2 * math.log(0.6)) / 4
    )


def test_evaluation_of_a_known_classifier(monkeypatch):
    """Bach: 3 of 4 right; Palestrina: 1 of 2; quartets: 3 of 3. By work: Bach 1 of 2, the others all."""
    windows = toy_windows(
        [0, 0, 0, 0, 1, 1, 2, 3, 4, 6], ["a", "a", "a", "b", "c", "c", "haydn", "mozart", "beethoven", "trecento"]
    )
    guesses = np.array([0, 0, 0, 1, 1, 2, 2, 2, 2])
    sure = np.array([1.0, 1, 1, 1, 3, 1, 1, 1, 1])  # of mass c the window that is right is the surer one

    def logits(config, params, pitches):
        assert len(pitches) == len(guesses)  # the trecento window is not the classifier's business
        return np.eye(3)[guesses] * sure[:, None]

    monkeypatch.setattr(composers, "_logits", logits)
    classifier = composers.Classifier(network.Config(), {}, 2.0, {})
    report = composers.evaluate(classifier, windows, num_draws=200)
    assert report.confusion.tolist() == [[3, 1, 0], [0, 1, 1], [0, 0, 3]]
    assert report.accuracy.value == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert report.work_accuracy.value == pytest.approx((1 / 2 + 1 + 1) / 3)
    # A class's accuracy varies with its works alone: Bach's 3/4 is drawn as 1, 3/4 or 0 (1/4, 1/2, 1/4).
    assert report.accuracy.error == pytest.approx(math.sqrt(1 / 4 + 9 / 32 - (5 / 8) ** 2) / 3, rel=0.15)
    assert report.nll_nats != report.raw_nll_nats


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny classifier of toy windows, and its file."""
    path = tmp_path_factory.mktemp("classifier") / "toy.npz"
    part = toy_windows([0, 0, 0, 1, 1, 2], [*"abcdef"])
    settings = fit.Settings(num_members=2, num_steps=40, batch_size=12, warmup_steps=5, eval_every=20)
    config = network.Config(num_classes=3, features=8, stem_features=4, dilations=(1, 2), groups=2, dropout=0.0)
    windows = {"train": part, "valid": part}
    return composers.train(windows, path, settings, config=config), path


def test_training_on_a_toy(trained):
    classifier, path = trained
    unseen = toy_windows([2, 1, 0, 3, 4], [*"ghijk"])
    unseen = unseen._replace(pitches=unseen.pitches - 2)
    report = composers.evaluate(classifier, unseen, num_draws=10)
    assert report.confusion.tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 3]]
    assert report.nll_nats < 0.5
    again = composers.load(path)
    assert again.header["classes"] == ["bach", "palestrina", "quartets"] and again.header["settings"]["num_steps"] == 40
    assert again.temperature == classifier.temperature != 1.0
    np.testing.assert_array_equal(
        composers.log_probs(again, unseen.pitches), composers.log_probs(classifier, unseen.pitches)
    )
    np.testing.assert_allclose(np.exp(composers.log_probs(again, unseen.pitches)).sum(axis=1), 1.0, atol=1e-6)


def test_classes_are_drawn_equally_often_whatever_their_width():
    """Narrow: two of Bach's and one of Palestrina's; wide: one of Bach's and two quartets."""
    windows = toy_windows([0, 0, 1, 0, 2, 4, 5], [*"abcdefg"])
    wide = [3, 4, 5]
    windows.pitches[wide, :, 3] -= 13  # from 37 to 72
    examples = composers.make_examples(windows)
    assert examples.labels.tolist() == [0, 0, 1, 0, 2, 2]
    np.testing.assert_allclose(examples.weights, [1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 8, 1 / 8], rtol=1e-6)
    np.testing.assert_array_equal(examples.pitches, windows.pitches[:6])
    assert examples.room.tolist() == [[-3, 3]] * 6


def test_other_classes_are_held_over_as_much_as_palestrina():
    windows = toy_windows([0, 0, 1, 2, 2], [*"abcde"])
    windows.filled[:] = [0, 0, 12 / 256, 0, 0.01]
    found, _ = composers.fair(windows)
    changed = (found.pitches != windows.pitches).sum(axis=(1, 2))
    assert changed[[2, 4]].tolist() == [0, 0]  # theirs are real
    # A note that is held into one that is held on itself may give back a cell.
    assert (changed[[0, 1, 3]] > 6).all() and (changed <= 12).all()
    np.testing.assert_allclose(found.filled[[0, 1, 3]], changed[[0, 1, 3]] / 256)


def test_holding_over():
    """A quarter's worth of the note before, at the start of the next one, and no cell more than asked for."""
    window = np.array([[70, 60, 55, 40]] * 8 + [[72, 60, 55, 40]] * 8, np.int8)
    seen = set()
    for seed in range(40):
        held = composers.hold_over(np.random.default_rng(seed), window, 12)
        late = int((held[:, 0] == 70).sum()) - 8
        np.testing.assert_array_equal(held[:, 0], [70] * (8 + late) + [72] * (8 - late))
        np.testing.assert_array_equal(held[:, 1:], window[:, 1:])
        seen.add(late)
    assert seen == {1, 2, 3, 4}
    assert (composers.hold_over(np.random.default_rng(0), window, 1) != window).sum() == 1
    np.testing.assert_array_equal(composers.hold_over(np.random.default_rng(0), window, 0), window)


def test_a_class_without_windows_is_named(tmp_path):
    part = toy_windows([0, 1], ["a", "b"])
    with pytest.raises(errors.InputError, match="train has no windows of quartets; prepare all works"):
        composers.train({"train": part, "valid": part}, tmp_path / "c.npz", fit.Settings())


def test_other_classes_are_refused(trained, monkeypatch):
    monkeypatch.setattr(composers, "CLASSES", ("bach", "handel", "telemann"))
    with pytest.raises(errors.InputError, match="train one for bach, handel, telemann"):
        composers.load(trained[1])


def test_the_shipped_classifier_knows_bach():
    """A test chorale is Bach's; its voices shuffled in time are less so."""
    classifier = composers.load()
    assert classifier.config == composers.NETWORK
    row = next(row for row in corpus.table()["splits"]["test"] if row["name"] == "bwv393")
    pitches = corpus.build(row["name"], row).pitches
    windows = np.stack([pitches[start : start + works.WINDOW] for start in range(0, len(pitches) - works.WINDOW, 16)])
    real = composers.log_probs(classifier, windows)
    assert real.argmax(axis=1).tolist() == [composers.BACH] * len(windows)
    damaged = composers.log_probs(classifier, sets.draw_uniform(np.random.default_rng(0), windows))
    assert damaged[:, composers.BACH].mean() < real[:, composers.BACH].mean() - 0.5
    assert composers.SHIPPED.stat().st_size < 1_500_000
    rows = composers.features(classifier, windows)
    members = len(jax.tree.leaves(classifier.params)[0])
    assert rows.shape == (len(windows), members * 2 * classifier.config.features)  # mean and maximum of each
    scaled = composers.fit_features(classifier, windows)(windows)
    spread = rows.std(axis=0, ddof=1)
    expected = np.clip((rows - rows.mean(axis=0))[:, spread > 0] / spread[spread > 0], -3, 3)
    np.testing.assert_allclose(scaled[:, spread > 0], expected, atol=1e-6)
    first = jax.tree.map(lambda leaf: leaf[:1], classifier.params)
    alone = composers.features(classifier._replace(params=first), windows)
    np.testing.assert_allclose(alone, rows[:, : rows.shape[1] // members], rtol=1e-4, atol=1e-6)


def test_confusion_is_drawn(tmp_path):
    path = tmp_path / "confusion.png"
    render.write_confusion(path, np.array([[3, 1], [0, 0]]), ["a", "nobody"], ["a", "b"], "title")
    assert path.read_bytes().startswith(b"\x89PNG")
