"""Whether the size of a batch shows: in float32 on CPU it does not, and the benchmark says so."""

import sys

import conftest
import pytest

from coconet_jax import weights

sys.path.insert(0, str(conftest.REPOSITORY / "benchmarks"))
import micro_batches


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["micro_batches.py", *words])
    with pytest.raises(SystemExit) as end:
        micro_batches.main()
    output, complaint = capsys.readouterr()
    return end.value.code, output, complaint.strip().splitlines()


def test_sizes_are_compared_with_the_first(monkeypatch, capsys, tiny_config, tiny_variables, tmp_path):
    net = weights.Loaded(tiny_variables, tiny_config, 7, weights.digest(tiny_variables), {})
    weights.write(tmp_path / "net", net)
    words = (f"--checkpoint={tmp_path / 'net'}", "--num_samples=6", "--steps=8", "--calls=3", "--micro_batches=1,3")
    code, output, _ = run(monkeypatch, capsys, *words, "--dtypes=float32")
    assert code == 0
    assert output.splitlines()[-2:] == ["| float32 | 1 | (the reference) | - |", "| float32 | 3 | 0.0% | 0.0% |"]
    draw = micro_batches.generate.samples

    def uneven(plan, ids):
        made = draw(plan, ids)
        made.pitches[0] += plan.micro_batch
        return made

    monkeypatch.setattr(micro_batches.generate, "samples", uneven)
    code, output, _ = run(monkeypatch, capsys, *words, "--dtypes=float32")
    assert "micro-batches of [3]" in code and output.splitlines()[-1] == "| float32 | 3 | 16.7% | 16.7% |"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--micro_batches=2"], "--micro_batches=2: use two numbers or more"),
        (["--micro_batches=2,8,x"], "--micro_batches=2,8,x"),
        (["--dtypes=float8"], "--dtypes has 'float8'"),
    ],
)
def test_mistakes_are_one_line(monkeypatch, capsys, words, message):
    code, _, lines = run(monkeypatch, capsys, *words)
    assert code == 2 and len(lines) == 1 and message in lines[0]
