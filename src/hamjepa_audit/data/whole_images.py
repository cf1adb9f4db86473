"""A batch of images of varying shapes on the device: one flat tensor that crops are cut from."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class WholeImages:
    """Images of varying shapes, each (height, width, 3), concatenated.

    Attributes:
        pixels: (bytes / 3, 3) uint8.
        starts: (B,) int64, the row of `pixels` at which each image starts.
        sizes: (B, 2) int64, height and width.
        shortest_side: an upper bound of the images' shorter sides, pixels.
        longest_side: an upper bound of all sides; both are known without a device sync.
    """

    pixels: Tensor
    starts: Tensor
    sizes: Tensor
    shortest_side: int
    longest_side: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, rows: Tensor) -> "WholeImages":
        """The images at `rows` (R,) int64, which may repeat."""
        return replace(self, starts=self.starts[rows], sizes=self.sizes[rows])

    def boxes(self, top: Tensor, left: Tensor, height: Tensor, width: Tensor, side: int) -> Tensor:
        """One box per image, cut out into the upper left corner of a square.

        Args:
            top: (B,) first row of the box, pixels; integers in any dtype, as for the others.
            left: (B,).
            height: (B,), at least 1, at most `side`; the box lies in the image.
            width: (B,).
            side: side of the square, pixels.

        Returns:
            (B, 3, side, side) uint8. Outside the box, its last row and column are repeated.
        """
        steps = torch.arange(side, device=self.starts.device)
        rows = top.long()[:, None] + torch.minimum(steps, height.long()[:, None] - 1)
        columns = left.long()[:, None] + torch.minimum(steps, width.long()[:, None] - 1)
        lines = self.starts[:, None] + rows * self.sizes[:, 1:]
        return self.pixels[lines[:, :, None] + columns[:, None, :]].permute(0, 3, 1, 2)

    def centres(self, side: int) -> Tensor:
        """The centre square of every image, rounded as torchvision's CenterCrop.

        Args:
            side: side of the square, at most the shortest side of any image.

        Returns:
            (B, 3, side, side) uint8.
        """
        top, left = ((self.sizes - side) / 2).round().unbind(1)  # half to even, as Python's round
        length = torch.full_like(self.starts, side)
        return self.boxes(top, left, length, length, side)


def largest_box(shortest_side: int, longest_side: int, ratios: tuple[float, float]) -> int:
    """A bound on the sides of random crops, pixels; the sides are as in `WholeImages`.

    A crop is at most as long as the image's shorter side in one direction, and in the other at
    most the largest ratio times that, both sides being rounded.
    """
    stretch = max(ratios[1], 1 / ratios[0], 1.0)
    return min(longest_side, math.ceil((shortest_side + 0.5) * stretch + 0.5))
