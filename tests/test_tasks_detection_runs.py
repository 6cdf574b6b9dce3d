"""Detection from the config to the table, on small drawn data."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from necklace.boxes.evidence import Evidence
from necklace.build import datamodule_of
from necklace.data.boxes import Targets
from necklace.model import Model, weights_hash
from necklace.record import Record, read_record
from necklace.results.analysis import analyse
from necklace.results.evidence import check_evidence
from necklace.results.table import table_text
from necklace.results.verify import verify
from necklace.results.write import write_study
from necklace.run.checks import check_gap
from necklace.run.conditions import quiet_lightning
from necklace.run.fit import task_of, trainer_of
from necklace.run.history import History
from necklace.run.runner import RunFailed, run
from necklace.study.adhoc import study_of_runs
from necklace.study.store import StudyRecords, read_records
from necklace.tasks.detection import Detection, detections
from tests.conftest import spec_of
from tests.detection_data import SMALL_DETECTOR, boxes_folder, on_folder
from tests.test_cli_train import TWO, warm


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return boxes_folder(tmp_path_factory.mktemp("boxes") / "voc")


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two runs."""
    outputs = tmp_path_factory.mktemp("outputs")
    for neck in ("none", "focal"):
        run(spec_of([*on_folder(folder, outputs), f"neck={neck}", "epochs=6"]))
    return outputs / "runs"


def records_of(root: Path) -> list[Record]:
    return [read_record(path) for path in sorted(root.glob("*/record.json"))]


def test_a_detector_learns_and_its_record_says_how_well(trained: Path) -> None:
    records = records_of(trained)
    assert len(records) == 2
    for record in records:
        metrics = record.metrics
        assert metrics["test/box_map50"] > 0.3
        assert metrics["test/box_map"] > 0.1
        assert metrics["test/box_map_classes"] == 2
        by_class = [metrics[f"test/box_ap/{name}"] for name in ("dark", "light")]
        assert metrics["test/box_map"] == pytest.approx(sum(by_class) / 2, abs=1e-6)
        assert {f"test/box_{name}" for name in ("map07", "map12", "map75", "loc", "loc50", "map_small")} <= metrics.keys()
        assert {"test/loss", "val/box_map"} <= metrics.keys()
        assert not [name for name, value in metrics.items() if not 0 <= value < 100]
        assert "test/box_map_large" not in metrics  # no object is: nothing to average
        assert record.test_correct is None
        assert record.data["predicted"] == {}
        assert record.evidence is not None
        assert record.evidence["kind"] == "boxes"
        evidence = Evidence.load(trained / record.name / record.evidence["file"], record.evidence["sha256"])
        assert len(evidence) == 13
        assert record.cost["head"]["params"] > 0
        assert record.neck_input[0] == 32


def test_runs_of_one_seed_share_backbone_head_and_batches(folder: Path, tmp_path: Path) -> None:
    models: list[Any] = []
    batches: list[list[Any]] = []
    for neck in ("none", "sppf", "focal"):
        spec = spec_of([*on_folder(folder, tmp_path), f"neck={neck}", "data.augment={flip: true, crop_scale: 0.5}"])
        data = datamodule_of(spec.resolved)
        models.append(task_of(spec, data).model)
        batches.append([data.prepare(batch, augment=True) for batch in data.train_dataloader()])
    assert len({weights_hash(model.backbone) for model in models}) == 1
    assert len({weights_hash(model.head) for model in models}) == 1
    assert len({weights_hash(model) for model in models}) == 3
    for other in batches[1:]:
        for mine, its in zip(batches[0], other, strict=True):
            assert torch.equal(mine.images, its.images)
            assert all(torch.equal(a, b) for a, b in zip(mine.labels[:4], its.labels[:4], strict=True))
    assert all(isinstance(batch.labels, Targets) for batch in batches[0])


