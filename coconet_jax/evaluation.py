"""Scores the chosen frames of many pieces by several measures; what is done is kept, so that long jobs can go on."""

from collections.abc import Callable, Sequence
import pathlib
import time
from typing import Final

import jax
from jax.experimental import multihost_utils
from jaxtyping import Float32, Int32
import numpy as np

from coconet_jax import counter, devices, errors, estimates, files, likelihood, pianoroll

SAVE_SECONDS: Final = 20.0  # between two writings of what is done


def choose_frames(lengths: Int32[np.ndarray, " n"], most: int, seed: int) -> list[Int32[np.ndarray, " _"]]:
    """Steps of each piece: all, or one at random out of each of `most` equal stretches of all pieces end to end."""
    total = int(lengths.sum())
    if most >= total:
        return [np.arange(length, dtype=np.int32) for length in lengths]
    edges = np.arange(most + 1) * total // most
    places = np.random.default_rng(seed).integers(edges[:-1], edges[1:])
    ends = np.cumsum(lengths)
    piece = np.searchsorted(ends, places, side="right")
    steps = (places - (ends - lengths)[piece]).astype(np.int32)
    return [steps[piece == number] for number in range(len(lengths))]


def score_pieces(
    scorer: likelihood.Scorer,
    frames: Sequence[Int32[np.ndarray, " _"]],
    names: Sequence[str],
    num_orderings: int,
    folder: pathlib.Path,
    digest: str,
    *,
    progress: bool = True,
) -> dict[str, list[Float32[np.ndarray, "k _ i"]]]:
    """Log-probabilities of each measure at the frames of each piece, kept in a folder piece by piece.

    Args:
      scorer: the network and the pieces.
      frames: steps of each piece.
      names: of measures.
      num_orderings: k.
      folder: holds a file for each measure; what an earlier call with the same digest left there is not done again.
      digest: of all that the numbers follow from.
      progress: whether to show any.
    """
    sizes = np.array([len(steps) for steps in frames])
    stores = {name: Store(folder / f"{name}-{digest[:12]}.npz", sizes, num_orderings, scorer) for name in names}
    rows = int(sizes.sum()) * num_orderings
    done = sum(int(sizes[store.done].sum()) * num_orderings for store in stores.values())
    with counter.counting(
        "evaluating", "frames", rows * len(names), done=done, show=progress and devices.is_lead()
    ) as advance:
        for name, store in stores.items():
            measure = estimates.MEASURES[name]
            todo = np.flatnonzero(~store.done & (sizes > 0))
            try:
                _score_measure(scorer, frames, todo, likelihood.Protocol(measure.order, measure.feed), store, advance)
            finally:
                store.save()
    return {name: store.pieces() for name, store in stores.items()}


def _score_measure(
    scorer: likelihood.Scorer,
    frames: Sequence[Int32[np.ndarray, " _"]],
    todo: np.ndarray,
    protocol: likelihood.Protocol,
    store: "Store",
    advance: Callable[[int], object],
) -> None:
    k = store.num_orderings
    parts = [
        likelihood.Rows(
            np.full(k * len(frames[piece]), piece, np.int32),
            np.tile(frames[piece], k),
            np.repeat(np.arange(k, dtype=np.int32), len(frames[piece])),
        )
        for piece in todo.tolist()
    ]
    if not parts:
        return
    rows = likelihood.Rows(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    waiting, found = list(todo.tolist()), np.zeros((0, pianoroll.NUM_VOICES), np.float32)
    for batch in likelihood.score(scorer, rows, protocol):
        found = np.concatenate([found, batch])
        while waiting and len(found) >= k * len(frames[waiting[0]]):
            piece = waiting.pop(0)
            size = k * len(frames[piece])
            store.put(piece, found[:size].reshape(k, -1, found.shape[1]))
            found = found[size:]
        advance(len(batch))


class Store:
    """The log-probabilities of one measure: of finished pieces, in memory and in a file that is whole at any time.

    Of several processes the first one reads and writes the file, and tells the others which pieces are done.
    """

    def __init__(self, path: pathlib.Path, sizes: np.ndarray, num_orderings: int, scorer: likelihood.Scorer):
        self.path, self.num_orderings = path, num_orderings
        self._ends = np.cumsum(sizes)
        voices = scorer.corpus.pitches.shape[2]
        self._log_probs = np.zeros((num_orderings, int(self._ends[-1]), voices), np.float32)
        self.done = np.zeros(len(sizes), bool)
        if devices.is_lead() and path.exists():
            self._read()
        if jax.process_count() > 1:
            self.done = np.array(multihost_utils.broadcast_one_to_all(self.done), bool)
        self._saved, self._dirty = time.monotonic(), False

    def _read(self) -> None:
        try:
            with open(self.path, "rb") as raw, np.load(raw, allow_pickle=False) as stored:
                log_probs, done = stored["log_probs"], stored["done"]
            fits = log_probs.shape == self._log_probs.shape and done.shape == self.done.shape
            if not fits or log_probs.dtype != np.float32 or done.dtype != bool or not np.isfinite(log_probs).all():
                raise ValueError("it holds something else")
        except Exception as error:  # zipfile, zlib and numpy let a dozen kinds out of damaged bytes
            raise errors.InputError(
                f"{self.path} is damaged ({error}); delete it and run the same command again"
            ) from None
        self._log_probs, self.done = log_probs, done

    def _span(self, piece: int) -> slice:
        return slice(int(self._ends[piece - 1]) if piece else 0, int(self._ends[piece]))

    def put(self, piece: int, log_probs: Float32[np.ndarray, "k m i"]) -> None:
        self._log_probs[:, self._span(piece)] = log_probs
        self.done[piece] = self._dirty = True
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        if self._dirty and devices.is_lead():
            files.replace_npz(self.path, log_probs=self._log_probs, done=self.done)
        self._saved, self._dirty = time.monotonic(), False

    def pieces(self) -> list[Float32[np.ndarray, "k _ i"]]:
        return [self._log_probs[:, self._span(piece)] for piece in range(len(self.done))]
