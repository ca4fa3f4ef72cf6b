"""The sampling command: files open elsewhere, given notes stay, runs resume and part, mistakes are one line."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import socket
import subprocess
import sys
from typing import Any, cast

import conftest
import jax
import jax.numpy as jnp
import mido
import numpy as np
import pytest
import symusic

from coconet_jax import checkpoint, errors, model, notation, outputs, pianoroll, sample, samples, score, state, weights


@pytest.fixture(scope="module")
def run(tiny_config, tiny_variables, tmp_path_factory) -> pathlib.Path:
    """A run's folder with one checkpoint."""
    folder = tmp_path_factory.mktemp("run")
    manager = checkpoint.open_run(folder)
    begun = state.create(jax.random.key(0), tiny_config, tiny_variables)._replace(step=jnp.asarray(5, jnp.int32))
    checkpoint.save(manager, begun, tiny_variables, tiny_config, "data", 2.0)
    manager.close()
    return folder


@pytest.fixture
def melody() -> score.Score:
    """Two bars of 3/4 after a pick-up of a quarter, with repeated notes and a rest."""
    pitches = np.repeat([67, 72, 72, 74, -1, 71, 72], [4, 4, 4, 4, 2, 6, 4])[:, None].astype(np.int16)
    onset = np.zeros(pitches.shape, bool)
    onset[[0, 4, 8, 10, 12, 18, 24], 0] = True  # the second 72 is struck twice more
    return score.Score(pitches, onset, (3, 4), 4, title="Air")


# ------------------------------------------------------------------------------------------ the command


def call(capsys, *words: str) -> tuple[int, str, str]:
    """The command in this process, without the critic's redraws: exit code, output, complaint."""
    code = 0
    try:
        exports = any(word.startswith("--export") for word in words)
        sample.main([*words, *([] if exports else ["--polish=0"])])
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_command_composes(run, tmp_path, capsys):
    words = (f"--checkpoint={run}", "--num_samples=2", "--bars=2", "--meter=3/4", "--num_steps=3", "--seed=4")
    code, output, _ = call(capsys, *words, f"--out={tmp_path}/a", "--tempo=60", "--programs=organ")
    assert code == 0 and "wrote 6 files" in output and "4 model calls each" in output
    made = samples.load_samples(tmp_path / "a")
    assert made.pitches.shape == (2, 24, 4) and made.seed == 4
    assert (made.pitches >= pianoroll.MIN_PITCH).all() and (made.pitches <= pianoroll.MAX_PITCH).all()
    midi = mido.MidiFile(tmp_path / "a" / "chorale_0000.mid")
    assert [m.tempo for m in midi if m.type == "set_tempo"] == [1_000_000]
    assert {m.program for m in midi if m.type == "program_change"} == {19}
    for suffix in (".mid", ".musicxml"):
        read = notation.read_satb(tmp_path / "a" / f"chorale_0001{suffix}")
        np.testing.assert_array_equal(read.pitches, made.pitches[1])
        assert (read.meter, read.qpm) == ((3, 4), pytest.approx(60))
    assert (tmp_path / "a" / "chorale_0001.png").read_bytes().startswith(b"\x89PNG")
    tracks = cast(Any, symusic.Score(str(tmp_path / "a" / "chorale_0001.mid"))).tracks
    assert len(tracks) == 4
    # The same music whatever is written of it.
    assert call(capsys, *words, f"--out={tmp_path}/b", "--formats=npz,midi")[0] == 0
    names = ["chorale_0000.mid", "chorale_0001.mid", "manifest.json", "samples_00000.npz"]
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == names
    assert (tmp_path / "a" / names[3]).read_bytes() == (tmp_path / "b" / names[3]).read_bytes()


