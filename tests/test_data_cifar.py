import hashlib
import pickle
import tarfile
import urllib.request
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100

from necklace.data.cifar import Cifar
from tests.conftest import compose_train

NAMES = ["ape", "bee", "cat"]


def batch(seed, count=4, key="labels"):
    generator = np.random.default_rng(seed)
    return {
        "data": generator.integers(0, 256, (count, 3072), dtype=np.uint8),
        key: generator.integers(0, 3, count).tolist(),
    }


def put(monkeypatch, root, make, batches, meta):
    """Write batch files in the real layout, and have torchvision expect their checksums."""
    folder = root / make.base_folder
    folder.mkdir(parents=True)
    md5 = {}
    for name, content in {**batches, make.meta["filename"]: meta}.items():
        data = pickle.dumps(content, protocol=2)
        (folder / name).write_bytes(data)
        md5[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(make, "train_list", [[name, md5[name]] for name, _ in make.train_list])
    monkeypatch.setattr(make, "test_list", [[name, md5[name]] for name, _ in make.test_list])
    monkeypatch.setattr(make, "meta", {**make.meta, "md5": md5[make.meta["filename"]]})
    return folder


@pytest.fixture
def ten(tmp_path, monkeypatch):
    batches = {f"data_batch_{number}": batch(number) for number in range(1, 6)} | {"test_batch": batch(6)}
    put(monkeypatch, tmp_path, CIFAR10, batches, {"label_names": NAMES})
    return tmp_path, batches


def no_network(*args, **kwargs):
    raise URLError("no network")


def test_pixels_labels_and_names_are_those_of_the_batches(ten):
    root, batches = ten
    source = Cifar(root)
    assert source.classes == tuple(NAMES)
    assert source.split("val") is None
    train, test = source.split("train"), source.split("test")
    assert train is not None
    assert test is not None
    assert train.names[:2] == ("train/0", "train/1")
    assert (len(train), len(test), train.common_shape) == (20, 4, (32, 32))
    # A row of a batch is the red plane, the green and the blue, each row by row.
    expected = batches["data_batch_2"]["data"][1].reshape(3, 32, 32)
    assert (train.image(5).permute(2, 0, 1).numpy() == expected).all()
    assert train.labels.tolist() == [x for number in range(1, 6) for x in batches[f"data_batch_{number}"]["labels"]]
    assert test.labels.tolist() == batches["test_batch"]["labels"]
    assert test.labels.dtype == torch.int64
    assert source.skipped == ()


def test_cifar100_has_the_fine_labels(tmp_path, monkeypatch):
    batches = {"train": batch(0, 7, "fine_labels"), "test": batch(1, 5, "fine_labels")}
    put(monkeypatch, tmp_path, CIFAR100, batches, {"fine_label_names": NAMES})
    source = Cifar(tmp_path, "cifar100")
    test = source.split("test")
    assert test is not None
    assert test.labels.tolist() == batches["test"]["fine_labels"]


def test_cifar100_has_coarse_labels_too(tmp_path, monkeypatch):
    """Files as the official ones are: both kinds of labels beside the pixels, the names of both in `meta`."""
    groups = [0, 1, 0]  # of each fine class
    batches = {"train": batch(0, 7, "fine_labels"), "test": batch(1, 5, "fine_labels")}
    for content in batches.values():
        content |= {
            "coarse_labels": [groups[fine] for fine in content["fine_labels"]],
            "filenames": [],
            "batch_label": "1 of 1",
        }
    put(monkeypatch, tmp_path, CIFAR100, batches, {"fine_label_names": NAMES, "coarse_label_names": ["mammals", "insects"]})
    fine, coarse = Cifar(tmp_path, "cifar100"), Cifar(tmp_path, "cifar100", labels="coarse")
    assert fine.classes == tuple(NAMES)
    assert coarse.classes == ("mammals", "insects")
    for name in ("train", "test"):
        one, other = fine.split(name), coarse.split(name)
        assert one is not None
        assert other is not None
        assert other.labels.tolist() == [groups[label] for label in one.labels.tolist()] == batches[name]["coarse_labels"]
        assert torch.equal(one.pixels, other.pixels)
        assert one.digest() != other.digest()


def test_unknown_labels_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"data\.labels=rough: must be fine or coarse"):
        Cifar(tmp_path, "cifar100", labels="rough")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"data\.labels=coarse: must be fine, as only CIFAR-100 has coarse labels"):
        Cifar(tmp_path, "cifar10", labels="coarse")


def test_missing_files_name_the_archive_and_where_to_put_it(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"data_batch_1 is missing.*cifar-10-python\.tar\.gz.*into .*nowhere"):
        Cifar(tmp_path / "nowhere")
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(FileNotFoundError, match=r"no network.*cifar-100-python\.tar\.gz.*put .* into .*nowhere"):
        Cifar(tmp_path / "nowhere", "cifar100", download=True)


def test_a_damaged_file_is_named_and_not_unpickled(ten):
    root, _ = ten

    class Trap:
        def __reduce__(self):
            return pytest.fail, ("unpickled",)

    (root / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(FileNotFoundError, match=r"test_batch is damaged"):
        Cifar(root)
    (root / "cifar-10-batches-py" / "test_batch").unlink()
    (root / "cifar-10-batches-py" / "batches.meta").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"test_batch is missing.*batches\.meta is damaged"):
        Cifar(root)


def test_an_archive_put_there_by_hand_is_unpacked_without_network(ten, monkeypatch, tmp_path_factory):
    root, _ = ten
    other = tmp_path_factory.mktemp("other")
    archive = other / CIFAR10.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / CIFAR10.base_folder, CIFAR10.base_folder)
    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    with pytest.raises(FileNotFoundError, match=r"no network.*these files are damaged.*cifar-10-python\.tar\.gz"):
        Cifar(other, download=True)  # not the real archive's checksum
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert Cifar(other, download=True).classes == tuple(NAMES)
    archive.write_bytes(b"never looked at again")
    assert Cifar(other, download=True).classes == tuple(NAMES)


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"name='cifar20': must be cifar10 or cifar100"):
        Cifar(tmp_path, "cifar20")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_config_composes_to_a_source(name, tmp_path):
    config, _ = compose_train([f"data={name}", f"data.root={tmp_path}"])
    with pytest.raises(FileNotFoundError, match=rf"{name}: .*is missing"):
        Cifar(**{key: value for key, value in config.data.source.items() if key != "_target_"})
