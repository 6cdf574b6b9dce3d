"""Plain JPEG files, decoded without Pillow: a third of the time, and the same pixels.

Torchvision and Pillow use the same library, libjpeg-turbo. What Pillow does beside it (EXIF orientation, CMYK, several pictures
in one file, files that end early) is left to Pillow: a file that has any of it is not plain.
"""

from collections.abc import Sequence

import torch

_BASELINE, _END = 0xC0, b"\xff\xd9"
# Tables, restart interval, comment and JFIF: what no pixel but by libjpeg depends on.
_PASSED_OVER = {0xC4, 0xDB, 0xDD, 0xFE, 0xE0}
_ICC = b"ICC_PROFILE\0"


def is_plain(data: bytes, max_pixels: int) -> bool:
    """Whether a file is a baseline JPEG in grey or YCbCr, without EXIF and complete.

    Args:
        data: The whole file.
        max_pixels: An image of more pixels is none that may be decoded.
    """
    if not (data.startswith(b"\xff\xd8") and data.endswith(_END)):
        return False
    place = 2
    while place + 20 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _BASELINE:
            height, width = (int.from_bytes(data[place + start : place + start + 2], "big") for start in (5, 7))
            names = data[place + 10 : place + 2 + length : 3]  # YCbCr by their numbers, where other bytes could name RGB
            return data[place + 4] == 8 and 0 < height * width <= max_pixels and (len(names) == 1 or names == b"\1\2\3")
        if marker not in _PASSED_OVER and not (marker == 0xE2 and data.startswith(_ICC, place + 4)):
            return False
        place += 2 + length
    return False


def decode_plain(files: Sequence[bytes]) -> list[torch.Tensor] | None:
    """Decode plain JPEG files to uint8 `[h, w, 3]` each, RGB; None where one of them cannot be decoded.

    Args:
        files: The content of one or more files, each of which `is_plain`.
    """
    from torchvision.io import ImageReadMode, decode_jpeg  # here: its import takes half a second, and few processes decode

    try:
        encoded = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
        return [image.permute(1, 2, 0) for image in decode_jpeg(encoded, ImageReadMode.RGB)]
    except RuntimeError:  # of libjpeg: Pillow then says what is wrong, or finds that nothing is
        return None
