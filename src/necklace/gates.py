"""What the gates of a model's focal layers do, over the whole validation set, while it is validated anyway.

Every focal layer counts, in the neck or anywhere else: ours, and timm's in a focalnet backbone. During a pass a hook hands each
layer's input to the parts that the layer computes on its way (so it holds for any fast path of its forward too), and the sums
of `gate_stats` stream over the batches; between passes the model is untouched. The figures go to `gates.parquet`, those of the
chosen weights also into the record, and to W&B where that is the logger.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
import wandb
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console
from timm.models.focalnet import FocalModulation as TimmFocalModulation
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from necklace.data.datamodule import Batch
from necklace.gate_stats import EDGES, QUANTILES, LayerGates, quantile_name
from necklace.necks.focal import FocalModulation, FocalParts
from necklace.ranks import all_gather_object
from necklace.record import write_whole

FIGURES = ("mean", "sd", "min", "max", *map(quantile_name, QUANTILES), "negative", "dead", "mass", "entropy")
CONTRIBUTIONS = ("contribution", "contribution_share")
COLUMNS = pa.schema(
    [("weights", pa.string())]
    + [(name, pa.int64()) for name in ("epoch", "step")]
    + [(name, pa.string()) for name in ("layer", "context", "split", "value")]
    + [(name, pa.int64()) for name in ("images", "count", "nonfinite")]
    + [(name, pa.float64()) for name in (*FIGURES, *CONTRIBUTIONS)]
)
TABLE_ROWS = 10_000  # what a W&B table shows


def focal_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The focal layers of a model, or of the task around it, by name, such as `neck` or `neck.modulation`."""
    kinds = FocalModulation | TimmFocalModulation
    return {name.removeprefix("model."): module for name, module in model.named_modules() if isinstance(module, kinds)}


def context_names(layer: nn.Module) -> tuple[str, ...]:
    """The names of a focal layer's contexts, such as ("level1 k3", "level2 k5", "global")."""
    if isinstance(layer, TimmFocalModulation):
        return (*(f"level{number} k{kernel}" for number, kernel in enumerate(layer.kernel_sizes, 1)), "global")
    assert isinstance(layer, FocalModulation)
    return layer.context_names


def focal_parts(layer: nn.Module, x: Tensor) -> FocalParts:
    """What a focal layer computes on its way for the input x [B, C, h, w]."""
    if isinstance(layer, FocalModulation):
        return layer.parts(x)
    # timm's hands nothing out, so its parts are computed from its weights (both in [B, C, h, w]).
    assert isinstance(layer, TimmFocalModulation)
    query, z, gates = torch.split(layer.f(x), layer.input_split, dim=1)
    contexts = []
    for gather in layer.focal_layers:
        z = gather(z)
        contexts.append(z)
    contexts.append(layer.act(z.mean((2, 3), keepdim=True)))
    total = torch.stack([context * gates[:, n : n + 1] for n, context in enumerate(contexts)]).sum(0)
    return FocalParts(query, contexts, gates, layer.h(total / len(contexts) if layer.normalize_modulator else total))


class GateWatch:
    """Watches the focal layers of a model through one pass over images: a context manager.

    The layers are hooked inside it only. Tell it of each batch before the model sees it:

        with GateWatch(model, len(classes)) as watch, torch.no_grad():
            for batch in batches:
                watch.batch(batch.images, batch.labels)
                model(batch.images)
        watch.layers["neck"].rows(classes)

    Attributes:
        layers: Name to statistics, of the layers that have been called.
    """

    def __init__(self, model: nn.Module, classes: int, references: Mapping[str, float] | None = None) -> None:
        """Ready the watch.

        Args:
            model: The model.
            classes: Number of classes.
            references: Each layer's root mean square in the pass before, if there was one.
        """
        self.layers: dict[str, LayerGates] = {}
        self._modules, self._classes, self._references = focal_layers(model), classes, references or {}
        self._hooks: list[RemovableHandle] = []
        self._batch: tuple[Tensor, tuple[int, int], int] | None = None

    def __enter__(self) -> "GateWatch":
        for name, module in self._modules.items():

            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
                self._take(name, module, args[0] if args else kwargs["x"])

            self._hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._batch = None

    def batch(self, images: Tensor, labels: Tensor) -> None:
        """Announce a batch: images [B, 3, H, W], labels int64 [B] or [B, K] (1 where a class is present)."""
        if labels.ndim == 1:
            pairs = torch.stack([torch.arange(len(labels), device=labels.device), labels])
        else:
            pairs = (labels == 1).nonzero().T
        self._batch = pairs, (images.shape[2], images.shape[3]), len(labels)

    @torch.no_grad()
    def _take(self, name: str, module: nn.Module, x: Tensor) -> None:
        if self._batch is None:
            return
        pairs, size, count = self._batch
        if len(x) != count:
            pairs = pairs[:, :0]  # a neck of the user's that has cut the images up: which part shows which class is its secret
        parts = focal_parts(module, x)
        if name not in self.layers:
            reference, gated = self._references.get(name), parts.gates is not None
            self.layers[name] = LayerGates(context_names(module), gated, self._classes, reference, x.device)
        self.layers[name].add(parts.contexts, parts.gates, pairs, size)


