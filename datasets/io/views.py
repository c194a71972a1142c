"""Views: the k-th random crop and flip of a sample, drawn by counting and cut for a whole batch at once.

What is drawn is a hash of (seed, view, index) and of nothing else: no generator advances, so a view is the same
whatever the process, rank, order, device or the rest of the batch, and an interrupted epoch goes on where it stopped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...core.errors import UsageError
from ...core.hashing import hash64, shifted

# Purposes of the hash: two purposes never share random bits.
_VIEWS, _ORDER = 1, 2


@dataclass(frozen=True)
class Draws:
    """What was drawn for B views.

    Attributes:
        dy, dx: int64 (B,), in 0..2·padding: the upper left corner of the crop in the padded image, pixels.
        flip: bool (B,): mirrored left to right, after the crop.
    """

    dy: Tensor
    dx: Tensor
    flip: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Draws:
        return Draws(self.dy[rows], self.dx[rows], self.flip[rows])

    def to(self, device: torch.device) -> Draws:
        return Draws(*(drawn.to(device, non_blocking=True) for drawn in (self.dy, self.dx, self.flip)))


def draw_views(seed: int, view: int, index: Tensor, *, padding: int, flip: bool) -> Draws:
    """The draws of view number ``view`` of the samples ``index``: a function of (seed, view, index) alone.

    Args:
        seed: Of the run.
        view: Number of the view, from 0.
        index: int64 (B,), rows of the split.
        padding: Pixels of border on each side; 0 crops nothing.
        flip: Whether half of the views are mirrored.

    Example:
        >>> draws = draw_views(0, 3, torch.arange(5), padding=4, flip=True)
        >>> bool((draw_views(0, 3, torch.tensor([4]), padding=4, flip=True).dy == draws.dy[4:]).all())
        True
    """
    bits = hash64(index, _VIEWS, seed, view)
    # 24 bits to a coordinate: with 9 positions no position is likelier than another by more than 1e-6.
    corner = [((shifted(bits, shift) & 0xFFFFFF) * (2 * padding + 1)) >> 24 for shift in (40, 16)]
    mirrored = (bits & 1).bool() if flip else torch.zeros_like(bits, dtype=torch.bool)
    return Draws(corner[0], corner[1], mirrored)


def epoch_order(seed: int, epoch: int, num_samples: int) -> Tensor:
    """The order of an epoch: a permutation of 0..num_samples-1, int64, a function of (seed, epoch) alone."""
    return hash64(torch.arange(num_samples), _ORDER, seed, epoch).argsort(stable=True)


class PaddedImages:
    """The images of one modality in one tensor, with a border of zeros that is laid around them once.

    Args:
        storage: (N, H + 2·padding, W + 2·padding, C), contiguous, any dtype.
        padding: Pixels of border on each side.
    """

    def __init__(self, storage: Tensor, padding: int) -> None:
        self.storage, self.padding = storage, padding
        count, height, width, channels = storage.shape
        self.height, self.width = height - 2 * padding, width - 2 * padding
        self._pixel = channels * storage.element_size()
        self._rows = self._as_rows() if storage.device.type == "cpu" and count else None

    @classmethod
    def zeros(
        cls, count: int, height: int, width: int, channels: int, *, dtype: torch.dtype, padding: int
    ) -> PaddedImages:
        """Black images, to be filled through :attr:`interior`.

        Raises:
            UsageError: The border is wider than the images, or there is no memory for all of them.
        """
        if padding > max(height, width, 4):  # 4 is the default, also of tiny images
            raise UsageError(
                f"data.crop_padding={padding} is wider than the images, which are {height}×{width}: a crop would hold "
                f"nothing but border, so set it to {max(height, width) // 8}, say"
            )
        shape = (count, height + 2 * padding, width + 2 * padding, channels)
        try:
            return cls(torch.zeros(shape, dtype=dtype), padding)
        except RuntimeError as error:
            room = math.prod(shape) * dtype.itemsize / 1e9
            raise UsageError(
                f"{count} images of {height}×{width}×{channels} {str(dtype).removeprefix('torch.')} with a border of "
                f"{padding} are {room:.4g} GB, and there is no memory for them: make them smaller or fewer, or read "
                "them from files, as data.name=image_folder does"
            ) from error

    @property
    def interior(self) -> Tensor:
        """The images without their border: a view of the storage, (N, H, W, C)."""
        p = self.padding
        return self.storage[:, p : p + self.height, p : p + self.width]

    def to(self, device: torch.device) -> PaddedImages:
        return self if self.storage.device == device else PaddedImages(self.storage.to(device), self.padding)

    def plain(self, rows: slice | Tensor) -> Tensor:
        """The images themselves, (B, C, H, W) in channels_last, in memory of their own."""
        picked = self.interior[rows]
        # A slice would alias the storage; picked by rows it is a copy already.
        own = picked.contiguous() if isinstance(rows, Tensor) else picked.clone(memory_format=torch.contiguous_format)
        return own.permute(0, 3, 1, 2)

    def views(self, index: Tensor, draws: Draws) -> Tensor:
        """The drawn views of the images ``index`` (B,): crops of the padded images, some mirrored; (B, C, H, W) in
        channels_last.
        """
        cut = self._cut_by_pixels(index, draws) if self._rows is None else self._cut_by_rows(self._rows, index, draws)
        return cut.permute(0, 3, 1, 2)

    def border(self, draws: Draws) -> Tensor:
        """Which pixels of the drawn views are border: bool (B, 1, H, W)."""
        device = draws.dy.device
        y = draws.dy[:, None] + torch.arange(self.height, device=device) - self.padding
        x = torch.arange(self.width, device=device)
        x = torch.where(draws.flip[:, None], self.width - 1 - x, x) + draws.dx[:, None] - self.padding
        outside = ((y < 0) | (y >= self.height))[:, :, None] | ((x < 0) | (x >= self.width))[:, None, :]
        return outside[:, None]

    def _cut_by_pixels(self, index: Tensor, draws: Draws) -> Tensor:
        """One gather of pixels, for accelerators: (B, H, W, C)."""
        y = draws.dy[:, None] + torch.arange(self.height, device=index.device)
        x = torch.arange(self.width, device=index.device)
        x = torch.where(draws.flip[:, None], self.width - 1 - x, x) + draws.dx[:, None]
        return self.storage[index[:, None, None], y[:, :, None], x[:, None, :]]

    def _cut_by_rows(self, rows: np.ndarray, index: Tensor, draws: Draws) -> Tensor:
        """The same on a CPU, where copying whole rows of a crop is many times faster than gathering pixels: (B, H, W,
        C).
        """
        _, height, width, channels = self.storage.shape
        first = (index.numpy() * height + draws.dy.numpy()) * width + draws.dx.numpy()
        cut = rows[first[:, None] + np.arange(self.height) * width]
        cut = cut.view(np.uint8).reshape(len(first), self.height, self.width * self._pixel)
        flipped = np.flatnonzero(draws.flip.numpy())
        if len(flipped):
            # torch's flip of bytes is vectorised, numpy's reversed copy is not.
            pixels = torch.from_numpy(cut[flipped]).view(-1, self.width, self._pixel)
            cut[flipped] = pixels.flip(1).numpy().reshape(-1, self.height, self.width * self._pixel)
        return torch.from_numpy(cut).view(self.storage.dtype).view(len(first), self.height, self.width, channels)

    def _as_rows(self) -> np.ndarray:
        """Every run of W pixels in the storage as one opaque element; element i begins at pixel i of the flat
        storage.
        """
        flat = self.storage.numpy().reshape(-1).view(np.uint8)
        run = self.width * self._pixel
        shape = (len(flat) // self._pixel - self.width + 1,)
        return np.lib.stride_tricks.as_strided(flat[:run].view(f"V{run}"), shape, (self._pixel,), writeable=False)
