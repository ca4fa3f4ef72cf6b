"""Scores the chosen frames of many pieces by several measures; what is done is kept, so that long jobs can go on."""

from collections.abc import Callable, Sequence
import io
import time
from typing import Final

import jax
from jax.experimental import multihost_utils
from jaxtyping import Float32, Int32
import numpy as np

from coconet_jax import counter, devices, errors, estimates, files, likelihood, provenance, storage

SAVE_SECONDS: Final = 20.0  # between two writings of what is done, at least
_SAVE_SHARE: Final = 0.05  # of the time, at most


def choose_frames(lengths: Int32[np.ndarray, " n"], most: int, seed: int) -> list[Int32[np.ndarray, " _"]]:
    """Steps of each piece: all, or one at random out of each of `most` equal stretches of all pieces end to end."""
    total = int(lengths.sum())
    if most >= total:
        return [np.arange(length, dtype=np.int32) for length in lengths]
    edges = np.arange(most + 1) * total // most
    # numpy promises the same numbers for ever of this generator alone.
    lots = np.random.RandomState(seed).random_sample(most)
    places = edges[:-1] + (lots * np.diff(edges)).astype(np.int64)
    ends = np.cumsum(lengths)
    piece = np.searchsorted(ends, places, side="right")
    steps = (places - (ends - lengths)[piece]).astype(np.int32)
    return [steps[piece == number] for number in range(len(lengths))]


def score_pieces(
    scorer: likelihood.Scorer,
    frames: Sequence[Int32[np.ndarray, " _"]],
    names: Sequence[str],
    num_orderings: int,
    folder: storage.Place,
    digest: str,
    *,
    progress: bool = True,
) -> dict[str, "Store"]:
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
    if devices.is_lead():
        files.clean_up(files.make_folder(folder))
    num_voices = scorer.corpus.pitches.shape[2]
    sizes = np.array([len(steps) for steps in frames])
    stores = {name: Store(folder / f"{name}-{digest[:12]}.npz", sizes, (num_orderings, num_voices)) for name in names}
    rows = int(sizes.sum()) * num_orderings
    done = sum(int(sizes[store.done].sum()) * num_orderings for store in stores.values())
    with counter.counting(
        "evaluating", "frames", rows * len(names), done=done, show=progress and devices.is_lead()
    ) as advance:
        for name, store in stores.items():
            measure = estimates.MEASURES[name]
            todo = np.flatnonzero(~store.done & (sizes > 0))
            store.begin()
            try:
                _score_measure(scorer, frames, todo, likelihood.Protocol(measure.order, measure.feed), store, advance)
            finally:
                store.save()
    return stores


def _score_measure(
    scorer: likelihood.Scorer,
    frames: Sequence[Int32[np.ndarray, " _"]],
    todo: np.ndarray,
    protocol: likelihood.Protocol,
    store: "Store",
    advance: Callable[[int], object],
) -> None:
    k, num_voices = store.shape
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
    waiting, found = list(todo.tolist()), np.zeros((0, num_voices), np.float32)
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

    Attributes:
      shape: orderings and voices.
      done: bool [n], the pieces that are finished.
      seconds: that the finished pieces took, in all commands together.
      made_on: the hardware that they were computed on.
    """

    def __init__(self, path: storage.Place, sizes: np.ndarray, shape: tuple[int, int]):
        self.path, self.shape = path, shape
        self._ends = np.cumsum(sizes)
        self._log_probs = np.zeros((shape[0], int(self._ends[-1]), shape[1]), np.float32)
        self.done = np.zeros(len(sizes), bool)
        self.seconds, self.made_on = 0.0, ""
        if devices.is_lead():
            self._merge()
        if jax.process_count() > 1:
            self.done = np.array(multihost_utils.broadcast_one_to_all(self.done), bool)
        self._begun = self._saved = time.monotonic()
        self._pause, self._dirty = SAVE_SECONDS, False

    def _merge(self) -> None:
        """Takes over what the file has and this object has not: an earlier command's, or one's that runs beside it."""
        if not self.path.exists():
            return
        try:
            with np.load(io.BytesIO(self.path.read_bytes()), allow_pickle=False) as stored:
                log_probs, done = stored["log_probs"], stored["done"]
                seconds, made_on = float(stored["seconds"]), str(stored["made_on"])
            fits = log_probs.shape == self._log_probs.shape and done.shape == self.done.shape
            if not fits or log_probs.dtype != np.float32 or done.dtype != bool or not np.isfinite(log_probs).all():
                raise ValueError("it holds something else")
        except storage.StoreError:
            raise
        except Exception as error:  # zipfile, zlib and numpy let a dozen kinds out of damaged bytes
            raise errors.InputError(
                f"{self.path} is damaged ({error}); delete it and run the same command again"
            ) from None
        for piece in np.flatnonzero(done & ~self.done).tolist():
            self._log_probs[:, self._span(piece)] = log_probs[:, self._span(piece)]
        if not self.done.any():
            self.seconds = seconds
        self.done |= done
        self.made_on = _joined(made_on, self.made_on)

    def _span(self, piece: int) -> slice:
        return slice(int(self._ends[piece - 1]) if piece else 0, int(self._ends[piece]))

    def begin(self) -> None:
        """Starts the clock."""
        self._begun = time.monotonic()

    def put(self, piece: int, log_probs: Float32[np.ndarray, "k m i"]) -> None:
        """Adds a finished piece."""
        self._log_probs[:, self._span(piece)] = log_probs
        self.done[piece] = self._dirty = True
        if time.monotonic() - self._saved > self._pause:
            self.save()

    def save(self) -> None:
        """Writes the file, if anything is new."""
        if not self._dirty:
            return
        now = time.monotonic()
        self.made_on = _joined(self.made_on, provenance.hardware())
        self.seconds += now - self._begun
        self._begun = now
        if devices.is_lead():
            self._merge()
            files.replace_npz(
                self.path, log_probs=self._log_probs, done=self.done, seconds=self.seconds, made_on=self.made_on
            )
        self._saved, self._dirty = time.monotonic(), False
        self._pause = max(SAVE_SECONDS, (self._saved - now) / _SAVE_SHARE)

    def pieces(self) -> list[Float32[np.ndarray, "k _ i"]]:
        """Of each piece, zeros where it is not finished."""
        return [self._log_probs[:, self._span(piece)] for piece in range(len(self.done))]


def _joined(*lists: str) -> str:
    """Names with "; " between them, each once."""
    return "; ".join(dict.fromkeys(name for names in lists for name in names.split("; ") if name))
