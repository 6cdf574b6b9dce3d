"""Small drawn data with boxes, and options with which a detector learns it within seconds."""

from pathlib import Path

import numpy as np
from PIL import Image

# A detector of two levels, small enough to train in seconds.
SMALL_DETECTOR = [
    "task=detection",
    "backbone=cifar_resnet",
    "backbone.width=8",
    "backbone.stages=[2,4]",
    "head.levels=2",
    "head.width=16",
    "head.depth=1",
    "logger=none",
    "optimizer.lr=1e-2",
]
SHAPES = ((40, 56), (56, 40), (48, 48))


def boxes_folder(root: Path, train: int = 48, val: int = 9, test: int = 13, seed: int = 0) -> Path:
    """Light and dark squares on noise, in VOC's layout and three shapes.

    Every ninth image shows nothing, and every tenth object is `difficult`.
    """
    generator = np.random.default_rng(seed)
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    made = 0
    for index in range(train + val + test):
        height, width = SHAPES[index % 3]
        pixels = generator.normal(110, 12, (height, width, 3))
        objects = ""
        for _ in range(0 if index % 9 == 4 else int(generator.integers(1, 4))):
            side, light = int(generator.integers(9, 17)), int(generator.integers(2))
            y, x = int(generator.integers(height - side)), int(generator.integers(width - side))
            pixels[y : y + side, x : x + side] = generator.normal(230 if light else 20, 8, (side, side, 3))
            made += 1
            objects += (
                f"<object><name>{('dark', 'light')[light]}</name><difficult>{int(made % 10 == 0)}</difficult><bndbox>"
                f"<xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + side}</xmax><ymax>{y + side}</ymax></bndbox></object>"
            )
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"JPEGImages/{index:06}.png")
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        (root / f"Annotations/{index:06}.xml").write_text(
            f"<annotation><filename>{index:06}.png</filename>{size}{objects}</annotation>"
        )
    start = 0
    for name, count in (("train", train), ("val", val), ("test", test)):
        (root / f"ImageSets/Main/{name}.txt").write_text("".join(f"{index:06}\n" for index in range(start, start + count)))
        start += count
    return root


def on_folder(root: Path, outputs: Path) -> list[str]:
    """Overrides of a run on such a folder, at native sizes."""
    data = ["data=voc", f"data.root={root}", "data.background=allow"]
    data += ["data.augment={flip: true, photometric: 0, crop_scale: 1}"]
    return [*SMALL_DETECTOR, *data, f"outputs={outputs}", "batch_size=6"]
