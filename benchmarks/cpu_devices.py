"""Whether the cores of a CPU do better as one device or as a device each: sampling and training, in turns.

  python benchmarks/cpu_devices.py --checkpoint=small --data=chorales.npz

The number of devices is settled when a process starts, so two processes take turns. Prints a Markdown table of medians
and of the best turns.
"""

import argparse
import pathlib
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
STEPS, CALLS, CHAINS = 64, 8, 16


def serve(count: int, checkpoint_path: str, data_path: str) -> None:
    """What a process does: for each line "sample" or "train" it works once and prints the seconds a unit took."""
    import jax

    from coconet_jax import checkpoint, config, data, devices, generate, state, steps, tasks

    checkpoint.quiet()
    jax.config.update("jax_num_cpu_devices", count)
    loaded = checkpoint.load(checkpoint_path)
    settings = config.Sample(num_steps=CALLS - 1)
    plan = generate.Plan(
        loaded.variables, loaded.config.model, tasks.compose(STEPS), settings, micro_batch=CHAINS // count
    )
    mesh = devices.make_mesh(count)
    resident = devices.replicate(
        data.make_resident(data.load(config.Data(path=data_path)).splits["train"], loaded.config.data), mesh
    )
    train = devices.map_body(
        lambda now, source: steps.train_step(now, source, config=loaded.config),
        mesh,
        "shard_map",
        sharded=(False, False),
        donate=(0,),
    )
    weights = jax.tree.map(np.array, loaded.variables)  # of its own: a step donates its state
    now = devices.replicate(state.create(jax.random.key(0), loaded.config, weights), mesh)
    generate.samples(plan, np.arange(CHAINS))
    now, _ = train(now, resident)
    print("ready", flush=True)
    for line in sys.stdin:
        jax.block_until_ready(now)
        begun = time.perf_counter()
        if line.strip() == "sample":
            generate.samples(plan, np.arange(CHAINS))
            print((time.perf_counter() - begun) / CALLS / CHAINS, flush=True)
        else:
            for _ in range(3):
                now, _ = train(now, resident)
            jax.block_until_ready(now)
            print((time.perf_counter() - begun) / 3, flush=True)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="the --workdir of a training run")
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--devices", type=int, default=2, help="to compare with one (default: 2)")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each (default: 8)")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.checkpoint, args.data)
        return
    from coconet_jax import checkpoint, errors, pieces

    with errors.exit_on_input_error():  # before it is found out twice
        checkpoint.quiet()
        checkpoint.load(args.checkpoint)
        pieces.read_npz(args.data)
    words = [sys.executable, __file__, f"--checkpoint={args.checkpoint}", f"--data={args.data}"]
    workers = [
        subprocess.Popen(
            [*words, f"--serve={count}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for count in (1, args.devices)
    ]
    seconds: dict[tuple[str, int], list[float]] = {}
    for turn in range(-1, args.rounds):
        for number, worker in enumerate(workers):
            assert worker.stdin is not None and worker.stdout is not None
            if turn < 0:
                assert worker.stdout.readline().strip() == "ready"
                continue
            for job in ("sample", "train"):
                print(job, file=worker.stdin, flush=True)
                seconds.setdefault((job, number), []).append(float(worker.stdout.readline()))
    for worker in workers:
        worker.communicate()
    print(
        "| | 1 device: median (best), ms | ", args.devices, " devices: median (best), ms | ratio of medians |", sep=""
    )
    print("| --- | --- | --- | --- |")
    for job, what in (("sample", f"a call, a chorale of {STEPS} steps"), ("train", "a training step")):
        one, many = (1000 * np.array(seconds[job, number]) for number in (0, 1))
        cells = [f"{np.median(x):.1f} ({x.min():.1f})" for x in (one, many)]
        print(f"| {what} | {cells[0]} | {cells[1]} | {np.median(one) / np.median(many):.2f} |")


if __name__ == "__main__":
    main()
