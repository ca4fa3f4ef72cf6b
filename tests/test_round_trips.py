"""The chorales of the corpus written and read again; other programs open what was written without a warning."""

import itertools
import os
import warnings

from conftest import CACHE
import numpy as np
import pytest

from coconet_jax import chorales, chorales_builder, notation, score

music21 = pytest.importorskip("music21")


@pytest.fixture(scope="module")
def corpus_scores() -> list[score.Score]:
    builder = chorales.prepare(data_dir=os.environ.get("TFDS_DATA_DIR", str(CACHE / "tfds")))
    examples = [
        example for split in ("train", "valid", "test") for example in chorales_builder.read_examples(builder, split)
    ]
    return [chorales.to_score(example, 4) for example in examples]


def _same(read, piece):
    np.testing.assert_array_equal(read.pitches, piece.pitches)
    np.testing.assert_array_equal(read.onset, piece.onset)
    assert (read.meter, read.pickup_steps, read.title, read.remarks) == (
        piece.meter,
        piece.pickup_steps,
        piece.title,
        (),
    )


@pytest.mark.timeout(300)
def test_every_chorale_survives_midi(corpus_scores, tmp_path):
    assert len(corpus_scores) == 377
    for piece in corpus_scores:
        notation.write_midi(tmp_path / "a.mid", piece)
        _same(notation.read_satb(tmp_path / "a.mid"), piece)


@pytest.mark.timeout(300)
def test_every_chorale_survives_musicxml(corpus_scores, tmp_path):
    """On four staves or on two; all of them on both: benchmarks/round_trips.py, docs/sampling.md."""
    for number, piece in enumerate(corpus_scores):
        notation.write_musicxml(tmp_path / "a.musicxml", piece, staves=2 if number % 2 else None)
        _same(notation.read_satb(tmp_path / "a.musicxml"), piece)


@pytest.mark.parametrize("staves", [None, 2])
def test_music21_reads_the_same_notes_without_a_warning(corpus_scores, tmp_path, staves):
    for piece in corpus_scores[3:360:30]:
        notation.write_musicxml(tmp_path / "a.musicxml", piece, staves=staves)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            parsed = music21.converter.parse(tmp_path / "a.musicxml", forceSource=True)
        cells = np.full((piece.pitches.shape[0] + 64, 4), -1)
        opened = parsed.voicesToParts() if staves == 2 else parsed
        assert len(opened.parts) == 4
        for voice, part in enumerate(opened.parts):
            for note in part.flatten().notes:
                cells[int(note.offset * 4) : int((note.offset + note.quarterLength) * 4), voice] = note.pitch.midi
        np.testing.assert_array_equal(cells[: len(piece.pitches)], piece.pitches)
        assert (cells[len(piece.pitches) :] == -1).all()
        for bar in parsed.recurse().getElementsByClass("Measure"):
            for voice in list(bar.voices) or [bar]:
                assert float(voice.highestTime) == float(bar.highestTime)


def test_verovio_engraves_it_without_a_warning(corpus_scores, tmp_path, capfd):
    verovio = pytest.importorskip("verovio")
    toolkit = verovio.toolkit()
    for piece, staves in itertools.product(corpus_scores[20:360:40], (None, 2)):
        notes = sum(int(piece.onset[:, voice].sum()) for voice in range(4))
        notation.write_musicxml(tmp_path / "a.musicxml", piece, staves=staves)
        assert toolkit.loadFile(str(tmp_path / "a.musicxml"))
        drawn = "".join(toolkit.renderToSVG(page + 1) for page in range(toolkit.getPageCount()))
        assert drawn.count('class="note"') >= notes
        assert drawn.count('class="staff"') == drawn.count('class="measure"') * (staves or 4)
        assert "arning" not in toolkit.getLog() + "".join(capfd.readouterr())
