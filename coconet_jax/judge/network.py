"""The convnet that judges pianorolls: shared by the critic (real or generated) and the composer classifier.

A wide, strided stem over pitch makes a few hundred numbers of each step; beside them stand the intervals between its
notes and to those around it, in any key the same, which a stem finds out only after many more examples. Residual
convolutions over time make features of both, and the classes see the mean and the maximum of every feature over the
piece. Nothing but this pooling mixes more than `reach_steps` of time, so that pieces of any length go in and a map over
steps comes out.

Convolutions are products with shifted copies: on CPU their gradients cost the same inside scans and under vmap, where
those of XLA's convolutions cost 20-40 times as much.
"""

import dataclasses
from typing import Any, Final, NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer, Key
import numpy as np

from coconet_jax import errors, pianoroll

Params = dict[str, Any]

_TIME_TAPS: Final = 3  # of every convolution over time
_PITCH_TAPS: Final = 12  # of the stem: an octave
_PITCH_STRIDE: Final = 4
_LAGS: Final = (4, 8)  # steps: a quarter and a half on the usual grid
_EPSILON: Final = 1e-5


@dataclasses.dataclass(frozen=True)
class Config:
    """The shape of a judge's network.

    Attributes:
      num_classes: k.
      features: channels of the residual convolutions over time.
      stem_features: channels of each of the stem's 12 places on the pitch axis.
      dilations: of each residual block of two convolutions, in steps.
      groups: of GroupNorm.
      dropout: share of the pooled features that are left out in training.
    """

    num_classes: int = 2
    features: int = 112
    stem_features: int = 24
    dilations: tuple[int, ...] = (1, 2, 4, 8)
    groups: int = 8
    dropout: float = 0.1

    def __post_init__(self) -> None:
        if self.features % self.groups:
            raise errors.InputError(f"features={self.features}: use a multiple of groups={self.groups}")


class Output(NamedTuple):
    """What the network says of pieces.

    Attributes:
      logits: of each class.
      steps: the logits shared out among the steps that they come from: their mean over the valid steps is `logits`,
        and steps outside the piece have 0.
      features: mean and maximum over time of every feature, which the classes are a linear function of (d = 2 x
        features).
    """

    logits: Float[Array, "b k"]
    steps: Float[Array, "b t k"]
    features: Float[Array, "b d"]


def reach_steps(config: Config) -> int:
    """Steps before a step that its features depend on; after it they are fewer."""
    return _TIME_TAPS // 2 * 2 * sum(config.dilations) + max(_LAGS)


def _side_by_side(x: Float[Array, "b t *p c"], dilation: int) -> Float[Array, "b t *p d"]:
    """Copies of x, shifted in time, along the last axis."""
    reach, steps = _TIME_TAPS // 2 * dilation, x.shape[1]
    padded = jnp.pad(x, [(0, 0), (reach, reach)] + [(0, 0)] * (x.ndim - 2))
    return jnp.concatenate([padded[:, n * dilation : n * dilation + steps] for n in range(_TIME_TAPS)], axis=-1)


