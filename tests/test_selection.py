"""Tests of coconet_jax.judge.selection: who wins, behind the gate, however requests are cut; rejection sampling."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import checkpoint, errors, sample, samples, state
from coconet_jax.judge import critic, fit, network, selection, separation

TINY = network.Config(features=8, stem_features=4, dilations=(1,), groups=2, dropout=0.0)


@pytest.fixture(scope="module")
def judge() -> critic.Critic:
    """An untrained ensemble with classes drawn at random: it has its preferences too."""
    params = dict(fit.create(fit.Settings(num_members=2), TINY).params)
    params["classes"] = 3.0 * jax.random.normal(jax.random.key(1), params["classes"].shape)
    regression = separation.Logistic(np.zeros(1), np.ones(1), np.array([1.0, 0.0]))
    mix, grams = np.array([1.0, 0.5, 0.0]), np.zeros(0, np.uint32)
    return critic.Critic(TINY, jax.tree.map(np.asarray, params), 1.0, ("triads",), regression, mix, grams, "", {})


def draw(chains: np.ndarray) -> np.ndarray:
    """Music that follows from its chain number alone."""
    low = np.array([62, 55, 50, 40])
    return np.stack([low + np.random.default_rng(n).integers(0, 8, (32, 4)) for n in chains]).astype(np.int16)


def test_the_best_that_is_not_barred_wins() -> None:
    scores = np.array([[1.0, 3.0, 2.0], [1.0, 3.0, 3.0], [1.0, 3.0, 2.0]])
    barred = np.array([[False, True, False], [False, False, False], [True, True, True]])
    assert selection.best(scores, barred).tolist() == [2, 1, 1]


def test_a_request_has_its_own_candidates(judge: critic.Critic) -> None:
    assert selection.candidate_chains(np.array([0, 3]), 4).tolist() == [0, 1, 2, 3, 12, 13, 14, 15]
    chosen = selection.best_of(judge, draw, np.arange(6), 5)
    scores = critic.judge(judge, draw(np.arange(30))).careful.reshape(6, 5)
    np.testing.assert_array_equal(chosen.candidate, scores.argmax(axis=1))
    np.testing.assert_array_equal(chosen.pitches, draw(np.arange(6) * 5 + chosen.candidate))
    assert len(set(chosen.candidate.tolist())) > 1 and not chosen.quotes.any()
    for ids in (np.array([4]), np.array([5, 0, 2])):
        again = selection.best_of(judge, draw, ids, 5)
        np.testing.assert_array_equal(again.pitches, chosen.pitches[ids])
    with pytest.raises(errors.InputError, match="best_of=1000: more than 2147483648 candidates"):
        selection.candidate_chains(np.array([10**8]), 1000)


def test_quotations_do_not_win(judge: critic.Critic) -> None:
    chosen = selection.best_of(judge, draw, np.arange(2), 3)
    winner = draw(np.array([3 + chosen.candidate[1]]))
    strict = judge._replace(grams=np.unique(critic._hash_runs(winner)[0]))
    assert critic.quotes(strict, winner).all()
    other = selection.best_of(strict, draw, np.arange(2), 3)
    assert other.candidate[0] == chosen.candidate[0] and other.candidate[1] != chosen.candidate[1]
    assert not other.quotes.any()
    every = judge._replace(grams=np.unique(critic._hash_runs(draw(np.arange(3, 6)))[0]))
    none = selection.best_of(every, draw, np.arange(2), 3)
    assert none.quotes.tolist() == [False, True] and none.candidate[1] == chosen.candidate[1]


def test_rejection_turns_the_generator_into_what_is_real() -> None:
    # Three kinds of sample, of which the generator draws (0.5, 0.3, 0.2) and reality (0.2, 0.3, 0.5).
    rng = np.random.default_rng(0)
    fake, real = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    kinds = rng.choice(3, 200_000, p=fake)
    logits = np.log(real / fake)[kinds]
    # As much as can be kept: the chances are in proportion to the odds.
    keep = selection.accept(logits, rng.random(len(kinds)), 0.4)
    assert keep.mean() == pytest.approx(0.4, abs=0.01)
    np.testing.assert_allclose(np.bincount(kinds[keep]) / keep.sum(), real, atol=0.02)
    assert selection.accept(logits, np.full(len(kinds), 0.999999), 1.0).mean() > 0.99
    # Fewer are kept, of which more are of the best kind.
    few = selection.accept(logits, rng.random(len(kinds)), 0.05)
    assert few.mean() == pytest.approx(0.05, abs=0.005)
    assert np.mean(kinds[few] == 2) >= np.mean(kinds[keep] == 2) - 0.01
    with pytest.raises(errors.InputError, match="keep_share=0.0: use a value in"):
        selection.accept(logits, rng.random(len(kinds)), 0.0)


def run_sample(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = 0
    try:
        sample.main(list(words))
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_command_chooses_the_same_in_any_chunks(
    judge, tiny_config, tiny_variables, tmp_path: pathlib.Path, capsys
) -> None:
    manager = checkpoint.open_run(tmp_path / "run")
    begun = state.create(jax.random.key(0), tiny_config, tiny_variables)._replace(step=jnp.asarray(5, jnp.int32))
    checkpoint.save(manager, begun, tiny_variables, tiny_config, "data", 2.0)
    manager.close()
    critic.save(tmp_path / "critic.npz", judge)
    words = [
        f"--checkpoint={tmp_path}/run",
        "--steps=16",
        "--num_steps=2",
        "--formats=npz",
        "--micro_batch=2",
        "--polish=0",
    ]
    chosen = [*words, "--best_of=3", f"--critic={tmp_path}/critic.npz", "--num_samples=5"]
    found = {}
    for name, more in (("whole", []), ("chunks", ["--chunk_size=2"]), ("batch", ["--micro_batch=3"])):
        code, output, complaint = run_sample(capsys, *chosen, *more, f"--out={tmp_path}/{name}")
        assert code == 0, complaint
        assert "9 model calls each" in output
        found[name] = samples.load_samples(tmp_path / name)
    for name in ("chunks", "batch"):
        for there, here in zip(found[name], found["whole"], strict=True):
            np.testing.assert_array_equal(there, here)
    whole = (tmp_path / "whole" / "samples_00000.npz").read_bytes()
    assert whole == (tmp_path / "batch" / "samples_00000.npz").read_bytes()
    manifest = samples.read_manifest(tmp_path / "whole")
    assert manifest and manifest["settings"]["best_of"] == 3
    assert manifest["settings"]["critic_sha256"] == critic.load(tmp_path / "critic.npz").sha256
    # The winners are among the candidates, and are those that the critic prefers.
    assert run_sample(capsys, *words, "--num_samples=15", f"--out={tmp_path}/all")[0] == 0
    every = samples.load_samples(tmp_path / "all").pitches
    won = critic.judge(judge, every).careful.reshape(5, 3).argmax(axis=1)
    np.testing.assert_array_equal(found["whole"].pitches, every[np.arange(5) * 3 + won])
    code, _, complaint = run_sample(capsys, *words, f"--out={tmp_path}/whole", "--num_samples=5")
    assert code == 2 and "best_of" in complaint


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--best_of=0"], "--best_of=0: use 1 to 1024"),
        (["--best_of=2", "--alternatives=2"], "leave out --alternatives and --trace"),
        (["--critic=a.npz", "--polish=0"], "--critic=a.npz chooses with --best_of or --polish"),
        (["--critic=a.npz", "--num_samples=65"], "--critic=a.npz chooses with --best_of or --polish"),
        (["--polish=-1"], "--polish=-1: use 0 to 100"),
        (["--best_of=2", "--critic=none.npz"], "none.npz does not exist"),
    ],
)
def test_mistakes_are_one_line(words, complaint, tiny_config, tiny_variables, tmp_path, capsys) -> None:
    if "npz" in complaint:
        manager = checkpoint.open_run(tmp_path)
        begun = state.create(jax.random.key(0), tiny_config, tiny_variables)
        checkpoint.save(manager, begun, tiny_variables, tiny_config, "data", 2.0)
        manager.close()
    code, _, error = run_sample(capsys, f"--checkpoint={tmp_path}", f"--out={tmp_path}/out", *words)
    assert code == 2 and complaint in error and error.count("\n") == 1
