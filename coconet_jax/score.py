"""One piece in memory, as the readers and writers of score files exchange it."""

import dataclasses
from typing import NamedTuple

from jaxtyping import Bool, Integer
import numpy as np

from coconet_jax import pianoroll


@dataclasses.dataclass(frozen=True, eq=False)
class Score:
    """A piece on a grid.

    Attributes:
      pitches: MIDI pitches int16 [t,i], voices from high to low, -1 where a voice rests.
      onset: bool [t,i], True where a note is struck; a sounding cell without it continues the note before.
      meter: beats and beat unit of a bar, (4, 4) by default.
      pickup_steps: steps before the first full bar (0 when the piece starts on a bar line).
      steps_per_quarter: 4 (sixteenths), 2 or 1.
      qpm: tempo in quarters a minute.
      title: shown by programs that open the file.
      remarks: what a reader changed or left out, a line for each; empty for scores that no file was read for.
    """

    pitches: Integer[np.ndarray, "t i"]
    onset: Bool[np.ndarray, "t i"]
    meter: tuple[int, int] = (4, 4)
    pickup_steps: int = 0
    steps_per_quarter: int = 4
    qpm: float = 80.0
    title: str = ""
    remarks: tuple[str, ...] = ()


def from_pitches(pitches: Integer[np.ndarray, "t i"], **fields) -> Score:
    """A score whose notes are struck where the pitch changes; `fields` are the other attributes of Score."""
    return Score(pitches.astype(np.int16), pianoroll.onsets_where_pitch_changes(pitches), **fields)


class NoteSurprise(NamedTuple):
    """A note of a score and what the model thinks of it.

    Attributes:
      voice: 0 for soprano to 3 for bass.
      start: the step at which it is struck.
      end: the step after its last.
      pitch: MIDI number.
      log_prob: in nats, all other notes given.
      prob: of its pitch at its first step.
      likeliest: the pitch that the model would rather write there, or the same.
      likeliest_prob: of that.
    """

    voice: int
    start: int
    end: int
    pitch: int
    log_prob: float
    prob: float
    likeliest: int
    likeliest_prob: float


def bar_steps(meter: tuple[int, int], steps_per_quarter: int) -> int:
    """Steps in a bar; 0 where the bar is not a whole number of steps (a 3/8 bar on a quarter grid)."""
    beats, unit = meter
    steps, rest = divmod(beats * 4 * steps_per_quarter, unit)
    return steps if rest == 0 else 0
