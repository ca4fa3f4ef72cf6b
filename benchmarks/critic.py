"""Trains the critic on a pool of negatives and reports on test pieces how well it tells real from generated.

  python benchmarks/critic_pool.py --data=chorales.npz --out=runs/critic_pool small-14000=runs/small
  python benchmarks/critic.py --data=chorales.npz --pool=runs/critic_pool --save=coconet_jax/judge/critic.npz

--networks=FILE keeps the networks of a critic, --load=A,B averages critics that share theirs.
Prints Markdown tables: what tells windows apart without any music; AUC by source, also of its networks and of its
theory measures by themselves, and of a plain logistic regression on these; AUC on pieces whose tune train does not have
already; calibration; and with --leave_out the AUC on each generator, and on families of them, for a critic that never
saw it and for one that saw all.
"""

import argparse
import dataclasses
import re
import time

import jax
import jax.numpy as jnp
import numpy as np

from coconet_jax import devices, errors, loop, pieces, provenance
from coconet_jax.judge import copies, critic, fit, negatives, network, separation

SHARED_STEPS = 64  # four bars
SAMPLED = (negatives.GENERATED, negatives.POLISHED)


def print_table(head: list[str], rows: list[list[str]]) -> None:
    """As Markdown."""
    print("\n| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def print_cues(windows: negatives.Windows) -> None:
    """The AUC of each cue on windows as training draws them."""
    settings = fit.Settings(batch_size=4000, crop_steps=critic.CROP_STEPS)
    examples = jax.tree.map(jnp.asarray, critic.examples(windows))
    notes, valid, labels = jax.jit(fit.draw_batch, static_argnames="settings")(
        jax.random.key(0), examples, settings=settings
    )
    found = negatives.cues(np.asarray(notes)) | {"length": np.asarray(valid).sum(axis=1).astype(float)}
    rows = []
    for name, values in found.items():
        value = separation.auc(values, np.asarray(labels) == 1)
        rows.append([name, f"{max(value, 1 - value):.3f}"])
    print_table(["Cue", "AUC"], rows)


def groups_of(windows: negatives.Windows) -> dict[str, np.ndarray]:
    """Rows of the table: name -> which negatives."""
    fake, sampled = windows.kind != negatives.REAL, np.isin(windows.kind, SAMPLED)
    found = {"all": fake}
    for kind in (negatives.GENERATED, negatives.POLISHED, negatives.REFILLED, negatives.DAMAGED):
        found[kind] = windows.kind == kind
    for generator in sorted(set(windows.generator) - {""}):
        found[f"samples of {generator}"] = sampled & (windows.generator == generator)
    names = np.array([_sampler(source, name) for source, name in zip(windows.source, windows.generator, strict=True)])
    for name in sorted(set(names[sampled])):
        found[f"sampler {name}"] = sampled & (names == name)
    for source in sorted(set(windows.source[np.isin(windows.kind, ("refilled", "damaged"))])):
        found[str(source)] = windows.source == source
    return found


def _sampler(source: str, generator: str) -> str:
    """The kind of sampler in a source's name."""
    words = re.findall(r"[a-z]+", str(source).removeprefix(str(generator)).lower().replace("_", " "))
    return " ".join(word for word in words if word not in ("t", "annealed", "order"))


def print_sources(windows: negatives.Windows, scores: dict[str, np.ndarray]) -> None:
    """AUC of each way of scoring against each group of negatives, with the bootstrap's error over pieces."""
    real, weights = windows.kind == negatives.REAL, negatives.weigh(windows)
    rows = []
    for name, marks in groups_of(windows).items():
        rows_of = real | marks
        row = [name, str(int(marks.sum()))]
        known = (real[rows_of], weights[rows_of], windows.piece[rows_of])
        for values in scores.values():
            found = separation.bootstrap_auc(np.random.default_rng(0), values[rows_of], *known)
            row.append(f"{found.mean:.3f} ± {found.error:.3f}")
        first, *_, last = (values[rows_of] for values in scores.values())
        found = separation.bootstrap_auc(np.random.default_rng(0), first, *known, less=last)
        rows.append([*row, f"{found.mean:+.3f} ± {found.error:.3f}"])
    print_table([f"Against ({int(real.sum())} real)", "n", *scores, "First less last"], rows)


def print_tunes(windows: negatives.Windows, logits: np.ndarray, test: pieces.Pieces, training: pieces.Pieces) -> None:
    """AUC where windows made of test pieces are only of those pieces whose soprano train does not have.

    Chorales share tunes: a soprano counts as shared from SHARED_STEPS steps in a row on, in any transposition.
    """
    runs = copies.longest_run(test.pitches, training, test.lengths, (0,))
    new = [f"test/{name}" for name, run in zip(test.names, runs, strict=True) if run < SHARED_STEPS]
    shown = np.isin(windows.kind, SAMPLED) | np.isin(windows.piece, new)
    part = windows.take(shown)
    found = separation.bootstrap_auc(
        np.random.default_rng(0), logits[shown], part.kind == negatives.REAL, negatives.weigh(part), part.piece
    )
    count = f"{len(new)} of {len(test.names)} test pieces ({(part.kind == negatives.REAL).sum()} real windows)"
    print(
        f"\nsamples, and windows of the {count} whose soprano has fewer than {SHARED_STEPS} steps in a row in common "
        f"with train: AUC {found.mean:.3f} ± {found.error:.3f}"
    )


def print_report(step: int, numbers: dict[str, float]) -> None:
    """One line an evaluation."""
    print(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in numbers.items()), flush=True)


