"""This module makes and checks the batch of images that all candidates train on.

Code makes the images, with natural statistics, so that nothing is downloaded. :mod:`eproxy_jax.image_files` reads them
from files instead.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from eproxy_jax.errors import did_you_mean, quoted
from eproxy_jax.nn import initializers

if TYPE_CHECKING:
    from jaxtyping import Float, Num

BATCH_SIZE = 16
IMAGE_SIZE = 32
DEFAULT_KIND = "one_over_f"  # ranks best of the three, see benchmarks/results/ranking_nasbench201.md
_DEFAULT_SEED = 0  # seed of the embedded batch: a run's key changes weights and targets, and never the images
_MIN_SPREAD = 1e-12  # standard deviation over the largest value: with less, it is rounding that is standardised
_MAX_ERROR = 1e-3  # of mean 0 and variance 1 after standardising


# --- images made by code -------------------------------------------------------------------------------------


def dead_leaves(key: Array, num: int = BATCH_SIZE, size: int = IMAGE_SIZE, num_leaves: int = 120) -> Array:
    """Draw dead-leaves images: opaque discs of one colour each, with radii by a power law, that cover one another.

    Occlusion and scale invariance give the images the edges and the spectrum of natural images.

    Source: Lee, Mumford, Huang, "Occlusion models for natural images", IJCV 2001.

    Args:
      key: typed key; consumed.
      num: B.
      size: height and width, pixels.
      num_leaves: discs per image.

    Returns:
      [B, size, size, 3] in [0, 1].

    Example:
      >>> dead_leaves(jax.random.key(0), num=2, size=16).shape
      (2, 16, 16, 3)
    """
    k_centre, k_radius, k_colour, k_tint, k_shade = jax.random.split(key, 5)
    centres = jax.random.uniform(k_centre, (num_leaves, num, 2), minval=-0.1, maxval=1.1)
    # Inverse CDF of p(r) ~ r^-3 on [r_min, r_max].
    r_min, r_max = 0.05, 0.6
    u = jax.random.uniform(k_radius, (num_leaves, num))
    radii = (u * (r_max**-2 - r_min**-2) + r_min**-2) ** -0.5
    luminance = jax.random.uniform(k_colour, (num_leaves, num, 1))
    tint = 0.25 * jax.random.normal(k_tint, (num_leaves, num, 3))  # colours vary less than brightness
    colours = jnp.clip(luminance + tint, 0, 1)
    slopes = 0.4 * jax.random.normal(k_shade, (num_leaves, num, 2))  # shading across a leaf
    grid = (jnp.arange(size) + 0.5) / size

    def fall(canvas: Array, leaf: tuple[Array, ...]) -> tuple[Array, None]:
        centre, radius, colour, slope = leaf
        dy = grid[None, :, None] - centre[:, 0, None, None]
        dx = grid[None, None, :] - centre[:, 1, None, None]
        # One pixel of soft edge instead of jagged discs.
        cover = jnp.clip((radius[:, None, None] - jnp.hypot(dy, dx)) * size + 0.5, 0, 1)[..., None]
        shade = (slope[:, 0, None, None] * dy + slope[:, 1, None, None] * dx)[..., None]
        return canvas * (1 - cover) + cover * (colour[:, None, None] + shade), None

    canvas, _ = lax.scan(fall, jnp.full((num, size, size, 3), 0.5), (centres, radii, colours, slopes))
    return jnp.clip(canvas, 0, 1)


def one_over_f(key: Array, num: int = BATCH_SIZE, size: int = IMAGE_SIZE) -> Array:
    """Draw Gaussian textures with amplitude 1 / f and correlated colours.

    Source: Field, "Relations between the statistics of natural images and the response properties of cortical cells",
    JOSA A 1987.

    Args:
      key: typed key; consumed.
      num: B.
      size: height and width, pixels.

    Returns:
      [B, size, size, 3]; mean 0.
    """
    k_grey, k_colour = jax.random.split(key)
    frequency = jnp.hypot(jnp.fft.fftfreq(size)[:, None], jnp.fft.rfftfreq(size)[None, :])
    amplitude = jnp.where(frequency > 0, 1 / jnp.maximum(frequency, 1 / size), 0)[None, :, :, None]

    def texture(key: Array, channels: int) -> Array:
        noise = initializers.draw(jax.random.normal, key, (num, size, size, channels))
        return jnp.fft.irfft2(jnp.fft.rfft2(noise, axes=(1, 2)) * amplitude, s=(size, size), axes=(1, 2))

    return texture(k_grey, 1) + 0.35 * texture(k_colour, 3)


def white_noise(key: Array, num: int = BATCH_SIZE, size: int = IMAGE_SIZE) -> Array:
    """Draw independent Gaussian pixels, [B, size, size, 3], a control without natural statistics. Consumes the key."""
    return initializers.draw(jax.random.normal, key, (num, size, size, 3))


GENERATORS: dict[str, Callable[..., Array]] = {
    "dead_leaves": dead_leaves,
    "one_over_f": one_over_f,
    "white_noise": white_noise,
}


def default_images(
    kind: str = DEFAULT_KIND, num: int = BATCH_SIZE, size: int = IMAGE_SIZE
) -> Float[Array, "{num} {size} {size} 3"]:
    """Return the embedded batch, which is the same in every run.

    Args:
      kind: a name in ``GENERATORS``.
      num: B.
      size: height and width, pixels.

    Returns:
      [B, size, size, 3] float32, not yet standardised.

    Raises:
      ValueError: unknown kind.
    """
    if kind not in GENERATORS:
        raise ValueError(
            f"unknown images {quoted(kind)}{did_you_mean(kind, GENERATORS)}; known: {', '.join(GENERATORS)}"
        )
    return jax.jit(GENERATORS[kind], static_argnums=(1, 2))(jax.random.key(_DEFAULT_SEED), num, size)


def batch_identity(images: Any) -> dict[str, Any]:
    """Return shape and SHA-256 of a batch, for the record of a run."""
    images = np.asarray(images)
    return {"shape": list(images.shape), "sha256": hashlib.sha256(images.tobytes()).hexdigest()}


def standardize(images: Num[Array | np.ndarray, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Check a batch and standardise each channel over it to mean 0 and variance 1.

    Source: docs/method.md, step 6.

    Args:
      images: [B, H, W, 3], H = W divisible by 4, any numeric dtype.

    Returns:
      [B, H, W, 3], float32 (float64 stays float64 where 64-bit types are enabled).

    Raises:
      ValueError: as :func:`check_images`.
    """
    array = check_images(images)
    standard = _standardized(array)
    dtype = jax.dtypes.canonicalize_dtype(np.float64 if np.asarray(images).dtype == np.float64 else np.float32)
    return jnp.asarray(standard, dtype)


