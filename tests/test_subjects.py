"""What is evaluated, from flags."""

import argparse

import numpy as np

from coconet_jax import arrays, config, pianoroll, score, subjects


def test_a_score_brings_its_pickup(tmp_path):
    pitches = np.tile(np.array([67, 62, 59, 43], np.int16), (18, 1))
    piece = score.Score(pitches, pianoroll.onsets_where_pitch_changes(pitches), (4, 4), 2)
    arrays.write(tmp_path / "late.npz", piece)
    asked = argparse.Namespace(score=str(tmp_path / "late.npz"), voices=None, samples=None)
    subject, read = subjects.from_flags(asked, config.Data())
    assert read is not None and subject.pickup == read.pickup_steps == 2
    np.testing.assert_array_equal(subject.pieces.pitches[0, :18], pitches)
