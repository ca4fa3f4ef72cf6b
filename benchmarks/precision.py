"""What lower precision costs in likelihood: validation NLL of one checkpoint, computed and stored in fewer bits.

  python benchmarks/precision.py --checkpoint=small --data=chorales.npz

Prints a Markdown table: nats per variable on all windows of the split under fixed orderless contexts, and the mean
difference from float32 over windows with its standard error (the same contexts, so it is paired). "computed" is
`model.dtype`; "stored" rounds the kernels of the checkpoint and computes in float32; int8 has one scale an output
channel.
"""

import argparse
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float
import measuring
import numpy as np

from coconet_jax import checkpoint, config, data, errors, masks, model, objective, pianoroll, pieces
from coconet_jax.judge import rates

BATCH = 16
COLUMNS = {
    "precision": "Precision",
    "nll": "NLL, nats per variable",
    "difference": "Difference from float32",
}


def window_nll(variables: Any, net: config.Model, windows: data.Batch) -> Float[np.ndarray, "n"]:
    """Nats per variable of each window under one context of its own, sizes spread evenly over the windows."""
    count = len(windows.valid)

    @jax.jit
    def some(batch: data.Batch, numbers: jax.Array) -> jax.Array:
        predict = model.make_predict(variables, net)
        keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(3), number))(numbers)
        # A golden-section walk: even over any stretch of windows, as neighbours are of one piece.
        uniforms = (numbers * 0.6180339887) % 1.0
        context = masks.sample_orderless_context(keys, uniforms, batch.valid)
        roll = pianoroll.from_pitches(batch.pitches)
        target = batch.valid[..., None] & ~context
        return objective.nll_per_variable(predict(roll, context, batch.valid), roll, target)

    padded = data.pad_rows(windows, BATCH)
    found = []
    for at in range(0, len(padded.valid), BATCH):
        batch = data.Batch(*(jnp.asarray(part[at : at + BATCH]) for part in padded))
        found.append(np.asarray(some(batch, jnp.arange(at, at + BATCH))))
    return np.concatenate(found)[:count]


def round_kernels(params: Any, how: str) -> Any:
    """Kernels (arrays of three axes and more) as they come back from fewer bits; the rest stays."""

    def one(kernel: jax.Array) -> jax.Array:
        if kernel.ndim < 3:
            return kernel
        if how == "bfloat16":
            return kernel.astype(jnp.bfloat16).astype(kernel.dtype)
        scale = jnp.max(jnp.abs(kernel), axis=tuple(range(kernel.ndim - 1)), keepdims=True) / 127.0
        return jnp.round(kernel / jnp.maximum(scale, 1e-30)) * scale

    return jax.tree.map(one, params)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="the --workdir of a training run")
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--split", default="valid", help="(default: valid)")
    parser.add_argument("--json", help="file for all numbers")
    args = parser.parse_args()
    checkpoint.quiet()
    with errors.exit_on_input_error():
        loaded, piece_set = checkpoint.load(args.checkpoint), pieces.read_npz(args.data)
        windows = data.windows(piece_set.splits[args.split], loaded.config.data.crop_steps)
        net = dataclasses.replace(loaded.config.model, dtype="float32")
        short = dataclasses.replace(net, dtype="bfloat16")
        stats, params = loaded.variables["batch_stats"], loaded.variables["params"]
        cases = {
            "float32": (params, net),
            "bfloat16, computed": (params, short),
            "bfloat16, stored": (round_kernels(params, "bfloat16"), net),
            "int8, stored": (round_kernels(params, "int8"), net),
        }
        print(f"step {loaded.step} (sha256 {loaded.sha256[:8]}), {args.split}, {len(windows.valid)} windows")
        plain: Any = None
        rows = []
        for name, (weights, chosen) in cases.items():
            nll = window_nll({"params": weights, "batch_stats": stats}, chosen, windows)
            plain = nll if plain is None else plain
            change = rates.average(nll - plain)
            rows.append({"precision": name, "nll": f"{nll.mean():.4f}", "mean": change.mean, "error": change.error})
            rows[-1]["difference"] = f"{change.mean:+.4f} ± {change.error:.4f}"
        measuring.finish("precision", rows, COLUMNS, args.json)


if __name__ == "__main__":
    main()
