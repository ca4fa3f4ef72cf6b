"""Sampling: given notes stay, chains depend on (seed, number) alone, files open elsewhere, mistakes are one line."""

import os
import pathlib
import sys
from typing import Any, cast

import conftest
import jax
import jax.numpy as jnp
import mido
import numpy as np
import pytest
import symusic

from coconet_jax import checkpoint, errors, notation, pianoroll, sample, samples, score, state
from coconet_jax import config as config_lib

SETTINGS = config_lib.Sample(num_steps=6)


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


def generate(variables, config, request, **fields):
    fields = {"num_samples": 3, "seed": 1, **fields}
    return sample.generate(variables, config.model, request, SETTINGS, **fields)


def test_a_chain_depends_on_seed_and_number_alone(tiny_config, tiny_variables):
    request = sample.compose(16)
    eight = generate(tiny_variables, tiny_config, request, num_samples=8, micro_batch=8)
    np.testing.assert_array_equal(eight, generate(tiny_variables, tiny_config, request, num_samples=8, micro_batch=8))
    twenty = generate(tiny_variables, tiny_config, request, num_samples=20, micro_batch=8)  # a short last batch
    np.testing.assert_array_equal(eight, twenty[:8])
    np.testing.assert_array_equal(twenty, generate(tiny_variables, tiny_config, request, num_samples=20))
    shown = generate(tiny_variables, tiny_config, request, num_samples=8, micro_batch=8, progress=True)
    np.testing.assert_array_equal(eight, shown)
    assert len({piece.tobytes() for piece in twenty}) == 20
    assert not np.array_equal(eight, generate(tiny_variables, tiny_config, request, num_samples=8, seed=2))


def test_devices_do_not_matter(tiny_config, tiny_variables, monkeypatch):
    request = sample.compose(16)
    eight = generate(tiny_variables, tiny_config, request, num_samples=8)
    make_mesh = sample.devices.make_mesh
    monkeypatch.setattr(sample.devices, "make_mesh", lambda: make_mesh(1))
    np.testing.assert_array_equal(eight, generate(tiny_variables, tiny_config, request, num_samples=8))


def test_composing_fills_every_cell_within_the_range(tiny_config, tiny_variables):
    made = generate(tiny_variables, tiny_config, sample.compose(24))
    assert made.shape == (3, 24, 4) and made.dtype == np.int16
    assert (made >= pianoroll.MIN_PITCH).all() and (made <= pianoroll.MAX_PITCH).all()


def test_harmonising_keeps_the_soprano_as_it_was_struck(tiny_config, tiny_variables, melody):
    request = sample.harmonize(melody)
    made = sample.to_samples(request, generate(tiny_variables, tiny_config, request), 1)
    for pitches, onset in zip(made.pitches, made.onset, strict=True):
        np.testing.assert_array_equal(pitches[:, :1], melody.pitches)
        np.testing.assert_array_equal(onset[:, :1], melody.onset)
        # The model has no rest: below a silent soprano the others sound on, struck where they change.
        assert (pitches[:, 1:] != pianoroll.REST).all()
        np.testing.assert_array_equal(onset[:, 1:], pianoroll.onsets_where_pitch_changes(pitches[:, 1:]))
    assert made.given[:, :, 0].all() and not made.given[:, :, 1:].any()


