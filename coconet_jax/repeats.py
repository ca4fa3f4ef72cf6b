"""The order in which the bars of a score are played: repeats, endings, da capo, dal segno, coda, fine."""

import bisect
from collections.abc import Sequence
from typing import Final, NamedTuple

MAX_TIMES: Final = 16  # of one repeat
MAX_BARS: Final = 20_000


class Signs(NamedTuple):
    """What stands on a bar.

    Attributes:
      forward: a repeat begins with it.
      backward: how often what ends with it is played, 0 without a repeat sign.
      endings: the passes it is played in, for a first, second ... ending.
      segno, coda: here a jump lands.
      to_coda, fine: here one goes to the coda, or ends, after the jump back.
      back: "segno" or "start" where it says to jump back after it.
    """

    forward: bool = False
    backward: int = 0
    endings: frozenset[int] = frozenset()
    segno: bool = False
    coda: bool = False
    to_coda: bool = False
    fine: bool = False
    back: str = ""


def play_order(bars: Sequence[Signs]) -> list[int]:
    """Indices of the bars as they are played; after a jump back repeats are not taken and last endings are played.

    Raises:
      ValueError: more than 20,000 bars, or more than 16 passes.
    """
    order: list[int] = []
    at = start = 0
    turn, jumped = 1, False
    groups = _groups(bars)
    codas = [index for index, bar in enumerate(bars) if bar.coda]
    segnos = [index for index, bar in enumerate(bars) if bar.segno]
    back = next((index for index, bar in enumerate(bars) if bar.back), 0)
    if len(codas) > 1 and codas[0] <= back and not any(bar.to_coda for bar in bars):  # signs alone, at both its ends
        bars = [bar._replace(to_coda=True) if at == codas[0] else bar for at, bar in enumerate(bars)]
        codas = codas[1:]
    while at < len(bars):
        bar = bars[at]
        group, last = groups[at]
        if max(last, bar.backward) > MAX_TIMES or len(order) > MAX_BARS:
            raise ValueError(f"its repeats ask for more than {MAX_TIMES} passes or {MAX_BARS} bars")
        # A third ending that a lone second one lacks: whoever comes there leaves the repeat.
        if bar.endings and (last if jumped else turn) not in bar.endings:
            at += 1
            if at not in group:
                start, turn = at, 1
            continue
        if bar.forward and at != start:
            start, turn = at, 1
        order.append(at)
        if jumped and bar.fine:
            break
        if jumped and bar.to_coda and codas and codas[-1] > at:
            at = start = codas[bisect.bisect_right(codas, at)]
            turn = 1
            continue
        if bar.backward and not jumped and turn < max(bar.backward, last):
            at, turn = start, turn + 1
            continue
        if bar.backward or (group and at == group[-1]):
            start, turn = at + 1, 1
        if bar.back and not jumped:
            at = start = segnos[0] if bar.back == "segno" and segnos else 0
            turn, jumped = 1, True
            continue
        at += 1
    return order


def _groups(bars: Sequence[Signs]) -> list[tuple[range, int]]:
    """For each bar the run of bars with endings that it stands in, empty without one, and that run's last pass."""
    groups: list[tuple[range, int]] = []
    while len(groups) < len(bars):
        first = stop = len(groups)
        while stop < len(bars) and bars[stop].endings:
            stop += 1
        last = max((number for bar in bars[first:stop] for number in bar.endings), default=0)
        groups += [(range(first, stop), last)] * max(stop - first, 1)
    return groups
