"""What is evaluated, from flags."""

import argparse

import numpy as np

from coconet_jax import arrays, config, data, pianoroll, score, subjects


def test_the_source_of_the_training_set_is_of_its_kind_alone(toy_pieces, monkeypatch):
    asked = argparse.Namespace(score=None, samples=None, dataset="music21", source=None, data_dir=None, data=None)
    asked.split = "valid"
    found = []

    def read(chosen):
        found.append(chosen)
        return toy_pieces

    monkeypatch.setattr(data, "read", read)
    trained = config.Data(dataset="folder", source="my_scores")
    subjects.from_flags(asked, trained)
    asked.dataset = None
    subjects.from_flags(asked, trained)
    assert [(chosen.dataset, chosen.source) for chosen in found] == [("music21", ""), ("folder", "my_scores")]


def test_a_score_brings_its_pickup(tmp_path):
    pitches = np.tile(np.array([67, 62, 59, 43], np.int16), (18, 1))
    piece = score.Score(pitches, pianoroll.onsets_where_pitch_changes(pitches), (4, 4), 2)
    arrays.write(tmp_path / "late.npz", piece)
    asked = argparse.Namespace(score=str(tmp_path / "late.npz"), voices=None, samples=None)
    subject, read = subjects.from_flags(asked, config.Data())
    assert read is not None and subject.pickup == read.pickup_steps == 2
    np.testing.assert_array_equal(subject.pieces.pitches[0, :18], pitches)
