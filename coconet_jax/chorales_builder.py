"""The TFDS builder of the chorales (`tfds.builder("bach_chorales/music21")`), without TensorFlow.

`chorales.load` is the usual way in: it prepares when needed, quietly, and checks what the user gave.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import gc
import io
import os
import pathlib
import sys
from typing import Any

from absl import logging
from google.protobuf import json_format, message
import numpy as np
import tensorflow_datasets as tfds

from coconet_jax import corpus, errors, pianoroll, sources

DATASETS = ("music21", "music21_extra", "jsb16th", "folder")
GRIDS = {4: "", 2: "_8th", 1: "_4th"}
_SKIPPED = "skipped"  # in the metadata of a folder's data
# What TFDS, protobuf and array_record raise on files that are missing, cut short or changed.
_DAMAGE = (OSError, RuntimeError, ValueError, AssertionError, LookupError, json_format.Error, message.Error)


@dataclasses.dataclass(eq=False)
class ChoralesConfig(tfds.core.BuilderConfig):
    """Which chorales on which grid.

    Attributes:
      dataset: one of DATASETS.
      steps_per_quarter: 4 (sixteenths), 2 or 1.
    """

    dataset: str = "music21"
    steps_per_quarter: int = 4


def _configs() -> list[ChoralesConfig]:
    about = {
        "music21": "the paper's split rebuilt from music21's corpus",
        "music21_extra": "music21 with 12 more settings in train",
        "jsb16th": "the paper's own arrays",
    }
    return [
        ChoralesConfig(name=dataset + suffix, description=text, dataset=dataset, steps_per_quarter=steps)
        for dataset, text in about.items()
        for steps, suffix in GRIDS.items()
    ]


class BachChorales(tfds.core.GeneratorBasedBuilder):
    """Four-part chorales; examples keep the order of the paper's folds.

    Args:
      source: where a preparation reads from: the npz of jsb16th, or the folder of a `folder` config.
      download: whether a preparation of jsb16th may fetch the npz.
      **kwargs: those of TFDS, `config` and `data_dir` among them.
    """

    name = "bach_chorales"
    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = _configs()

    def __init__(self, *, source: str | os.PathLike[str] | None = None, download: bool = False, **kwargs: Any) -> None:
        self._source, self._download = source, download
        # TFDS's own default, tfrecord, cannot be written without TensorFlow.
        super().__init__(**{"file_format": "array_record", **kwargs})

    def _info(self) -> tfds.core.DatasetInfo:
        """Features of a piece of T steps; a source that cannot tell onsets or fermatas has no such feature."""
        dataset = self.builder_config.dataset
        grid = functools.partial(tfds.features.Tensor, shape=(None, pianoroll.NUM_VOICES))
        features: dict[str, Any] = {
            "name": tfds.features.Text(),
            "pitches": grid(dtype=np.int16),
            "transpose_room": tfds.features.Tensor(shape=(4,), dtype=np.int8),
        }
        if dataset != "jsb16th":
            features["meter"] = tfds.features.Tensor(shape=(2,), dtype=np.int16)
            features["pickup_steps"] = tfds.features.Scalar(dtype=np.int32)
            features["onset"] = grid(dtype=np.bool_)
        if dataset.startswith("music21"):
            features["fermata"] = grid(dtype=np.bool_)
        return tfds.core.DatasetInfo(
            builder=self,
            description="Four-part chorales on a grid: MIDI pitches of S, A, T, B; -1 = rest.",
            features=tfds.features.FeaturesDict(features),
            homepage="https://arxiv.org/abs/1903.07227",
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict[str, Any]]]]:
        """One generator per split that has pieces: TFDS cannot write an empty one."""
        del dl_manager  # it would retry and print; the one download there is is done by sources
        config = self.builder_config
        if config.dataset == "folder":
            if self._source is None:
                raise errors.InputError("a folder config needs source=DIR with your scores")
            folds, skipped = sources.read_folder(self._source, config.steps_per_quarter)
            self.info.metadata[_SKIPPED] = skipped
            for line in skipped:
                print(f"skipped {line}", file=sys.stderr)
        elif config.dataset == "jsb16th":
            folds = sources.read_jsb16th(sources.fetch_jsb16th(self._source, self._download))
        else:
            folds = _read_music21(extra=config.dataset == "music21_extra")
        # The user's own scores and arrays were read on the grid asked for.
        factor = 1 if config.dataset == "folder" else 4 // config.steps_per_quarter
        return {split: self._generate_examples(fold, factor) for split, fold in folds.items() if fold}

    def _generate_examples(self, fold: list[corpus.Chorale], factor: int) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, chorale in enumerate(fold):
            yield index, self._example(sources.subsample(chorale, factor))

    def _example(self, chorale: corpus.Chorale) -> dict[str, Any]:
        onset = chorale.onset
        if onset is None:
            onset = pianoroll.onsets_where_pitch_changes(chorale.pitches)
        values = {
            "name": chorale.name,
            "pitches": chorale.pitches.astype(np.int16),
            "transpose_room": pianoroll.transpose_room(chorale.pitches),
            "meter": np.array(chorale.meter, np.int16),
            "pickup_steps": np.int32(chorale.pickup_steps),
            "onset": onset,
            "fermata": chorale.fermata,
        }
        return {feature: values[feature] for feature in self.info.features}


def make(config: str | ChoralesConfig, data_dir: str | None, **kwargs: Any) -> BachChorales:
    """The builder of a config, with TFDS's record of the data where they are prepared.

    Raises:
      InputError: that record is damaged.
    """
    try:
        return BachChorales(config=config, data_dir=data_dir, **kwargs)
    except _DAMAGE as error:
        name = config if isinstance(config, str) else config.name
        folder = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR, BachChorales.name, name)
        raise _damaged(folder, error) from None


def read_examples(builder: BachChorales, split: str) -> list[dict[str, Any]]:
    """The examples of a prepared split, in order; none where the split has no pieces.

    Raises:
      InputError: the prepared files are gone or damaged.
    """
    if split not in builder.info.splits:
        return []
    try:
        return list(builder.as_data_source(split=split))
    except _DAMAGE as error:
        raise _damaged(builder.data_dir, error) from None


def read_skipped(builder: BachChorales) -> list[str]:
    """The files of a folder that its prepared data lack, a line for each with the reason.

    Raises:
      InputError: TFDS's own record of the data is gone or damaged.
    """
    if not builder.info.splits:  # TFDS takes a folder that has lost its record for a prepared one
        raise _damaged(builder.data_dir, "dataset_info.json is missing or empty")
    try:
        return dict(builder.info.metadata.items()).get(_SKIPPED, [])
    except _DAMAGE as error:
        raise _damaged(builder.data_dir, error) from None


def _damaged(folder: str | os.PathLike[str], reason: object) -> errors.InputError:
    return errors.InputError(
        f"the chorales prepared in {folder} are damaged ({reason}); delete that folder and run again"
    )


@contextlib.contextmanager
def quiet_tfds() -> Iterator[None]:
    """Silences what TFDS prints and its bars (one of ours shows the slow part); both are put back."""
    verbosity = logging.get_verbosity()
    bars = tfds.core.utils.tqdm_utils._active
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        tfds.display_progress_bar(bars)


def _read_music21(extra: bool) -> dict[str, list[corpus.Chorale]]:
    rows = {split: list(fold) for split, fold in corpus.table()["splits"].items()}
    if extra:
        rows["train"] += corpus.table()["extra"]
    total = sum(len(fold) for fold in rows.values())
    folds: dict[str, list[corpus.Chorale]] = {split: [] for split in rows}
    # music21 makes objects by the million, and each sweep for those it dropped would visit all of JAX's and TFDS's too.
    gc.freeze()
    try:
        with sources.show_reading(total, "chorales with music21", ": about half a minute") as count:
            for split, fold in rows.items():
                for row in fold:
                    folds[split].append(corpus.build(row["name"], row))
                    count()
    finally:
        gc.unfreeze()
    return folds
