"""Hybrids and variations: what chains keep, how much, and that each depends on (seed, its number) alone."""

import numpy as np
import pytest
from test_tasks import filled, mask, with_rests

from coconet_jax import blends, constraints, errors, score, tasks


def plain(pitch: int, steps: int, pickup: int = 0, **fields) -> score.Score:
    """One long chord, by which cells of this score are known."""
    return score.from_pitches(np.full((steps, 4), pitch), pickup_steps=pickup, **fields)


REQUESTS = {
    "hybrid": lambda: blends.hybrid([filled(64), plain(50, 48)], chunk_steps=8),
    "variations": lambda: blends.variations(filled(64, pickup=4), 0.6),
    "variations with a last chord": lambda: constraints.with_last_chord(
        blends.variations(filled(64), 0.6), [67, 62, 59, 43], 8
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_chain_depends_on_seed_and_number_alone(name):
    request = REQUESTS[name]()
    eight = tasks.start(request, 3, np.arange(8))
    one = tasks.start(request, 3, np.array([5]))
    for all_chains, chain in zip(eight[:3], one[:3], strict=True):
        np.testing.assert_array_equal(all_chains[5], chain[0])
    assert len({free.tobytes() for free in eight.free}) > 4
    assert not np.array_equal(eight.free, tasks.start(request, 4, np.arange(8)).free)
    assert (eight.pitches[eight.free] == -1).all() and not eight.onset[eight.free].any()
    assert not (eight.free & ~request.free).any()


@pytest.mark.parametrize("share", (0.2, 0.5, 0.75))
@pytest.mark.parametrize("chunk", (None, 5, 24))
def test_hybrid_keeps_the_share_asked_for_and_as_much_of_each(share, chunk):
    request = blends.hybrid([plain(50, 96), plain(60, 96), plain(70, 96)], keep_share=share, chunk_steps=chunk)
    begun = tasks.start(request, 0, np.arange(600))
    assert (begun.free == begun.free[:, :, :1]).all()  # all four voices at once
    # 600 chains: the standard error of these shares is below 0.005.
    assert (~begun.free).mean() == pytest.approx(share, abs=0.02)
    for pitch in (50, 60, 70):
        assert (begun.pitches == pitch).mean() == pytest.approx(share / 3, abs=0.02)
    assert (~begun.free).mean(axis=(0, 2)).min() > share / 2  # no place is spared


def test_hybrid_takes_as_many_chunks_of_each_score_in_every_chain():
    pieces = [plain(pitch, 96) for pitch in (50, 60, 70)]
    whole = tasks.start(blends.hybrid(pieces, keep_share=0.5, chunk_steps=8), 0, np.arange(100)).pitches[..., 0]
    chunks = np.stack([(whole == pitch).sum(axis=1) / 8 for pitch in (50, 60, 70)])
    assert np.ptp(chunks, axis=0).max() < 2  # one chunk more or less; the first or last may be cut


def test_hybrid_keeps_nothing_where_the_score_it_keeps_is_not():
    # Neither fills a chunk at the beginning: one is too short, the other begins later.
    request = blends.hybrid([plain(50, 20, pickup=4), plain(60, 100)], keep_share=0.9, chunk_steps=64)
    begun = tasks.start(request, 0, np.arange(100))
    assert (begun.pitches == 50).any() and (begun.pitches[~begun.free] != -1).all()


def test_hybrid_chunks_are_as_long_as_asked_and_begin_on_beats():
    request = blends.hybrid([plain(50, 64, 2), plain(60, 64, 2)], keep_share=0.5, chunk_steps=8)
    for pitches in tasks.start(request, 0, np.arange(50)).pitches[:, :, 0]:
        bounds = np.flatnonzero(np.diff(pitches)) + 1
        assert (bounds % 4 == 2).all() and (np.diff(bounds) % 8 == 0).all()


def test_notes_of_a_hybrid_keep_the_lengths_that_they_had():
    """What is written right after a chunk, at its pitch, prolongs a note that went on there and no other."""
    pieces = [plain(60, 32), plain(60, 32)]
    for piece in pieces:
        piece.onset[::4] = True  # quarters
    for chunk, cuts in ((8, {True}), (6, {True, False})):
        found = []
        request = blends.hybrid(pieces, keep_share=0.5, chunk_steps=chunk)
        begun = tasks.start(request, 0, np.arange(8))
        struck = tasks.struck(request, begun, np.full(begun.pitches.shape, 60))
        for row, free in zip(struck[..., 0], begun.free[..., 0], strict=True):
            assert (row[~free] == pieces[0].onset[~free, 0])[1:].all()
            after = np.flatnonzero(free[1:] & ~free[:-1]) + 1
            assert row[after].tolist() == pieces[0].onset[after, 0].tolist()
            found += row[after].tolist()
        assert set(found) == cuts


def test_where_chunks_of_two_scores_meet_the_second_begins_anew():
    first, second = plain(60, 32), plain(60, 32)
    first.onset[::4] = True  # quarters; the second is one long chord
    first.pitches[:, 3], second.pitches[:, 3] = 48, 50  # which tells them apart
    begun = tasks.start(blends.hybrid([first, second], keep_share=0.99, chunk_steps=4), 0, np.arange(8))
    bass, struck = begun.pitches[..., 3], begun.onset[..., 0]
    joins = (bass[:, :-1] == 48) & (bass[:, 1:] == 50)
    assert joins.any() and struck[:, 1:][joins].all()
    inside = (bass[:, :-1] == 50) & (bass[:, 1:] == 50)
    assert inside.any() and not struck[:, 1:][inside].any()


def test_given_notes_keep_their_lengths_in_variations_too():
    piece = plain(60, 32)
    notes = score.from_pitches(np.where(np.arange(4)[:, None] >= 0, 62, 0) + np.zeros((4, 4), int))
    request = constraints.with_notes(blends.variations(piece, 0.0), notes)
    begun = tasks.start(request, 0, np.arange(2))
    pitches = np.where(np.arange(32)[:, None] < 8, 62, 60) + np.zeros((2, 32, 4), int)
    assert tasks.struck(request, begun, pitches)[:, 4].all()


def test_hybrid_lays_scores_bar_line_on_bar_line():
    long, short = filled(70, pickup=6, title="A"), plain(50, 40, title="B")
    request = blends.hybrid([short, long], keep_share=0.9)
    assert len(request.free) == 70 and request.given.pickup_steps == 6 and request.given.title == "B + A"
    begun = tasks.start(request, 0, np.arange(200))
    of_short = begun.pitches[..., 0] == 50
    assert not of_short[:, :6].any() and of_short[:, 6].any() and of_short[:, 45].any() and not of_short[:, 46:].any()
    of_long = ~begun.free[..., 0] & ~of_short
    assert (begun.pitches == long.pitches)[of_long].all()
    assert (begun.onset == long.onset)[of_long].all()
    assert of_long[:, 0].any() and of_long[:, 69].any()


def test_hybrid_keeps_rests_of_what_it_keeps():
    rests = with_rests(plain(50, 32), (..., 2))
    begun = tasks.start(blends.hybrid([rests, rests], keep_share=0.5), 0, np.arange(20))
    kept = ~begun.free[..., 2]
    assert kept.any() and (begun.pitches[..., 2][kept] == -1).all()


@pytest.mark.parametrize("similarity", (0.0, 0.3, 0.7, 1.0))
@pytest.mark.parametrize("steps, pickup", ((64, 0), (37, 3)))
def test_variations_keep_the_share_asked_for(similarity, steps, pickup):
    piece = filled(steps, pickup)
    begun = tasks.start(blends.variations(piece, similarity), 0, np.arange(400))
    kept = ~begun.free
    assert kept.mean() == pytest.approx(similarity, abs=0 if similarity in (0, 1) else 0.02)
    assert np.abs(kept.mean(axis=(1, 2)) - similarity).max() < 0.2  # every chain, not just their mean
    np.testing.assert_array_equal(begun.pitches, np.where(kept, piece.pitches, -1))
    np.testing.assert_array_equal(begun.onset, kept & piece.onset)


def test_variations_keep_more_of_the_same_as_similarity_rises():
    piece = filled(48)
    low, high = (tasks.start(blends.variations(piece, value), 0, np.arange(20)).free for value in (0.3, 0.6))
    assert (high <= low).all() and high.sum() < low.sum()


def test_variations_in_runs_voice_by_voice():
    begun = tasks.start(blends.variations(filled(64, pickup=2), 0.5, chunk_steps=12), 0, np.arange(50))
    for free in begun.free:
        for voice in free.T:
            bounds = np.flatnonzero(np.diff(voice)) + 1
            assert (bounds % 4 == 2).all() and (np.diff(bounds) % 12 == 0).all()
    assert any(not (free == free[:, :1]).all() for free in begun.free)


def test_variations_and_rests():
    piece = with_rests(filled(32), (slice(8, 16), 1))
    begun = tasks.start(blends.variations(piece, 0.0, rests="keep"), 0, np.arange(3))
    np.testing.assert_array_equal(begun.free[2], ~mask(32, (slice(8, 16), 1)))


def test_constraints_reach_every_chain():
    request = constraints.with_last_chord(blends.hybrid([filled(64), plain(50, 64)]), [67, 62, 59, 43], 4)
    begun = tasks.start(request, 0, np.arange(40))
    assert (begun.pitches[:, 60:] == [67, 62, 59, 43]).all()
    assert begun.onset[:, 60].all() and not begun.onset[:, 61:].any() and not begun.free[:, 60:].any()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: blends.hybrid([filled(16)]), "hybrid: 1 score given; give two"),
        (lambda: blends.hybrid([filled(16)] * 2, keep_share=0.0), "keep_share=0.0: use a value above 0"),
        (lambda: blends.hybrid([filled(16)] * 2, keep_share=1.0), "keep_share=1.0: use a value above 0 and below 1"),
        (lambda: blends.hybrid([filled(16)] * 2, chunk_steps=0), "chunk_steps=0: use 1 to 16"),
        (lambda: blends.hybrid([filled(16)] * 2, chunk_steps=17), "chunk_steps=17: use 1 to 16"),
        (lambda: blends.hybrid([filled(16), filled(16, meter=(3, 4))]), "meters 4/4"),
        (lambda: blends.hybrid([filled(16), plain(90, 16, title="Air")]), "Air: F#6"),
        (lambda: blends.variations(filled(16), 1.1), "similarity=1.1: use a value from 0 to 1"),
        (lambda: blends.variations(filled(16), float("nan")), "similarity=nan"),
        (lambda: blends.variations(filled(16), 0.5, chunk_steps=99), "chunk_steps=99: use 1 to 16"),
        (lambda: blends.variations(filled(16), 0.5, rests="sound"), "rests=sound: use fill or keep"),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(errors.InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "task",
    [
        lambda piece: tasks.compose(16),
        lambda piece: tasks.inpaint(piece, 0, 16),
        lambda piece: tasks.inpaint(piece, 0, 8),
        lambda piece: tasks.inpaint(piece, 2, 16),
        lambda piece: tasks.revoice(piece, [0]),
        lambda piece: blends.variations(piece, 0.5),
        lambda piece: blends.hybrid([piece, piece], keep_share=0.5),
        lambda piece: constraints.with_last_chord(tasks.inpaint(piece, 0, 16), [60] * 4, 6),
        lambda piece: constraints.with_close(blends.variations(plain(67, 16), 0.5), tonic=7, steps=8),
    ],
)
def test_notes_of_the_users_keep_their_lengths_between_their_like(task):
    request = task(plain(60, 16))
    close = request.given.pitches[0, 0] == 67
    pitch = 67 if close else 60
    notes = np.full((16, 4), -1)
    notes[4:8, 0] = pitch
    if close:  # is asked for last
        request = constraints.with_notes(blends.variations(plain(pitch, 16), 0.5), score.from_pitches(notes))
        request = constraints.with_close(request, tonic=7, steps=8)
    else:
        request = constraints.with_notes(request, score.from_pitches(notes))
    begun = tasks.start(request, 0, np.arange(30))
    made = np.where(begun.free, pitch, begun.pitches)
    struck = tasks.struck(request, begun, made)[:, :, 0]
    assert struck[:, 4].all() and not struck[:, 5:8].any()
    after = made[:, 8, 0] == pitch
    assert after.any() and struck[after, 8].all()


def test_a_last_chord_begins_anew_where_a_note_of_the_users_ends():
    notes = np.full((32, 4), -1)
    notes[20:28, 0] = 67
    request = constraints.with_notes(tasks.compose(32), score.from_pitches(notes))
    request = constraints.with_last_chord(request, [67, 62, 59, 43])
    begun = tasks.start(request, 0, np.arange(1))
    made = np.where(begun.free, [65, 62, 59, 43], begun.pitches)
    struck = tasks.struck(request, begun, made)[0]
    assert np.flatnonzero(struck[:, 0]).tolist() == [0, 20, 28]
    assert np.flatnonzero(struck[:, 1]).tolist() == [0, 24]  # the others are held


def test_a_close_leaves_the_note_before_it_as_long_as_it_was_given():
    pitches = np.full((32, 4), -1)
    pitches[:24, 0] = 67
    request = constraints.with_close(tasks.complete(score.from_pitches(pitches), steps=32), tonic=7)
    begun = tasks.start(request, 0, np.arange(40))
    struck = tasks.struck(request, begun, begun.pitches)
    same = begun.pitches[:, 24, 0] == 67
    assert same.any() and struck[:, 24, 0][same].all()


def test_a_close_is_in_another_key_where_a_chains_own_has_no_such_notes():
    end = np.full((32, 4), -1)
    end[28:, 0] = 72
    request = blends.hybrid([plain(60, 32), filled(32), plain(58, 32)], keep_share=0.3)
    request = constraints.with_close(constraints.with_notes(request, score.from_pitches(end)))
    begun = tasks.start(request, 0, np.arange(64))
    last = begun.pitches[:, 31].astype(int)
    assert (last[:, 0] == 72).all() and len(np.unique(last[:, 3] % 12)) > 1
    assert all({int(p - row[3]) % 12 for p in row} == {0, 4, 7} for row in last)
