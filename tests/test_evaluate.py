"""The evaluation command: what it prints and writes, what it refuses, processes together."""

import dataclasses
import json
import pathlib
import socket
import subprocess
import sys
from typing import Any

import conftest
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import checkpoint, corpus, estimates, evaluate, notation, pieces, samples, score, state, tables


def save_run(folder: pathlib.Path, config: Any, variables: Any) -> pathlib.Path:
    manager = checkpoint.open_run(folder)
    begun = state.create(jax.random.key(0), config, variables)._replace(step=jnp.asarray(5, jnp.int32))
    checkpoint.save(manager, begun, variables, config, "data", 2.0)
    manager.close()
    return folder


@pytest.fixture(scope="module")
def run(tiny_config, tiny_variables, tmp_path_factory) -> pathlib.Path:
    """A run's folder with one checkpoint."""
    return save_run(tmp_path_factory.mktemp("run"), tiny_config, tiny_variables)


@pytest.fixture(scope="module")
def leaky(toy_pieces, tmp_path_factory) -> pathlib.Path:
    """The toy set, of whose validation pieces one is called like a piece that train nearly holds."""
    (name,) = corpus.leaking_names("valid")[:1]
    valid = toy_pieces.splits["valid"]._replace(names=(name, "another"))
    path = tmp_path_factory.mktemp("leaky") / "leaky.npz"
    pieces.write_npz(path, toy_pieces._replace(splits={**toy_pieces.splits, "valid": valid}))
    return path


def call(capsys, *words: str) -> tuple[int, str, str]:
    """The command in this process: exit code, output, complaint."""
    code = 0
    try:
        evaluate.main(list(words))
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_all_measures_of_a_split(run, leaky, tmp_path, capsys):
    words = (f"--checkpoint={run}", f"--data={leaky}", "--orderings=3", f"--out={tmp_path}/kept")
    code, output, _ = call(capsys, *words, "--full", f"--json={tmp_path}/all.json")
    assert code == 0
    report = json.loads((tmp_path / "all.json").read_text())
    assert list(report["measures"]) == list(estimates.MEASURES)
    assert (report["n_frames"], report["n_frames_of"], report["n_pieces"]) == (56, 56, 2)
    assert report["data"] == "valid of toy" and report["trained_on"] == "music21"  # as the config of the run has it
    rests = sum(int((piece[:n] == -1).sum()) for piece, n in zip(*_valid(leaky), strict=True))
    assert report["rest_cells"] == rests > 0 and f"rests: {rests} of 224 cells" in output
    for name, entry in report["measures"].items():
        assert entry["unit_ensemble"]["mean"] <= entry["one_ordering"]["mean"]
        assert entry["piece_ensemble"]["mean"] <= entry["one_ordering"]["mean"]
        assert (entry["n_frames"], entry["n_pieces"], entry["n_orderings"]) == (56, 2, 3)
        assert (entry["without_leaks"]["n_frames"], entry["without_leaks"]["n_pieces"]) == (36, 1)
        assert f"[{name}]" in output and f"{entry['mean']:.4f}" in output
    # What was computed is there: another command for one of the measures does nothing anew.
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    code, output, _ = call(capsys, *words, "--full", "--measures=notewise_random")
    assert code == 0 and "evaluating" not in output and "framewise" not in output.split("\n|")[0]
    assert before == {path.name: path.stat().st_mtime_ns for path in (tmp_path / "kept").iterdir()}
    assert f"{report['measures']['notewise_random']['mean']:.4f}" in output


