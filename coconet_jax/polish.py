"""Redraws guided by a critic: short passages of finished scores are drawn again, and what the critic prefers stays.

A generator whose notes are drawn independently of their neighbours leaves faults that its own likelihood hardly sees,
parallels above all, and a critic hears them. Whole pieces of which none is clean do not help it (the best of N); in
passages of two beats one of a few candidates mostly is. So each passage in turn is drawn again some times, given all
around it, and of these and of what stood there the one stays with which the critic holds the music most surely real.
The critic's opinion is an input here and no verdict any more: measure polished sets by what it does not know.

Between passages scores go to the host, where the critic's theory measures are counted, so that large runs are not
polished unless they ask for it.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from jaxtyping import Bool, Float, Int16, Integer
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import generate, offline, pianoroll, samples, score, steering, tasks, weights
from coconet_jax.judge import critic as critic_lib
from coconet_jax.judge import selection

USUAL: Final = 1  # sweeps
MOST: Final = 100
WINDOW_STEPS: Final = critic_lib.STEPS  # what generator and critic see of a longer piece

# What the critic says of pieces: the higher the better, and which are barred.
Judge = Callable[[Int16[np.ndarray, "n t 4"]], tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]]


class Passages(NamedTuple):
    """How passages are redrawn.

    Attributes:
      steps: of a passage. Every other sweep begins half a passage earlier.
      candidates: drawn for each.
      calls: of the model for each candidate, by Gibbs.
    """

    steps: int = 8
    candidates: int = 4
    calls: int = 8


PASSAGES: Final = Passages()


def judge_with(critic: critic_lib.Critic) -> Judge:
    """The critic's log-odds less one standard deviation; quotations of the training music are barred."""

    def judge(pitches: Int16[np.ndarray, "n t 4"]) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        return critic_lib.judge(critic, pitches).careful, critic_lib.quotes(critic, pitches)

    return judge


def num_redraws(free: Bool[np.ndarray, "t 4"], sweeps: int, passages: Passages = PASSAGES) -> int:
    """Passages that so many sweeps over a piece redraw: those in which something is free."""
    return sum(len(_starts(free, sweep, passages)) for sweep in range(sweeps))


def num_calls(free: Bool[np.ndarray, "t 4"], sweeps: int, passages: Passages = PASSAGES) -> int:
    """Model calls, of a window each, that a piece takes."""
    return num_redraws(free, sweeps, passages) * passages.candidates * passages.calls


def polish(
    judge: Judge,
    plan: generate.Plan,
    pitches: Int16[np.ndarray, "n t 4"],
    ids: Integer[np.ndarray, " n"],
    sweeps: int = USUAL,
    *,
    passages: Passages = PASSAGES,
    report: generate.Report = lambda share: None,
) -> Int16[np.ndarray, "n t 4"]:
    """Sweeps over finished chains; what is given never moves.

    What comes out for a chain depends on the plan's seed, its number and its notes alone.

    Args:
      judge: see `judge_with`.
      plan: that the chains were drawn by.
      pitches: of the chains.
      ids: their numbers, all different.
      sweeps: over each piece, from its beginning to its end.
      passages: see there.
      report: called with the share of the work done since it was last called.
    """
    free = np.array(tasks.start(plan.request, plan.seed, ids).free)
    pitches, steps = pitches.copy(), pitches.shape[1]
    anyone, at = np.asarray(plan.request.free), np.arange(steps)
    for sweep in range(sweeps):
        for start in _starts(anyone, sweep, passages):
            open_ = free & ((at >= start) & (at < start + passages.steps))[:, None]
            begin = min(max(start + (passages.steps - WINDOW_STEPS) // 2, 0), max(steps - WINDOW_STEPS, 0))
            window = slice(begin, begin + WINDOW_STEPS)
            seed = np.random.SeedSequence([plan.seed, sweep, start + passages.steps]).generate_state(1)[0] >> 1
            pitches[:, window] = _redraw(
                judge, _cut(plan, window, int(seed)), pitches[:, window], open_[:, window], ids, passages
            )
            report(1 / num_redraws(anyone, sweeps, passages))
    return pitches


def complete(
    loaded: weights.Loaded,
    request: tasks.Request,
    num_samples: int = 1,
    settings: config_lib.Sample | None = None,
    *,
    sweeps: int = USUAL,
    seed: int = 0,
) -> samples.Samples:
    """Like `generate.complete`, and polished with the packaged critic."""
    ids = np.arange(num_samples)
    plan = generate.plan(loaded, request, num_samples, settings, seed=seed)
    pitches = polish(judge_with(critic_lib.load()), plan, generate.samples(plan, ids).pitches, ids, sweeps)
    return offline.to_samples(request, pitches, ids, seed)


def _starts(free: Bool[np.ndarray, "t 4"], sweep: int, passages: Passages) -> list[int]:
    """First steps of the passages of a sweep in which something is free; before 0 for one that begins outside."""
    starts = range(-(passages.steps // 2) if sweep % 2 else 0, len(free), passages.steps)
    return [start for start in starts if free[max(start, 0) : start + passages.steps].any()]


def _cut(plan: generate.Plan, window: slice, seed: int) -> generate.Plan:
    """The plan for a window of the piece, but for its request."""
    prior = plan.prior and steering.Steering(plan.prior.bias[window], plan.prior.temperature[window])
    return plan._replace(prior=prior, seed=seed)


def _redraw(
    judge: Judge,
    plan: generate.Plan,
    pitches: Int16[np.ndarray, "n t 4"],
    free: Bool[np.ndarray, "n t 4"],
    ids: Integer[np.ndarray, " n"],
    passages: Passages,
) -> Int16[np.ndarray, "n t 4"]:
    """One passage of every chain: the best of its candidates and of what stood there."""
    order = np.argsort(ids)
    blank = np.where(free, pianoroll.REST, pitches).astype(np.int8)

    def vary(seed: int, chains: np.ndarray) -> tasks.Given:
        rows = order[np.searchsorted(ids[order], chains // passages.candidates)]
        return tasks.Given(blank[rows], np.zeros(blank[rows].shape, bool), free[rows])

    anyone = np.asarray(free.any(axis=0))
    if not anyone.any():  # other chains, of other batches, are free here
        return pitches
    piece = score.from_pitches(np.full(anyone.shape, pianoroll.REST, np.int16))
    chains = selection.candidate_chains(ids, passages.candidates)
    settings = config_lib.Sample(
        num_steps=passages.calls - 1,
        temperature=plan.settings.temperature,
        top_p=plan.settings.top_p,
        greedy=plan.settings.greedy,
    )
    plan = plan._replace(
        request=tasks.Request(piece, anyone, vary=vary),
        settings=settings,
        num_devices=generate.num_devices(len(chains), plan.micro_batch),
    )
    drawn = generate.samples(plan, chains).pitches.reshape(len(ids), passages.candidates, *anyone.shape)
    everyone = np.concatenate([pitches[:, None], drawn], axis=1)
    scores, barred = judge(everyone.reshape(-1, *anyone.shape))
    shape = everyone.shape[:2]
    won = selection.best(scores.reshape(shape), barred.reshape(shape))
    return everyone[np.arange(len(ids)), won]
