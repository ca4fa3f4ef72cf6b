"""Does a critic gain from starting with a generator's weights? Three arms, three seeds (after McLeavey's Clara, 2018).

  python benchmarks/critic_arms.py --checkpoint=runs/small --data=chorales.npz --pool=runs/critic_pool

The critic here is the generator's own trunk: all notes given, its last hidden layer pooled over time (mean) and pitch
(mean and maximum), and a linear head. Arms: random trunk; the generator's, everything at a tenth of the learning rate;
the generator's, frozen but for the head. All arms see the same batches. Prints AUC on test windows for each seed,
and of the seeds' mean score with the bootstrap's error over pieces, also less the random arm's in the same draws.
"""

import argparse
from collections.abc import Callable
import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np
import optax

from coconet_jax import checkpoint, config, devices, errors, model, pianoroll, pieces
from coconet_jax.judge import critic, fit, negatives, separation

SETTLING = 40  # batches after which the statistics of a random trunk are those of its last parameters
ARMS = ("random", "generator, a tenth of the rate", "generator, frozen")


def pooled(variables: model.Variables, net: config.Model, pitches: Array, train: bool) -> tuple[Array, Any]:
    """Features [b,d] of whole pieces, everything given, and the trunk's statistics."""
    roll = pianoroll.from_pitches(pitches)
    context = jnp.ones(pitches.shape, bool)
    module = model.Coconet(net)
    last = f"layer_{len(model.layer_specs(net)) - 2:02d}"  # the layer before the logits
    _, seen = module.apply(
        variables,
        roll,
        context,
        context[..., 0],
        train=train,
        mutable=["batch_stats", "intermediates"],
        capture_intermediates=lambda inner, _: inner.name == last,
    )
    hidden = seen["intermediates"][last]["__call__"][0]
    by_time = hidden.mean(axis=1)
    features = jnp.concatenate([by_time.mean(axis=1), by_time.max(axis=1), hidden.max(axis=(1, 2))], axis=-1)
    return features, seen.get("batch_stats", variables["batch_stats"])


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="the --workdir of a training run")
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--pool", default="runs/critic_pool", help="folder filled by benchmarks/critic_pool.py")
    parser.add_argument("--num_steps", type=int, default=150, help="updates of each arm (default: 150)")
    parser.add_argument("--batch_size", type=int, default=16, help="default: 16")
    parser.add_argument("--num_test", type=int, default=1500, help="test windows (default: 1500)")
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    args = parser.parse_args()
    checkpoint.quiet()
    devices.use_compile_cache()
    with errors.exit_on_input_error():
        for name in ("num_steps", "batch_size", "num_test", "seeds"):
            if getattr(args, name) < 1:
                raise errors.InputError(f"--{name}={getattr(args, name)}: use 1 or more")
        loaded = checkpoint.load(args.checkpoint)
        net = dataclasses.replace(loaded.config.model, bn_momentum=0.9)
        piece_set = pieces.read_npz(args.data)
        real = {
            name: negatives.real_windows(piece_set.splits[name], name, critic.STEPS)
            for name in ("train", "valid", "test")
        }
        by_split = negatives.splits(real, negatives.read_pool(args.pool))
        examples = jax.device_put(critic.examples(by_split["train"]))
        settings = fit.Settings(batch_size=args.batch_size, crop_steps=critic.CROP_STEPS)
        test = by_split["test"]
        test = test.take(np.random.default_rng(0).permutation(len(test.pitches))[: args.num_test])
        pitches, positive, weights = test.pitches, test.kind == negatives.REAL, negatives.weigh(test)
        scores: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
        seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
        for seed in range(args.seeds):
            for arm in ARMS:
                run = make_run(arm, loaded.variables, net, settings, seed)
                score, spent = run(examples, args.num_steps)
                seconds[arm].append(spent / args.num_steps)
                logits = np.concatenate([score(pitches[at : at + 16]) for at in range(0, len(pitches), 16)])
                scores[arm].append(logits)
                print(f"seed {seed}, {arm}: AUC {separation.auc(logits, positive, weights):.3f}", flush=True)
        print(f"\n{positive.sum()} real windows and {(~positive).sum()} others, {args.num_steps} updates")
        print("\n| Start | AUC of each seed | of their mean score | less random | Seconds an update |")
        print("| --- | --- | --- | --- | --- |")
        random = np.mean(scores[ARMS[0]], axis=0)
        for arm in ARMS:
            each = ", ".join(f"{separation.auc(logits, positive, weights):.3f}" for logits in scores[arm])
            known = (np.mean(scores[arm], axis=0), positive, weights, test.piece)
            both, gain = (
                separation.bootstrap_auc(np.random.default_rng(0), *known, less=less) for less in (None, random)
            )
            print(
                f"| {arm} | {each} | {both.mean:.3f} ± {both.error:.3f} | {gain.mean:+.3f} ± {gain.error:.3f} "
                f"| {np.mean(seconds[arm]):.2f} |"
            )


