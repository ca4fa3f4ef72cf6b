"""Counted operations of the benchmarks against XLA's own count and the published size of the paper's net."""

import pathlib
import sys

import conftest
import jax
import jax.numpy as jnp
import pytest

from coconet_jax import config, model

sys.path.insert(0, str(conftest.REPOSITORY / "benchmarks"))
import measuring


@pytest.mark.parametrize("pitch_mixing", [False, True])
def test_counted_operations_are_those_of_the_convolutions(pitch_mixing):
    """XLA leaves out what falls into the padding and counts the elementwise rest."""
    net = config.Model(num_layers=6, num_filters=16, pitch_mixing=pitch_mixing)
    variables = model.init(jax.random.key(0), net)
    roll, context, valid = jnp.zeros((2, 40, 46, 4)), jnp.ones((2, 40, 4), bool), jnp.ones((2, 40), bool)
    run = jax.jit(lambda variables, roll: model.make_predict(variables, net)(roll, context, valid))
    counted = measuring.forward_flops(net, 2, 40)
    assert measuring.xla_flops(run.lower(variables, roll).compile()) == pytest.approx(counted, rel=0.1)


def test_the_papers_net_takes_53_billion_operations_for_64_steps():
    assert measuring.forward_flops(config.Model(), 1, 64) == pytest.approx(53.4e9, rel=0.01)
    assert measuring.training_flops(config.Model(), 2, 64) == pytest.approx(6 * 53.4e9, rel=0.01)


def test_a_separable_net_is_counted_by_its_parts():
    net = config.Model(architecture="separable", num_layers=4, num_filters=8, full_layers=0, last_kernel=3)
    by_hand = sum(9 * c + c * f for c, f in ((8, 8), (8, 8), (8, 8), (8, 4)))
    assert measuring.forward_flops(net, 1, 1) == 2 * 46 * by_hand


def test_ways_take_turns_and_two_calls_of_each_are_left_out():
    order: list[str] = []
    found = measuring.in_turns({name: lambda name=name: order.append(name) for name in "ab"}, rounds=3)
    assert order == list("aaabbb" * 3)
    assert [len(seconds) for seconds in found.values()] == [3, 3]


def test_a_report_is_a_table_and_a_file(tmp_path: pathlib.Path, capsys):
    rows: list[dict] = [{"batch": 8, "speed": 1234.5, "seconds": [0.1]}, {"batch": 16, "speed": 0.12345}]
    measuring.finish("x", rows, {"batch": "Batch", "speed": "Speed", "none": "None"}, str(tmp_path / "x.json"))
    output = capsys.readouterr().out
    assert "| 8 | 1234 | - |" in output and "| 16 | 0.123 | - |" in output
    assert '"hardware"' in (tmp_path / "x.json").read_text()
