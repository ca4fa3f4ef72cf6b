"""Notes that must stand in every answer, whatever the task: the user's own, and a last chord or a close."""

from collections.abc import Sequence
import dataclasses
import functools
import itertools
from typing import Final

from jaxtyping import Bool, Int, Integer
import numpy as np

from coconet_jax import bars, errors, parts, pianoroll, score, spelling, tasks


def with_notes(request: tasks.Request, notes: score.Score) -> tasks.Request:
    """The request with notes [t,4] of the user's that stand in every answer; where `notes` is silent nothing changes.

    What the reader of the notes changed or left out is told with the request's own remarks, and so is another meter:
    notes stand at the steps at which they are written.

    Raises:
      InputError: another grid or pick-up, longer than the request, or other notes than some that stay anyway.
    """
    given = request.given
    bars.check_score(notes)
    for name in ("steps_per_quarter", "pickup_steps"):
        if getattr(notes, name) != getattr(given, name):
            raise errors.InputError(
                f"given: {name}={getattr(notes, name)}, but {getattr(given, name)} in the piece; write the notes "
                "alike (and where they alone are given, leave --meter out)"
            )
    more = len(given.pitches) - len(notes.pitches)
    if more < 0:
        raise errors.InputError(
            f"given: {len(notes.pitches)} steps, but {len(given.pitches)} in the piece; shorten the notes"
        )
    told = (*given.remarks, *(f"given: {remark}" for remark in notes.remarks))
    if notes.meter != given.meter:
        one, other = ("/".join(map(str, meter)) for meter in (notes.meter, given.meter))
        told += (f"given: written in {one}, and kept step by step in a piece in {other}",)
    notes = bars.pad(notes, 0, more)
    request = request._replace(given=dataclasses.replace(given, remarks=told))
    return _fixed(request, "given", notes.pitches != pianoroll.REST, notes.pitches, notes.onset)


def with_last_chord(request: tasks.Request, chord: Sequence[int], steps: int | None = None) -> tasks.Request:
    """The request with the last steps that sound fixed to four MIDI pitches, soprano to bass.

    Args:
      request: to be given that end.
      chord: four pitches of 36..81.
      steps: how long; None: two quarters, or what the last notes of what is given allow.

    Raises:
      InputError: not four pitches of 36..81, more steps than there are, or other notes than some that stay anyway.
    """
    sounding = request.free.any(axis=1) | (request.given.pitches != pianoroll.REST).any(axis=1)
    total = int(np.flatnonzero(sounding)[-1]) + 1  # a file fills its last bar with rests
    names = " ".join(parts.pitch_name(pitch) if 0 <= pitch < 128 else str(pitch) for pitch in chord)
    low, high = pianoroll.MIN_PITCH, pianoroll.MAX_PITCH
    if len(chord) != pianoroll.NUM_VOICES or not all(low <= pitch <= high for pitch in chord):
        raise errors.InputError(
            f"last_chord={names}: give four pitches from {parts.pitch_name(low)} to {parts.pitch_name(high)}, "
            "soprano to bass"
        )
    agrees = (request.free | (request.given.pitches == np.array(chord))).all(axis=1)[:total]
    if steps is None:
        allowed = total if agrees.all() else total - int(np.flatnonzero(~agrees)[-1]) - 1
        steps = min(2 * request.given.steps_per_quarter, max(allowed, 1))
    if not 1 <= steps <= total:
        raise errors.InputError(f"last_chord_steps={steps}: the piece has {total} steps; use 1 to {total}")
    where = np.zeros(request.free.shape, bool)
    where[total - steps : total] = True
    onset = np.zeros_like(where)
    onset[total - steps] = True
    # A given note that ends inside of the chord keeps its length.
    onset[1:] |= where[1:] & ~request.free[:-1] & (request.given.pitches[:-1] != pianoroll.REST)
    pitches = np.broadcast_to(np.array(chord, np.int16), where.shape)
    return _fixed(request, f"last_chord={names}", where, pitches, onset)


