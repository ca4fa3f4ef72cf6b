"""Choosing among candidates by what a critic says of them: the best of N for each request, or a set that keeps variety.

Candidate j of request r is chain r * N + j: what is chosen for a request depends on its own candidates alone, however
requests are cut into batches, chunks and processes.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from jaxtyping import Bool, Float, Int16, Int64, Integer
import numpy as np

from coconet_jax import errors
from coconet_jax.judge import critic as critic_lib
from coconet_jax.judge import separation

MOST: Final = 1024  # candidates of one request
USUAL: Final = 8  # beyond it more candidates bring little (docs/critic.md)

Draw = Callable[[Int64[np.ndarray, " n"]], Int16[np.ndarray, "n t 4"]]


class Chosen(NamedTuple):
    """The winners of some requests.

    Attributes:
      pitches: of the winners.
      candidate: which of its request's candidates each is, from 0.
      logit: what the critic says of it.
      quotes: True where every candidate was a quotation, so that the winner is one too.
    """

    pitches: Int16[np.ndarray, "n t 4"]
    candidate: Int64[np.ndarray, " n"]
    logit: Float[np.ndarray, " n"]
    quotes: Bool[np.ndarray, " n"]


def candidate_chains(ids: Integer[np.ndarray, " n"], best_of: int) -> Int64[np.ndarray, " m"]:
    """Chain numbers of all candidates of these requests, those of one request in a row."""
    if (len(ids) and int(ids.max()) + 1) * best_of > 2**31:
        raise errors.InputError(f"best_of={best_of}: more than {2**31} candidates in all; use fewer, or fewer samples")
    return (ids[:, None].astype(np.int64) * best_of + np.arange(best_of)).ravel()


def best(scores: Float[np.ndarray, "n c"], barred: Bool[np.ndarray, "n c"]) -> Int64[np.ndarray, " n"]:
    """The place of the highest score in each row among those that are not barred, or among all where all are.

    The first of equals wins.
    """
    open_ = ~barred | barred.all(axis=1, keepdims=True)
    return np.where(open_, scores, -np.inf).argmax(axis=1).astype(np.int64)


def best_of(critic: critic_lib.Critic, draw: Draw, ids: Int64[np.ndarray, " n"], best_of: int) -> Chosen:
    """Draws the candidates of each request and keeps the one that the critic likes best.

    That is the one of the highest calibrated log-odds of being real less one standard deviation of the ensemble, so
    that what the members disagree on is not chosen for the one that is wrong; behind a gate that no quotation of
    the training music passes (critic.quotes).

    Args:
      critic: see there.
      draw: chain numbers to MIDI pitches, each chain by its number alone.
      ids: numbers of the requests.
      best_of: candidates of each.
    """
    pitches = draw(candidate_chains(ids, best_of))
    verdict = critic_lib.judge(critic, pitches)
    shape = (len(ids), best_of)
    barred = critic_lib.quotes(critic, pitches).reshape(shape)
    won = best(verdict.careful.reshape(shape), barred)
    rows = np.arange(len(ids)) * best_of + won
    return Chosen(pitches[rows], won, verdict.logit[rows], np.asarray(barred.all(axis=1)))


def accept(
    logits: Float[np.ndarray, " n"], uniforms: Float[np.ndarray, " n"], keep_share: float
) -> Bool[np.ndarray, " n"]:
    """Discriminator rejection sampling (Azadi et al. 2018): which of a generator's samples to keep in a set.

    With the true log-odds, what is kept would be distributed as real music is: chances in proportion to their odds.
    Unlike the best of N it does not take the likeliest alone, so that the set keeps its variety. The paper's gamma
    is settled by the share to keep.

    Args:
      logits: of being real, calibrated.
      uniforms: a number in [0, 1) for each sample, which decides.
      keep_share: of the samples that is kept on average, in (0, 1].

    Raises:
      InputError: a share that is not one.
    """
    if not 0 < keep_share <= 1:
        raise errors.InputError(f"keep_share={keep_share}: use a value in (0, 1]")
    # log of odds over the highest odds, and what turns it into the logit of a chance (the paper's eq. 8).
    ratio = np.minimum(logits - logits.max(initial=-np.inf), -1e-8)
    shifted = ratio - np.log(-np.expm1(ratio))
    low, high = -100.0, 100.0
    for _ in range(60):
        gamma = (low + high) / 2
        share = np.mean(separation.sigmoid(shifted - gamma)) if len(logits) else 0.0
        low, high = (gamma, high) if share > keep_share else (low, gamma)
    return uniforms < separation.sigmoid(shifted - (low + high) / 2)
