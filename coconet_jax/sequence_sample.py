"""Sampling from the LSTM on note events: the command.

`python -m coconet_jax.sequence_sample --checkpoint=runs/lstm --out=chorales --num_samples=256`
"""

import argparse
from collections.abc import Sequence
import dataclasses
import functools
from typing import Final, NamedTuple, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int16, Int64, Key
import numpy as np

from coconet_jax import checkpoint, devices, drawing, errors, events, files, lstm, model, offline, samples, tasks

MICRO_BATCH: Final = 64  # chains of one compiled program
_EXAMPLES: Final = """examples:
  256 pieces of four bars, drawn from the law of the network:
    python -m coconet_jax.sequence_sample --checkpoint=runs/lstm --out=chorales --num_samples=256
  half of all tokens the likeliest ones in the most careful chain, none in the most adventurous:
    python -m coconet_jax.sequence_sample --checkpoint=runs/lstm --out=careful --num_samples=256 --greedy=0,0.5

The same command again goes on after an interruption; a larger --num_samples adds to what is there."""


class _State(NamedTuple):
    """Of all chains of a batch."""

    number: Int[Array, ""]  # of the next token
    memory: lstm.Memory
    position: events.Position
    last: Int[Array, " b"]  # token
    strings: Int[Array, "b e"]


@functools.partial(jax.jit, static_argnames=("config", "num_steps"))
def draw_strings(
    variables: model.Variables,
    keys: Key[Array, " b"],
    greedy: Float[Array, " b"],
    temperature: Float[Array, ""],
    *,
    config: lstm.Lstm,
    num_steps: int,
) -> Int[Array, "b e"]:
    """Strings that decode to `num_steps` steps each, all chains at once; NOTHING after their ends.

    One loop, until the last chain has its steps. A wait past the end is cut there, as in the likelihood, so that at
    temperature 1 without greedy choices scores come out with the probabilities that `lstm.log_probs` gives them.

    Args:
      variables: of the network.
      keys: of each chain; its tokens depend on no other.
      greedy: each chain's chance to take, token by token, the likeliest instead of a draw.
      temperature: divides the logits.
      config: of the network.
      num_steps: steps of each score.
    """
    batch, most = len(keys), events.SLOTS * num_steps
    network = lstm.Network(config)

    def one(state: _State) -> _State:
        heard = (state.memory, state.last, state.position)
        memory, logits = cast(tuple[lstm.Memory, Array], network.apply(variables, *heard, method="step"))
        scaled = lstm.mask(logits / temperature, state.position, config.order)
        pairs = jax.vmap(lambda key: jax.random.split(jax.random.fold_in(key, state.number)))(keys)
        drawn = jax.vmap(jax.random.categorical)(pairs[:, 0], scaled)
        is_greedy = jax.vmap(jax.random.uniform)(pairs[:, 1]) < greedy
        left = num_steps - state.position.time
        token = jnp.where(is_greedy, jnp.argmax(scaled, axis=-1), drawn)
        token = jnp.where(token >= events.FIRST_WAIT, jnp.minimum(token, events.FIRST_WAIT - 1 + left), token)
        token = jnp.where(left > 0, token, events.NOTHING).astype(jnp.int32)
        position = events.advance(state.position, token, config.order)
        strings = state.strings.at[:, state.number].set(token)
        return _State(state.number + 1, memory, position, jnp.maximum(token, 0), strings)

    begun = _State(
        jnp.zeros((), jnp.int32),
        lstm.empty(config, batch),
        events.begin(batch),
        jnp.full((batch,), events.START, jnp.int32),
        jnp.full((batch, most), events.NOTHING, jnp.int32),
    )
    return jax.lax.while_loop(lambda state: jnp.any(state.position.time < num_steps), one, begun).strings


def draw(
    variables: model.Variables,
    config: lstm.Lstm,
    ids: Int64[np.ndarray, " n"],
    *,
    seed: int,
    num_steps: int,
    temperature: float = 1.0,
    greedy: tuple[float, float] = (0.0, 0.0),
    micro_batch: int = MICRO_BATCH,
) -> Int16[np.ndarray, "n t 4"]:
    """Pitches of the chains of these numbers; each depends on (seed, its number) alone.

    Args:
      variables: of the network.
      config: of the network.
      ids: chain numbers.
      seed: of the run.
      num_steps: length of each.
      temperature: below 1 careful, above 1 adventurous.
      greedy: least and most careful chain's chance to take the likeliest token (`drawing.spread_greedy`).
      micro_batch: chains at once, the last ones made up: one program, so that numbers come out the same.
    """
    key, made = jax.random.key(seed), []
    for start in range(0, len(ids), micro_batch):
        part = ids[start : start + micro_batch]
        rows = np.resize(part, micro_batch).astype(np.int32)
        strings = draw_strings(
            variables,
            jax.vmap(lambda chain: jax.random.fold_in(key, chain))(rows),
            drawing.spread_greedy(rows, *greedy),
            jnp.float32(temperature),
            config=config,
            num_steps=num_steps,
        )
        made += [events.decode(string, config.order) for string in np.asarray(strings)[: len(part)]]
    return np.stack(made).astype(np.int16)


