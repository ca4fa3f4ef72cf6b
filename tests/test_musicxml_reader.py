"""MusicXML of other programs: music21's own reading agrees; repeats, meters, staves, lengths, hostile files."""

import io
import time
import warnings
import zipfile

import numpy as np
import pytest
import scorefiles as files

from coconet_jax import corpus, errors, musicxml_reader, notation

music21 = pytest.importorskip("music21")


def _write(tmp_path, text, name="a.musicxml"):
    (tmp_path / name).write_text(text)
    return tmp_path / name


# Repeats with endings, pick-ups, 3/4, sixteenths, a mass of instruments, transposing ones among them.
@pytest.mark.parametrize("name", ["bwv10.7", "bwv104.6", "bwv269", "bwv153.1", "bwv248.64-6", "bwv40.8"])
def test_corpus_is_read_as_music21_reads_it(name):
    path = next(corpus.folder().glob(f"{name}.*"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        played = music21.converter.parse(path, forceSource=True).toSoundingPitch().expandRepeats()
    found = musicxml_reader.read(path)
    assert len(found.parts) == len(played.parts) >= 4
    for part, expected in zip(found.parts, played.parts, strict=True):
        notes = [(n.start, n.end, n.pitch) for n in part.notes]
        assert notes == [
            (n.offset, n.offset + n.quarterLength, n.pitch.midi) for n in expected.stripTies().flatten().notes
        ]


def test_repeats_and_endings_are_played_and_said(tmp_path):
    bars = [
        files.note("C4", 16),
        files.barline("left", repeat="forward") + files.note("D4", 16),
        files.barline("left", ending="1", kind="start")
        + files.note("E4", 16)
        + files.barline("right", ending="1", kind="stop", repeat="backward"),
        files.barline("left", ending="2", kind="start")
        + files.note("F4", 16)
        + files.barline("right", ending="2", kind="stop"),
        files.note("G4", 16),
    ]
    path = _write(tmp_path, files.musicxml([("", bars)]))
    read = notation.read_melody(path)
    assert read.pitches[::16, 0].tolist() == [60, 62, 64, 62, 65, 67]
    assert read.remarks == ("repeats are played: 5 written bars became 6",)
    # The second part prints no repeat signs, and still keeps together with the first.
    plain = [files.note(pitch, 16) for pitch in ("C3", "D3", "E3", "F3", "G3")]
    path = _write(tmp_path, files.musicxml([("Soprano", bars), ("Bass", plain)]))
    assert notation.read_partial(path).pitches[::16, 3].tolist() == [48, 50, 52, 50, 53, 55]


def test_an_ending_that_is_not_closed_ends_where_a_repeat_does(tmp_path):
    bars = [
        files.note("C5", 16),
        files.barline("left", ending="1", kind="start")
        + files.note("D5", 16)
        + files.barline("right", ending="1", kind="stop", repeat="backward"),
        files.barline("left", ending="2", kind="start") + files.note("E5", 16),
        files.barline("left", repeat="forward") + files.note("F5", 16),
        files.note("G5", 16) + files.barline("right", repeat="backward"),
        files.note("A5", 16),
    ]
    read = notation.read_melody(_write(tmp_path, files.musicxml([("", bars)])))
    assert read.pitches[::16, 0].tolist() == [72, 74, 72, 76, 77, 79, 77, 79, 81]


def test_lengths_that_no_score_has_are_one_line_soon(tmp_path):
    notes = "".join(
        f"<attributes><divisions>123.4567890{number}</divisions></attributes>" + files.note("C4", 1)
        for number in range(1000, 4000)
    )
    with pytest.raises(errors.InputError, match="absurd"):
        notation.read_melody(_write(tmp_path, files.musicxml([("", [notes])])))
    notes = "".join(
        f"<attributes><divisions>{number}</divisions></attributes>" + files.note("C4", 1)
        for number in range(1000, 4000)
    )
    with pytest.raises(errors.InputError, match="fractions of"):
        notation.read_melody(_write(tmp_path, files.musicxml([("", [notes])])))


@pytest.mark.parametrize(
    ("back", "mark"),
    [
        ('<direction><sound dacapo="yes"/></direction>', '<direction><sound fine="yes"/></direction>'),
        (
            "<direction><direction-type><words>D.C. al Fine</words></direction-type></direction>",
            "<direction><direction-type><words>Fine</words></direction-type></direction>",
        ),
        ('<sound dalsegno="segno"/>', '<sound fine="yes"/>'),
        *[
            (
                f"<direction><direction-type><words>{words}</words></direction-type></direction>",
                '<sound fine="yes"/>',
            )
            for words in ("DC al Fine", "D. S. al Fine", "ds al fine", "Da Capo")
        ],
    ],
)
def test_da_capo_al_fine(tmp_path, back, mark):
    segno = '<direction><direction-type><segno/></direction-type><sound segno="segno"/></direction>'
    bars = [segno + files.note("C4", 16), files.note("D4", 16) + mark, files.note("E4", 16) + back]
    read = notation.read_melody(_write(tmp_path, files.musicxml([("", bars)])))
    assert read.pitches[::16, 0].tolist() == [60, 62, 64, 60, 62]


def test_errors_after_a_repeat_name_the_printed_bar(tmp_path):
    bars = [files.note("C4", 16) + files.barline("right", repeat="backward"), files.note("C6", 16)]
    with pytest.raises(errors.InputError, match="two|C6"):
        notation.read_melody(_write(tmp_path, files.musicxml([("", bars)])))
    bars[1] = files.note("D4", 16) + files.backup(8) + files.voiced("F4", 8, 2)
    with pytest.raises(errors.InputError, match=r"\(D4 and F4\) in bar 2, beat 3"):
        notation.read_melody(_write(tmp_path, files.musicxml([("", bars)])))


def test_bar_numbers_follow_changes_of_meter(tmp_path):
    change = "<attributes><time><beats>3</beats><beat-type>4</beat-type></time></attributes>"
    off = files.note("", 1, "") + files.note("E4", 11)
    bars = [files.note("C4", 16), change + files.note("D4", 12), off.replace("<duration>1<", "<duration>0.5<")]
    read = notation.read_melody(_write(tmp_path, files.musicxml([("", bars)])))
    assert read.meter == (4, 4)
    assert read.remarks == (
        "changes of meter are not kept: 4/4 throughout (the first was to 3/4 in bar 2, beat 1)",
        "moved 1 off-grid note(s) to 4 steps a quarter, first E4 in bar 3, beat 1.125",
    )


def test_bars_of_other_lengths_are_said(tmp_path):
    bars = [files.note("C4", 16), files.note("D4", 12), files.note("E4", 16), files.note("F4", 16)]
    read = notation.read_melody(_write(tmp_path, files.musicxml([("", bars)])))
    said = "bars of other lengths are not kept: 4/4 throughout (the first is bar 2, of 3 quarters)"
    assert read.remarks == (said,)
    bars[2:2] = [files.note("G4", 4)]  # what a repeat sign divides is one bar
    assert notation.read_melody(_write(tmp_path, files.musicxml([("", bars)]))).remarks == ()


def test_pickup_of_a_single_bar_is_kept(tmp_path):
    text = files.musicxml([("", [files.note("C4", 4)])], implicit=True)
    assert notation.read_melody(_write(tmp_path, text)).pickup_steps == 4
    text = files.musicxml([("", [files.note("C4", 4)])])
    assert notation.read_melody(_write(tmp_path, text)).pickup_steps == 0


def test_partial_score_is_as_long_as_its_bars(tmp_path):
    whole_rest = '<note><rest measure="yes"/><duration>16</duration></note>'
    bars = [files.note("C4", 16), files.note("D4", 4), whole_rest, ""]
    path = _write(tmp_path, files.musicxml([("Alto", bars), ("Bass", [whole_rest] * 4)]))
    read = notation.read_partial(path)
    assert read.pitches.shape == (64, 4)
    assert read.pitches[::4, 1].tolist() == [60] * 4 + [62] + [-1] * 11
    assert len(notation.read_melody(path).pitches) == 32  # to the end of its bar


def test_piano_staves_and_octave_transposition(tmp_path):
    bar = files.voiced("C5", 16, 1) + files.backup() + files.voiced("C3", 16, 5, staff=2)
    attributes = (
        "<staves>2</staves><transpose number='2'><chromatic>0</chromatic><octave-change>-1</octave-change></transpose>"
    )
    path = _write(tmp_path, files.musicxml([("Piano", [bar])], attributes=attributes))
    assert notation.read_partial(path).pitches[0].tolist() == [72, -1, -1, 36]


def test_two_voices_tie_the_same_pitch_and_each_goes_on_with_its_own(tmp_path):
    def tied(pitch, length, voice, kind):
        return files.note(pitch, length, f'<tie type="{kind}"/><voice>{voice}</voice>')

    first = tied("C4", 16, 1, "start") + files.backup() + files.voiced("", 8, 2) + tied("C4", 8, 2, "start")
    second = tied("C4", 4, 1, "stop") + files.note("D4", 12) + files.backup() + tied("C4", 16, 2, "stop")
    path = _write(tmp_path, files.musicxml([("", [first, second])]))
    layers = musicxml_reader.read(path).parts[0].layers
    assert [[(n.start, n.end, n.pitch) for n in layer] for layer in layers] == [[(0, 5, 60), (5, 8, 62)], [(2, 8, 60)]]


def test_tempo_from_sound_or_metronome_and_changes_said(tmp_path):
    mark = "<direction><direction-type><metronome><beat-unit>half</beat-unit><per-minute>{}</per-minute></metronome>"
    mark += "</direction-type></direction>"
    path = _write(tmp_path, files.musicxml([("", [mark.format("c. 50") + files.note("C4", 16)])]))
    assert notation.read_melody(path).qpm == 100
    halves = files.note("C4", 8) + '<sound tempo="99"/>' + files.note("C4", 8)
    read = notation.read_melody(_write(tmp_path, files.musicxml([("", ['<sound tempo="66"/>' + halves, halves])])))
    assert read.qpm == 66 and read.remarks == (
        "tempo changes are not kept: 66 quarters a minute throughout (the first was to 99 in bar 1, beat 3)",
    )


def test_first_note_left_out_is_named_where_it_is_first_played(tmp_path):
    cue = files.note("B4", 4, "<cue/>")
    again = '<barline><repeat direction="backward"/></barline>'
    bars = [files.note("C4", 16) + again, files.note("D4", 8) + cue + files.note("D4", 4), files.note("E4", 16)]
    remarks = notation.read_melody(_write(tmp_path, files.musicxml([("", bars)]))).remarks
    assert remarks == (
        "repeats are played: 3 written bars became 4",
        "left out 1 grace or cue note(s), first in bar 2, beat 3",
    )


def test_encodings(tmp_path):
    text = '<?xml version="1.0" encoding="UTF-16"?>' + files.musicxml([("Ténor", [files.note("C4", 16)])])
    (tmp_path / "a.xml").write_bytes(text.encode("utf-16"))
    assert notation.read_partial(tmp_path / "a.xml").pitches[0].tolist() == [-1, -1, 60, -1]


def _bomb(encoding):
    lines = ["<!ENTITY a0 'ha'>"] + [f"<!ENTITY a{n} '{f'&a{n - 1};' * 10}'>" for n in range(1, 12)]
    text = f"<?xml version='1.0' encoding='{encoding}'?><!DOCTYPE s [{''.join(lines)}]><s>&a11;</s>"
    return text.encode(encoding)


def _zipped(name, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("META-INF/container.xml", f'<c><rootfile full-path="{name}"/></c>')
        archive.writestr("a.xml", data)
    return buffer.getvalue()


_NOTE = files.note("C4", 16)
_TIED = files.note("C4", 1, '<tie type="start"/><tie type="stop"/>')


def _one(*bars, **fields):
    return files.musicxml([("", bars)], **fields)


HOSTILE = {
    "laughs.xml": lambda: _bomb("utf-8"),
    "laughs16.xml": lambda: _bomb("utf-16"),
    "bomb.mxl": lambda: _zipped("a.xml", b" " * 300_000_000),
    "lost.mxl": lambda: _zipped("b.xml", b"<a/>"),
    "deep.xml": lambda: b"<a>" * 300_000,
    "nested.xml": lambda: b"<score-partwise>" + b"<part>" * 100_000 + b"</part>" * 100_000 + b"</score-partwise>",
    "long.xml": lambda: _one(files.note("C4", 10**30)).encode(),
    "exponent.xml": lambda: _one(_NOTE.replace(">16<", ">1e999999999<")).encode(),
    "power.xml": lambda: _one(_NOTE.replace("<octave>4", "<octave>" + "9" * 5000)).encode(),
    "divisions.xml": lambda: _one(_NOTE).replace(">4</divisions", ">1e-400000000</divisions").encode(),
    "zero.xml": lambda: _one(_NOTE).replace(">4</divisions", ">0</divisions").encode(),
    "nan.xml": lambda: _one(_NOTE.replace(">16<", ">nan<")).encode(),
    "alter.xml": lambda: _one(_NOTE.replace("<octave>", "<alter>1e300</alter><octave>")).encode(),
    "staff.xml": lambda: _one(files.voiced("C4", 16, 1, 10**9)).encode(),
    "staves.xml": lambda: _one(_NOTE, attributes="<staves>99999999</staves>").encode(),
    "times.xml": lambda: _one(_NOTE + files.barline("right", repeat="backward", times=10**9)).encode(),
    "repeats.xml": lambda: _one(*[_NOTE + files.barline("right", repeat="backward", times=16)] * 3000).encode(),
    "parts.xml": lambda: files.musicxml([("", [_NOTE])] * 5000).encode(),
    "voices.xml": lambda: _one("".join(files.voiced("C4", 1, n) for n in range(5000))).encode(),
    "ties.xml": lambda: _one(_TIED * 10000).encode(),
    "chords.xml": lambda: _one(_NOTE + _NOTE.replace("<note>", "<note><chord/>") * 10000).encode(),
    "tied chord.xml": lambda: _one(_NOTE + _TIED.replace("<note>", "<note><chord/>") * 25_000).encode(),
    "shared.xml": lambda: _one(
        files.voiced("C4", 16, 1) + files.voiced("E4", 16, 2), _NOTE + files.note("C4", 4, chord=True) * 20_000
    ).encode(),
    "endings.xml": lambda: _one(files.barline("left", ending="1", kind="start"), *[_NOTE] * 15_000).encode(),
    "bars.xml": lambda: _one(_NOTE, *[""] * 30_000).encode(),
    "tempo.xml": lambda: _one('<sound tempo="1e400"/>' + _NOTE).encode(),
    "meter.xml": lambda: _one(_NOTE, attributes="<time><beats>0</beats><beat-type>0</beat-type></time>").encode(),
}  # fmt: skip


def test_repeats_do_not_multiply_notes_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(musicxml_reader, "MAX_NOTES", 30)
    text = _one(_NOTE * 2, _NOTE + files.barline("right", repeat="backward", times=10))
    path = _write(tmp_path, text)
    assert len(musicxml_reader.read(path).parts[0].notes) == 30
    path = _write(tmp_path, text.replace('times="10"', 'times="11"'))
    with pytest.raises(errors.InputError, match="33 notes, repeats played, more than 30"):
        musicxml_reader.read(path)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_give_one_line_or_a_score_soon(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(HOSTILE[name]())
    started = time.monotonic()
    for reader in (notation.read_score, notation.read_partial):
        try:
            assert np.abs(reader(path).pitches).max() < 128
        except errors.InputError as error:
            assert name in str(error) and "\n" not in str(error) and len(str(error)) < 700
    assert time.monotonic() - started < 20  # a second or two; the rest is for busy machines


def test_a_first_bar_in_two_parts_is_no_pickup(tmp_path):
    text = files.musicxml([("", [files.note("C4", 8), files.note("D4", 8), files.note("E4", 16)])])
    text = text.replace('number="2"', 'number="X1" implicit="yes"').replace('number="3"', 'number="2"')
    assert notation.read_melody(_write(tmp_path, text)).pickup_steps == 0


def test_a_way_to_the_coda_is_shown_by_its_sign_alone(tmp_path):
    def sign(*parts: str) -> str:
        return f"<direction>{''.join(f'<direction-type>{part}</direction-type>' for part in parts)}</direction>"

    coda, to_coda, segno = sign("<coda/>"), sign("<words>To </words>", "<coda/>"), sign("<segno/>")
    back = sign("<words>D.S. al Coda</words>")
    for leaving in (coda, to_coda):
        bars = [files.note("C4", 16), segno + files.note("D4", 16), files.note("E4", 16) + leaving]
        bars += [files.note("F4", 16) + back, coda + files.note("G4", 16)]
        read = notation.read_melody(_write(tmp_path, files.musicxml([("", bars)])))
        assert read.pitches[::16, 0].tolist() == [60, 62, 64, 65, 62, 64, 67]


def test_a_tempo_mark_in_a_later_bar_is_a_change(tmp_path):
    bars = [files.note("C4", 16), '<sound tempo="40"/>' + files.note("D4", 16)]
    read = notation.read_melody(_write(tmp_path, files.musicxml([("", bars)])))
    assert read.qpm == 80 and "(the first was to 40 in bar 2, beat 1)" in read.remarks[0]


def test_a_tempo_after_the_pickup_is_that_of_the_piece(tmp_path):
    bars = [files.note("C4", 4), '<sound tempo="66"/>' + files.note("D4", 16), files.note("E4", 12)]
    read = notation.read_melody(_write(tmp_path, files.musicxml([("", bars)], implicit=True)))
    assert read.pickup_steps == 4 and read.qpm == 66 and not read.remarks
