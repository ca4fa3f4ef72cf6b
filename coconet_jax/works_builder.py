"""The TFDS builder of four-part works (`tfds.builder("four_part_composers")`), without TensorFlow or any download.

An example is a score with its windows; `load` is the usual way in.
"""

from collections.abc import Iterator, Sequence
import gc
import os
from typing import Any

from google.protobuf import json_format, message
import numpy as np
import tensorflow_datasets as tfds

from coconet_jax import chorales_builder, counter, errors, pianoroll, pieces, work_windows, works

_SKIPPED = "skipped"
_DAMAGE = (OSError, RuntimeError, ValueError, AssertionError, LookupError, json_format.Error, message.Error)

Scores = list[tuple[works.Source, works.Cut]]


class FourPartComposers(tfds.core.GeneratorBasedBuilder):
    """Windows of four-part works by Bach, Palestrina, Haydn, Mozart, Beethoven and others.

    Args:
      scores: what `read_all` gave; None: it is called.
      skipped: with them, a line for each score that cannot be used.
      **kwargs: those of TFDS, `data_dir` among them.
    """

    name = "four_part_composers"
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, scores: Scores | None = None, skipped: Sequence[str] = (), **kwargs: Any) -> None:
        self._scores, self._skipped = scores, list(skipped)
        # TFDS's own default, tfrecord, cannot be written without TensorFlow.
        super().__init__(**{"file_format": "array_record", **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        """Features of a score that has n windows."""
        features = {
            "name": tfds.features.Text(),
            "work": tfds.features.Text(),
            "composer": tfds.features.ClassLabel(names=list(works.COMPOSERS)),
            "windows": tfds.features.Tensor(shape=(None, works.WINDOW, pianoroll.NUM_VOICES), dtype=np.int8),
            "room": tfds.features.Tensor(shape=(None, 2), dtype=np.int8),
            "stretch": tfds.features.Tensor(shape=(None,), dtype=np.float32),
            "filled": tfds.features.Tensor(shape=(None,), dtype=np.float32),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            description="Windows of four-part works in which all voices sound: MIDI pitches, the highest voice first.",
            features=tfds.features.FeaturesDict(features),
            homepage="https://music21.org/music21docs/about/referenceCorpus.html",
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        del dl_manager  # everything is on disk
        if self._scores is None:
            self._scores, self._skipped = read_all(works.find_sources())
        self.info.metadata[_SKIPPED] = self._skipped
        splits = {split: [pair for pair in self._scores if pair[0].split == split] for split in pieces.SPLITS}
        return {split: self._generate_examples(pairs) for split, pairs in splits.items() if pairs}

    def _generate_examples(self, pairs: Scores) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, (source, found) in enumerate(pairs):
            yield (
                index,
                {
                    "name": source.name,
                    "work": source.work,
                    "composer": source.composer,
                    "windows": found.windows,
                    "room": found.room,
                    "stretch": found.stretch,
                    "filled": found.filled,
                },
            )


def read_all(sources: Sequence[works.Source]) -> tuple[Scores, list[str]]:
    """Parses scores, with progress.

    Returns:
      Those that have a window, and a line for each of the others with the reason.
    """
    scores, skipped = [], []
    # music21 makes objects by the million, and each sweep for those it dropped would visit all of JAX's and TFDS's too.
    gc.freeze()
    try:
        with counter.counting("reading", "scores", len(sources)) as advance:
            for source in sources:
                try:
                    found = works.read(source)
                    if len(found.windows):
                        scores.append((source, found))
                    else:
                        skipped.append(f"{source.name}: no window")
                except errors.InputError as error:
                    skipped.append(f"{source.name}: {' '.join(str(error).split())}")
                advance(1)
    finally:
        gc.unfreeze()
    return scores, skipped


def load(
    data_dir: str | os.PathLike[str] | None = None, sources: Sequence[works.Source] | None = None
) -> dict[str, work_windows.Windows]:
    """The windows of all splits, prepared now if they are not.

    TFDS writes into a folder of another name and renames it when all is written: an interrupted preparation is
    never read.

    Args:
      data_dir: where prepared data lie; TFDS's default if None.
      sources: the scores to prepare; all of them if None.

    Raises:
      InputError: music21 is not installed, the folder cannot be written, or what was prepared is damaged.
    """
    place = None if data_dir is None else os.path.abspath(os.path.expanduser(data_dir))
    try:
        with chorales_builder.quiet_tfds():
            builder = FourPartComposers(data_dir=place)
        if not builder.info.initialized:
            scores, skipped = read_all(works.find_sources() if sources is None else sources)
            with chorales_builder.quiet_tfds():
                builder = FourPartComposers(data_dir=place, scores=scores, skipped=skipped)
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(
                        try_download_gcs=False, compute_stats=tfds.download.ComputeStatsMode.SKIP
                    )
                )
        return {split: _read_split(builder, split) for split in pieces.SPLITS}
    except errors.InputError:
        raise
    except PermissionError as error:
        raise errors.InputError(
            f"cannot prepare works in {data_dir or tfds.core.constants.DATA_DIR}: {error.strerror}; give --data_dir=DIR"
        ) from None
    except _DAMAGE as error:
        folder = os.path.join(place or tfds.core.constants.DATA_DIR, FourPartComposers.name)
        raise errors.InputError(
            f"the works prepared in {folder} are damaged ({error}); delete that folder and run again"
        ) from None


def read_skipped(data_dir: str | os.PathLike[str] | None = None) -> list[str]:
    """The scores that the prepared data lack, a line for each with the reason."""
    with chorales_builder.quiet_tfds():
        builder = FourPartComposers(data_dir=None if data_dir is None else os.path.abspath(data_dir))
    return dict(builder.info.metadata.items()).get(_SKIPPED, [])


def _read_split(builder: FourPartComposers, split: str) -> work_windows.Windows:
    parts = [work_windows.empty()]
    if split in builder.info.splits:
        for example in builder.as_data_source(split=split):
            found = works.Cut(*(example[field] for field in ("windows", "room", "stretch", "filled")), dropped=0)
            name, work = (example[field].decode() for field in ("name", "work"))
            parts.append(work_windows.from_cut(found, int(example["composer"]), name, work))
    return work_windows.join(parts)
