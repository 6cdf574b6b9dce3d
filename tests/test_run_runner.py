import csv
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torchvision
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from PIL import Image

from necklace.data.datamodule import DataModule
from necklace.options.errors import OptionError
from necklace.record import Record, read_record
from necklace.run.conditions import versions
from necklace.run.history import History
from necklace.run.runner import RunFailed, RunRefused, run, words_of
from tests.conftest import CONFIGS, SMALL, compose_train, spec_of

Train = Callable[..., tuple[Record, Path]]


def history_of(folder: Path) -> list[dict[str, str]]:
    rows = list(csv.DictReader((folder / "history.csv").read_text().splitlines()))
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def test_the_same_run_twice_is_equal_to_the_bit(train_run: Train, tmp_path: Path) -> None:
    first, folder = train_run("neck=focal")
    torch.rand(7)  # whatever ran before must not matter
    again, other = train_run("neck=focal", outputs=tmp_path / "again")
    assert first.weights_hash == again.weights_hash != first.initial_hash
    assert first.metrics == again.metrics
    assert first.test_correct == again.test_correct
    assert first.name == again.name
    assert history_of(folder) == history_of(other)


def test_seeds_differ(train_run: Train) -> None:
    zero, one = train_run("seed=0")[0], train_run("seed=1")[0]
    assert zero.initial_hash != one.initial_hash
    assert zero.weights_hash != one.weights_hash
    assert zero.data["digest"] == one.data["digest"]


def test_runs_of_one_seed_see_the_same_batches(train_run: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, list[torch.Tensor]] = {}
    backbones: dict[str, str] = {}
    prepare = DataModule.prepare

    def watch(self: DataModule, batch, augment: bool):
        prepared = prepare(self, batch, augment)
        if augment:
            seen.setdefault(current, []).append(prepared.images.clone())
        return prepared

    monkeypatch.setattr(DataModule, "prepare", watch)
    for current in ("none", "sppf", "focal"):
        record, _ = train_run(f"neck={current}", "epochs=1")
        backbones[current] = record.initial_hash
    assert len(set(backbones.values())) == 3
    for other in ("sppf", "focal"):
        assert len(seen[other]) == len(seen["none"]) == 6
        assert all(torch.equal(a, b) for a, b in zip(seen["none"], seen[other], strict=True))


def test_a_finished_run_is_not_trained_again(train_run: Train, capsys: pytest.CaptureFixture[str]) -> None:
    record, folder = train_run()
    stamp = (folder / "record.json").stat().st_mtime_ns
    capsys.readouterr()
    again, _ = train_run("logger=csv", "+trainer.enable_progress_bar=false")
    assert again == record
    assert (folder / "record.json").stat().st_mtime_ns == stamp
    shown = capsys.readouterr().out
    assert "This run exists" in shown
    assert str(folder) in shown
    assert "rerun=true" in shown
    once_more, _ = train_run("rerun=true")
    assert (folder / "record.json").stat().st_mtime_ns > stamp
    assert once_more.weights_hash == record.weights_hash


