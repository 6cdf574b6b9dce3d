"""What a run finds in the images of test, or of val without one: boxes over some of them, curves, and errors by kind.

The images that are shown are chosen by the data: they are the same in all runs that share it.
"""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from necklace.boxes.curves import precision_recall
from necklace.boxes.errors import errors_of
from necklace.boxes.evidence import Evidence, evidence_of
from necklace.boxes.truth import COUNTS, ImageBoxes
from necklace.data.datamodule import DataModule
from necklace.data.images import ImageSet
from necklace.diagnostics.box_plots import ShownImage, draw_detections, draw_errors, draw_precision_recall
from necklace.model import Model
from necklace.tasks.detection import detections, image_boxes

SHOWN = 4
LEAST = 0.3  # score from which a predicted box is shown
LONGEST = 640  # pixels of a shown image's longer side, at most


@dataclass(frozen=True)
class BoxPictures:
    """Pictures of what a run finds.

    Attributes:
        figures: By name.
        images: Name of a file to its content: the shown images without boxes, as PNG.
        numbers: For `pictures.json`: `split`, `map50`, `errors`, `least` and `images`, whose boxes are in pixels of their
            files, each `[x0, y0, x1, y1, class]` with the flag of a true one or the score of a predicted one.
    """

    figures: dict[str, Figure]
    images: dict[str, bytes]
    numbers: dict[str, Any]


def box_pictures(model: Model, data: DataModule) -> BoxPictures:
    """The pictures of what a model finds.

    Args:
        model: With a dense head, in evaluation mode, on the CPU.
        data: The run's.

    Raises:
        ValueError: No object in the split counts.
    """
    name = "test" if "test" in data.splits else "val"
    split, classes = data.splits[name], data.classes
    found = found_boxes(model, data, name)
    errors = errors_of(found, len(classes))
    evidence = Evidence.joined([evidence_of(found, len(classes))], images=len(found))
    precisions = dict(zip(classes, evidence.precisions("box_map50")[:, 0].tolist(), strict=True))
    curves = {each: curve for k, each in enumerate(classes) if (curve := precision_recall(evidence, k)) is not None}

    chosen = _chosen(found)
    shown = [_shown(split, image) for image in chosen]
    files = [f"images/{number}.png" for number in range(len(shown))]
    numbers = {
        "split": name,
        "map50": _rounded(errors.map50),
        "errors": {kind: {"count": errors.counts[kind], "gain": _rounded(gain)} for kind, gain in errors.gains.items()},
        "least": LEAST,
        "images": [
            {
                "name": split.names[image.index],
                "file": file,
                "true": _listed(each.true_boxes, each.true_classes, each.flags),
                "found": _listed(each.boxes, each.classes, each.scores),
            }
            for image, each, file in zip(chosen, shown, files, strict=True)
        ],
    }
    figures = {
        "detections": draw_detections(shown, classes, name, LEAST),
        "precision_recall": draw_precision_recall(curves, precisions, name),
        "errors": draw_errors(errors, name),
    }
    return BoxPictures(figures, {file: _png(each.pixels) for file, each in zip(files, shown, strict=True)}, numbers)


def found_boxes(model: Model, data: DataModule, split: Any) -> list[ImageBoxes]:
    """The true and the predicted boxes of each image of a split, in its order."""
    images = data.splits[split]
    found = []
    with torch.inference_mode():
        for raw in data.eval_batches(split):
            batch = data.prepare(raw, augment=False)
            size = batch.images.shape[2], batch.images.shape[3]
            for index, each in zip(batch.indices.tolist(), detections(model(batch.images), size), strict=True):
                found.append(image_boxes(images, index, size, each))
    return sorted(found, key=lambda image: image.index)


def _chosen(images: list[ImageBoxes]) -> list[ImageBoxes]:
    """Some images that show objects, evenly spaced over the split."""
    having = [image for image in images if (image.flags == COUNTS).any()]
    count = min(SHOWN, len(having))
    return [having[k * len(having) // count] for k in range(count)]


def _shown(split: ImageSet, image: ImageBoxes) -> ShownImage:
    """An image with its boxes, made smaller where it is large; of the predicted ones those with a score from `LEAST`."""
    scale = min(1.0, LONGEST / max(image.height, image.width))
    size = max(1, round(scale * image.height)), max(1, round(scale * image.width))
    pixels = split.select([image.index]).resized(*size)[0].numpy()
    ratio = np.array([size[1] / image.width, size[0] / image.height] * 2)
    kept = image.scores >= LEAST
    return ShownImage(
        pixels,
        image.true_boxes * ratio,
        image.true_classes,
        image.flags,
        image.boxes[kept] * ratio,
        image.scores[kept],
        image.classes[kept],
    )


def _listed(boxes: np.ndarray, classes: np.ndarray, last: np.ndarray) -> list[list[float]]:
    """Boxes with class and flag or score, as plain numbers."""
    corners = [[round(float(value), 2) for value in box] for box in boxes]
    ends = [int(value) if last.dtype.kind in "iu" else round(float(value), 4) for value in last]
    return [[*box, int(number), end] for box, number, end in zip(corners, classes, ends, strict=True)]


def _png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")