def leave_out(
    by_split: dict[str, negatives.Windows], settings: fit.Settings, config: network.Config, training: pieces.Pieces
) -> None:
    """AUC on each generator's test windows, for a critic that saw all but it and for one that saw all.

    Also on families of generators, whose names begin alike (small-10000, small-20000), left out together.
    """
    names = sorted(set(by_split["train"].generator) - {""})
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(name.split("-")[0], []).append(name)
    groups = {name: [name] for name in names}
    groups |= {f"all of {family}": members for family, members in families.items() if len(members) > 1}
    saw_all = critic.train(by_split, settings, config, training)
    rows = []
    for title, members in groups.items():
        without = {name: part.take(~np.isin(part.generator, members)) for name, part in by_split.items()}
        never_saw = critic.train(without, settings, config, training)
        test = by_split["test"]
        made = np.isin(test.kind, SAMPLED) & np.isin(test.generator, members)
        shown = test.take((test.kind == negatives.REAL) | made)
        row = [title, str(int(made.sum()))]
        for trained in (never_saw, saw_all):
            found = separation.bootstrap_auc(
                np.random.default_rng(0),
                critic.judge(trained, shown.pitches).logit,
                shown.kind == negatives.REAL,
                negatives.weigh(shown),
                shown.piece,
            )
            row.append(f"{found.mean:.3f} ± {found.error:.3f}")
        rows.append(row)
    print_table(["Generator", "n", "AUC where it was never seen", "AUC where it was seen"], rows)