def test_an_interrupted_run_continues_and_ends_the_same(
    train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, folder = train_run("neck=focal", "epochs=4", "neck.proj_drop=0.1", outputs=tmp_path / "undisturbed")

    def stumble(self: History, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.current_epoch == 2 and batch_idx == 3:
            raise OSError("no space left on device")

    monkeypatch.setattr(History, "on_train_batch_start", stumble)
    with pytest.raises(RunFailed, match="no space left on device") as error:
        train_run("neck=focal", "epochs=4", "neck.proj_drop=0.1")
    failed = next((tmp_path / "runs").glob("[!.]*"))
    assert "Traceback" in (failed / "FAILED").read_text()
    assert str(failed / "FAILED") in str(error.value)
    assert not (failed / "record.json").exists()
    monkeypatch.undo()
    resumed, other = train_run("neck=focal", "epochs=4", "neck.proj_drop=0.1")
    assert resumed.resumed == 1
    assert not (other / "FAILED").exists()
    assert resumed.weights_hash == undisturbed.weights_hash
    assert resumed.metrics == undisturbed.metrics
    assert resumed.best_epoch == undisturbed.best_epoch
    assert history_of(other) == history_of(folder)


def test_a_loss_that_is_no_number_stops_the_run(train_run: Train, tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"training loss is (nan|inf) at step \d+ \(epoch 1\)"):
        train_run("optimizer.lr=1e30", "schedule=constant")
    (folder,) = (tmp_path / "runs").glob("[!.]*")
    assert "FloatingPointError" in (folder / "FAILED").read_text()


def test_figures_come_from_the_best_epochs_weights(train_run: Train) -> None:
    record, folder = train_run("epochs=3", "optimizer.lr=0.03")
    rows = history_of(folder)
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    chosen = [(float(row["val/acc"]), -float(row["val/loss"])) for row in rows]
    assert record.best_epoch == chosen.index(max(chosen))
    assert record.metrics["val/acc"] == pytest.approx(max(chosen)[0], abs=1e-6)
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["epoch"] == record.best_epoch
    count = record.data["images"]["train"]
    assert count % 16
    assert record.steps == 3 * (count // 16)
    assert record.train_images_left_out == 3 * (count % 16)


@pytest.mark.parametrize("gap", [24, 25])
def test_context_refuses_a_backbone_that_sees_across_the_gap(train_run: Train, gap: int) -> None:
    with pytest.raises(RunRefused, match=rf"min_gap={gap}: must be larger than .*receptive field .*\(25 pixels\)"):
        train_run("data=context", f"data.source.min_gap={gap}", "data.size=48")


def test_pretrained_coverage_is_in_the_record(train_run: Train, tmp_path: Path) -> None:
    weights = tmp_path / "resnet18.pth"
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    options = ["backbone=resnet18", "backbone.stage=layer1", "backbone.stem=imagenet", f"backbone.pretrained={weights}"]
    small = [text for text in SMALL if not text.startswith("backbone")]
    chosen = [*small, f"outputs={tmp_path}", "epochs=1", *options]
    record = run(spec_of(chosen))
    assert record.pretrained == [25, 25]
    chosen[-2] = "backbone.stem=cifar"
    with pytest.raises(RunRefused, match=r"covers 24 of 25 tensors.*conv1\.weight"):
        run(spec_of(chosen))


GROUPS = {
    "neck": ["none", "conv", "spp", "sppf", "focal", "focal_block", "dw_convnet", "gc", "attention", "mean_concat"],
    "head": ["gap", "flatten", "pyramid", "corner"],
    "optimizer": ["adamw", "muon", "sgd"],
    "schedule": ["one_cycle", "cosine", "constant"],
}


def voc_folder(root: Path) -> Path:
    """24 images of three shapes in the VOC layout: round things, square things, or both, one of them difficult."""
    for name in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    thing = (
        "<object><name>{}</name><difficult>{}</difficult>"
        "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    )
    for index in range(24):
        width, height = ((40, 32), (32, 40), (48, 48))[index % 3]
        shown = (["round"], ["square"], ["round", "square"])[index % 4 % 3]
        Image.new("RGB", (width, height), (10 * index, 200 if "round" in shown else 20, 90)).save(
            root / f"JPEGImages/{index:06}.jpg"
        )
        objects = "".join(thing.format(name, int(index == 5)) for name in shown)
        size = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
        (root / f"Annotations/{index:06}.xml").write_text(
            f"<annotation><filename>{index:06}.jpg</filename>{size}{objects}</annotation>"
        )
    for name, members in (("train", range(16)), ("val", range(16, 20)), ("test", range(20, 24))):
        (root / f"ImageSets/Main/{name}.txt").write_text("".join(f"{index:06}\n" for index in members))
    return root


def test_voc_images_train_at_native_size_with_precision_by_class(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "voc")
    small = [text for text in SMALL if "data." not in text and "batch" not in text]
    chosen = [*small, f"outputs={tmp_path}", "data=voc", "task=multilabel", f"data.root={root}", "batch_size=4"]
    record = run(spec_of([*chosen, "data.eval_sizes=[32]"]))
    assert record.data["classes"] == ["round", "square"]
    assert record.data["images"] == {"train": 16, "val": 4, "test": 4}
    precisions = [record.metrics[f"test/ap/{name}"] for name in ("round", "square")]
    assert record.metrics["test/map"] == pytest.approx(sum(precisions) / 2, abs=1e-6)
    assert {"test/map07", "test/map@32", "val/map"} <= record.metrics.keys()
    assert record.metrics["test/map_classes"] == 2
    root = voc_folder(tmp_path / "negative")
    for index in range(20, 24):  # test
        (root / f"Annotations/{index:06}.xml").write_text("<annotation/>")
    with pytest.raises((ValueError, RunFailed), match="none of the 4 test images shows one of the 2 classes"):
        run(spec_of([*chosen, f"data.root={root}"]))


def test_every_config_is_tried_below() -> None:
    for group, names in GROUPS.items():
        others = {"dense"} if group == "head" else set()  # it predicts boxes, see test_tasks_detection_runs.py
        assert {path.stem for path in (CONFIGS / group).glob("*.yaml")} == {*names, *others}


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, names in GROUPS.items() for name in names])
def test_every_config_composes_and_takes_a_step(train_run: Train, group: str, name: str) -> None:
    record, _ = train_run(f"{group}={name}", "epochs=2", "+trainer.limit_train_batches=1")
    assert record.choices[group] == name
    assert record.steps == 2
    assert record.weights_hash != record.initial_hash


@pytest.mark.parametrize("name", ["resnet18", "timm"])
def test_every_backbone_config_instantiates(name: str) -> None:
    config, _ = compose_train([f"backbone={name}"])
    assert instantiate(config.backbone).out_channels > 0


NATIVE = ["data/sizes=native", "data.sizes.max_side=48"]


MANY = [NATIVE, ["data/sizes=multiscale", "data.sizes.sizes=[16,24]"], [*NATIVE, "data.sampler=balanced"]]


@pytest.mark.parametrize("sizes", MANY)
def test_many_sizes_train_resume_and_are_evaluated_by_size(
    train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[str]
) -> None:
    options = [*sizes, "head=pyramid", "epochs=3", "data.eval_sizes=[16,40]", "data.augment.flip=true"]
    undisturbed, folder = train_run(*options, outputs=tmp_path / "undisturbed")
    assert sizes[0].split("=")[1] in undisturbed.name
    assert {"test/acc", "test/acc@16", "test/acc@40", "test/loss@16"} <= undisturbed.metrics.keys()
    trained = undisturbed.data["images"]["train"] * 3 - undisturbed.train_images_left_out
    assert trained == sum(int(row["images"]) for row in history_of(folder))
    assert 0 < trained <= undisturbed.data["images"]["train"] * 3

    def stumble(self: History, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.current_epoch == 1 and batch_idx == 2:
            raise OSError("unplugged")

    monkeypatch.setattr(History, "on_train_batch_start", stumble)
    with pytest.raises(RunFailed, match="unplugged"):
        train_run(*options)
    monkeypatch.undo()
    resumed, other = train_run(*options)
    assert resumed.resumed == 1
    assert resumed.weights_hash == undisturbed.weights_hash
    assert resumed.metrics == undisturbed.metrics
    assert history_of(other) == history_of(folder)


def test_a_run_continues_after_its_last_epoch_and_not_after_its_best(
    train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["epochs=6", "optimizer.lr=0.5", "schedule=constant"]  # far too high, so that an early epoch is the best
    undisturbed, folder = train_run(*options, outputs=tmp_path / "undisturbed")
    assert undisturbed.best_epoch < 4
    started: list[int] = []

    def stumble(self: History, trainer, pl_module, batch, batch_idx) -> None:
        started.extend([trainer.current_epoch] if batch_idx == 0 else [])
        if trainer.current_epoch == 4 and len(started) == 5:
            raise OSError("unplugged")

    monkeypatch.setattr(History, "on_train_batch_start", stumble)
    with pytest.raises(RunFailed, match="unplugged"):
        train_run(*options)
    resumed, other = train_run(*options)
    assert started == [0, 1, 2, 3, 4, 4, 5]
    assert (resumed.weights_hash, resumed.metrics) == (undisturbed.weights_hash, undisturbed.metrics)
    assert history_of(other) == history_of(folder)


@pytest.mark.parametrize("stop_at", [1, 4])
def test_a_tie_on_val_goes_to_the_lower_loss_also_after_a_resume(
    train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_at: int
) -> None:
    options = ["epochs=6", "optimizer.lr=1e-9"]  # no prediction changes, but the statistics of the norms and so the loss do
    undisturbed, folder = train_run(*options, outputs=tmp_path / "undisturbed")
    rows = history_of(folder)
    losses = [float(row["val/loss"]) for row in rows]
    assert len({row["val/acc"] for row in rows}) == 1
    assert undisturbed.best_epoch == losses.index(min(losses)) > 0
    assert undisturbed.metrics["val/loss"] == pytest.approx(min(losses), abs=1e-6)

    def stumble(self: History, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.current_epoch == stop_at:
            raise OSError("unplugged")

    monkeypatch.setattr(History, "on_train_batch_start", stumble)
    with pytest.raises(RunFailed, match="unplugged"):
        train_run(*options)
    monkeypatch.undo()
    resumed, _ = train_run(*options)
    assert (resumed.best_epoch, resumed.weights_hash) == (undisturbed.best_epoch, undisturbed.weights_hash)


def test_the_learning_rate_of_an_epoch_is_that_of_its_last_step(train_run: Train) -> None:
    record, folder = train_run("epochs=2", "schedule=cosine", "schedule.warmup_epochs=0", "optimizer.lr=0.01")
    steps = record.steps // 2
    expected = [0.005 * (1 + math.cos(math.pi * step / record.steps)) for step in (steps - 1, record.steps - 1)]
    assert [float(row["lr"]) for row in history_of(folder)] == pytest.approx(expected)
    assert expected[-1] > 0


def test_a_run_under_a_name_of_earlier_code_is_found(train_run: Train, tmp_path: Path) -> None:
    record, folder = train_run("epochs=1", "optimizer.lr=0.01")
    assert "lr-0.01" in record.name
    old = folder.rename(folder.with_name(f"glyphs_cifar_resnet_none_s0_{record.hash}"))
    stamp = (old / "record.json").stat().st_mtime_ns
    assert train_run("epochs=1", "optimizer.lr=0.01")[0] == record
    assert (old / "record.json").stat().st_mtime_ns == stamp
    assert [path.name for path in folder.parent.glob("[!.]*")] == [old.name]


@pytest.mark.parametrize("study", ["../x", "''", "/tmp/x", ".", "..", "a/../../b", "a/", ".hidden", "' '", "null", "'~'"])
def test_a_study_that_leads_out_of_outputs_is_refused(study: str) -> None:
    with pytest.raises(ValueError, match=r"study='.*': must name a folder below outputs, such as runs"):
        spec_of([*SMALL, f"study={study}"])


def test_a_run_whose_folder_was_moved_knows_its_best_epoch(
    train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["epochs=6", "optimizer.lr=0.5", "schedule=constant"]
    undisturbed, _ = train_run(*options, outputs=tmp_path / "undisturbed")

    def stumble(self: History, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.current_epoch == 4:
            raise OSError("unplugged")

    monkeypatch.setattr(History, "on_train_batch_start", stumble)
    with pytest.raises(RunFailed, match="unplugged"):
        train_run(*options, outputs=tmp_path / "here")
    monkeypatch.undo()
    (tmp_path / "here").rename(tmp_path / "there")
    resumed, _ = train_run(*options, outputs=tmp_path / "there")
    assert resumed.resumed == 1
    assert resumed.best_epoch == undisturbed.best_epoch < 4
    assert (resumed.weights_hash, resumed.metrics) == (undisturbed.weights_hash, undisturbed.metrics)
    assert not (tmp_path / "here").exists()


def test_images_that_a_limit_leaves_out_are_counted(train_run: Train) -> None:
    record, folder = train_run("epochs=2", "+trainer.limit_train_batches=1")
    assert [row["images"] for row in history_of(folder)] == ["16", "16"]
    assert record.train_images_left_out == 2 * (record.data["images"]["train"] - 16)
    assert record.images_per_s == pytest.approx(32 / record.fit_seconds)


@pytest.mark.parametrize(
    ("sizes", "refused"),
    [
        (["data/sizes=multiscale", "data.sizes.sizes=[24,48]", "data.sizes.eval_size=48"], True),  # 24 halves the gap
        (["data/sizes=multiscale", "data.sizes.sizes=[48,56]", "data.sizes.eval_size=48"], False),
        (["data/sizes=native", "data.source.image_size=[52,64]", "data.source.min_gap=29"], False),
        (["data/sizes=native", "data.sizes.max_side=32"], True),
    ],
)
def test_the_gap_counts_at_the_smallest_size(train_run: Train, sizes: list[str], refused: bool) -> None:
    options = ["data=context", "data.size=48", "epochs=1", "head=pyramid", *sizes]
    if refused:
        with pytest.raises(RunRefused, match=r"min_gap=26 \(\d+ after resizing\): must be larger"):
            train_run(*options)
    else:
        assert train_run(*options)[0].epochs == 1


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("+trainer.check_val_every_n_epoch=3", "must be at most epochs=2, or val is never evaluated"),
        ("+trainer.limit_test_batches=1", "the record holds every test image"),
        ("+trainer.limit_val_batches=0", "val chooses the weights"),
        ("trainer.strategy=ddp_fork", "use ddp"),
    ],
)
def test_what_could_leave_no_record_is_refused_at_the_start(train_run: Train, tmp_path: Path, option: str, words: str) -> None:
    with pytest.raises(OptionError, match=words) as error:
        train_run("epochs=2", option)
    assert str(error.value).startswith(option.lstrip("+").partition("=")[0])
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


def test_what_fails_before_the_first_step_leaves_nothing_behind(train_run: Train, tmp_path: Path) -> None:
    with pytest.raises(RunRefused, match="shorter than the training") as error:  # known when the trainer has begun
        train_run("schedule=cosine", "schedule.warmup_epochs=2", "logger=csv")
    assert "FAILED" not in str(error.value)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".locks"]
    record, folder = train_run("epochs=1")
    with pytest.raises(RunRefused, match="invalid accelerator name"):
        train_run("epochs=1", "rerun=true", "trainer.accelerator=hpu")
    assert read_record(folder / "record.json") == record  # what it was to replace stands again
    assert not (folder / "FAILED").exists()


def test_a_package_that_is_missing_is_named_before_the_training(
    train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("necklace.run.conditions.PACKAGES", ("torch", "not-a-package"))
        versions.cache_clear()
        with pytest.raises(RunRefused, match=r"^not-a-package: is not installed"):
            train_run("epochs=1")
    versions.cache_clear()
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [".locks"]


def test_an_error_has_words() -> None:
    assert words_of(InstantiationException("wrapped")) == "wrapped"
    wrapped = InstantiationException("Error in call to target")
    wrapped.__cause__ = ValueError("neck.width=0: must be 1")
    assert words_of(wrapped) == "neck.width=0: must be 1"
    assert words_of(ValueError("")).startswith("ValueError: no message")
    assert words_of(KeyError("gates")).startswith("KeyError: 'gates' (HYDRA_FULL_ERROR=1")


def test_a_number_may_name_a_study(train_run: Train, tmp_path: Path) -> None:
    chosen = [*SMALL, f"outputs={tmp_path}", "study=2024", "epochs=1"]
    record = run(spec_of(chosen))
    assert (tmp_path / "2024" / record.name / "record.json").exists()


def test_one_class_is_refused(train_run: Train, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number in range(20):
            path = tmp_path / "data" / split / "only" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (24, 24), (number, 0, 0)).save(path)
    small = [text for text in SMALL if "data." not in text]
    chosen = [*small, f"outputs={tmp_path}", "data=folder", f"data.root={tmp_path / 'data'}"]
    with pytest.raises(RunRefused, match="the only class is 'only': classification needs at least 2"):
        run(spec_of(chosen))


def test_flatten_refuses_sizes_that_vary_and_points_to_pyramid(train_run: Train) -> None:
    with pytest.raises(RunRefused, match="head=pyramid"):
        train_run(*NATIVE, "head=flatten")


def test_native_sizes_have_to_suit_the_backbones_stride(train_run: Train) -> None:
    with pytest.raises(RunRefused, match=r"data\.sizes\.stride=2: must be a multiple of the backbone's 4"):
        train_run(*NATIVE, "data.sizes.stride=2")


def test_a_task_that_does_not_fit_the_labels_is_named(train_run: Train) -> None:
    with pytest.raises(RunRefused, match="data=glyphs does not go with this task: take task=classification"):
        train_run("task=multilabel")


def test_a_disk_without_room_is_named_before_training(
    train_run: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage(tmp_path))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**30, 2**30 - 2**20, 2**20))
    with pytest.raises(RunRefused, match=r"1\.0 MiB are free, the checkpoints of this run need 1\.\d MiB"):
        train_run("epochs=1")
    assert not list(tmp_path.rglob("history.csv"))


def test_outputs_that_cannot_be_written_are_named_before_training(train_run: Train, tmp_path: Path) -> None:
    (tmp_path / "here").write_text("a file in the way, as root may write everywhere")
    with pytest.raises(OSError, match=r"outputs=.*here: cannot write to .*here/runs"):
        train_run("epochs=1", "data.cache=null", outputs=tmp_path / "here")
    with pytest.raises(OSError, match=r"data\.cache=.*here/cache: cannot write drawn images there"):
        train_run("epochs=1", outputs=tmp_path / "here")
