"""A trained model as one file that runs without this package: compiled ahead of time, with its weights.

`python -m coconet_jax.export --checkpoint=runs/small --bars=4 --out=coconet.zip`

The file is a zip of

  predict.bin   jax.export of (weights, pitches int8 [b,t,4], context bool [b,t,4], valid bool [b,t]) -> logits float32
                [b,t,46,4], any b and t; on CPU nets of more than 28 channels agree to rounding, since the package's
                own way of halving their multiplications needs to know t; to a net that knows beats (model.beat_steps)
                step 0 is one, here and below
  sample.bin    jax.export of (weights, seed int32 [], number int32 [b], pitches int8 [b,T,4], free bool [b,T,4]) ->
                pitches int8 [b,T,4], any b: what `coconet_jax.sample --polish=0` makes of the chains
                of these numbers (whole pieces, if the network has learned how they begin and end; to predict.bin that
                is told by four steps or so of silence that is given)
  weights.npz   the weights, float32, named by their place in the list
  about.json    config, settings of the sampler, digest, versions
  run.py        how to use it: needs jax, numpy and flatbuffers alone
"""

import argparse
from collections.abc import Sequence
import dataclasses
import io
import json
import zipfile

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Int8
import numpy as np

from coconet_jax import (
    bars,
    checkpoint,
    drawing,
    errors,
    files,
    generate,
    model,
    pianoroll,
    provenance,
    samplers,
    settings,
    steering,
    storage,
)
from coconet_jax import config as config_lib
from coconet_jax import weights as weights_lib

PLATFORMS = ("cpu", "cuda", "tpu")
RUN = '''"""Writes chorales with the model beside this script: python run.py coconet.zip chorales.npz 4"""

import io, sys, zipfile

from jax import export
import numpy as np

if len(sys.argv) != 4:
    sys.exit("give the file, where to write, and how many: python run.py coconet.zip chorales.npz 4")
path, out, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with zipfile.ZipFile(path) as archive:
    sample = export.deserialize(bytearray(archive.read("sample.bin")))
    with np.load(io.BytesIO(archive.read("weights.npz"))) as stored:
        weights = [stored[str(n)] for n in range(len(stored.files))]
steps = sample.in_avals[-1].shape[1]
pitches = np.full((count, steps, 4), -1, np.int8)  # MIDI numbers of what is given, -1 elsewhere
free = np.ones((count, steps, 4), bool)  # what the model writes
made = sample.call(weights, np.int32(0), np.arange(count, dtype=np.int32), pitches, free)
np.savez(out, pitches=np.asarray(made))
print(f"wrote {count} chorales of {steps} steps to {out}")
'''
_EXAMPLES = """examples:
  the model, and a sampler of four bars by annealed Gibbs sampling of 256 steps:
    python -m coconet_jax.export --checkpoint=runs/small --bars=4 --num_steps=256 --out=coconet.zip
  a quick one for a GPU:
    python -m coconet_jax.export --checkpoint=runs/small --bars=8 --sampler=maskgit --platforms=cuda --out=quick.zip
  its weights alone, as they ship with the package:
    python -m coconet_jax.export --checkpoint=runs/small --weights --out=my_model
  how to run it where only jax, numpy and flatbuffers are installed:
    unzip coconet.zip run.py && python run.py coconet.zip chorales.npz 4"""


def export_predict(
    variables: model.Variables, config: config_lib.Model, platforms: Sequence[str] = PLATFORMS
) -> jax.export.Exported:
    """The network on any number of scores of any length; see the module for its arguments."""
    leaves, tree = jax.tree.flatten(variables)

    def predict(
        weights: list[Array], pitches: Int8[Array, "b t i"], context: Bool[Array, "b t i"], valid: Bool[Array, "b t"]
    ) -> Float[Array, "b t p i"]:
        network = model.make_predict(jax.tree.unflatten(tree, weights), config)
        return network(pianoroll.from_pitches(pitches), context, valid)

    batch, steps = jax.export.symbolic_shape("b, t")
    cells = (batch, steps, pianoroll.NUM_VOICES)
    return jax.export.export(jax.jit(predict), platforms=list(platforms))(
        _shapes(leaves), _shape(cells, jnp.int8), _shape(cells, jnp.bool_), _shape(cells[:2], jnp.bool_)
    )


