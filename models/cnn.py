"""A small convolutional network for small images, shaped for training under differential privacy."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from models.errors import SignatureMismatch
from models.hyperparameters import Activation, Widths
from models.signature import Signature

LEAST_SIDE = 4


def cnn(
    signature: Signature,
    *,
    channels: Widths = (16, 32),
    activation: Activation = "relu",
    norm: Literal["group", "none"] = "group",
) -> nn.Module:
    """Build ``[conv3x3 norm? activation pool?]* flatten linear``: ``(B, C, H, W) -> (B, outputs)``, float32.

    Blocks pool only while both sides are at least 4, so any image from 1x4x4 up fits. Two pairings train well
    under clipping and noise: group normalisation with ReLU (De et al. 2022, arXiv 2204.13650), the default
    because it is the less sensitive to the learning rate, and bounded activations without normalisation
    (Papernot et al. 2021, "Tempered Sigmoid Activations for Deep Learning with Differential Privacy"), which
    want a larger one.

    Args:
        signature: an image signature.
        channels: output channels of each block.
        activation: after every convolution.
        norm: ``"group"`` puts a GroupNorm of up to four groups before each activation; batch normalisation
            mixes records and has no per-record gradient, so it is no choice.

    Raises:
        SignatureMismatch: the image is smaller than 4x4.
    """
    depth, height, width = signature.shape
    if min(height, width) < LEAST_SIDE:
        raise SignatureMismatch(
            f"shape={signature.shape}: 'cnn' needs images of at least {LEAST_SIDE}x{LEAST_SIDE}; "
            "use 'mlp' or 'logistic' for smaller ones"
        )
    layers: list[nn.Module] = []
    for after in channels:
        layers.append(nn.Conv2d(depth, after, kernel_size=3, padding=1))
        if norm == "group":
            layers.append(nn.GroupNorm(math.gcd(after, 4), after))
        layers.append(activation_layer(activation))
        if min(height, width) >= LEAST_SIDE:
            layers.append(nn.MaxPool2d(2))
            height, width = height // 2, width // 2
        depth = after
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(depth * height * width, signature.outputs))


def activation_layer(activation: Activation) -> nn.Module:
    """Return a fresh activation module."""
    return nn.Tanh() if activation == "tanh" else nn.ReLU()