def _valid(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    split = pieces.read_npz(path).splits["valid"]
    return split.pitches, split.lengths


def test_some_frames_and_a_row_for_the_collection(run, leaky, tmp_path, capsys):
    words = (f"--checkpoint={run}", f"--data={leaky}", "--max_frames=10", "--orderings=2", f"--out={tmp_path}")
    code, output, _ = call(capsys, *words, "--measures=framewise_released,notewise_chronological")
    assert code == 0 and "10 of 56 frames" in output and "--full gives the true value" in output
    row = output.strip().splitlines()[-1]
    assert row.count("|") == tables.RESULTS_HEADER.count("|")
    assert "valid of toy" in row and "10 of 56" in row and "| - |" in row  # what was not asked for
    starred = [line for line in output.splitlines() if line.startswith("  ensemble per frame")]
    assert len(starred) == 2 and all(" * " in line for line in starred)  # of all pieces and without the leaking one


def test_samples_are_scored(run, tmp_path, capsys):
    rng = np.random.default_rng(0)
    pitches = rng.integers(50, 70, (3, 16, 4)).astype(np.int16)
    made = samples.Samples(
        pitches, np.ones(pitches.shape, bool), np.zeros(pitches.shape, bool), np.array([4, 5, 9]), 0, 4
    )
    samples.write_samples(tmp_path, made)
    words = (f"--checkpoint={run}", f"--samples={tmp_path}", "--measures=notewise_random", f"--out={tmp_path}/e")
    code, output, _ = call(capsys, *words, f"--json={tmp_path}/s.json", "--full")
    assert code == 0 and "3 pieces" in output
    whole = json.loads((tmp_path / "s.json").read_text())
    assert "without_leaks" not in whole["measures"]["notewise_random"]
    # A sample costs the same in any company: its ordering follows from its number.
    rows: Any = {name: getattr(made, name)[1:2] for name in samples.Samples._fields[:4]}
    samples.write_samples(tmp_path, made._replace(**rows))
    assert call(capsys, *words, f"--json={tmp_path}/s.json", "--full")[0] == 0
    alone = json.loads((tmp_path / "s.json").read_text())["measures"]["notewise_random"]
    kept = {}
    for path in (tmp_path / "e").iterdir():
        with np.load(path) as stored:
            kept[len(stored["done"])] = stored["log_probs"]
    np.testing.assert_allclose(kept[3][:, 16:32], kept[1], atol=2e-6)
    assert alone["n_pieces"] == 1 and alone["mean"] == pytest.approx(-kept[1].mean(), abs=1e-5)


@pytest.mark.parametrize("pitch", [90, 200, -5])
def test_samples_that_the_net_cannot_represent_are_refused(run, tmp_path, capsys, pitch):
    pitches = np.full((2, 8, 4), 60, np.int16)
    pitches[1, 3, 2] = pitch
    flags = np.zeros(pitches.shape, bool)
    samples.write_samples(tmp_path, samples.Samples(pitches, flags, flags, np.arange(2), 0, 4))
    code, _, error = call(capsys, f"--checkpoint={run}", f"--samples={tmp_path}", f"--out={tmp_path}/e")
    assert code == 2 and f"holds pitch {pitch}, outside 36..81" in error


@pytest.mark.parametrize("shape", [(0, 8, 4), (2, 0, 4)])
def test_samples_of_nothing_are_refused(run, tmp_path, capsys, shape):
    flags = np.zeros(shape, bool)
    made = samples.Samples(np.zeros(shape, np.int16), flags, flags, np.arange(shape[0]), 0, 4)
    samples.write_samples(tmp_path, made)
    code, _, error = call(capsys, f"--checkpoint={run}", f"--samples={tmp_path}", f"--out={tmp_path}/e")
    assert code == 2 and "holds no notes" in error


def test_frames_of_leaking_pieces_alone_are_no_mistake(run, toy_pieces, tmp_path, capsys):
    (name,) = corpus.leaking_names("valid")[:1]
    (first,) = (toy_pieces.splits["valid"].pitches[0][:20],)
    only = {**toy_pieces.splits, "valid": pieces.from_arrays([first], [name])}
    pieces.write_npz(tmp_path / "leaky.npz", toy_pieces._replace(splits=only))
    words = (f"--checkpoint={run}", f"--data={tmp_path}/leaky.npz", "--max_frames=2", f"--out={tmp_path}/e")
    code, output, _ = call(capsys, *words, "--measures=notewise_random", "--orderings=1")
    assert code == 0 and "near copy" not in output


@pytest.mark.parametrize("changed", ["--seed=1", "--orderings=2", "--dtype=bfloat16", "--data", "--checkpoint"])
def test_what_was_kept_of_other_settings_is_not_mixed_in(
    run, tiny_config, tiny_variables, toy_pieces, toy_path, tmp_path, capsys, changed
):
    words = {"--checkpoint": str(run), "--data": toy_path, "--out": f"{tmp_path}/e", "--measures": "notewise_random"}
    words |= {"--max_frames": "6", "--orderings": "1"}
    assert call(capsys, *(f"{flag}={value}" for flag, value in words.items()))[0] == 0
    if changed == "--data":  # one note differs
        valid = toy_pieces.splits["valid"]._replace(pitches=toy_pieces.splits["valid"].pitches.copy())
        valid.pitches[0, 0, 0] += 1
        pieces.write_npz(tmp_path / "b.npz", toy_pieces._replace(splits={**toy_pieces.splits, "valid": valid}))
        changed = f"--data={tmp_path}/b.npz"
    if changed == "--checkpoint":
        moved = jax.tree.map(lambda leaf: leaf + 0.001, tiny_variables)
        changed = f"--checkpoint={save_run(tmp_path / 'moved', tiny_config, moved)}"
    flag, value = changed.split("=")
    code, output, _ = call(capsys, *(f"{f}={v}" for f, v in (words | {flag: value}).items()))
    assert code == 0 and "evaluating" in output
    assert len(list((tmp_path / "e").iterdir())) == 2


def test_a_set_that_is_gone_is_named_with_its_remedy(tiny_config, tiny_variables, tmp_path, capsys):
    gone = dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, path="gone.npz"))
    folder = save_run(tmp_path / "run", gone, tiny_variables)
    code, _, error = call(capsys, f"--checkpoint={folder}", f"--out={tmp_path}/e")
    assert code == 2 and "gone.npz, which this net was trained on, is not there any more; give --data=FILE.npz" in error


