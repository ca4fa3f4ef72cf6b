"""Who sings what: names, order, range, the user's choice, staves of two voices, chords in a voice, parts left out."""

from fractions import Fraction
from typing import Any

import mido
import numpy as np
import pytest
import scorefiles as files

from coconet_jax import errors, notation, parts, score, voices

SATB = {"Soprano": "C5", "Alto": "G4", "Tenor": "E4", "Bass": "C3"}
CHORD = [72, 67, 64, 48]


def _xml(tmp_path, entries, **fields):
    """A file of one bar for each (name, pitch), a rest for ""."""
    path = tmp_path / "a.musicxml"
    path.write_text(files.musicxml([(name, [files.note(pitch, 16)]) for name, pitch in entries], **fields))
    return path


def _midi(tmp_path, entries, **fields):
    path = tmp_path / "a.mid"
    tracks = [files.midi_track(name, [(0, 1920, pitch)], channel=at) for at, (name, pitch) in enumerate(entries)]
    files.midi(path, tracks, **fields)
    return path


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("Soprano", (0,)), ("S.", (0,)), ("SOPRAN", (0,)), ("Alt", (1,)), ("Ténor 1", (2,)), ("Bass voice", (3,)),
        ("Soprano, Alto", (0, 1)), ("TB", (2, 3)), ("Tenor\nBass", (2, 3)),
        ("Bassoon", ()), ("Alto Saxophone", ()), ("Continuo", ()), ("Piano", ()), ("", ()), ("Voice 1", ()),
        ("123", ()),
    ],
)  # fmt: skip
def test_names(name, rank):
    assert voices._ranks(name) == rank
    assert voices.is_voice_name(name) == bool(rank)


@pytest.mark.parametrize(
    "names",
    [
        ("S", "A", "T", "B"),
        ("Sopran", "Alt", "Tenor", "Bass"),
        ("Soprano Oboe 1 Violin1", "Alto, Viola", "Tenor.Viola", "Bass Continuo"),
        ("Canto", "Altus", "Tenore", "Bassus"),
    ],
)
def test_named_parts_are_found_in_any_order_beside_others(tmp_path, names):
    entries = list(zip(names, SATB.values(), strict=True))
    mixed = [
        ("Organ", "C2"),
        entries[3],
        ("Violin", "C6"),
        entries[1],
        entries[0],
        ("Alto Saxophone", "D5"),
        entries[2],
    ]
    read = notation.read_satb(_xml(tmp_path, mixed))
    assert read.pitches[0].tolist() == CHORD
    assert read.remarks == ("left out Organ, Violin, Alto Saxophone",)


def test_first_soprano_sings(tmp_path):
    read = notation.read_satb(_xml(tmp_path, [("Soprano 1", "C5"), ("Soprano 2", "A4"), *list(SATB.items())[1:]]))
    assert read.pitches[0].tolist() == CHORD
    assert read.remarks == ("left out Soprano 2",)


def test_order_then_range(tmp_path):
    mixed = notation.read_satb(_midi(tmp_path, [("", 48), ("", 72), ("", 64), ("", 67)]))
    assert mixed.pitches[0].tolist() == CHORD
    assert mixed.remarks == ("put the voices in order by their range",)
    crossed = notation.read_satb(_midi(tmp_path, [("", 72), ("", 64), ("", 66), ("", 48)]))
    assert crossed.pitches[0].tolist() == [72, 64, 66, 48] and crossed.remarks == ()


def test_voices_argument_overrides(tmp_path):
    path = _xml(tmp_path, [("Flute", "D5"), *SATB.items(), ("Organ", "D3")])
    choices: list[notation.Voices] = ["1,3,4,6", "Flute,Alto,ten,organ", ["1", 3, "Tenor", 6]]
    for choice in choices:
        assert notation.read_satb(path, voices=choice).pitches[0].tolist() == [74, 67, 64, 50]
    with pytest.raises(errors.InputError, match="--voices=1,1,3,6 names a part twice"):
        notation.read_satb(path, voices="1,1,3,6")
    assert notation.read_partial(path, voices="1,-,-,6").pitches[0].tolist() == [74, -1, -1, 50]
    assert notation.read_partial(path, voices="6").pitches[0].tolist() == [50, -1, -1, -1]
    assert notation.read_melody(path, voices="3").pitches[0].tolist() == [67]


