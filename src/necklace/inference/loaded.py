"""`necklace.load`: a finished run's model, ready to be used. Its data is not needed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from torch import Tensor

from necklace.build import model_for
from necklace.data.files import MAX_PIXELS
from necklace.data.sizes import Fixed
from necklace.guard.private import with_home
from necklace.guard.targets import check_targets, trusted
from necklace.inference.preprocessing import Input, Preprocessing, decoded, listed, of_the_run
from necklace.inference.trained_run import check_hashes, finished_record, trained_weights, with_weights
from necklace.model import Model
from necklace.precision import autocast
from necklace.record import Record
from necklace.tasks.detection import Detections, detections

# Resized images that wait for others of their shape, at most, in batches.
WAITING = 16


class _Waiting(NamedTuple):
    """An image at the run's size, uint8 [H, W, 3], its position among those given, and its own height and width in pixels."""

    pixels: Tensor
    position: int
    height: int
    width: int


@dataclass(frozen=True)
class LoadedRun:
    """A finished run.

    Attributes:
        folder: Its folder.
        record: Its record.
        model: Images float32 [B, 3, H, W], as `preprocess` gives them, to logits [B, K], or to `heads.Dense` where
            `model.dense`; in evaluation mode.
        classes: Names of the K classes.
        preprocessing: From pixels to the model's input.
        one_label: Whether an image has exactly one label (softmax) or any number of them (sigmoid).
    """

    folder: Path
    record: Record
    model: Model
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    one_label: bool

    @classmethod
    def open(cls, folder: Path, trust: str | Path | None = None) -> "LoadedRun":
        """See `necklace.load`."""
        record = finished_record(folder)
        config: dict[str, Any] = with_home(record.config)
        check_targets(config, trust)
        check_hashes(record, folder)
        weights = trained_weights(folder, record)
        try:
            classes = tuple(record.data["classes"])
            # The trained weights replace what a weights file gave, so it need not be there.
            backbone = {name: None if name == "pretrained" else value for name, value in config["backbone"].items()}
            with trusted(trust):
                sizes = instantiate(config["data"]["sizes"])
                preprocessing = Preprocessing(
                    sizes,
                    tuple(config["data"]["mean"]),
                    tuple(config["data"]["std"]),
                    config["data"].get("max_pixels", MAX_PIXELS),
                )
                fixed = preprocessing.size_of(1, 1) if isinstance(sizes, Fixed) else None
                model = model_for(OmegaConf.create(config | {"backbone": backbone}), len(classes), fixed)
                one_label = get_class(config["task"]["_target_"]).label_axes == 1
        except (InstantiationException, KeyError, TypeError, AttributeError) as error:
            words = " ".join(str(error.__cause__ or error).split())
            raise ValueError(f"{folder / 'record.json'}: its model cannot be built: {type(error).__name__}: {words}") from error
        return cls(folder, record, with_weights(model.eval(), weights, folder), classes, preprocessing, one_label)

    def preprocess(self, image: Input) -> Tensor:
        """An image as the run's evaluation sees it.

        Args:
            image: A file, an image of Pillow, or uint8 RGB pixels [h, w, 3] or [3, h, w], of any size.

        Returns:
            float32 [1, 3, H, W], on the CPU.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not a readable image.
        """
        pixels = next(decoded([image], self.preprocessing.max_pixels))
        return self.preprocessing.normalised(self.preprocessing.sized(pixels)[None])

    def predict(self, images: Input | Iterable[Input]) -> Any:
        """What the run says of each image.

        Args:
            images: As for `preprocess`, one or a list, of any sizes; an array or tensor [N, h, w, 3] is N images.

        Returns:
            The probability of each class, float32 [N, K], on the CPU, in the images' order. With one label an image its K
            values sum to 1; else each is the probability that the class is in the image.
            Of a run that finds objects, a list of `Detections`, one for each image: `boxes` float32 [D, 4] in pixels of the
            image as it was given, upright by EXIF; `scores` float32 [D], falling; `classes` int64 [D], places in `classes` of
            the run. All that the run's test counts, so that many have low scores.

        Raises:
            FileNotFoundError: As `preprocess`.
            ValueError: As `preprocess`.
        """
        pixels = decoded(listed(images), self.preprocessing.max_pixels)
        return (self.found if self.model.dense else self.probabilities)(pixels)[0]

    def probabilities(self, images: Iterable[Tensor | str]) -> tuple[Tensor, dict[int, str]]:
        """Predict images as they are decoded, with no more of them in memory than a few batches.

        Args:
            images: For each its pixels, uint8 [h, w, 3], or why it cannot be read.

        Returns:
            float32 [N, K], NaN where an image cannot be read; and the reasons by the images' positions.
        """
        problems: dict[int, str] = {}
        rows: dict[int, Tensor] = {}
        for group, logits in self._outputs(images, problems):
            rows |= dict(zip((each.position for each in group), self.activated(logits.float()).cpu(), strict=True))
        result = torch.full((len(rows) + len(problems), len(self.classes)), torch.nan)
        for position, row in rows.items():
            result[position] = row
        return result, problems

    def found(self, images: Iterable[Tensor | str]) -> tuple[list[Detections], dict[int, str]]:
        """Find the objects in images as they are decoded, of a run that finds objects.

        Args:
            images: As for `probabilities`.

        Returns:
            What is found in each image, see `predict`; nothing where it cannot be read; and the reasons by position.
        """
        problems: dict[int, str] = {}
        rows: dict[int, Detections] = {}
        for group, outputs in self._outputs(images, problems):
            height, width = group[0].pixels.shape[:2]
            for each, own in zip(group, detections(outputs, (height, width)), strict=True):
                scale = torch.tensor([each.width / width, each.height / height] * 2)
                rows[each.position] = own._replace(boxes=own.boxes * scale)
        nothing = Detections(torch.empty(0, 4), torch.empty(0), torch.empty(0, dtype=torch.int64))
        return [rows.get(position, nothing) for position in range(len(rows) + len(problems))], problems

    def _outputs(self, images: Iterable[Tensor | str], problems: dict[int, str]) -> Iterator[tuple[list[_Waiting], Any]]:
        """Batches of images of one shape with the model's output; why an image cannot be read goes to `problems`."""
        batch_size = int(self.record.config["batch_size"])
        waiting: dict[tuple[int, ...], list[_Waiting]] = {}
        held = 0
        for position, image in enumerate(images):
            if isinstance(image, str):
                problems[position] = of_the_run(image)
                continue
            sized = self.preprocessing.sized(image)
            group = waiting.setdefault(tuple(sized.shape), [])
            group.append(_Waiting(sized, position, int(image.shape[0]), int(image.shape[1])))
            held += 1
            if len(group) == batch_size or held == WAITING * batch_size:
                fullest = waiting.pop(max(waiting, key=lambda shape: len(waiting[shape])))
                held -= len(fullest)
                yield fullest, self._output(fullest)
        for group in waiting.values():
            yield group, self._output(group)

    def _output(self, images: list[_Waiting]) -> Any:
        """What the model gives for images of one shape."""
        device = next(self.model.parameters()).device
        batch = self.preprocessing.normalised(torch.stack([image.pixels for image in images]).to(device))
        with torch.inference_mode(), autocast(self.record.config["trainer"].get("precision"), device):
            return self.model(batch)

    def activated(self, logits: Tensor) -> Tensor:
        """The probabilities of logits, both float32 [N, K]."""
        return logits.softmax(1) if self.one_label else logits.sigmoid()
