"""How much of the training music a piece repeats note for note, in any transposition. numpy, no model.

All places of all pieces are compared at once: a run of L + 1 steps is found where one of L steps is and the next pair
of steps follows it too. The places still in play are numbered anew at every length by what they have in common, so that
no hash can collide; they become few within some ten steps, and the work with them.
"""

from typing import Final, NamedTuple

from jaxtyping import Integer
import numpy as np

from coconet_jax import pianoroll, pieces
from coconet_jax.judge import beats

ALL_VOICES: Final = (0, 1, 2, 3)


class _Places(NamedTuple):
    """Steps of pieces, end to end: the chord there, the chord with the next, the piece, the steps to its end."""

    chord: Integer[np.ndarray, " p"]
    pair: Integer[np.ndarray, " p"]
    piece: Integer[np.ndarray, " p"]
    left: Integer[np.ndarray, " p"]


def _encode(pitches: Integer[np.ndarray, "*n i"]) -> Integer[np.ndarray, "*n"]:
    """One number for the pitches of up to eight cells, the same for all transpositions; exact.

    Pitches are taken from the first that sounds, a byte each; 0 is a rest.
    """
    sounding = pitches != pianoroll.REST
    first = np.take_along_axis(pitches, sounding.argmax(-1)[..., None], axis=-1)
    bytes_ = np.where(sounding, pitches.astype(np.int64) - first + 128, 0).astype(np.uint64)
    shifts = np.arange(0, 8 * pitches.shape[-1], 8, dtype=np.uint64)
    return np.bitwise_or.reduce(bytes_ << shifts, axis=-1)


def _flatten(pitches: Integer[np.ndarray, "n t i"], lengths: Integer[np.ndarray, " n"]) -> _Places:
    num_pieces, num_steps = pitches.shape[:2]
    inside = np.arange(num_steps) < lengths[:, None]
    following = np.concatenate([pitches[:, 1:], pitches[:, -1:]], axis=1)
    pair = _encode(np.concatenate([pitches, following], axis=-1))
    piece = np.broadcast_to(np.arange(num_pieces)[:, None], inside.shape)
    left = lengths[:, None] - np.arange(num_steps)
    return _Places(_encode(pitches)[inside], pair[inside], piece[inside], left[inside])


def _number(
    ours: Integer[np.ndarray, " p"], theirs: Integer[np.ndarray, " q"]
) -> tuple[Integer[np.ndarray, " p"], Integer[np.ndarray, " q"]]:
    """Numbers equal values alike, from 0, by what occurs among theirs; ours that do not are -1."""
    values, numbers = np.unique(theirs, return_inverse=True)
    if values.size == 0:
        return np.full(ours.shape, -1), numbers
    at = np.minimum(np.searchsorted(values, ours), values.size - 1)
    return np.where(values[at] == ours, at, -1), numbers


def longest_run(
    pitches: Integer[np.ndarray, "n t 4"],
    training: pieces.Pieces,
    lengths: Integer[np.ndarray, " n"] | None = None,
    voices: tuple[int, ...] = ALL_VOICES,
    own: Integer[np.ndarray, " n"] | None = None,
) -> Integer[np.ndarray, " n"]:
    """The longest run of each piece, in steps, that is found in the training set, up to transposition.

    A run is found where a piece of the training set has the same pitches, all moved by one interval, in all the given
    voices at as many successive steps; where in its bar does not matter. 0 where not even one chord is found. A run
    of nothing but rests is found like any other; rests of all voices let the transposition change.

    A window from which more than N steps are taken is one with `longest_run(...) > N`. Runs of single voices, or of
    long notes, are found in any music: compare with what real pieces of other sets give.

    Args:
      pitches: pieces or windows.
      training: where to look.
      lengths: steps of each piece; without it all t.
      voices: those compared, `(0,)` for the soprano.
      own: for each piece the number of the training piece to pass over, such as the one it was cut from; -1 for none.
    """
    valid = beats.mark_valid(pitches, lengths)
    query = _flatten(pitches[..., list(voices)], valid.sum(1))
    known = _flatten(training.pitches[..., list(voices)], training.lengths)
    own = np.full(len(pitches), -1) if own is None else own
    longest = np.zeros(len(pitches), np.int64)
    ours, theirs = np.arange(query.piece.size), np.arange(known.piece.size)  # the places still in play
    our_ids, their_ids = _number(query.chord, known.chord)
    pair_ids, known_pair_ids = _number(query.pair, known.pair)
    num_pairs = int(known_pair_ids.max()) + 1
    num_steps = 1
    while True:
        # Where a number occurs in one training piece only, that piece is both the first and the last it occurs in.
        size = int(their_ids.max(initial=-1)) + 1
        first, last = np.full(size, len(training.lengths)), np.full(size, -1)
        np.minimum.at(first, their_ids, known.piece[theirs])
        np.maximum.at(last, their_ids, known.piece[theirs])
        skip = own[query.piece[ours]]
        kept = our_ids >= 0
        kept[kept] = (first[our_ids[kept]] != skip[kept]) | (last[our_ids[kept]] != skip[kept])
        ours, our_ids = ours[kept], our_ids[kept]
        if ours.size == 0:
            return longest
        longest[query.piece[ours]] = num_steps
        # One step more: the pair at the run's last step has to be followed too.
        goes_on = (query.left[ours] > num_steps) & (pair_ids[np.minimum(ours + num_steps - 1, len(pair_ids) - 1)] >= 0)
        ours, our_ids = ours[goes_on], our_ids[goes_on]
        in_play = np.zeros(size, bool)
        in_play[our_ids] = True
        stays = in_play[their_ids] & (known.left[theirs] > num_steps)
        theirs, their_ids = theirs[stays], their_ids[stays]
        our_ids, their_ids = _number(
            our_ids * num_pairs + pair_ids[ours + num_steps - 1],
            their_ids * num_pairs + known_pair_ids[theirs + num_steps - 1],
        )
        num_steps += 1