def _standardized(array: np.ndarray) -> np.ndarray:
    with np.errstate(all="ignore"):  # check_images looks at the result
        return (array - array.mean((0, 1, 2))) / array.std((0, 1, 2))


def check_images(images: Any, where: str = "images") -> np.ndarray:
    """Check a batch.

    Args:
      images: [B, H, W, 3], H = W divisible by 4, any numeric dtype.
      where: name of the batch, for error messages.

    Returns:
      The same values, float64.

    Raises:
      ValueError: wrong shape, values that are not real and finite numbers, or a channel that cannot be standardised:
        without variation, with none beside its mean but rounding, or with one that overflows or vanishes in float64.
    """
    array = np.asarray(images)
    if array.ndim != 4 or array.shape[-1] != 3 or array.shape[1] != array.shape[2] or array.shape[1] % 4:
        hint = "; it looks like NCHW: transpose it with x.transpose(0, 2, 3, 1)" if array.shape[1:2] == (3,) else ""
        raise ValueError(
            f"{where}: expected shape [B, H, W, 3] with H = W divisible by 4, got {list(array.shape)}{hint}"
        )
    if array.shape[0] < 2:
        raise ValueError(f"{where}: batch statistics need at least 2 images, got {array.shape[0]}")
    if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating):
        raise ValueError(f"{where}: expected real numbers, got dtype {array.dtype}")
    with np.errstate(over="ignore"):  # of long doubles
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        bad = sorted({int(i) for i in np.argwhere(~np.isfinite(array))[:, 0]})
        raise ValueError(f"{where}: values that are not finite in image(s) {bad[:5]}: remove or repair them")
    if (array.min((0, 1, 2)) == array.max((0, 1, 2))).any():
        raise ValueError(f"{where}: a colour channel is constant over the batch: it cannot be standardised")
    standard = _standardized(array)
    with np.errstate(all="ignore"):
        spread = array.std((0, 1, 2)) / np.abs(array).max((0, 1, 2))
        error = np.maximum(np.abs(standard.mean((0, 1, 2))), np.abs(standard.std((0, 1, 2)) - 1))
    if not ((spread > _MIN_SPREAD) & (error < _MAX_ERROR)).all():
        raise ValueError(
            f"{where}: values from {array.min():.3g} to {array.max():.3g}, whose standard deviation overflows, "
            "vanishes, or is lost in rounding beside their size: scale them, to [0, 1] for example"
        )
    return array
