"""Scales and keys on hand-made scores."""

import math

import handmade
import numpy as np

from coconet_jax.judge import tonality

R = handmade.R


def test_scale_and_entropy():
    major = [[60, 62, 64, 65], [67, 69, 71, 72]]
    harmonic = [[57, 59, 60, 62], [64, 65, 68, 69]]
    chromatic = [[60, 61, 62, 63], [64, 65, 66, 67]]
    silence = [[R] * 4, [R] * 4]
    one_of_four_outside = [[60, 64, 67, 66], [60, 64, 67, 65]]
    pitches = np.array([major, harmonic, chromatic, silence, one_of_four_outside])
    shares = tonality.in_scale_share(pitches)
    np.testing.assert_allclose(shares[[0, 1, 2, 4]], [1.0, 1.0, 5 / 8, 7 / 8])
    entropy = tonality.pitch_class_entropy_nats(pitches)
    np.testing.assert_allclose(entropy[2], math.log(8))
    np.testing.assert_allclose(entropy[0], -(0.25 * math.log(0.25) + 6 * 0.125 * math.log(0.125)))
    assert np.isnan([shares[3], entropy[3]]).all()
    assert tonality.in_scale_share(np.array([major, chromatic]) + 5).tolist() == [1.0, 5 / 8]
    assert tonality.pitch_class_entropy_nats(handmade.score((72, 60, 48, 36))).tolist() == [0.0]
