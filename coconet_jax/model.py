"""The network: predicts every note of a score from any given subset of its notes.

Pure functions around one Linen module: `init(key, config)`, `apply(...)`, and `make_predict`, which closes
over the weights and is all that sampling and evaluation see.
"""

from collections.abc import Callable
import dataclasses
from typing import Any, Final, NamedTuple, Protocol, runtime_checkable

from flax import linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from coconet_jax import config as config_lib
from coconet_jax import convolution, pianoroll

Variables = dict[str, Any]  # {"params": ..., "batch_stats": ...}
Predict = Callable[
    [Float[Array, "b t p i"], Bool[Array, "b t i"], Bool[Array, "b t"]],
    Float[Array, "b t p i"],
]
First = Int[Array, " b"] | Int[Array, ""] | int  # the place of the first step in its piece, in steps


@runtime_checkable
class Network(Protocol):
    """A `Predict` that may be told where in their pieces its scores begin; unless told otherwise with a beat."""

    def __call__(
        self,
        roll: Float[Array, "b t p i"],
        context: Bool[Array, "b t i"],
        valid: Bool[Array, "b t"],
        first: First = 0,
        /,
    ) -> Float[Array, "b t p i"]: ...


PredictStep = Callable[
    [Float[Array, "b w p i"], Bool[Array, "b w i"], Bool[Array, "b w"], Int[Array, " b"]],
    Float[Array, "b p i"],
]
SILENCE_STEPS: Final = 4  # given around a piece that begins and ends


class LayerSpec(NamedTuple):
    """One convolution layer: square kernel, dilation (time, pitch), output channels, whether separable."""

    kernel: int
    dilation: tuple[int, int]
    features: int
    separable: bool


def layer_specs(config: config_lib.Model) -> list[LayerSpec]:
    """The layers of the released code: 3x3 everywhere but in the last two, dilations cycled over the inner ones."""
    inner = config.num_layers - 3
    dilations = [config.dilations[n % len(config.dilations)] for n in range(inner)]
    shapes = [(3, (1, 1), config.num_filters)]
    shapes += [(3, dilation, config.num_filters) for dilation in dilations]
    shapes += [(config.last_kernel, (1, 1), config.num_filters), (config.last_kernel, (1, 1), pianoroll.NUM_VOICES)]
    separable_from = config.full_layers if config.architecture == "separable" else config.num_layers
    return [LayerSpec(k, d, f, n >= separable_from) for n, (k, d, f) in enumerate(shapes)]


def reach(config: config_lib.Model) -> tuple[int, int]:
    """Steps before and after a step that its logits depend on (the receptive field in time, less the step)."""
    spans = [_reach_of(spec) for spec in layer_specs(config)]
    return sum(before for before, _ in spans), sum(after for _, after in spans)


def _reach_of(spec: LayerSpec) -> tuple[int, int]:
    span = (spec.kernel - 1) * spec.dilation[0]
    return span // 2, span - span // 2