def test_the_collection_has_the_columns_of_a_row():
    assert tables.RESULTS_HEADER in (conftest.REPOSITORY / "docs" / "results.md").read_text()


def test_a_score_gets_a_heat_map_and_numbers(run, tmp_path, capsys):
    pitches = np.repeat(np.array([[72, 67, 64, 48], [71, 67, 62, 43], [72, 67, 64, 48]], np.int16), 4, axis=0)
    notation.write_midi(tmp_path / "mine.mid", score.from_pitches(pitches, title="Mine"))
    words = (f"--checkpoint={run}", f"--score={tmp_path}/mine.mid", "--measures=notewise_random", f"--out={tmp_path}/e")
    code, output, _ = call(capsys, *words)
    assert code == 0 and "the notes that surprise the model most" in output
    found = json.loads((tmp_path / "e" / "mine_surprise.json").read_text())
    assert [(n["start_step"], n["end_step"], n["pitch"]) for n in found["notes"] if n["voice"] == "soprano"] == [
        (0, 4, 72),
        (4, 8, 71),
        (8, 12, 72),
    ]
    assert len(found["notes"]) == 12 - 2 and all(note["log_prob"] < 0 for note in found["notes"])
    assert (tmp_path / "e" / "mine_surprise.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--checkpoint=nowhere"], "nowhere holds no checkpoint"),
        (["--checkpoint=RUN/none"], "holds no checkpoint"),
        (["--checkpoint=RUN", "--measures=bits"], "--measures=bits: use all, or of framewise_released,"),
        (["--checkpoint=RUN", "--orderings=0"], "--orderings=0: use 1 to 1000"),
        (["--checkpoint=RUN", "--max_frames=0"], "--max_frames=0: use 1 to"),
        (["--checkpoint=RUN", "--batch_size=-3"], "--batch_size=-3: use 1 to"),
        (["--checkpoint=RUN", "--full", "--max_frames=7"], "--max_frames=7 and --full do not go together"),
        (["--checkpoint=RUN", "--split=tests"], "invalid choice: 'tests'"),
        (["--checkpoint=RUN", "--split=test", "--score=a.mid"], "not allowed with argument --split"),
        (["--checkpoint=RUN", "--data=none.npz"], "none.npz does not exist; make it with"),
        (["--checkpoint=RUN", "--data=COARSE"], "stands on 2 steps per quarter, this net was trained on 4"),
        (["--checkpoint=RUN", "--data=EMPTY", "--split=test"], "has no test pieces; take another --split or --data"),
        (["--checkpoint=RUN", "--samples=none"], "none holds no samples: it does not exist"),
        (["--checkpoint=RUN", "--samples=none", "--data=a.npz"], "--data names chorales, --samples and --score other"),
        (["--checkpoint=RUN", "--score=none.mid"], "none.mid"),
        (["--checkpoint=RUN", "--data=TOY", "--dataset=jsb16th"], "is a whole set; leave --dataset out"),
        (["--checkpoint=RUN", "--score="], "--score= is empty; give a value, or leave it out"),
        (["--checkpoint=RUN", "--data=TOY", "--json=."], "--json=. is a folder; name a file in it"),
        (["--checkpoint=RUN", "--distributed=localhost:1,2,2"], "with K = 0 to P - 1"),
        (["--checkpoint=RUN", "--voices=1,2,3,4"], "--voices=1,2,3,4 goes with --score alone"),
        (["--checkpoint=RUN", "--distributed=pod"], "--distributed=pod: use off, auto or host:port,P,K"),
        (["--checkpoint=RUN", "--data=TOY", "--out=TOY/sub"], "cannot write"),
        (["--checkpoint=RUN", "--data=TOY", "--json=TOY/sub/a.json"], "cannot write"),
    ],
)
def test_mistakes_are_one_line(run, toy_pieces, toy_path, tmp_path, capsys, words, complaint):
    pieces.write_npz(tmp_path / "coarse.npz", toy_pieces._replace(steps_per_quarter=2))
    empty = {**toy_pieces.splits, "test": pieces.from_arrays([], [])}
    pieces.write_npz(tmp_path / "empty.npz", toy_pieces._replace(splits=empty))
    names = {"RUN": run, "COARSE": tmp_path / "coarse.npz", "EMPTY": tmp_path / "empty.npz", "TOY": toy_path}
    for name, path in names.items():
        words = [word.replace(name, str(path)) for word in words]
    code, _, error = call(capsys, *words, *([] if any("--out" in w for w in words) else [f"--out={tmp_path}/e"]))
    assert code == 2 and complaint in error and len(error.strip().splitlines()) == 1


