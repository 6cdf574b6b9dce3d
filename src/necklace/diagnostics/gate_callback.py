"""Statistics of the gates of a run's focal layers over the whole of val, taken while it is evaluated anyway.

They go to `gates.parquet`, those of the chosen weights also into the record, and to the loggers.
Training is not changed by it.
"""

import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console

from necklace.atomic import write_whole
from necklace.data.datamodule import Batch
from necklace.diagnostics.focal import GateWatch, focal_layers
from necklace.diagnostics.gate_stats import QUANTILES, LayerGates, even_bins, quantile_name
from necklace.distributed import all_gather_object

QUANTILE_NAMES = tuple(quantile_name(q) for q in QUANTILES)
SHARES = ("negative", "dead", "mass", "entropy", "contribution", "contribution_share")
STATISTICS = ("mean", "sd", "min", "max", *QUANTILE_NAMES, *SHARES)
COLUMNS = pa.schema(
    [("weights", pa.string())]
    + [(name, pa.int64()) for name in ("epoch", "step")]
    + [(name, pa.string()) for name in ("layer", "context", "split", "value")]
    + [(name, pa.int64()) for name in ("images", "count", "nonfinite")]
    + [(name, pa.float64()) for name in STATISTICS],
    {"epochs": "counted from 1"},
)

Row = dict[str, Any]
"""A row of the file: what one context of a layer did in one pass, over all images, one class or one size."""


