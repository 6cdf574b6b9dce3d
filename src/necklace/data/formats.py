"""What a file is by its first bytes, whatever its name says."""

from PIL import features

# Formats that are read, as Pillow calls them, and the part of Pillow that some need. Pillow supports more, some of which start
# other programs (EPS) or render text.
_NEEDS = {"WEBP": "webp", "AVIF": "avif", "JPEG2000": "jpg_2000"}
_WANTED = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")


def _built_in(part: str) -> bool:
    """Whether the installed Pillow has a part; older ones do not know the newer parts by name."""
    if part in features.modules:
        return features.check_module(part)
    return part in features.codecs and features.check_codec(part)


FORMATS = tuple(name for name in _WANTED if name not in _NEEDS or _built_in(_NEEDS[name]))
EXTENSIONS = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
    + (".avif", ".jp2", ".j2k", ".jpx", ".jpf", ".jpc", ".j2c")
)
# Extensions of images that are not read: a folder of these is nevertheless a folder of images.
OTHER_EXTENSIONS = frozenset(
    (".heic", ".heif", ".hif", ".jxl", ".jxr", ".svg", ".psd", ".ico", ".eps", ".dcm", ".exr", ".hdr", ".tga")
    + (".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf")
)
HEAD_BYTES = 512

# (offset, bytes there, what it is); the first that fits. Those of `FORMATS` have Pillow's name as the fourth.
_SIGNATURES: tuple[tuple[int, bytes, str, str | None], ...] = (
    (0, b"\xff\xd8\xff", "a JPEG image", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image", "PNG"),
    (0, b"GIF87a", "a GIF image", "GIF"),
    (0, b"GIF89a", "a GIF image", "GIF"),
    (8, b"CR\x02\x00", "a camera's raw image (CR2)", None),
    (0, b"II\x2a\x00", "a TIFF image", "TIFF"),
    (0, b"MM\x00\x2a", "a TIFF image", "TIFF"),
    (0, b"II\x2b\x00", "a BigTIFF image", "TIFF"),
    (0, b"MM\x00\x2b", "a BigTIFF image", "TIFF"),
    (8, b"WEBP", "a WebP image", "WEBP"),
    (0, b"\x00\x00\x00\x0cjP  \r\n\x87\n", "a JPEG 2000 image", "JPEG2000"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image", "JPEG2000"),
    (0, b"\x00\x00\x00\x0cJXL \r\n\x87\n", "a JPEG XL image", None),
    (0, b"\xff\x0a", "a JPEG XL image", None),
    (0, b"II\xbc", "a JPEG XR image", None),
    (0, b"8BPS", "a Photoshop image (PSD)", None),
    (0, b"\x00\x00\x01\x00", "an icon (ICO)", None),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image", None),
    (128, b"DICM", "a DICOM image", None),
    (0, b"%PDF", "a PDF file", None),
    (0, b"%!PS", "a PostScript file", None),
    (0, b"PK\x03\x04", "a ZIP archive", None),
    (0, b"\x1f\x8b", "a gzip archive", None),
    (0, b"7z\xbc\xaf", "a 7z archive", None),
    (0, b"Rar!", "a RAR archive", None),
    (0, b"\x93NUMPY", "a NumPy array", None),
    (0, b"\x89HDF", "an HDF5 file", None),
    (0, b"PAR1", "a Parquet file", None),
    (0, b"SQLite format 3", "an SQLite database", None),
    (0, b"\x1aE\xdf\xa3", "a video (Matroska)", None),
    (0, b"version https://git-lfs", "a pointer of Git LFS in place of the file (git lfs pull fetches it)", None),
)
_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")
_IMAGE_WORDS = ("image", "icon")


def content_of(head: bytes) -> tuple[str, str | None] | None:
    """Tell what a file is.

    Args:
        head: Its first `HEAD_BYTES` bytes, or all of them.

    Returns:
        What it is, such as `a HEIC image`, and Pillow's name of the format if it is one of those that this project reads where
        Pillow can; None if it is not known.
    """
    for offset, signature, what, format_name in _SIGNATURES:
        if head[offset : offset + len(signature)] == signature:
            return what, format_name
    if head[4:8] == b"ftyp":
        return _box(head)
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "a BMP image", "BMP"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "a PPM image", "PPM"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page", None
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "an SVG drawing, an image without pixels", None
    if text.startswith(b"<?xml"):
        return "an XML file", None
    return None


def _box(head: bytes) -> tuple[str, str | None]:
    """Tell apart what begins with a file type box: its brand comes first, then those that the file is compatible with."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    brands = [head[8:12], *(head[start : start + 4] for start in range(16, end, 4))]
    if any(brand in _AVIF for brand in brands):
        return "an AVIF image", "AVIF"
    if any(brand in _HEIC for brand in brands):
        return "a HEIC image", None
    if brands[0].startswith(b"jp"):
        return "a JPEG 2000 image", "JPEG2000"
    if brands[0] == b"crx ":
        return "a camera's raw image (CR3)", None
    return "a video (MP4)", None


def is_image(what: str) -> bool:
    """Whether what `content_of` names is an image, read or not."""
    return any(word in what for word in _IMAGE_WORDS)


def why_unreadable(data: bytes) -> str:
    """Return why a file that Pillow does not recognise is not used.

    Args:
        data: The file, or its first `HEAD_BYTES` bytes.
    """
    read = ", ".join(FORMATS)
    found = content_of(data[:HEAD_BYTES])
    if found is None:
        return f"not an image, or of another format than {read}"
    what, format_name = found
    if format_name in FORMATS:
        return f"{what} by its first bytes, but damaged"
    if is_image(what):
        return f"{what}, which is not read here (read are {read}): convert it"
    return f"not an image but {what}"


def why_odd_name(path: str) -> str:
    """Return why a file whose extension is none of `EXTENSIONS` is not used.

    Args:
        path: The file; it is opened, as its content may be an image all the same.
    """
    try:
        with open(path, "rb") as file:
            found = content_of(file.read(HEAD_BYTES))
    except OSError as error:
        return f"not an image by its extension, and it cannot be read: {error.strerror}"
    if found is None or not is_image(found[0]):
        return "not an image by its extension"
    what, format_name = found
    if format_name in FORMATS and not path.lower().endswith(tuple(OTHER_EXTENSIONS)):
        return f"not an image by its extension, but {what} by its content: give it that extension"
    return f"{what}, which is not read here (read are {', '.join(FORMATS)}): convert it"
