"""One data set in the three layouts that people have: VOC's XML, COCO's JSON, YOLO's text files."""

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

Thing = tuple[str, float, float, float, float]
"""Name, xmin, ymin, xmax and ymax as VOC has them: from 1, the last ones included."""


def voc_things(path: Path) -> list[Thing]:
    """The objects of an annotation, read without this project."""
    found = []
    for item in ElementTree.parse(path).getroot().iter("object"):
        box = item.find("bndbox")
        assert box is not None
        sides = [float(box.findtext(side) or "") for side in ("xmin", "ymin", "xmax", "ymax")]
        found.append((" ".join((item.findtext("name") or "").split()), *sides))
    return found


def voc_splits(root: Path) -> dict[str, dict[Path, list[Thing]]]:
    """Image to objects, by split, of a folder with lists."""
    images = {path.stem: path for path in (root / "JPEGImages").iterdir()}
    splits = {}
    for split in ("train", "val", "test"):
        names = (root / f"ImageSets/Main/{split}.txt").read_text().split()
        splits[split] = {images[name]: voc_things(root / f"Annotations/{name}.xml") for name in names}
    return splits


def write_coco(splits: dict[str, dict[Path, list[Thing]]], classes: list[str], root: Path) -> Path:
    """Write a file for each split, `annotations/instances_SPLIT.json`, and all images into `images/`."""
    (root / "annotations").mkdir(parents=True)
    (root / "images").mkdir()
    for split, images in splits.items():
        content: dict[str, Any] = {"info": {}, "licenses": [], "images": [], "annotations": [], "categories": []}
        content["categories"] = [{"id": number, "name": name} for number, name in enumerate(classes, 1)]
        for number, (path, things) in enumerate(images.items(), 1):
            shutil.copy(path, root / "images" / path.name)
            with Image.open(path) as image:
                size = {"width": image.width, "height": image.height}
            content["images"].append({"id": number, "file_name": path.name, **size})
            for name, x0, y0, x1, y1 in things:
                bbox = [x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1]
                known = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": classes.index(name) + 1}
                more = {"area": bbox[2] * bbox[3], "iscrowd": 0, "segmentation": [[*bbox, 1, 2]]}
                content["annotations"].append({**known, "bbox": bbox, **more})
        (root / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return root


def write_yolo(splits: dict[str, dict[Path, list[Thing]]], classes: list[str], root: Path, decimals: int = 6) -> Path:
    """Write `data.yaml`, `images/SPLIT/` and `labels/SPLIT/`."""
    for split, images in splits.items():
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for path, things in images.items():
            shutil.copy(path, root / "images" / split / path.name)
            with Image.open(path) as image:
                width, height = image.size
            lines = []
            for name, x0, y0, x1, y1 in things:
                shares = ((x0 - 1 + x1) / 2 / width, (y0 - 1 + y1) / 2 / height, (x1 - x0 + 1) / width, (y1 - y0 + 1) / height)
                lines.append(" ".join([str(classes.index(name)), *(f"{share:.{decimals}f}" for share in shares)]))
            (root / "labels" / split / f"{path.stem}.txt").write_text("\n".join(lines) + "\n" * bool(lines))
    parts = "".join(f"{split}: images/{split}\n" for split in splits)
    (root / "data.yaml").write_text(f"{parts}nc: {len(classes)}\nnames: {json.dumps(classes)}\n")
    return root