@pytest.mark.parametrize(
    ("reader", "choice", "match"),
    [
        (notation.read_satb, "1,2,3,9", r"--voices=9: .* no such part.*1 Soprano, 2 Alto, 3 Tenor, 4 Bass"),
        (notation.read_satb, "1,2,3", "name four parts"),
        (notation.read_satb, "1,2,3,-", "name four parts"),
        (notation.read_satb, "1,2,3,4,5", "has 5 entries; give four at most"),
        (notation.read_satb, "1.2,2,3,4", "--voices=1.2: .* no such part"),
        (notation.read_partial, "-,-", "names no part"),
        (notation.read_partial, "", "names no part"),
        (notation.read_melody, "1,2", "name one part"),
        (notation.read_melody, "Oboe", "--voices=Oboe"),
    ],
)
def test_bad_choices_name_the_parts_there_are(tmp_path, reader, choice, match):
    with pytest.raises(errors.InputError, match=match) as caught:
        reader(_xml(tmp_path, SATB.items()), voices=choice)
    assert "\n" not in str(caught.value)


def test_five_parts_without_names_ask_for_a_choice(tmp_path):
    path = _midi(tmp_path, [("", pitch) for pitch in (72, 67, 64, 55, 48)])
    for reader in (notation.read_satb, notation.read_partial):
        with pytest.raises(errors.InputError, match=r"has 5 voices.*--voices=1,2,3,4.*1 \(no name\), 2 \(no name\)"):
            reader(path)
    assert notation.read_satb(path, voices="1,2,3,5").pitches[0].tolist() == CHORD


def test_partial_scores_by_name(tmp_path):
    read = notation.read_partial(_xml(tmp_path, [("Bass", "C3"), ("Alto", "G4")]))
    assert read.pitches[0].tolist() == [-1, 67, -1, 48]
    silent = notation.read_partial(_xml(tmp_path, [*SATB.items()][:2] + [("Tenor", ""), ("Bass", "")]))
    assert silent.pitches[0].tolist() == [72, 67, -1, -1]
    beside = notation.read_partial(_midi(tmp_path, [("Tenor", 60), ("Guitar", 50)]))
    assert beside.pitches[0].tolist() == [-1, -1, 60, -1] and beside.remarks == ("left out Guitar",)


@pytest.mark.parametrize(
    ("pitches", "expected"),
    [([67], [67, -1, -1, -1]), ([48], [48, -1, -1, -1]), ([72, 48], [72, -1, -1, 48]), ([48, 72], [72, -1, -1, 48]),
     ([72, 64], [72, 64, -1, -1]), ([71, 64, 50], [71, 64, -1, 50])],
)  # fmt: skip
def test_partial_scores_without_names(tmp_path, pitches, expected):
    read = notation.read_partial(_midi(tmp_path, [("", pitch) for pitch in pitches]))
    assert read.pitches[0].tolist() == expected
    assert ("by range" in " ".join(read.remarks)) == (len(pitches) > 1)


def test_empty_staves_stay_empty_in_their_order(tmp_path):
    read = notation.read_partial(_xml(tmp_path, [("", ""), ("", ""), ("", "E4"), ("", "")]))
    assert read.pitches[0].tolist() == [-1, -1, 64, -1]