def export_sampler(
    variables: model.Variables,
    config: config_lib.Model,
    chosen: config_lib.Sample,
    steps: int,
    platforms: Sequence[str] = PLATFORMS,
    knows_ends: bool = False,
) -> jax.export.Exported:
    """The whole sampler for any number of scores of so many steps; see the module for its arguments.

    The number of model calls is that of scores in which all is free, whatever is free later. They begin and end as
    pieces do, if the network has learned how (`data.ends`), and no voice leaves its range in Bach's chorales, whatever
    is given.
    """
    leaves, tree = jax.tree.flatten(variables)
    plan = samplers.phases(chosen, np.ones((1, steps, pianoroll.NUM_VOICES), bool))

    def sample(
        weights: list[Array],
        seed: Int[Array, ""],
        number: Int[Array, " b"],
        pitches: Int8[Array, "b t i"],
        free: Bool[Array, "b t i"],
    ) -> Int8[Array, "b t i"]:
        network = model.make_predict(jax.tree.unflatten(tree, weights), config)
        network = model.in_windows(network, model.reach(config), generate.WINDOW_STEPS)
        if knows_ends:
            network = model.between_silences(network, jnp.ones((free.shape[0], 2), bool))
        valid = jnp.ones(free.shape[:2], bool)
        chains = samplers.Chains(samplers.chain_keys(seed, number), pitches, free, valid)
        prior = steering.usual(steps)
        rule = drawing.Rule(*prior, drawing.spread_greedy(number, *chosen.greedy), chosen.top_p)
        return samplers.sample(network, chains, chosen, plan, rule)[0]

    (batch,) = jax.export.symbolic_shape("b")
    cells = (batch, steps, pianoroll.NUM_VOICES)
    return jax.export.export(jax.jit(sample), platforms=list(platforms))(
        _shapes(leaves),
        _shape((), jnp.int32),
        _shape((batch,), jnp.int32),
        _shape(cells, jnp.int8),
        _shape(cells, jnp.bool_),
    )


def _shape(shape: tuple, dtype: jax.typing.DTypeLike) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _shapes(leaves: Sequence[Array]) -> list[jax.ShapeDtypeStruct]:
    return [_shape(leaf.shape, leaf.dtype) for leaf in leaves]