class Gates(Callback):
    """Keeps the statistics of the focal layers' gates over val: every so many epochs, and whenever val is judged outside fit.

    Args:
        every: Epochs from one pass to the next, the first epoch being the first; 0 for none at all.
        path: The parquet file, rewritten whole after each pass; one row for each pass, layer, context and split (all, class,
            size). Its columns are explained at `LayerGates.rows`.
        classes: Names of the classes.
        console: Where to say what a person should know.

    Attributes:
        chosen: Epoch and step that the weights come from when val is judged outside of fit.
        rows: The rows of the file.

    Raises:
        ValueError: `every` is no number of epochs.
    """

    def __init__(self, every: int, path: Path, classes: Sequence[str], console: Console) -> None:
        if not isinstance(every, int) or isinstance(every, bool) or every < 0:
            raise ValueError(f"callbacks.gates={every}: must be a number of epochs, or 0 for none")
        self.every, self.path, self.console = every, path, console
        # A folder's name may be no UTF-8, which a table of text has to be.
        self.classes = tuple(name.encode(errors="backslashreplace").decode() for name in classes)
        self.chosen: tuple[int, int] | None = None
        self.rows: list[dict[str, Any]] = []
        self._references: dict[str, float] = {}
        self._watch: GateWatch | None = None
        self._pass = ExitStack()

    def state_dict(self) -> dict[str, Any]:
        """Which passes there were, and what the next is measured against; the rows stay in the file."""
        return {"epochs": sorted({row["epoch"] for row in self.rows}), "references": self._references}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint: passes that the file holds from beyond it will be made again."""
        self._references = dict(state_dict["references"])
        rows = pq.read_table(self.path).to_pylist() if self.path.exists() else []
        self.rows = [row for row in rows if row["weights"] == "epoch" and row["epoch"] in state_dict["epochs"]]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Say if there is nothing to watch."""
        if stage == "fit" and self.every and not focal_layers(pl_module):
            self.console.print("gates: there is no focal layer in the model, so none are watched")

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hook the layers, if a pass is due."""
        last = max((row["epoch"] for row in self.rows if row["weights"] == "epoch"), default=None)
        # Not every N-th epoch, but the first with a validation: val need not be judged in each.
        due = trainer.state.fn != TrainerFn.FITTING or last is None or trainer.current_epoch - last >= self.every
        if self.every and due and focal_layers(pl_module):
            self._watch = self._pass.enter_context(GateWatch(pl_module, len(self.classes), self._references))

    def on_validation_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Announce the batch."""
        if self._watch:
            self._watch.batch(batch.images, batch.labels)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Unhook the layers, put the ranks' sums together, keep and log the figures."""
        watch = self._watch
        if watch is None:
            return
        self._unhook()
        layers: dict[str, LayerGates] = {}
        for part in all_gather_object({name: layer.cpu() for name, layer in watch.layers.items()}):
            for name, layer in part.items():
                if name in layers:
                    layers[name].merge(layer)
                else:
                    layers[name] = layer
        self._references |= {name: rms for name, layer in layers.items() if (rms := layer.rms()) is not None}
        in_fit = trainer.state.fn == TrainerFn.FITTING
        epoch, step = (trainer.current_epoch, trainer.global_step) if in_fit or self.chosen is None else self.chosen
        start = {"weights": "epoch" if in_fit else "chosen", "epoch": epoch, "step": step}
        new = [{**start, "layer": name} | row for name, layer in layers.items() for row in layer.rows(self.classes)]
        known = {(mark["layer"], mark["context"]) for mark in _marks(self.rows)}
        self.rows += new
        for mark in _marks(new):
            if (mark["layer"], mark["context"]) not in known:
                self.console.print(f"gates: {_told(mark)}")
        if trainer.is_global_zero:
            content = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(self.rows, COLUMNS), content)
            write_whole(self.path, content.getvalue())
            for logger in trainer.loggers:
                if isinstance(logger, WandbLogger):
                    logger.log_metrics(_for_wandb(layers, new, epoch), step=step - 1)  # counted from 0

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the model untouched; where gates were not finite, the traceback should say so."""
        self._unhook()
        marks = _marks(self.rows)
        if not marks and self.every and isinstance(exception, FloatingPointError) and focal_layers(pl_module):
            marks = self._marks_now(trainer, pl_module)
        for mark in marks:
            exception.add_note(f"gates: {_told(mark)}")

    def _marks_now(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[dict[str, Any]]:
        """Which gates are not finite with the weights as they are, on the first batch of val."""
        data: Any = getattr(trainer, "datamodule")  # noqa: B009, which Lightning attaches without declaring it
        batch: Batch = data.prepare(next(iter(data.val_dataloader())), augment=False)
        images, labels = batch.images.to(pl_module.device), batch.labels.to(pl_module.device)
        with GateWatch(pl_module, len(self.classes)) as watch, torch.no_grad():
            watch.batch(images, labels)
            pl_module(images)
        start = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        return _marks(
            [{**start, "layer": name} | row for name, layer in watch.layers.items() for row in layer.rows(self.classes)]
        )

    def _unhook(self) -> None:
        self._pass.close()
        self._watch = None

    def summary(self) -> dict[str, Any] | None:
        """What goes into the record, or None where no chosen weights were watched.

        Returns:
            `epoch` and `step` of the weights; `layers`: layer to context to figures (see `LayerGates.rows`), to five digits;
            `nonfinite`: the first pass in which a layer's context or gate was NaN or infinite, for each that ever was.
        """
        chosen = [row for row in self.rows if row["weights"] == "chosen" and row["split"] == "all"]
        if not chosen:
            return None
        layers: dict[str, dict[str, Any]] = {}
        for row in chosen:
            figures = {name: _short(row[name]) for name in (*FIGURES, *CONTRIBUTIONS)}
            layers.setdefault(row["layer"], {})[row["context"]] = figures
        return {"epoch": chosen[0]["epoch"], "step": chosen[0]["step"], "layers": layers, "nonfinite": _marks(self.rows)}


def _marks(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each layer's context that was not finite somewhere, the first pass in which it was not."""
    marks: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["split"] == "all" and row["nonfinite"]:
            kept = {name: row[name] for name in ("layer", "context", "epoch", "step")} | {"positions": row["nonfinite"]}
            marks.setdefault((row["layer"], row["context"]), kept)
    return list(marks.values())


