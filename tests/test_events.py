"""Note events: hand-made strings, every piece there and back, the rules of what may come next."""

import pathlib

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import errors, events, pianoroll

JSB = conftest.REPOSITORY.parent / "shared" / "data" / "Jsb16thSeparated.npz"
R = pianoroll.REST


def number(word: str) -> int:
    """The token of "s60", "off_b" or "wait3", by the table of the module's docstring."""
    if word.startswith("wait"):
        return 4 * 46 + 4 + int(word[4:]) - 1
    if word.startswith("off_"):
        return 4 * 46 + "satb".index(word[4:])
    return "satb".index(word[0]) * 46 + int(word[1:]) - 36


def strings(text: str) -> np.ndarray:
    return np.array([number(word) for word in text.split()], np.int32)


def held(*parts: tuple[int, list[int]]) -> np.ndarray:
    """Chords, each for so many steps."""
    return np.concatenate([np.tile(np.array(chord, np.int8), (steps, 1)) for steps, chord in parts])


CASES = [
    (held((4, [72, 67, 64, 48])), "s72 a67 t64 b48 wait4", "b48 t64 a67 s72 wait4"),
    # A wait is twelves first, then the rest; of just 12 or 24 there is no rest.
    (held((12, [72, R, R, 48])), "s72 b48 wait12", "b48 s72 wait12"),
    (held((24, [72, R, R, 48])), "s72 b48 wait12 wait12", "b48 s72 wait12 wait12"),
    (held((27, [72, R, R, 48])), "s72 b48 wait12 wait12 wait3", "b48 s72 wait12 wait12 wait3"),
    # Only what changes is said; a voice that falls silent says so, one that goes on to another note does not.
    (
        held((2, [72, 67, 64, 48]), (1, [74, 67, R, 48]), (13, [74, 65, 62, 47])),
        "s72 a67 t64 b48 wait2 s74 off_t wait1 a65 t62 b47 wait12 wait1",
        "b48 t64 a67 s72 wait2 off_t s74 wait1 b47 t62 a65 wait12 wait1",
    ),
    # Rests at the start and at the end; silence of all; the range's ends.
    (
        held((13, [R, R, R, R]), (1, [81, R, R, 36]), (2, [R, R, R, R])),
        "wait12 wait1 s81 b36 wait1 off_s off_b wait2",
        "wait12 wait1 b36 s81 wait1 off_b off_s wait2",
    ),
    (held((1, [R, R, R, R])), "wait1", "wait1"),
]


@pytest.mark.parametrize(("pitches", "falling", "rising"), CASES)
def test_strings_made_by_hand(pitches, falling, rising):
    for order, text in zip(events.ORDERS, (falling, rising), strict=True):
        np.testing.assert_array_equal(events.encode(pitches, order), strings(text))
        assert events.describe(events.encode(pitches, order)) == text
        np.testing.assert_array_equal(events.decode(strings(text), order), pitches)


def test_a_note_struck_again_is_a_held_one():
    """The array has no onsets: two quarters of one pitch are a half."""
    assert events.describe(events.encode(held((4, [60, R, R, R]), (4, [60, R, R, R])))) == "s60 wait8"


def test_the_vocabulary_is_200_tokens():
    assert events.NUM_EVENTS == 4 * 46 + 4 + 12 == 200
    assert events.describe(np.arange(200)).split()[:2] == ["s36", "s37"]
    assert len(set(events.describe(np.arange(200)).split())) == 200


@pytest.mark.parametrize("order", list(events.ORDERS))
def test_every_chorale_there_and_back(order):
    if not JSB.exists():
        pytest.skip("the paper's npz is not here")
    assert check_all(JSB, order) == 382


def check_all(path: pathlib.Path, order: events.Order) -> int:
    """All pieces of the paper's npz, floats [t,4] with nan for rests: on the host, on the device, by the rules."""
    found = []
    with np.load(path, allow_pickle=True, encoding="latin1") as file:
        for split in file.files:
            found += [np.where(np.isnan(piece), R, piece).astype(np.int8) for piece in file[split]]
    longest = max(len(piece) for piece in found)
    padded = np.stack([np.pad(piece, ((0, longest - len(piece)), (0, 0)), constant_values=R) for piece in found])
    lengths = np.array([len(piece) for piece in found], np.int32)
    encoded = [events.encode(piece, order) for piece in found]
    size = max(map(len, encoded))

    @jax.jit
    def on_device(padded, lengths):
        packed = events.pack(*events.slots(padded, lengths, order), size)
        may = events.allowed(events.follow(packed, order), order)
        return packed, jnp.take_along_axis(may, jnp.maximum(packed, 0)[..., None], axis=2)[..., 0]

    packed, may = map(np.asarray, on_device(padded, lengths))
    assert may[packed != events.NOTHING].all()
    for piece, string, row in zip(found, encoded, packed, strict=True):
        np.testing.assert_array_equal(events.decode(string, order), piece)
        np.testing.assert_array_equal(row[: len(string)], string)
        assert (row[len(string) :] == events.NOTHING).all()
    return len(found)


def test_random_scores_come_back():
    """Rests everywhere, all pitches, long silences: what no chorale has."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        pitches = rng.integers(36, 82, (rng.integers(1, 60), 4)).astype(np.int8)
        pitches[rng.random(pitches.shape) < 0.4] = R
        pitches = np.repeat(pitches, rng.choice([1, 2, 12, 13, 30], len(pitches)), axis=0)
        for order in events.ORDERS:
            np.testing.assert_array_equal(events.decode(events.encode(pitches, order), order), pitches)


def position_after(text: str) -> events.Position:
    position = events.begin(1)
    for token in strings(text):
        position = events.advance(position, jnp.array([token]), "high_to_low")
    return position


def may_follow(text: str) -> set[str]:
    may = events.allowed(position_after(text), "high_to_low")
    return set(events.describe(np.flatnonzero(np.asarray(may[0]))).split())


def test_what_may_come_next():
    every = set(events.describe(np.arange(200)).split())
    notes = {f"{v}{p}" for v in "satb" for p in range(36, 82)}
    waits = {f"wait{n}" for n in range(1, 13)}
    assert may_follow("") == notes | waits  # nothing sounds that could end
    assert may_follow("a60") == {w for w in notes if w[0] in "tb"} | waits
    assert may_follow("b60") == waits
    # After a short wait something must happen, and no voice takes the note it has.
    assert may_follow("a60 wait3") == (notes - {"a60"}) | {"off_a"}
    assert may_follow("a60 wait12") == (notes - {"a60"}) | {"off_a"} | waits
    assert may_follow("a60 wait3 off_a") == {w for w in notes if w[0] in "tb"} | waits
    assert may_follow("s70 a60 t50 b40 wait5") == every - {"s70", "a60", "t50", "b40"} - waits
    position = position_after("a60 wait12 s70 wait5")
    assert position.time.tolist() == [17] and position.sounding.tolist() == [[70, 60, R, R]]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("b48 s72 wait4", 0),  # out of turn
        ("s72 wait4 s72 wait4", 1),  # holds it already: one note of eight steps
        ("s72 wait4 wait4", 1),
        ("s72 wait3 wait12 wait1", 1),
        ("s72 off_a wait4", 1),
        ("s72 wait4 a60", 2),  # nothing stands behind the end
    ],
)
def test_strings_that_break_the_rules_are_refused(text, place):
    with pytest.raises(errors.InputError, match=f"event {place} .* breaks the rules"):
        events.decode(strings(text))


def test_strings_of_the_other_order_and_pitches_outside_are_refused():
    with pytest.raises(errors.InputError, match="event 0 .* breaks the rules of the encoding, order=low_to_high"):
        events.decode(strings("s72 b48 wait4"), "low_to_high")
    with pytest.raises(errors.InputError, match="no event 200"):
        events.decode(np.array([200]))
    with pytest.raises(errors.InputError, match=r"pitch 82: events hold 36\.\.81"):
        events.encode(held((4, [82, R, R, 48])))


def test_what_does_not_fit_is_cut_from_the_end():
    pitches = held((2, [72, 67, 64, 48]), (2, [74, 67, 64, 48]))
    tokens, there = events.slots(jnp.asarray(pitches[None]), jnp.array([3]), "high_to_low")
    assert events.describe(np.asarray(events.pack(tokens, there, 8))[0]) == "s72 a67 t64 b48 wait2 s74 wait1 nothing"
    assert events.describe(np.asarray(events.pack(tokens, there, 5))[0]) == "s72 a67 t64 b48 wait2"