# Of the last chords of the 225 training chorales (music21): 97 % are major triads in root position, in minor too, 95 %
# are complete and 97 % have the tonic in the soprano. All their notes lie in these ranges, soprano to bass, and no
# neighbours are further apart than this. How many end on each pitch class, from C.
_CLOSE_RANGES: Final = ((60, 76), (55, 68), (50, 64), (36, 55))
_CLOSE_GAPS: Final = (9, 9, 19)
_CLOSE_TONICS: Final = (14, 0, 34, 5, 33, 15, 6, 61, 1, 34, 13, 9)


def with_close(request: tasks.Request, *, tonic: int | None = None, steps: int | None = None) -> tasks.Request:
    """The request with a closing chord at its end: a major triad on the tonic, in root position, as Bach's are.

    Each chain has a voicing of its own, among those that agree with what is given there in all chains: the tonic is in
    the soprano, unless another note is given. What single chains have kept there (hybrid, variations) gives way.

    Args:
      request: whose end is not given as a whole.
      tonic: pitch class; None: that of the key of what is given, or where nothing is, one for each chain, as often as
        Bach's chorales end on it.
      steps: length of the chord; None: two quarters, or as long as the last notes of what is given.

    Raises:
      InputError: the end stays as it is, a length that does not fit, or given notes that are in no such chord.
    """
    total = int(np.flatnonzero(request.free.any(axis=1))[-1]) + 1
    if (request.given.pitches[total:] != pianoroll.REST).any():
        raise errors.InputError("last_chord=tonic: the end of the piece stays as it is; leave it out")
    free = request.free[:total]
    held = np.where(free, pianoroll.REST, request.given.pitches[:total])
    alike = (free == free[-1]).all(axis=1) & (held == held[-1]).all(axis=1)
    most = total - int(np.flatnonzero(~alike)[-1]) - 1 if not alike.all() else total
    usual = min(2 * request.given.steps_per_quarter, most)
    if steps is not None and not 1 <= steps <= most:
        raise errors.InputError(f"last_chord_steps={steps}: the piece and what is given at its end allow 1 to {most}")
    where = np.zeros(request.free.shape, bool)
    first = total - (steps or usual)
    where[first:total] = True
    where &= request.free
    made = tasks.request_for(request.given, request.free & ~where, "last_chord=tonic is all of it")
    end = tuple(int(pitch) for pitch in held[-1])

    def close(seed: int, ids: Int[np.ndarray, " n"]) -> tasks.Given:
        begun = tasks.start(request, seed, ids)
        pitches = np.array(begun.pitches)
        for row, number in enumerate(ids):
            draw = tasks.generator(seed + 2**40, int(number))
            root = _tonic(pitches[row], draw) if tonic is None else tonic
            chords = _closes(root, end)
            if not len(chords) and tonic is None and request.vary is not None:
                # In the key of what this chain has kept no close has these notes, so it is in another.
                fitting = np.array([share * bool(len(_closes(n, end))) for n, share in enumerate(_CLOSE_TONICS)])
                if fitting.any():
                    chords = _closes(_drawn(fitting, draw), end)
            if not len(chords):
                names = " ".join(parts.pitch_name(int(pitch)) for pitch in end if pitch != pianoroll.REST)
                raise errors.InputError(
                    f"last_chord=tonic: {names} at the end is in no closing chord on "
                    f"{parts.pitch_name(60 + root)[:-1]}; name the notes, as in --last_chord='G4 D4 B3 G2', or a --key"
                )
            chord = chords[int(draw.random() * len(chords))]
            pitches[row] = np.where(where, chord, pitches[row])
        # Where the same note is written before it is the longer for it; a given one keeps its length.
        onset, free = np.array(begun.onset) & ~where, np.array(begun.free) & ~where
        if first:
            same = (pitches[:, first] == pitches[:, first - 1]) & ~free[:, first - 1]
            onset[:, first] = where[first] & same & ~tasks.held(request, begun)[..., first, :]
        return begun._replace(pitches=pitches.astype(np.int8), onset=onset, free=free)

    close(0, np.arange(1))  # complaints come before the work
    return made._replace(in_turn=request.in_turn, vary=close, ends=request.ends, sources=request.sources)


