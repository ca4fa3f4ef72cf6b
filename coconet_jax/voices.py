"""Who sings what: finds soprano, alto, tenor and bass among the parts of a score file.

By the parts' names, else by their order, else by their range; a choice of the user's goes before all that. Staves that
hold two voices are opened, and so is a single one that holds chords of four.
"""

import bisect
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
import itertools
import os
import re
from typing import Final
import unicodedata

import numpy as np

from coconet_jax import errors, parts, pianoroll

_WORDS: Final = (
    ("soprano", "sopranos", "soprani", "sopran", "soprane", "sop", "s", "cantus", "canto", "discantus", "treble"),
    ("alto", "altos", "alti", "alt", "altus", "contralto", "a"),
    ("tenor", "tenors", "tenore", "tenori", "ten", "t"),
    ("bass", "basses", "basso", "bassi", "bassus", "basse", "b"),
)
_RANKS: Final = {word: rank for rank, words in enumerate(_WORDS) for word in words}
_SINGERS: Final = (
    "lead",
    "baritone",
    "baritones",
    "mezzo",
    "countertenor",
    "women",
    "men",
    "female",
    "male",
    "descant",
)
_FILLERS: Final = ("voice", "voices", "part", "choir", "chorus", "solo", "vocal", "vocals", "i", "ii", "1", "2")
# Built in the sizes of voices: "Tenor Trombone" is no tenor.
_INSTRUMENTS: Final = (
    "sax", "clarinet", "flute", "recorder", "trombone", "guitar", "drum", "horn", "tuba", "trumpet", "clef", "synth",
    "square", "sawtooth",
)  # fmt: skip
_SPREAD: Final = Fraction(1, 12)  # of a quarter: what begins or ends so much apart is played at once
_UNISON: Final = 5  # semitones that a voice of chords moves at most to sing another's note
_CENTRES: Final = tuple((low + high) / 2 for low, high in pianoroll.VOICE_RANGES)


def is_voice_name(name: str) -> bool:
    """Whether a part of this name is soprano, alto, tenor or bass, or several of them."""
    return bool(_ranks(name))


def find_four(
    found: parts.Parts, path: str | os.PathLike[str], choice: str | Sequence[str | int] | None
) -> parts.Parts:
    """`found` with exactly four parts, soprano to bass.

    `choice` names them: four of the numbers that parts have in the file (from 1), or their names; "2.1" is the first
    written voice of part 2.

    Raises:
      InputError: they cannot be told; the message has the remedy. `path` names the file.
    """
    if choice is not None:
        chosen = [part for part in _chosen(found.parts, path, choice) if part is not None]
        if len(chosen) < pianoroll.NUM_VOICES:
            raise errors.InputError(f"--voices={_said(choice)}: name four parts of {path}; {_listed(found.parts)}")
        return found._replace(parts=chosen)
    found = _with_chords_opened(found)
    named = _named(found.parts)
    if len(named) == pianoroll.NUM_VOICES:
        return _keep([named[rank] for rank in sorted(named)], found)
    pool = _four_by_order(found.parts)
    if pool is None:
        filled = [part for part in found.parts if part.notes]
        if not filled:
            return found
        many = len(filled) > pianoroll.NUM_VOICES
        raise errors.InputError(
            f"{path} has {count(len(filled))}; give a score of four voices, one to a staff or track"
            + (f", or say which they are, as in --voices=1,2,3,4: {_listed(found.parts)}" if many else "")
        )
    return by_range(_keep(pool, found))


