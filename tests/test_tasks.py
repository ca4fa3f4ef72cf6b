"""Requests: exactly what is free in each task, on scores made by hand."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from coconet_jax import bars, blends, constraints, errors, pianoroll, score, tasks

IDS = np.arange(8)


def filled(steps: int, pickup: int = 0, **fields) -> score.Score:
    """A score of notes that last two steps each, none of them alike."""
    pitches = np.array([70, 62, 54, 45]) + np.arange(-(-steps // 2))[:, None] % 7
    return score.from_pitches(np.repeat(pitches, 2, axis=0)[:steps], pickup_steps=pickup, **fields)


def with_rests(piece: score.Score, *cells: Any) -> score.Score:
    """The score with silence at the given cells."""
    pitches, onset = piece.pitches.copy(), piece.onset.copy()
    for cell in cells:
        pitches[cell], onset[cell] = -1, False
    return dataclasses.replace(piece, pitches=pitches, onset=onset)


def mask(steps: int, *cells: Any) -> np.ndarray:
    free = np.zeros((steps, 4), bool)
    for cell in cells:
        free[cell] = True
    return free


def test_start_gives_what_is_given_and_blanks_what_is_free():
    piece = filled(16)
    begun = tasks.start(tasks.inpaint(piece, 4, 8, voices=[1]), 0, IDS[:3])
    free = mask(16, (slice(4, 8), 1))
    assert begun.ends is not None and begun.ends.shape == (3, 2) and begun.ends.all()
    for pitches, onset, open_cells in zip(*begun[:3], strict=True):
        np.testing.assert_array_equal(open_cells, free)
        np.testing.assert_array_equal(pitches, np.where(free, -1, piece.pitches))
        np.testing.assert_array_equal(onset, piece.onset & ~free)


def test_chains_have_the_ends_of_their_request_or_fewer():
    whole = tasks.compose(8)
    assert not np.array(tasks.start(tasks.excerpt(whole), 0, IDS[:3]).ends).any()
    ends = np.array([[True, False], [True, True]])

    def vary(seed: int, ids: np.ndarray) -> tasks.Given:
        return tasks.start(whole, seed, ids)._replace(ends=ends[ids])

    for of_request in ((True, True), (False, True)):
        request = whole._replace(vary=vary, ends=of_request)
        found = tasks.start(request, 0, np.array([1, 0])).ends
        np.testing.assert_array_equal(found, ends[::-1] & np.array(of_request))


def test_constraints_leave_ends_as_they_are():
    for ends in ((False, False), (True, False)):
        request = tasks.compose(32)._replace(ends=ends)
        closed = constraints.with_close(request, tonic=2, steps=4)
        fixed = constraints.with_last_chord(blends.variations(filled(32), 0.5)._replace(ends=ends), (67, 62, 59, 43), 4)
        for made in (closed, fixed):
            np.testing.assert_array_equal(tasks.start(made, 0, IDS[:2]).ends, np.broadcast_to(ends, (2, 2)))
            assert made.ends == ends


def test_notes_are_struck_where_the_user_struck_them_or_the_pitch_changes():
    piece = score.from_pitches(np.full((8, 4), 60))
    piece.onset[2, 0] = True  # a repeated note
    begun = tasks.start(tasks.inpaint(piece, 4, 6), 0, IDS[:2])
    same, other = np.full((2, 8, 4), 60)
    other[4:6] = 62
    request = tasks.inpaint(piece, 4, 6)
    struck = tasks.struck(request, begun, np.stack([same, other]))
    np.testing.assert_array_equal(np.argwhere(struck[0, :, 0]).ravel(), [0, 2])
    np.testing.assert_array_equal(np.argwhere(struck[1, :, 0]).ravel(), [0, 2, 4, 6])
    np.testing.assert_array_equal(np.argwhere(struck[1, :, 1]).ravel(), [0, 4, 6])


def test_a_given_note_keeps_its_length_before_a_written_one_of_its_pitch():
    """Extended, a last chord is followed by the same chord, struck again."""
    request = tasks.extend(score.from_pitches(np.full((4, 4), 60)), 4)
    begun = tasks.start(request, 0, IDS[:1])
    struck = tasks.struck(request, begun, np.full((1, 8, 4), 60))
    assert np.argwhere(struck[0, :, 0]).ravel().tolist() == [0, 4]
    # So too where a span begins with a note of its own; not after a rest that was given, which no note follows from.
    piece = score.from_pitches(np.full((8, 4), 60))
    piece.onset[4] = True
    request = tasks.inpaint(piece, 4, 6)
    struck = tasks.struck(request, tasks.start(request, 0, IDS[:1]), np.full((1, 8, 4), 60))
    assert np.argwhere(struck[0, :, 2]).ravel().tolist() == [0, 4]


def test_nothing_is_written_before_the_first_note_of_a_melody_nor_after_the_last():
    melody = score.from_pitches(np.array([[-1], [60], [-1], [60], [-1], [-1]], np.int16))
    request = tasks.harmonize(melody)
    assert request.free[1:4, 1:].all() and not request.free[[0, 4, 5]].any()
    assert len(request.free) == 6


def test_compose():
    request = tasks.compose(24, meter=(3, 4), steps_per_quarter=2)
    assert request.free.all() and request.free.shape == (24, 4)
    assert (request.given.meter, request.given.steps_per_quarter) == ((3, 4), 2)
    assert (tasks.start(request, 0, IDS).pitches == -1).all()


@pytest.mark.parametrize("voice", range(4))
@pytest.mark.parametrize("width", (1, 4))
def test_harmonize_any_voice(voice, width):
    piece = with_rests(filled(16, pickup=4, meter=(3, 4), qpm=90.0, title="Air"), (slice(6, 8), slice(None)))
    part = dataclasses.replace(piece, pitches=piece.pitches[:, [voice]], onset=piece.onset[:, [voice]])
    request = tasks.harmonize(piece if width == 4 else part, voice)
    np.testing.assert_array_equal(request.free, np.arange(4) != np.full((16, 1), voice))
    np.testing.assert_array_equal(request.given.pitches[:, voice], piece.pitches[:, voice])
    np.testing.assert_array_equal(request.given.onset[:, voice], piece.onset[:, voice])
    others = np.arange(4) != voice
    assert (request.given.pitches[:, others] == -1).all() and not request.given.onset[:, others].any()
    for name in ("pickup_steps", "meter", "qpm", "title"):
        assert getattr(request.given, name) == getattr(piece, name)
    together = tasks.harmonize(part, voice, rests="together")
    np.testing.assert_array_equal(together.free, request.free & ~mask(16, slice(6, 8)))


def test_complete_and_its_rests():
    # Soprano rests at 2..4, alto is written at 0..8 only, tenor at all but 2..4; the bass is empty.
    piece = with_rests(filled(12), (slice(2, 4), 0), (slice(8, 12), 1), (slice(2, 4), 1), (slice(2, 4), 2), (..., 3))
    silent = piece.pitches == -1
    np.testing.assert_array_equal(tasks.complete(piece).free, silent)
    np.testing.assert_array_equal(tasks.complete(piece, rests="keep").free, mask(12, (..., 3)))
    np.testing.assert_array_equal(tasks.complete(piece, rests="together").free, silent & ~mask(12, slice(2, 4)))
    longer = tasks.complete(piece, rests="keep", steps=16)
    np.testing.assert_array_equal(longer.free, mask(16, (..., 3), slice(12, 16)))
    np.testing.assert_array_equal(longer.given.pitches[:12], piece.pitches)


def test_inpaint_a_span_of_bars():
    piece = filled(44, pickup=4)  # a pick-up, two bars of 16, and half a bar
    assert [bars.span(piece, *span) for span in ((0, 0), (1, 1), (2, 3), (0, 3))] == [
        (0, 4),
        (4, 20),
        (20, 44),
        (0, 44),
    ]
    np.testing.assert_array_equal(tasks.inpaint(piece, 4, 20).free, mask(44, slice(4, 20)))
    some = tasks.inpaint(piece, 20, 36, voices=[3, 1])
    np.testing.assert_array_equal(some.free, mask(44, (slice(20, 36), [1, 3])))
    np.testing.assert_array_equal(some.given.pitches, piece.pitches)  # old notes: similarity needs them
    rests = with_rests(piece, (slice(22, 24), 1))
    kept = tasks.inpaint(rests, 20, 36, voices=[3, 1], rests="keep")
    np.testing.assert_array_equal(kept.free, some.free & ~mask(44, (slice(22, 24), 1)))


def test_revoice_keeps_old_notes_as_context_for_other_turns():
    piece = with_rests(filled(16), (slice(0, 2), 2))
    request = tasks.revoice(piece, [2, 1])
    assert request.in_turn == (2, 1)
    np.testing.assert_array_equal(request.free, mask(16, (..., [1, 2])))
    np.testing.assert_array_equal(tasks.start(request, 0, IDS).pitches[5], piece.pitches)
    assert tasks.revoice(piece).in_turn == (0, 1, 2, 3)
    np.testing.assert_array_equal(
        tasks.revoice(piece, [2], rests="keep").free, mask(16, (..., 2)) & ~mask(16, (slice(2), 2))
    )


def test_extend_after_and_before():
    piece = filled(20, pickup=4)
    after = tasks.extend(piece, 32)
    np.testing.assert_array_equal(after.free, mask(52, slice(20, 52)))
    np.testing.assert_array_equal(after.given.pitches[:20], piece.pitches)
    assert after.given.pickup_steps == 4
    before = tasks.extend(piece, 32, before=True)
    np.testing.assert_array_equal(before.free, mask(52, slice(0, 32)))
    np.testing.assert_array_equal(before.given.pitches[32:], piece.pitches)
    np.testing.assert_array_equal(before.given.onset[32:], piece.onset)
    assert before.given.pickup_steps == 4  # 36 steps before the old bar line, two bars and the pick-up
    assert tasks.extend(piece, 10, before=True).given.pickup_steps == 14


@pytest.mark.parametrize(
    "first, pickup, second, asked, bridge",
    [
        (32, 0, 0, 32, 32),
        (36, 4, 0, 32, 32),
        (32, 0, 4, 32, 28),  # the pick-up takes the last beat of the bridge
        (32, 4, 4, 32, 32),  # a last bar of three beats and the pick-up are one bar
        (44, 0, 0, 16, 20),  # the open bar is filled up
        (32, 0, 0, 3, 16),  # never nothing
        (32, 0, 8, 16, 24),
    ],
)
def test_transition_keeps_bar_lines(first, pickup, second, asked, bridge):
    one, other = filled(first, pickup, title="A"), filled(40, second, title="B", qpm=60.0)
    request = tasks.transition(one, other, asked)
    begin = first + bridge
    np.testing.assert_array_equal(request.free, mask(begin + 40, slice(first, begin)))
    np.testing.assert_array_equal(request.given.pitches[:first], one.pitches)
    np.testing.assert_array_equal(request.given.pitches[begin:], other.pitches)
    np.testing.assert_array_equal(request.given.onset[begin:], other.onset)
    assert (begin + second - pickup) % 16 == 0
    assert (request.given.pickup_steps, request.given.qpm, request.given.title) == (pickup, 80.0, "A - B")


def test_upsample_keeps_the_coarse_grid():
    piece = with_rests(filled(14, pickup=2), (slice(6, 10), 1))
    request = tasks.upsample(piece, 4)
    expected = ~mask(14, [2, 6, 10])
    expected[6:10, 1] = False  # a rest stays a rest
    np.testing.assert_array_equal(request.free, expected)
    np.testing.assert_array_equal(tasks.upsample(filled(6), 2).free, mask(6, [1, 3, 5]))


def test_notes_of_the_users_stand_in_every_answer():
    notes = with_rests(filled(8), slice(0, 4), (..., [1, 2, 3]))
    request = constraints.with_notes(tasks.compose(16), notes)
    np.testing.assert_array_equal(request.free, ~mask(16, (slice(4, 8), 0)))
    begun = tasks.start(request, 0, IDS[:2])
    np.testing.assert_array_equal(begun.pitches[1, 4:8, 0], notes.pitches[4:8, 0])
    np.testing.assert_array_equal(begun.onset[1, :8], notes.onset)


def test_what_was_changed_in_the_users_notes_is_told_beside_what_was_in_the_piece():
    piece = dataclasses.replace(filled(16), remarks=("repeats are played",))
    notes = dataclasses.replace(with_rests(filled(8), slice(0, 4), (..., [1, 2, 3])), remarks=("moved 1 note",))
    request = constraints.with_notes(tasks.inpaint(piece, 0, 16), notes)
    assert request.given.remarks == ("repeats are played", "given: moved 1 note")


def test_a_last_chord():
    melody = score.from_pitches(np.full((16, 1), 67))
    for request in (tasks.compose(16), tasks.harmonize(melody)):
        ended = constraints.with_last_chord(request, [67, 62, 59, 43], 4)
        np.testing.assert_array_equal(ended.free, request.free & ~mask(16, slice(12, 16)))
        begun = tasks.start(ended, 0, IDS)
        np.testing.assert_array_equal(begun.pitches[3, 12:], [[67, 62, 59, 43]] * 4)
        np.testing.assert_array_equal(begun.onset[3, 12:, 1:], [[True] * 3] + [[False] * 3] * 3)
    assert not begun.onset[:, 12, 0].any()  # the melody's own long note is held on
    turns = constraints.with_last_chord(tasks.revoice(filled(16), [1, 3]), filled(16).pitches[-1].tolist(), 2)
    assert turns.in_turn == (1, 3) and not turns.free[14:].any()


SILENT = score.from_pitches(np.full((16, 4), -1))
HIGH = score.from_pitches(np.full((16, 4), 90))
WIDE = score.from_pitches(np.full((16, 2), 60))
EMPTY = score.from_pitches(np.zeros((0, 4), int))


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: tasks.compose(0), "steps=0: use 1 to 20000"),
        (lambda: tasks.compose(10**9), "steps=1000000000: use 1 to 20000"),
        (lambda: bars.to_steps("--bars", 0, (4, 4), 4), "--bars=0: use 1 or more"),
        (lambda: bars.to_steps("--bars", 9999, (4, 4), 4), "--bars=9999: use 1 or more, up to 1250 bars"),
        (lambda: bars.to_steps("--bars", 2, (3, 8), 1), "no whole number of steps"),
        (lambda: tasks.harmonize(filled(16), 4), r"voice=\(4,\): name one"),
        (lambda: tasks.harmonize(SILENT, 1), "voice=alto: it has no notes"),
        (lambda: tasks.harmonize(filled(16), rests="keep"), "rests=keep: use sound or together"),
        (lambda: tasks.harmonize(HIGH), r"F#6 \(MIDI 90\) of the soprano in bar 1 is outside C2..A5; transpose"),
        (lambda: tasks.complete(filled(16)), "nothing is left to write; leave cells empty"),
        (lambda: tasks.complete(filled(16), rests="sound"), "rests=sound: use fill or keep or together"),
        (lambda: tasks.complete(WIDE), "has 2 voices; give four"),
        (lambda: tasks.complete(EMPTY), "steps of the score=0: use 1"),
        (lambda: tasks.complete(filled(16), steps=8), "steps=8: the score has 16 already"),
        (lambda: bars.span(filled(32), 2, 3), "span=2-3: the piece has bars 1 to 2"),
        (lambda: bars.span(filled(36, 4), 2, 1), "span=2-1: the piece has bars 0 to 2"),
        (lambda: tasks.inpaint(filled(16), 8, 17), "span=8-17: the piece has 16 steps"),
        (lambda: tasks.inpaint(filled(16), 8, 8), "span=8-8"),
        (lambda: tasks.inpaint(filled(16), 0, 8, voices=[]), "inpaint_voices="),
        (
            lambda: tasks.inpaint(with_rests(filled(16), slice(0, 4)), 0, 4, rests="keep"),
            "nothing is left to write; only rests",
        ),
        (lambda: tasks.revoice(filled(16), [1, 1]), r"revoice_voices=\(1, 1\): name one or more"),
        (lambda: tasks.extend(filled(16), 0), "steps=0"),
        (lambda: tasks.extend(filled(16), 20_000), "steps=20016: use 1 to 20000"),
        (lambda: tasks.transition(filled(16), filled(16, meter=(3, 4)), 16), "meters 4/4 .* and 3/4 .* do not go"),
        (
            lambda: tasks.transition(filled(16), filled(16, steps_per_quarter=2), 16),
            "steps_per_quarter=4 and 2 do not go",
        ),
        (lambda: tasks.transition(filled(16), filled(16), 0), "steps=0"),
        (lambda: tasks.upsample(filled(16), 3), "factor=3: use 2 or 4"),
        (lambda: tasks.upsample(filled(1)), "nothing is left to write; give a score longer"),
        (lambda: constraints.with_notes(tasks.compose(8), filled(16)), "given: 16 steps, but 8 in the piece"),
        (lambda: constraints.with_notes(tasks.compose(16), filled(16, 4)), "given: pickup_steps=4, but 0"),
        (lambda: constraints.with_notes(tasks.compose(16), filled(16)), "nothing is left to write; given fixes all"),
        (
            lambda: constraints.with_notes(tasks.harmonize(filled(16)), score.from_pitches(np.full((4, 4), 60))),
            "given: the soprano holds Bb4 in bar 1, which stays",
        ),
        (
            lambda: constraints.with_close(tasks.harmonize(score.from_pitches(np.full((32, 1), 66))), tonic=7),
            "last_chord=tonic: F#4 at the end is in no closing chord on G; name the notes",
        ),
        (lambda: constraints.with_close(tasks.extend(filled(32), 16, before=True)), "the end of the piece stays"),
        (lambda: constraints.with_close(tasks.compose(8), steps=9), "last_chord_steps=9: .* allow 1 to 8"),
        (lambda: constraints.with_close(tasks.compose(8), steps=8), "tonic is all of it"),
        (lambda: constraints.with_last_chord(tasks.compose(8), [67, 62, 59], 4), "last_chord=G4 D4 B3: give four"),
        (lambda: constraints.with_last_chord(tasks.compose(8), [99, 62, 59, 43], 4), "last_chord=Eb7 .* give four"),
        (lambda: constraints.with_last_chord(tasks.compose(8), [67, 62, 59, 43], 9), "last_chord_steps=9: .* 1 to 8"),
        (lambda: constraints.with_last_chord(tasks.compose(8), [67, 62, 59, 43], 8), "fixes all of it"),
        (
            lambda: constraints.with_last_chord(tasks.extend(filled(32), 16, before=True), [67, 62, 59, 43], 4),
            "last_chord=G4 D4 B3 G2: the soprano holds Bb4 in bar 3, which stays",
        ),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_close_is_a_major_triad_of_its_own_in_each_chain():
    request = constraints.with_close(tasks.compose(32))
    begun = tasks.start(request, 3, np.arange(40))
    np.testing.assert_array_equal(begun.free, np.broadcast_to(~mask(32, slice(24, 32)), (40, 32, 4)))
    chords = begun.pitches[:, -1].astype(int)
    assert (begun.pitches[:, 24:] == chords[:, None]).all() and (begun.pitches[:, :24] == -1).all()
    made = np.repeat(chords[:2, None], 32, axis=1).astype(np.int16)
    made[1, :24] += 1
    struck = tasks.struck(request, tasks.start(request, 3, np.arange(2)), made)
    assert not struck[0, 1:].any() and struck[1, 24].all()  # the same chord before it goes on into it
    above = (chords - chords[:, 3:]) % 12
    assert all(set(row) == {0, 4, 7} for row in above.tolist()) and (above[:, 0] == 0).all()
    assert (np.diff(chords) < 0).all() and len(np.unique(chords, axis=0)) > 10
    again = tasks.start(request, 3, np.array([17, 5]))
    np.testing.assert_array_equal(again.pitches, begun.pitches[[17, 5]])
    in_d = tasks.start(constraints.with_close(tasks.compose(32), tonic=2, steps=4), 0, np.arange(6)).pitches
    assert (in_d[:, -4:, 3] % 12 == 2).all() and (in_d[:, :-4] == -1).all()


def test_a_close_agrees_with_what_is_given():
    melody = np.repeat([67, 69, 71, 72, 71, 69, 67, -1], 4)[:, None]
    request = constraints.with_close(tasks.harmonize(score.from_pitches(melody)))
    begun = tasks.start(request, 0, IDS)
    # The last note of four steps, before the rest; G major is found.
    assert (begun.pitches[:, 24:28, 0] == 67).all() and (begun.pitches[:, 24:28, 3] % 12 == 7).all()
    assert (begun.pitches[:, 28:] == -1).all() and not begun.free[:, 24:].any() and begun.free[:, :24, 1:].all()
    # On its third or fifth too, where another key is asked for.
    third = tasks.start(constraints.with_close(tasks.harmonize(score.from_pitches(melody)), tonic=3), 0, IDS).pitches
    assert (third[:, 27, 0] == 67).all() and (third[:, 27, 3] % 12 == 3).all()
    # What a chain has kept of a score gives way, whatever it is; the key is that of what is left.
    blend = constraints.with_close(blends.variations(filled(32), 0.9))
    kept = tasks.start(blend, 0, IDS)
    assert (kept.pitches[:, 24:] == kept.pitches[:, 31:]).all() and not kept.free[:, 24:].any()
    assert kept.onset[:, :24].any() and not kept.onset[:, 25:].any()
    repeated = ~kept.free[:, 23] & (kept.pitches[:, 23] == kept.pitches[:, 24])
    assert not (kept.onset[:, 24] & ~repeated).any()  # but after a kept note, which keeps its length
    assert ((kept.pitches[:, -1, 0] - kept.pitches[:, -1, 3]) % 12 == 0).all()
    turns = constraints.with_close(tasks.revoice(filled(16), [1, 3]), tonic=6)
    assert turns.in_turn == (1, 3)


def test_silence_around_a_score_leaves_bar_lines_in_place():
    longer = bars.pad(filled(20, pickup=4), 6, 3)
    assert len(longer.pitches) == 29 and longer.pickup_steps == 10
    assert [bars.number_of(longer, step) for step in (9, 10, 25, 26)] == [0, 1, 1, 2]
    assert (longer.pitches[[0, 5, 26, 28]] == pianoroll.REST).all()