def test_two_staves_of_two_voices_also_where_they_share_a_bar(tmp_path):
    """Written voices in the first bar, chords in the second, one note for both in the third."""
    women = [
        files.voiced("C5", 16, 1) + files.backup() + files.voiced("G4", 16, 2),
        files.voiced("D5", 16, 1) + files.voiced("F4", 16, 1, chord=True),
        files.voiced("A4", 16, 1),
    ]
    men = [
        files.voiced(upper, 16, 1) + files.backup() + files.voiced(lower, 16, 2)
        for upper, lower in (("E4", "C3"), ("D4", "D3"), ("", "F3"))
    ]
    path = tmp_path / "a.musicxml"
    path.write_text(files.musicxml([("Women", women), ("Men", men)]))
    for reader in (notation.read_satb, notation.read_partial):
        assert reader(path).pitches[::16].tolist() == [CHORD, [74, 65, 62, 50], [69, 69, -1, 53]]
    assert notation.read_satb(path, voices="1.2,1.1,2.1,2.2").pitches[0].tolist() == [67, 72, 64, 48]


@pytest.mark.parametrize("suffix", [".mid", ".musicxml"])
def test_two_staves_of_chords_are_four_voices(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    upper: Any
    lower: Any
    if suffix == ".mid":
        upper = [(0, 480, 72), (0, 480, 67), (480, 960, 74), (480, 960, 65), (960, 1440, 69)]
        lower = [(0, 1440, 48), (0, 480, 64), (480, 1440, 62)]
        files.midi(path, [files.midi_track("", upper), files.midi_track("", lower)])
    else:
        upper = files.note("C5", 4) + files.note("G4", 4, chord=True) + files.note("D5", 4)
        upper += files.note("F4", 4, chord=True) + files.note("A4", 4)
        lower = files.voiced("E4", 4, 1) + files.voiced("D4", 8, 1) + files.backup(12) + files.voiced("C3", 12, 2)
        path.write_text(files.musicxml([("", [upper]), ("", [lower])]))
    assert notation.read_satb(path).pitches[::4].tolist() == [CHORD, [74, 65, 62, 48], [69, 69, 62, 48]]


@pytest.mark.parametrize(
    "names",
    [
        ("A Mighty Fortress", "", "", ""),
        ("Tenor 1", "Tenor 2", "Bass 1", "Bass 2"),
        ("Tenor", "Lead", "Baritone", "Bass"),
        ("Soprano 1", "Soprano 2", "Alto 1", "Alto 2"),
        ("Soprano", "Tenor 1", "Tenor 2", "Bass"),
        ("B♭ Cornet 1", "B♭ Cornet 2", "E♭ Tenor Horn", "B♭ Euphonium"),
        ("B♭ Soprano Saxophone", "E♭ Alto Saxophone", "B♭ Tenor Saxophone", "E♭ Baritone Saxophone"),
    ],
)
@pytest.mark.parametrize("write", [_midi, _xml])
def test_four_that_sing_are_four_voices_whatever_they_are_called(tmp_path, names, write):
    pitches = SATB.values() if write is _xml else CHORD
    names = [name if write is _xml else name.replace("♭", "b") for name in names]
    path = write(tmp_path, list(zip(names, pitches, strict=True)))
    for reader in (notation.read_satb, notation.read_partial):
        read = reader(path)
        assert read.pitches[0].tolist() == CHORD and read.remarks == ()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Soprano", "Alto", "Bass", "Organ"), [72, 67, -1, 64]),
        (("Soprano", "Bass", "Piano", "Piano"), [72, -1, -1, 67]),
        (("Flute", "Soprano", "Alto", "Bass"), [67, 64, -1, 48]),
        (("Soprano", "Tenor", "Bass", "Continuo"), [72, -1, 67, 64]),
    ],
)
def test_an_accompaniment_fills_no_voices_place(tmp_path, names, expected):
    read = notation.read_partial(_midi(tmp_path, list(zip(names, CHORD, strict=True))))
    assert read.pitches[0].tolist() == expected and read.remarks[0].startswith("left out ")


def test_divided_women_and_men_are_four_by_order(tmp_path):
    thirds = {"Women 1": (79, 76), "Women 2": (72, 69), "Men 1": (64, 60), "Men 2": (52, 48)}
    tracks = [files.midi_track(name, [(0, 1920, pitch) for pitch in both]) for name, both in thirds.items()]
    files.midi(tmp_path / "a.mid", tracks)
    assert notation.read_satb(tmp_path / "a.mid").pitches[0].tolist() == [79, 72, 64, 52]


