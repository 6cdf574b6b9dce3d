"""Images per second of necklace's batches, which it holds in memory, against ImageFolder with PIL and worker processes."""

import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from necklace.backbones import CifarResNet
from necklace.cli.bench_machine import CORES, Machine
from necklace.cli.bench_report import Report
from necklace.data.augment import Augmentation
from necklace.data.datamodule import DataModule
from necklace.data.folder import Folder
from necklace.data.sizes import Fixed
from necklace.data.splits import read_splits
from necklace.heads import Gap
from necklace.model import Model, build_model
from necklace.necks import NoNeck

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""Images [B, 3, H, W] and labels [B]."""


def loader(report: Report, root: Path, size: int, batch_size: int, workers: int, rounds: int) -> None:
    """Compare both ways of loading, in turn, alone and with ResNet-8 behind them.

    Args:
        report: Where the table goes.
        root: Image folder with train/CLASS/*.jpg.
        size: Side in pixels to which images are scaled.
        batch_size: Images in a batch.
        workers: Processes of the usual loader.
        rounds: Measured epochs of each kind, after one to warm up.
    """
    machine = Machine(min(CORES, 1 + workers))
    ways = {"necklace": in_memory(root, size, batch_size), "ImageFolder": per_image(root, size, batch_size, workers)}
    classes = len(ImageFolder(root / "train").classes)
    speeds: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for name, epoch in ways.items():
            model = build_model(CifarResNet, NoNeck, Gap, classes, (size, size), 0)
            for what, measure in (("loader alone", load), ("training ResNet-8", lambda b, m=model: train(b, m))):
                if what == "training ResNet-8" and number == 0:
                    continue  # the first round warms up workers, caches and allocator
                speed = measure(epoch())
                if number:
                    speeds.setdefault((what, name), []).append(speed)
    rows = []
    for what in ("loader alone", "training ResNet-8"):
        own, usual = speeds[what, "necklace"], speeds[what, "ImageFolder"]
        ratio = statistics.median(a / b for a, b in zip(own, usual, strict=True))
        rows.append([what, statistics.median(own), statistics.median(usual), ratio])
    columns = {"images/s": "", "necklace": ",.0f", f"ImageFolder, {workers} workers": ",.0f", "ratio": ".2f"}
    title = f"images a second, {size}x{size}, batches of {batch_size}, median of {rounds} epochs"
    report.write(title, columns, rows, machine)


def in_memory(root: Path, size: int, batch_size: int) -> Callable[[], Batches]:
    """Epochs of necklace's batches: images in memory, flip, crop and normalisation on whole batches."""
    augment = Augmentation(flip=True, crop_padding=4)
    data = DataModule(read_splits(Folder(root)), Fixed(size), batch_size, 0, augment, mean=MEAN, std=STD)

    def epoch() -> Batches:
        for batch in data.train_dataloader():
            prepared = data.prepare(batch, augment=True)
            yield prepared.images, prepared.labels

    return epoch


def per_image(root: Path, size: int, batch_size: int, workers: int) -> Callable[[], Batches]:
    """Epochs as they are usually written: ImageFolder, PIL, transforms for each image, worker processes."""
    transform = v2.Compose(
        [
            v2.Resize((size, size)),
            v2.RandomCrop(size, padding=4, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    images = ImageFolder(root / "train", transform)
    batches = DataLoader(images, batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=workers > 0)
    return lambda: batches


def load(batches: Batches) -> float:
    """Images per second of going through an epoch."""
    started, images = time.perf_counter(), 0
    for x, _ in batches:
        images += len(x)
    return images / (time.perf_counter() - started)


def train(batches: Batches, model: Model) -> float:
    """Images per second of training for an epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    started, images = time.perf_counter(), 0
    for x, y in batches:
        train_step(model, optimizer, x.contiguous(memory_format=torch.channels_last), y)
        images += len(x)
    return images / (time.perf_counter() - started)


def train_step(model: Model, optimizer: torch.optim.Optimizer, images: torch.Tensor, labels: torch.Tensor) -> None:
    """One step: forward, backward, update."""
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
