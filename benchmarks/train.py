"""Speed of training: examples a second and share of the machine's matrix-product speed, over nets and batches.

  python benchmarks/train.py --configs=configs/small.py --batches=16,32
  python benchmarks/train.py --configs=configs/paper.py,configs/small.py,configs/separable.py --dtypes=float32,bfloat16

Random notes, as speed does not depend on them. What is compared takes turns in one run.
"""

import argparse
import dataclasses
import functools
import itertools
import time
from typing import Any

import jax
import measuring
import numpy as np

from coconet_jax import config as config_lib
from coconet_jax import data, devices, errors, pieces, steps
from coconet_jax import state as state_lib

COLUMNS = {
    "config": "Recipe",
    "dtype": "dtype",
    "map": "Map",
    "remat": "Remat",
    "dispatch": "Steps a dispatch",
    "batch": "Batch",
    "crop": "Steps",
    "milliseconds": "A training step, median, ms",
    "examples_per_second": "Examples/s",
    "share_of_peak": "Share of matmul peak",
    "counted_over_xla": "Counted / XLA's FLOPs",
    "compile_seconds": "Compiling, s",
    "temporary_megabytes": "Between operations, MB a device",
}


class Run:
    """A compiled training step, or several in one dispatch, with its state."""

    def __init__(self, config: config_lib.Config, mesh: devices.Mesh, dispatch: int = 1):
        config_lib.check_devices(config, mesh.size)
        made = measuring.random_pieces(64, 2 * config.data.crop_steps)
        split = pieces.from_arrays(list(made), [str(n) for n in range(len(made))])
        self._source = devices.replicate(data.make_resident(split, config.data), mesh)
        self._count = () if dispatch == 1 else (devices.replicate(np.int32(dispatch), mesh),)
        body: Any = functools.partial(steps.train_step, config=config)
        if dispatch > 1:
            body = functools.partial(steps.train_steps, step=body)
        shared = (False,) * (2 + len(self._count))
        step: Any = devices.map_body(body, mesh, config.parallel, sharded=shared, donate=(0,))
        self._state = devices.replicate(state_lib.create(jax.random.key(0), config), mesh)
        self.row: dict[str, Any] = {}
        begun = time.perf_counter()
        if config.parallel != "pmap":
            self._step = step = step.lower(self._state, self._source, *self._count).compile()
            self.row["temporary_megabytes"] = measuring.temporary_megabytes(step)
            counted = measuring.training_flops(config.model, config.train.batch_size, config.data.crop_steps)
            self.row["counted_over_xla"] = counted / mesh.size / measuring.xla_flops(step)
        else:
            self._step = step
            self()
        self.row["compile_seconds"] = time.perf_counter() - begun

    def __call__(self) -> Any:
        """One dispatch."""
        self._state, metrics = self._step(self._state, self._source, *self._count)
        return metrics


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--configs", default="configs/small.py", help="recipes (default: configs/small.py)")
    parser.add_argument("--batches", default="16", help="batch sizes (default: 16)")
    parser.add_argument("--crops", default="64", help="steps of a crop (default: 64)")
    parser.add_argument("--dtypes", default="float32", help="of activations: float32, bfloat16 (default: float32)")
    parser.add_argument("--maps", default="shard_map", help="shard_map, pmap (default: shard_map)")
    parser.add_argument("--remat", default="no", help="no, yes: activations computed again for the gradient")
    parser.add_argument("--dispatches", default="1", help="training steps in one dispatch (default: 1)")
    parser.add_argument("--rounds", type=measuring.rounds, default=7, help="turns of each (default: 7)")
    parser.add_argument("--json", help="file for all numbers")
    args = parser.parse_args()
    devices.split_cpu(devices.num_cores())
    measuring.forget_programs()
    with errors.exit_on_input_error():
        choices = (
            args.configs.split(","),
            measuring.words("dtypes", args.dtypes, measuring.DTYPES),
            measuring.words("maps", args.maps, measuring.MAPS),
            measuring.words("remat", args.remat, ("no", "yes")),
            measuring.numbers("dispatches", args.dispatches),
            measuring.numbers("batches", args.batches),
            measuring.numbers("crops", args.crops),
        )
        mesh = devices.make_mesh()
        runs: dict[tuple[str, str, str, str, int, int, int], Run] = {}
        for chosen in itertools.product(*choices):
            recipe, dtype, parallel, remat, dispatch, batch, crop = chosen
            config = measuring.load_recipe(recipe)
            config = dataclasses.replace(
                config,
                data=dataclasses.replace(config.data, crop_steps=crop),
                model=dataclasses.replace(config.model, dtype=dtype, remat=remat == "yes"),
                train=dataclasses.replace(config.train, batch_size=batch),
                parallel=parallel,
            )
            runs[chosen] = Run(config, mesh, dispatch)
        seconds, peaks = measuring.beside_peaks(runs, args.rounds, choices[1], mesh)
        rows = []
        for chosen, found in seconds.items():
            recipe, dtype, parallel, remat, dispatch, batch, crop = chosen
            flops = measuring.training_flops(measuring.load_recipe(recipe).model, batch, crop)
            median = measuring.median(found) / dispatch
            rows.append(
                {
                    "config": recipe,
                    "dtype": dtype,
                    "map": parallel,
                    "remat": remat,
                    "dispatch": dispatch,
                    "batch": batch,
                    "crop": crop,
                    "milliseconds": 1e3 * median,
                    "examples_per_second": batch / median,
                    "share_of_peak": flops / median / peaks[dtype],
                    "flops": flops,
                    "peak_flops": peaks[dtype],
                    "seconds": found,
                    **runs[chosen].row,
                }
            )
        measuring.finish("train", rows, COLUMNS, args.json)


if __name__ == "__main__":
    devices.use_huge_pages()  # as the command does
    main()