def test_an_empty_first_voice_is_no_title(tmp_path):
    names = ("Soprano", "Alto", "Tenor", "Bass", "Organ")
    tracks = [files.midi_track(name, [(0, 960, 60 - at)] if at else []) for at, name in enumerate(names)]
    files.midi(tmp_path / "a.mid", tracks)
    read = notation.read_partial(tmp_path / "a.mid")
    assert read.pitches[0].tolist() == [-1, 59, 58, 57] and read.remarks == ("left out Organ",)


@pytest.mark.parametrize("title", ["Canto", "Soprano 1", "S", "Basso", "Solo Alto"])
def test_a_title_is_no_voice(tmp_path, title):
    piece = score.from_pitches(np.tile(np.array([CHORD], np.int16), (8, 1)), title=title)
    notation.write_midi(tmp_path / "a.mid", piece)
    for reader in (notation.read_satb, notation.read_partial):
        read = reader(tmp_path / "a.mid")
        assert (read.pitches == CHORD).all() and read.remarks == () and read.title == title


def test_an_organ_below_a_choir_on_two_staves_is_left_out(tmp_path):
    staves = [files.note(one, 16) + files.note(other, 16, chord=True) for one, other in (("C5", "G4"), ("E4", "C3"))]
    path = tmp_path / "a.musicxml"
    path.write_text(files.musicxml([(name, [bar]) for name, bar in zip("WMOP", staves * 2, strict=True)]))
    for reader in (notation.read_satb, notation.read_partial):
        read = reader(path)
        assert read.pitches[0].tolist() == CHORD and read.remarks == ("left out O, P",)


def test_what_is_played_alone_between_chords_is_one_voices(tmp_path):
    chords = [(start, start + 240, pitch) for start in (480, 960, 1440) for pitch in CHORD]
    files.midi(tmp_path / "a.mid", [files.midi_track("Piano", [(0, 480, 67), (720, 960, 74), *chords])])
    read = notation.read_satb(tmp_path / "a.mid").pitches
    assert read[::2].tolist() == [[67, 67, -1, -1]] * 2 + [CHORD, [74, -1, -1, -1], CHORD, [-1] * 4, CHORD]


@pytest.mark.parametrize("suffix", [".mid", ".musicxml"])
def test_chords_of_four_on_one_staff_are_four_voices(tmp_path, suffix):
    """A note of several voices is sung by all of them, a held one is one note, what is played apart goes together."""
    path = tmp_path / f"a{suffix}"
    last = [(1920, 2880, pitch) for pitch in (79, 72, 67, 64, 48)]
    if suffix == ".mid":
        first = [(0, 960, 72), (0, 480, 67), (0, 490, 64), (7, 960, 48), (480, 960, 65), (480, 960, 62)]
        files.midi(path, [files.midi_track("", [*first, *[(960, 1920, p) for p in (74, 67, 55)], *last])], kind=0)
    else:
        upper = files.voiced("C5", 8, 1) + files.voiced("D5", 8, 1) + files.backup(16)
        inner = files.voiced("G4", 4, 1) + files.note("E4", 4, chord=True) + files.voiced("F4", 4, 1)
        inner += files.note("D4", 4, chord=True) + files.voiced("G4", 8, 1) + files.backup(16)
        bass = files.voiced("C3", 8, 1) + files.voiced("G3", 8, 1)
        closing = files.note("G5", 8)
        for pitch in ("C5", "G4", "E4", "C3"):
            closing += files.note(pitch, 8, chord=True)
        path.write_text(files.musicxml([("", [upper + inner + bass, closing])]))
    for reader in (notation.read_satb, notation.read_partial):
        read = reader(path)
        cells = [CHORD, [72, 65, 62, 48], [74, 67, 67, 55], [74, 67, 67, 55], [79, 72, 67, 48], [79, 72, 67, 48]]
        assert read.pitches[::4].tolist() == cells
        assert np.argwhere(read.onset[:, 0]).ravel().tolist() == [0, 8, 16]
        assert read.onset.sum(axis=0).tolist() == [3, 4, 4, 3]
        assert read.remarks[0] == "took the chords of a single part for four voices and left out 1 inner note(s)"
    assert notation.read_melody(path).pitches[::4, 0].tolist() == [72, 72, 74, 74, 79, 79]
    with pytest.raises(errors.InputError, match="more than one note at once|voice"):
        notation.read_satb(path, voices="1,1,1,1")


