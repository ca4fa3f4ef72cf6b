"""Redraws guided by a critic: short passages of finished scores are drawn again, and what the critic prefers stays.

A generator whose notes are drawn independently of their neighbours leaves faults that its own likelihood hardly sees,
parallels above all, and a critic hears them. Whole pieces of which none is clean do not help it (the best of N); in
passages of two beats one of a few candidates mostly is. So each passage in turn is drawn again some times, given all
around it, and of these and of what stood there the one stays with which the critic holds the music most surely real;
what is real enough is left alone. The critic's opinion is an input here and no verdict any more: measure polished sets
by what it does not know.

Between passages scores go to the host, where the critic's theory measures are counted, so that large runs are not
polished unless they ask for it.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import jax
from jaxtyping import Bool, Float, Int16, Integer
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import devices, errors, generate, model, offline, pianoroll, samples, score, steering, tasks, weights
from coconet_jax.judge import critic as critic_lib
from coconet_jax.judge import selection

USUAL: Final = 2  # sweeps
MOST: Final = 100
WINDOW_STEPS: Final = critic_lib.STEPS  # what the critic sees of a longer piece
# What the generator sees on either side of a passage. On 160 validation windows more hardly counts: the NLL of two
# beats given all around them is 1.286 nats with 16 steps, 1.275 with 28, 1.273 with 60 (`small`, step 20,000).
CONTEXT_STEPS: Final = 16
_LEAST: Final = 64  # candidates at once where the shape may show, however few chains there are: any device has room

# What the critic says of pieces: the higher the better, and which are barred.
Judge = Callable[[Int16[np.ndarray, "n t 4"]], tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]]


class Passages(NamedTuple):
    """How passages are redrawn.

    Attributes:
      steps: of a passage. Every other sweep begins half a passage earlier.
      candidates: drawn for each.
      calls: of the model for each candidate, by Gibbs.
      coolness: the plan's temperature is multiplied by it. What a few calls draw at its full height is rough, full of
        sixteenths; drawn more carefully, candidates still differ enough to choose from (docs/sampling.md).
      enough: passages in music of this score (with `judge_with`: log-odds less one standard deviation) are left as they
        are. Without an end to it music becomes more careful than Bach's; half of his windows reach this one
        (docs/sampling.md).
    """

    steps: int = 8
    candidates: int = 4
    calls: int = 8
    coolness: float = 0.5
    enough: float = 0.6


PASSAGES: Final = Passages()


def judge_with(critic: critic_lib.Critic) -> Judge:
    """The critic's log-odds less one standard deviation; quotations of the training music are barred."""

    def judge(pitches: Int16[np.ndarray, "n t 4"]) -> tuple[Float[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
        return critic_lib.judge(critic, pitches).careful, critic_lib.quotes(critic, pitches)

    return judge


def num_redraws(free: Bool[np.ndarray, "t 4"], sweeps: int, passages: Passages = PASSAGES) -> int:
    """Passages that so many sweeps over a piece redraw at most: those in which something is free."""
    return sum(len(_starts(free, sweep, passages)) for sweep in range(sweeps))


def window_steps(passages: Passages = PASSAGES) -> int:
    """Steps that the generator sees at once."""
    return passages.steps + 2 * CONTEXT_STEPS


def num_calls(free: Bool[np.ndarray, "t 4"], sweeps: int, passages: Passages = PASSAGES) -> int:
    """Model calls, of a window each, that a piece takes at most."""
    return num_redraws(free, sweeps, passages) * passages.candidates * passages.calls


def polish(
    judge: Judge,
    plan: generate.Plan,
    pitches: Int16[np.ndarray, "n t 4"],
    ids: Integer[np.ndarray, " n"],
    sweeps: int = USUAL,
    *,
    passages: Passages = PASSAGES,
    attempt: int = 0,
    report: generate.Report = lambda share: None,
) -> Int16[np.ndarray, "n t 4"]:
    """Sweeps over finished chains; what is given never moves.

    What comes out for a chain depends on the plan's seed, its number, the attempt and its notes alone.

    Args:
      judge: see `judge_with`.
      plan: that the chains were drawn by.
      pitches: of the chains.
      ids: their numbers, all different.
      sweeps: over each piece, from its beginning to its end.
      passages: see there.
      attempt: draws the same passages by other keys, 1, 2, ...
      report: called with the share of the work done since it was last called.
    """
    begun = tasks.start(plan.request, plan.seed, ids)
    free, ends, first = (np.array(part) for part in (begun.free, begun.ends, begun.first))
    pitches = pitches.copy()
    # One prior serves all passages of a round.
    side_by_side = all((each == each[:1]).all() for each in generate.prior_of(plan))
    rounds = [_rounds(np.asarray(plan.request.free), sweep, passages, side_by_side) for sweep in range(sweeps)]
    most = max((len(starts) for sweep in rounds for starts in sweep), default=0)
    for sweep, each in enumerate(rounds):
        for starts in each:
            entropy = [plan.seed, sweep, starts[0] + passages.steps] + [attempt] * bool(attempt)
            seed = np.random.SeedSequence(entropy).generate_state(1)[0] >> 1
            drawing = plan._replace(seed=int(seed))
            _redraw(judge, drawing, pitches, free, ends, first, ids, starts, most, passages)
            report(len(starts) / num_redraws(np.asarray(plan.request.free), sweeps, passages))
    return pitches


def distinct(
    judge: Judge,
    plan: generate.Plan,
    pitches: Int16[np.ndarray, "n t 4"],
    ids: Integer[np.ndarray, " n"],
    sweeps: int = USUAL,
    *,
    report: generate.Report = lambda share: None,
) -> Int16[np.ndarray, "n t 4"]:
    """Like `polish`, but chains that come out like one before them are drawn and polished anew, a few times at most."""
    polished = polish(judge, plan, pitches, ids, sweeps, report=report)
    for attempt in range(1, generate.ATTEMPTS + 1):
        again = generate.repeated(polished)
        if not len(again):
            break
        fresh = generate.samples(plan, ids[again], attempt=attempt).pitches
        polished[again] = polish(judge, plan, fresh, ids[again], sweeps, attempt=attempt)
    return polished


def complete(
    loaded: weights.Loaded,
    request: tasks.Request,
    num_samples: int = 1,
    settings: config_lib.Sample | None = None,
    *,
    sweeps: int = USUAL,
    prior: steering.Steering | None = None,
    seed: int = 0,
) -> samples.Samples:
    """Like `generate.complete`, and polished with the packaged critic.

    Raises:
      InputError: the model writes on another grid than sixteenths, which the critic knows.
    """
    if loaded.config.data.steps_per_quarter != 4:
        raise errors.InputError(
            f"this model writes {loaded.config.data.steps_per_quarter} steps a quarter, and the critic knows 4; use "
            "generate.complete"
        )
    ids = np.arange(num_samples)
    plan = generate.plan(loaded, request, num_samples, settings, prior=prior, seed=seed)
    pitches = polish(judge_with(critic_lib.load()), plan, generate.samples(plan, ids).pitches, ids, sweeps)
    return offline.to_samples(request, pitches, ids, seed)


def _starts(free: Bool[np.ndarray, "t 4"], sweep: int, passages: Passages) -> list[int]:
    """First steps of the passages of a sweep in which something is free; before 0 for one that begins outside."""
    starts = range(-(passages.steps // 2) if sweep % 2 else 0, len(free), passages.steps)
    return [start for start in starts if free[max(start, 0) : start + passages.steps].any()]


def _rounds(free: Bool[np.ndarray, "t 4"], sweep: int, passages: Passages, side_by_side: bool) -> list[list[int]]:
    """The passages of a sweep, those side by side that are so far apart that neither is in the other's window."""
    # At a piece's ends windows move inwards, so that a window's width between passages is too little.
    apart = -(-WINDOW_STEPS // passages.steps) + 1 if side_by_side else len(free)
    found: dict[int, list[int]] = {}
    for start in _starts(free, sweep, passages):
        found.setdefault(start // passages.steps % apart, []).append(start)
    return list(found.values())


def _window(start: int, passages: Passages, width: int, steps: int) -> slice:
    """A window with the passage in its middle, as far as the piece allows."""
    begin = min(max(start + (passages.steps - width) // 2, 0), max(steps - width, 0))
    return slice(begin, min(begin + width, steps))


def _drawing_plan(plan: generate.Plan, windows: list[slice], most: int, passages: Passages) -> generate.Plan:
    """The plan for candidates of passages in these windows of the piece, but for its request.

    Its shape is the same for all rounds and chunks of a run.
    """
    steps = windows[0].stop - windows[0].start
    rows = plan.micro_batch * most * passages.candidates
    on_all = rows * (plan.num_devices or len(jax.local_devices()))
    if devices.on_cpu() and model.compute_dtype(plan.model) == np.float32:  # where the shape changes nothing
        micro_batch = generate.default_micro_batch(on_all, steps, plan.model)
    else:  # where it may show: from what a manifest says, so that it is the same wherever a run is gone on with
        held = plan.micro_batch * min(len(plan.request.free), 2 * generate.WINDOW_STEPS)
        micro_batch = min(rows, max(held // steps, _LEAST))
    settings = config_lib.Sample(
        num_steps=passages.calls - 1,
        temperature=max(passages.coolness * plan.settings.temperature, config_lib.LEAST_TEMPERATURE),
        top_p=plan.settings.top_p,
        greedy=plan.settings.greedy,
    )
    prior = steering.Steering(*(each[windows[0]] for each in generate.prior_of(plan)))
    return plan._replace(
        settings=settings,
        prior=prior,
        micro_batch=micro_batch,
        num_devices=generate.num_devices(on_all, micro_batch),
        chains_each=most * passages.candidates,
    )


def _redraw(
    judge: Judge,
    plan: generate.Plan,
    pitches: Int16[np.ndarray, "n t 4"],
    free: Bool[np.ndarray, "n t 4"],
    ends: Bool[np.ndarray, "n 2"],
    first: Integer[np.ndarray, " n"],
    ids: Integer[np.ndarray, " n"],
    starts: list[int],
    most: int,
    passages: Passages,
) -> None:
    """Some passages of every chain, in place: each that is not real enough becomes the best of its candidates and
    of what stood there.

    Args:
      starts: of the passages.
      most: passages of any round, of which the numbers of candidates leave room for so many.
      (the others: see polish)
    """
    steps, order = pitches.shape[1], np.argsort(ids)
    windows = [_window(start, passages, window_steps(passages), steps) for start in starts]
    within = [slice(max(s, 0) - w.start, s + passages.steps - w.start) for s, w in zip(starts, windows, strict=True)]
    context = np.stack([pitches[:, window] for window in windows], axis=1)
    open_ = np.zeros(context.shape, bool)
    for place, (window, inside) in enumerate(zip(windows, within, strict=True)):
        open_[:, place, inside] = free[:, window][:, inside]
    if not open_.any():  # other chains, of other batches, are free here
        return
    blank = np.where(open_, pianoroll.REST, context).astype(np.int8)
    at_ends = ends[:, None] & np.array([(w.start == 0, w.stop == steps) for w in windows])
    firsts = first[:, None] + np.array([w.start for w in windows], np.int32)

    def vary(seed: int, chains: np.ndarray) -> tasks.Given:
        numbers, places = np.divmod(chains // passages.candidates, most)
        at = order[np.searchsorted(ids[order], numbers)], places
        return tasks.Given(blank[at], np.zeros(blank[at].shape, bool), open_[at], at_ends[at], firsts[at])

    heard = [_window(start, passages, WINDOW_STEPS, steps) for start in starts]
    standing = np.stack([pitches[:, window] for window in heard], axis=1)
    scores, barred = (found.reshape(standing.shape[:2]) for found in judge(standing.reshape(-1, *standing.shape[2:])))
    chain, spot = np.nonzero(((scores < passages.enough) | barred) & open_.any(axis=(2, 3)))
    if not len(chain):
        return
    anyone = np.asarray(open_.any(axis=(0, 1)))
    piece = score.from_pitches(np.full(anyone.shape, pianoroll.REST, np.int16))
    request = tasks.Request(piece, anyone, vary=vary, ends=plan.request.ends)
    drawing = _drawing_plan(plan, windows, most, passages)._replace(request=request)
    candidates = selection.candidate_chains(ids[chain].astype(np.int64) * most + spot, passages.candidates)
    drawn = generate.samples(drawing, candidates).pitches.reshape(len(chain), passages.candidates, *anyone.shape)
    new = standing[chain, spot][:, None].repeat(passages.candidates, axis=1)
    for place, (window, inside, around) in enumerate(zip(windows, within, heard, strict=True)):
        there = slice(window.start + inside.start - around.start, window.start + inside.stop - around.start)
        new[spot == place, :, there] = drawn[spot == place, :, inside]
    all_scores, all_barred = (
        np.concatenate([old[chain, spot][:, None], found.reshape(len(chain), -1)], axis=1)
        for old, found in zip((scores, barred), judge(new.reshape(-1, *new.shape[2:])), strict=True)
    )
    for row, won in enumerate(selection.best(all_scores, all_barred)):
        if won:  # else what stood there stays
            place = spot[row]
            passage = slice(max(starts[place], 0), starts[place] + passages.steps)
            pitches[chain[row], passage] = drawn[row, won - 1, within[place]]
