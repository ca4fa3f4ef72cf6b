"""What a run tells the world."""

import types

import jax.numpy as jnp
import pytest

from coconet_jax import devices, loop, progress, storage

STATE = types.SimpleNamespace(params={"kernel": jnp.zeros((3, 4))})


def report(folder, first_step, config, steps):
    with progress.Reporter(folder, first_step, config, devices.make_mesh(1)) as reporter:
        reporter.start(STATE, 5, "toy")
        for step in steps:
            report_one(reporter, step)
        reporter.finish(loop.Stopped("done", steps[-1]))


def report_one(reporter, step):
    reporter.report(step, {"loss": 2.0, "steps_per_second": 4.0} | ({"valid_nll": 1.5} if step % 4 == 0 else {}))


def test_lines_and_plain_text(tiny_config, tmp_path, capsys):
    report(tmp_path, 0, tiny_config, [2, 4])
    assert progress.read_metrics(tmp_path / "metrics.jsonl") == [
        {"step": 2, "loss": 2.0, "steps_per_second": 4.0, "examples_per_second": 32.0},
        {"step": 4, "loss": 2.0, "steps_per_second": 4.0, "examples_per_second": 32.0, "valid_nll": 1.5},
    ]
    output = capsys.readouterr().out
    assert "training: 12 parameters, 5 pieces of toy" in output
    assert "step 4/8: loss 2.0000, valid 1.5000 nats per variable, 4.00 steps/s, 1 s left" in output
    assert (tmp_path / "loss.png").exists()


def test_resuming_drops_lines_that_will_come_again(tiny_config, tmp_path, capsys):
    report(tmp_path, 0, tiny_config, [2, 4, 6])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 7, "lo')  # cut short by a kill
    report(tmp_path, 4, tiny_config, [6, 8])
    assert [line["step"] for line in progress.read_metrics(tmp_path / "metrics.jsonl")] == [2, 4, 6, 8]
    assert "resuming at step 4" in capsys.readouterr().out


def test_only_the_lead_process_writes(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(devices, "is_lead", lambda: False)
    report(tmp_path, 0, tiny_config, [2, 4])
    assert not list(tmp_path.iterdir()) and not capsys.readouterr().out


def test_tensorboard_gets_the_numbers(tiny_config, tmp_path):
    pytest.importorskip("tensorboardX", reason="the extra `logging` is not installed")
    report(tmp_path, 0, tiny_config, [2, 4])
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").iterdir())
    assert b"valid_nll" in events and b"steps_per_second" in events


def test_at_a_url_lines_are_written_at_evaluations_and_at_the_end(tiny_config, store, monkeypatch):
    def steps() -> list[int]:
        return [line["step"] for line in progress.read_metrics(store / "metrics.jsonl")]

    with progress.Reporter(store, 0, tiny_config, devices.make_mesh(1)) as reporter:  # and is not finished
        reporter.start(STATE, 5, "toy")
        for step, seen in ((2, []), (4, [2, 4]), (6, [2, 4])):
            report_one(reporter, step)
            assert steps() == seen
    assert steps() == [2, 4, 6]
    report(store, 4, tiny_config, [6, 8, 10])
    assert steps() == [2, 4, 6, 8, 10]
    assert (store / "loss.png").read_bytes().startswith(b"\x89PNG")
    pytest.importorskip("tensorboardX", reason="the extra `logging` is not installed")
    events = b"".join((store / name).read_bytes() for name in storage.tree(store) if name.startswith("tensorboard/"))
    assert b"valid_nll" in events


def test_no_metrics_yet(tmp_path):
    assert progress.read_metrics(tmp_path / "metrics.jsonl") == []
    # What a machine that goes down leaves behind a whole line.
    for torn in (b"\0" * 7, b'{"st\xff', b"5\n"):
        (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1, "loss": 2.0}\n' + torn)
        assert progress.read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.0}]
