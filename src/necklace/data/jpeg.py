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


class Plain:
    """Tells which files are plain: baseline JPEGs in grey or YCbCr, without EXIF, and complete.

    The files of a folder often begin with the same bytes, up to the size of their images: these are looked through once.

    Args:
        max_pixels: An image of more pixels is none that may be decoded.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels, self._known = max_pixels, _END  # no file that ends so begins so, but this alone

    def __call__(self, data: bytes) -> bool:
        """Whether a file of this content is plain."""
        if not data.endswith(_END):
            return False
        if not data.startswith(self._known):
            length = _plain_header(data, self._max_pixels)
            if length is None:
                return False
            self._known = data[:length]
        return True


def _plain_header(data: bytes, max_pixels: int) -> int | None:
    """How many bytes at the beginning of a file say that it is plain, if it is complete; None where it is not."""
    if not data.startswith(b"\xff\xd8"):
        return None
    place = 2
    while place + 20 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        if marker == _BASELINE:
            height, width = (int.from_bytes(data[place + start : place + start + 2], "big") for start in (5, 7))
            names = data[place + 10 : place + 2 + length : 3]  # YCbCr by their numbers, where other bytes could name RGB
            is_so = data[place + 4] == 8 and 0 < height * width <= max_pixels and (len(names) == 1 or names == b"\1\2\3")
            return max(place + 20, place + 2 + length) if is_so else None
        if marker not in _PASSED_OVER and not (marker == 0xE2 and data.startswith(_ICC, place + 4)):
            return None
        place += 2 + length
    return None


def decode_plain(files: Sequence[bytes]) -> list[torch.Tensor] | None:
    """Decode plain JPEG files to uint8 `[h, w, 3]` each, RGB; None where one of them cannot be decoded.

    Args:
        files: The content of one or more files, each of which is `Plain`.
    """
    from torchvision.io import ImageReadMode, decode_jpeg  # here: its import takes half a second, and few processes decode

    try:
        encoded = torch.frombuffer(bytearray().join(files), dtype=torch.uint8).split([len(data) for data in files])
        return [image.permute(1, 2, 0) for image in decode_jpeg(list(encoded), ImageReadMode.RGB)]
    except RuntimeError:  # of libjpeg: Pillow then says what is wrong, or finds that nothing is
        return None
