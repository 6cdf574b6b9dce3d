"""Arrays in a file whose bytes follow from their values, read without trust in them.

The file is an npz, which `numpy.load` reads as well. Nothing in it is unpickled, no array is made before its stated type and
size are found to be allowed, and what is read has a bound.
"""

import hashlib
import io
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from necklace.atomic import write_whole

LARGEST = 2**29  # bytes of a file, and of all of its arrays together
_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can state


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> str:
    """Write arrays, whole or not at all.

    Args:
        path: The file.
        arrays: Name to array.

    Returns:
        SHA-256 of the file, in hexadecimal.

    Raises:
        ValueError: They take more than `LARGEST` bytes.
    """
    size = sum(values.nbytes + 128 for values in arrays.values())
    if size > LARGEST:
        raise ValueError(f"{path}: {size:,} bytes of evidence; at most {LARGEST:,} are allowed")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, values in arrays.items():
            content = io.BytesIO()
            little = values.astype(values.dtype.newbyteorder("<"), order="C")
            np.lib.format.write_array(content, little, version=(1, 0), allow_pickle=False)
            member = zipfile.ZipInfo(f"{name}.npy", _DATE)
            member.create_system, member.external_attr = 3, 0o644 << 16  # as on Linux, on every system
            archive.writestr(member, content.getvalue(), zipfile.ZIP_DEFLATED, compresslevel=6)
    content = buffer.getvalue()
    write_whole(path, content)
    return hashlib.sha256(content).hexdigest()


def read_arrays(path: Path, expected: Mapping[str, tuple[str, int]], sha256: str | None = None) -> dict[str, np.ndarray]:
    """Read arrays that `write_arrays` wrote.

    Args:
        path: The file.
        expected: Name to type, such as `<i4`, and number of axes; exactly these must be in the file.
        sha256: What `write_arrays` gave, or None to read any file.

    Returns:
        Name to array.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It has another SHA-256, or is not such a file; the message says what is wrong.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    if path.stat().st_size > LARGEST:
        raise ValueError(f"{path}: more than {LARGEST:,} bytes; at most as many are allowed")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise ValueError(f"{path}: its SHA-256 is {found} and not {sha256}: it is not the file that was written")
    try:
        return _arrays(content, expected)
    except Exception as error:  # for broken files, zipfile and numpy raise almost any
        raise ValueError(f"{path}: {' '.join(str(error).split()) or type(error).__name__}") from error


def _arrays(content: bytes, expected: Mapping[str, tuple[str, int]]) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {member.filename: member for member in archive.infolist()}
        due = [f"{name}.npy" for name in expected]
        if sorted(member.filename for member in archive.infolist()) != sorted(due):
            raise ValueError(f"it holds {_shortened(sorted(members))}: due are {', '.join(sorted(due))}")
        if sum(member.file_size for member in members.values()) > LARGEST:
            raise ValueError(f"its arrays take more than {LARGEST:,} bytes; at most as many are allowed")
        arrays = {}
        for name, (kind, axes) in expected.items():
            try:
                arrays[name] = _array(archive, members[f"{name}.npy"], np.dtype(kind), axes)
            except Exception as error:
                raise ValueError(f"`{name}`: {error}") from error
        return arrays


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, due: np.dtype, axes: int) -> np.ndarray:
    with archive.open(member) as file:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("it is not in version 1.0 of npy")
        shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype != due or len(shape) != axes or columns_first:
            raise ValueError(f"it is {dtype} {list(shape)}: due is {due} with {axes} axes, row by row")
        size = math.prod(shape, start=due.itemsize)
        if any(length < 0 for length in shape) or size >= member.file_size:
            raise ValueError(f"it states the size {list(shape)}, but takes {member.file_size:,} bytes")
        raw = file.read(size + 1)  # the end is reached, where the checksum is compared
    if len(raw) != size:
        raise ValueError(f"it states {size:,} bytes, but has {'more' if len(raw) > size else len(raw)}")
    return np.frombuffer(raw, due).reshape(shape)


def _shortened(names: list[str]) -> str:
    shown = ", ".join(name[:40] for name in names[:12]) or "nothing"
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown
