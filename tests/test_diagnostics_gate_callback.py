import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from rich.console import Console
from torch import nn

import necklace.build
from necklace.build import datamodule_of, model_of
from necklace.data.datamodule import Batch
from necklace.diagnostics.focal import GateWatch
from necklace.diagnostics.gate_callback import COLUMNS, Gates, read_gates
from necklace.model import build_model
from necklace.necks import FocalModulation
from necklace.record import Record, read_record
from necklace.run.history import History
from necklace.run.runner import RunFailed, run
from necklace.tasks import Classification
from tests.conftest import SMALL, compose_train, spec_of
from tests.test_cli_train import TWO, inspect, warm
from tests.test_diagnostics_gate_stats import CLASSES, COUNTS, SIZES, batches

Train = Callable[..., tuple[Record, Path]]


def test_every_focal_layer_of_a_timm_backbone_is_watched(tmp_path: Path) -> None:
    options = "+backbone.options={focal_levels: [2, 3, 1, 1]}"
    small = [text for text in SMALL if not text.startswith("backbone")]
    chosen = [*small, "backbone=timm", "backbone.stage=1", options, "neck=focal", "epochs=1", f"outputs={tmp_path}"]
    record = run(spec_of(chosen))
    assert record.gates is not None
    layers = record.gates["layers"]
    assert [len(layers[name]) for name in sorted(layers)] == [3, 3, 4, 4, 3]
    assert sorted(layers)[-1] == "neck"
    assert all(name.startswith("backbone.network.") for name in sorted(layers)[:4])
    table = pq.read_table(tmp_path / "runs" / record.name / "gates.parquet")
    assert set(table["layer"].to_pylist()) == set(layers)