def test_the_manifest_tells_what_was_asked_for(run, chorale, tmp_path, capsys):
    words = (f"--checkpoint={run}", f"--inpaint={chorale}", "--span=2", "--num_steps=2", "--num_samples=1")
    wishes = (
        "--key=G major",
        "--freedom=1,1,0,1",
        "--velocities=110,60,61,62",
        "--formats=midi",
        f"--out={tmp_path}/a",
    )
    assert call(capsys, *words, *wishes)[0] == 0
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text())
    about = dict(manifest["about"])
    assert about.pop("model")["num_layers"] == 6 and manifest["settings"]["num_steps"] == 2
    asked = {"inpaint": str(chorale), "span": "2", "key": "G major", "freedom": "1,1,0,1", "checkpoint": str(run)}
    assert about == asked
    midi = mido.MidiFile(tmp_path / "a" / "chorale_0000.mid")
    loud = [{m.velocity for m in track if m.type == "note_on"} for track in midi.tracks[1:]]
    assert loud == [{110}, {60}, {61}, {62}]
    # The same music by another name is the same run, told as it was begun.
    (tmp_path / "copy.mid").write_bytes(chorale.read_bytes())
    again = [word.replace(str(chorale), str(tmp_path / "copy.mid")) for word in words]
    assert call(capsys, *again, *wishes)[0] == 0
    assert json.loads((tmp_path / "a" / "manifest.json").read_text()) == manifest


def test_command_harmonizes_midi_and_musicxml_alike(run, melody, tmp_path, capsys):
    made = {}
    for name, write in (("a.mid", notation.write_midi), ("a.musicxml", notation.write_musicxml)):
        write(tmp_path / name, melody)
        out = tmp_path / name.replace(".", "_")
        words = (f"--checkpoint={run}", f"--harmonize={tmp_path / name}", "--num_samples=1", "--num_steps=2")
        assert call(capsys, *words, f"--out={out}")[0] == 0
        made[name] = samples.load_samples(out)
        np.testing.assert_array_equal(made[name].pitches[0, :, :1], melody.pitches)
        np.testing.assert_array_equal(made[name].onset[0, :, :1], melody.onset)
        # The model has no rest: below a silent soprano the others sound on, struck where they change.
        others = made[name].pitches[0, :, 1:]
        assert (others != pianoroll.REST).all()
        np.testing.assert_array_equal(made[name].onset[0, :, 1:], pianoroll.onsets_where_pitch_changes(others))
        assert made[name].given[:, :, 0].all() and not made[name].given[:, :, 1:].any()
        back = notation.read_satb(out / "chorale_0000.mid")
        np.testing.assert_array_equal(back.onset[:, 0], melody.onset[:, 0])
        assert (back.meter, back.pickup_steps) == ((3, 4), 4)
    np.testing.assert_array_equal(made["a.mid"].pitches, made["a.musicxml"].pitches)


@pytest.fixture
def chorale(tmp_path) -> pathlib.Path:
    """Four bars of chords as MIDI."""
    chords = np.array([[67, 62, 59, 43], [69, 64, 60, 45], [71, 62, 55, 50], [72, 64, 55, 48]])
    notation.write_midi(tmp_path / "chorale.mid", score.from_pitches(np.repeat(np.tile(chords, (4, 1)), 4, axis=0)))
    return tmp_path / "chorale.mid"


