"""Log-probabilities of the notes of whole pieces along orderings: the core of evaluation, compiled once for all pieces.

The unit of work is a row: one frame of one piece along one ordering. Its voices are predicted one after another, each
from what comes before it in the ordering. A row needs the steps alone that the network's logits at the frame depend
on, so rows of all pieces have one shape; pieces live on the device as small integers, and orderings, contexts and
one-hot rolls are made there. The network is seen as `predict_step` alone: what makes one from weights is in `Net`.
"""

from collections.abc import Callable, Iterator
import functools
from typing import Any, Final, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int, Int8, Int32, Key
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import devices, model, orderings, pianoroll
from coconet_jax.pianoroll import AnyArray

PROTOCOL: Final = 1  # raised when the same arguments give other numbers: what is kept of earlier ones is not mixed in
# What a frame's later voices see of its earlier ones.
FEEDS: Final = ("truth", "argmax", "draw")
_ORDERS: Final = tuple(orderings.ORDERS.values())
_IN_FLIGHT: Final = 2  # batches that the host is ahead of the devices


class Corpus(NamedTuple):
    """Pieces on the device.

    Attributes:
      pitches: MIDI pitches, -1 = rest, -1 past a piece's end.
      lengths: steps of each piece.
      number: of each piece; with the seed and the ordering's number it settles the ordering.
      pickup: steps of each piece before its first bar line, of which only what is over a beat counts; None: 0.
    """

    pitches: Int8[AnyArray, "n t i"]
    lengths: Int32[AnyArray, " n"]
    number: Int32[AnyArray, " n"]
    pickup: Int32[AnyArray, " n"] | None = None


class Rows(NamedTuple):
    """Frames to be scored: the piece's place in the corpus, the step, and the number of the ordering."""

    piece: Int32[AnyArray, " r"]
    frame: Int32[AnyArray, " r"]
    ordering: Int32[AnyArray, " r"]


class Protocol(NamedTuple):
    """How pieces are scored: the names of an order (`orderings.ORDERS`) and of what is fed within a frame (FEEDS)."""

    order: str
    feed: str


class Windows(NamedTuple):
    """The steps around a frame that the network's logits at the frame depend on.

    Attributes:
      first: the first step's place in its piece, counted from a beat.
      time: of each step in its piece; -1 outside of it.
      pitches: MIDI pitches, -1 = rest or outside.
      inside: True inside the piece.
    """

    first: Int32[Array, " r"]
    time: Int32[Array, "r w"]
    pitches: Int8[Array, "r w i"]
    inside: Bool[Array, "r w"]


def ordering_key(seed: int | Int[Array, ""], number: Int[Array, ""], ordering: Int[Array, ""]) -> Key[Array, ""]:
    """The key of one ordering of one piece."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), ordering)


def draw_lots(key: Key[Array, ""], frame: Int[Array, ""], num_voices: int) -> Float[Array, " i"]:
    """Uniform numbers that settle the notes drawn at a frame, the first for the voice that comes first."""
    return jax.random.uniform(jax.random.fold_in(jax.random.fold_in(key, 2**31 - 1), frame), (num_voices,))


def windows(corpus: Corpus, rows: Rows, reach: tuple[int, int]) -> Windows:
    """The steps from `before` ahead of each row's frame to `after` behind it."""
    before, after = reach
    times = rows.frame[:, None] + jnp.arange(-before, after + 1)[None]
    inside = (times >= 0) & (times < corpus.lengths[rows.piece][:, None])
    notes = corpus.pitches[rows.piece[:, None], jnp.clip(times, 0, corpus.pitches.shape[1] - 1)]
    pitches = jnp.where(inside[..., None], notes, pianoroll.REST).astype(jnp.int8)
    first = times[:, 0] if corpus.pickup is None else times[:, 0] - corpus.pickup[rows.piece]
    return Windows(first, jnp.where(inside, times, -1).astype(jnp.int32), pitches, inside)


def score_rows(
    predict_step: model.PredictStep,
    reach: tuple[int, int],
    corpus: Corpus,
    rows: Rows,
    order: Int[Array, ""],
    feed: Int[Array, ""],
    seed: Int[Array, ""],
) -> Float32[Array, "r i"]:
    """Log-probability in nats of each voice's note at each row's frame; 0 for a rest, as in the released code.

    Voices are predicted in the order of their ranks, each from all variables of a lower rank. What the network sees of
    the frame itself is the truth, or its own answers; elsewhere it is always the truth.

    Args:
      predict_step: logits of the step that has reach[0] steps before it and reach[1] after it.
      reach: see there.
      corpus: the pieces.
      rows: what is scored.
      order: place in orderings.ORDERS.
      feed: place in FEEDS.
      seed: of the orderings and of the drawn notes.
    """
    num_voices = corpus.pitches.shape[2]
    before = reach[0]
    around = windows(corpus, rows, reach)
    steps = jnp.arange(corpus.pitches.shape[1])

    def rank(piece: Int32[Array, ""], ordering: Int32[Array, ""]) -> Int[Array, "t i"]:
        key = ordering_key(seed, corpus.number[piece], ordering)
        branches = [functools.partial(_rank, make, num_voices) for make in _ORDERS]
        return jax.lax.switch(order, branches, key, steps < corpus.lengths[piece])

    ranks = jax.vmap(rank)(rows.piece, rows.ordering)
    near = jnp.take_along_axis(ranks, jnp.maximum(around.time, 0)[..., None], axis=1)
    own = near[:, before]
    by_rank = jnp.argsort(own, axis=1)
    truth = around.pitches[:, before]
    keys = jax.vmap(lambda piece, o: ordering_key(seed, corpus.number[piece], o))(rows.piece, rows.ordering)
    lots = jax.vmap(lambda key, frame: draw_lots(key, frame, num_voices))(keys, rows.frame)
    row = jnp.arange(len(rows.frame))

    def one(place: Int[Array, ""], done: tuple[Array, Array]) -> tuple[Array, Array]:
        scored, seen = done
        voice = by_rank[:, place]
        context = around.inside[..., None] & (near < own[row, voice][:, None, None])
        notes = around.pitches.at[:, before].set(seen)
        logits = predict_step(pianoroll.from_pitches(notes), context, around.inside, around.first)
        log_probs = jax.nn.log_softmax(logits[row, :, voice], axis=-1)
        true = truth[row, voice]
        at = jnp.maximum(true - pianoroll.MIN_PITCH, 0).astype(jnp.int32)
        scored = scored.at[row, voice].set(jnp.where(true == pianoroll.REST, 0.0, log_probs[row, at]))
        answers = jnp.stack([true, _argmax(log_probs), _draw(log_probs, lots[row, place])])
        return scored, seen.at[row, voice].set(answers[feed])

    start = (jnp.zeros(truth.shape, jnp.float32), truth)
    return jax.lax.fori_loop(0, num_voices, one, start)[0]


