"""Plain training of a CIFAR network with a neck, as a user of Lightning and Hydra writes it: the peer of `necklace bench peer`.

ImageFolder, transforms of single images, a loader with workers, a checkpoint chosen on val, Hydra's own multirun. It uses
nothing of necklace, and takes FocalModulation from timm.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import hydra
import pytorch_lightning as pl
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from timm.models.focalnet import FocalModulation
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms
from torchvision.datasets import ImageFolder


@dataclass
class Config:
    """The options and their defaults; AdamW and one cycle as in necklace's defaults."""

    root: str = "???"
    neck: str = "none"
    seed: int = 0
    epochs: int = 6
    batch_size: int = 64
    workers: int = 2
    lr: float = 3e-3
    weight_decay: float = 0.05


class Block(nn.Module):
    """A residual block of two 3x3 convolutions."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, channels, h, w] -> [B, out_channels, h / stride, w / stride]."""
        return torch.relu(self.body(x) + self.shortcut(x))


class Pooled(nn.Module):
    """SPP (pools side by side) or SPPF (pools in a chain) between two 1x1 convolutions."""

    def __init__(self, channels: int, kernels: Sequence[int], chained: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, channels // 2, 1, bias=False), nn.BatchNorm2d(channels // 2), nn.SiLU())
        self.pools = nn.ModuleList(nn.MaxPool2d(k, 1, k // 2) for k in kernels)
        self.last = nn.Sequential(nn.Conv2d(channels * 2, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.SiLU())
        self.chained = chained

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, channels, h, w] -> the same."""
        maps = [self.first(x)]
        for pool in self.pools:
            maps.append(pool(maps[-1] if self.chained else maps[0]))
        return self.last(torch.cat(maps, 1))


def neck_of(name: str, channels: int) -> nn.Module:
    """The neck of a name."""
    return {
        "none": nn.Identity,
        "spp": lambda: Pooled(channels, (5, 9, 13), chained=False),
        "sppf": lambda: Pooled(channels, (5, 5, 5), chained=True),
        "focal": lambda: FocalModulation(channels, focal_window=3, focal_level=2),
    }[name]()


class Classifier(pl.LightningModule):
    """ResNet-8 with a neck."""

    def __init__(self, config: Config, classes: int) -> None:
        super().__init__()
        self.config = config
        self.model = nn.Sequential(
            nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            Block(16, 16, 1),
            Block(16, 32, 2),
            Block(32, 64, 2),
            neck_of(config.neck, 64),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, classes),
        )
        self.loss = nn.CrossEntropyLoss()
        self.val_acc, self.test_acc = (MulticlassAccuracy(classes, average="micro") for _ in range(2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images [B, 3, H, W] -> logits [B, K]."""
        return self.model(images)

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """The loss."""
        loss = self.loss(self(batch[0]), batch[1])
        self.log("train/loss", loss, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        """Accuracy on val."""
        self.val_acc(self(batch[0]), batch[1])
        self.log("val/acc", self.val_acc)

    def test_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> None:
        """Accuracy on test."""
        self.test_acc(self(batch[0]), batch[1])
        self.log("test/acc", self.test_acc)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """AdamW with one cycle."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.config.lr, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loaders(config: Config) -> tuple[DataLoader, DataLoader, DataLoader, int]:
    """The loaders of train, val and test, and the number of classes."""
    usual = [transforms.ToTensor(), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
    moved = [transforms.RandomCrop(32, padding=4, padding_mode="reflect"), transforms.RandomHorizontalFlip()]
    made = []
    for split, transform in (("train", [*moved, *usual]), ("val", usual), ("test", usual)):
        images = ImageFolder(str(Path(config.root) / split), transforms.Compose(transform))
        training = split == "train"
        made.append(
            DataLoader(
                images,
                config.batch_size,
                shuffle=training,
                drop_last=training,
                num_workers=config.workers,
                persistent_workers=config.workers > 0,
            )
        )
    return made[0], made[1], made[2], len(made[0].dataset.classes)


@hydra.main(version_base="1.3", config_name="peer", config_path=None)
def main(config: Config) -> None:
    """Train, choose on val, test."""
    pl.seed_everything(config.seed, workers=True, verbose=False)
    folder = Path(HydraConfig.get().runtime.output_dir)
    train, val, test, classes = loaders(config)
    chosen = ModelCheckpoint(folder / "checkpoints", monitor="val/acc", mode="max")
    trainer = pl.Trainer(
        max_epochs=config.epochs,
        accelerator="cpu",
        logger=CSVLogger(folder, name=None, version=""),
        callbacks=[chosen],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    task = Classifier(config, classes)
    trainer.fit(task, train, val)
    metrics = trainer.test(task, test, ckpt_path="best", verbose=False)
    (folder / "test_acc.txt").write_text(f"{metrics[0]['test/acc']}\n")


if __name__ == "__main__":
    ConfigStore.instance().store("peer", Config)
    main()
