"""The sampler's settings from flags."""

import argparse

import pytest

from coconet_jax import config, settings


def from_words(*words: str) -> config.Sample:
    parser = argparse.ArgumentParser()
    settings.add_flags(parser)
    return settings.from_flags(parser.parse_args(words))


def test_what_is_not_given_is_the_samplers_own():
    for name in ("gibbs", "maskgit"):
        assert from_words(f"--sampler={name}") == config.Sample(name, temperature=config.TEMPERATURES[name])
        assert from_words(f"--sampler={name}", "--temperature=1.1").temperature == 1.1
    assert from_words() == from_words("--sampler=gibbs")
    assert from_words("--sampler=ancestral").temperature == config.Sample().temperature


@pytest.mark.parametrize(
    "most, least", [(0.05, 0.05), (0.1, 0.1), (0.5, config.Sample.block_prob_min)], ids=["below", "equal", "above"]
)
def test_a_first_share_below_the_usual_last_one_stays(most, least):
    found = from_words(f"--block_prob_max={most}")
    assert (found.block_prob_max, found.block_prob_min) == (most, least)
