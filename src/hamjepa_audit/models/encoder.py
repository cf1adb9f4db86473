"""The token encoder: ResNet-18 up to stage 3, a 1x1 convolution to tokens, one state per image."""

from typing import Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from hamjepa_audit.models.initialisation import initialise
from hamjepa_audit.params.arms import State
from hamjepa_audit.params.studies import EncoderParams


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, BatchNorm, a shortcut (He et al. 2016); names as in torchvision."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels_in != channels_out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False),
                nn.BatchNorm2d(channels_out),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, channels_in, H, W) -> (N, channels_out, H / stride, W / stride)."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        return functional.relu(self.bn2(self.conv2(x)) + shortcut, inplace=True)


class GridPool(nn.Module):
    """Adaptive average pooling to grid x grid as two small matrix products.

    The bins are those of torch.nn.AdaptiveAvgPool2d, whose gradient is not deterministic on a GPU.
    Computed in float32 even under autocast: in bf16 the weights of a bin of three sum to 1.002.
    """

    def __init__(self, grid: int) -> None:
        super().__init__()
        self.grid = grid

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, grid, grid)."""
        with torch.autocast(x.device.type, enabled=False):
            exact = x.to(torch.promote_types(x.dtype, torch.float32))
            rows, columns = (self._bins(length, exact) for length in x.shape[-2:])
            return (rows @ exact @ columns.mT).to(x.dtype)

    def _bins(self, length: int, like: Tensor) -> Tensor:
        """Weights (grid, length); bin i averages floor(i L / grid) to ceil((i + 1) L / grid)."""
        index = torch.arange(self.grid, device=like.device)[:, None]
        position = torch.arange(length, device=like.device)
        inside = (position >= index * length // self.grid) & (
            position < -(-(index + 1) * length // self.grid)
        )
        weights = inside.to(like.dtype)
        return weights / weights.sum(dim=1, keepdim=True)


class TokenEncoder(nn.Module):
    """Images to states (protocol, "Encoder").

    Stage 3 features (4 * width channels) are optionally pooled to a token grid, then pass a 1x1
    convolution without bias to `token_channels` and BatchNorm. Tokens are ordered (row, column),
    channels last. With state "phase_space", q is the first half of each token's channels,
    flattened, p the second half, and the state is [q; p]. With "joint", tokens are flattened as
    they are; with "rectified", a ReLU follows. Stage 4 of the ResNet is never built.
    """

    def __init__(self, params: EncoderParams, state: State, generator: Generator) -> None:
        super().__init__()
        width = params.width
        self.state = state
        self.stem = _stem(params.stem, width)
        self.layer1 = _stage(width, width, stride=1)
        self.layer2 = _stage(width, 2 * width, stride=2)
        self.layer3 = _stage(2 * width, 4 * width, stride=2)
        grid = params.token_grid
        self.pool = nn.Identity() if grid is None else GridPool(grid)
        token_convolution = nn.Conv2d(4 * width, params.token_channels, 1, bias=False)
        token_convolution.plain_initialisation = True  # type: ignore[assignment]
        self.token_proj = nn.Sequential(token_convolution, nn.BatchNorm2d(params.token_channels))
        initialise(self, generator)

    def forward(self, images: Tensor) -> Tensor:
        """States of images.

        Args:
            images: (N, 3, S, S) float, normalised. In training mode BatchNorm's statistics are
                over all N rows, so pass all views of a step in one call.

        Returns:
            (N, tokens * token_channels).
        """
        x = self.layer3(self.layer2(self.layer1(self.stem(images))))
        tokens = self.token_proj(self.pool(x)).permute(0, 2, 3, 1)
        if self.state == "joint":
            return tokens.flatten(1)
        if self.state == "rectified":
            return functional.relu(tokens.flatten(1))
        q, p = tokens.chunk(2, dim=-1)
        return torch.cat([q.flatten(1), p.flatten(1)], dim=1)


def _stem(kind: Literal["cifar", "imagenet"], width: int) -> nn.Sequential:
    if kind == "cifar":
        convolution = nn.Conv2d(3, width, 3, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))
    return nn.Sequential(
        nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, padding=1),
    )


def _stage(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BasicBlock(channels_in, channels_out, stride), BasicBlock(channels_out, channels_out, 1)
    )
