"""The judge's command: what it ranks and explains, what it leaves behind, and what it says of wrong input."""

import json
from typing import Any

import conftest
import numpy as np
import pytest

from coconet_jax import files, notation, pieces, samples, score
from coconet_jax.judge import __main__ as judge
from coconet_jax.judge import composers, critic, ranking

CHORDS = np.array([(72, 67, 64, 48), (74, 67, 59, 55), (71, 67, 62, 43), (72, 64, 60, 45), (69, 65, 60, 53)])


def made_up(rng: np.random.Generator, steps: int = 48) -> np.ndarray:
    """Chords of C major, a quarter or an eighth each."""
    lengths = rng.choice([2, 4], steps)
    chords = CHORDS[rng.integers(0, len(CHORDS), steps)]
    return np.repeat(chords, lengths, axis=0)[:steps].astype(np.int16)


@pytest.fixture(scope="module")
def chorales(tmp_path_factory) -> str:
    rng = np.random.default_rng(5)
    splits = {
        split: pieces.from_arrays([made_up(rng) for _ in range(number)], [f"{split} {n}" for n in range(number)])
        for split, number in (("train", 6), ("valid", 4), ("test", 8))
    }
    path = tmp_path_factory.mktemp("chorales") / "chorales.npz"
    pieces.write_npz(path, pieces.PieceSet(splits, 4, "made up"))
    return str(path)


def write_samples(path, pitches):
    onset = np.ones(pitches.shape, bool)
    samples.write_samples(
        files.make_folder(path),
        samples.Samples(pitches, onset, ~onset, np.arange(len(pitches)), 0, 4),
    )
    return path


def of_run(path, pitches, sha256):
    """Samples with the manifest of a run."""
    size = len(pitches)
    manifest = {"format": samples.FORMAT, "num_samples": size, "chunk_size": size, "checkpoint_sha256": sha256}
    onset = np.ones(pitches.shape, bool)
    made = samples.Samples(pitches, onset, ~onset, np.arange(size), 0, 4)
    files.make_folder(path)
    samples.write_manifest(path, manifest)
    samples.write_chunk(samples.chunk_path(path, 0), made, samples.digest(manifest))
    return path


@pytest.fixture(scope="module")
def noise(tmp_path_factory):
    """Samples of a generator that has learned nothing."""
    notes = np.random.default_rng(6).integers(40, 80, (12, 16, 4)).astype(np.int16)
    return of_run(tmp_path_factory.mktemp("noise") / "noise", notes, "5a")


def test_real_music_stands_above_noise_in_every_file(chorales, noise, tmp_path, capsys):
    reports = []
    all_measures: dict[str, dict[str, Any]] = {
        "nll": {
            "framewise_released": {"unit_ensemble": {"mean": 0.5, "sem_pieces": 0.01}},
            "notewise_chronological": {"one_ordering": {"mean": 0.4, "sem_pieces": 0.02}},
        },
        "of_another": {"all pieces": {"mean": 7.0, "sem_pieces": 0.1, "n_frames": 900}},
    }
    for name, measures in all_measures.items():
        reports.append(tmp_path / f"{name}.json")
        about = {"sha256": "5a" if name == "nll" else "0", "data": "valid of made up", "n_frames": 90}
        reports[-1].write_text(
            json.dumps({key: about[key] for key in about if key not in measures} | {"measures": measures})
        )
    out = tmp_path / "judged"
    other = of_run(tmp_path / "other", samples.load_samples(noise).pitches, "0")
    words = ["rank", f"noise={noise}", f"other={other}", "valid=valid", "moved=test:20 % of notes moved"]
    words += ["--evaluations", *map(str, reports)]
    judge.main([*words, "--steps=16", f"--data={chorales}", f"--out={out}"])
    printed = capsys.readouterr().out
    assert (out / "scoreboard.md").read_text() in printed
    found = json.loads((out / "scoreboard.json").read_text())
    places = {row["set"]: row["place"] for row in found["sets"]}
    assert places[ranking.REAL] == 1 and places["noise"] == max(places.values()) > places["valid"]
    noisy = next(row["values"] for row in found["sets"] if row["set"] == "noise")
    assert {*ranking.CRITERIA, "framewise", "inception"} <= set(noisy)
    assert (noisy["critic_auc"]["mean"], noisy["framewise"]["mean"]) == (1.0, 0.5)
    assert noisy["chain_rule"] == {"mean": pytest.approx(1.6), "error": pytest.approx(0.08)}
    by_name = {row["set"]: row["values"] for row in found["sets"]}
    assert by_name["other"]["chain_rule"] == {"mean": 7.0, "error": 0.1} and "chain_rule" not in by_name["valid"]
    assert "- NLL of weights 5a: 90 frames of valid of made up" in printed
    assert "| Measure | Unit | Bach, train | Bach, test | noise | other | valid | moved |" in printed
    assert noisy["kid"]["mean"] > 10 and noisy["kid_classifier"]["mean"] > 10 and noisy["log_p_bach"]["mean"] < -1
    assert (
        found["critic_sha256"]
        and found["classifier_sha256"]
        and found["command"].startswith("python -m coconet_jax.judge")
    )
    assert composers.MISLEADS in printed
    assert (out / "scoreboard.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_kept_of_a_set_is_likelier_and_not_the_best_alone(tmp_path, capsys):
    rng = np.random.default_rng(8)
    mixed = np.concatenate([np.stack([made_up(rng, 64) for _ in range(40)]), rng.integers(40, 80, (40, 64, 4))])
    path = write_samples(tmp_path / "mixed", mixed.astype(np.int16))
    out = tmp_path / "kept"
    words = ["keep", str(path), "--share=0.25", f"--out={out}"]
    judge.main(words)
    printed = capsys.readouterr().out
    kept = samples.load_samples(out)
    assert 5 <= len(kept.pitches) <= 40 and f"kept {len(kept.pitches)} of 80 samples" in printed
    assert (kept.sample_id < 40).all()  # chords, and none of the noise
    np.testing.assert_array_equal(kept.pitches, mixed[kept.sample_id])
    odds = critic.judge(critic.load(), mixed).logit
    assert f"mean log-odds {odds.mean():+.2f}, now {odds[kept.sample_id].mean():+.2f}" in printed
    assert set(kept.sample_id.tolist()) != set(np.argsort(-odds)[: len(kept.pitches)].tolist())
    judge.main([*words[:-1], f"--out={tmp_path / 'again'}", "--seed=1"])
    assert samples.load_samples(tmp_path / "again").sample_id.tolist() != kept.sample_id.tolist()


def test_a_piece_is_explained_by_bars(chorales, tmp_path, capsys):
    notes = np.repeat([(72, 67, 64, 48), (74, 69, 66, 50), (72, 67, 64, 48), (71, 67, 62, 43)], 4, axis=0)
    made = score.from_pitches(np.concatenate([notes, notes]).astype(np.int16))
    path = tmp_path / "mine.mid"
    notation.write_midi(path, made)
    out = tmp_path / "judged"
    judge.main(["score", str(path), f"--data={chorales}", f"--out={out}"])
    printed = capsys.readouterr().out
    assert "bar 1 beat 2: parallel octaves, soprano and bass" in printed
    assert "bar 2 beat 3: parallel fifths, alto and bass" in printed
    assert "! parallel_octaves" in printed and "the critic holds it real with a chance of" in printed
    (report,) = out.glob("*.json")
    found = json.loads(report.read_text())
    assert found["measures"]["parallel_octaves"]["outside"] and len(found["critic"]["steps"]) == 32
    assert np.mean(found["critic"]["steps"]) == pytest.approx(found["critic"]["log_odds"], abs=1e-4)
    assert {"bar": 1, "beat": 2.0, "step": 4, "voices": ["soprano", "bass"], "what": "parallel octaves"} in found[
        "faults"
    ]
    assert report.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["rank", "a"], "a: give sets as NAME=SOURCE, such as mine=chorales"),
        (["rank", "a=/nowhere"], "/nowhere holds no samples: it does not exist"),
        (["rank", "a=valid", "a=test"], "two sets have one name"),
        (["rank", "a=valid", "--seed=-1"], "--seed=-1: use 0 or more"),
        (["rank", "a=test:bars shuffled", "--steps=16"], "--steps=16 leaves nothing to damage; use longer windows"),
        (["rank", "real music=valid"], "or one of real music"),
        (["rank", "a=valid", "--steps=480"], "480"),
        (["rank", "a=test:upside down"], "upside down is no damage; use one of bars shuffled"),
        (["rank", "a={noise}", "--steps=32"], "has samples of 16 steps; give --steps=16"),
        (["rank", "a=valid", "--evaluations", "{data}"], "is no report of coconet_jax.evaluate"),
        (["rank", "a=valid", "--evaluations", "{empty}"], "it has neither framewise_released nor"),
        (["rank", "Bach, test=valid"], "or one of real music (real music; Bach, train; Bach, test)"),
        (["rank", "a=valid", "--evaluations", "{other_music}"], "it is of samples of a, not of a split of chorales"),
        (["rank", "a=valid", "--evaluations", "{of_valid}", "{of_test}"], "test.json is of test of made up, "),
        (["keep", "{noise}", "--share=0"], "--share=0.0: use a value above 0, at most 1"),
        (["keep", "{noise}", "--out={noise}"], "holds samples already; name another folder"),
        (["keep", "{eighths}"], "stands on 2 steps per quarter, and the critic knows 4"),
        (["keep", "/nowhere"], "/nowhere holds no samples: it does not exist"),
        (["rank", "a=valid", "--steps=16", "--critic={data}"], "is damaged or no critic"),
        (["rank", "a=valid", "--reference=rest"], "invalid choice: 'rest'"),
        (["score", "/nowhere.mid"], "/nowhere.mid does not exist"),
        (["score"], "arguments are required: FILE"),
        ([], "arguments are required: rank | score | keep"),
    ],
)
def test_wrong_input_is_one_line(chorales, noise, tmp_path, capsys, words, line):
    empty = tmp_path / "empty.json"
    empty.write_text('{"sha256": "5a", "measures": {}}')
    other_music = tmp_path / "other.json"
    measured = {"all pieces": {"mean": 1.0, "sem_pieces": 0.1, "n_frames": 9}}
    other_music.write_text(json.dumps({"sha256": "5a", "data": "samples of a", "measures": measured}))
    of_split = {f"of_{split}": tmp_path / f"{split}.json" for split in ("valid", "test")}
    for split, path in of_split.items():
        path.write_text(json.dumps({"sha256": "5a", "data": f"{split[3:]} of made up", "measures": measured}))
    coarse = samples.load_samples(noise)._replace(steps_per_quarter=2)
    eighths = samples.write_samples(files.make_folder(tmp_path / "eighths"), coarse).parent
    places = {
        "noise": noise,
        "data": chorales,
        "empty": empty,
        "other_music": other_music,
        "eighths": eighths,
        **of_split,
    }
    filled = [word.format(**places) for word in words]
    if filled and not filled[-1].startswith("--out="):
        filled.append(f"--out={tmp_path / 'judged'}")
    if filled and filled[0] != "keep":
        filled.append(f"--data={chorales}")
    with pytest.raises(SystemExit, match="2"):
        judge.main(filled)
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1 and line in printed


def test_the_command_teaches():
    shown = conftest.run_command("coconet_jax.judge", "--help")
    assert shown.returncode == 0 and "judge score chorale.mid" in shown.stdout


@pytest.mark.parametrize(
    "verb, taught",
    [("rank", "5 % of notes moved"), ("score", "faults by bar and beat"), ("keep", "Discriminator rejection sampling")],
)
def test_each_verb_teaches(verb, taught, capsys):
    with pytest.raises(SystemExit, match="0"):
        judge.main([verb, "--help"])
    assert taught in " ".join(capsys.readouterr().out.split())
