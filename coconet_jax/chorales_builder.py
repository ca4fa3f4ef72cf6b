"""The TFDS builder of the chorales (`tfds.builder("bach_chorales/music21")`), without TensorFlow.

`chorales.load` is the usual way in: it prepares when needed, quietly, and checks what the user gave.
"""

from collections.abc import Iterator
import dataclasses
import functools
import os
import sys
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from coconet_jax import corpus, errors, pianoroll, sources

DATASETS = ("music21", "music21_extra", "jsb16th", "folder")
GRIDS = {4: "", 2: "_8th", 1: "_4th"}


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


def _read_music21(extra: bool) -> dict[str, list[corpus.Chorale]]:
    rows = {split: list(fold) for split, fold in corpus.table()["splits"].items()}
    if extra:
        rows["train"] += corpus.table()["extra"]
    total = sum(len(fold) for fold in rows.values())
    with tqdm.tqdm(total=total, desc="reading chorales (once)", unit=" chorales", leave=False, mininterval=0.5) as bar:
        folds: dict[str, list[corpus.Chorale]] = {}
        for split, fold in rows.items():
            folds[split] = []
            for row in fold:
                folds[split].append(corpus.build(row["name"], row))
                bar.update()
    return folds