@pytest.mark.parametrize(
    "words",
    [
        ["--complete=GAPS", "--sampler=ancestral", "--order=chronological", "--finish_sweeps=1", "--finish_stride=4"],
        ["--inpaint=FILE", "--span=2-3", "--sampler=ancestral", "--num_steps=4"],
        ["--revoice=FILE", "--revoice_voices=tenor,alto", "--similarity_strength=2"],
        ["--transition=FILE,FILE", "--bars=1", "--sampler=upsample"],
        ["--hybrid=FILE,FILE", "--keep_share=0.4", "--sampler=maskgit"],
        ["--variations=FILE", "--similarity=0.5", "--finish_sweeps=1", "--finish_stride=2"],
        ["--extend=FILE", "--bars=1", "--last_chord=G4 D4 B3 G2", "--blocks=runs"],
        ["--upsample=FILE", "--greedy=0,0.5", "--top_p=0.9"],
        ["--harmonize=FILE", "--voice=bass", "--rests=together", "--key=G major", "--surprise=1,1,1.2,1"],
        ["--steps=20", "--sampler=ancestral_gibbs", "--draws_per_call=40", "--ranges=60-79,55-72,48-67,40-62"],
    ],
    ids=lambda words: words[0].split("=")[0].strip("-"),
)
def test_every_task_with_some_sampler(run, chorale, tmp_path, capsys, words):
    whole_score = notation.read_satb(chorale)
    gaps = np.zeros(whole_score.pitches.shape, bool)
    gaps[10:20, 1], gaps[30:50, 2:] = True, True
    sketch = score.Score(np.where(gaps, -1, whole_score.pitches), whole_score.onset & ~gaps)
    notation.write_midi(tmp_path / "gaps.mid", sketch)
    words = [word.replace("FILE", str(chorale)).replace("GAPS", str(tmp_path / "gaps.mid")) for word in words]
    steps = [] if any(word.startswith("--num_steps") for word in words) else ["--num_steps=2"]
    code, _, complaint = call(
        capsys, f"--checkpoint={run}", *words, *steps, "--num_samples=2", "--formats=midi", f"--out={tmp_path}/out"
    )
    assert code == 0, complaint
    made = samples.load_samples(tmp_path / "out")
    assert (made.pitches >= pianoroll.MIN_PITCH).all()
    given = whole_score.pitches
    if words[0].startswith("--complete"):
        assert (made.given == ~gaps).all()
    if made.pitches.shape[1] == len(given) and not words[0].startswith("--hybrid"):
        whole = np.broadcast_to(given, made.pitches.shape)
        np.testing.assert_array_equal(made.pitches[made.given], whole[made.given])
    if words[0].startswith("--inpaint"):
        assert made.given[:, :16].all() and made.given[:, 48:].all() and not made.given[:, 16:48].any()
    if words[0].startswith("--extend"):
        assert made.pitches.shape[1] == 80
        np.testing.assert_array_equal(made.pitches[:, -1], [[67, 62, 59, 43]] * 2)
    for number in range(2):
        back = notation.read_satb(tmp_path / "out" / f"chorale_{number:04d}.mid")
        np.testing.assert_array_equal(back.pitches, made.pitches[number])
        np.testing.assert_array_equal(back.onset, made.onset[number])


