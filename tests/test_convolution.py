"""Convolutions and their hand-made gradients against XLA's own."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from coconet_jax import convolution, devices

DILATIONS = ((1, 1), (2, 2), (4, 8), (16, 32))
STEPS, ROWS = 19, 35  # so that even the largest dilation meets cells, and no side is even


def xla_full(x, kernel, dilation):
    dimensions = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", rhs_dilation=dilation, dimension_numbers=dimensions)


def xla_depthwise(x, kernel, dilation):
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None, :],
        (1, 1),
        "SAME",
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def arrays(batch: int, shape: tuple[int, ...], features: int, steps: int = STEPS, rows: int = ROWS):
    """Input, kernel and cotangent."""
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.normal(keys[0], (batch, steps, rows, shape[2])),
        jax.random.normal(keys[1], shape),
        jax.random.normal(keys[2], (batch, steps, rows, features)),
    )


def value_and_gradients(function, dilation, x, kernel, cotangent):
    value, pull = jax.vjp(functools.partial(function, dilation=dilation), x, kernel)
    return value, *pull(cotangent)


def assert_equal_for_all(own, theirs, cases) -> None:
    """Compares value, input gradient and kernel gradient for each (dilation, arrays); one program for all."""

    def all_cases(function):
        dilations = [dilation for dilation, _ in cases]
        run = jax.jit(lambda many: [value_and_gradients(function, d, *a) for d, a in zip(dilations, many, strict=True)])
        return run([arrays for _, arrays in cases])

    for (dilation, (x, kernel, _)), found, expected in zip(cases, all_cases(own), all_cases(theirs), strict=True):
        for what, a, b in zip(("value", "input", "kernel"), found, expected, strict=True):
            assert a.shape == b.shape
            a, b = np.asarray(a), np.asarray(b)
            assert np.abs(b).max() > 0.1
            error = np.abs(a - b).max() / np.abs(b).max()
            assert error < 1e-5, f"{what}: {error} at dilation {dilation}, input {x.shape}, kernel {kernel.shape}"


# 4 and 28: the plain sum, and one matrix product an example for the kernel; 32: half the products (winograd.py), where
# tiles are filled well: up to dilation 2 of 19 steps.
@pytest.mark.parametrize("channels", [4, 28, 32])
@pytest.mark.parametrize("size", [2, 3])
def test_full_equals_xla(channels, size):
    cases = [(d, arrays(3, (size, size, channels, channels), channels)) for d in DILATIONS]
    assert_equal_for_all(convolution.full, xla_full, cases)


@pytest.mark.parametrize("shape", [(3, 3, 8, 20), (2, 2, 32, 4), (3, 3, 8, 40), (3, 3, 29, 40)])
def test_full_equals_xla_for_unequal_channels_and_any_batch(shape):
    cases = [((2, 4), arrays(batch, shape, shape[3], 9, 11)) for batch in (1, 4, 5)]
    assert_equal_for_all(convolution.full, xla_full, cases)


@pytest.mark.parametrize("size", [2, 3])
def test_depthwise_equals_xla(size):
    cases = [(d, arrays(b, (size, size, 5), 5)) for d, b in zip(DILATIONS, (1, 3, 4, 2), strict=True)]
    assert_equal_for_all(convolution.depthwise, xla_depthwise, cases)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "function, channels", [(convolution.full, (5, 6)), (convolution.full, (32, 32)), (convolution.depthwise, (5,))]
)
def test_narrow_gives_the_steps_that_no_padding_reaches(function, channels, size):
    for dilation in ((1, 1), (2, 2), (4, 8)):
        x, kernel, _ = arrays(2, (size, size, *channels), channels[-1])
        span = (size - 1) * dilation[0]
        whole = function(x, kernel, dilation)[:, span // 2 : STEPS - (span - span // 2)]
        largest = np.abs(whole).max()
        np.testing.assert_allclose(function(x, kernel, dilation, narrow=True), whole, atol=5e-6 * largest)


def test_across_pitch_equals_xla():
    def theirs(x, kernel):
        padded = jnp.pad(x, ((0, 0), (0, 0), (ROWS - 1, ROWS - 1), (0, 0)))
        return jax.lax.conv_general_dilated(
            padded,
            kernel[None, ::-1, None, :],  # entry n moves a note by n - (ROWS - 1) rows
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=x.shape[-1],
        )

    x, _, cotangent = arrays(2, (1, 1, 5), 5)
    kernel = jax.random.normal(jax.random.key(1), (2 * ROWS - 1, 5))
    for own, expected in zip(
        *(jax.vjp(f, x, kernel)[1](cotangent) + (f(x, kernel),) for f in (convolution.across_pitch, theirs)),
        strict=True,
    ):
        np.testing.assert_allclose(own, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("splits", [1, 2])
def test_pointwise_equals_xla(splits):
    def xla(x, kernel, dilation):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=dimensions, feature_group_count=splits
        )

    cases = [((1, 1), arrays(batch, (1, 1, 6), 8)) for batch in (1, 3)]
    cases = [(d, (x, jax.random.normal(jax.random.key(9), (1, 1, 6 // splits, 8)), grad)) for d, (x, _, grad) in cases]
    assert_equal_for_all(lambda x, kernel, dilation: convolution.pointwise(x, kernel, splits), xla, cases)


@pytest.mark.parametrize(
    "function, shape",
    [(convolution.full, (3, 3, 5, 5)), (convolution.full, (3, 3, 32, 32)), (convolution.depthwise, (3, 3, 5))],
)
def test_what_accelerators_compute_is_the_same(function, shape, monkeypatch):
    """Here on the CPU."""
    x, kernel, grad = arrays(3, shape, shape[-1])
    run = lambda: value_and_gradients(function, (2, 4), x, kernel, grad)  # noqa: E731
    here = run()
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *args, default, **_: default(*args))
    for a, b in zip(here, run(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max())


def lowered_for(platform: str, function, *args) -> str:
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("channels", [4, 32])
def test_full_is_xlas_own_on_accelerators(platform, channels):
    """Also where it is compiled on another machine, for them."""
    x, kernel, grad = arrays(1, (3, 3, channels, channels), channels)

    def program(convolve) -> str:
        return lowered_for(platform, lambda *a: value_and_gradients(convolve, (2, 1), *a), x, kernel, grad)

    own, theirs = (program(f).count("stablehlo.convolution") for f in (convolution.full, xla_full))
    assert own == theirs == 3
    assert "dot_general" not in program(convolution.full)
    assert "dot_general" in lowered_for(
        "cpu", lambda *a: value_and_gradients(convolution.full, (2, 1), *a), x, kernel, grad
    )


def multiplications(function, x, kernel) -> float:
    """Of the convolutions alone, by their shapes."""
    found = 0
    for equation in jax.make_jaxpr(lambda x, k: function(x, k, (1, 1)))(x, kernel).eqns:
        if equation.primitive.name == "conv_general_dilated":
            found += equation.outvars[0].aval.size * equation.invars[1].aval.size // kernel.shape[-1]
    return found


def test_winograd_takes_half_the_multiplications_of_float32_alone():
    x, kernel, _ = arrays(1, (3, 3, 32, 32), 32, 64)
    assert multiplications(convolution._forward_on_cpu, x, kernel) == multiplications(xla_full, x, kernel) / 2
    low = [a.astype(jnp.bfloat16) for a in (x, kernel)]
    assert multiplications(convolution._forward_on_cpu, *low) == multiplications(xla_full, x, kernel)


OWN = [(convolution.full, (3, 3, 6, 6)), (convolution.full, (3, 3, 32, 32)), (convolution.depthwise, (3, 3, 6))]


@pytest.mark.parametrize("function, shape", OWN)
def test_under_checkpoint(function, shape):
    x, kernel, _ = arrays(2, shape, shape[-1], 8, 9)

    def loss(x, kernel):
        return jnp.sum(jnp.sin(function(x, kernel, (1, 2))))

    plain = jax.jit(jax.grad(loss, argnums=(0, 1)))(x, kernel)
    again = jax.jit(jax.grad(jax.checkpoint(loss), argnums=(0, 1)))(x, kernel)
    for a, b in zip(again, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function, shape, parallel", [(*own, "shard_map") for own in OWN] + [(*OWN[0], "pmap")])
def test_gradients_over_devices_are_the_whole_batchs(function, shape, parallel):
    x, kernel, _ = arrays(8, shape, shape[-1], 8, 9)

    def loss(kernel, x):
        return jnp.sum(jnp.sin(function(x, kernel, (2, 1))))

    def body(kernel, x):
        return jax.lax.psum(jax.grad(loss)(kernel, x), devices.AXIS)

    mesh = devices.make_mesh(4)
    mapped = devices.map_body(body, mesh, parallel, sharded=(False, True))
    found = mapped(devices.replicate(kernel, mesh), devices.shard_rows(x, mesh))
    expected = np.asarray(jax.jit(jax.grad(loss))(kernel, x))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("function, shape", OWN)
def test_gradients_keep_the_dtype(function, shape):
    x, kernel, cotangent = (a.astype(jnp.bfloat16) for a in arrays(2, shape, shape[-1], 4, 5))
    outputs = jax.eval_shape(lambda *a: value_and_gradients(function, (1, 1), *a), x, kernel, cotangent)
    assert [o.dtype for o in outputs] == [jnp.bfloat16] * 3
    assert [o.shape for o in outputs] == [cotangent.shape, x.shape, kernel.shape]


def residual_net(x: jax.Array, kernels: list[jax.Array]) -> jax.Array:
    """Pairs of convolutions, each pair added to what came before it."""
    for first, second in zip(kernels[::2], kernels[1::2], strict=True):
        skip = x = convolution.once(x, kernels[0])
        x = jax.nn.relu(convolution.full(x, first, (1, 1)))
        x = jax.nn.relu(convolution.full(x, second, (1, 1)) + skip)
    return x


def test_once_is_the_identity_with_its_gradient():
    x, kernel, grad = arrays(3, (3, 3, 4, 4), 4)
    value, pull = jax.vjp(convolution.once, x, kernel)
    np.testing.assert_array_equal(value, x)
    back, none = pull(grad)
    np.testing.assert_array_equal(back, grad)
    assert not none.any()


def test_a_residual_chain_takes_memory_that_does_not_grow_with_its_depth():
    """Where sums are computed anew by each of their users, the outputs of all layers before are kept for that."""
    x, kernel, _ = arrays(2, (3, 3, 4, 4), 4)

    def temporary_bytes(depth: int) -> int:
        memory = jax.jit(residual_net).lower(x, [kernel] * depth).compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert temporary_bytes(24) < 1.5 * temporary_bytes(8)


def test_once_is_nothing_on_accelerators():
    x, kernel, _ = arrays(1, (3, 3, 4, 4), 4)
    assert "gather" in lowered_for("cpu", convolution.once, x, kernel)
    for platform in ("cuda", "tpu"):
        assert "gather" not in lowered_for(platform, convolution.once, x, kernel)