def find_some(
    found: parts.Parts, path: str | os.PathLike[str], choice: str | Sequence[str | int] | None
) -> parts.Parts:
    """`found` with four parts, soprano to bass, those without notes among them that the file does not have.

    A choice may leave voices out by "-". A single part without a voice's name is the soprano; two or three are told
    by their range.

    Raises:
      InputError: they cannot be told; the message has the remedy. `path` names the file.
    """
    nobody = parts.Part("", [])
    if choice is not None:
        return found._replace(parts=[part or nobody for part in _chosen(found.parts, path, choice)])
    found = _with_chords_opened(found)
    named, told = _with_lone_lines(found.parts)
    pool = _four_by_order(found.parts)
    # Four that sing, some of which have other names ("Baritone") or one name twice, are four by order.
    in_order = len(found.parts) == pianoroll.NUM_VOICES and all(found.parts[rank] is named[rank] for rank in named)
    if pool is not None and all(part.notes for part in pool):
        in_order |= len(named) < pianoroll.NUM_VOICES and all(_sings(part.name) for part in found.parts if part.notes)
    if named and not in_order:
        told += _place_singers(found.parts, named)
        found = found._replace(remarks=(*found.remarks, *told))
        return _keep([named.get(rank, nobody) for rank in range(pianoroll.NUM_VOICES)], found)
    if pool is not None:
        return by_range(_keep(pool, found))
    filled = [part for part in found.parts if part.notes]
    if len(filled) == 1 and len(found.parts) <= 2 and len(filled[0].layers) == 2:
        first = 0 if found.parts[0].notes else 2
        filled = [nobody] * first + open_staff(filled[0]) + [nobody] * (2 - first)
    elif len(filled) > pianoroll.NUM_VOICES:
        raise errors.InputError(
            f"{path} has {count(len(filled))}; say which are soprano, alto, tenor and bass, as in --voices=1,2,3,4: "
            f"{_listed(found.parts)}"
        )
    elif len(filled) > 1:
        opened = [voice for part in filled for voice in (open_staff(part) if _in_company(part) else [part])]
        opened = [voice for voice in opened if voice.notes]
        filled = opened if len(opened) <= pianoroll.NUM_VOICES else filled
        filled = sorted(filled, key=_mean, reverse=True)
        ranks = min(
            itertools.combinations(range(pianoroll.NUM_VOICES), len(filled)),
            key=lambda ranks: sum(abs(_mean(p) - _CENTRES[r]) for p, r in zip(filled, ranks, strict=True)),
        )
        said = " and ".join(pianoroll.VOICES[rank] for rank in ranks)
        remark = f"taken for {said} by range; name the parts or use --voices if that is wrong"
        found = found._replace(remarks=(*found.remarks, remark))
        by_rank = dict(zip(ranks, filled, strict=True))
        filled = [by_rank.get(rank, nobody) for rank in range(pianoroll.NUM_VOICES)]
    return found._replace(parts=filled + [nobody] * (pianoroll.NUM_VOICES - len(filled)))


def find_melody(
    found: parts.Parts, path: str | os.PathLike[str], choice: str | Sequence[str | int] | None
) -> parts.Parts:
    """`found` with one part: the chosen one, the only one with notes, or the soprano.

    Raises:
      InputError: several parts, none of which is the soprano; `path` names the file.
    """
    if choice is not None:
        chosen = _chosen(found.parts, path, choice)
        if [part is None for part in chosen] != [False, True, True, True]:
            raise errors.InputError(f"--voices={_said(choice)}: name one part of {path}; {_listed(found.parts)}")
        return found._replace(parts=[part for part in chosen if part is not None])
    found = _with_chords_opened(found)
    filled = [part for part in found.parts if part.notes]
    if len(filled) <= 1 and not any(len(part.layers) == 2 for part in filled):
        return found._replace(parts=filled)
    named = _named(found.parts)
    if 0 in named and named[0].notes:
        return _keep([named[0]], found)
    pool = _four_by_order(found.parts)
    if pool is not None:
        return _keep(by_range(found._replace(parts=pool)).parts[:1], found)
    if len(filled) > 1:
        raise errors.InputError(
            f"{path} has {count(len(filled))}; give a melody (one voice), or four voices to take the soprano of"
            + (f"; --voices=1 takes the first: {_listed(found.parts)}" if len(filled) > 2 else "")
        )
    return found._replace(parts=filled)


