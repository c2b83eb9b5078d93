"""Common corruptions of 32x32 images, of the kinds and strengths of CIFAR-10-C, drawn with scikit-image and Pillow.

Nine of the nineteen: noise, blur, digital. Weather needs pictures of its own that are not bundled. The strengths are
Hendrycks & Dietterich's for CIFAR-10 (ICLR 2019), the drawing is not theirs.
"""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from skimage.filters import gaussian
from skimage.util import random_noise

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt"]

SEVERITIES = (1, 2, 3, 4, 5)

Draw = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]  # [H, W, 3] in 0..1, and back


def _gaussian_noise(x: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    return random_noise(x, "gaussian", var=strength**2, rng=random)


def _shot_noise(x: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    return random.poisson(x * strength) / strength


def _impulse_noise(x: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    return random_noise(x, "s&p", amount=strength, rng=random)


def _speckle_noise(x: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    return random_noise(x, "speckle", var=strength**2, rng=random)


def _gaussian_blur(x: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    return gaussian(x, sigma=strength, channel_axis=-1)


def _brightness(x: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    return x + strength


def _contrast(x: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * strength + mean


def _picture(x: np.ndarray) -> Image.Image:
    return Image.fromarray((255 * x).round().astype(np.uint8))


def _pixelate(x: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    height, width = x.shape[:2]
    small = _picture(x).resize((int(width * strength), int(height * strength)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST)) / 255


def _jpeg(x: np.ndarray, strength: float, random: np.random.Generator) -> np.ndarray:
    file = io.BytesIO()
    _picture(x).save(file, "JPEG", quality=int(strength))
    return np.asarray(Image.open(file)) / 255


# Kind and strength at the five severities.
CORRUPTIONS: dict[str, tuple[Draw, tuple[float, float, float, float, float]]] = {
    "gaussian noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "speckle noise": (_speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),
    "gaussian blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1)),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": (_jpeg, (80, 65, 58, 50, 40)),
}


def corrupt(images: torch.Tensor, kind: str, severity: int, seed: int = 0) -> torch.Tensor:
    """Corrupted images.

    Args:
        images: [n, 3, H, W] in 0..1.
        kind: one of ``CORRUPTIONS``.
        severity: 1 to 5.
        seed: of noise; each image has noise of its own.

    Returns:
        As ``images``, in 0..1.
    """
    draw, strengths = CORRUPTIONS[kind]
    random = np.random.default_rng([seed, severity, list(CORRUPTIONS).index(kind)])
    pixels = images.detach().cpu().permute(0, 2, 3, 1).double().numpy()
    drawn = np.stack([draw(x, strengths[severity - 1], random) for x in pixels]).clip(0, 1)
    return torch.from_numpy(drawn).permute(0, 3, 1, 2).to(images)
