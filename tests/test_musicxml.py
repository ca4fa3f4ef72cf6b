"""MusicXML: chorales there and back, notation that adds up, and files other programs wrote."""

import dataclasses
import re
import warnings
from xml.etree import ElementTree
import zipfile

import mido
import numpy as np
import pytest

from coconet_jax import errors, musicxml_reader, notation, score

music21 = pytest.importorskip("music21")


def _open(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return music21.converter.parse(path, forceSource=True)


def _equal(read, piece):
    # MusicXML fills the last bar with rests, and those of a melody are kept.
    rests = len(read.pitches) - len(piece.pitches)
    if piece.pitches.shape[1] == 1 and 0 < rests < score.bar_steps(piece.meter, piece.steps_per_quarter):
        pitches = np.pad(piece.pitches, ((0, rests), (0, 0)), constant_values=-1)
        piece = dataclasses.replace(piece, pitches=pitches, onset=np.pad(piece.onset, ((0, rests), (0, 0))))
        assert (len(pitches) - piece.pickup_steps) % score.bar_steps(piece.meter, piece.steps_per_quarter) == 0
    np.testing.assert_array_equal(read.pitches, piece.pitches)
    np.testing.assert_array_equal(read.onset, piece.onset)
    assert (read.meter, read.pickup_steps, read.qpm) == (piece.meter, piece.pickup_steps, piece.qpm)


def _melody(cells, onsets=None, **fields):
    piece = score.from_pitches(np.array(cells, np.int16)[:, None], **fields)
    if onsets is not None:
        piece.onset[:, 0] = np.array(onsets, bool)
    return piece


def _xml(notes, *, attributes="", divisions=4, name="Voice"):
    """A file of one part whose measures are given as XML."""
    bars = "".join(
        f'<measure number="{i + 1}">'
        + (f"<attributes><divisions>{divisions}</divisions>{attributes}</attributes>" if i == 0 else "")
        + f"{bar}</measure>"
        for i, bar in enumerate(notes)
    )
    return (
        f'<score-partwise><part-list><score-part id="P1"><part-name>{name}</part-name></score-part></part-list>'
        f'<part id="P1">{bars}</part></score-partwise>'
    )


def _note(step, octave, duration, extra="", chord=False):
    return (
        f"<note>{'<chord/>' if chord else ''}<pitch><step>{step}</step><octave>{octave}</octave></pitch>"
        f"<duration>{duration}</duration>{extra}</note>"
    )


# A pick-up in 4/4, 3/4, sixteenths, and repeated notes throughout.
@pytest.mark.parametrize(("name", "meter"), [("bwv66.6", (4, 4)), ("bwv269", (3, 4)), ("bwv153.1", (4, 4))])
def test_chorale_survives_both_formats(tmp_path, name, meter):
    piece = notation.read_satb(music21.corpus.getWork(f"bach/{name}"))
    assert (piece.meter, piece.pickup_steps) == (meter, 4)
    assert (piece.onset[1:] & (piece.pitches[1:] == piece.pitches[:-1])).any()  # struck again
    for suffix in (".musicxml", ".mid"):
        path = tmp_path / f"a{suffix}"
        (notation.write_midi if suffix == ".mid" else notation.write_musicxml)(path, piece)
        _equal(notation.read_satb(path), piece)


def test_pitches_agree_with_music21s_own_reading():
    """The corpus parsed by music21 and sampled at every sixteenth, against ours."""
    parsed = music21.corpus.parse("bwv66.6")
    piece = notation.read_satb(music21.corpus.getWork("bach/bwv66.6"))
    for voice, part in enumerate(parsed.parts):
        for note in part.flatten().notes:
            step = int(note.offset * 4)
            assert piece.pitches[step, voice] == note.pitch.midi
            assert piece.onset[step, voice] == (note.tie is None or note.tie.type == "start")


def test_written_file_opens_cleanly_with_bars_that_add_up(tmp_path):
    rng = np.random.default_rng(0)
    pitches = (rng.integers(50, 62, (53, 4)) + np.array([15, 9, 0, -9])).astype(np.int16)
    pitches[rng.random((53, 4)) < 0.15] = -1
    pitches[20:] = np.repeat(pitches[20:31], 3, axis=0)  # lengths of three, tied over bar lines
    pitches[-1] = 60
    piece = score.from_pitches(pitches, meter=(3, 4), pickup_steps=5, title="Probe", qpm=66.5)
    notation.write_musicxml(tmp_path / "a.musicxml", piece)
    _equal(notation.read_satb(tmp_path / "a.musicxml"), piece)
    assert (tmp_path / "a.musicxml").read_text().count('<measure number="0" implicit="yes">') == 4
    parsed = _open(tmp_path / "a.musicxml")
    assert parsed.metadata.bestTitle == "Probe"
    assert [part.partName for part in parsed.parts] == ["Soprano", "Alto", "Tenor", "Bass"]
    clefs = [part.recurse().getElementsByClass("Clef")[0].__class__.__name__ for part in parsed.parts]
    assert clefs == ["TrebleClef", "TrebleClef", "Treble8vbClef", "BassClef"]
    for part in parsed.parts:
        bars = list(part.getElementsByClass("Measure"))
        assert [bar.number for bar in bars] == list(range(5))
        assert [float(bar.duration.quarterLength) for bar in bars] == [1.25, 3, 3, 3, 3]
        assert all(element.duration.type != "complex" for element in part.recurse().notesAndRests)


@pytest.mark.parametrize("meter", [(6, 8), (12, 8), (2, 2), (5, 4), (3, 8)])
def test_other_meters_survive(tmp_path, meter):
    rng = np.random.default_rng(1)
    cells = np.repeat(rng.integers(60, 80, 30), rng.integers(1, 12, 30))
    piece = _melody(cells, meter=meter)
    notation.write_musicxml(tmp_path / "a.musicxml", piece)
    _equal(notation.read_melody(tmp_path / "a.musicxml"), piece)


@pytest.mark.parametrize("spq", [1, 2])
def test_coarse_grids_survive(tmp_path, spq):
    piece = _melody([60, 60, 62, -1, 62, 64, 64, 64, 65], [1, 0, 1, 0, 1, 1, 0, 1, 1], steps_per_quarter=spq)
    notation.write_musicxml(tmp_path / "a.musicxml", piece)
    _equal(notation.read_melody(tmp_path / "a.musicxml", steps_per_quarter=spq), piece)


@pytest.mark.parametrize("pickup", [0, 1, 4, 12])
def test_a_single_bar_keeps_its_pickup(tmp_path, pickup):
    piece = _melody([60] * 4 if pickup == 4 else [60] * (pickup or 16), pickup_steps=pickup)
    notation.write_musicxml(tmp_path / "a.musicxml", piece)
    _equal(notation.read_melody(tmp_path / "a.musicxml"), piece)


def test_note_over_the_bar_line_is_tied_and_one_note(tmp_path):
    piece = _melody([60] * 12 + [62] * 8 + [62] * 4, [1] + [0] * 11 + [1] + [0] * 7 + [1] + [0] * 3)
    notation.write_musicxml(tmp_path / "a.musicxml", piece)
    text = (tmp_path / "a.musicxml").read_text()
    assert text.count('<tie type="start"') == text.count('<tie type="stop"') == 1
    _equal(notation.read_melody(tmp_path / "a.musicxml"), piece)


def test_rests_lead_fill_and_end_the_bar(tmp_path):
    piece = _melody([-1] * 20 + [60] * 4)
    notation.write_musicxml(tmp_path / "a.musicxml", piece)
    bars = list(_open(tmp_path / "a.musicxml").parts[0].getElementsByClass("Measure"))
    kinds = [[(e.isRest, float(e.quarterLength)) for e in bar.notesAndRests] for bar in bars]
    assert kinds == [[(True, 4)], [(True, 1), (False, 1), (True, 2)]]
    _equal(notation.read_melody(tmp_path / "a.musicxml"), piece)


def test_key_and_spelling(tmp_path):
    eb_major = [63, 65, 67, 68, 70, 72, 74, 75]
    notation.write_musicxml(tmp_path / "flat.musicxml", _melody(np.repeat([*eb_major, 70, 66, 67, 63], 4)))
    parsed = _open(tmp_path / "flat.musicxml")
    assert parsed.recurse().getElementsByClass("KeySignature")[0].sharps == -3
    names = [note.name for note in parsed.recurse().notes]
    assert names == ["E-", "F", "G", "A-", "B-", "C", "D", "E-", "B-", "F#", "G", "E-"]
    d_minor = [62, 64, 65, 67, 69, 70, 69, 73, 74, 68, 69, 65, 62]
    notation.write_musicxml(tmp_path / "minor.musicxml", _melody(np.repeat(d_minor, 4)))
    parsed = _open(tmp_path / "minor.musicxml")
    assert parsed.recurse().getElementsByClass("KeySignature")[0].sharps == -1
    assert [note.name for note in parsed.recurse().notes][5:11] == ["B-", "A", "C#", "D", "G#", "A"]


def _written(tmp_path, piece):
    """The notes of a written melody, as elements."""
    notation.write_musicxml(tmp_path / "a.musicxml", piece)
    return list(ElementTree.parse(tmp_path / "a.musicxml").iter("note"))


def test_short_notes_of_a_beat_are_beamed(tmp_path):
    dotted, eighths, sixteenths, syncopated = [60] * 3 + [64], [67, 67, 72, 72], [74, 71, 69, 67], [64, 62, 62, 60]
    notes = _written(tmp_path, _melody(dotted + eighths + sixteenths + syncopated))
    assert [" ".join(beam.text for beam in note.iter("beam")) for note in notes] == [
        "begin", "end backward hook",
        "begin", "end",
        "begin begin", "continue continue", "continue continue", "end end",
        "begin forward hook", "continue", "end backward hook",
    ]  # fmt: skip
    quarters = _written(tmp_path, _melody(np.repeat([60, -1, 62, 64], [4, 2, 2, 8])))
    assert not [beam for note in quarters for beam in note.iter("beam")]  # one eighth alone has a flag


def test_accidentals_stand_where_the_bar_has_none_yet(tmp_path):
    # C major; F sharp, F, F, F sharp tied over the bar line, F sharp once more.
    quarters = [60, 64, 67, 72, 71, 67, 65, 62, 66, 65, 65, 66, 66, 66, 67, 60]
    strikes = np.arange(64) % 4 == 0
    strikes[48] = False
    notes = _written(tmp_path, _melody(np.repeat(quarters, 4), strikes))
    signs = [note.findtext("accidental", "") for note in notes]
    assert signs == [""] * 8 + ["sharp", "natural", "", "sharp", "", "sharp", "", ""]
    assert [tie.get("type") for note in notes[11:13] for tie in note.iter("tie")] == ["start", "stop"]


def test_no_part_of_a_note_tied_over_the_bar_line_shows_an_accidental(tmp_path):
    pitches = np.repeat([60, 66, 67], [12, 9, 11])
    notes = _written(tmp_path, _melody(pitches))
    signs = [(note.findtext("pitch/step"), note.findtext("accidental", "")) for note in notes]
    assert signs[1:4] == [("F", "sharp"), ("F", ""), ("F", "")]  # a quarter, and tied on a quarter and a sixteenth


def test_a_long_note_off_the_beat_shows_the_beats(tmp_path):
    for sixteenths, types in (
        ([2, 4, 2, 8], ["eighth", "quarter", "eighth", "half"]),
        ([2, 12, 2], ["eighth", "eighth", "half", "eighth", "eighth"]),
        ([2, 8, 6], ["eighth", "eighth", "quarter", "quarter"]),
    ):
        notes = _written(tmp_path, _melody(np.repeat([60, 62, 64, 65][: len(sixteenths)], sixteenths)))
        assert [note.findtext("type") for note in notes][: len(types)] == types


def test_same_score_gives_same_bytes_without_date(tmp_path):
    piece = score.from_pitches(np.tile(np.array([[72, 67, 64, 48]], np.int16), (16, 1)))
    notation.write_musicxml(tmp_path / "a.musicxml", piece)
    notation.write_musicxml(tmp_path / "b.musicxml", piece)
    text = (tmp_path / "a.musicxml").read_text()
    assert text == (tmp_path / "b.musicxml").read_text()
    assert "encoding-date" not in text and "Music21 Fragment" not in text
    assert re.findall(r'<score-part id="(\w+)"', text) == ["P1", "P2", "P3", "P4"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.musicxml", "b.musicxml"]


def test_verovio_engraves_it(tmp_path):
    verovio = pytest.importorskip("verovio")
    notation.write_musicxml(tmp_path / "a.musicxml", _melody([60, 62, 64, 65] * 6))
    toolkit = verovio.toolkit()
    assert toolkit.loadFile(str(tmp_path / "a.musicxml"))
    assert toolkit.renderToSVG(1).count('class="note"') == 24


def test_compressed_file_is_read(tmp_path):
    path = tmp_path / "a.mxl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "META-INF/container.xml", '<container><rootfiles><rootfile full-path="s.xml"/></rootfiles></container>'
        )
        archive.writestr("other.xml", "<nothing/>")
        archive.writestr("s.xml", _xml([_note("C", 4, 16)]))
    assert notation.read_melody(path).pitches[:, 0].tolist() == [60] * 16


def test_transposing_instrument_is_read_at_sounding_pitch(tmp_path):
    attributes = "<transpose><diatonic>-1</diatonic><chromatic>-2</chromatic></transpose>"
    (tmp_path / "a.xml").write_text(_xml([_note("D", 4, 4)], attributes=attributes))
    assert notation.read_melody(tmp_path / "a.xml").pitches[:, 0].tolist() == [60] * 4


def test_grace_notes_are_skipped_and_triplets_snapped(tmp_path):
    grace = "<note><grace/><pitch><step>B</step><octave>4</octave></pitch></note>"
    triplet = "<time-modification><actual-notes>3</actual-notes><normal-notes>2</normal-notes></time-modification>"
    bar = grace + _note("C", 4, 12) + "".join(_note(step, 4, 4, f"<type>eighth</type>{triplet}") for step in "DEF")
    (tmp_path / "a.xml").write_text(_xml([bar], divisions=12))
    read = notation.read_melody(tmp_path / "a.xml")
    assert read.pitches[:, 0].tolist() == [60] * 4 + [62, 64, 64, 65]
    assert read.remarks == (
        "left out 1 grace or cue note(s), first in bar 1, beat 1",
        "moved 3 off-grid note(s) to 4 steps a quarter, first D4 of Voice in bar 1, beat 2",
    )


def test_chord_in_a_melody_is_named(tmp_path):
    (tmp_path / "a.xml").write_text(_xml([_note("C", 4, 16), _note("D", 4, 4) + _note("F", 4, 4, chord=True)]))
    with pytest.raises(errors.InputError, match=r"\(D4 and F4\) in bar 2, beat 1"):
        notation.read_melody(tmp_path / "a.xml")


def test_two_staves_of_two_voices_are_four(tmp_path):
    voice = "<voice>{}</voice><staff>{}</staff>"
    bar = "<backup><duration>16</duration></backup>".join(
        _note(step, octave, 16, voice.format(number, staff))
        for step, octave, number, staff in (("C", 5, 1, 1), ("G", 4, 2, 1), ("E", 4, 5, 2), ("C", 3, 6, 2))
    )
    (tmp_path / "a.xml").write_text(_xml([bar, bar], attributes="<staves>2</staves>"))
    assert notation.read_satb(tmp_path / "a.xml").pitches[::16].tolist() == [[72, 67, 64, 48]] * 2
    assert notation.read_melody(tmp_path / "a.xml").pitches[0, 0] == 72


def test_the_last_bar_may_lack_what_the_pickup_took(tmp_path):
    """As in chorales: three beats at the end, one at the beginning; nothing but the music comes back."""
    piece = score.from_pitches(np.full((32, 4), 60) + np.array([12, 7, 4, 0]), pickup_steps=4)
    for staves in (4, 2):
        notation.write_musicxml(tmp_path / "a.musicxml", piece, staves=staves)
        for read in (notation.read_partial, notation.read_satb):
            _equal(read(tmp_path / "a.musicxml"), piece)
        assert notation.read_melody(tmp_path / "a.musicxml").pitches.shape == (32, 1)
        parsed = _open(tmp_path / "a.musicxml")
        last = parsed.parts[0].getElementsByClass("Measure")[-1]
        assert last.duration.quarterLength == 3 and "rest" not in (tmp_path / "a.musicxml").read_text()
    longer = score.from_pitches(np.full((30, 4), 60), pickup_steps=4)  # two steps less: filled up
    notation.write_musicxml(tmp_path / "b.musicxml", longer)
    assert notation.read_partial(tmp_path / "b.musicxml").pitches.shape == (36, 4)


def test_rests_in_the_last_bar_of_a_melody_are_kept_and_empty_bars_are_not(tmp_path):
    """Four beats of rest, a note, three beats of rest: two bars, also when the file goes on with silence."""
    path = tmp_path / "a.musicxml"
    piece = _melody([-1] * 16 + [60] * 4)
    notation.write_musicxml(path, piece)
    read = notation.read_melody(path)
    assert read.pitches[:, 0].tolist() == [-1] * 16 + [60] * 4 + [-1] * 12
    whole = notation.read_partial(path).pitches
    assert whole.shape == (32, 4)
    file = mido.MidiFile(ticks_per_beat=4)
    file.tracks.append(mido.MidiTrack())
    for kind, time in (("note_on", 16), ("note_off", 4)):
        file.tracks[0].append(mido.Message(kind, note=60, time=time))
    file.tracks[0].append(mido.MetaMessage("end_of_track", time=1000))
    file.save(tmp_path / "a.mid")
    np.testing.assert_array_equal(notation.read_melody(tmp_path / "a.mid").pitches, read.pitches)


def test_absurd_durations_are_refused_at_once(tmp_path):
    (tmp_path / "a.xml").write_text(_xml([_note("C", 4, 10**12)]))
    with pytest.raises(errors.InputError, match="absurd"):
        notation.read_score(tmp_path / "a.xml")


def test_timewise_and_other_xml_are_refused(tmp_path):
    (tmp_path / "a.xml").write_text("<score-timewise/>")
    with pytest.raises(errors.InputError, match="score-timewise"):
        musicxml_reader.read(tmp_path / "a.xml")