def find_all(found: parts.Parts) -> parts.Parts:
    """`found` with all its parts from high to low: by name where all have one, else as written or by range."""
    pool = found.parts
    if len(pool) == 2 and all(len(part.layers) == 2 for part in pool):
        pool = [voice for part in pool for voice in open_staff(part)]
    named = _named(pool)
    if len(named) == len(pool):
        return found._replace(parts=[named[rank] for rank in sorted(named)])
    return by_range(found._replace(parts=pool))


def by_range(found: parts.Parts) -> parts.Parts:
    """Parts as they stand, unless a later one lies clearly higher: then from high to low, which is said."""
    means = [_mean(part) for part in found.parts]
    if not all(part.notes for part in found.parts):
        return found
    # Three semitones a voice: less than that is a voice crossing, not a score written upside down.
    for (at, first), (to, second) in itertools.combinations(enumerate(means), 2):
        if second - first >= 3 * (to - at):
            ordered = sorted(found.parts, key=_mean, reverse=True)
            return found._replace(parts=ordered, remarks=(*found.remarks, "put the voices in order by their range"))
    return found


def same_voices(name: str, other: str) -> bool:
    """Whether two parts are named after the same voice or voices."""
    return is_voice_name(name) and _ranks(name) == _ranks(other)


def open_staff(part: parts.Part) -> list[parts.Part]:
    """The upper and the lower voice of a staff; a note that stands alone is sung by both.

    By written voices where there are two, otherwise a note is in the voice whose side no other note sounds on.
    """
    names = [pianoroll.VOICES[rank] for rank in _ranks(part.name)]
    upper_name, lower_name = names if len(names) == 2 else ("", "")
    if len(part.layers) == 2:
        upper, lower = part.layers
    else:
        upper, lower = [], []
        for note, above, below in _neighbours(part.notes):
            if below or not above:  # of three at once the middle one is the upper voice's, divided
                upper.append(note)
            if not below:
                lower.append(note)
    return [parts.Part(upper_name, upper), parts.Part(lower_name, lower)]


def open_chords(notes: Sequence[parts.Note]) -> tuple[list[list[parts.Note]], int]:
    """Four voices, from high to low, of notes that are mostly four at once; none where they are not.

    Of fewer notes at once one is sung by all voices that come from near it, the others rest; of more, inner ones are
    left out. How many are left out altogether comes with the voices.
    """
    ordered = sorted(notes)
    starts = _apart(note.start for note in ordered)
    ends = [end for end in _apart(sorted(note.end for note in ordered)) if _distance(starts, end) >= _SPREAD]
    chords: list[tuple[Fraction, Fraction, list[parts.Note]]] = []
    sounding: list[parts.Note] = []
    at = 0
    for begin, end in itertools.pairwise(sorted(starts + ends)):
        middle = (begin + end) / 2
        while at < len(ordered) and ordered[at].start <= middle:
            sounding.append(ordered[at])
            at += 1
        sounding = [note for note in sounding[-16:] if note.end > middle]
        by_pitch = {note.pitch: note for note in sounding}
        chords.append((begin, end, [by_pitch[pitch] for pitch in sorted(by_pitch, reverse=True)]))
    times = {full: sum(end - begin for begin, end, chord in chords if len(chord) >= full) for full in (1, 4)}
    if not times[4] or 2 * times[4] < times[1]:
        return [], 0
    lines: list[list[parts.Note]] = [[] for _ in _CENTRES]
    sung: set[parts.Note] = set()
    pitches, held = list(_CENTRES), [parts.Note(Fraction(0), Fraction(0), 0)] * len(_CENTRES)
    for begin, end, chord in chords:
        if not chord:
            continue
        kept = chord[:3] + chord[-1:] if len(chord) > len(lines) else chord
        shares = [share for share in _SHARES if share[-1] == len(kept) - 1]
        share = min(shares, key=lambda share: sum(abs(kept[k].pitch - pitches[v]) for v, k in enumerate(share)))
        leaps = [abs(kept[k].pitch - pitches[voice]) for voice, k in enumerate(share)]
        nearest = [min(leap for leap, other in zip(leaps, share, strict=True) if other == k) for k in share]
        for voice, (line, note) in enumerate(zip(lines, (kept[k] for k in share), strict=True)):
            if leaps[voice] > max(nearest[voice], _UNISON):
                continue
            if line and held[voice] == note and line[-1].end == begin:
                line[-1] = line[-1]._replace(end=end)
            else:
                line.append(parts.Note(begin, end, note.pitch))
            pitches[voice], held[voice] = float(note.pitch), note
        sung.update(kept)
    return lines, sum(note not in sung for note in ordered)