def _told(mark: dict[str, Any]) -> str:
    return (
        f"{mark['layer']}, {mark['context']}: NaN or infinite at {mark['positions']} positions of val "
        f"at step {mark['step']} (epoch {mark['epoch']})"
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _for_wandb(layers: dict[str, LayerGates], rows: Sequence[dict[str, Any]], epoch: int) -> dict[str, Any]:
    """A pass as W&B takes it: a few scalars for each layer, a histogram for each gate, and the rows as a table."""
    logged: dict[str, Any] = {"epoch": epoch}
    for row in rows:
        if row["split"] != "all":
            continue
        layer, context = f"gates/{row['layer']}", f"gates/{row['layer']}/{row['context']}"
        scalars = {f"{context}/{name}": row[name] for name in ("mass", "contribution_share")}
        scalars[f"{layer}/entropy"] = row["entropy"]
        logged |= {name: value for name, value in scalars.items() if value is not None}
        if row["min"] is not None and row["min"] < row["max"]:
            counts = np.concatenate([[0], layers[row["layer"]].histograms()[row["context"]].cumsum()])
            edges = np.linspace(row["min"], row["max"], 65)  # W&B draws even bins, and at most 512
            reached = np.interp(edges, EDGES, counts)
            reached[0], reached[-1] = 0, counts[-1]  # the bin of an extreme reaches beyond it
            logged[f"{context}/gate"] = wandb.Histogram(np_histogram=(np.diff(reached), edges))
    shown = rows if len(rows) <= TABLE_ROWS else [row for row in rows if row["split"] != "class"]
    logged["gates/table"] = wandb.Table(COLUMNS.names, [[row[name] for name in COLUMNS.names] for row in shown])
    return logged
