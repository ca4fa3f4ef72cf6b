"""Onsets, note lengths, repeats and stops on hand-made scores."""

import handmade
import numpy as np
import pytest

from coconet_jax.judge import beats, rhythm

R = handmade.R


def test_repeated_chords():
    pitches = handmade.score(
        handmade.C_MAJOR,
        handmade.C_MAJOR,
        handmade.F_MAJOR,
        handmade.F_MAJOR,
        handmade.F_MAJOR,
        (R,) * 4,
        (R,) * 4,
        handmade.C_MAJOR,
    )
    marks = rhythm.mark_repeated_chords(pitches)
    assert np.flatnonzero(marks[0]).tolist() == [4, 5, 6, 7, *range(12, 20)]
    assert rhythm.repeated_chord_share(pitches).tolist() == [3 / 7]
    inner = handmade.score(handmade.C_MAJOR, (72, 67, 64, 52))
    assert not rhythm.mark_repeated_chords(inner).any()  # one voice moved
    assert rhythm.repeated_chord_share(handmade.score(handmade.C_MAJOR)).tolist() == [0.0]


def prepare(pitches, phase=0, **kwargs):
    return beats.prepare(np.asarray(pitches), phases=np.full(len(pitches), phase), **kwargs)


def test_onsets_on_and_off_the_beat():
    scores = prepare(handmade.line((60, 4), (62, 2), (64, 1), (65, 5), (R, 2), (65, 2)))  # at 4, 6, 7, 14; 8 and 12 not
    assert rhythm.onsets_per_beat(scores).tolist() == [4 / 4]
    assert rhythm.onsets_on_beat_share(scores).tolist() == [1 / 4]
    assert rhythm.onsets_off_eighths_share(scores).tolist() == [1 / 4]
    shifted = prepare(scores.pitches, phase=3)  # beats at 3, 7, 11, 15
    assert rhythm.onsets_on_beat_share(shifted).tolist() == [1 / 4]
    assert rhythm.onsets_off_eighths_share(shifted).tolist() == [3 / 4]
    silent = prepare(handmade.line((60, 8)))
    assert rhythm.onsets_per_beat(silent).tolist() == [0.0] and np.isnan(rhythm.onsets_on_beat_share(silent)).all()


def test_note_lengths():
    notes = [(60, 4), (62, 1), (64, 2), (65, 4), (64, 8), (62, 3), (R, 4), (60, 4), (59, 2)]  # ends are left out
    assert rhythm.note_length_shares(prepare(handmade.line(*notes))).tolist() == [[1 / 6, 1 / 6, 2 / 6, 1 / 6]]
    both = np.concatenate([handmade.line((60, 4), (62, 4), (64, 4)), handmade.line((60, 4), (62, 8))])
    shares = rhythm.note_length_shares(prepare(both))
    assert shares[0].tolist() == [0, 0, 1, 0] and np.isnan(shares[1]).all()
    eighths = prepare(handmade.line((60, 2), (62, 2), (64, 1), (65, 4), (67, 1)), steps_per_quarter=2)
    assert rhythm.note_length_shares(eighths).tolist() == [[0, 1 / 3, 1 / 3, 1 / 3]]
    cut = prepare(np.pad(both[:1], ((0, 0), (0, 4), (0, 0)), constant_values=R), lengths=np.array([11]))
    assert rhythm.note_length_shares(cut).tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize(
    ("notes", "count"),
    [
        pytest.param([(60, 2), (62, 6)], 1, id="from an eighth before the beat"),
        pytest.param([(60, 3), (62, 2), (64, 3)], 1, id="a sixteenth before and after"),
        pytest.param([(60, 2), (62, 2), (64, 4)], 0, id="ends at the beat"),
        pytest.param([(60, 4), (62, 8)], 0, id="begins on the beat"),
        pytest.param([(60, 2), (R, 6)], 0, id="a rest"),
        pytest.param([(R, 2), (60, 3), (62, 1), (64, 2)], 1, id="after a rest"),
        pytest.param([(60, 6), (62, 2)], 0, id="ends with the piece"),
    ],
)
def test_syncopations(notes, count):
    assert rhythm.count_syncopations(prepare(handmade.line(*notes))).tolist() == [count]


def test_frozen_stretches():
    scores = prepare(handmade.line((60, 2), (62, 16), (64, 15), (65, 7)))
    assert rhythm.longest_frozen_beats(scores).tolist() == [4.0]
    assert rhythm.frozen_share(scores).tolist() == [16 / 40]
    moving = scores.pitches.copy()
    moving[0, 10:, 3] = 50  # the bass enters in the middle
    assert rhythm.longest_frozen_beats(prepare(moving)).tolist() == [15 / 4]
    assert rhythm.frozen_share(prepare(moving)).tolist() == [0.0]
    padded = np.pad(scores.pitches, ((0, 0), (0, 24), (0, 0)), constant_values=R)
    assert rhythm.longest_frozen_beats(prepare(padded, lengths=np.array([40]))).tolist() == [4.0]


def test_stops_and_how_they_are_reached():
    c, f, g7 = handmade.C_MAJOR, handmade.F_MAJOR, handmade.G_SEVENTH
    cluster = (64, 62, 60, 48)
    piece = handmade.score(c, c, f, g7, c, c, f, cluster, cluster, cluster, (*f[:3], R), (*f[:3], R), f)
    scores = prepare(piece)
    assert np.flatnonzero(rhythm.mark_stops(scores)[0]).tolist() == [0, 16, 28]
    assert rhythm.stops_on_triads_share(scores).tolist() == [2 / 3]
    assert rhythm.stops_by_dominant_share(scores).tolist() == [1 / 2]  # nothing comes before the first
    none = prepare(handmade.score(c, f))
    assert np.isnan([rhythm.stops_on_triads_share(none), rhythm.stops_by_dominant_share(none)]).all()