def _octaves(x: Float[Array, "b t p c"]) -> Float[Array, "b t q d"]:
    """What the stem sees at each of its places: 12 rows of all channels, every 4 rows, past both ends."""
    places = -(-x.shape[2] // _PITCH_STRIDE)
    span = (places - 1) * _PITCH_STRIDE + 1
    before = (span - 1 + _PITCH_TAPS - x.shape[2]) // 2
    after = span - 1 + _PITCH_TAPS - x.shape[2] - before
    padded = jnp.pad(x, ((0, 0), (0, 0), (before, after), (0, 0)))
    return jnp.concatenate([padded[:, :, n : n + span : _PITCH_STRIDE] for n in range(_PITCH_TAPS)], axis=-1)


def _intervals(pitches: Integer[Array, "b t i"], valid: Bool[Array, "b t"]) -> Float[Array, "b t d"]:
    """One-hot intervals, the same in every key; nothing where a rest or what lies outside has part.

    Between each two voices modulo the octave; from each voice's note to its next up to an octave, further ones counting
    as an octave; and from all four notes one and two quarters ago to all four of now modulo the octave.
    """
    notes = pitches.astype(jnp.int32)
    sounds = (notes != pianoroll.REST) & valid[:, :, None]
    upper, lower = np.triu_indices(pianoroll.NUM_VOICES, 1)
    chord = jax.nn.one_hot((notes[..., upper] - notes[..., lower]) % 12, 12)
    parts = [chord * (sounds[..., upper] & sounds[..., lower])[..., None]]
    moves = jnp.clip(jnp.diff(notes, axis=1, append=notes[:, -1:]), -12, 12) + 12
    follows = jnp.pad(sounds[:, 1:], ((0, 0), (0, 1), (0, 0)))
    parts.append(jax.nn.one_hot(moves, 25) * (sounds & follows)[..., None])
    for lag in _LAGS:
        before, sounded = (jnp.pad(x, ((0, 0), (lag, 0), (0, 0)))[:, : x.shape[1]] for x in (notes, sounds))
        across = jax.nn.one_hot((notes[..., :, None] - before[..., None, :]) % 12, 12)
        parts.append(across * (sounds[..., :, None] & sounded[..., None, :])[..., None])
    return jnp.concatenate([part.reshape(*valid.shape, -1) for part in parts], axis=-1)


class GroupNorm(nn.Module):
    """Group normalisation of each step by itself.

    Statistics over time would let padding and length into every step of the map; so they are those of a step's groups
    of channels.
    """

    groups: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t c"]) -> Float[Array, "b t c"]:
        grouped = x.reshape(*x.shape[:2], self.groups, -1)
        centred = grouped - jnp.mean(grouped, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        return (centred * jax.lax.rsqrt(variance + _EPSILON)).reshape(x.shape) * scale[None, None] + bias[None, None]


class Judge(nn.Module):
    """See the module; `__call__` gives an Output."""

    config: Config

    @nn.compact
    def __call__(self, pitches: Integer[Array, "b t i"], valid: Bool[Array, "b t"], train: bool) -> Output:
        config = self.config
        inside = valid[:, :, None].astype(jnp.float32)
        roll = pianoroll.from_pitches(pitches) * inside[..., None]
        x = nn.Dense(config.stem_features, name="stem")(_octaves(_side_by_side(roll, 1)))
        x = jnp.concatenate([nn.relu(x).reshape(*valid.shape, -1), _intervals(pitches, valid)], axis=-1)
        x = nn.Dense(config.features, name="merge")(x)
        for number, dilation in enumerate(config.dilations):
            h = x
            for half in ("a", "b"):
                name = f"block_{number}{half}"
                # Zero outside the piece, where normalising would put its bias.
                h = nn.relu(GroupNorm(config.groups, name=f"{name}_norm")(h)) * inside
                # Blocks begin as nothing, so that training begins with what the stem sees: the deep net stood still for
                # its first 100 updates.
                begin = nn.initializers.zeros if half == "b" else nn.initializers.lecun_normal()
                h = nn.Dense(config.features, kernel_init=begin, name=name)(_side_by_side(h, dilation))
            x = x + h
        h = nn.relu(GroupNorm(config.groups, name="last_norm")(x)) * inside
        return self._pool(h, inside, train)

    def _pool(self, h: Float[Array, "b t c"], inside: Float[Array, "b t 1"], train: bool) -> Output:
        """Mean and maximum over valid steps, the classes' logits, and which step gave them how much."""
        count = jnp.maximum(jnp.sum(inside, axis=1), 1.0)
        # The maximum by its place: compared by value, as in jnp.max's gradient too, it may be nowhere, as fused sums
        # round in several ways. Features are >= 0, and 0 outside.
        places = jax.lax.stop_gradient(jnp.argmax(h, axis=1))
        peaks = jnp.where(jnp.arange(h.shape[1])[None, :, None] == places[:, None], h, 0.0)
        features = jnp.concatenate([jnp.sum(h, axis=1) / count, jnp.sum(peaks, axis=1)], axis=-1)
        shape = (features.shape[-1], self.config.num_classes)
        kernel = self.param("classes", nn.initializers.zeros, shape)
        bias = self.param("bias", nn.initializers.zeros, shape[1:])
        seen = nn.Dropout(self.config.dropout)(features, deterministic=not train)
        logits = seen @ kernel + bias[None]
        steps = (jnp.concatenate([h, peaks * count[:, None]], axis=-1) @ kernel + bias[None, None]) * inside
        return Output(logits, steps, features)


def init(key: Key[Array, ""], config: Config) -> Params:
    """Fresh float32 parameters."""
    pitches, valid = jnp.zeros((1, 4, pianoroll.NUM_VOICES), jnp.int8), jnp.ones((1, 4), bool)
    return jax.jit(lambda key: Judge(config).init(key, pitches, valid, train=False)["params"])(key)


def apply(
    params: Params,
    config: Config,
    pitches: Integer[Array, "b t i"],
    valid: Bool[Array, "b t"],
    dropout: Key[Array, ""] | None = None,
) -> Output:
    """Judges pieces.

    Args:
      params: from `init`.
      config: the network's own.
      pitches: MIDI pitches, -1 = rest; anything outside 36..81 sounds as nothing.
      valid: True inside the piece; all else is as if it were not there.
      dropout: key of the features to leave out, in training; None: none.
    """
    rngs = None if dropout is None else {"dropout": dropout}
    output: Any = Judge(config).apply({"params": params}, pitches, valid, train=dropout is not None, rngs=rngs)
    return output


def num_params(params: Params) -> int:
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