def test_many_samples_are_arrays_alone_and_exported_later(run, tmp_path, capsys):
    words = (f"--checkpoint={run}", "--num_samples=65", "--bars=1", "--num_steps=1", f"--out={tmp_path}")
    code, output, _ = call(capsys, *words, "--chunk_size=40")
    assert code == 0 and "65 samples: writing arrays alone" in output
    names = ["manifest.json", "samples_00000.npz", "samples_00001.npz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    code, output, _ = call(capsys, "--export=3,60-61", "--formats=midi", f"--out={tmp_path}")
    assert code == 0 and "wrote 3 files" in output
    back = notation.read_satb(tmp_path / "chorale_0060.mid")
    np.testing.assert_array_equal(back.pitches, samples.load_samples(tmp_path, ids=[60]).pitches[0])
    code, _, complaint = call(capsys, "--export=65", f"--out={tmp_path}")
    assert code == 2 and "there is no sample 65" in complaint


def test_a_run_grows_resumes_and_is_shared_out(run, tmp_path, capsys):
    def sample_to(folder: str, count: int, *more: str) -> None:
        words = (f"--checkpoint={run}", f"--num_samples={count}", "--bars=1", "--num_steps=2", "--formats=npz")
        code, _, complaint = call(
            capsys, *words, "--chunk_size=8", "--micro_batch=4", f"--out={tmp_path}/{folder}", *more
        )
        assert code == 0, complaint

    sample_to("whole", 20)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").glob("*.npz")}
    assert len(whole) == 3
    sample_to("grown", 10)
    sample_to("grown", 20)
    for part in ("1", "0"):
        sample_to("shared", 20, f"--shard_index={part}", "--num_shards=2")
    sample_to("broken", 20)
    (tmp_path / "broken" / "samples_00001.npz").unlink()
    sample_to("broken", 20)
    for folder in ("grown", "shared", "broken"):
        assert {path.name: path.read_bytes() for path in (tmp_path / folder).glob("*.npz")} == whole
    code, _, complaint = call(
        capsys,
        f"--checkpoint={run}",
        "--num_samples=20",
        "--seed=1",
        f"--out={tmp_path}/whole",
        "--num_steps=2",
        "--bars=1",
    )
    assert code == 2 and "seed (there 0, here 1)" in complaint and "--overwrite" in complaint
    kept = [tmp_path / "whole" / name for name in ("chorale_mine.mid", "mine.npz", "trace.txt")]
    for path in kept:
        path.write_text("")
    sample_to("whole", 20, "--seed=1", "--overwrite")
    assert all(path.exists() for path in kept)
    assert samples.load_samples(tmp_path / "whole").seed == 1


def test_pieces_begin_and_end_where_the_network_knows_how(run, tiny_config, tiny_variables, tmp_path, capsys):
    data = dataclasses.replace(tiny_config.data, ends=True)
    rng = np.random.default_rng(0)  # fresh weights hardly say anything
    moved = jax.tree.map(lambda x: x + rng.uniform(0, 0.2, x.shape).astype(np.float32), tiny_variables["params"])
    knowing = weights.Loaded(
        tiny_variables | {"params": moved}, dataclasses.replace(tiny_config, data=data), 1, "0" * 64, {}
    )
    weights.write(str(tmp_path / "knowing"), knowing, "float32")

    def sample_to(folder: str, net: pathlib.Path, *more: str) -> tuple[int, str]:
        words = (f"--checkpoint={net}", "--num_samples=2", "--bars=1", "--num_steps=3", "--formats=npz", *more)
        code, _, complaint = call(capsys, *words, f"--out={tmp_path}/{folder}")
        return code, complaint

    assert sample_to("whole", tmp_path / "knowing")[0] == sample_to("whole", tmp_path / "knowing")[0] == 0
    assert sample_to("excerpt", tmp_path / "knowing", "--excerpt")[0] == 0
    whole, excerpt = (samples.load_samples(tmp_path / name).pitches for name in ("whole", "excerpt"))
    assert (whole != excerpt).any()
    code, complaint = sample_to("whole", tmp_path / "knowing", "--excerpt")
    assert code == 2 and "settings.ends" in complaint
    # To a network that knows nothing of ends all is an excerpt.
    assert sample_to("plain", run)[0] == sample_to("plain", run, "--excerpt")[0] == 0


@pytest.mark.slow
def test_neither_devices_nor_processes_show_in_the_files(run, tmp_path):
    """Eight devices of this process, one of another, and two processes that do the run together."""
    words = [f"--checkpoint={run}", "--num_samples=20", "--bars=1", "--num_steps=2", "--formats=npz"]
    words += ["--chunk_size=4", "--micro_batch=2", "--polish=1"]
    sample.main([*words, f"--out={tmp_path}/alone"])
    done = conftest.run_command("coconet_jax.sample", *words, f"--out={tmp_path}/one", JAX_NUM_CPU_DEVICES="1")
    assert done.returncode == 0, done.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "coconet_jax.sample", *words, f"--out={tmp_path}/together"]
    processes = [
        subprocess.Popen([*command, f"--distributed={place},2,{k}"], cwd=conftest.REPOSITORY, stdout=subprocess.PIPE)
        for k in range(2)
    ]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    for process in processes:
        assert process.stdout is not None
        process.stdout.close()
    names = ("alone", "one", "together")
    for name in names:
        sample.main(["--export=all", "--formats=midi", f"--out={tmp_path}/{name}"])
    contents = [
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir() if path.suffix in (".npz", ".mid")}
        for name in names
    ]
    assert contents[2] == contents[1] == contents[0] and len(contents[0]) == 5 + 20


def test_micro_batches_give_the_same_bytes(run, tmp_path, capsys):
    """On CPU in float32, whatever the shape of the program."""
    found = []
    for size in (1, 3, 16):
        words = ("--num_samples=16", "--bars=1", "--num_steps=6", "--formats=midi", f"--micro_batch={size}")
        assert call(capsys, f"--checkpoint={run}", *words, f"--out={tmp_path}/{size}")[0] == 0
        scores = [path.read_bytes() for path in sorted((tmp_path / str(size)).glob("*.mid"))]
        found.append((samples.load_samples(tmp_path / str(size)).pitches.tobytes(), scores))
    assert found[0] == found[1] == found[2] and len(found[0][1]) == 16