# Which note, from the highest, each voice sings: no voice above a higher one, and no note without a voice.
_SHARES: Final = tuple(
    share
    for share in itertools.combinations_with_replacement(range(pianoroll.NUM_VOICES), pianoroll.NUM_VOICES)
    if set(share) == set(range(share[-1] + 1))
)


def _apart(times: Iterable[Fraction]) -> list[Fraction]:
    """Of rising times those that follow the one before at some distance."""
    kept: list[Fraction] = []
    for time in times:
        if not kept or time - kept[-1] >= _SPREAD:
            kept.append(time)
    return kept


def _distance(times: Sequence[Fraction], time: Fraction) -> Fraction:
    """To the nearest of rising times."""
    at = bisect.bisect(times, time)
    return min(abs(time - near) for near in times[max(at - 1, 0) : at + 1])


def _with_chords_opened(found: parts.Parts) -> parts.Parts:
    """`found` with four parts in place of its only one with notes, if that has no voice's name and holds chords."""
    filled = [part for part in found.parts if part.notes]
    if len(filled) != 1 or is_voice_name(filled[0].name) or len(filled[0].layers) > 1:
        return found
    lines, left = open_chords(filled[0].notes)
    if not lines:
        return found
    remark = "took the chords of a single part for four voices" + (
        f" and left out {left} inner note(s)" if left else ""
    )
    return found._replace(parts=[parts.Part("", line) for line in lines], remarks=(*found.remarks, remark))


def count(voices: int) -> str:
    """How many voices, in words."""
    return "1 voice" if voices == 1 else f"{voices} voices"


def _neighbours(notes: Sequence[parts.Note]) -> Iterator[tuple[parts.Note, bool, bool]]:
    """Each note, and whether a higher and a lower one sounds for at least half of it or of themselves."""
    ordered = sorted(notes)
    above, below = [False] * len(ordered), [False] * len(ordered)
    sounding: list[int] = []
    for at, note in enumerate(ordered):
        sounding = [other for other in sounding[-16:] if ordered[other].end > note.start]  # no choir holds more
        for other in sounding:
            held = ordered[other]
            overlap = min(held.end, note.end) - note.start
            if 2 * overlap >= min(held.end - held.start, note.end - note.start) and held.pitch != note.pitch:
                high, low = (at, other) if note.pitch > held.pitch else (other, at)
                above[low] = below[high] = True
        sounding.append(at)
    yield from zip(ordered, above, below, strict=True)


def _two_voiced(part: parts.Part) -> bool:
    """Whether a staff is written for two voices: by layers, or because most of its notes have company."""
    if len(part.layers) == 2:
        return True
    return _in_company(part)


def _two_singing(part: parts.Part) -> bool:
    """Whether a staff is written for two voices and named after singers, or after nobody."""
    return _two_voiced(part) and _sings(part.name)


def _in_company(part: parts.Part) -> bool:
    """Whether most notes of a staff have others beside them."""
    company = [above or below for _, above, below in _neighbours(part.notes)]
    return 2 * sum(company) > len(company)