def compute_dtype(config: config_lib.Model) -> jnp.dtype:
    """The dtype of activations; `auto` is bfloat16 on accelerators and float32 on CPU."""
    if config.dtype == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    return jnp.dtype(config.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation whose statistics leave padding out and span the mapped axis.

    (flax.linen.BatchNorm averages the devices' means alike, whatever number of cells each holds; here sums
    and counts are added over the axis, so that padded batches give the same result on any number of devices.)
    """

    momentum: float
    epsilon: float
    scale_init: float
    train_bias: bool
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Float[Array, "b t p c"], valid: Bool[Array, "b t"], train: bool) -> Float[Array, "b t p c"]:
        channels = x.shape[-1]
        scale = self.param("scale", nn.initializers.constant(self.scale_init), (channels,))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        if not self.train_bias:
            bias = jax.lax.stop_gradient(bias)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (channels,))
        if train:
            x32 = x.astype(jnp.float32)
            count = jnp.sum(valid).astype(jnp.float32) * x.shape[2]
            total = _sum_inside(x32, valid)
            if self.axis_name is not None:
                total, count = jax.lax.psum((total, count), self.axis_name)
            mean = total / count
            squares = _sum_inside(jnp.square(x32 - _per_channel(mean, x32)), valid)
            if self.axis_name is not None:
                squares = jax.lax.psum(squares, self.axis_name)
            var = squares / count
            if not self.is_initializing():
                keep = self.momentum
                running_mean.value = keep * running_mean.value + (1 - keep) * mean
                running_var.value = keep * running_var.value + (1 - keep) * var
        else:
            mean, var = running_mean.value, running_var.value
        # One multiply-add an activation: the factors are folded in float32 first.
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        return x * _per_channel(factor, x) + _per_channel(bias - mean * factor, x)


class Layer(nn.Module):
    """Convolution, BatchNorm, residual, activation, and zero outside the piece (in this order, as released)."""

    spec: LayerSpec
    config: config_lib.Model
    activate: bool
    axis_name: str | None
    narrow: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b t p c"],
        skip: Float[Array, "b s p f"] | None,
        valid: Bool[Array, "b s"],
        train: bool,
    ) -> Float[Array, "b s p f"]:
        spec, config = self.spec, self.config
        dtype = compute_dtype(config)
        mixed = None
        if config.pitch_mixing and x.shape[-1] == spec.features:
            rows = x.shape[2]
            intervals = self.param("intervals", nn.initializers.normal(0.3 * rows**-0.5), (2 * rows - 1, x.shape[-1]))
            mixed = convolution.across_pitch(_crop(x, spec) if self.narrow else x, intervals.astype(dtype))
        # No bias: BatchNorm's follows. He-normal without truncation, as released.
        if spec.separable:
            depth_kernel = self.param(
                "depthwise",
                nn.initializers.normal((2 / spec.kernel**2) ** 0.5),
                (spec.kernel, spec.kernel, x.shape[-1]),
            )
            x = convolution.depthwise(x, depth_kernel.astype(dtype), spec.dilation, narrow=self.narrow)
            splits = config.pointwise_splits if spec.features == config.num_filters else 1
            pointwise = self.param("pointwise", _he_normal, (1, 1, x.shape[-1] // splits, spec.features))
            x = convolution.pointwise(x, pointwise.astype(dtype), splits)
        else:
            kernel = self.param("kernel", _he_normal, (spec.kernel, spec.kernel, x.shape[-1], spec.features))
            x = convolution.full(x, kernel.astype(dtype), spec.dilation, narrow=self.narrow)
        if mixed is not None:
            x = x + mixed
        x = BatchNorm(
            config.bn_momentum,
            config.bn_epsilon,
            config.bn_scale_init,
            # A softmax over pitch does not see what is added to all pitches alike: the last layer's bias has no
            # gradient but rounding, which Adam would blow up to steps of full size.
            self.activate,
            self.axis_name,
            name="norm",
        )(x, valid, train)
        if skip is not None:
            x = x + skip
        if self.activate:
            x = nn.relu(x)
        # Without this, what BatchNorm writes into the padding leaks into the piece by the next convolution.
        return x * valid[:, :, None, None].astype(x.dtype)


def _he_normal(key: Key[Array, ""], shape: tuple[int, ...], dtype: jax.typing.DTypeLike = jnp.float32) -> Array:
    fan_in = 1
    for size in shape[:-1]:
        fan_in *= size
    return jax.random.normal(key, shape, dtype) * jnp.asarray((2 / fan_in) ** 0.5, dtype)


class Coconet(nn.Module):
    """The convolutional network of the paper, section 3 (straight) or of the Bach Doodle (separable, dilated).

    Where `narrow`, the logits are those of the steps alone whose whole receptive field is in the input, and each layer
    computes what the next one needs of them: s = t - before - after steps (`reach`).
    """

    config: config_lib.Model
    axis_name: str | None = None
    narrow: bool = False

    @nn.compact
    def __call__(
        self,
        roll: Float[Array, "b t p i"],
        context: Bool[Array, "b t i"],
        valid: Bool[Array, "b t"],
        train: bool,
        first: First = 0,
        keep: Float[Array, "b k f"] | None = None,
    ) -> Float[Array, "b s p i"]:
        dtype = compute_dtype(self.config)
        given = jnp.broadcast_to((context & valid[..., None])[:, :, None, :], roll.shape).astype(dtype)
        x = jnp.concatenate([roll.astype(dtype) * given, given], axis=-1)
        layer_class = nn.remat(Layer, static_argnums=(4,)) if self.config.remat else Layer
        specs = layer_specs(self.config)
        skip = None
        for n, spec in enumerate(specs):
            # Layers 1 and 2, 3 and 4, ... form residual pairs; the first and the last stand alone.
            ends_pair = n % 2 == 0 and 0 < n < len(specs) - 1
            if n % 2 == 1:
                skip = x = convolution.once(x, roll)
            if self.narrow:
                valid = _crop(valid, spec)
                skip = None if skip is None else _crop(skip, spec)
            activate = n < len(specs) - 1
            layer = layer_class(spec, self.config, activate, self.axis_name, self.narrow, name=f"layer_{n:02d}")
            x = layer(x, skip if ends_pair else None, valid, train)
            if keep is not None and n % 2 == 1 and n // 2 < num_pairs(self.config):
                x = x * keep[:, n // 2, None, None].astype(dtype)
            if n == 0 and (self.config.pitch_embedding or self.config.beat_steps):
                begins = first + (_reach_of(spec)[0] if self.narrow else 0)
                x = self._place(x, begins) * valid[:, :, None, None].astype(dtype)
        logits = x.astype(jnp.float32)
        if self.config.pitch_embedding:
            bias = self.param("pitch_bias", nn.initializers.zeros, roll.shape[2:])
            # Adam moves a parameter by at most its rate a step, and an offset has nats to go: ten times as fast.
            logits = (logits + 10 * bias[None, None]) * valid[:, :, None, None]
        return logits

    def _place(self, x: Float[Array, "b t p f"], first: First) -> Float[Array, "b t p f"]:
        """Adds the learned offsets of pitches, and of the steps of a beat."""
        if self.config.pitch_embedding:
            x = x + self.param("pitch_embedding", nn.initializers.zeros, x.shape[2:])[None, None].astype(x.dtype)
        if count := self.config.beat_steps:
            offsets = self.param("beat_embedding", nn.initializers.zeros, (count, x.shape[-1])).astype(x.dtype)
            # A product and no lookup: its gradient is one too.
            steps = (jnp.reshape(jnp.asarray(first), (-1, 1)) + jnp.arange(x.shape[1])[None]) % count
            x = x + (jax.nn.one_hot(steps, count, dtype=x.dtype) @ offsets)[:, :, None]
        return x


def _crop(x: Array, spec: LayerSpec) -> Array:
    before, after = _reach_of(spec)
    return x[:, before : x.shape[1] - after]


def num_pairs(config: config_lib.Model) -> int:
    """Residual pairs: layers 1 and 2, 3 and 4, ..., without the last layer; the first stands alone too."""
    return (config.num_layers - 2) // 2


def init(key: Key[Array, ""], config: config_lib.Model) -> Variables:
    """Fresh float32 variables {"params", "batch_stats"}; shapes depend neither on batch nor on length."""
    roll = jnp.zeros((1, 4, pianoroll.NUM_PITCHES, pianoroll.NUM_VOICES))
    flags = jnp.ones((1, 4, pianoroll.NUM_VOICES), bool)
    return jax.jit(lambda k: Coconet(config).init(k, roll, flags, flags[..., 0], train=False))(key)


def extend(
    variables: Variables, config: config_lib.Model, wanted: config_lib.Model, key: Key[Array, ""]
) -> Variables | None:
    """The same function by a larger net, to train on: one of more layers, or one that knows beats.

    New layers come in pairs before the last three, and each pair adds nothing to what it is given until it is trained:
    the scale of its second BatchNorm is 0.

    Args:
      variables: of the smaller net.
      config: of the smaller net.
      wanted: of the larger one.
      key: of the new layers' kernels.

    Returns:
      None where `wanted` is no such net.
    """
    more, split = wanted.num_layers - config.num_layers, config.num_layers - 3
    specs, old = layer_specs(wanted), layer_specs(config)
    known = dataclasses.replace(config, num_layers=wanted.num_layers, dilations=wanted.dilations)
    if config.beat_steps == 0:
        known = dataclasses.replace(known, beat_steps=wanted.beat_steps)
    # Pairs begin with odd layers: in a net of an odd number of them a new pair would tear another apart; and after the
    # first layer offsets may be below 0, which the ReLU of a pair would cut off.
    if (
        known != wanted
        or more < 0
        or more % 2
        or (more and (split % 2 == 0 or split < 3))
        or specs[:split] + specs[split + more :] != old
    ):
        return None
    fresh = init(key, wanted)
    for kind, values in fresh.items():
        for name in values:
            number = int(name.removeprefix("layer_")) if name.startswith("layer_") else -1
            if split <= number < split + more:
                if kind == "params" and number % 2 == 0:
                    values[name]["norm"]["scale"] = jnp.zeros_like(values[name]["norm"]["scale"])
                continue
            stored = f"layer_{number - more:02d}" if number >= split + more else name
            values[name] = variables[kind].get(stored, values[name])  # what is not there, of beats, begins at nothing
    return fresh


def _sum_inside(x: Float[Array, "b t p c"], valid: Bool[Array, "b t"]) -> Float[Array, " c"]:
    # Over pitch first, so that no mask of the size of x is made, which takes XLA for CPU twice as long.
    return jnp.sum(jnp.sum(x, axis=2) * valid[:, :, None].astype(x.dtype), axis=(0, 1))


def _per_channel(factor: Float[Array, " c"], like: Float[Array, "b t p c"]) -> Float[Array, "1 1 1 c"]:
    return factor[None, None, None, :].astype(like.dtype)


def apply(
    variables: Variables,
    config: config_lib.Model,
    roll: Float[Array, "b t p i"],
    context: Bool[Array, "b t i"],
    valid: Bool[Array, "b t"],
    *,
    train: bool,
    axis_name: str | None = None,
    first: First = 0,
    keep: Float[Array, "b k f"] | None = None,
) -> tuple[Float[Array, "b t p i"], Variables]:
    """Logits over pitch for every variable, and the BatchNorm statistics.

    Args:
      variables: from `init` or a checkpoint.
      config: the network's own.
      roll: the true notes; only those under `context` are seen.
      context: True where a note is given.
      valid: True inside the piece; all else is treated as if it were not there.
      train: normalise by the batch and update the statistics, rather than use them.
      axis_name: the mapped axis over which the batch's statistics are taken, if any.
      first: place of the first step in its piece, which begins with a beat; any multiple of a beat (`beat_steps`) more
        or less is the same.
      keep: factors of a dropout (`steps.draw_dropout`), of the channels between the two layers of each residual pair;
        heeded where `train`. Whole channels, as neighbouring cells of one say much the same (Tompson et al. 2015, arXiv
        1411.4280, section 3.2).

    Returns:
      Float32 logits, and batch_stats (updated where `train`).
    """
    module = Coconet(config, axis_name)
    if train:
        logits, updates = module.apply(variables, roll, context, valid, True, first, keep, mutable=["batch_stats"])
        return logits, updates["batch_stats"]
    predicted: Any = module.apply(variables, roll, context, valid, False, first)
    return predicted, variables["batch_stats"]


def make_predict(variables: Variables, config: config_lib.Model) -> Network:
    """`predict(roll, context, valid, first=0) -> logits`: the network as sampling and evaluation see it."""

    def predict(
        roll: Float[Array, "b t p i"], context: Bool[Array, "b t i"], valid: Bool[Array, "b t"], first: First = 0, /
    ) -> Float[Array, "b t p i"]:
        return apply(variables, config, roll, context, valid, train=False, first=first)[0]

    return predict


def make_predict_step(variables: Variables, config: config_lib.Model) -> PredictStep:
    """The network as evaluation sees it: the logits of one step from the steps they depend on, and nothing else.

    `predict_step(roll, context, valid, first) -> logits` takes windows of before + 1 + after steps (`reach(config)`)
    around the step, the first of which is step `first` of the piece. They are the logits of the whole piece, at about
    half the work that the window would take: of each layer only the steps are computed that the step still depends on.
    """

    def predict_step(
        roll: Float[Array, "b w p i"], context: Bool[Array, "b w i"], valid: Bool[Array, "b w"], first: Int[Array, " b"]
    ) -> Float[Array, "b p i"]:
        module = Coconet(config, narrow=True)
        logits: Any = module.apply(variables, roll, context, valid, False, first)
        return logits[:, 0]

    return predict_step


def between_silences(predict: Network, ends: Bool[Array, "b 2"]) -> Network:
    """The same function of scores that begin with their first step, or end with their last, or both.

    To a network whose crops showed how pieces begin and end (`data.ends`), silence that is given tells of it. Where a
    piece goes on, what is added is not there.

    Args:
      predict: the network.
      ends: of each score, whether it begins and whether it ends.
    """

    def predict_between(
        roll: Float[Array, "b t p i"], context: Bool[Array, "b t i"], valid: Bool[Array, "b t"], first: First = 0, /
    ) -> Float[Array, "b t p i"]:
        rows = ends.shape[0]  # a symbol, in a program for any number (export.py)
        before, after = (jnp.broadcast_to(ends[:, n : n + 1], (rows, SILENCE_STEPS)) for n in (0, 1))
        voices = (SILENCE_STEPS, context.shape[2])
        sides = [jnp.broadcast_to(side[..., None], (rows, *voices)) for side in (before, after)]
        logits = predict(
            jnp.pad(roll, ((0, 0), (SILENCE_STEPS, SILENCE_STEPS), (0, 0), (0, 0))),
            jnp.concatenate([sides[0], context, sides[1]], axis=1),
            jnp.concatenate([before, valid, after], axis=1),
            first - SILENCE_STEPS,
        )
        return logits[:, SILENCE_STEPS:-SILENCE_STEPS]

    return predict_between


def in_windows(predict: Network, reach: tuple[int, int], window_steps: int) -> Network:
    """The same function of scores of any length, in memory that does not grow with it.

    Logits are computed for one window after another, each with as much of the piece around it as they depend on, so
    that they are those of the whole piece and there is no seam.

    Args:
      predict: the network.
      reach: from `reach(config)`.
      window_steps: steps of a window; pieces that are not longer are passed on whole.
    """
    before, after = reach

    def predict_in_windows(
        roll: Float[Array, "b t p i"], context: Bool[Array, "b t i"], valid: Bool[Array, "b t"], first: First = 0, /
    ) -> Float[Array, "b t p i"]:
        steps = roll.shape[1]
        if steps <= window_steps + before + after:
            return predict(roll, context, valid, first)
        count = -(-steps // window_steps)
        around = (before, count * window_steps - steps + after)
        padded = [jnp.pad(x, [(0, 0), around] + [(0, 0)] * (x.ndim - 2)) for x in (roll, context, valid)]

        def one(start: Int[Array, ""]) -> Float[Array, "b w p i"]:
            size = before + window_steps + after
            notes, given, inside = (jax.lax.dynamic_slice_in_dim(x, start, size, axis=1) for x in padded)
            part = predict(notes, given, inside, first + start - before)
            return part[:, before : before + window_steps]

        parts = jax.lax.map(one, jnp.arange(count) * window_steps)
        return jnp.moveaxis(parts, 0, 1).reshape(roll.shape[0], count * window_steps, *roll.shape[2:])[:, :steps]

    return predict_in_windows


def step_bytes(config: config_lib.Model) -> int:
    """Memory that a forward pass takes for one step of one piece: input, skip, output and parts of them.

    XLA's plan of it on CPU: 3.0 activations of all layers' channels for `small`, 4.3 for `paper`, 6.6 for `separable`.
    """
    activations = 8  # and some for the workspace of an accelerator's library
    return activations * pianoroll.NUM_PITCHES * config.num_filters * compute_dtype(config).itemsize


def num_params(variables: Variables) -> int:
    """Number of trained parameters (BatchNorm's running statistics are not among them)."""
    return sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