def test_an_interrupted_run_ends_the_same(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = [*on_folder(folder, tmp_path), "neck=sppf", "epochs=3", "data.augment.crop_scale=0.6", "data.augment.mosaic=0.5"]
    undisturbed = run(spec_of([*chosen, f"outputs={tmp_path / 'undisturbed'}"]))

    def stumble(self: History, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 3:
            raise OSError("unplugged")

    monkeypatch.setattr(History, "on_train_batch_start", stumble)
    with pytest.raises(RunFailed, match="unplugged"):
        run(spec_of(chosen))
    monkeypatch.undo()
    resumed = run(spec_of(chosen))
    assert resumed.resumed == 1
    assert resumed.weights_hash == undisturbed.weights_hash != resumed.initial_hash
    assert (resumed.metrics, resumed.evidence) == (undisturbed.metrics, undisturbed.evidence)


def opened(trained: Path, name: str) -> tuple[Detection, Any, Any]:
    """The task of a finished run with its weights, its data and its spec."""
    config = read_record(trained / name / "record.json").config
    spec = replace(spec_of(["task=detection", "data=context_boxes"]), resolved=config)
    data = datamodule_of(config)
    task: Any = task_of(spec, data)
    task.load_state_dict(torch.load(trained / name / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"])
    return task.eval(), data, spec


def test_an_image_gets_the_same_boxes_whatever_it_is_batched_with(trained: Path) -> None:
    task, data, _ = opened(trained, records_of(trained)[0].name)
    found = 0
    with torch.no_grad():
        for batch in (data.prepare(batch, augment=False) for batch in data.test_dataloader()):
            size = batch.images.shape[2], batch.images.shape[3]
            together = detections(task(batch.images), size)
            for image, mine in zip(batch.images, together, strict=True):
                (alone,) = detections(task(image[None]), size)
                assert torch.equal(mine.classes, alone.classes)
                torch.testing.assert_close(mine.boxes, alone.boxes, rtol=0, atol=1e-4)
                torch.testing.assert_close(mine.scores, alone.scores, rtol=0, atol=1e-5)
                found += len(mine.boxes)
    assert found > 100


def as_study(trained: Path, metric: str) -> StudyRecords:
    """The runs as a study whose baseline is the row without a neck."""
    study = study_of_runs(trained, metric)
    return replace(study, info=replace(study.info, name="boxes", baseline="none", axes=("neck",)))


def test_a_table_has_the_interval_over_images_and_verify_derives_all_of_it(trained: Path, tmp_path: Path) -> None:
    for metric in ("test/box_map", "test/box_ap50/dark"):
        results = analyse(as_study(trained, metric))
        (row,) = [row for row in results.rows if row.name == "focal"]
        assert row.difference is not None
        assert row.images is not None
        assert row.images.low < row.difference.mean < row.images.high
        table = table_text(results)
        assert "95 % images" in table.headers
        assert table.headers[2] == f"{metric} %"
    study = as_study(trained, "test/box_map")
    write_study(study, analyse(study), tmp_path)
    read = read_records(tmp_path)
    assert verify(read, tmp_path) == []
    files = sorted((tmp_path / "records").glob("*.evidence.npz"))
    assert len(files) == 2
    files[0].rename(tmp_path / "elsewhere.npz")
    (aside,) = [run for run in read_records(tmp_path).runs if run.state == "damaged"]
    assert "come from this file" in str(aside.failure)
    shutil.copy(files[1], files[0])
    problems = verify(read_records(tmp_path), tmp_path)
    assert any("set aside: " in problem and "is not the file that the run wrote" in problem for problem in problems), problems


@pytest.mark.parametrize("damage", ["a metric", "a metric that is not defined", "another run's file", "a byte"])
def test_what_was_tampered_with_is_found(trained: Path, tmp_path: Path, damage: str) -> None:
    one, other = study_of_runs(trained, "test/box_map").runs
    assert one.record is not None
    assert one.record.evidence is not None
    assert one.evidence is not None
    assert other.evidence is not None
    assert check_evidence(one) == []
    path = Path(shutil.copy(one.evidence, tmp_path / "evidence.npz"))
    record = one.record
    if damage == "a metric":
        value = record.metrics["test/box_ap/dark"]
        record = replace(record, metrics=record.metrics | {"test/box_ap/dark": float(f"{value + 1e-6:.7g}")})
    elif damage == "a metric that is not defined":
        record = replace(record, metrics=record.metrics | {"test/box_map_large": 0.9})
    elif damage == "another run's file":
        path = other.evidence
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    (problem, *_) = check_evidence(replace(one, record=record, evidence=path))
    assert {"a metric": "gives", "a metric that is not defined": "does not define"}.get(damage, "SHA-256") in problem


@pytest.mark.slow
def test_two_processes_measure_what_one_does(folder: Path, tmp_path: Path) -> None:
    """A real gloo group over 13 test images of three shapes, which do not fall evenly to two ranks."""
    chosen = [text for text in on_folder(folder, tmp_path / "outputs") if not text.startswith("logger")]
    result = warm("train.py", *chosen, "neck=sppf", "epochs=3", "logger=none", *TWO, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "sync_dist" not in result.stderr
    (path,) = (tmp_path / "outputs" / "runs").glob("*/record.json")
    record = read_record(path)
    assert record.world_size == 2
    assert record.evidence is not None
    assert record.metrics["test/box_map50"] > 0
    task, data, spec = opened(path.parent.parent, record.name)
    assert weights_hash(task.model) == record.weights_hash
    plain = spec.resolved["trainer"] | {"devices": 1, "strategy": "auto"}
    trainer = trainer_of(replace(spec, resolved=spec.resolved | {"trainer": plain}), tmp_path, [], loggers=False)
    with quiet_lightning():
        metrics = trainer.test(task, data, verbose=False)[0]
    for name, value in metrics.items():
        assert record.metrics[name] == pytest.approx(value, abs=1e-6), name
    assert task.evidence.save(tmp_path / "one.npz") == record.evidence["sha256"]


@pytest.mark.slow
def test_two_processes_train_a_detector_as_one_does(folder: Path, tmp_path: Path) -> None:
    sizes = ["data/sizes=fixed", "data.size=32", "data.augment.flip=true", "data.augment.crop_scale=0.5"]
    chosen = [
        text
        for text in on_folder(folder, tmp_path / "outputs")
        if not text.startswith(("logger", "data/sizes", "data.sizes", "outputs"))
    ]
    chosen += [
        *sizes,
        "neck=sppf",
        "epochs=3",
        "logger=none",
        "optimizer=sgd",
        "optimizer.lr=0.001",
        "+trainer.sync_batchnorm=true",
    ]
    found = []
    for name, processes in (("one", ["trainer.accelerator=cpu"]), ("two", TWO)):
        result = warm("train.py", *chosen, *processes, f"outputs={tmp_path / name}", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        (path,) = (tmp_path / name / "runs").glob("*/record.json")
        rows = csv.DictReader((path.parent / "history.csv").read_text().splitlines())
        found.append((read_record(path), [float(row[loss]) for row in rows for loss in ("train/loss", "val/loss")]))
    (one, due), (two, losses) = found
    assert (one.world_size, two.world_size) == (1, 2)
    assert one.hash == two.hash
    assert losses == pytest.approx(due, abs=1e-4)
    assert two.metrics["test/box_map"] == pytest.approx(one.metrics["test/box_map"], abs=1e-4)


CONTEXT = [*SMALL_DETECTOR[:4], "backbone.stages=[4]", "head.levels=1", "head.kernel=1", "head.width=16", "data=context_boxes"]
CONTEXT += ["data.source.train=60", "data.source.test=20", "logger=none", "batch_size=20"]


class _Norm(nn.GroupNorm):
    """GroupNorm in the place of a level's BatchNorm."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(4, norm.num_features)


def with_group_norm(model: Model) -> Model:
    for name, module in list(model.head.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.head.set_submodule(name, _Norm(module))
    return model


def test_a_head_that_sees_the_whole_image_is_refused(tmp_path: Path) -> None:
    spec = spec_of([*CONTEXT, f"outputs={tmp_path}"])
    data = datamodule_of(spec.resolved)
    model: Any = task_of(spec, data).model  # which has found that backbone and head see 25 pixels, fewer than the gap's 26
    with pytest.raises(ValueError, match=r"backbone and its head \(the whole image\)"):
        check_gap(data, with_group_norm(model))
    spec = spec_of([*CONTEXT, f"outputs={tmp_path}", "head.kernel=3"])
    with pytest.raises(ValueError, match=r"backbone and its head \(\d\d pixels\)"):
        task_of(spec, data)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["head=gap"], "this task takes boxes.*head=dense"),
        (["task=multilabel", "data.boxes=true"], "data.boxes=false, or task=detection"),
        (["data.boxes=false"], "come without boxes; this task needs data.boxes=true"),
        (["head.levels=3"], r"head\.levels=3: the backbone hands out 2 maps"),
        (["backbone.stages=[2,8]"], r"backbone\.stages=\[2, 8\]: must be different strides of a CIFAR ResNet.*1, 2, 4"),
        (["backbone.stages=[4,2]"], r"backbone\.stages=\[4, 2\]: must be different strides"),
    ],
)
def test_parts_that_do_not_go_together_are_refused_in_a_sentence(
    folder: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    own = on_folder(folder, tmp_path)
    if "task=multilabel" in options:
        own = [text for text in own if not text.startswith(("task", "head", "backbone.stages"))]
    if "head=gap" in options:
        own = [text for text in own if not text.startswith("head")]
    spec = spec_of([*own, *options])
    with pytest.raises(Exception, match=words):
        task_of(spec, datamodule_of(spec.resolved))


def test_a_split_without_an_object_is_refused(tmp_path: Path) -> None:
    root = boxes_folder(tmp_path / "voc", 12, 4, 4)
    for index in range(12, 16):
        (root / f"Annotations/{index:06}.xml").write_text("<annotation/>")
    spec = spec_of(on_folder(root, tmp_path))
    with pytest.raises(ValueError, match="none of the 4 val images shows one of the 2 classes"):
        task_of(spec, datamodule_of(spec.resolved))


def test_training_images_without_any_object_go_through(tmp_path: Path) -> None:
    """Half of the training batches have none at all."""
    root = boxes_folder(tmp_path / "voc", 24, 4, 4)
    for index in range(24):
        if index % 8:
            (root / f"Annotations/{index:06}.xml").write_text("<annotation/>")
    record = run(spec_of([*on_folder(root, tmp_path), "epochs=2", "batch_size=4"]))
    assert all(value == value for value in record.metrics.values())
    rows = (tmp_path / "runs" / record.name / "history.csv").read_text().splitlines()
    assert len(rows) == 3
    assert json.dumps(record.metrics)