class Probe(pl.LightningModule):
    """Runs a focal layer on its batches and learns something else."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.neck, self.scale = layer, nn.Parameter(torch.ones(()))
        self.fail_at: int | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == self.fail_at:
            raise RuntimeError("the power went out")
        return self.scale**2

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.neck(batch.images)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.scale], 0.1)


class ProbeBatches:
    """A list would be taken for several loaders."""

    def __len__(self) -> int:
        return len(COUNTS)

    def __iter__(self) -> Iterator[Batch]:
        return (Batch(x, y, y, len(y), (0, 0, 0)) for x, y in batches())


def fit(probe: Probe, gates: Gates, folder: Path, epochs: int = 1) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=[gates],
    )
    trainer.fit(probe, ProbeBatches(), ProbeBatches())
    return trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*logging interval")
def test_a_gate_that_is_no_number_is_named_counted_and_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = FocalModulation(3)
    with torch.no_grad():
        layer.f.weight[-2] = 0.0
        layer.f.bias[-2] = math.inf  # pyright: ignore[reportOptionalSubscript]
    probe, gates = Probe(layer), Gates(1, tmp_path / "gates.parquet", CLASSES, Console(soft_wrap=True))
    trainer = fit(probe, gates, tmp_path, epochs=2)
    gates.chosen = 0, 5
    trainer.validate(probe, ProbeBatches(), verbose=False)
    positions = sum(count * height * width for count, (height, width) in zip(COUNTS, SIZES, strict=True))
    told = f"neck, level2 k5: NaN or infinite at {positions} positions of val at step 5 (epoch 1)"
    assert capsys.readouterr().out.count(told) == 1
    summary = gates.summary()
    assert summary is not None
    mark = {"layer": "neck", "context": "level2 k5", "epoch": 0, "step": 5, "positions": positions}
    assert summary["nonfinite"] == [mark]
    assert summary["layers"]["neck"]["level2 k5"]["mean"] is None
    others = [summary["layers"]["neck"][name] for name in ("level1 k3", "global")]
    assert all(math.isfinite(figures["mean"]) for figures in others)
    assert sum(figures["mass"] for figures in others) == pytest.approx(1, abs=1e-4)
    probe.fail_at = 0
    with pytest.raises(RuntimeError, match="the power went out") as error:
        fit(probe, gates, tmp_path)
    assert any(told in note for note in error.value.__notes__)


def hooked(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_hooks_are_gone_after_fit_and_after_an_exception(train_run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[nn.Module] = []
    during: list[int] = []

    def build(*arguments: Any) -> nn.Module:
        models.append(build_model(*arguments))
        return models[-1]

    monkeypatch.setattr(necklace.build, "build_model", build)
    record, _ = train_run("neck=focal", "epochs=1")
    assert record.gates is not None
    assert hooked(models[0]) == 0

    def stumble(self: Classification, batch: Batch, batch_idx: int) -> None:
        during.append(hooked(self.model))
        raise OSError("unplugged")

    monkeypatch.setattr(Classification, "validation_step", stumble)
    with pytest.raises(RunFailed, match="unplugged"):
        train_run("neck=focal_block", "epochs=1")
    assert during == [1]
    assert hooked(models[1]) == 0


def test_a_run_keeps_what_its_gates_do_and_is_not_changed_by_it(train_run: Train, tmp_path: Path) -> None:
    record, folder = train_run("neck=focal", "epochs=3", "callbacks.gates=2")
    unwatched, other = train_run("neck=focal", "epochs=3", "callbacks.gates=0", outputs=tmp_path / "unwatched")
    assert record.weights_hash == unwatched.weights_hash
    assert record.name == unwatched.name
    assert record.metrics == unwatched.metrics
    assert unwatched.gates is None
    assert not (other / "gates.parquet").exists()
    rows = pq.read_table(folder / "gates.parquet").to_pylist()
    assert pq.read_schema(folder / "gates.parquet").metadata[b"epochs"] == b"counted from 1"
    passes = [(row["weights"], row["epoch"]) for row in rows]
    assert list(dict.fromkeys(passes)) == [("epoch", 1), ("epoch", 3), ("chosen", record.best_epoch + 1)]
    assert record.gates is not None
    assert record.gates["nonfinite"] == []
    assert read_record(folder / "record.json").gates == record.gates
    assert_chosen_weights(folder, ["neck=focal", *SMALL], record)
    chosen = [(row["split"], row["value"]) for row in rows if row["context"] == "global" and row["weights"] == "chosen"]
    assert chosen == [("all", ""), *(("class", name) for name in record.data["classes"]), ("size", "24x24")]


def assert_chosen_weights(folder: Path, chosen: list[str], record: Record) -> None:
    """The record's statistics are those of one process with the chosen weights, over all of val."""
    config, _ = compose_train([text for text in chosen if "trainer" not in text])
    plain: Any = OmegaConf.to_container(config, resolve=True)
    data = datamodule_of(plain)
    model = model_of(config, data)
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    model.eval()
    with GateWatch(model, len(data.classes)) as watch, torch.no_grad():
        for batch in data.eval_batches("val"):
            prepared = data.prepare(batch, augment=False)
            watch.batch(prepared.images, prepared.labels)
            model(prepared.images)
    expected = watch.layers["neck"].rows(data.classes)
    rows = [row for row in pq.read_table(folder / "gates.parquet").to_pylist() if row["weights"] == "chosen"]
    assert {row["epoch"] for row in rows} == {record.best_epoch + 1}
    for row, other in zip(rows, expected, strict=True):
        for name, value in other.items():
            if name != "dead":  # here there is no pass before
                assert row[name] == (pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value), name
    assert record.gates is not None
    for row in expected[:3]:
        figures = record.gates["layers"]["neck"][row["context"]]
        assert figures["contribution"] == pytest.approx(row["contribution"], rel=1e-4)
        assert figures["q50"] == pytest.approx(row["q50"], rel=1e-4, abs=1e-6)


