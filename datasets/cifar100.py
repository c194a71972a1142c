"""``cifar100``: the official archive, as torchvision downloads it and checks it, all of it in memory."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field
from torchvision.datasets import CIFAR100

from ..core.errors import ContrastillError, UsageError, looked_in
from ..core.registry import DATASETS
from .io.in_memory import AugmentOptions, TensorSplit
from .io.views import PaddedImages


@DATASETS.register("cifar100")
class Cifar100:
    """CIFAR-100 (Krizhevsky, 2009): 50 000 training and 10 000 test images, 32×32, 100 classes.

    The official files are Python pickles. torchvision opens them only after their MD5 sums, which it carries itself,
    have been found right (training, test and meta file alike), so that nothing but the published bytes is ever
    unpickled.

    Raises:
        UsageError: The folder does not hold the files and ``download`` is off.
        ContrastillError: The files are not the published ones, or the download failed.
    """

    class Options(AugmentOptions):
        path: str = Field(description="the folder that holds, or with download receives, cifar-100-python")
        download: bool = Field(False, description="fetch the archive (169 MB) into path if it is not there")

    def __init__(self, options: Options) -> None:
        self.options = options

    @staticmethod
    def recognises(path: str) -> bool:
        """Whether ``path`` is a folder with the official files in it."""
        return (Path(path) / CIFAR100.base_folder).is_dir()

    def open(self, split: str) -> TensorSplit:
        """Read all of ``"train"`` or ``"test"``. Only ``"train"`` is ever augmented."""
        if split not in ("train", "test"):
            raise UsageError(f"cifar100 has no split {split!r}: it has train, test")
        data = self._read(train=split == "train")
        padding = self.options.crop_padding if split == "train" else 0
        images = PaddedImages.zeros(len(data.data), 32, 32, 3, dtype=torch.uint8, padding=padding)
        images.interior[:] = torch.from_numpy(data.data)
        targets = torch.tensor(data.targets, dtype=torch.int64)
        return TensorSplit(
            {"rgb": images},
            targets=targets,
            num_classes=len(data.classes),
            classes=list(data.classes),
            flip=self.options.flip and split == "train",
        )

    def _read(self, *, train: bool) -> CIFAR100:
        folder = Path(self.options.path).expanduser()
        files = folder / CIFAR100.base_folder
        if not files.is_dir() and not self.options.download:
            raise UsageError(
                f"{files} does not exist{looked_in(files)}: set data.download=true (in data pack: --download) to fetch "
                f"CIFAR-100 (169 MB), or unpack {CIFAR100.filename} from {CIFAR100.url} into {folder}"
            )
        try:
            return CIFAR100(folder, train=train, download=self.options.download)
        except (RuntimeError, OSError) as error:
            if self.options.download:
                raise _failed_download(folder, error) from error
            if isinstance(error, RuntimeError):
                raise ContrastillError(
                    f"the files in {files} are not the published ones (their MD5 sums differ): set "
                    "data.download=true (in data pack: --download) to fetch them again"
                ) from error
            raise ContrastillError(f"{files} cannot be read: {error}") from error


def _failed_download(folder: Path, error: Exception) -> ContrastillError:
    reason = getattr(error, "reason", error)
    return ContrastillError(
        f"CIFAR-100 could not be downloaded ({reason}): without a network, unpack {CIFAR100.filename} from "
        f"{CIFAR100.url} into {folder}"
    )
