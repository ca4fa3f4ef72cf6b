"""The training loop, whatever is trained, and the signals that end it."""

from collections.abc import Callable, Iterator
import contextlib
import signal
import time
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from jaxtyping import Array
import numpy as np


class Schedule(NamedTuple):
    """When the loop does what, in steps."""

    num_steps: int
    steps_per_dispatch: int
    report_every: int
    eval_every: int


class Stopped(NamedTuple):
    """Why the loop ended: "done", "early" or "signal", and at which step."""

    reason: str
    step: int


class NotFinite(ArithmeticError):
    """The loss is no longer a number."""


def run(
    step: Callable[[Any, Any, np.int32], tuple[Any, dict[str, Array]]],
    state: Any,
    sources: Iterator[Any],
    schedule: Schedule,
    *,
    evaluate: Callable[[Any], tuple[Any, dict[str, float], bool]],
    save: Callable[[Any], None],
    report: Callable[[int, dict[str, float]], None],
    interrupted: Callable[[int], bool] = lambda step: False,
) -> tuple[Any, Stopped]:
    """The training loop, whatever is trained.

    Args:
      step: compiled updates: (state, source, how many) -> (state, metrics). At most `steps_per_dispatch` are asked
        for, fewer before an evaluation or the end; their metrics come first in what is returned.
      state: anything with a `step`.
      sources: what each dispatch is fed.
      schedule: see there.
      evaluate: called every `eval_every` steps and at the end, and saves; returns the state, numbers to report
        and whether to stop early.
      save: called when interrupted, perhaps for a step that `evaluate` has saved.
      report: gets a step and its numbers.
      interrupted: asked after every dispatch; True saves and ends.

    Raises:
      NotFinite: names the first step whose loss is not finite; nothing after the last good checkpoint is saved.
    """
    at = int(state.step)
    pending: list[tuple[int, int, dict[str, Array]]] = []
    since, since_step = time.perf_counter(), at
    while at < schedule.num_steps:
        stop_at = min(schedule.num_steps, (at // schedule.eval_every + 1) * schedule.eval_every)
        count = min(schedule.steps_per_dispatch, stop_at - at)
        state, metrics = step(state, next(sources), np.int32(count))
        pending.append((at, count, metrics))
        crossed = (at + count) // schedule.report_every > at // schedule.report_every
        at += count
        stopping = interrupted(at)
        if crossed or at == stop_at or stopping:
            numbers = _collect(pending)  # waits for the device
            pending = []
            elapsed = time.perf_counter() - since
            numbers["steps_per_second"] = (at - since_step) / elapsed
            evaluated: dict[str, float] = {}
            stop = False
            if at == stop_at:
                state, evaluated, stop = evaluate(state)
            report(at, {**numbers, **evaluated})
            since, since_step = time.perf_counter(), at
            if stopping:
                save(state)
            if stopping or stop:
                return state, Stopped("signal" if stopping else "early", at)
    return state, Stopped("done", at)


def _collect(pending: list[tuple[int, int, dict[str, Array]]]) -> dict[str, float]:
    """Means over the updates since the last report; raises at the first loss that is not finite."""
    first = pending[0][0]
    every = {
        name: np.concatenate([np.atleast_1d(np.asarray(metrics[name]))[:count] for _, count, metrics in pending])
        for name in pending[0][2]
    }
    # The gradient too: its loss belongs to the parameters before the update, which may be the one that fails.
    bad = np.flatnonzero(~np.isfinite(every["loss"]) | ~np.isfinite(every["grad_norm"]))
    if bad.size:
        name, what = ("grad_norm", "gradient") if np.isfinite(every["loss"][bad[0]]) else ("loss", "loss")
        raise NotFinite(f"the {what} is {every[name][bad[0]]} at step {first + int(bad[0]) + 1}")
    return {name: float(np.mean(values)) for name, values in every.items()}


@contextlib.contextmanager
def signals(report_every: int) -> Iterator[Callable[[int], bool]]:
    """A function that says whether SIGTERM (or ctrl-C) has asked for an end, in step with all processes."""
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second ctrl-C does not wait for the save
        seen.append(number)

    try:
        # In place of jax.distributed's own handler, whose sync point counts every step: a dispatch of several
        # steps would pass it by.
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:  # not in the main thread, as in a notebook's worker: nothing to catch
        before = {}

    asked_at = -1

    def interrupted(step: int) -> bool:
        nonlocal asked_at
        if jax.process_count() == 1:
            return bool(seen)
        # All processes must end at the same step, so they ask each other, at the steps that are reported.
        if step // report_every == asked_at:
            return False
        asked_at = step // report_every
        return bool(multihost_utils.process_allgather(np.array(bool(seen))).any())

    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