def test_a_resumed_run_has_the_rows_of_an_undisturbed_one(
    train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["neck=focal", "epochs=4", "callbacks.gates=1"]
    undisturbed, folder = train_run(*options, outputs=tmp_path / "undisturbed")

    def stumble(self: History, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 2:  # after the pass, before the checkpoint
            raise OSError("unplugged")
        ended(self, trainer, pl_module)

    ended = History.on_train_epoch_end
    monkeypatch.setattr(History, "on_train_epoch_end", stumble)
    with pytest.raises(RunFailed, match="unplugged"):
        train_run(*options)
    monkeypatch.undo()
    resumed, other = train_run(*options)
    assert resumed.resumed == 1
    assert resumed.gates == undisturbed.gates
    assert pq.read_table(other / "gates.parquet").equals(pq.read_table(folder / "gates.parquet"))


def test_a_run_without_a_focal_layer_does_not_mention_gates(train_run: Train, capsys: pytest.CaptureFixture[str]) -> None:
    record, folder = train_run("neck=sppf")
    assert record.gates is None
    assert not (folder / "gates.parquet").exists()
    assert "gates" not in capsys.readouterr().out.replace(str(folder), "")


@pytest.mark.parametrize(
    ("table", "cut_off", "message"),
    [
        (COLUMNS.empty_table(), 5, "Parquet"),
        (COLUMNS.empty_table().drop_columns(["dead"]), 0, "column dead is missing, not double"),
        (COLUMNS.empty_table().set_column(1, "epoch", pa.array([], pa.string())), 0, "column epoch is string, not int64"),
    ],
)
def test_a_file_that_is_no_table_of_gates_is_named(tmp_path: Path, table: pa.Table, cut_off: int, message: str) -> None:
    path = tmp_path / "gates.parquet"
    pq.write_table(table, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut_off])
    with pytest.raises(ValueError, match=rf"^{path}: not a table of gates: .*{message}"):
        read_gates(path)


def test_gates_that_broke_the_loss_are_named(train_run: Train) -> None:
    options = ["neck=focal", "optimizer.lr=1e30", "schedule=constant", "epochs=1", "callbacks.gates=5"]
    with pytest.raises(RunFailed, match=r"the training loss is (nan|inf).*\n(?:.*\n)*gates: neck, .*: NaN or infinite"):
        train_run(*options)


def test_a_pass_comes_with_the_first_validation_that_is_due(train_run: Train) -> None:
    record, folder = train_run("neck=focal", "epochs=6", "callbacks.gates=3", "+trainer.check_val_every_n_epoch=2")
    assert record.best_epoch in (1, 3, 5)
    rows = pq.read_table(folder / "gates.parquet").to_pylist()
    # Val is evaluated after the second, fourth and sixth epoch.
    assert sorted({row["epoch"] for row in rows if row["weights"] == "epoch"}) == [2, 6]


def test_a_class_whose_name_is_no_text_has_rows(tmp_path: Path) -> None:
    gates = Gates(1, tmp_path / "gates.parquet", ["inv\udcff", "b"], Console(quiet=True))
    assert pa.Table.from_pylist([{"value": name} for name in gates.classes])["value"].to_pylist() == ["inv\\udcff", "b"]


@pytest.mark.parametrize(
    ("epochs", "marked", "expected"),
    [
        ([(1, 10), (3, 30)], True, [1, 3]),
        ([(0, 10), (2, 30)], False, [1, 3]),  # by earlier code
        ([(1, 20), (3, 40)], False, [2, 4]),  # likewise, with val in every second epoch
        ([(1, 10), (3, 30)], False, [1, 3]),
        ([], False, []),
    ],
)
def test_epochs_are_read_from_1_whatever_code_wrote_them(
    tmp_path: Path, epochs: list[tuple[int, int]], marked: bool, expected: list[int]
) -> None:
    rows = [{"weights": "epoch", "epoch": epoch, "step": step} for epoch, step in epochs]
    table = pa.Table.from_pylist(rows, COLUMNS)
    pq.write_table(table if marked else table.replace_schema_metadata(None), tmp_path / "gates.parquet")
    assert read_gates(tmp_path / "gates.parquet")["epoch"].to_pylist() == expected


@pytest.mark.parametrize("every", [-1, 1.5, "true"])
def test_an_interval_that_is_no_number_of_epochs_is_refused(train_run: Train, every: Any) -> None:
    with pytest.raises(RunFailed, match=r"callbacks\.gates=.*: must be a number of epochs, or 0 for none"):
        train_run("neck=focal", f"callbacks.gates={every}")


@pytest.mark.slow
def test_two_processes_gather_the_gates_of_every_image_once(tmp_path: Path) -> None:
    """A real gloo group over images of many sizes; its statistics are those of one process with the same weights."""
    sizes = ["data/sizes=native", "data.sizes.max_side=48", "data.source.test=33", "data.source.train=150"]
    small = [text for text in SMALL if "source" not in text and not text.startswith(("logger=", "data.size="))]
    result = warm("train.py", "neck=focal", *small, *sizes, *TWO, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("outputs/runs/*/record.json")
    record = read_record(path)
    assert record.world_size == 2
    assert_chosen_weights(path.parent, ["neck=focal", *small, *sizes, "logger=none"], record)
    (run,) = path.parent.glob("wandb/offline-run-*/run-*.wandb")
    summary = inspect(run)["summary"]
    assert {"gates/neck/entropy", "gates/neck/global/mass", "gates/neck/level1 k3/contribution_share"} <= summary.keys()
