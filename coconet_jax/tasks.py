"""Requests: what of a score is given and what the model writes. One function for each task.

Those whose chains start from different notes (hybrid, variations) are in `blends`, what must stand in every answer is
in `constraints`.

Everything here is numpy on the host; nothing knows of a model. Names in complaints are those of the arguments,
which are also the flags of the command. The network has no class for a rest: a free cell always gets a note, and a
cell that must stay silent is not free and holds -1.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Final, NamedTuple

from jaxtyping import Bool, Int, Int8, Integer
import numpy as np

from coconet_jax import bars, errors, pianoroll, score

ALL_VOICES: Final = tuple(range(pianoroll.NUM_VOICES))


class Given(NamedTuple):
    """Where n chains start.

    Attributes:
      pitches: what is given, -1 = rest; free cells hold -1, or the old note where voices are rewritten in turn.
      onset: where given notes are struck.
      free: what the model writes.
      ends: which of the request's ends these chains have; None: all.
      first: steps from a beat to the first step, before it where negative; None: as the request's pickup has it.
      went_on: where the note of the step before went on in the score that is given; None: as in the request's.
    """

    pitches: Int8[np.ndarray, "n t 4"]
    onset: Bool[np.ndarray, "n t 4"]
    free: Bool[np.ndarray, "n t 4"]
    ends: Bool[np.ndarray, "n 2"] | None = None
    first: Int[np.ndarray, " n"] | None = None
    went_on: Bool[np.ndarray, "n t 4"] | None = None


class Request(NamedTuple):
    """What is to be completed.

    Attributes:
      given: the score to start from; its free cells hold the notes that are to be replaced, or -1.
      free: True where the model may write, in any chain.
      in_turn: voices that are rewritten one after another, each in a run of its own; none: all at once.
      vary: (seed, chain numbers) -> where these chains start, if they differ; each depends on (seed, its number) alone.
      ends: whether the piece begins with the first step, and ends with the last: what a network that has learned how
        pieces begin and end (`data.ends`) writes there. (See `excerpt`.)
      sources: what settles `vary`: the scores it takes from, their pitches first, and how much; to tell requests
        apart.
    """

    given: score.Score
    free: Bool[np.ndarray, "t 4"]
    in_turn: tuple[int, ...] = ()
    vary: Callable[[int, Int[np.ndarray, " n"]], Given] | None = None
    ends: tuple[bool, bool] = (True, True)
    sources: tuple[np.ndarray, ...] = ()


def excerpt(request: Request) -> Request:
    """The same out of the middle of a piece, as are crops and windows."""
    return request._replace(ends=(False, False))


def known_pitches(request: Request) -> tuple[Integer[np.ndarray, "... 4"], ...]:
    """Pitches of all scores that are given to some chain."""
    return request.given.pitches, *request.sources[:1]


def start(request: Request, seed: int, ids: Int[np.ndarray, " n"]) -> Given:
    """Where the chains of these numbers start."""
    ends = np.broadcast_to(request.ends, (len(ids), 2))
    first = np.full(len(ids), -request.given.pickup_steps, np.int32)
    if request.vary is not None:
        given = request.vary(seed, ids)
        ends = ends if given.ends is None else ends & given.ends
        return given._replace(ends=ends, first=first if given.first is None else given.first)
    shape = (len(ids), *request.free.shape)
    # A voice whose turn has not come yet is context for the others, with its old notes.
    blank = request.free & (not request.in_turn)
    pitches = np.where(blank, pianoroll.REST, request.given.pitches).astype(np.int8)
    onset = request.given.onset & ~request.free
    pitches, onset, free = (np.broadcast_to(part, shape) for part in (pitches, onset, request.free))
    return Given(pitches, onset, free, ends, first)


def generator(seed: int, number: int) -> np.random.Generator:
    """Random numbers of a chain."""
    # Philox is keyed, not seeded: two chains never share a stream. Only `random` is called, whose numbers, other than
    # those of `permutation` or `choice`, are not expected to change with numpy.
    return np.random.Generator(np.random.Philox(key=np.array([seed, number], np.uint64)))


def struck(request: Request, given: Given, pitches: Integer[np.ndarray, "n t 4"]) -> Bool[np.ndarray, "n t 4"]:
    """Where the notes of finished chains are struck: at every new pitch, and where the user struck a given note.

    A given note that went on from what was rewritten is struck anew if the new note before it is another. A written
    note of the pitch of a given one right before it is struck, so that the given one keeps its length, unless the
    note of the score went on there too.
    """
    changes = np.stack([pianoroll.onsets_where_pitch_changes(piece) for piece in pitches])
    after_given = follows_given(given.free)
    after_given[:, 1:] &= pitches[:, :-1] != pianoroll.REST
    return changes | (given.onset & ~given.free) | (after_given & ~held(request, given))


def held(request: Request, given: Given) -> Bool[np.ndarray, "*n t 4"]:
    """Where the note of the step before goes on in the score that is given."""
    return went_on(request.given.pitches, request.given.onset) if given.went_on is None else given.went_on


def follows_given(free: Bool[np.ndarray, "n t 4"]) -> Bool[np.ndarray, "n t 4"]:
    """The free cells right after given ones of their voice."""
    after = np.zeros(free.shape, bool)
    after[:, 1:] = free[:, 1:] & ~free[:, :-1]
    return after


def went_on(pitches: Integer[np.ndarray, "*n t 4"], onset: Bool[np.ndarray, "*n t 4"]) -> Bool[np.ndarray, "*n t 4"]:
    """Where the note of the step before goes on."""
    held = np.zeros(pitches.shape, bool)
    held[..., 1:, :] = (pitches[..., 1:, :] == pitches[..., :-1, :]) & ~onset[..., 1:, :]
    return held


def silent_cells(piece: score.Score, rests: str, choices: Sequence[str]) -> Bool[np.ndarray, "t 4"]:
    """Cells that stay silent though they lie in what is to be written.

    "sound" or "fill": none. "keep": the rests of every voice that has a note. "together": all voices, where all those
    that have a note rest.
    """
    if rests not in choices:
        raise errors.InputError(f"rests={rests}: use {' or '.join(choices)}")
    silent = piece.pitches == pianoroll.REST
    written = ~silent.all(axis=0)
    if rests == "keep":
        return silent & written
    if rests == "together" and written.any():
        return np.broadcast_to(silent[:, written].all(axis=1, keepdims=True), silent.shape)
    return np.zeros_like(silent)


def request_for(
    piece: score.Score, free: Bool[np.ndarray, "t 4"], remedy: str, in_turn: tuple[int, ...] = ()
) -> Request:
    """A request that leaves the model something to write; InputError with the remedy where it does not."""
    if not free.any():
        raise errors.InputError(f"{piece.title or 'the request'}: nothing is left to write; {remedy}")
    return Request(piece, free, in_turn)


def compose(
    steps: int, *, meter: tuple[int, int] = (4, 4), steps_per_quarter: int = 4, pickup_steps: int = 0
) -> Request:
    """A chorale of so many steps from nothing, those of its pick-up among them."""
    silence = np.full((bars.check_length("steps", steps), pianoroll.NUM_VOICES), pianoroll.REST, np.int16)
    given = score.from_pitches(silence, meter=meter, steps_per_quarter=steps_per_quarter, pickup_steps=pickup_steps)
    return Request(given, np.ones(silence.shape, bool))


def harmonize(part: score.Score, voice: int = 0, *, rests: str = "sound") -> Request:
    """The other three voices for a given one, which stays as it is, rests and repeats included.

    Args:
      part: a melody [t,1], or a score [t,4] of which the voice is taken.
      voice: which voice it is (0 = soprano).
      rests: where the given voice rests, the others "sound", or all rest "together". Before its first note and after
        its last all rest.
    """
    (voice,) = bars.check_voices("voice", [voice])
    pitches = np.full((len(part.pitches), pianoroll.NUM_VOICES), pianoroll.REST, np.int16)
    onset = np.zeros(pitches.shape, bool)
    column = voice if part.pitches.shape[1] == pianoroll.NUM_VOICES else 0
    pitches[:, voice], onset[:, voice] = part.pitches[:, column], part.onset[:, column]
    piece = bars.check_score(dataclasses.replace(part, pitches=pitches, onset=onset))
    if (pitches == pianoroll.REST).all():
        raise errors.InputError(f"voice={pianoroll.VOICES[voice]}: it has no notes; name a voice that has some")
    free = np.arange(pianoroll.NUM_VOICES) != voice
    # A file fills its first and last bars with rests: nothing is to be heard there but an upbeat and a close.
    sung, steps = np.flatnonzero(pitches[:, voice] != pianoroll.REST), np.arange(len(pitches))
    within = (sung[0] <= steps) & (steps <= sung[-1])
    free = within[:, None] & free & ~silent_cells(piece, rests, ("sound", "together"))
    return request_for(piece, free, "give a voice with notes")


def complete(piece: score.Score, *, rests: str = "fill", steps: int | None = None) -> Request:
    """What is silent in a partial score; what is written stays.

    Args:
      piece: the score [t,4], -1 where a voice is silent.
      rests: "fill" writes all that is silent; "keep" leaves the rests of every voice that has a note, and writes the
        voices that have none; "together" fills, but where no voice is written all stay silent.
      steps: how long the whole is to be, since readers drop the silence after the last note; the score's own length.
    """
    bars.check_score(piece)
    silent = silent_cells(piece, rests, ("fill", "keep", "together"))
    more = 0 if steps is None else bars.check_length("steps", steps) - len(piece.pitches)
    if more < 0:
        raise errors.InputError(
            f"steps={steps}: the score has {len(piece.pitches)} already; ask for that or more, or leave the length out"
        )
    piece = bars.pad(piece, 0, more)
    free = (piece.pitches == pianoroll.REST) & ~np.pad(silent, ((0, more), (0, 0)))
    return request_for(piece, free, "leave cells empty, or rewrite with inpaint, revoice or variations")


def inpaint(
    piece: score.Score, begin: int, end: int, *, voices: Sequence[int] = ALL_VOICES, rests: str = "fill"
) -> Request:
    """Rewrites the steps begin..end - 1 (see `bars.span`), in all voices or some.

    Args:
      piece: the score [t,4].
      begin: first step.
      end: the step after the last.
      voices: of 0..3.
      rests: as in `complete`.
    """
    bars.check_score(piece)
    if not 0 <= begin < end <= len(piece.pitches):
        raise errors.InputError(f"span={begin}-{end}: the piece has {len(piece.pitches)} steps; use a span inside it")
    free = np.zeros(piece.pitches.shape, bool)
    free[begin:end, bars.check_voices("inpaint_voices", voices)] = True
    free &= ~silent_cells(piece, rests, ("fill", "keep", "together"))
    return request_for(piece, free, "only rests are in the span; use rests=fill")


def revoice(piece: score.Score, voices: Sequence[int] = ALL_VOICES, *, rests: str = "fill") -> Request:
    """Rewrites whole voices one after another, in the order given, each under what the others are by then.

    Args:
      piece: the score [t,4].
      voices: of 0..3.
      rests: as in `complete`.
    """
    bars.check_score(piece)
    free = np.zeros(piece.pitches.shape, bool)
    free[:, bars.check_voices("revoice_voices", voices)] = True
    free &= ~silent_cells(piece, rests, ("fill", "keep", "together"))
    return request_for(piece, free, "these voices rest throughout; use rests=fill", tuple(voices))


def extend(piece: score.Score, steps: int, *, before: bool = False) -> Request:
    """Writes so many steps right after a score, or right before it."""
    bars.check_score(piece)
    steps = bars.check_length("steps", steps)
    longer = bars.pad(piece, steps if before else 0, 0 if before else steps)
    free = np.zeros(longer.pitches.shape, bool)
    free[slice(steps) if before else slice(len(piece.pitches), None)] = True
    return request_for(longer, free, "ask for 1 step or more")


def transition(first: score.Score, second: score.Score, steps: int) -> Request:
    """Joins two scores by a bridge of about so many steps; what is written in either stays.

    The bridge is lengthened or shortened by up to half a bar, so that the bar lines of the second fall on those of
    the first: its pick-up takes the end of the bridge's last bar. Tempo is that of the first.
    """
    bars.check_alike((first, second))
    bar = score.bar_steps(first.meter, first.steps_per_quarter)
    bars.check_length("steps", steps)
    if bar:
        least = (first.pickup_steps - len(first.pitches) - second.pickup_steps) % bar
        steps = max(least + (steps - least + bar // 2) // bar * bar, least or bar)
    joined = bars.pad(first, 0, steps + len(second.pitches))
    begin = len(first.pitches) + steps
    joined.pitches[begin:], joined.onset[begin:] = second.pitches, second.onset
    title = " - ".join(piece.title for piece in (first, second) if piece.title)
    joined = dataclasses.replace(joined, title=title, remarks=first.remarks + second.remarks)
    free = np.zeros(joined.pitches.shape, bool)
    free[len(first.pitches) : begin] = True
    return request_for(joined, free, "ask for 1 step or more")


def upsample(piece: score.Score, factor: int = 4) -> Request:
    """Livens up a score of long notes: every `factor`-th step stays, counted from the bar line, the rest is written.

    A voice that rests at such a step rests until the next.
    """
    bars.check_score(piece)
    if factor not in (2, 4):
        raise errors.InputError(f"factor={factor}: use 2 or 4")
    numbers = np.arange(len(piece.pitches))
    place = (numbers - piece.pickup_steps) % factor
    resting = piece.pitches[np.maximum(numbers - place, 0)] == pianoroll.REST
    return request_for(piece, (place > 0)[:, None] & ~resting, "give a score longer than the factor")
