"""The order in which the bars of a score are played: repeats, endings, da capo, dal segno, coda, fine."""

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
    while at < len(bars):
        bar = bars[at]
        group = _endings_around(bars, at)
        last = max((number for index in group for number in bars[index].endings), default=0)
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
        if jumped and bar.to_coda and (codas := [index for index in range(len(bars)) if bars[index].coda]):
            later = [index for index in codas if index > at]
            if later:
                at = start = later[0]
                turn = 1
                continue
        if bar.backward and not jumped and turn < max(bar.backward, last):
            at, turn = start, turn + 1
            continue
        if bar.backward or (group and at == group[-1]):
            start, turn = at + 1, 1
        if bar.back and not jumped:
            segnos = [index for index in range(len(bars)) if bars[index].segno]
            at = start = segnos[0] if bar.back == "segno" and segnos else 0
            turn, jumped = 1, True
            continue
        at += 1
    return order


def _endings_around(bars: Sequence[Signs], at: int) -> range:
    """The run of bars with endings that a bar stands in, empty where it has none itself."""
    if not bars[at].endings:
        return range(0)
    first = last = at
    while first > 0 and bars[first - 1].endings:
        first -= 1
    while last + 1 < len(bars) and bars[last + 1].endings:
        last += 1
    return range(first, last + 1)
