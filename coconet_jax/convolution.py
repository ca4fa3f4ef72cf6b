"""Convolutions over [b, time, pitch, channel] with SAME padding, fast on accelerators and on CPU.

On accelerators a full convolution is XLA's own, gradient included. On CPU it takes half the multiplications where
channels are many (winograd.py), and the kernel gradient, for which XLA is slow there, is formulated anew.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

from coconet_jax import winograd

Dilation = tuple[int, int]


def _pads(size: int, dilation: Dilation) -> list[tuple[int, int]]:
    spans = [(size - 1) * d for d in dilation]
    return [(span // 2, span - span // 2) for span in spans]


def _plain(
    x: Float[Array, "b t p c"], kernel: Float[Array, "k k c f"], dilation: Dilation, narrow: bool = False
) -> Float[Array, "b s p f"]:
    in_time, in_pitch = _pads(kernel.shape[0], dilation)
    pads = [(0, 0) if narrow else in_time, in_pitch]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), pads, rhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def full(
    x: Float[Array, "b t p c"], kernel: Float[Array, "k k c f"], dilation: Dilation, *, narrow: bool = False
) -> Float[Array, "b s p f"]:
    """Full convolution with a square kernel, dilated in (time, pitch); s = t, or where `narrow` only the steps that
    no padding reaches."""
    return _forward(x, kernel, dilation, narrow=True) if narrow else _full_same(x, kernel, dilation)


def _forward(
    x: Float[Array, "b t p c"], kernel: Float[Array, "k k c f"], dilation: Dilation, narrow: bool = False
) -> Float[Array, "b s p f"]:
    # By the platform that a program is compiled for, which need not be this one (export.py).
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: _forward_on_cpu(x, kernel, dilation, narrow),
        default=lambda x, kernel: _plain(x, kernel, dilation, narrow),
    )


def _forward_on_cpu(
    x: Float[Array, "b t p c"], kernel: Float[Array, "k k c f"], dilation: Dilation, narrow: bool = False
) -> Float[Array, "b s p f"]:
    steps = x.shape[1] - 2 * dilation[0] if narrow else x.shape[1]
    if _by_winograd(x.dtype, kernel, steps, dilation):
        return winograd.convolve(x, kernel, dilation, narrow=narrow)
    return _plain(x, kernel, dilation, narrow)


def _by_winograd(dtype: jnp.dtype, kernel: Float[Array, "k k c f"], steps: Any, dilation: Dilation) -> bool:
    """For few channels the sums cost more than the products they save (benchmarks/convolution.py)."""
    size, _, channels, features = kernel.shape
    many = size == 3 and min(channels, features) > 28
    known = isinstance(steps, int)  # or a symbol, in a program for any length (export.py)
    return many and known and dtype == jnp.float32 and winograd.pays(steps, dilation[0])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _full_same(
    x: Float[Array, "b t p c"], kernel: Float[Array, "k k c f"], dilation: Dilation
) -> Float[Array, "b t p f"]:
    return _forward(x, kernel, dilation)


def _full_backward(dilation: Dilation, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    return jax.lax.platform_dependent(
        *saved,
        grad,
        cpu=lambda x, kernel, grad: _backward_on_cpu(x, kernel, grad, dilation),
        default=lambda x, kernel, grad: jax.vjp(lambda x, kernel: _plain(x, kernel, dilation), x, kernel)[1](grad),
    )


_full_same.defvjp(lambda x, kernel, dilation: (_forward(x, kernel, dilation), (x, kernel)), _full_backward)


def _backward_on_cpu(
    x: Float[Array, "b t p c"], kernel: Float[Array, "k k c f"], grad: Float[Array, "b t p f"], dilation: Dilation
) -> tuple[Float[Array, "b t p c"], Float[Array, "k k c f"]]:
    if _by_winograd(x.dtype, kernel, x.shape[1], dilation):
        # Of a kernel of odd size the padding is the same on both sides: the input's gradient is the convolution
        # with the kernel turned round.
        turned = kernel[::-1, ::-1].transpose(0, 1, 3, 2)
        return winograd.convolve(grad, turned, dilation), winograd.kernel_gradient(x, grad, dilation)
    grad_x = jax.vjp(lambda x: _plain(x, kernel, dilation), x)[1](grad)[0]
    return grad_x, _kernel_gradient_as_product(x, grad, kernel.shape[0], dilation)


def _kernel_gradient_as_product(
    x: Float[Array, "b t p c"], grad: Float[Array, "b t p f"], size: int, dilation: Dilation
) -> Float[Array, "k k c f"]:
    """The kernel's gradient as one matrix product an example: x shifted in pitch against the gradient shifted in time.

    Entry (i,j) of the kernel is sum over cells of x[t+i,p+j] grad[t,p] = x[t',p+j] grad[t'-i,p]: k copies of
    each side, a (k c) x (k f) product over all cells. Three times the memory of the activations in place of
    the nine of a patch matrix, and a product large enough to run at the speed of a matrix product. One example after
    another, so that the copies stay in a core's cache: an eighth of the time of a training step of `small`.
    """
    channels, features = x.shape[-1], grad.shape[-1]
    (before_t, after_t), (before_p, after_p) = _pads(size, dilation)
    steps, rows = x.shape[1:3]
    span = before_t + after_t

    def add(total: Float[Array, "kc kf"], example: tuple[Array, Array]) -> tuple[Float[Array, "kc kf"], None]:
        x, grad = example
        padded = jnp.pad(x, ((before_t, after_t), (before_p, after_p), (0, 0)))
        xs = [padded[:, j * dilation[1] : j * dilation[1] + rows] for j in range(size)]
        grown = jnp.pad(grad, ((span, span), (0, 0), (0, 0)))
        grads = [grown[start : start + steps + span] for start in (span - i * dilation[0] for i in range(size))]
        return total + _side_by_side(xs).T @ _side_by_side(grads), None

    product = jax.lax.scan(add, jnp.zeros((size * channels, size * features), x.dtype), (x, grad))[0]
    return product.reshape(size, channels, size, features).transpose(2, 0, 1, 3)


def _side_by_side(copies: list[Float[Array, "t p c"]]) -> Float[Array, "n kc"]:
    return jnp.concatenate(copies, axis=-1).reshape(-1, len(copies) * copies[0].shape[-1])


@jax.custom_vjp
def once(x: Float[Array, "b t p c"], like: Float[Array, "..."]) -> Float[Array, "b t p c"]:
    """x itself, computed once on CPU however many use it.

    XLA for CPU computes cheap operations anew in each fusion that uses them. Along a chain of residual sums every sum
    then begins at the first layer: time and memory grow with the square of the depth (48 layers of 20 channels: 1.6
    times the time forward, 1.3 times with gradients; benchmarks/residual.py). It does not duplicate a gather, so this
    is one, of all rows in order.

    Args:
      x: a value with several users.
      like: any input of the program; the compiler cannot know that it equals itself, as what is not a number does not,
        and so neither that all rows stay in place.
    """
    return _gather(x, like)


def _gather(x: Array, like: Array) -> Array:
    def in_order(x: Array, first: Array) -> Array:
        return x[jnp.arange(x.shape[0]) + (first != first).astype(jnp.int32)]

    return jax.lax.platform_dependent(x, like.ravel()[0], cpu=in_order, default=lambda x, _: x)


once.defvjp(lambda x, like: (_gather(x, like), like), lambda like, grad: (grad, jnp.zeros_like(like)))


def depthwise(
    x: Float[Array, "b t p c"], kernel: Float[Array, "k k c"], dilation: Dilation, *, narrow: bool = False
) -> Float[Array, "b s p c"]:
    """Depthwise convolution as a sum of k*k shifted products; `narrow` as in `full`.

    XLA's grouped convolution is far slower on CPU than these fused multiply-adds.
    """
    if narrow:
        return _shifted_sum(x, kernel, dilation, ((0, 0), _pads(kernel.shape[0], dilation)[1]))
    return _depthwise_same(x, kernel, dilation)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise_same(
    x: Float[Array, "b t p c"], kernel: Float[Array, "k k c"], dilation: Dilation
) -> Float[Array, "b t p c"]:
    in_time, in_pitch = _pads(kernel.shape[0], dilation)
    return _shifted_sum(x, kernel, dilation, (in_time, in_pitch))


def _shifted_sum(
    x: Float[Array, "b t p c"],
    kernel: Float[Array, "k k c"],
    dilation: Dilation,
    pads: tuple[tuple[int, int], tuple[int, int]],
) -> Float[Array, "b s p c"]:
    size = kernel.shape[0]
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    steps, rows = (padded.shape[axis + 1] - (size - 1) * dilation[axis] for axis in (0, 1))
    out = jnp.zeros((x.shape[0], steps, rows, x.shape[3]), x.dtype)
    for i in range(size):
        for j in range(size):
            time, pitch = i * dilation[0], j * dilation[1]
            out += padded[:, time : time + steps, pitch : pitch + rows] * kernel[i, j][None, None, None, :]
    return out


def _depthwise_forward(x: Array, kernel: Array, dilation: Dilation) -> tuple[Array, tuple[Array, Array]]:
    return _depthwise_same(x, kernel, dilation), (x, kernel)


def _depthwise_backward(dilation: Dilation, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    x, kernel = saved
    size = kernel.shape[0]
    (before_t, after_t), (before_p, after_p) = _pads(size, dilation)
    # The input's gradient is the same sum with the kernel turned round and the padding swapped.
    grad_x = _shifted_sum(grad, kernel[::-1, ::-1], dilation, ((after_t, before_t), (after_p, before_p)))
    steps, rows = x.shape[1:3]

    def entries(x: Float[Array, "t p c"], grad: Float[Array, "t p c"]) -> Float[Array, "kk c"]:
        padded = jnp.pad(x, ((before_t, after_t), (before_p, after_p), (0, 0)))
        times, pitches = ([n * d for n in range(size)] for d in dilation)
        shifted = [padded[time : time + steps, pitch : pitch + rows] for time in times for pitch in pitches]
        return jnp.stack([jnp.sum(copy * grad, axis=(0, 1), dtype=jnp.float32) for copy in shifted])

    def in_turn(x: Float[Array, "b t p c"], grad: Float[Array, "b t p c"]) -> Float[Array, "kk c"]:
        # One example after another, so that both sides stay in cache over the k*k sums: six times as fast on CPU.
        add = lambda total, example: (total + entries(*example), None)  # noqa: E731
        return jax.lax.scan(add, jnp.zeros((size * size, x.shape[-1])), (x, grad))[0]

    at_once = lambda x, grad: jax.vmap(entries)(x, grad).sum(axis=0)  # noqa: E731
    total = jax.lax.platform_dependent(x, grad, cpu=in_turn, default=at_once)
    return grad_x, total.reshape(kernel.shape).astype(kernel.dtype)


_depthwise_same.defvjp(_depthwise_forward, _depthwise_backward)


def across_pitch(x: Float[Array, "b t p c"], kernel: Float[Array, "n c"]) -> Float[Array, "b t p c"]:
    """Depthwise convolution over the whole pitch axis: out[p] = sum over q of kernel[p - q + P - 1] x[q], n = 2 P - 1.

    One matrix product a channel: so long a kernel slid along the axis would cost as much and run at a fraction of the
    speed.
    """
    rows = np.arange(x.shape[2])
    return jnp.einsum("btqc,pqc->btpc", x, kernel[rows[:, None] - rows[None, :] + len(rows) - 1])


def pointwise(x: Float[Array, "b t p c"], kernel: Float[Array, "1 1 d f"], splits: int = 1) -> Float[Array, "b t p f"]:
    """Convolution by a 1 x 1 kernel, the channels in `splits` groups (d = c / splits)."""
    if splits == 1:
        return _product(x, kernel[0, 0])
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=splits
    )


@jax.custom_vjp
def _product(x: Float[Array, "b t p c"], kernel: Float[Array, "c f"]) -> Float[Array, "b t p f"]:
    return x @ kernel


def _product_backward(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    def by_example(x: Float[Array, "b t p c"], grad: Float[Array, "b t p f"]) -> Float[Array, "c f"]:
        # On CPU XLA's own takes three times as long.
        sides = (side.reshape(len(side), -1, side.shape[-1]) for side in (x, grad))
        return jnp.einsum("bnc,bnf->bcf", *sides).sum(axis=0)

    at_once = lambda x, grad: jnp.einsum("btpc,btpf->cf", x, grad)  # noqa: E731
    x, kernel = saved
    return grad @ kernel.T, jax.lax.platform_dependent(x, grad, cpu=by_example, default=at_once)


_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _product_backward)