class Gates(Callback):
    """Keeps statistics of the focal layers' gates over val: every so many epochs, and whenever val is evaluated outside fit.

    Args:
        every: Epochs from one pass to the next, the first epoch being the first; 0 for none at all.
        path: The parquet file, see `read_gates`; rewritten whole after each pass, with a row for each pass, layer, context and
            split (all, class, size). Its columns are explained at `LayerGates.rows`; in the file, epochs count from 1.
        classes: Names of the classes.
        console: Where to print which gates are not finite.

    Attributes:
        chosen: Epoch, from 0, and step that the weights come from when val is evaluated outside of fit.
        rows: The rows of the file, with epochs from 0.

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
        self.rows: list[Row] = []
        self._references: dict[str, float] = {}
        self._content = b""  # of the file
        self._watch: GateWatch | None = None
        self._pass = ExitStack()

    def state_dict(self) -> dict[str, Any]:
        """The file so far, as uint8, and what the next pass is measured against: a damaged file is made again from it."""
        content = torch.frombuffer(bytearray(self._content), dtype=torch.uint8) if self._content else None
        return {"file": content, "references": self._references}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint: passes that the file holds from beyond it will be made again."""
        self._references, content = dict(state_dict["references"]), state_dict["file"]
        self._content = b"" if content is None else content.cpu().numpy().tobytes()
        table = read_gates(pa.BufferReader(self._content)).to_pylist() if self._content else []
        self.rows = [row | {"epoch": row["epoch"] - 1} for row in table]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Bring the file back to what the checkpoint knows of, whatever it holds."""
        if trainer.is_global_zero and self._content and not (self.path.exists() and self.path.read_bytes() == self._content):
            write_whole(self.path, self._content)

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hook the layers, if a pass is due."""
        last = max((row["epoch"] for row in self.rows if row["weights"] == "epoch"), default=None)
        # Not every N-th epoch, but the first with a validation: val need not be evaluated in each.
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
        """Unhook the layers, merge the sums of all ranks, keep and log the statistics."""
        watch = self._watch
        if watch is None:
            return
        self._unhook()
        layers = _merged(all_gather_object({name: layer.cpu() for name, layer in watch.layers.items()}))
        self._references |= {name: rms for name, layer in layers.items() if (rms := layer.rms()) is not None}
        in_fit = trainer.state.fn == TrainerFn.FITTING
        epoch, step = (trainer.current_epoch, trainer.global_step) if in_fit or self.chosen is None else self.chosen
        new = self._rows_of(layers, {"weights": "epoch" if in_fit else "chosen", "epoch": epoch, "step": step})
        known = {(found["layer"], found["context"]) for found in _first_nonfinite(self.rows)}
        self.rows += new
        for found in _first_nonfinite(new):
            if (found["layer"], found["context"]) not in known:
                self.console.print(f"gates: {_sentence(found)}")
        if trainer.is_global_zero:
            content = io.BytesIO()
            pq.write_table(pa.Table.from_pylist(_counted_from_1(self.rows), COLUMNS), content)
            self._content = content.getvalue()
            write_whole(self.path, self._content)
            for logger in trainer.loggers:
                log(logger, _counted_from_1(new), _drawable(layers, new), epoch + 1, step)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the model untouched; where gates were not finite, the traceback should say so."""
        self._unhook()
        nonfinite = _first_nonfinite(self.rows)
        if not nonfinite and self.every and isinstance(exception, FloatingPointError) and focal_layers(pl_module):
            nonfinite = self._nonfinite_now(trainer, pl_module)
        for found in nonfinite:
            exception.add_note(f"gates: {_sentence(found)}")

    def summary(self) -> dict[str, Any] | None:
        """The part of the record that is about gates, or None where no chosen weights were watched.

        Returns:
            `epoch` and `step` of the weights; `layers`: layer to context to statistics (see `LayerGates.rows`), to five digits;
            `nonfinite`: the first pass in which a layer's context or gate was NaN or infinite, for each that ever was.
        """
        chosen = [row for row in self.rows if row["weights"] == "chosen" and row["split"] == "all"]
        if not chosen:
            return None
        layers: dict[str, dict[str, Any]] = {}
        for row in chosen:
            statistics = {name: _short(row[name]) for name in STATISTICS}
            layers.setdefault(row["layer"], {})[row["context"]] = statistics
        nonfinite = _first_nonfinite(self.rows)
        return {"epoch": chosen[0]["epoch"], "step": chosen[0]["step"], "layers": layers, "nonfinite": nonfinite}

    def _nonfinite_now(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> list[dict[str, Any]]:
        """The gates that are not finite with the weights as they are, on the first batch of val."""
        data: Any = getattr(trainer, "datamodule")  # noqa: B009, which Lightning attaches without declaring it
        batch: Batch = data.prepare(next(iter(data.val_dataloader())), augment=False)
        images, labels = (move_data_to_device(part, pl_module.device) for part in (batch.images, batch.labels))
        with GateWatch(pl_module, len(self.classes)) as watch, torch.no_grad():
            watch.batch(images, labels)
            pl_module(images)
        return _first_nonfinite(self._rows_of(watch.layers, {"epoch": trainer.current_epoch, "step": trainer.global_step}))

    def _rows_of(self, layers: Mapping[str, LayerGates], start: Row) -> list[Row]:
        return [{**start, "layer": name} | row for name, layer in layers.items() for row in layer.rows(self.classes)]

    def _unhook(self) -> None:
        self._pass.close()
        self._watch = None


def log(logger: Any, rows: Sequence[Row], histograms: Mapping[str, tuple[Any, Any]], epoch: int, step: int) -> None:
    """Give a logger what it can show of a pass over val: numbers for each focal layer, each gate's histogram, and the rows.

    Args:
        logger: Lightning's logger; it may have the methods `log_histograms` and `log_rows`, as W&B's has.
        rows: The rows of the pass.
        histograms: Name to counts [n] and edges [n + 1] of a gate, in even bins.
        epoch: The epoch of the pass.
        step: The optimizer steps so far.
    """
    scalars: dict[str, float] = {}
    for row in rows:
        if row["split"] == "all":
            layer = f"gates/{row['layer']}"
            numbers = {f"{layer}/{row['context']}/{name}": row[name] for name in ("mass", "contribution_share")}
            numbers[f"{layer}/entropy"] = row["entropy"]
            scalars |= {name: value for name, value in numbers.items() if value is not None}
    logger.log_metrics({"epoch": epoch, **scalars}, step=step - 1)  # Lightning counts a logger's steps from 0
    if histograms and hasattr(logger, "log_histograms"):
        logger.log_histograms(histograms, epoch, step)
    if hasattr(logger, "log_rows"):
        logger.log_rows("gates/table", COLUMNS.names, rows, epoch, step)


def is_damaged(path: Path) -> bool:
    """Whether a gates.parquet cannot be read; not where there is none."""
    try:
        return path.exists() and read_gates(path) is None
    except (ValueError, OSError):
        return True


def read_gates(path: str | Path | pa.BufferReader) -> pa.Table:
    """A gates.parquet with epochs from 1, whatever code wrote it: files of earlier code count from 0, and do not say so.

    Raises:
        ValueError: It is damaged, or has other columns.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:  # OSError: of its compressed bytes
        words = f"{error}".partition("\n")[0]
        raise ValueError(f"{path}: not a table of gates: {words}") from error
    for field in COLUMNS:
        found = table.schema.field(field.name).type if field.name in table.column_names else "missing"
        if found != field.type:
            raise ValueError(f"{path}: not a table of gates: column {field.name} is {found}, not {field.type}")
    if (table.schema.metadata or {}).get(b"epochs") != b"counted from 1" and _counts_from_0(table):
        epochs = pa.array([epoch + 1 for epoch in table["epoch"].to_pylist()], pa.int64())
        table = table.set_column(table.column_names.index("epoch"), COLUMNS.field("epoch"), epochs)
    return table.replace_schema_metadata(COLUMNS.metadata)


