"""The likelihood of a piece by plain loops, one network pass after another: what coconet_jax.likelihood must equal.

Written from the protocol (docs/likelihood.md), not from the package: contexts grow one note at a time as an ordering
is walked through, and the whole piece goes through the network each time. Only the drawing of orderings and lots is the
package's own (`row`); tests/test_orderings.py and tests/test_likelihood.py look after their laws.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from coconet_jax import estimates, likelihood, orderings

LOWEST, PITCHES = 36, 46

# The network: notes [t, p, i] and what is given [t, i] to logits [t, p, i].
Predict = Callable[[np.ndarray, np.ndarray], np.ndarray]


def one_hot(pitches: np.ndarray) -> np.ndarray:
    roll = np.zeros((len(pitches), PITCHES, pitches.shape[1]), np.float32)
    for t, chord in enumerate(pitches):
        for i, pitch in enumerate(chord):
            if pitch >= 0:
                roll[t, pitch - LOWEST, i] = 1
    return roll


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def framewise(
    predict: Predict,
    pitches: np.ndarray,
    order: Sequence[tuple[int, Sequence[int]]],
    feed: str,
    lots: Callable[[int], np.ndarray],
    frames: Collection[int],
) -> np.ndarray:
    """Log-probability [t, i] of each note, frame after frame; nan where the frame is not asked for.

    `order` gives the frames with the order of their voices, `lots(t)` the uniform numbers that settle draws.
    """
    found = np.full(pitches.shape, np.nan)
    given = np.zeros(pitches.shape, bool)
    for t, voices in order:
        if t in frames:
            seen, context = pitches.copy(), given.copy()  # other frames: the truth
            for n, voice in enumerate(voices):
                log_probs = log_probabilities(predict(one_hot(seen), context)[t, :, voice])
                true = pitches[t, voice]
                found[t, voice] = 0.0 if true < 0 else log_probs[true - LOWEST]
                if feed == "argmax":
                    seen[t, voice] = LOWEST + log_probs.argmax()
                elif feed == "draw":
                    cumulated = np.cumsum(np.exp(log_probs))
                    seen[t, voice] = LOWEST + min(int((cumulated <= lots(t)[n]).sum()), PITCHES - 1)
                context[t, voice] = True
        given[t] = True
    return found


def notewise(
    predict: Predict, pitches: np.ndarray, order: Sequence[tuple[int, int]], frames: Collection[int]
) -> np.ndarray:
    """Log-probability [t, i] of each note by the chain rule, all notes before it in the order given and true."""
    found = np.full(pitches.shape, np.nan)
    given = np.zeros(pitches.shape, bool)
    for t, voice in order:
        if t in frames:
            log_probs = log_probabilities(predict(one_hot(pitches), given)[t, :, voice])
            true = pitches[t, voice]
            found[t, voice] = 0.0 if true < 0 else log_probs[true - LOWEST]
        given[t, voice] = True
    return found


def row(forward: Callable[..., Any], corpus: Any, piece: int, ordering: int, frames: list[int], name: str, seed: int):
    """Log-probabilities [frames, i] of a piece by one of the package's measures, along the ordering it draws.

    `forward(roll, context, valid)` is the compiled network, [1, t, ...].
    """
    measure = estimates.MEASURES[name]
    pitches = np.asarray(corpus.pitches[piece][: corpus.lengths[piece]]).astype(int)
    everywhere = jnp.ones((1, len(pitches)), bool)
    voices = pitches.shape[1]
    key = likelihood.ordering_key(seed, jnp.int32(corpus.number[piece]), jnp.int32(ordering))
    ranks = np.asarray(orderings.ORDERS[measure.order](key, everywhere[0], voices))
    order = [divmod(int(place), voices) for place in np.argsort(ranks.ravel())]

    def predict(roll: np.ndarray, context: np.ndarray) -> np.ndarray:
        return np.asarray(forward(jnp.asarray(roll)[None], jnp.asarray(context)[None], everywhere))[0]

    def lots(frame: int) -> np.ndarray:
        return np.asarray(likelihood.draw_lots(key, jnp.int32(frame), voices))

    if measure.unit == "note":
        return notewise(predict, pitches, order, frames)[frames]
    by_frame = [(order[n][0], [voice for _, voice in order[n : n + voices]]) for n in range(0, len(order), voices)]
    return framewise(predict, pitches, by_frame, measure.feed, lots, frames)[frames]
