"""Which notes of a score surprise the model: the log-probability of each, all other notes given.

A note is hidden whole. Its cells are then predicted from first to last, each from the rest of the score and the note's
own cells before it, so that their sum is the log-probability that the model, asked to fill the gap from left to right,
writes just this note.
"""

from collections.abc import Callable, Sequence
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Float32, Int32
import numpy as np

from coconet_jax import bars, likelihood, model, parts, pianoroll, score
from coconet_jax import config as config_lib


class Cells(NamedTuple):
    """Cells to be predicted, with the end of the note each belongs to."""

    frame: Int32[Any, " r"]
    voice: Int32[Any, " r"]
    end: Int32[Any, " r"]


def predict_cells(
    predict_step: model.PredictStep, reach: tuple[int, int], corpus: likelihood.Corpus, cells: Cells
) -> Float32[Array, "r p"]:
    """Log-probabilities of every pitch at each cell of the corpus's first piece, the rest of its note hidden."""
    piece = jnp.zeros_like(cells.frame)
    around = likelihood.windows(corpus, likelihood.Rows(piece, cells.frame, piece), reach)
    hidden = (around.time >= cells.frame[:, None]) & (around.time < cells.end[:, None])
    own = jnp.arange(corpus.pitches.shape[2])[None] == cells.voice[:, None]
    context = around.inside[..., None] & ~(hidden[..., None] & own[:, None, :])
    logits = predict_step(pianoroll.from_pitches(around.pitches), context, around.inside, around.first)
    return jax.nn.log_softmax(logits[jnp.arange(len(cells.frame)), :, cells.voice], axis=-1)


@functools.lru_cache(maxsize=8)
def _compiled(config: config_lib.Model) -> Callable[..., Float32[Array, "r p"]]:
    @jax.jit
    def run(variables: model.Variables, corpus: likelihood.Corpus, cells: Cells) -> Float32[Array, "r p"]:
        return predict_cells(model.make_predict_step(variables, config), model.reach(config), corpus, cells)

    return run


def find(
    variables: model.Variables, config: config_lib.Model, piece: score.Score, *, batch_size: int, advance: Callable
) -> list[score.NoteSurprise]:
    """All notes of a score in order of voice and time; `advance` is told of cells that are done."""
    spans = [
        (voice, *note)
        for voice in range(piece.pitches.shape[1])
        for note in parts.merge_cells(piece.pitches[:, voice], piece.onset[:, voice])
    ]
    table = np.array(
        [(step, voice, end) for voice, start, end, _ in spans for step in range(start, end)], np.int32
    ).reshape(-1, 3)
    corpus = likelihood.Corpus(
        jnp.asarray(piece.pitches[None], jnp.int8),
        *(jnp.array([number], jnp.int32) for number in (len(piece.pitches), 0, piece.pickup_steps)),
    )
    found = np.empty((len(table), pianoroll.NUM_PITCHES), np.float32)
    for first in range(0, len(table), batch_size):
        count = min(batch_size, len(table) - first)
        batch = np.resize(table[first : first + count], (batch_size, 3))
        found[first : first + count] = np.asarray(_compiled(config)(variables, corpus, Cells(*batch.T)))[:count]
        advance(count)
    return _collect(spans, found)


def _collect(
    spans: Sequence[tuple[int, int, int, int]], log_probs: Float[np.ndarray, "r p"]
) -> list[score.NoteSurprise]:
    notes, row = [], 0
    for voice, start, end, pitch in spans:
        own = log_probs[row : row + end - start]
        row += end - start
        at = pitch - pianoroll.MIN_PITCH
        best = int(own[0].argmax())
        total = float(own[:, at].sum(dtype=np.float64))
        prob, best_prob = float(np.exp(own[0, at])), float(np.exp(own[0, best]))
        notes.append(score.NoteSurprise(voice, start, end, pitch, total, prob, best + pianoroll.MIN_PITCH, best_prob))
    return notes


def describe(note: score.NoteSurprise, piece: score.Score) -> dict[str, Any]:
    """A note as JSON has it."""
    beat = 4 * piece.steps_per_quarter / piece.meter[1]
    bar = bars.number_of(piece, note.start)
    into = (note.start - piece.pickup_steps) % (beat * piece.meter[0])
    return {
        "voice": pianoroll.VOICES[note.voice],
        "bar": bar,
        "beat": round(1 + into / beat, 3),
        "start_step": note.start,
        "end_step": note.end,
        "pitch": note.pitch,
        "name": parts.pitch_name(note.pitch),
        "log_prob": round(note.log_prob, 6),
        "prob_of_pitch": round(note.prob, 6),
        "likeliest": parts.pitch_name(note.likeliest),
        "likeliest_prob": round(note.likeliest_prob, 6),
    }
