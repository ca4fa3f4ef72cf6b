"""How far a long job is: a bar at a terminal, a line now and then elsewhere."""

from collections.abc import Callable, Iterator
import contextlib
import sys
import time
from typing import Final

import tqdm

_SECONDS: Final = 30.0  # between lines
_BAR: Final = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_noinv_fmt}]"


@contextlib.contextmanager
def counting(
    verb: str, unit: str, total: int, *, done: int = 0, show: bool = True
) -> Iterator[Callable[[int], object]]:
    """Shows progress; gives a function to be told how many more are done.

    Args:
      verb: what is going on, "sampling".
      unit: of what, in the plural: "chorales".
      total: number of them.
      done: of these, what an earlier run did; it is left out of the rate.
      show: whether to show anything.
    """
    if not show or done >= total:
        yield lambda more: None
    elif sys.stderr.isatty():
        with tqdm.tqdm(total=total, initial=done, desc=verb, unit=f" {unit}", bar_format=_BAR) as bar:
            yield bar.update
    else:
        begun = last = time.monotonic()
        now, first = done, done

        def advance(more: int) -> None:
            nonlocal now, last
            now, clock = now + more, time.monotonic()
            if now < total and clock - last < _SECONDS:
                return
            last = clock
            rate = (now - first) / max(clock - begun, 1e-9)
            rest = f", about {_duration((total - now) / rate)} left" if now < total and rate else ""
            print(f"{verb}: {now}/{total} {unit}, {rate:.3g} {unit}/s{rest}", flush=True)

        yield advance


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min" if minutes else f"{seconds} s"