def test_files_hold_what_was_sampled(tiny_config, tiny_variables, melody, tmp_path):
    request = sample.harmonize(melody)
    made = sample.to_samples(request, generate(tiny_variables, tiny_config, request, num_samples=2), 1)
    programs = (1, 2, 3, 4)
    paths = sample.write_files(tmp_path / "out", request, made, sample.FORMATS, qpm=72.0, programs=programs)
    assert sorted(path.name for path in paths) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert [path.suffix for path in paths] == [".npz", *[".mid", ".musicxml", ".png"] * 2]
    back = samples.load_samples(tmp_path / "out")
    for name, value in made._asdict().items():
        np.testing.assert_array_equal(value, getattr(back, name))
    for number in range(2):
        for suffix in (".mid", ".musicxml"):
            read = notation.read_satb(tmp_path / "out" / f"chorale_{number:04d}{suffix}")
            np.testing.assert_array_equal(read.pitches, made.pitches[number])
            np.testing.assert_array_equal(read.onset, made.onset[number])
            assert (read.meter, read.pickup_steps, read.qpm) == ((3, 4), 4, pytest.approx(72))
        midi = mido.MidiFile(tmp_path / "out" / f"chorale_{number:04d}.mid")
        used = [message.program for message in midi if message.type == "program_change"]
        assert used == list(programs)
        tracks = cast(Any, symusic.Score(str(tmp_path / "out" / f"chorale_{number:04d}.mid"))).tracks
        assert [note.pitch for note in sorted(tracks[0].notes, key=lambda n: n.time)] == [67, 72, 72, 72, 74, 71, 72]
        assert (tmp_path / "out" / f"chorale_{number:04d}.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_half_written(tiny_config, tiny_variables, tmp_path, monkeypatch):
    request = sample.compose(16)
    made = sample.to_samples(request, generate(tiny_variables, tiny_config, request), 1)

    def full_disk(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sample.notation, "write_musicxml", full_disk)
    with pytest.raises(errors.InputError, match="No space left on device"):
        sample.write_files(tmp_path, request, made, sample.FORMATS, qpm=80.0, programs=(0,) * 4)
    assert not list(tmp_path.iterdir())


def test_samples_that_are_none(tmp_path):
    with pytest.raises(errors.InputError, match="holds no samples.npz"):
        samples.load_samples(tmp_path)
    (tmp_path / "samples.npz").write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(errors.InputError, match="damaged"):
        samples.load_samples(tmp_path)


# ------------------------------------------------------------------------------------------ the command


def call(capsys, *words: str) -> tuple[int, str, str]:
    """The command in this process: exit code, output, complaint."""
    code = 0
    try:
        sample.main(list(words))
    except SystemExit as end:
        code = int(end.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_command_composes(run, tmp_path, capsys):
    words = (f"--checkpoint={run}", "--num_samples=2", "--bars=2", "--meter=3/4", "--num_steps=3", "--seed=4")
    code, output, _ = call(capsys, *words, f"--out={tmp_path}/a", "--tempo=60", "--programs=organ")
    assert code == 0 and "wrote 7 files" in output
    made = samples.load_samples(tmp_path / "a")
    assert made.pitches.shape == (2, 24, 4) and made.seed == 4
    midi = mido.MidiFile(tmp_path / "a" / "chorale_0000.mid")
    assert [m.tempo for m in midi if m.type == "set_tempo"] == [1_000_000]
    assert call(capsys, *words, f"--out={tmp_path}/b", "--formats=npz,midi")[0] == 0
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["chorale_0000.mid", "chorale_0001.mid", "samples.npz"]
    np.testing.assert_array_equal(made.pitches, samples.load_samples(tmp_path / "b").pitches)


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
    np.testing.assert_array_equal(made["a.mid"].pitches, made["a.musicxml"].pitches)


def test_many_samples_are_an_array_alone(run, tmp_path, capsys):
    words = (f"--checkpoint={run}", "--num_samples=65", "--bars=1", "--num_steps=1", f"--out={tmp_path}")
    code, output, _ = call(capsys, *words)
    assert code == 0 and "65 samples: writing samples.npz alone" in output
    assert [path.name for path in tmp_path.iterdir()] == ["samples.npz"]


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
        (["--checkpoint=RUN", "--num_samples=0"], "--num_samples=0"),
        (["--checkpoint=RUN", "--meter=4/5"], "--meter=4/5"),
        (["--checkpoint=RUN", "--meter=waltz"], "--meter=waltz"),
        (["--checkpoint=RUN", "--meter=300/4"], "--meter=300/4"),
        (["--checkpoint=RUN", f"--seed={2**63}"], "--seed="),
        (["--checkpoint=RUN", "--temperature=0"], "temperature=0.0: use a value above 0"),
        (["--checkpoint=RUN", "--num_steps=-1"], "num_steps=-1"),
        (["--checkpoint=RUN", "--formats=pdf"], "--formats=pdf"),
        (["--checkpoint=RUN", "--programs=kazoo"], "--programs=kazoo"),
        (["--checkpoint=RUN", "--tempo=0"], "--tempo=0"),
        (["--checkpoint=RUN", "--harmonize=gone.mid"], "gone.mid"),
        (["--checkpoint=RUN", "--harmonize=BAD/empty.mid"], "empty.mid"),
        (["--checkpoint=RUN", "--harmonize=BAD/corrupt.mid"], "corrupt.mid"),
        (["--checkpoint=RUN", "--harmonize=BAD/chord.mid"], "more than one note at once"),
        (["--checkpoint=RUN", "--harmonize=BAD/high.mid"], "outside"),
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
    assert code == 2 and "cannot write there" in complaint and "sampling" not in output
    code, _, complaint = call(capsys, f"--checkpoint={run}", f"--out={tmp_path}/{'x' * 300}")
    assert code == 2 and "cannot write there" in complaint


def test_flags_that_do_not_exist(run, capsys):
    assert call(capsys, f"--checkpoint={run}", "--bar=3")[0] == 2
    assert call(capsys)[0] == 2
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
    helped = conftest.run_command("coconet_jax.sample", "--help")
    assert helped.returncode == 0 and "examples:" in helped.stdout