def _four_by_order(found: list[parts.Part]) -> list[parts.Part] | None:
    """Four voices as they stand in the file, two to a staff or one; None where there are more or fewer."""
    filled = [part for part in found if part.notes]
    pool = found if len(found) == pianoroll.NUM_VOICES else filled
    below = pool[2:]
    holds_two = _in_company if len(pool) == pianoroll.NUM_VOICES else _two_singing
    if below and all(holds_two(part) for part in pool[:2]) and not any(_sings(part.name) for part in below):
        pool = pool[:2]  # a choir on two staves, and an organ below it
    if len(pool) == 2 and all(_two_voiced(part) for part in pool):
        return [voice for part in pool for voice in open_staff(part)]
    if len(pool) < pianoroll.NUM_VOICES and sum(max(len(part.layers), 1) for part in pool) == pianoroll.NUM_VOICES:
        return [parts.Part("", layer) for part in pool for layer in (part.layers or (part.notes,))]
    return pool if len(pool) == pianoroll.NUM_VOICES else None


def _with_lone_lines(found: Sequence[parts.Part]) -> tuple[dict[int, parts.Part], list[str]]:
    """Like `_named`, but a single line on a staff of two voices is that of the nearer one; and what was done so."""
    said, told = [], []
    for part in found:
        ranks = _ranks(part.name)
        divided = len(part.layers) == 2 or any(above or below for _, above, below in _neighbours(part.notes))
        if len(ranks) == 2 and part.notes and not divided:
            rank = min(ranks, key=lambda rank: abs(_mean(part) - _CENTRES[rank]))
            told.append(f"took the single line of {part.name} for the {pianoroll.VOICES[rank]}")
            part = parts.Part(pianoroll.VOICES[rank], part.notes)
        said.append(part)
    return _named(said), told


def _place_singers(found: Sequence[parts.Part], named: dict[int, parts.Part]) -> list[str]:
    """Gives voices that nobody is named after to singers of other names ("Men"), in place; and what was done so.

    They must lie where such a voice does: a descant above a soprano is no alto.
    """
    told = []
    for part in found:
        words = _words(part.name)
        sings = any(word in _SINGERS for word in words) and not any(word.startswith(_INSTRUMENTS) for word in words)
        fitting = [
            rank
            for rank, (low, high) in enumerate(pianoroll.VOICE_RANGES)
            if rank not in named and low <= _mean(part) <= high
        ]
        if fitting and sings and not _ranks(part.name) and not _two_voiced(part):
            rank = min(fitting, key=lambda rank: abs(_mean(part) - _CENTRES[rank]))
            higher = [_mean(other) for above, other in named.items() if above < rank and other.notes]
            if not higher or _mean(part) < min(higher):
                named[rank] = part
                told.append(f"took {part.name} for the {pianoroll.VOICES[rank]}")
    return told


def _named(found: Sequence[parts.Part]) -> dict[int, parts.Part]:
    """Parts by the voice (0..3) their name says, a plain name before one that only begins so, the first of several."""
    named: dict[int, parts.Part] = {}
    opened: list[parts.Part] = []
    for part in found:
        opened.extend(open_staff(part) if len(_ranks(part.name)) == 2 else [part])
    opened.sort(key=lambda part: not part.notes)  # a track that names the piece or a folder is no voice
    for ranks in (_ranks, _loose_ranks):
        for part in opened:
            found_ranks = ranks(part.name)
            if len(found_ranks) == 1:
                named.setdefault(found_ranks[0], part)
    return named


