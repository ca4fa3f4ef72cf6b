"""kill -9 in the middle of ten runs of the sampling command, then finished: is it the same as one left alone?

  python benchmarks/kills.py

Samples `--num_samples` with the network that ships into two folders. One run is left alone; the other is killed ten
times, each time at another moment after it has written a further file, and then finished. Prints what was there at each
kill and whether all files (arrays, manifest, MIDI of the first 64) are the same bytes.
"""

import argparse
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from coconet_jax import errors, samples

KILLS = 10
CHUNK_SIZE = 16


def command(folder: pathlib.Path, num_samples: int, *words: str) -> list[str]:
    """The sampling command."""
    size = [f"--num_samples={num_samples}", f"--chunk_size={CHUNK_SIZE}", f"--out={folder}", "--polish=0"]
    size += [f"--micro_batch={CHUNK_SIZE // 2}"]  # two of them at once at most, so that a kill comes between files
    return [sys.executable, "-m", "coconet_jax.sample", *size, *words]


def kill_amid(run: subprocess.Popen[bytes], folder: pathlib.Path, delay: float) -> None:
    """Waits for one more file than there is, and `delay` seconds; then kill -9."""
    before = len(list(folder.glob("samples_*.npz")))
    while len(list(folder.glob("samples_*.npz"))) == before:
        if run.poll() is not None:
            raise errors.InputError("the run ended before it could be killed; ask for more --num_samples")
        time.sleep(0.01)
    time.sleep(delay)
    run.send_signal(signal.SIGKILL)
    run.wait()


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_samples", type=int, default=512, help="default: 512")
    parser.add_argument("--bars", type=int, default=2, help="default: 2")
    parser.add_argument("--num_steps", type=int, default=15, help="of Gibbs (default: 15)")
    args = parser.parse_args()
    words = (f"--bars={args.bars}", f"--num_steps={args.num_steps}", "--formats=npz")
    with errors.exit_on_input_error(), tempfile.TemporaryDirectory() as place:
        alone, killed = pathlib.Path(place, "alone"), pathlib.Path(place, "killed")
        begun = time.perf_counter()
        subprocess.run(command(alone, args.num_samples, *words), check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begun
        print(f"left alone: {args.num_samples} samples in {seconds:.1f} s, with the start", flush=True)
        delays = random.Random(0)
        longest = seconds / (args.num_samples / CHUNK_SIZE)  # about what a file takes
        for number in range(1, KILLS + 1):
            run = subprocess.Popen(command(killed, args.num_samples, *words), stdout=subprocess.DEVNULL)
            kill_amid(run, killed, delays.uniform(0, longest))
            there = len(samples.load_samples(killed, partial=True).sample_id)
            print(f"kill {number}: {there} samples there, whole", flush=True)
        subprocess.run(command(killed, args.num_samples, *words), check=True, stdout=subprocess.DEVNULL)
        for folder in (alone, killed):
            export = [sys.executable, "-m", "coconet_jax.sample", "--export=0-63", "--formats=midi", f"--out={folder}"]
            subprocess.run(export, check=True, stdout=subprocess.DEVNULL)
        names = sorted({path.name for folder in (alone, killed) for path in folder.iterdir()})
        same = [(alone / name).read_bytes() == (killed / name).read_bytes() for name in names]
        print(f"{sum(same)} of {len(names)} files are the same bytes")
    sys.exit(not all(same))


if __name__ == "__main__":
    main()
