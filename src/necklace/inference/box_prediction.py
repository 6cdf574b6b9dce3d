"""`necklace predict` with a run that finds objects: a line for each box, as CSV or JSON."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from necklace.data.files import File, decode_files, readable
from necklace.inference.loaded import LoadedRun
from necklace.inference.prediction import image_files
from necklace.tasks.detection import Detections

# Boxes with a lower score are left out: an image has up to a hundred, most of them next to nothing. Pictures have the same.
LEAST = 0.3
COLUMNS = ("file", "class", "score", "x0", "y0", "x1", "y1")


@dataclass(frozen=True)
class BoxPredictions:
    """What a run finds in images.

    Attributes:
        classes: Names of the K classes.
        names: The N images.
        found: For each of them, what is in it.
        problems: Image to why it could not be read; these are not among `names`.
        passed_over: Sentences on what in the given folders is no image.
    """

    classes: tuple[str, ...]
    names: tuple[str, ...]
    found: tuple[Detections, ...]
    problems: dict[str, str]
    passed_over: tuple[str, ...]

    def text(self, form: str) -> str:
        """All of it as `csv` or `json`: a row for each box, with `COLUMNS`, those of an image together, the best first.

        Boxes are in pixels of the image, from its upper left corner; all numbers have seven digits.
        """
        if form == "json":
            rows = [dict(zip(COLUMNS, row, strict=True)) for row in self._rows()]
            return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"
        out = io.StringIO()
        table = csv.writer(out, lineterminator="\n")
        table.writerow(COLUMNS)
        for name, kind, *numbers in self._rows():
            table.writerow([name, kind, *(f"{value:.7g}" for value in numbers)])
        return out.getvalue()

    def _rows(self) -> Iterator[tuple]:
        for name, found in zip(self.names, self.found, strict=True):
            for box, score, number in zip(found.boxes.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True):
                yield name, self.classes[number], *(float(f"{value:.7g}") for value in (score, *box))


def boxes_predicted(run: LoadedRun, places: Sequence[str], least: float = LEAST) -> BoxPredictions:
    """Find the objects in all images of files and folders, see `image_files`.

    Args:
        run: A run that finds objects.
        places: Files and folders.
        least: The lowest score of a box, in [0, 1].

    Raises:
        FileNotFoundError: One of the places does not exist.
        ValueError: There is no image, or `least` is out of range.
    """
    if not 0 <= least <= 1:
        raise ValueError(f"--score={least:g}: must be from 0 to 1")
    names, passed_over = image_files(places)
    found, problems = run.found(decode_files([File(name, name, max_pixels=run.preprocessing.max_pixels) for name in names]))
    shown = [readable(name) for name in names]
    good = [number for number in range(len(shown)) if number not in problems]
    kept = (Detections(*(part[found[number].scores >= least] for part in found[number])) for number in good)
    return BoxPredictions(
        run.classes,
        tuple(shown[number] for number in good),
        tuple(kept),
        {shown[number]: readable(reason) for number, reason in sorted(problems.items())},
        passed_over,
    )
