"""Small score files made by hand: what other programs write, for the tests of the readers."""

from collections.abc import Sequence

import mido

DIVISIONS = 4


def note(pitch: str, duration: int, extra: str = "", *, chord: bool = False) -> str:
    """A MusicXML note such as "C#4", or a rest for "", with more elements after its duration."""
    head = "<rest/>"
    if pitch:
        alter = {"#": "<alter>1</alter>", "b": "<alter>-1</alter>"}.get(pitch[1], "")
        head = f"<pitch><step>{pitch[0]}</step>{alter}<octave>{pitch[-1]}</octave></pitch>"
    return f"<note>{'<chord/>' if chord else ''}{head}<duration>{duration}</duration>{extra}</note>"


def voiced(pitch: str, duration: int, voice: int, staff: int = 1, *, chord: bool = False) -> str:
    """A note of a written voice on a staff."""
    return note(pitch, duration, f"<voice>{voice}</voice><staff>{staff}</staff>", chord=chord)


def backup(duration: int = 16) -> str:
    return f"<backup><duration>{duration}</duration></backup>"


def barline(location: str, *, repeat: str = "", ending: str = "", kind: str = "", times: int = 0) -> str:
    """A bar line with a repeat ("forward", "backward") or the start or stop (`kind`) of an ending ("1", "1,2")."""
    many = f' times="{times}"' if times else ""
    return (
        f'<barline location="{location}">'
        + (f'<ending number="{ending}" type="{kind}"/>' if ending else "")
        + (f'<repeat direction="{repeat}"{many}/>' if repeat else "")
        + "</barline>"
    )


def musicxml(parts: Sequence[tuple[str, Sequence[str]]], *, attributes: str = "", implicit: bool = False) -> str:
    """A file of named parts, each the XML of its bars; `attributes` stand in every first bar."""
    names, bodies = [], []
    for number, (name, bars) in enumerate(parts, 1):
        names.append(f'<score-part id="P{number}"><part-name>{name}</part-name></score-part>')
        first = f"<attributes><divisions>{DIVISIONS}</divisions>{attributes}</attributes>"
        mark = ' implicit="yes"' if implicit else ""
        measures = [
            f'<measure number="{at}"{mark if at == 1 else ""}>{first if at == 1 else ""}{bar}</measure>'
            for at, bar in enumerate(bars, 1)
        ]
        bodies.append(f'<part id="P{number}">{"".join(measures)}</part>')
    return f"<score-partwise><part-list>{''.join(names)}</part-list>{''.join(bodies)}</score-partwise>"


def midi(path, tracks: Sequence[Sequence[tuple[int, mido.Message]]], *, ticks: int = 480, kind: int = 1) -> None:
    """A MIDI file of tracks of (delta ticks, message)."""
    file = mido.MidiFile(type=kind, ticks_per_beat=ticks)
    for messages in tracks:
        file.tracks.append(mido.MidiTrack([message.copy(time=delta) for delta, message in messages]))
    file.save(path)


def midi_track(
    name: str, notes: Sequence[tuple[int, int, int]], *, channel: int = 0, end: int = 0
) -> list[tuple[int, mido.Message]]:
    """A track of notes (start tick, end tick, pitch) that ends at a tick."""
    events = [(0, mido.MetaMessage("track_name", name=name))] if name else []
    timed = [(0, message) for _, message in events]
    for start, stop, pitch in notes:
        timed.append((start, mido.Message("note_on", note=pitch, velocity=64, channel=channel)))
        timed.append((stop, mido.Message("note_off", note=pitch, channel=channel)))
    timed.sort(key=lambda pair: (pair[0], pair[1].type == "note_on"))
    now, track = 0, []
    for tick, message in timed:
        track.append((tick - now, message))
        now = tick
    return [*track, (max(end - now, 0), mido.MetaMessage("end_of_track"))]