def read_critics(flag: str, text: str) -> list[critic.Critic]:
    """Those of the files that a text names, with commas between them.

    Raises:
      InputError: a name is empty, or a file is no critic.
    """
    names = text.split(",")
    if not all(names):
        raise errors.InputError(f"--{flag}={text}: a name is empty; give files with one comma between two")
    return [critic.load(name) for name in names]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="npz written by python -m coconet_jax.chorales --export")
    parser.add_argument("--pool", default="runs/critic_pool", help="folder filled by benchmarks/critic_pool.py")
    parser.add_argument("--save", help="file to write the critic to")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--load", help="report on this critic, or on the mean of several, with commas between them, not on a new one"
    )
    source.add_argument(
        "--networks", help="take the networks of these critics, with commas between them; fit the rest to the pool"
    )
    parser.add_argument("--leave_out", action="store_true", help="also train critics without each generator")
    defaults = fit.Settings(num_steps=500, batch_size=48, crop_steps=critic.CROP_STEPS)
    for name in ("num_members", "num_steps", "batch_size", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(defaults, name))
    args = parser.parse_args()
    devices.use_compile_cache()
    with errors.exit_on_input_error():
        names = ("num_members", "num_steps", "batch_size", "seed")
        settings = dataclasses.replace(defaults, **{name: getattr(args, name) for name in names})
        given = read_critics("networks", args.networks) if args.networks else []
        if args.load:
            given = [critic.average(read_critics("load", args.load))]
        if any(each.config != given[0].config for each in given):
            raise errors.InputError(f"--networks={args.networks} have not all the same shape; train them alike")
        piece_set = pieces.read_npz(args.data)
        real = {
            # Validation takes less time, and finds the same, from every other bar.
            name: negatives.real_windows(piece_set.splits[name], name, critic.STEPS, hop=32 if name == "valid" else 16)
            for name in ("train", "valid", "test")
        }
        by_split = negatives.splits(real, negatives.read_pool(args.pool), settings.seed)
        for name, part in by_split.items():
            kinds, counts = np.unique(part.kind, return_counts=True)
            print(f"{name}: " + ", ".join(f"{n} {kind}" for kind, n in zip(kinds, counts, strict=True)))
        print_cues(by_split["test"])
        config = given[0].config if given else network.Config()
        begun = time.perf_counter()
        training = piece_set.splits["train"]
        if args.load:
            (trained,) = given
        elif given:
            params = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(each.params for each in given))
            header = {"networks_of": [each.sha256 for each in given], "versions": provenance.versions()}
            met = {source for each in given for source in each.header["sources"]}
            header["sources"] = sorted(met | set(by_split["train"].source.tolist()))
            trained = critic.complete(by_split, config, params, training, header)
        else:
            with loop.signals(settings.eval_every) as interrupted:
                trained = critic.train(
                    by_split, settings, config, training, report=print_report, interrupted=interrupted
                )
            print(f"trained in {time.perf_counter() - begun:.0f} s on {provenance.hardware()}")
        if args.save:
            critic.save(args.save, trained)
            print(f"wrote {args.save}, sha256 {critic.load(args.save).sha256[:8]}")
        test = by_split["test"]
        both = critic.judge(trained, test.pitches).logit
        nets, by_theory = (critic.judge(trained._replace(mix=one), test.pitches).logit for one in np.eye(3)[:2])
        shown = by_split["train"]
        features = critic.measure(shown.pitches, trained.measures)
        regression = separation.fit_logistic(features, shown.kind == negatives.REAL, negatives.weigh(shown), 1e-4)
        straight = regression.logits(critic.measure(test.pitches, trained.measures))
        print(f"\nnetworks x {trained.mix[0]:.2f} + theory x {trained.mix[1]:.2f} + {trained.mix[2]:.2f}")
        opinions = {"Critic": both, "Its networks": nets, "Its theory measures": by_theory, "Regression": straight}
        print_sources(test, opinions)
        print_tunes(test, both, piece_set.splits["test"], training)
        weights, is_real = negatives.weigh(test), test.kind == negatives.REAL
        rows = [
            [name, *(f"{value:.3f}" for value in separation.calibration(logits, is_real, weights))]
            for name, logits in (
                ("critic", both),
                (f"networks, temperature {trained.temperature:.2f}", nets),
                ("networks, temperature 1", nets * trained.temperature),
                ("its theory measures", by_theory),
                ("regression", straight),
            )
        ]
        print_table(["Probabilities", "NLL (nats)", "Brier", "ECE"], rows)
        if args.leave_out:
            quick = dataclasses.replace(settings, num_members=1, num_steps=settings.num_steps * 3 // 5)
            leave_out(by_split, quick, config, training)


if __name__ == "__main__":
    main()
