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


def test_key_clarity():
    profile = np.array([6.35, 2.23, 3.48, 2.33, 4.38, 4.09, 2.52, 5.19, 2.39, 3.66, 2.29, 2.88])
    classes = np.repeat(np.arange(12), np.round(100 * profile).astype(int))[None, :, None].repeat(4, axis=-1)
    np.testing.assert_allclose(tonality.key_clarity(60 + classes), 1.0, atol=1e-4)
    np.testing.assert_allclose(tonality.key_clarity(53 + classes), 1.0, atol=1e-4)  # of another key
    scale = np.array([[[60, 62, 64, 65], [67, 69, 71, 60]]])
    chromatic = np.array([[[60, 61, 62, 63], [64, 65, 67, 60]]])
    assert tonality.key_clarity(scale) > 0.8 > tonality.key_clarity(chromatic)
    even = np.arange(60, 72).reshape(1, 3, 4)
    assert np.isnan([tonality.key_clarity(even), tonality.key_clarity(np.full((1, 3, 4), R))]).all()