def test_a_net_of_another_grid_takes_its_own_pieces(tiny_config, tiny_variables, toy_pieces, tmp_path, capsys):
    coarse = dataclasses.replace(tiny_config, data=dataclasses.replace(tiny_config.data, steps_per_quarter=2))
    folder = save_run(tmp_path / "coarse", coarse, tiny_variables)
    pieces.write_npz(tmp_path / "coarse.npz", toy_pieces._replace(steps_per_quarter=2))
    words = (f"--checkpoint={folder}", f"--data={tmp_path}/coarse.npz", f"--out={tmp_path}/e", "--orderings=1")
    code, output, _ = call(capsys, *words, "--measures=notewise_random", "--max_frames=4")
    assert code == 0 and "2 steps per quarter" in output


@pytest.mark.slow
def test_two_processes_and_one_say_the_same(run, toy_path, tmp_path, capsys):
    words = [f"--checkpoint={run}", f"--data={toy_path}", "--orderings=2", "--full", "--batch_size=2"]
    words += ["--measures=framewise_drawn,notewise_random"]
    assert call(capsys, *words, f"--out={tmp_path}/a", f"--json={tmp_path}/alone.json")[0] == 0
    for attempt in ("together", "again"):  # the second finds all done
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = f"127.0.0.1:{free.getsockname()[1]}"
        command = [sys.executable, "-m", "coconet_jax.evaluate", *words, f"--out={tmp_path}/b"]
        command += [f"--json={tmp_path}/{attempt}.json"]
        processes = [
            subprocess.Popen(
                [*command, f"--distributed={place},2,{k}"], cwd=conftest.REPOSITORY, stdout=subprocess.PIPE
            )
            for k in range(2)
        ]
        outputs = [process.communicate(timeout=300)[0].decode() for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        assert "valid of toy" in outputs[0] and "valid of toy" not in outputs[1]  # one of them speaks
        alone, together = (json.loads((tmp_path / f"{n}.json").read_text())["measures"] for n in ("alone", attempt))
        for name, entry in alone.items():
            assert together[name]["mean"] == pytest.approx(entry["mean"], abs=1e-5)
