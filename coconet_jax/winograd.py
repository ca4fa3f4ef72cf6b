"""3x3 convolutions with half the multiplications, by Winograd's minimal filtering along time.

F(4,3) of A. Lavin and S. Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016, section 4.3), in one
dimension: four outputs of a filter of three taps from six products in place of twelve. Each product is here a
convolution over pitch of the kernel's row. In two dimensions a quarter of the multiplications remain, but moving the
tiles about costs more than is saved (docs/experiments.md). For float32: the result differs from the plain sum's by
some 1e-6 of its largest value.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float
import numpy as np

_OUT, _IN = 4, 6  # outputs and inputs of a tile, in steps of the dilation
# Outputs = _AFTER @ ((_KERNEL @ taps) * (_BEFORE @ inputs)): the matrices A^T, G and B^T of the paper.
_BEFORE = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_KERNEL = np.array(
    [[1 / 4, 0, 0], [-1 / 6, -1 / 6, -1 / 6], [-1 / 6, 1 / 6, -1 / 6]]
    + [[1 / 24, 1 / 12, 1 / 6], [1 / 24, -1 / 12, 1 / 6], [0, 0, 1]],
    np.float32,
)
_AFTER = np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])


def pays(steps: int, dilation: int) -> bool:
    """Whether the outputs fill their tiles so far that products are saved."""
    return 2 * _num_tiles(steps, dilation) * _OUT * dilation <= 3 * steps


def convolve(
    x: Float[Array, "b t p c"], kernel: Float[Array, "3 3 c f"], dilation: tuple[int, int], *, narrow: bool = False
) -> Float[Array, "b s p f"]:
    """The convolution with SAME padding in pitch and, unless `narrow`, in time; dilated in (time, pitch)."""
    in_time, in_pitch = dilation
    steps = x.shape[1] - 2 * in_time if narrow else x.shape[1]
    inputs = _input_tiles(x, steps, in_time, 0 if narrow else in_time)
    rows = jnp.einsum("gi,ijcf->gjcf", _KERNEL, kernel)
    products = [_over_pitch(_sum(weights, inputs), row, in_pitch) for weights, row in zip(_BEFORE, rows, strict=True)]
    outputs = jnp.stack([_sum(weights, products) for weights in _AFTER], axis=1)
    # [b tiles, 4, dilation, p, f]: the tiles of a piece one after another.
    return outputs.reshape(x.shape[0], -1, *outputs.shape[3:])[:, :steps]


def kernel_gradient(
    x: Float[Array, "b t p c"], grad: Float[Array, "b t p f"], dilation: tuple[int, int]
) -> Float[Array, "3 3 c f"]:
    """The gradient of `convolve` (not `narrow`) with respect to the kernel: its adjoint, with as few products.

    One example after another, so that the tiles stay in a core's cache.
    """
    in_time, in_pitch = dilation
    steps, pitches, channels = x.shape[1:]

    def add(total: Float[Array, "6 3 c f"], example: tuple[Array, Array]) -> tuple[Float[Array, "6 3 c f"], None]:
        x, grad = (side[None] for side in example)
        inputs = _input_tiles(x, steps, in_time, in_time)
        outputs = _output_tiles(grad, in_time)
        products = []
        for before, after in zip(_BEFORE, _AFTER.T, strict=True):
            padded = jnp.pad(_sum(before, inputs), ((0, 0), (0, 0), (in_pitch, in_pitch), (0, 0)))
            features = _sum(after, outputs).reshape(-1, grad.shape[-1])
            shifted = (padded[:, :, j * in_pitch : j * in_pitch + pitches] for j in range(3))
            products.append(jnp.stack([copy.reshape(-1, channels).T @ features for copy in shifted]))
        return total + jnp.stack(products), None

    zeros = jnp.zeros((_IN, 3, channels, grad.shape[-1]), x.dtype)
    total = jax.lax.scan(add, zeros, (x, grad))[0]
    return jnp.einsum("gi,gjcf->ijcf", _KERNEL, total)


def _num_tiles(steps: int, dilation: int) -> int:
    return -(-steps // (_OUT * dilation))


def _input_tiles(x: Float[Array, "b t p c"], steps: int, dilation: int, before: int) -> list[Float[Array, "n d p c"]]:
    """The six inputs of each tile [b tiles, dilation, p, c]; the last two are the first two of the next tile."""
    tiles = _num_tiles(steps, dilation)
    after = (tiles + 1) * _OUT * dilation - before - x.shape[1]
    padded = jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0)))
    padded = padded.reshape(x.shape[0], tiles + 1, _OUT, dilation, *x.shape[2:])
    whole = (padded[:, n // _OUT : tiles + n // _OUT, n % _OUT] for n in range(_IN))
    return [part.reshape(-1, *part.shape[2:]) for part in whole]


def _output_tiles(grad: Float[Array, "b t p f"], dilation: int) -> list[Float[Array, "n d p f"]]:
    tiles = _num_tiles(grad.shape[1], dilation)
    padded = jnp.pad(grad, ((0, 0), (0, tiles * _OUT * dilation - grad.shape[1]), (0, 0), (0, 0)))
    padded = padded.reshape(-1, _OUT, dilation, *grad.shape[2:])
    return [padded[:, n] for n in range(_OUT)]


def _over_pitch(x: Float[Array, "n d p c"], row: Float[Array, "3 c f"], dilation: int) -> Float[Array, "n d p f"]:
    return jax.lax.conv_general_dilated(
        x,
        row[None],
        (1, 1),
        [(0, 0), (dilation, dilation)],
        rhs_dilation=(1, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _sum(weights: np.ndarray, terms: Sequence[Array]) -> Array:
    """The weighted sum; no operation for weights of 0 and 1."""
    scaled = [
        term if weight == 1 else weight * term for weight, term in zip(weights.tolist(), terms, strict=True) if weight
    ]
    total = scaled[0]
    for term in scaled[1:]:
        total = total + term
    return total