def _parser() -> argparse.ArgumentParser:
    parser = errors.Parser(
        prog="python -m coconet_jax.sequence_sample",
        description="Chorales from nothing, written event by event by a trained LSTM.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", metavar="DIR", help="the --workdir of a run of coconet_jax.sequence")
    parser.add_argument("--step", type=int, metavar="N", help="checkpoint to take (default: the best on validation)")
    parser.add_argument("--out", default="chorales", metavar="DIR", help="where the samples go; or a gs:// URL")
    parser.add_argument("--num_samples", type=int, default=16, metavar="N", help="default: 16")
    parser.add_argument("--steps", type=int, default=64, metavar="N", help="of each, sixteenths; default: 64")
    parser.add_argument("--temperature", type=float, default=1.0, metavar="X", help="default: 1, the network's law")
    parser.add_argument(
        "--greedy",
        default="0",
        metavar="X[,Y]",
        help="chance that the likeliest token is taken instead of a draw: one number, or two such as 0,0.5 between "
        "which the samples are spread from adventurous to careful (default: 0)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="with a sample's number it settles the sample")
    parser.add_argument("--micro_batch", type=int, metavar="N", help=f"chains at once; default: {MICRO_BATCH}")
    parser.add_argument("--chunk_size", type=int, metavar="N", help="samples in a file; default: 256")
    return parser


def _greedy(text: str) -> tuple[float, float]:
    try:
        least, most = (float(word) for word in (text.split(",") * 2)[:2])
    except ValueError:
        least = most = -1.0
    if not (0 <= least <= most <= 1 and text.count(",") < 2):
        raise errors.InputError(f"--greedy={text}: use a number in [0, 1], or two such as 0,0.5, the smaller first")
    return least, most


def _sample(args: argparse.Namespace) -> None:
    if not args.checkpoint:
        raise errors.InputError("--checkpoint is missing; give the --workdir of a run of coconet_jax.sequence")
    for name, least, most in (
        ("num_samples", 1, 10**9),
        ("micro_batch", 1, 2**16),
        ("chunk_size", 1, 10**6),
        ("seed", 0, 2**31 - 1),
    ):
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise errors.InputError(f"--{name}={value}: use {least} to {most}")
    if not 0 < args.temperature <= 1000:
        raise errors.InputError(f"--temperature={args.temperature}: use a value above 0, such as 1")
    greedy = _greedy(args.greedy)
    files.check_folder(args.out)
    devices.use_compile_cache()
    loaded = checkpoint.load_kind(lstm.KIND, args.checkpoint, args.step)
    request = tasks.compose(args.steps, steps_per_quarter=loaded.config.data.steps_per_quarter)
    described = {"generator": lstm.KIND.name, "temperature": args.temperature, "greedy": greedy}
    # What rounds otherwise may draw otherwise: another kind of device is another run.
    described |= {} if devices.on_cpu() else {"device": jax.default_backend()}
    manifest = offline.begin(
        args.out,
        request,
        described,
        seed=args.seed,
        checkpoint_sha256=loaded.sha256,
        num_samples=args.num_samples,
        micro_batch=args.micro_batch,
        chunk_size=args.chunk_size,
        default_micro_batch=MICRO_BATCH,
        about={"checkpoint": args.checkpoint, "model": dataclasses.asdict(loaded.config.model)},
    )
    print(f"{args.num_samples} x {args.steps} steps from step {loaded.step} of {args.checkpoint}", flush=True)
    own = functools.partial(
        draw,
        loaded.variables,
        loaded.config.model,
        seed=args.seed,
        num_steps=args.steps,
        temperature=args.temperature,
        greedy=greedy,
        micro_batch=manifest["micro_batch"],
    )
    offline.run(own, request, args.out, manifest, chains_at_once=manifest["micro_batch"], progress=True)
    print(f"wrote {samples.num_chunks(manifest)} files of samples to {args.out}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command; a mistake of the user's is one line and exit code 2."""
    checkpoint.quiet()
    args = _parser().parse_args(argv)
    with errors.exit_on_input_error():
        _sample(args)


if __name__ == "__main__":
    main()