def _rank(make: Callable[..., Array], num_voices: int, key: Key[Array, ""], valid: Bool[Array, " t"]) -> Array:
    return make(key, valid, num_voices)


def _argmax(log_probs: Float[Array, "r p"]) -> Int8[Array, " r"]:
    return (jnp.argmax(log_probs, axis=1) + pianoroll.MIN_PITCH).astype(jnp.int8)


def _draw(log_probs: Float[Array, "r p"], lots: Float[Array, " r"]) -> Int8[Array, " r"]:
    """The pitch at which the cumulated probability passes the lot."""
    below = jnp.sum(jnp.cumsum(jnp.exp(log_probs), axis=1) <= lots[:, None], axis=1)
    return (jnp.minimum(below, log_probs.shape[1] - 1) + pianoroll.MIN_PITCH).astype(jnp.int8)


def default_batch_size() -> int:
    """Rows at once on a device: what stays in a core's cache, or keeps an accelerator busy."""
    return 8 if devices.on_cpu() else 256


class Net(NamedTuple):
    """What makes a model's `predict_step` from its weights, and the steps before and after a step that it looks at."""

    make_step: Callable[[Any], model.PredictStep]
    reach: tuple[int, int]


@functools.lru_cache(maxsize=8)
def net_of(config: config_lib.Model) -> Net:
    """Of a Coconet; the same object for the same config, so that it is compiled once."""
    return Net(lambda variables: model.make_predict_step(variables, config), model.reach(config))


class Scorer(NamedTuple):
    """A network and pieces, ready to be scored.

    Attributes:
      weights: of the network.
      net: the network.
      corpus: the pieces.
      seed: of the orderings.
      batch_size: rows at once on a device.
      mesh: the devices that share the rows, of all processes.
    """

    weights: Any
    net: Net
    corpus: Corpus
    seed: int
    batch_size: int
    mesh: devices.Mesh


def prepare(scorer: Scorer) -> Scorer:
    """The same with weights and pieces on every device."""
    # From the host: what lies on a device of one process cannot go to those of another.
    held = jax.tree.map(np.asarray, (scorer.weights, scorer.corpus))
    replicated = devices.replicate(held, scorer.mesh)
    return scorer._replace(weights=replicated[0], corpus=replicated[1])


def score(scorer: Scorer, rows: Rows, protocol: Protocol) -> Iterator[Float32[np.ndarray, "r i"]]:
    """Log-probabilities of the rows in their order, batch by batch, the same in all processes.

    Every batch has one shape, the last is filled up with rows that are thrown away.
    """
    size = scorer.batch_size * scorer.mesh.size
    order = np.int32(list(orderings.ORDERS).index(protocol.order))
    feed = np.int32(FEEDS.index(protocol.feed))
    run = _compiled(scorer.mesh, scorer.net)
    total = len(rows.piece)
    waiting: list[tuple[int, jax.Array]] = []
    for first in range(0, total, size):
        count = min(size, total - first)
        batch = Rows(*(_spread(np.resize(column[first : first + count], size), scorer.mesh) for column in rows))
        waiting.append((count, run(scorer.weights, scorer.corpus, batch, order, feed, np.int32(scorer.seed))))
        if len(waiting) > _IN_FLIGHT:
            count, found = waiting.pop(0)
            yield np.asarray(found)[:count]
    for count, found in waiting:
        yield np.asarray(found)[:count]


def _spread(column: Int32[np.ndarray, " r"], mesh: devices.Mesh) -> jax.Array:
    """A column of which all processes hold the whole, split over the devices."""
    sharding = jax.sharding.NamedSharding(mesh, devices.PartitionSpec(devices.AXIS))
    return jax.make_array_from_callback(column.shape, sharding, lambda index: column[index])


@functools.lru_cache(maxsize=8)
def _compiled(mesh: devices.Mesh, net: Net) -> Callable[..., jax.Array]:
    """One program for all pieces, orders and feeds, and for the weights of all checkpoints."""

    def body(
        weights: Any,
        corpus: Corpus,
        rows: Rows,
        order: Int[Array, ""],
        feed: Int[Array, ""],
        seed: Int[Array, ""],
    ) -> Float32[Array, "r i"]:
        found = score_rows(net.make_step(weights), net.reach, corpus, rows, order, feed, seed)
        return jax.lax.all_gather(found, devices.AXIS, tiled=True)

    return devices.map_body(body, mesh, "shard_map", sharded=(False, False, True, False, False, False))