def write(
    path: storage.Place,
    loaded: weights_lib.Loaded,
    chosen: config_lib.Sample,
    steps: int,
    platforms: Sequence[str] = PLATFORMS,
) -> int:
    """Writes the file that the module describes, and returns its size; equal arguments and versions give equal bytes.

    Raises:
      InputError: the folder cannot be written to.
    """
    weights = io.BytesIO()
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(loaded.variables)]
    np.savez_compressed(weights, **{str(n): leaf for n, leaf in enumerate(leaves)})  # type: ignore[arg-type]
    about = {
        "step": loaded.step,
        "sha256": loaded.sha256,
        "steps_per_quarter": loaded.config.data.steps_per_quarter,
        "steps": steps,
        "model": dataclasses.asdict(loaded.config.model),
        "sampler": dataclasses.asdict(chosen),
        "knows_ends": loaded.config.data.ends,
        "platforms": list(platforms),
        "versions": provenance.versions(),
    }
    predict = export_predict(loaded.variables, loaded.config.model, platforms)
    knows_ends = loaded.config.data.ends
    sampler = export_sampler(loaded.variables, loaded.config.model, chosen, steps, platforms, knows_ends)
    contents = {
        "predict.bin": bytes(predict.serialize()),
        "sample.bin": bytes(sampler.serialize()),
        "weights.npz": weights.getvalue(),
        "about.json": (json.dumps(about, indent=1) + "\n").encode(),
        "run.py": RUN.encode(),
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            # A date of its own would make every file another.
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    files.replace(path, packed.getvalue())
    return len(packed.getvalue())


_OF_WEIGHTS = ("checkpoint", "step", "out", "dtype", "weights")  # flags that go with --weights


def _parser() -> argparse.ArgumentParser:
    parser = errors.Parser(
        prog="python -m coconet_jax.export",
        description="Writes a trained model and its sampler, compiled ahead of time, to one file that runs without "
        "this package.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", default=weights_lib.DEFAULT, metavar="DIR", help=weights_lib.HELP)
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint to take (default: the best on validation)")
    parser.add_argument(
        "--out", metavar="FILE", help="to be written (default: coconet.zip; with --weights the folder weights)"
    )
    parser.add_argument(
        "--weights",
        action="store_true",
        help="write plain weights alone, a folder that coconet_jax.weights.read and every --checkpoint take",
    )
    parser.add_argument("--bars", type=int, default=4, metavar="N", help="length of the samples in 4/4 (default: 4)")
    parser.add_argument(
        "--platforms", default=",".join(PLATFORMS), metavar="LIST", help="to run on (default: cpu,cuda,tpu)"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="of activations, on all platforms; of the numbers, with --weights (default: float32)",
    )
    settings.add_flags(parser)
    return parser


def _write_weights(args: argparse.Namespace) -> None:
    folder = args.out or "weights"
    size = weights_lib.write(folder, checkpoint.load(args.checkpoint, args.step), args.dtype) / 1e6
    folder = f"./{folder}" if folder in weights_lib.shipped() else folder
    loaded = weights_lib.read(folder)
    print(f"wrote {folder} ({size:.1f} MB): step {loaded.step}, sha256 {loaded.sha256[:8]}, {args.dtype}")
    print(f"to use it: python -m coconet_jax.sample --checkpoint={folder}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command; `--help` teaches it. Bad input ends it with one line and exit code 2."""
    checkpoint.quiet()
    args = _parser().parse_args(argv)
    with errors.exit_on_input_error():
        if args.weights:
            usual = _parser()
            for name, value in vars(args).items():
                if name not in _OF_WEIGHTS and value != usual.get_default(name):
                    raise errors.InputError(f"--{name}={value} is for a program; with --weights leave it out")
            _write_weights(args)
            return
        args.out = "coconet.zip" if args.out is None else args.out
        platforms = [name for name in args.platforms.split(",") if name]
        unknown = [name for name in platforms if name not in (*PLATFORMS, "rocm")]
        if unknown or not platforms:
            raise errors.InputError(f"--platforms={args.platforms}: use one or more of {', '.join(PLATFORMS)}, rocm")
        path = storage.place(args.out)
        if not args.out or path.is_dir():
            raise errors.InputError(f"--out={args.out} is no file name; give one such as coconet.zip")
        files.check_folder(path.absolute().parent)
        try:
            import flatbuffers  # noqa: F401  (jax.export writes with it)
        except ImportError:
            raise errors.InputError(
                "exporting needs the package flatbuffers; install it with pip install 'coconet-jax[export]'"
            ) from None
        chosen = settings.from_flags(args)
        loaded = checkpoint.load(args.checkpoint, args.step)
        steps = bars.to_steps("--bars", args.bars, (4, 4), loaded.config.data.steps_per_quarter)
        net = dataclasses.replace(loaded.config.model, dtype=args.dtype)
        config = dataclasses.replace(loaded.config, model=net)
        size = write(path, loaded._replace(config=config), chosen, steps, platforms) / 1e6
        print(f"wrote {path} ({size:.1f} MB): step {loaded.step}, {args.bars} bars, for {', '.join(platforms)}")
        local = path.name if isinstance(path, storage.Url) else path
        fetch = f"fetch {path}; then " if isinstance(path, storage.Url) else ""
        print(f"to use it: {fetch}unzip {local} run.py && python run.py {local} chorales.npz 4")


if __name__ == "__main__":
    main()
