"""Requests whose chains start from different notes: hybrids of several chorales, variations on one.

What chain c keeps is drawn from a generator of its own, keyed by (seed, c): asking for more chains changes none.
"""

from collections.abc import Callable, Sequence

from jaxtyping import Bool, Int
import numpy as np

from coconet_jax import bars, errors, pianoroll, score, tasks


def hybrid(pieces: Sequence[score.Score], *, keep_share: float = 0.5, chunk_steps: int | None = None) -> tasks.Request:
    """Keeps random chunks of two or more scores, all four voices at once, and writes what lies between.

    The scores are laid on each other bar line on bar line; the result is as long as they reach together, and has the
    tempo of the first. Each chain keeps other chunks, as many from each score as can be.

    Args:
      pieces: scores [t,4] of one meter and grid, of any lengths.
      keep_share: of the piece, on average, that is kept; between 0 and 1.
      chunk_steps: length of a chunk; four quarters.
    """
    if len(pieces) < 2:
        raise errors.InputError(f"hybrid: {len(pieces)} score given; give two or more")
    bars.check_alike(pieces)
    if not 0 < keep_share < 1:
        raise errors.InputError(f"keep_share={keep_share}: use a value above 0 and below 1")
    first = pieces[0]
    chunk = _chunk(chunk_steps, 4 * first.steps_per_quarter, max(len(piece.pitches) for piece in pieces))
    pickup = max(piece.pickup_steps for piece in pieces)
    length = max(pickup - piece.pickup_steps + len(piece.pitches) for piece in pieces)
    laid = []
    for piece in pieces:
        before = pickup - piece.pickup_steps
        laid.append(bars.pad(piece, before, length - before - len(piece.pitches)))
    inside = np.zeros((len(pieces), length), bool)
    for row, piece in zip(inside, pieces, strict=True):
        row[pickup - piece.pickup_steps :][: len(piece.pitches)] = True
    pitches = np.stack([piece.pitches for piece in laid])
    onset = np.stack([piece.onset for piece in laid])
    held = tasks.went_on(pitches, onset)

    def chain(seed: int, number: int) -> _Kept:
        generator = tasks.generator(seed, number)
        slots = _slots(generator.random(), length, chunk, pickup, first.steps_per_quarter)
        kept = _choose(generator, int(slots[-1]) + 1, keep_share)
        source = _sources(generator, inside, slots, kept)
        stays = (source >= 0) & inside[source, np.arange(length)]
        free = np.broadcast_to(~stays[:, None], pitches.shape[1:])
        step = np.arange(length)
        # Right after a chunk that is kept, its own score says whether the last notes of it went on.
        before = np.roll(source, 1)
        lasting = np.where(source < 0, before, source)
        # Where two chunks meet, a note of the one's pitch begins anew in the other, unless it went on there too.
        meet = (source != before) & (source >= 0) & (before >= 0)
        meet[0] = False
        begins = onset[source, step] | (meet[:, None] & ~held[before, step] & (pitches[source, step] != pianoroll.REST))
        return pitches[source, step], begins, free, held[lasting, step]

    title = " + ".join(piece.title for piece in pieces if piece.title)
    silence = np.full(pitches.shape[1:], pianoroll.REST, np.int16)
    given = score.Score(
        silence,
        np.zeros(silence.shape, bool),
        first.meter,
        pickup,
        first.steps_per_quarter,
        first.qpm,
        title,
        tuple(remark for piece in pieces for remark in piece.remarks),
    )
    settled = (pitches, onset, inside, np.array([keep_share, chunk], np.float64))
    return tasks.Request(given, np.ones(silence.shape, bool), vary=_every(chain), sources=settled)


