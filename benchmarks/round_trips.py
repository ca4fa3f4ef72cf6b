"""All chorales of the corpus through every kind of file and back, on all cores, and the time a thousand files take.

    python benchmarks/round_trips.py

Counts the pieces whose pitches, onsets, meter and pick-up all come back, for MIDI, MusicXML on four and on two staves,
and npz; then writes a thousand samples of 8 bars as MIDI and as MusicXML in one process.
"""

import argparse
from collections.abc import Callable
import concurrent.futures
import multiprocessing
import os
import pathlib
import tempfile
import time

import numpy as np

from coconet_jax import chorales, chorales_builder, notation, score

FORMATS: dict[str, tuple[str, Callable[..., None], dict[str, int]]] = {
    "MIDI": (".mid", notation.write_midi, {}),
    "MusicXML, four staves": (".musicxml", notation.write_musicxml, {}),
    "MusicXML, two staves": (".musicxml", notation.write_musicxml, {"staves": 2}),
    "npz": (".npz", notation.write_npz, {}),
}


def survives(piece: score.Score) -> dict[str, bool]:
    """Whether a piece comes back from each format."""
    kept = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (suffix, write, options) in FORMATS.items():
            path = pathlib.Path(folder, f"piece{suffix}")
            write(path, piece, **options)
            read = notation.read_satb(path)
            kept[name] = (
                np.array_equal(read.pitches, piece.pitches)
                and np.array_equal(read.onset, piece.onset)
                and (read.meter, read.pickup_steps) == (piece.meter, piece.pickup_steps)
            )
    return kept


def main() -> None:
    """The command."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    builder = chorales.prepare()
    splits = [chorales_builder.read_examples(builder, split) for split in ("train", "valid", "test")]
    pieces = [chorales.to_score(example, 4) for examples in splits for example in examples]
    started = time.perf_counter()
    cores = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count(), mp_context=cores) as pool:
        kept = list(pool.map(survives, pieces, chunksize=16))
    seconds = time.perf_counter() - started
    for name in FORMATS:
        print(f"{name}: {sum(row[name] for row in kept)} of {len(pieces)} chorales come back whole")
    print(f"{seconds:.1f} s on {os.cpu_count()} cores")
    samples = [score.from_pitches(piece.pitches[:128]) for piece in pieces if len(piece.pitches) >= 128]
    with tempfile.TemporaryDirectory() as folder:
        for suffix, write in ((".mid", notation.write_midi), (".musicxml", notation.write_musicxml)):
            started = time.perf_counter()
            for number in range(1000):
                write(pathlib.Path(folder, f"{number}{suffix}"), samples[number % len(samples)])
            print(f"1000 {suffix} files of 8 bars: {time.perf_counter() - started:.2f} s in one process")


if __name__ == "__main__":
    main()
