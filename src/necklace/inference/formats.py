"""A model in a file of another format, and the function that such a file holds, read back."""

import copy
import json
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from necklace.heads import Pyramid
from necklace.model import Model

ENDINGS = {"onnx": ".onnx", "torchscript": ".pt", "safetensors": ".safetensors"}
INPUT, KEY = "images", "necklace"


class Plain(nn.Module):
    """A model whose outputs are plain tensors, as they are in a file.

    Args:
        model: The model.

    Attributes:
        outputs: Their names: `logits` [B, K]; of a model that finds objects `scores` [B, A, K], in (0, 1), and `boxes`
            [B, A, 4], before non-maximum suppression.
    """

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.outputs = ("scores", "boxes") if model.dense else ("logits",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images [B, 3, H, W] to the outputs."""
        found = self.model(images)
        return (found.scores.sigmoid(), found.boxes) if self.model.dense else (found,)


def write_model(model: Model, form: str, example: Tensor, dynamic: bool, about: dict[str, Any], path: Path) -> None:
    """Write a model.

    Args:
        model: In evaluation mode, on the CPU; not changed.
        form: One of `ENDINGS`.
        example: float32 [2, 3, H, W], an input.
        dynamic: Whether the file has to accept other heights and widths.
        about: What the file is to say of itself: ONNX's metadata, an extra file of TorchScript, the header of safetensors.
        path: The file.
    """
    text = json.dumps(about, sort_keys=True)
    if form == "safetensors":
        from safetensors.torch import save

        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        path.write_bytes(save(weights, {"format": "pt", KEY: text}))
    elif form == "torchscript":
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch calls this format deprecated; whether a size is frozen, the check finds out
            traced = torch.jit.trace(Plain(model) if model.dense else model, example, check_trace=False)
            torch.jit.save(traced, str(path), {f"{KEY}.json": text})
    else:
        free = torch.export.Dim.DYNAMIC
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's, about itself
            program: Any = torch.onnx.export(
                _for_onnx(model) if not model.dense else Plain(model).eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=({0: free, 2: free, 3: free} if dynamic else {0: free},),
                input_names=[INPUT],
                output_names=list(Plain(model).outputs),
                verbose=False,
            )
        program.model.metadata_props[KEY] = text
        program.save(str(path))


def read_model(model: Model, form: str, path: Path) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """The function of a written model, from float32 [B, 3, H, W] to the outputs of `Plain`.

    Args:
        model: The model that was written; a format that holds weights alone is read into a copy of it.
        form: One of `ENDINGS`.
        path: The file.
    """
    if form == "safetensors":
        from safetensors.torch import load_file

        blank = copy.deepcopy(model)
        for value in blank.state_dict().values():
            value.zero_()
        blank.load_state_dict(load_file(path))
        return Plain(blank)
    if form == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loaded = torch.jit.load(str(path))
        return loaded if model.dense else lambda images: (loaded(images),)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = list(Plain(model).outputs)
    return lambda images: tuple(map(torch.from_numpy, session.run(names, {INPUT: images.contiguous().numpy()})))


def missing_packages(form: str) -> list[str]:
    """The packages that a format needs and that are not installed."""
    return [name for name in ("onnx", "onnxscript", "onnxruntime") if form == "onnx" and find_spec(name) is None]


def _for_onnx(model: Model) -> nn.Module:
    """The model with what ONNX has no operator for put in other words."""
    if not isinstance(model.head, Pyramid):
        return model
    other = Model(model.backbone, model.neck, _MaskedPyramid(model.head)).eval()
    other.mirror, other.shift = model.mirror, model.shift
    return other


class _MaskedPyramid(nn.Module):
    """`Pyramid` for a map of any size: ONNX's adaptive max-pools have a fixed one. Rows and columns of a bin are masks."""

    def __init__(self, head: Pyramid) -> None:
        super().__init__()
        self.bins, self.fc = head.bins, head.fc

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B, C, h, w] to logits [B, K]."""
        height, width = features.shape[2:]
        pooled = []
        for n in self.bins:
            rows = _members(n, height)[:, :, None]  # [n, h, 1]
            of_rows = torch.where(rows, features[:, :, None], -torch.inf).amax(3)  # [B, C, n, w]
            columns = _members(n, width)[None]  # [1, n, w]
            pooled.append(torch.where(columns, of_rows[:, :, :, None], -torch.inf).amax(4).flatten(1))
        return self.fc(torch.cat(pooled, 1))


def _members(n: int, length: int) -> Tensor:
    """Which of `length` positions each of n bins covers, from floor(i*a/n) to ceil((i+1)*a/n): bool [n, length]."""
    number, place = torch.arange(n)[:, None], torch.arange(length)
    first, end = (number * length) // n, ((number + 1) * length + n - 1) // n
    return (place >= first) & (place < end)
