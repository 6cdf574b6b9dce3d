import hashlib
import io
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from necklace.boxes import files
from necklace.boxes.files import read_arrays, write_arrays

ARRAYS = {"number": np.array(7), "values": np.arange(12, dtype=np.uint16).reshape(3, 4), "none": np.empty(0, np.float32)}
DUE = {"number": ("<i8", 0), "values": ("<u2", 2), "none": ("<f4", 1)}


def npy(values: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def members() -> dict[str, bytes]:
    return {f"{name}.npy": npy(values) for name, values in ARRAYS.items()}


def header(shape: str, descr: str = "'<u2'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    digest = write_arrays(tmp_path / "a.npz", ARRAYS)
    assert digest == hashlib.sha256((tmp_path / "a.npz").read_bytes()).hexdigest()
    found = read_arrays(tmp_path / "a.npz", DUE, digest)
    for name, values in ARRAYS.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)
    with np.load(tmp_path / "a.npz") as plain:  # and numpy reads it, too
        np.testing.assert_array_equal(plain["values"], ARRAYS["values"])


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    turned = {name: values.astype(values.dtype.newbyteorder(">"), order="F") for name, values in ARRAYS.items()}
    assert write_arrays(tmp_path / "a.npz", ARRAYS) == write_arrays(tmp_path / "b.npz", turned)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_every_flipped_bit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    digest = write_arrays(path, ARRAYS)
    content = path.read_bytes()
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.raises(ValueError, match="its SHA-256 is"):
            read_arrays(path, DUE, digest)
        try:  # without a digest: refused, or the same values (as where a date or a name's second copy differs)
            found = read_arrays(path, DUE)
        except ValueError:
            continue
        assert all(np.array_equal(found[name], values) for name, values in ARRAYS.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values.npy": npy(ARRAYS["values"].astype(np.int32))}, "it is int32"),
        ({"values.npy": npy(ARRAYS["values"].astype(">u2"))}, "it is >u2"),
        ({"values.npy": npy(ARRAYS["values"][0])}, r"it is uint16 \[4\]: due is uint16 with 2 axes"),
        ({"values.npy": npy(np.asfortranarray(ARRAYS["values"]))}, "row by row"),
        ({"values.npy": npy(np.array([{}, 1], object))}, "it is object"),
        ({"values.npy": pickle.dumps([1])}, "magic string"),
        ({"values.npy": b""}, "EOF"),
        ({"values.npy": header("(1000000, 1000000)")}, "it states the size"),
        ({"values.npy": header("(1000000000000000000000, 4)") + b"\0" * 24}, "it states the size"),
        ({"values.npy": header("(-1, 4)") + b"\0" * 24}, "it states the size"),
        ({"values.npy": header("(3, 4)") + b"\0" * 23}, "it states 24 bytes, but has 23"),
        ({"values.npy": header("(3, 4)") + b"\0" * 25}, "it states 24 bytes, but has more"),
        ({"values.npy": header("(3, 4") + b"\0" * 24}, ""),
        ({"values.npy": header("(3, 4)", "__import__('os')") + b"\0" * 24}, ""),
        ({"values.npy": header("(3, True)") + b"\0" * 6}, ""),
        ({"other.npy": npy(ARRAYS["values"])}, "it holds .*: due are none.npy, number.npy, values.npy"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, change: dict[str, bytes], message: str) -> None:
    path = zipped(tmp_path / "a.npz", members() | change)
    named = "" if message.startswith("it holds") else "`values`: .*"
    with pytest.raises(ValueError, match=rf"a\.npz: {named}{message}"):
        read_arrays(path, DUE)


def test_files_that_are_no_zip_and_missing_ones(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no\.npz: there is no such file"):
        read_arrays(tmp_path / "no.npz", DUE)
    for content in (b"", b"PK", npy(ARRAYS["values"]), pickle.dumps(ARRAYS)):
        (tmp_path / "a.npz").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.npz: "):
            read_arrays(tmp_path / "a.npz", DUE)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_member_that_is_there_twice(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.npz", members())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("values.npy", npy(ARRAYS["values"] + 1))
    with pytest.raises(ValueError, match="it holds"):
        read_arrays(path, DUE)


def test_a_small_file_of_huge_arrays_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 2**20)
    rows = 2**23
    path = zipped(tmp_path / "a.npz", members() | {"values.npy": header(f"({rows}, 4)") + bytes(8 * rows)})
    assert path.stat().st_size < 2**20
    tracemalloc.start()
    with pytest.raises(ValueError, match="its arrays take more than 1,048,576 bytes"):
        read_arrays(path, DUE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    path.write_bytes(bytes(2**20 + 1))
    with pytest.raises(ValueError, match="more than 1,048,576 bytes"):
        read_arrays(path, DUE)
    with pytest.raises(ValueError, match="at most 1,048,576 are allowed"):
        write_arrays(path, {"values": np.zeros(2**20, np.uint16)})
