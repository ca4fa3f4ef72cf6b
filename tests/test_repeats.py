"""The order of bars: every form that scores use, by hand."""

import random
from typing import Any

import pytest

from coconet_jax import repeats
from coconet_jax.repeats import Signs


def _form(text):
    """Bars from words: "|:" before a bar, ":|" or ":|3" after it, "1." endings, and the names of other signs."""
    bars: list[Signs] = []
    waiting: dict[str, Any] = {}
    for word in text.split():
        if word == "|:":
            waiting["forward"] = True
        elif word.startswith(":|"):
            bars[-1] = bars[-1]._replace(backward=int(word[2:] or 2))
        elif word.endswith("."):
            waiting["endings"] = frozenset(int(digit) for digit in word[:-1])
        elif word in ("segno", "coda"):
            waiting[word] = True
        elif word in ("fine", "to_coda"):
            bars[-1] = bars[-1]._replace(**{word: True})  # type: ignore[arg-type]
        elif word in ("D.C", "D.S"):
            bars[-1] = bars[-1]._replace(back="start" if word == "D.C" else "segno")
        else:
            bars.append(Signs(**waiting))
            waiting = {}
    return bars


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("a b c", "012"),
        ("a b :| c", "01012"),
        ("a |: b c :| d", "012123"),
        ("a |: b :| |: c :| d", "011223"),
        ("a :|3 b", "0001"),
        ("a b 1. c :| 2. d e", "0120134"),
        ("|: a 1. b 1. c :| 2. d 2. e f", "0120345"),
        ("|: a 12. b :| 3. c", "010102"),
        ("a 1. b :| c", "0102"),
        ("a b fine c D.C", "01201"),
        ("a segno b c fine d D.S", "012312"),
        ("a b to_coda c D.C coda d", "012013"),
        ("a :| b fine c D.C", "001201"),
        ("a 1. b :| 2. c fine d D.C", "0102302"),
        ("a b D.C", "0101"),
        ("a D.S b", "001"),
    ],
)
def test_forms(form, expected):
    assert "".join(str(at) for at in repeats.play_order(_form(form))) == expected


def test_absurd_repeats_are_refused():
    with pytest.raises(ValueError, match="16 passes"):
        repeats.play_order(_form("a :|999"))
    with pytest.raises(ValueError, match="16 passes"):
        repeats.play_order([Signs(endings=frozenset({10**6}), backward=2)])


def test_any_signs_come_to_an_end():
    draw = random.Random(0)
    for _ in range(300):
        bars = [
            Signs(
                draw.random() < 0.3,
                draw.choice([0, 0, 2, 3]),
                frozenset(draw.sample(range(1, 4), draw.choice([0, 0, 1, 2]))),
                *[draw.random() < 0.2 for _ in range(4)],  # type: ignore[arg-type]
                back=draw.choice(["", "", "start", "segno"]),
            )
            for _ in range(draw.randrange(1, 12))
        ]
        assert set(repeats.play_order(bars)) <= set(range(len(bars)))
