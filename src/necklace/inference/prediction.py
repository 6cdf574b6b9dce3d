"""`necklace predict`: a run's predictions for files and folders of images, as CSV or JSON."""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from necklace.data.files import File, decode_files, readable
from necklace.data.formats import EXTENSIONS
from necklace.inference.loaded import LoadedRun

# From this probability on, a run with any number of labels an image says that the class is there; as its test counts it.
THRESHOLD = 0.5


@dataclass(frozen=True)
class Predictions:
    """What a run says of images.

    Attributes:
        classes: Names of the K classes.
        names: The N images.
        probabilities: float32 [N, K].
        one_label: Whether the probabilities of an image sum to 1.
        problems: Image to why it could not be read; these are not among `names`.
        passed_over: Sentences on what in the given folders is no image.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    probabilities: Tensor
    one_label: bool
    problems: dict[str, str]
    passed_over: tuple[str, ...]

    def labels(self, number: int) -> list[str]:
        """The predicted class of an image, or all its classes."""
        row = self.probabilities[number]
        if self.one_label:
            return [self.classes[int(row.argmax())]]
        return [name for name, value in zip(self.classes, row.tolist(), strict=True) if value > THRESHOLD]

    def text(self, form: str) -> str:
        """All of it as `csv` or `json`; probabilities have seven digits.

        CSV has a line for each image: `image`, `predicted` (several classes separated by `;`), and `p/CLASS` for each class.
        JSON is a list of mappings with `image`, `predicted` (a name, or a list where there may be several) and `probabilities`.
        """
        rows = [[float(f"{value:.7g}") for value in row] for row in self.probabilities.tolist()]
        if form == "json":
            content = [
                {
                    "image": name,
                    "predicted": self.labels(number)[0] if self.one_label else self.labels(number),
                    "probabilities": dict(zip(self.classes, rows[number], strict=True)),
                }
                for number, name in enumerate(self.names)
            ]
            return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(["image", "predicted", *(f"p/{name}" for name in self.classes)])
        for number, name in enumerate(self.names):
            table.writerow([name, ";".join(self.labels(number)), *(f"{value:.7g}" for value in rows[number])])
        return out.getvalue()


def predicted(run: LoadedRun, places: Sequence[str]) -> Predictions:
    """Predict all images of files and folders, see `image_files`; the run gives probabilities.

    Args:
        run: The run.
        places: Files and folders.

    Raises:
        FileNotFoundError: One of them does not exist.
        ValueError: There is no image.
    """
    names, passed_over = image_files(places)
    files = [File(name, name, max_pixels=run.preprocessing.max_pixels) for name in names]
    probabilities, problems = run.probabilities(decode_files(files))
    shown = [readable(name) for name in names]
    good = [number for number in range(len(shown)) if number not in problems]
    return Predictions(
        run.classes,
        tuple(shown[number] for number in good),
        probabilities[good],
        run.one_label,
        {shown[number]: readable(reason) for number, reason in sorted(problems.items())},
        passed_over,
    )


def image_files(places: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The images of files and folders, each folder with the folders in it, in the order of their paths.

    In a folder, a file counts as an image by the ending of its name; what is hidden, or a file manager's, does not count.

    Args:
        places: Files and folders.

    Returns:
        Their paths, each once, and sentences on what in the folders is no image.

    Raises:
        FileNotFoundError: One of them does not exist.
        ValueError: There is no image.
    """
    names: dict[str, None] = {}
    passed_over = []
    for place in places:
        if not Path(place).exists():
            raise FileNotFoundError(f"{readable(place)}: there is no such file or folder")
        if Path(place).is_dir():
            images, others = _images_below(place)
            names |= dict.fromkeys(images)
            if others:
                passed_over.append(f"{readable(place)}: {others} files without the ending of an image's name, not looked at")
        else:
            names[place] = None
    if not names:
        given, endings = " ".join(map(readable, places)), ", ".join(sorted(EXTENSIONS))
        raise ValueError(f"{given}: no image there; in a folder, an image's name ends in {endings}")
    return list(names), tuple(passed_over)


def _images_below(folder: str) -> tuple[list[str], int]:
    """The images in a folder and those below it, sorted, and the number of other files; a linked folder is read once."""
    images, others, seen = [], 0, set()
    for place, folders, files in os.walk(folder, followlinks=True):
        here = os.path.realpath(place)
        if here in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        for name in files:
            if name.startswith("."):
                continue
            if os.path.splitext(name)[1].lower() in EXTENSIONS:
                images.append(os.path.join(place, name))
            else:
                others += 1
    return sorted(images), others