def make_run(
    arm: str, generator: model.Variables, net: config.Model, settings: fit.Settings, seed: int
) -> Callable[[fit.Examples, int], tuple[Callable[[np.ndarray], np.ndarray], float]]:
    """A function that trains an arm for so many updates: gives what scores windows, and the seconds they took."""
    key = jax.random.key(seed)
    variables = model.init(key, net) if arm == "random" else generator
    width = 3 * net.num_filters
    params = {"trunk": variables["params"], "head": jnp.zeros(width), "bias": jnp.zeros(())}
    # Features of a trunk have a scale of their own: the head learns ten times as fast as a random trunk does.
    rates = {"random": 1e-3, "generator, a tenth of the rate": 1e-4, "generator, frozen": 0.0}
    groups = {"trunk": optax.adam(rates[arm]), "head": optax.adam(1e-2 if arm != ARMS[1] else 1e-3)}
    optimizer = optax.multi_transform(groups, {"trunk": "trunk", "head": "head", "bias": "head"})

    def logits_of(params: Any, stats: Any, pitches: Array, train: bool) -> tuple[Float[Array, " b"], Any]:
        features, stats = pooled({"params": params["trunk"], "batch_stats": stats}, net, pitches, train)
        return features @ params["head"] + params["bias"], stats

    def loss_of(params: Any, stats: Any, pitches: Array, labels: Array) -> tuple[Array, Any]:
        # A trunk that stands still keeps the statistics it was trained with.
        logits, stats = logits_of(params, stats, pitches, arm == "random")
        return optax.sigmoid_binary_cross_entropy(logits, labels.astype(jnp.float32)).mean(), stats

    @jax.jit
    def step(params: Any, stats: Any, opt_state: Any, examples: fit.Examples, number: Array) -> Any:
        pitches, _, labels = fit.draw_batch(jax.random.fold_in(key, number), examples, settings)
        grads, stats = jax.grad(loss_of, has_aux=True)(params, stats, pitches, labels)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), stats, opt_state

    @jax.jit
    def settle(params: Any, stats: Any, examples: fit.Examples, number: Array) -> Any:
        pitches, _, _ = fit.draw_batch(jax.random.fold_in(key, number), examples, settings)
        return logits_of(params, stats, pitches, True)[1]

    def run(examples: fit.Examples, num_steps: int) -> tuple[Callable[[np.ndarray], np.ndarray], float]:
        begun = time.perf_counter()
        carried = (params, variables["batch_stats"], optimizer.init(params))
        for number in range(num_steps):
            carried = step(*carried, examples, jnp.asarray(number))
        trained, stats, _ = jax.block_until_ready(carried)
        seconds = time.perf_counter() - begun
        for number in range(SETTLING if arm == "random" else 0):
            stats = settle(trained, stats, examples, jnp.asarray(num_steps + number))
        score = jax.jit(lambda pitches: logits_of(trained, stats, pitches, False)[0])
        return lambda pitches: np.asarray(score(jnp.asarray(pitches))), seconds

    return run


if __name__ == "__main__":
    main()