def variations(
    piece: score.Score, similarity: float, *, chunk_steps: int | None = None, rests: str = "fill"
) -> tasks.Request:
    """Rewrites a score but for random runs of each voice that survive, other runs in each chain.

    At similarity 1 every chain comes back as it is, though `free` of the request names what other values would rewrite.
    With the same seed, what survives at one similarity survives at every greater one.

    Args:
      piece: the score [t,4].
      similarity: share of the cells that survive, on average: 0 rewrites everything, 1 nothing.
      chunk_steps: length of a run; two quarters.
      rests: as in `tasks.complete`, for what does not survive.
    """
    bars.check_score(piece)
    bars.check_share("similarity", similarity)
    length = len(piece.pitches)
    chunk = _chunk(chunk_steps, 2 * piece.steps_per_quarter, length)
    writable = ~tasks.silent_cells(piece, rests, ("fill", "keep", "together"))

    held = tasks.went_on(piece.pitches, piece.onset)

    def chain(seed: int, number: int) -> _Kept:
        generator = tasks.generator(seed, number)
        lots = generator.random(pianoroll.NUM_VOICES)
        runs = [_slots(lot, length, chunk, piece.pickup_steps, piece.steps_per_quarter) for lot in lots]
        counts = np.array([run[-1] + 1 for run in runs])
        kept = np.zeros(counts.sum(), bool)
        kept[_choose(generator, len(kept), similarity)] = True
        firsts = np.cumsum(counts) - counts
        stays = np.stack([kept[first + run] for first, run in zip(firsts, runs, strict=True)], axis=1)
        return piece.pitches, piece.onset, writable & ~stays, held

    settled = (piece.pitches, piece.onset, np.array([similarity, chunk], np.float64))
    return tasks.Request(piece, writable, vary=_every(chain), sources=settled)


_Kept = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # pitches, onsets, what is free, what went on


def _every(chain: Callable[[int, int], _Kept]) -> Callable[[int, Int[np.ndarray, " n"]], tasks.Given]:
    """(seed, numbers) -> Given, from what one chain keeps; it blanks what is free."""

    def vary(seed: int, ids: Int[np.ndarray, " n"]) -> tasks.Given:
        kept = zip(*[chain(seed, int(number)) for number in ids], strict=True)
        pitches, onset, free, held = (np.stack(part) for part in kept)
        blank = np.where(free, pianoroll.REST, pitches).astype(np.int8)
        return tasks.Given(blank, onset & ~free, free, went_on=held)

    return vary


def _chunk(asked: int | None, usual: int, length: int) -> int:
    if asked is None:
        return min(usual, length)
    if not 1 <= asked <= length:
        raise errors.InputError(f"chunk_steps={asked}: use 1 to {length}, the length of the piece")
    return asked


def _slots(lot: float, length: int, chunk: int, pickup: int, quarter: int) -> Int[np.ndarray, " t"]:
    """The number, from 0, of the chunk each step is in; `lot` in [0,1) settles where chunks begin, always on a beat."""
    shift = (int(lot * -(-chunk // quarter)) * quarter - pickup) % chunk
    return (np.arange(length) + shift) // chunk


def _choose(generator: np.random.Generator, count: int, share: float) -> Int[np.ndarray, " k"]:
    """Draws share * count of 0..count - 1, rounded up or down so that the mean is right; in random order."""
    lots = generator.random(count + 1)
    return np.argsort(lots[1:], kind="stable")[: int(share * count + lots[0])]


def _sources(
    generator: np.random.Generator,
    inside: Bool[np.ndarray, "k t"],
    slots: Int[np.ndarray, " t"],
    kept: Int[np.ndarray, " m"],
) -> Int[np.ndarray, " t"]:
    """Which score each step is kept from, -1: none. A kept chunk is of the score least used of those that fill it."""
    starts = np.searchsorted(slots, np.arange(slots[-1] + 1))
    filled = np.add.reduceat(inside, starts, axis=1, dtype=np.int64)
    used = np.zeros(len(inside), int)
    source = np.full(slots[-1] + 1, -1)
    for slot, lots in zip(kept, generator.random((len(kept), len(inside))), strict=True):
        able = np.flatnonzero(filled[:, slot] == filled[:, slot].max())
        source[slot] = min(able, key=lambda k: (used[k], lots[k]))
        used[source[slot]] += 1
    return source[slots]