@pytest.mark.parametrize("suffix", [".mid", ".musicxml"])
def test_divisi_keep_the_highest_and_say_so(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".mid":
        sopranos = [(0, 1920, 72), (1920, 3840, 67), (1920, 3840, 71), (2400, 2880, 60)]
        others = [files.midi_track(name, [(0, 3840, p)]) for name, p in (("Alto", 64), ("Tenor", 60), ("Bass", 48))]
        files.midi(path, [files.midi_track("Soprano", sopranos), *others])
    else:
        second = files.voiced("B4", 16, 1) + files.voiced("G4", 16, 1, chord=True)
        second += files.backup() + files.voiced("", 4, 2) + files.voiced("C4", 4, 2)
        parts_ = [("Soprano", [files.note("C5", 16), second])]
        parts_ += [(name, [files.note(p, 16)] * 2) for name, p in (("Alto", "E4"), ("Tenor", "C4"), ("Bass", "C3"))]
        path.write_text(files.musicxml(parts_))
    for reader in (notation.read_satb, notation.read_partial):
        read = reader(path)
        assert read.pitches[::16, 0].tolist() == [72, 71] and read.onset[:, 0].sum() == 2
        assert read.remarks == (
            "kept the highest of several notes at once in a voice and dropped or cut 2 note(s), first G4 of Soprano in "
            "bar 2, beat 1",
        )


def test_divided_soprano_of_four_is_a_melody_and_a_lone_part_of_chords_is_not(tmp_path):
    entries = [("Soprano", [(0, 480, 67), (0, 480, 72)]), ("Alto", [(0, 480, 64)])]
    files.midi(tmp_path / "a.mid", [files.midi_track(name, notes) for name, notes in entries])
    read = notation.read_melody(tmp_path / "a.mid")
    assert read.pitches[0].tolist() == [72] and "dropped or cut 1 note(s), first G4" in " ".join(read.remarks)
    files.midi(tmp_path / "b.mid", [files.midi_track("Piano", entries[0][1])])
    with pytest.raises(errors.InputError, match=r"\(G4 and C5\) in bar 1, beat 1; keep one note at a time"):
        notation.read_melody(tmp_path / "b.mid")


@pytest.mark.parametrize("written", ["chord", "voices"])
def test_three_notes_on_a_staff_of_two_voices_are_kept_to_two_and_said(tmp_path, written):
    third = files.note("E5", 8, chord=True) if written == "chord" else files.backup(8) + files.voiced("E5", 8, 3)
    women = files.note("C5", 8) + files.note("G4", 8, chord=True) + files.note("C5", 8)
    women += (third if written == "chord" else "") + files.note("G4", 8, chord=True)
    if written == "voices":
        women = files.voiced("C5", 16, 1) + files.backup() + files.voiced("G4", 16, 2) + third
    men = files.voiced("E4", 16, 1) + files.backup() + files.voiced("C3", 16, 2)
    path = tmp_path / "a.musicxml"
    path.write_text(files.musicxml([("", [women]), ("", [men])]))
    for reader in (notation.read_satb, notation.read_partial):
        read = reader(path)
        assert read.pitches[::8].tolist() == [CHORD, [76, 67, 64, 48]]
        assert len(read.remarks) == 1 and "dropped or cut 1 note(s), first C5" in read.remarks[0]


def test_four_staves_of_which_one_has_another_name_are_four_by_order(tmp_path):
    names = ("Soprano", "Alto", "Tenor", "Baritone")
    for reader in (notation.read_satb, notation.read_partial):
        read = reader(_xml(tmp_path, zip(names, SATB.values(), strict=True)))
        assert read.pitches[0].tolist() == CHORD and read.remarks == ()


def test_higher_note_above_a_held_one_takes_over(tmp_path):
    files.midi(tmp_path / "a.mid", [files.midi_track("Alto", [(0, 1920, 60), (960, 1440, 67)])])
    assert notation.read_partial(tmp_path / "a.mid").pitches[::4, 1].tolist() == [60, 60, 67, -1]


def test_unison_of_two_voices_on_a_staff_is_one_note_not_a_chord(tmp_path):
    bar = files.voiced("C5", 8, 1) + files.backup(8) + files.voiced("C5", 16, 2)
    path = tmp_path / "a.musicxml"
    path.write_text(
        files.musicxml([("Soprano", [bar]), *[(n, [files.note(p, 16)]) for n, p in list(SATB.items())[1:]]])
    )
    read = notation.read_satb(path)
    assert read.pitches[:, 0].tolist() == [72] * 16 and read.remarks == ()


def test_melody_beside_an_accompaniment_needs_a_name_or_a_choice(tmp_path):
    path = _xml(tmp_path, [("Soprano", "C5"), ("Piano", "C3")])
    read = notation.read_melody(path)
    assert read.pitches[0].tolist() == [72] and read.remarks == ("left out Piano",)
    unnamed = _xml(tmp_path, [("", "C5"), ("", "E4"), ("", "C3")])
    with pytest.raises(errors.InputError, match=r"has 3 voices; give a melody.*--voices=1"):
        notation.read_melody(unnamed)


def test_channels_of_several_tracks_are_four_voices(tmp_path):
    tracks = []
    for channel, (upper, lower) in ((0, (72, 67)), (2, (64, 48))):
        first = files.midi_track("", [(0, 480, upper)], channel=channel)
        both = [first[0], (0, mido.Message("note_on", note=lower, channel=channel + 1)), first[1]]
        tracks.append([*both, (0, mido.Message("note_off", note=lower, channel=channel + 1)), first[2]])
    files.midi(tmp_path / "a.mid", tracks)
    assert notation.read_satb(tmp_path / "a.mid").pitches[0].tolist() == CHORD


def test_many_notes_on_a_staff_are_opened_quickly():
    notes = [
        parts.Note(Fraction(start), Fraction(start + 1), 60 + at % 20)
        for at, start in enumerate(np.arange(0, 4000).tolist())
    ]
    upper, lower = voices.open_staff(parts.Part("", notes * 3))
    assert len(upper.notes) == len(lower.notes) == len(notes) * 3


def test_range_error_of_a_score_offers_what_fits_all_voices(tmp_path):
    chord = np.tile(np.array([[84, 67, 64, 40]], np.int16), (8, 1))
    notation.write_midi(tmp_path / "a.mid", score.from_pitches(chord))
    place = r"Soprano C6 \(MIDI 84\) in bar 1, beat 1.*the score"
    with pytest.raises(errors.InputError, match=f"{place} by -3 semitones"):
        notation.read_satb(tmp_path / "a.mid")
    with pytest.raises(errors.InputError, match=f"{place}: --transpose=-3"):
        notation.read_partial(tmp_path / "a.mid")
    assert notation.read_partial(tmp_path / "a.mid", transpose=-3).pitches[0].tolist() == [81, 64, 61, 37]
    chord[:, 3] = 38
    notation.write_midi(tmp_path / "b.mid", score.from_pitches(chord))
    with pytest.raises(errors.InputError, match="spans 46 semitones and no transposition fits"):
        notation.read_satb(tmp_path / "b.mid")


def _read_bars(tmp_path, entries, reader=notation.read_partial):
    (tmp_path / "a.musicxml").write_text(files.musicxml(entries))
    return reader(tmp_path / "a.musicxml")


def test_a_single_line_on_a_staff_of_two_voices_is_one_of_them(tmp_path):
    tune = files.voiced("C5", 16, 1)
    read = _read_bars(tmp_path, [("Soprano Alto", [tune]), ("Tenor Bass", [files.note("", 16)])])
    assert read.pitches[0].tolist() == [72, -1, -1, -1]
    assert read.remarks == ("took the single line of Soprano Alto for the soprano",)
    read = _read_bars(tmp_path, [("Soprano Alto", [tune]), ("Tenor Bass", [files.note("C3", 16)])])
    assert read.pitches[0].tolist() == [72, -1, -1, 48]


def test_a_baritone_is_the_voice_that_is_left_nearest_to_it(tmp_path):
    for name in ("Baritone", "Men"):
        named = ("Soprano", "Alto", name)
        for write, notes in ((_xml, ("C5", "G4", "C3")), (_midi, (72, 67, 48))):
            read = notation.read_partial(write(tmp_path, list(zip(named, notes, strict=True))))
            assert read.pitches[0].tolist() == [72, 67, -1, 48]
            assert f"took {name} for the bass" in read.remarks


def test_two_voices_on_a_staff_and_a_bass_below(tmp_path):
    upper = files.voiced("C5", 16, 1) + files.backup() + files.voiced("G4", 16, 2)
    read = _read_bars(tmp_path, [("", [upper]), ("", [files.note("C3", 16)])])
    assert read.pitches[0].tolist() == [72, 67, -1, 48]


def test_voices_share_what_only_one_of_them_has_written_at_a_time(tmp_path):
    """Programs leave the second voice's rests out, by <forward> or by rests that are not to be seen."""
    chords = files.voiced("C5", 8, 1) + files.voiced("A4", 8, 1, chord=True)
    late = chords + files.voiced("C5", 4, 1) + files.voiced("B4", 4, 1) + files.backup(8) + files.voiced("G4", 8, 2)
    unseen = files.voiced("", 16, 2).replace("<note>", '<note print-object="no">')
    seen = files.voiced("C5", 16, 1) + files.backup() + files.voiced("", 16, 2)
    whole = files.voiced("C5", 16, 1) + files.voiced("A4", 16, 1, chord=True) + files.backup() + unseen
    men = files.voiced("E4", 16, 1) + files.backup() + files.voiced("C3", 16, 2)
    for bar, alto in ((late, [69] * 8 + [67] * 8), (whole, [69] * 16), (seen, [-1] * 16)):
        read = _read_bars(tmp_path, [("Women", [late, bar]), ("Men", [men, men])], notation.read_satb)
        assert read.pitches[16:, 1].tolist() == alto and read.pitches[16, 0] == 72
        assert not any("dropped" in remark for remark in read.remarks)


def test_a_choir_on_two_staves_beside_instruments(tmp_path):
    women = files.voiced("C5", 16, 1) + files.backup() + files.voiced("G4", 16, 2)
    men = files.voiced("E4", 16, 1) + files.backup() + files.voiced("C3", 16, 2)
    others = [(name, [files.note("C6", 16)]) for name in ("Flute", "Organ", "Organ")]
    for count in (1, 3):
        read = _read_bars(tmp_path, [("Women", [women]), ("Men", [men]), *others[:count]], notation.read_satb)
        assert read.pitches[0].tolist() == CHORD and "left out Flute" in read.remarks[0]


def test_a_few_notes_of_a_second_voice_do_not_make_two(tmp_path):
    """A bar of 16 beats of which one has two notes; and a second voice of rests alone."""
    once = files.voiced("C5", 4, 1) + files.voiced("D5", 12, 1) + files.backup() + files.voiced("A4", 4, 2)
    bars = [once, *[files.voiced("E5", 16, 1)] * 3]
    bass = [files.note("C3", 16)] * 4
    read = _read_bars(tmp_path, [("", bars), ("", bass)])
    assert (read.pitches[:, [1, 2]] == -1).all() and read.pitches[20].tolist() == [76, -1, -1, 48]
    rests = files.voiced("C5", 16, 1) + files.backup() + files.voiced("", 16, 2)
    read = _read_bars(tmp_path, [("", [rests]), ("", [files.note("A2", 16)])])
    assert read.pitches[0].tolist() == [72, -1, -1, 45]


def test_a_staff_that_divides_at_last_is_no_single_line(tmp_path):
    unison = [(480 * n, 480 * n + 480, 67) for n in range(12)]
    divided = [(480 * n, 480 * n + 480, pitch) for n in range(12, 16) for pitch in (72, 65)]
    low = [(0, 7680, 48)]
    tracks = [files.midi_track("Soprano Alto", unison + divided), files.midi_track("Tenor Bass", low, channel=1)]
    files.midi(tmp_path / "a.mid", tracks)
    read = notation.read_partial(tmp_path / "a.mid")
    assert read.pitches[-1].tolist() == [72, 65, -1, 48] and read.pitches[0, 1] == 67


def test_instruments_and_descants_take_no_voices_place(tmp_path):
    for name, note in (("Lead Guitar", "C3"), ("Lead 1 (square)", "C3"), ("Descant", "G5")):
        read = notation.read_partial(_xml(tmp_path, [("Soprano", "C5"), ("Alto", "G4"), (name, note)]))
        assert read.pitches[0].tolist() == [72, 67, -1, -1]
    read = notation.read_partial(_xml(tmp_path, [("Descant", "G5"), ("Soprano", "C5")]))
    assert read.pitches[0].tolist() == [72, -1, -1, -1]


def test_a_piano_of_two_voices_a_staff_is_no_choir(tmp_path):
    upper = files.voiced("C5", 16, 1) + files.backup() + files.voiced("G4", 16, 2)
    lower = files.voiced("E3", 16, 1) + files.backup() + files.voiced("C3", 16, 2)
    entries = [("Piano RH", [upper]), ("Piano LH", [lower]), ("Flute", [files.note("C6", 16)])]
    with pytest.raises(errors.InputError, match="--voices"):
        _read_bars(tmp_path, entries, notation.read_melody)


def test_what_both_voices_share_goes_on_in_one(tmp_path):
    tie = ('<tie type="start"/>', '<tie type="stop"/>')
    bar = (
        files.note("C5", 8, tie[0] + "<voice>1</voice>")
        + files.note("C5", 8, tie[1] + "<voice>1</voice>")
        + files.backup(8)
        + files.voiced("G4", 8, 2)
    )
    men = files.voiced("E4", 16, 1) + files.backup() + files.voiced("C3", 16, 2)
    read = _read_bars(tmp_path, [("Women", [bar]), ("Men", [men])], notation.read_satb)
    assert read.pitches[:, 0].tolist() == [72] * 16 and read.pitches[:, 1].tolist() == [72] * 8 + [67] * 8
    assert np.flatnonzero(read.onset[:, 0]).tolist() == [0]


def test_a_tie_into_the_other_written_voice_is_still_one_note(tmp_path):
    tie = ('<tie type="start"/>', '<tie type="stop"/>')
    upper = files.note("C5", 8, tie[0] + "<voice>1</voice>") + files.voiced("D5", 8, 1)
    lower = files.voiced("A4", 8, 2) + files.note("C5", 8, tie[1] + "<voice>2</voice>")
    men = files.voiced("E4", 16, 1) + files.backup() + files.voiced("C3", 16, 2)
    (tmp_path / "a.musicxml").write_text(files.musicxml([("Women", [upper + files.backup() + lower]), ("Men", [men])]))
    women = notation.musicxml_reader.read(tmp_path / "a.musicxml").parts[0]
    assert sorted((note.start, note.end, note.pitch) for note in women.notes) == [(0, 2, 69), (0, 4, 72), (2, 4, 74)]
