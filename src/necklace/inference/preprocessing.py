"""From an image to the model's input, exactly as a run's evaluation does it, and the same in words for other programs."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from necklace.data.augment import normalise
from necklace.data.files import MAX_PIXELS, File, decode_files, pixels_of, readable
from necklace.data.images import ImageSet
from necklace.data.sizes import Native, Sizes

Input = str | Path | Image.Image | np.ndarray | Tensor
"""An image: a file, one of Pillow, or uint8 RGB pixels [h, w, 3] or [3, h, w]."""


@dataclass(frozen=True)
class Preprocessing:
    """Size and normalisation of a run's images.

    Attributes:
        sizes: The run's rule for sizes.
        mean: Channel means, in [0, 1].
        std: Channel standard deviations, in the same units.
        max_pixels: A file with an image of more pixels is refused, as it was in the run's data.
    """

    sizes: Sizes
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_pixels: int = MAX_PIXELS

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width at which an image of this height and width is evaluated, in pixels."""
        return self.sizes.eval_steps(torch.tensor([[height, width]]), 1, 0, 1)[0].size

    def sized(self, image: Tensor) -> Tensor:
        """Bring pixels uint8 [h, w, 3] to their size: uint8 [H, W, 3]."""
        height, width = image.shape[:2]
        return ImageSet.build([image], [0], ["image"]).resized(*self.size_of(height, width))[0]

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise uint8 [B, H, W, 3] to the model's input, float32 [B, 3, H, W]."""
        return normalise(images, self.mean, self.std)

    def described(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        if isinstance(self.sizes, Native):
            size: dict[str, Any] = {
                "rule": "native",
                "max_side": self.sizes.max_side,
                "stride": self.sizes.stride,
                "words": "cap = max_side - max_side % stride; a longer side above cap is scaled to it, with the other side;"
                " then each side is rounded to the nearest multiple of stride, halves up, at least one stride",
            }
        else:
            height, width = self.size_of(1, 1)
            size = {"rule": "fixed", "height": height, "width": width, "words": "every image is resized to height x width"}
        return {
            "pixels": "RGB, 8 bits a channel, upright by EXIF; transparent images on white",
            "size": size,
            "resize": "bilinear with antialiasing, on the 8-bit pixels, rounded to 8 bits (torchvision's, on tensors)",
            "normalise": "(value / 255 - mean) / std, for each channel",
            "mean": list(self.mean),
            "std": list(self.std),
        }


def decoded(images: Sequence[Input], max_pixels: int = MAX_PIXELS) -> Iterator[Tensor]:
    """The pixels of images, each uint8 RGB [h, w, 3]; files are decoded in threads, a little ahead.

    Args:
        images: The images.
        max_pixels: A file with an image of more pixels is refused.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: One is not a readable image, or of another shape or type than `Input` allows.
    """
    if not all(isinstance(image, str | Path) for image in images):
        for image in images:
            yield from decoded([image], max_pixels) if isinstance(image, str | Path) else [_given_pixels(image)]
        return
    files = [File(str(image), str(image), max_pixels=max_pixels) for image in images]
    for file, found in zip(files, decode_files(files), strict=True):
        if isinstance(found, str):
            if not Path(file.path).exists():
                raise FileNotFoundError(f"{readable(file.name)}: there is no such file")
            raise ValueError(f"{readable(file.name)}: {of_the_run(found)}")
        yield found


def of_the_run(reason: str) -> str:
    """Why a file cannot be read, without advice on the options of a run, which is finished."""
    words, limit, _ = reason.partition(": data.max_pixels=")
    return f"{words}, the run's own limit; an image that is opened already has none" if limit else reason


def _given_pixels(image: Input) -> Tensor:
    if isinstance(image, Image.Image):
        return pixels_of(image)
    if not isinstance(image, np.ndarray | Tensor):
        raise ValueError(f"image={type(image).__name__}: must be a file, an image of Pillow, or an array or tensor of pixels")
    # A copy: torch warns about arrays that are read-only, as those of Pillow images are.
    found = torch.as_tensor(np.array(image, order="C")) if isinstance(image, np.ndarray) else image.detach().cpu()
    if found.ndim == 3 and found.shape[2] != 3 and found.shape[0] == 3:
        found = found.permute(1, 2, 0)
    if found.dtype != torch.uint8 or found.ndim != 3 or found.shape[2] != 3 or not found.numel():
        kind = str(found.dtype).removeprefix("torch.")
        raise ValueError(f"image={kind} {list(image.shape)}: pixels must be uint8 [h, w, 3] or [3, h, w], RGB")
    return found.contiguous()


def listed(images: Input | Iterable[Input]) -> list[Input]:
    """The images one by one: of a list as they are, of one image itself, of an array or tensor [N, ...] each of the N."""
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    if isinstance(images, str | Path | Image.Image) or not isinstance(images, Iterable):
        return [images]  # pyright: ignore[reportReturnType]
    return list(images)
