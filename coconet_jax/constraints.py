"""Notes that must stand in every answer, whatever the task: the user's own, and a last chord."""

from collections.abc import Sequence
import dataclasses

from jaxtyping import Bool, Int, Integer
import numpy as np

from coconet_jax import bars, errors, parts, pianoroll, score, tasks


def with_notes(request: tasks.Request, notes: score.Score) -> tasks.Request:
    """The request with notes [t,4] of the user's that stand in every answer; where `notes` is silent nothing changes.

    Raises:
      InputError: another grid or pick-up, longer than the request, or other notes than some that stay anyway.
    """
    given = request.given
    bars.check_score(notes)
    for name in ("steps_per_quarter", "pickup_steps"):
        if getattr(notes, name) != getattr(given, name):
            raise errors.InputError(
                f"given: {name}={getattr(notes, name)}, but {getattr(given, name)} in the piece; write the notes alike"
            )
    more = len(given.pitches) - len(notes.pitches)
    if more < 0:
        raise errors.InputError(
            f"given: {len(notes.pitches)} steps, but {len(given.pitches)} in the piece; shorten the notes"
        )
    notes = bars.pad(notes, 0, more)
    return _fixed(request, "given", notes.pitches != pianoroll.REST, notes.pitches, notes.onset)


def with_last_chord(request: tasks.Request, chord: Sequence[int], steps: int) -> tasks.Request:
    """The request with its last `steps` steps fixed to four MIDI pitches, soprano to bass.

    Raises:
      InputError: not four pitches of 36..81, more steps than there are, or other notes than some that stay anyway.
    """
    total = len(request.free)
    names = " ".join(parts.pitch_name(pitch) if 0 <= pitch < 128 else str(pitch) for pitch in chord)
    low, high = pianoroll.MIN_PITCH, pianoroll.MAX_PITCH
    if len(chord) != pianoroll.NUM_VOICES or not all(low <= pitch <= high for pitch in chord):
        raise errors.InputError(
            f"last_chord={names}: give four pitches from {parts.pitch_name(low)} to {parts.pitch_name(high)}, "
            "soprano to bass"
        )
    if not 1 <= steps <= total:
        raise errors.InputError(f"last_chord_steps={steps}: the piece has {total} steps; use 1 to {total}")
    where = np.zeros((total, pianoroll.NUM_VOICES), bool)
    where[-steps:] = True
    onset = np.zeros_like(where)
    onset[-steps] = True
    pitches = np.broadcast_to(np.array(chord, np.int16), where.shape)
    return _fixed(request, f"last_chord={names}", where, pitches, onset)


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
    where = where & free
    fixed = dataclasses.replace(
        given, pitches=np.where(where, pitches, given.pitches), onset=np.where(where, onset, given.onset)
    )
    made = tasks.request_for(fixed, free & ~where, f"{name} fixes all of it")._replace(in_turn=request.in_turn)
    if vary is None:
        return made

    def varied(seed: int, ids: Int[np.ndarray, " n"]) -> tasks.Given:
        chains = vary(seed, ids)
        return tasks.Given(
            np.where(where, pitches, chains.pitches).astype(np.int8),
            np.where(where, onset, chains.onset),
            chains.free & ~where,
        )

    return made._replace(vary=varied)