def test_small_micro_batches_are_handed_on_many_at_once(run, tmp_path, capsys, monkeypatch):
    """Choosing and polishing would else wait for the host after every few chains; but no more than a chunk is lost."""
    asked: list[int] = []

    def spy(*args: Any, chains_at_once: int, **flags: Any) -> None:
        asked.append(chains_at_once)
        raise errors.InputError("seen enough")

    monkeypatch.setattr(sample.offline, "run", spy)
    shapes = ["--micro_batch=1"], ["--micro_batch=3"], ["--micro_batch=1", "--best_of=5"]
    chunks = ["--micro_batch=1", "--chunk_size=16"], ["--micro_batch=1", "--chunk_size=16", "--best_of=3"]
    for number, words in enumerate((*shapes, *chunks)):
        request = [f"--checkpoint={run}", "--num_samples=200", "--bars=1", "--formats=npz", *words]
        assert call(capsys, *request, f"--out={tmp_path}/{number}")[0] == 2
    rows = 3 * jax.local_device_count()
    assert asked == [64, 64 // rows * rows, 64 // 5, 16, 16]


def test_alternatives_are_different(run, chorale, tmp_path, capsys):
    words = (f"--checkpoint={run}", f"--inpaint={chorale}", "--span=1", "--inpaint_voices=alto", "--top_p=0.3")
    assert call(capsys, *words, "--alternatives=5", "--num_steps=2", f"--out={tmp_path}/out")[0] == 0
    made = samples.load_samples(tmp_path / "out").pitches
    assert len(np.unique(made.reshape(5, -1), axis=0)) == 5
    # As like each other as can be: all that one chord allows is soon found.
    code, output, _ = call(
        capsys,
        *words,
        "--alternatives=5",
        "--greedy=1",
        "--sampler=ancestral",
        "--order=chronological",
        f"--out={tmp_path}/one",
    )
    assert code == 0 and "only 1 different answers were found" in output


def test_the_way_can_be_kept(run, tmp_path, capsys):
    words = (f"--checkpoint={run}", "--num_samples=2", "--bars=1", "--num_steps=5", "--formats=npz", "--trace=3")
    code, output, _ = call(capsys, *words, f"--out={tmp_path}")
    assert code == 0 and "3 stages of 2 samples" in output
    with np.load(tmp_path / "trace.npz") as file:
        np.testing.assert_array_equal(file["pitches"][-1], samples.load_samples(tmp_path).pitches)
        assert file["pitches"].shape == (3, 2, 16, 4)
    assert (tmp_path / "trace_0001.png").read_bytes().startswith(b"\x89PNG")
    # Of a run that was begun without, also where some of it is there and a file holds a part of it.
    grown = (f"--checkpoint={run}", "--bars=1", "--num_steps=5", "--formats=npz", f"--out={tmp_path}/grown")
    assert call(capsys, *grown, "--num_samples=2", "--chunk_size=1")[0] == 0
    code, output, _ = call(capsys, *grown, "--num_samples=4", "--trace=3")
    assert code == 0 and "3 stages of 4 samples" in output
    with np.load(tmp_path / "grown" / "trace.npz") as file:
        np.testing.assert_array_equal(file["pitches"][-1], samples.load_samples(tmp_path / "grown").pitches)


def test_overwrite_goes_on_with_the_very_run_and_replaces_others(run, tmp_path, capsys):
    words = [f"--checkpoint={run}", "--num_samples=4", "--chunk_size=2", "--bars=1", "--num_steps=2", "--formats=npz"]
    words += [f"--out={tmp_path}", "--overwrite"]
    chunks = [tmp_path / f"samples_0000{number}.npz" for number in range(2)]

    def write(*more: str) -> list[int]:
        assert call(capsys, *words, *more)[0] == 0
        return [path.stat().st_mtime_ns for path in chunks]

    first = write()
    chunks[1].unlink()
    again = write()  # as after a kill
    assert again[0] == first[0] and again[1] != first[1]
    assert write()[0] != again[0]  # a whole one is drawn anew
    assert write("--seed=1")[0] != again[0] and samples.load_samples(tmp_path).seed == 1


def test_a_grown_run_goes_on_in_larger_batches(run, tmp_path, capsys):
    words = (f"--checkpoint={run}", "--bars=1", "--num_steps=2", "--formats=npz", f"--out={tmp_path}")
    assert call(capsys, *words, "--num_samples=1")[0] == 0
    assert json.loads((tmp_path / samples.MANIFEST).read_text())["micro_batch"] == 1
    assert call(capsys, *words, "--num_samples=40")[0] == 0
    assert json.loads((tmp_path / samples.MANIFEST).read_text())["micro_batch"] == 5  # of eight devices
    assert call(capsys, *words, "--num_samples=40", "--micro_batch=2")[0] == 0
    whole = samples.load_samples(tmp_path).pitches
    assert call(capsys, *words[:-1], f"--out={tmp_path}/whole", "--num_samples=40")[0] == 0
    np.testing.assert_array_equal(samples.load_samples(tmp_path / "whole").pitches, whole)


def test_what_was_kept_of_a_run_is_exported_by_its_numbers(tmp_path, capsys):
    pitches = np.full((3, 16, 4), 60, np.int16)
    kept = samples.Samples(pitches, pitches == 0, pitches == 0, np.array([3, 7, 40]), 0, 4)
    samples.write_samples(tmp_path, kept)
    for ids, count in (("all", 3), ("7,40", 2)):
        code, output, _ = call(capsys, f"--export={ids}", "--formats=midi", f"--out={tmp_path}")
        assert code == 0 and f"wrote {count} files" in output
    assert sorted(path.name for path in tmp_path.glob("*.mid")) == [f"chorale_{n:04d}.mid" for n in (3, 7, 40)]
    code, _, complaint = call(capsys, "--export=4", "--formats=midi", f"--out={tmp_path}")
    assert code == 2 and "no sample 4" in complaint


def test_another_kind_of_arithmetic_is_another_run(run, tmp_path, capsys, monkeypatch):
    words = (f"--checkpoint={run}", "--num_samples=2", "--bars=1", "--num_steps=2", "--formats=npz")
    assert call(capsys, *words, f"--out={tmp_path}")[0] == 0
    monkeypatch.setattr(model, "compute_dtype", lambda net: jnp.dtype(jnp.bfloat16))
    code, _, complaint = call(capsys, *words, f"--out={tmp_path}")
    assert code == 2 and "settings.dtype (there none, here bfloat16)" in complaint


@pytest.fixture
def bad_files(tmp_path) -> pathlib.Path:
    (tmp_path / "empty.mid").write_bytes(b"")
    (tmp_path / "corrupt.mid").write_bytes(b"MThd\x00\x00\x00\x06\x00\x01\x00\x01\x01\xe0MTrk\x00\x00\xff\xff\x00\x90")
    chord = mido.MidiFile(tracks=[mido.MidiTrack()], ticks_per_beat=480)
    for kind, tick in (("note_on", 0), ("note_off", 480)):
        for pitch in (60, 64):
            chord.tracks[0].append(mido.Message(kind, note=pitch, velocity=64, time=tick if pitch == 60 else 0))
    chord.save(tmp_path / "chord.mid")
    high = np.full((4, 1), 90, np.int16)
    notation.write_midi(tmp_path / "high.mid", score.from_pitches(high))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--checkpoint=NOWHERE"], "holds no checkpoint"),
        (["--checkpoint=RUN", "--step=99"], "step 99 is not among"),
        (["--checkpoint=RUN", "--bars=0"], "--bars=0: use 1 or more"),
        (["--checkpoint=RUN", "--bars=-3"], "--bars=-3"),
        (["--checkpoint=RUN", "--bars=1000000000000"], "--bars=1000000000000"),
        (["--checkpoint=RUN", "--num_samples=0"], "--num_samples=0"),
        (["--checkpoint=RUN", "--num_samples=2000000000"], "--num_samples=2000000000"),
        (["--checkpoint=RUN", "--alternatives=-1"], "--alternatives=-1"),
        (["--checkpoint=RUN", "--sampler=magic"], "--sampler: invalid choice: 'magic'"),
        (["--checkpoint=RUN", "--greedy=1,0"], "greedy=(1.0, 0.0)"),
        (["--checkpoint=RUN", "--greedy=x"], "--greedy=x"),
        (["--checkpoint=RUN", "--shard_index=0"], "go together"),
        (
            ["--checkpoint=RUN", "--shard_index=0", "--num_shards=2", "--formats=midi"],
            "parts of a run write arrays alone",
        ),
        (["--checkpoint=RUN", "--shard_index=0", "--num_shards=2", "--tempo=90"], "--tempo=90 is for scores"),
        (["--checkpoint=RUN", "--distributed=pod"], "--distributed=pod: use off, auto or host:port,P,K"),
        (["--checkpoint=RUN", "--shard_index=2", "--num_shards=2"], "shard_index=2"),
        (["--checkpoint=RUN", "--shard_index=0", "--num_shards=2", "--overwrite"], "--overwrite would delete"),
        (["--checkpoint=RUN", "--alternatives=4", "--chunk_size=1"], "leave out --chunk_size"),
        (["--checkpoint=RUN", "--temperature=inf"], "temperature=inf: use 1000 or less"),
        (["--checkpoint=RUN", "--confidence_noise=inf"], "confidence_noise=inf"),
        (["--checkpoint=RUN", "--num_steps=100000000000000"], "num_steps=100000000000000"),
        (["--checkpoint=RUN", "--finish_sweeps=1000000000000"], "finish_sweeps=1000000000000"),
        (["--checkpoint=RUN", "--span=1-2"], "--span=1-2 goes with --inpaint"),
        (["--checkpoint=RUN", "--export=all"], "leave --checkpoint="),
        (["--checkpoint=RUN", "--sampler=maskgit", "--blocks=voices"], "--blocks=voices goes with --sampler=gibbs or"),
        (["--checkpoint=RUN", "--confidence_noise=3"], "goes with --sampler=maskgit; with gibbs leave it out"),
        (["--checkpoint=RUN", "--finish_stride=2"], "--finish_stride=2 goes with --finish_sweeps"),
        (["--checkpoint=RUN", "--tempo=90", "--formats=npz"], "--tempo=90 is for scores"),
        (["--num_samples=999999999", "--best_of=1000"], "--best_of=1000: 999999999000 candidates in all"),
        (["--export=all"], "holds no"),
        (["--export=0", "--num_samples=9"], "lie in --out; leave --num_samples=9 out"),
        (["--export=0", "--overwrite"], "leave --overwrite out"),
        (["--export="], "holds no"),
        (["--export=0", "--formats=npz"], "name score formats to export"),
        (["--checkpoint=RUN", "--num_samples=500", "--trace=3"], "--trace=3 goes with up to 64 samples"),
        (["--bars=2", "--checkpoint=nowhere"], "nowhere holds no checkpoint"),
        (["--bars=2", "--step=3"], "small is one set of weights"),
        (["--checkpoint=RUN", "--meter=4/5"], "--meter=4/5"),
        (["--checkpoint=RUN", "--meter=waltz"], "--meter=waltz"),
        (["--checkpoint=RUN", "--meter=300/4"], "--meter=300/4"),
        (["--checkpoint=RUN", f"--seed={2**63}"], "--seed="),
        (["--checkpoint=RUN", "--temperature=0"], "temperature=0.0: use 0.0001 or more"),
        (["--checkpoint=RUN", "--num_steps=-1"], "num_steps=-1"),
        (["--checkpoint=RUN", "--formats=pdf"], "--formats=pdf"),
        (["--checkpoint=RUN", "--programs=kazoo"], "--programs=kazoo"),
        (["--checkpoint=RUN", "--velocities=loud"], "--velocities=loud"),
        (["--checkpoint=RUN", "--velocities=90,90,90,128"], "--velocities=90,90,90,128: use four numbers 1-127"),
        (["--checkpoint=RUN", "--tempo=0"], "--tempo=0"),
        (["--checkpoint=RUN", "--harmonize=gone.mid"], "gone.mid"),
        (["--checkpoint=RUN", "--harmonize=BAD/empty.mid"], "empty.mid"),
        (["--checkpoint=RUN", "--harmonize=BAD/corrupt.mid"], "corrupt.mid"),
        (["--checkpoint=RUN", "--harmonize=BAD/chord.mid"], "more than one note at once"),
        (["--checkpoint=RUN", "--harmonize=BAD/high.mid"], "--transpose=-9 (or -12, whole octaves)"),
        (["--checkpoint=RUN", "--harmonize=BAD/high.mid", "--meter=3/4"], "leave it out"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run, bad_files, capsys, words, message):
    places = {"RUN": str(run), "BAD": str(bad_files), "NOWHERE": str(bad_files / "none")}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    code, _, complaint = call(capsys, *words, f"--out={bad_files}/out")
    assert code == 2 and message in complaint
    assert complaint.startswith("error: ") and complaint.count("\n") == 1
    assert not (bad_files / "out").exists()


def test_unwritable_folders_are_noticed_before_the_work(run, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code, output, complaint = call(capsys, f"--checkpoint={run}", f"--out={tmp_path}/file/out")
    assert code == 2 and "cannot write" in complaint and "model calls" not in output
    code, _, complaint = call(capsys, f"--checkpoint={run}", f"--out={tmp_path}/{'x' * 300}")
    assert code == 2 and "cannot write" in complaint


def test_flags_that_do_not_exist(run, capsys):
    assert call(capsys, f"--checkpoint={run}", "--bar=3")[0] == 2
    assert call(capsys, f"--checkpoint={run}", "--bars=3", "--harmonize=x.mid")[0] == 2


@pytest.mark.slow
def test_sampling_needs_neither_tfds_nor_music21(run, tmp_path):
    """On a machine where they are not installed, MIDI in and out still works."""
    notation.write_midi(tmp_path / "tune.mid", score.from_pitches(np.full((16, 1), 67, np.int16)))
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "for name in ('music21', 'tensorflow_datasets', 'array_record', 'tensorflow'):\n"
        "    sys.modules[name] = None\n"
    )
    path = os.pathsep.join([str(tmp_path), *[p for p in sys.path if "site-packages" not in p and p]])
    words = ("--num_steps=2", "--formats=npz,midi,png", f"--out={tmp_path}/out", f"--harmonize={tmp_path}/tune.mid")
    done = conftest.run_command("coconet_jax.sample", f"--checkpoint={run}", *words, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "chorale_0003.mid").exists()
    helped = conftest.run_command("coconet_jax.sample", "--help", PYTHONPATH=path)
    assert helped.returncode == 0 and "examples:" in helped.stdout


@pytest.mark.slow
def test_the_examples_of_the_help_run_as_they_stand(run, chorale, melody, tmp_path, capsys, monkeypatch):
    """But for the network, a tiny one, and how much is asked of it."""
    with pytest.raises(SystemExit):
        sample.main(["--help"])
    commands = re.findall(r"^ +python -m coconet_jax\.sample (.*)$", capsys.readouterr().out, re.MULTILINE)
    assert len(commands) == 12
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mine").symlink_to(run)
    notation.write_midi(tmp_path / "melody.mid", melody)
    high = np.where(melody.pitches == pianoroll.REST, pianoroll.REST, melody.pitches + 14).astype(np.int16)
    notation.write_midi(tmp_path / "high.mid", dataclasses.replace(melody, pitches=high))
    sketch = np.full((32, 4), pianoroll.REST, np.int16)
    sketch[:16] = notation.read_satb(chorale).pitches[:16]
    notation.write_musicxml(tmp_path / "sketch.musicxml", score.from_pitches(sketch))
    for command in commands:
        words = shlex.split(command.replace("=10000 --bars=8", "=70 --bars=1"))
        asked = {word.partition("=")[0] for word in words}
        if "--export" not in asked:
            words += ["--num_steps=2"] + [f"--checkpoint={run}"] * ("--checkpoint" not in asked)
            words += ["--polish=0"] * ("--polish" not in asked)
        sample.main(words)
        capsys.readouterr()
        (out,) = (word.partition("=")[2] for word in words if word.startswith("--out="))
        made = samples.load_samples(tmp_path / out)
        if out != "study":
            assert len(list((tmp_path / out).glob("*.mid"))) == len(made.pitches) == 4
    assert len(list((tmp_path / "study").glob("*.mid"))) == len(list((tmp_path / "study").glob("*.musicxml"))) == 17


def test_a_format_named_twice_is_written_once():
    assert outputs.formats("midi, npz,png,midi", 1) == ("midi", "png")
