"""Long pieces, drawn in windows, do not show where the windows join."""

import conftest
import numpy as np

from coconet_jax import weights

seams = conftest.load_benchmark("seams")


def test_near_joins_pieces_are_as_elsewhere(tiny_config, tiny_variables):
    """64 pieces: parallels, repeated chords and NLL within 4 steps of a join, against their errors."""
    loaded = weights.Loaded(tiny_variables, tiny_config, 0, "tiny", {})
    pitches, differing = seams.draw(loaded, calls=4, seed=0)
    assert pitches.shape == (64, 256, 4) and differing == 0
    found = seams.at_joins(loaded, pitches)
    assert len(found) == 4 and all(abs(off) <= 2 for *_, off in found.values()), found
    # A seam would show: four steps in octaves where windows join.
    for join in (64, 128, 192):
        pitches[:, join - 2 : join + 2] = np.arange(0, 8, 2)[:, None] + np.array([64, 60, 52, 40])
    assert seams.at_joins(loaded, pitches)["parallel octaves a step"][3] > 2
