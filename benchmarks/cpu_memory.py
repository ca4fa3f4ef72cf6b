"""What the order of operations and the size of pages are worth to a training step on CPU, in turns.

  python benchmarks/cpu_memory.py --config=configs/small.py --data=chorales.npz

Both are settled when a process starts: every turn is a process that trains a few steps with each core as a device.
Prints a Markdown table of medians.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import time

from coconet_jax import provenance

ROOT = pathlib.Path(__file__).resolve().parent.parent
ORDER = "--xla_cpu_enable_concurrency_optimized_scheduler"
WAYS = {  # XLA's order, glibc's pages
    "for concurrency, 4 kB": ("true", "0"),
    "for memory, 4 kB": ("false", "0"),
    "for concurrency, huge": ("true", "1"),
    "for memory, huge (the command's)": ("false", "1"),
}
STEPS = 8


def train(recipe: str, data_path: str) -> None:
    """What a process does: prints the seconds of its steps, and the megabytes of a device's program."""
    import jax
    import measuring

    from coconet_jax import checkpoint, data, devices, state, steps
    from coconet_jax import config as config_lib

    checkpoint.quiet()
    devices.split_cpu(devices.num_cores())
    devices.use_compile_cache()
    config = measuring.load_recipe(recipe)
    mesh = devices.make_mesh()
    pieces = data.load(config_lib.Data(path=data_path)).splits["train"]
    resident = devices.replicate(data.make_resident(pieces, config.data), mesh)
    body = lambda now, source: steps.train_step(now, source, config=config)  # noqa: E731
    step = devices.map_body(body, mesh, "shard_map", sharded=(False, False), donate=(0,))
    now = devices.replicate(state.create(jax.random.key(0), config), mesh)
    memory = step.lower(now, resident).compile().memory_analysis().temp_size_in_bytes  # type: ignore[attr-defined]
    print(memory / 1e6)
    for _ in range(STEPS + 1):
        begun = time.perf_counter()
        now, _ = jax.block_until_ready(step(now, resident))
        print(time.perf_counter() - begun)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="a recipe")
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind (default: 3)")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        train(args.config, args.data)
        return
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    megabytes: dict[str, float] = {}
    for _ in range(args.rounds):
        for way, (order, pages) in WAYS.items():
            environment = os.environ | {
                "XLA_FLAGS": f"{ORDER}={order}",
                "GLIBC_TUNABLES": f"glibc.malloc.hugetlb={pages}",
            }
            command = [sys.executable, __file__, f"--config={args.config}", f"--data={args.data}", "--serve"]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            first, _, *found = [float(line) for line in done.stdout.split()]  # the first step compiles
            megabytes[way] = first
            seconds[way] += found
    print(f"{args.config}, {provenance.hardware()}, commit {provenance.commit()}\n")
    print("| order, pages | a step: median (best), ms | ratio of medians | program's memory a device, MB |")
    print("| --- | --- | --- | --- |")
    first_median = statistics.median(seconds[next(iter(WAYS))])
    for way, found in seconds.items():
        median = statistics.median(found)
        cells = [
            f"{1e3 * median:.0f} ({1e3 * min(found):.0f})",
            f"{first_median / median:.2f}",
            f"{megabytes[way]:.0f}",
        ]
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