def _tonic(pitches: Integer[np.ndarray, "t 4"], draw: np.random.Generator) -> int:
    if (pitches != pianoroll.REST).any():
        sharps, mode = spelling.find_key(pitches)
        return (7 * sharps + (9 if mode == "minor" else 0)) % 12
    return _drawn(np.array(_CLOSE_TONICS), draw)


def _drawn(weights: Int[np.ndarray, "12"], draw: np.random.Generator) -> int:
    """A pitch class, as often as its weight has it."""
    return int(np.searchsorted(np.cumsum(weights) / weights.sum(), draw.random(), side="right"))


@functools.lru_cache(maxsize=256)
def _closes(root: int, held: tuple[int, ...]) -> Integer[np.ndarray, "k 4"]:
    """Closing chords on a root with the held notes (-1: none) in them."""

    def notes(voice: int, degrees: tuple[int, ...]) -> list[int]:
        if held[voice] != pianoroll.REST:
            return [held[voice]] if (held[voice] - root) % 12 in (0, 4, 7) else []
        low, high = _CLOSE_RANGES[voice]
        return [pitch for pitch in range(low, high + 1) if (pitch - root) % 12 in degrees]

    found = []
    for chord in itertools.product(notes(0, (0,)), notes(1, (0, 4, 7)), notes(2, (0, 4, 7)), notes(3, (0,))):
        gaps = -np.diff(chord)
        whole = {(pitch - root) % 12 for pitch in chord} == {0, 4, 7} and (chord[3] - root) % 12 == 0
        if whole and (gaps > 0).all() and (gaps <= _CLOSE_GAPS).all():
            found.append(chord)
    return np.array(found, np.int16).reshape(-1, pianoroll.NUM_VOICES)


def _fixed(
    request: tasks.Request,
    name: str,
    where: Bool[np.ndarray, "t 4"],
    pitches: Integer[np.ndarray, "t 4"],
    onset: Bool[np.ndarray, "t 4"],
) -> tasks.Request:
    given, free, vary = request.given, request.free, request.vary
    clash = np.argwhere(where & ~free & (given.pitches != pitches))
    if len(clash):
        step, voice = clash[0]
        there, bar = int(given.pitches[step, voice]), bars.number_of(given, int(step))
        held = "a rest" if there == pianoroll.REST else parts.pitch_name(there)
        raise errors.InputError(
            f"{name}: the {pianoroll.VOICES[voice]} holds {held} in bar {bar}, which stays; "
            "give the same there, or another request"
        )
    whole, where = where, where & free
    # What comes after these notes does not go on from them.
    after = np.zeros_like(where)
    after[1:] = where[:-1] & ~whole[1:]
    fixed = dataclasses.replace(
        given,
        pitches=np.where(where, pitches, given.pitches),
        onset=np.where(where, onset, given.onset | (after & (given.pitches != pianoroll.REST))),
    )
    made = tasks.request_for(fixed, free & ~where, f"{name} fixes all of it")
    made = made._replace(in_turn=request.in_turn, ends=request.ends, sources=request.sources)
    if vary is None:
        return made

    def varied(seed: int, ids: Int[np.ndarray, " n"]) -> tasks.Given:
        chains = vary(seed, ids)
        held = chains.went_on
        if held is not None:  # nothing goes on into a note of these, nor out of one
            held = held & ~where
            held[:, 1:] &= ~where[:-1]
        return chains._replace(
            went_on=held,
            pitches=np.where(where, pitches, chains.pitches).astype(np.int8),
            onset=np.where(where, onset, chains.onset | (after & ~chains.free & (chains.pitches != pianoroll.REST))),
            free=chains.free & ~where,
        )

    return made._replace(vary=varied)
