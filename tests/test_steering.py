"""Soft priors: their values on cases made by hand, and that each does more the stronger it is."""

import conftest
import numpy as np
import pytest

from coconet_jax import errors, pianoroll, score, steering

PITCHES = np.arange(pianoroll.MIN_PITCH, pianoroll.MAX_PITCH + 1)
PIECE = score.from_pitches(np.array([[72, 64, 55, 48]] * 4 + [[71, 62, -1, 43]] * 8), pickup_steps=4, meter=(2, 4))
RANGES = ((60, 79), (55, 72), (48, 67), (40, 62))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over pitches, axis 1."""
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    return weights / weights.sum(axis=1, keepdims=True)


def test_neutral_is_off():
    off = steering.neutral(6)
    assert off.bias.shape == (6, 46, 4) and off.temperature.shape == (6, 4)
    assert not off.bias.any() and (off.temperature == 1).all()
    assert off.bias.dtype == off.temperature.dtype == np.float32


@pytest.mark.parametrize(
    "name, classes",
    [
        ("C major", {0, 2, 4, 5, 7, 9, 11}),
        ("G major", {7, 9, 11, 0, 2, 4, 6}),
        ("Bb major", {10, 0, 2, 3, 5, 7, 9}),
        ("bb Major", {10, 0, 2, 3, 5, 7, 9}),
        ("e minor", {4, 6, 7, 9, 11, 0, 2, 1, 3}),
        ("F# minor", {6, 8, 9, 11, 1, 2, 4, 3, 5}),
        ("cb major", {11, 1, 3, 4, 6, 8, 10}),
    ],
)
def test_key_takes_its_strength_from_what_is_outside(name, classes):
    bias = steering.key(3, name, 2.5).bias
    outside = np.array([pitch % 12 not in classes for pitch in PITCHES])
    np.testing.assert_array_equal(bias, np.broadcast_to(-2.5 * outside[:, None], (3, 46, 4)).astype(np.float32))


def test_ranges_count_semitones_outside():
    bias = steering.ranges(2, RANGES, 0.5).bias
    for voice, (low, high) in enumerate(RANGES):
        for pitch in (low, high, 60):
            assert bias[1, pitch - 36, voice] == 0
        assert bias[0, low - 3 - 36, voice] == -1.5
        assert bias[1, high + 2 - 36, voice] == -1.0


def test_similarity_favours_the_notes_of_the_score():
    bias = steering.similarity(PIECE, 4.0).bias
    assert bias[0, 72 - 36, 0] == 4 and bias[11, 43 - 36, 3] == 4
    assert not bias[4:, :, 2].any()  # a rest pulls nowhere
    assert np.count_nonzero(bias) == 12 * 4 - 8


def test_freedom_by_voice_and_by_bar():
    def pull(**fields):
        return steering.freedom(PIECE, 4.0, **fields).bias.sum(axis=1)

    by_voice = pull(by_voice=[1.0, 0.75, 0.0, 0.0])
    np.testing.assert_allclose(by_voice[0], [0, 1, 4, 4])
    np.testing.assert_allclose(by_voice[5], [0, 1, 0, 4])
    by_bar = pull(by_bar=[0.0, 1.0])  # the pick-up counts
    np.testing.assert_allclose(by_bar[:4], 4)
    np.testing.assert_allclose(by_bar[4:], 0)
    whole = score.from_pitches(PIECE.pitches, meter=(3, 4))  # no pick-up: one bar
    assert not steering.freedom(whole, 4.0, by_bar=[1.0]).bias.any()
    both = pull(by_voice=[1.0, 0.75, 0.0, 0.0], by_bar=[0.0, 0.5])
    np.testing.assert_allclose(both[0], [0, 1, 4, 4])
    np.testing.assert_allclose(both[5], [0, 1, 0, 2])


def test_usually_all_pitches_of_bachs_voices_are_as_good_and_no_other_is_heard_of():
    def allowed(*known: np.ndarray) -> list[list[int]]:
        bias = steering.usual(2, *known).bias
        assert set(np.unique(bias)) == {-np.inf, 0} and not np.signbit(bias[bias == 0]).any()
        return [PITCHES[bias[1, :, voice] == 0].tolist() for voice in range(4)]

    bach = [list(range(low, high + 1)) for low, high in pianoroll.VOICE_RANGES]
    assert allowed() == bach
    silent, low_alto, high_bass = np.full((3, 4), -1), np.full((3, 4), -1), np.full((2, 3, 4), 50)
    low_alto[1, 1], high_bass[1, 2, 3] = 50, 67
    low_alto[2, 1] = 60
    assert allowed(silent) == bach
    assert allowed(low_alto) == [bach[0], list(range(50, 75)), *bach[2:]]
    high_bass[:, :, :3] = -1
    assert allowed(silent, high_bass) == [*bach[:3], list(range(36, 68))]


def test_surprise_is_a_factor_for_each_voice():
    made = steering.surprise(3, [1.0, 1.5, 0.5, 2.0])
    np.testing.assert_array_equal(made.temperature, np.tile(np.array([1, 1.5, 0.5, 2], np.float32), (3, 1)))
    assert not made.bias.any()


def test_together_biases_add_and_temperatures_multiply():
    one, other = steering.key(12, "C major", 1.0), steering.similarity(PIECE, 2.0)
    hot, hotter = steering.surprise(12, [2.0, 2.0, 2.0, 2.0]), steering.surprise(12, [1.0, 2.0, 3.0, 4.0])
    made = steering.combine(steering.combine(one, hot), steering.combine(other, hotter))
    np.testing.assert_array_equal(made.bias, one.bias + other.bias)
    np.testing.assert_array_equal(made.temperature, np.tile(np.array([2, 4, 6, 8], np.float32), (12, 1)))


def favoured(name: str) -> np.ndarray:
    """What a prior favours, as a mask [t,46,4]."""
    if name == "key":
        return np.broadcast_to(np.isin(PITCHES % 12, [7, 9, 11, 0, 2, 4, 6])[:, None], (12, 46, 4))
    if name == "ranges":
        low, high = np.array(RANGES).T
        return np.broadcast_to((PITCHES[:, None] >= low) & (PITCHES[:, None] <= high), (12, 46, 4))
    return PIECE.pitches[:, None, :] == PITCHES[:, None]


MADE = {
    "key": lambda strength: steering.key(12, "G major", strength),
    "ranges": lambda strength: steering.ranges(12, RANGES, strength),
    "similarity": lambda strength: steering.similarity(PIECE, strength),
    "freedom by bar": lambda strength: steering.freedom(PIECE, strength, by_bar=[0.5, 0.0]),
}


@pytest.mark.parametrize("name", MADE)
def test_what_is_favoured_gains_with_strength(name):
    logits = np.random.default_rng(0).normal(0, 1, (12, 46, 4))
    wanted = favoured(name)
    sounds = wanted.any(axis=1)
    before = np.zeros(0)
    for strength in (0.0, 0.5, 1.0, 2.0, 4.0, 8.0):
        made = MADE[name](strength)
        now = (softmax(logits / 0.9 + made.bias) * wanted).sum(axis=1)
        if not strength:
            np.testing.assert_allclose(now, (softmax(logits / 0.9) * wanted).sum(axis=1))  # off at 0
        else:
            assert (now > before)[sounds].all()
            np.testing.assert_allclose(now[~sounds], 0)
        before = now
    assert before[sounds].mean() > 0.7


def test_freedom_lets_go_of_the_score():
    logits = np.random.default_rng(1).normal(0, 3, (12, 46, 4))
    shares = []
    for value in (0.0, 0.3, 0.6, 1.0):
        made = steering.freedom(PIECE, 5.0, by_voice=[value] * 4)
        shares.append((softmax(logits + made.bias) * favoured("similarity")).sum(axis=1)[:4])
    assert (np.diff(shares, axis=0) < 0).all()


def test_surprise_raises_entropy():
    logits = np.random.default_rng(2).normal(0, 3, (12, 46, 4))
    entropies = []
    for value in (0.5, 1.0, 1.5, 3.0):
        p = softmax(logits / steering.surprise(12, [value] * 4).temperature[:, None, :])
        entropies.append(-(p * np.log(p + 1e-30)).sum(axis=1))
    assert (np.diff(entropies, axis=0) > 0).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: steering.key(4, "H major", 1.0), "key='H major': use a tonic and a mode"),
        (lambda: steering.key(4, "G", 1.0), "key='G': use a tonic"),
        (lambda: steering.key(4, "G major", -1.0), r"key_strength=-1.0: use 0 \(off\) to 100"),
        (lambda: steering.key(4, "G major", float("nan")), "key_strength=nan"),
        (lambda: steering.ranges(4, RANGES[:3], 1.0), "ranges=.*give four of lowest-highest"),
        (lambda: steering.ranges(4, (*RANGES[:3], (62, 40)), 1.0), "give four of lowest-highest"),
        (lambda: steering.ranges(4, (*RANGES[:3], (20, 30)), 1.0), "ranges=20-30: the bass has no pitch"),
        (lambda: steering.ranges(4, RANGES, 101.0), "range_strength=101.0"),
        (lambda: steering.similarity(PIECE, float("inf")), "similarity_strength=inf"),
        (lambda: steering.freedom(PIECE, 1.0, by_voice=[1.0, 1.0, 1.0]), "freedom=.* give four values"),
        (lambda: steering.freedom(PIECE, 1.0, by_voice=[1.0, 1.0, 1.0, 2.0]), "freedom=2.0: use a value from 0 to 1"),
        (
            lambda: steering.freedom(PIECE, 1.0, by_bar=[0.0, 0.0, 0.0]),
            "bar_freedom has 3 values; the piece has 2 bars",
        ),
        (lambda: steering.freedom(PIECE, 1.0, by_bar=[0.0, -1.0]), "bar_freedom=-1.0: use"),
        (lambda: steering.surprise(4, [1.0, 1.0, 1.0]), r"surprise=\[1.0, 1.0, 1.0\]: give four values"),
        (lambda: steering.surprise(4, [1.0, 1.0, 1.0, 0.0]), "surprise="),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_prior_that_does_nothing_or_the_opposite_is_found_out():
    """By benchmarks/steering.py, of whose name there is a module of the package too."""
    benchmark = conftest.load_benchmark("steering")
    judge = benchmark.does_what_it_says
    assert judge([0.1, 0.2, 0.4], True) and judge([0.4, 0.2, 0.1], False)
    for means in ([0.1, 0.1, 0.1], [0.1, 0.2, 0.2], [0.4, 0.2, 0.1], [0.1, 0.3, 0.2]):
        assert not judge(means, True)
    falling = {trial.prior for trial in benchmark.trials(score.from_pitches(np.full((64, 4), 60))) if not trial.rises}
    assert falling == {"ranges", "similarity"}