def _words(name: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", name.casefold()).encode("ascii", "ignore").decode()
    words = re.findall(r"[a-z]+|[0-9]+", plain)
    return [letter for word in words for letter in (word if word in ("sa", "tb") else [word])]


def _ranks(name: str) -> tuple[int, ...]:
    """The voices that a name of nothing but voices lists: (0,) for "Soprano 1", (2, 3) for "Tenor, Bass"."""
    words = [word for word in _words(name) if word not in _FILLERS]
    if words and all(word in _RANKS for word in words):
        return tuple(dict.fromkeys(_RANKS[word] for word in words))
    return ()


def _sings(name: str) -> bool:
    """Whether a part of this name may be one of a choir: it has none, or that of a voice or of singers."""
    words = [word for word in _words(name) if word not in _FILLERS]
    return not words or bool(_ranks(name) or _loose_ranks(name)) or any(word in _SINGERS for word in words)


def _loose_ranks(name: str) -> tuple[int, ...]:
    """The voice a name begins with, doubled by instruments ("Soprano Oboe 1"), unless it is one ("Alto Saxophone")."""
    first, second, *_ = *_words(name), "", ""
    begins = first in _RANKS and len(first) > 1  # "A Mighty Fortress" and "B flat Cornet" name no voice
    return (_RANKS[first],) if begins and second and not second.startswith(_INSTRUMENTS) else ()


def _mean(part: parts.Part) -> float:
    return float(np.mean([note.pitch for note in part.notes])) if part.notes else 0.0


def _keep(kept: list[parts.Part], found: parts.Parts) -> parts.Parts:
    """`found` with these parts only, and a remark on those of the file that were left out."""
    inside = {id(note) for part in kept for note in part.notes}
    left = [
        part.name or f"part {at}"
        for at, part in enumerate(found.parts, 1)
        if part.notes and not any(id(note) in inside for note in part.notes)
    ]
    remarks = (f"left out {_some(left)}",) if left else ()
    return found._replace(parts=kept, remarks=found.remarks + remarks)


def _some(names: Sequence[str], limit: int = 8) -> str:
    short = ", ".join(" ".join(name.split())[:40] for name in names[:limit])
    return short + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _listed(found: Sequence[parts.Part]) -> str:
    return "its parts are " + _some([f"{at} {part.name or '(no name)'}" for at, part in enumerate(found, 1)])


def _said(choice: str | Sequence[str | int]) -> str:
    return choice if isinstance(choice, str) else ",".join(str(entry) for entry in choice)


def _chosen(
    found: Sequence[parts.Part], path: str | os.PathLike[str], choice: str | Sequence[str | int]
) -> list[parts.Part | None]:
    """The parts a choice names, four of them, None where it leaves a voice out."""
    entries = [entry.strip() for entry in _said(choice).split(",")]
    if len(entries) > pianoroll.NUM_VOICES:
        raise errors.InputError(
            f"--voices={_said(choice)} has {len(entries)} entries; give four at most, from soprano to bass"
        )
    named = [entry for entry in entries if entry not in ("", "-")]
    if len(set(named)) < len(named):
        raise errors.InputError(f"--voices={_said(choice)} names a part twice; name each once, or - to leave one out")
    chosen = [None if entry in ("", "-") else _part(found, path, entry) for entry in entries]
    if not any(chosen):
        raise errors.InputError(f"--voices={_said(choice)} names no part of {path}; {_listed(found)}")
    return chosen + [None] * (pianoroll.NUM_VOICES - len(chosen))


def _part(found: Sequence[parts.Part], path: str | os.PathLike[str], entry: str) -> parts.Part:
    """The part with a number, a name or the beginning of one; "2.1" is a written voice of a part."""
    if number := re.fullmatch(r"(\d{1,6})(?:\.(\d{1,2}))?", entry):
        at, layer = int(number[1]), number[2]
        if 1 <= at <= len(found):
            part = found[at - 1]
            if layer is None:
                return part
            opened = open_staff(part) if _two_voiced(part) else [part]
            layers = part.layers or tuple(voice.notes for voice in opened)
            if 1 <= int(layer) <= len(layers):
                return parts.Part(part.name, layers[int(layer) - 1])
    plain = entry.casefold()
    for matches in (
        [part for part in found if part.name.casefold() == plain],
        [part for part in found if part.name.casefold().startswith(plain)],
    ):
        if len(matches) == 1:
            return matches[0]
    raise errors.InputError(f"--voices={entry}: {path} has no such part, or several; {_listed(found)}")