def _counts_from_0(table: pa.Table) -> bool:
    """Whether a file that does not say so counts epochs from 0: by an epoch 0, or by epochs that do not go with the steps."""
    passes = {(epoch, step) for epoch, step in zip(table["epoch"].to_pylist(), table["step"].to_pylist(), strict=True)}
    if any(epoch == 0 for epoch, _ in passes):
        return True
    (last, steps), (first, begun) = max(passes, default=(1, 1)), min(passes, default=(1, 1))
    return last * begun != first * steps  # counted from 1, each epoch has the same number of steps


def _counted_from_1(rows: Sequence[Row]) -> list[Row]:
    """Rows as a person reads them."""
    return [row | {"epoch": row["epoch"] + 1} for row in rows]


def _merged(ranks: Sequence[Mapping[str, LayerGates]]) -> dict[str, LayerGates]:
    """The statistics of each layer over all ranks."""
    layers: dict[str, LayerGates] = {}
    for rank in ranks:
        for name, layer in rank.items():
            if name in layers:
                layers[name].merge(layer)
            else:
                layers[name] = layer
    return layers


def _drawable(layers: Mapping[str, LayerGates], rows: Sequence[Row]) -> dict[str, tuple[Any, Any]]:
    """Name to the counts and edges of a gate's histogram in even bins, of each gate that has more than one value."""
    return {
        f"gates/{row['layer']}/{row['context']}/gate": even_bins(
            layers[row["layer"]].histograms()[row["context"]], row["min"], row["max"]
        )
        for row in rows
        if row["split"] == "all" and row["min"] is not None and row["min"] < row["max"]
    }


def _first_nonfinite(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each layer's context that was not finite somewhere, the first pass in which it was not."""
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        if row["split"] == "all" and row["nonfinite"]:
            kept = {name: row[name] for name in ("layer", "context", "epoch", "step")} | {"positions": row["nonfinite"]}
            first.setdefault((row["layer"], row["context"]), kept)
    return list(first.values())


def _sentence(found: dict[str, Any]) -> str:
    return (
        f"{found['layer']}, {found['context']}: NaN or infinite at {found['positions']} positions of val "
        f"at step {found['step']} (epoch {found['epoch'] + 1})"
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
