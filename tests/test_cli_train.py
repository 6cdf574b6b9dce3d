"""The command line as a user has it: real processes, real W&B runs."""

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from necklace.build import datamodule_of, model_of
from necklace.model import weights_hash
from necklace.record import read_record, unpack_bits
from tests.conftest import SMALL, compose_train
from tests.wandb_files import inspected
from tests.warm import WarmProcess

ROOT = Path(__file__).parents[1]


COMMAND = "necklace.cli.main"


def environment(cwd: Path, path: str = "") -> dict[str, str]:
    keyless = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    paths = os.pathsep.join(filter(None, [str(ROOT / "src"), path]))  # this checkout, whatever is installed
    return keyless | {"OMP_NUM_THREADS": "1", "HOME": str(cwd), "PYTHONPATH": paths}


def warm(script: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A script in a process that has imported everything."""
    return WarmProcess(ROOT / script, *arguments, cwd=cwd, env=environment(cwd)).finish(300)


def inspect(run_file: Path) -> dict:
    """Read an offline W&B run back through W&B's own reader."""
    return json.loads(inspected(run_file, "--summary"))


@pytest.mark.slow
def test_a_multirun_leaves_a_folder_a_record_and_a_wandb_run_for_each(tmp_path: Path) -> None:
    small = [text for text in SMALL if text != "logger=none"]
    # In an order where Hydra's parser stumbles.
    result = warm("train.py", "neck=none,spp,sppf,focal", "-m", "seed=0,1", *small, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    folders = sorted(path.parent for path in tmp_path.glob("outputs/runs/*/record.json"))
    assert len(folders) == 8
    records = [read_record(folder / "record.json") for folder in folders]
    assert {(r.choices["neck"], r.config["seed"]) for r in records} == {
        (neck, seed) for neck in ("none", "spp", "sppf", "focal") for seed in (0, 1)
    }
    assert len({record.weights_hash for record in records}) == 6  # spp and sppf are one computation
    runs = sorted(tmp_path.glob("outputs/runs/*/wandb/offline-run-*/run-*.wandb"))
    assert len(runs) == 8
    assert len({run.name for run in runs}) == 8
    for folder, record in zip(folders, records, strict=True):
        (run,) = folder.glob("wandb/offline-run-*/run-*.wandb")
        content = inspect(run)
        text = json.dumps(content)
        assert record.name in text
        assert record.config["neck"]["_target_"] in text
        assert content["summary"]["test/acc"] == pytest.approx(record.metrics["test/acc"])
    assert result.stdout.count("upload it with: wandb sync") == 8
    assert "[" not in result.stderr, result.stderr  # no warnings, no tracebacks


@pytest.mark.slow
def test_a_users_neck_trains_without_touching_the_project(tmp_path: Path) -> None:
    """Runs the README's own lines, with a smaller training."""
    (block,) = [text for text in (ROOT / "README.md").read_text().split("```") if text.startswith("bash\nmkdir -p mine")]
    command = shlex.join([sys.executable, str(ROOT / "train.py")])
    script = block.removeprefix("bash\n").replace("python train.py", command).rstrip() + " " + shlex.join(SMALL)
    result = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("outputs/runs/*_blur_*/record.json")
    assert read_record(path).cost["neck"]["params"] == 16 * 25 + 16


def image_folder(root: Path) -> Path:
    for split, count in (("train", 12), ("test", 4)):
        for name, shade in (("dark", 40), ("light", 200)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (20 + index, 24), (shade + index,) * 3).save(folder / f"{index}.png")
    return root


@pytest.mark.slow
def test_corrupt_images_stop_the_run_or_are_counted(tmp_path: Path) -> None:
    root = image_folder(tmp_path / "images")
    broken = root / "train" / "dark" / "3.png"
    broken.write_bytes(broken.read_bytes()[:60])
    small = [text for text in SMALL if "source" not in text] + ["data=folder", f"data.root={root}", "batch_size=4"]
    stopped = warm("train.py", "neck=sppf", *small, cwd=tmp_path)
    assert stopped.returncode != 0
    assert str(broken) in stopped.stderr
    assert "Traceback" not in stopped.stderr
    skipped = warm("train.py", "neck=sppf", *small, "data.on_corrupt=skip", cwd=tmp_path)
    assert skipped.returncode == 0, skipped.stderr
    (path,) = tmp_path.glob("outputs/runs/*/record.json")
    record = read_record(path)
    ((name, reason),) = record.data["skipped"]
    assert name.endswith("3.png")
    assert reason
    assert sum(record.data["images"].values()) == 23 + 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["neck=fpn"], ["neck/fpn", "none", "spp", "sppf", "focal", "focal_block"]),
        (["data=folder"], ["data.root"]),
        (["data=folder", "data.root=nowhere"], ["nowhere"]),
        (["neck=focal", "neck.focal_window=4"], ["focal_window", "4"]),
        (["neck.focal_window=5"], ["neck.focal_window"]),
    ],
)
def test_a_mistake_is_answered_in_a_line_or_two(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    result = warm("train.py", *arguments, "logger=none", cwd=tmp_path)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    full = "HYDRA_FULL_ERROR"
    assert (
        len([line for line in result.stderr.splitlines() if line and full not in line]) <= 14
    )  # Hydra lists the necks one a line
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.slow
def test_a_failing_run_of_a_multirun_leaves_the_others_alone(tmp_path: Path) -> None:
    chosen = ["neck=none,focal", "optimizer.lr=1e30,1e-3", "schedule=constant"]
    result = warm("train.py", "-m", *chosen, *SMALL, cwd=tmp_path)
    assert result.returncode == 1
    assert len(list(tmp_path.glob("outputs/runs/*/record.json"))) == 2
    assert len(list(tmp_path.glob("outputs/runs/*/FAILED"))) == 2
    assert "training loss is" in result.stderr
    table = warm("ablate.py", "--from", "outputs/runs", cwd=tmp_path)
    assert table.returncode == 1
    assert table.stdout.count("failed: FloatingPointError") == 2


TWO = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]


@pytest.mark.slow
def test_two_processes_train_one_run_and_evaluate_every_image_once(tmp_path: Path) -> None:
    """A real gloo group; its test metrics are those of one process with the same weights."""
    sizes = [
        "data/sizes=native",
        "data.sizes.max_side=48",
        "data.eval_sizes=[24]",
        "data.source.test=33",
        "data.source.train=150",
        "data.sampler=balanced",
        "task.class_weights=balanced",
    ]
    small = [text for text in SMALL if "source" not in text and not text.startswith(("logger=", "data.size="))]
    result = warm("train.py", "neck=sppf", *small, *sizes, *TWO, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("outputs/runs/*/record.json")
    record = read_record(path)
    assert record.world_size == 2
    assert len(list(path.parent.glob("wandb/offline-run-*"))) == 1
    rows = list(csv.DictReader((path.parent / "history.csv").read_text().splitlines()))
    chosen_by = [(float(row["val/balanced_acc"]), -float(row["val/loss"])) for row in rows]
    assert record.best_epoch == chosen_by.index(max(chosen_by))
    assert "sync_dist" not in result.stderr
    right = unpack_bits(record.test_correct or "", 33)
    assert record.metrics["test/acc"] == pytest.approx(right.mean(), abs=1e-6)

    chosen = [*small, *sizes, "neck=sppf", "logger=none"]
    config, _ = compose_train(chosen)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    data = datamodule_of(plain)
    model = model_of(config, data)
    state = torch.load(path.parent / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    assert weights_hash(model) == record.weights_hash
    model.eval()
    for size, name in ((None, "test/acc"), (24, "test/acc@24")):
        hits, losses = torch.zeros(33, dtype=torch.bool), torch.zeros(33)
        with torch.no_grad():
            for batch in data.eval_batches("test", size):
                logits = model(data.prepare(batch, augment=False).images)
                hits[batch.indices] = logits.argmax(1) == batch.labels
                losses[batch.indices] = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        assert record.metrics[name] == pytest.approx(hits.float().mean().item(), abs=1e-6)
        assert record.metrics[name.replace("acc", "loss")] == pytest.approx(losses.mean().item(), abs=1e-5)
        if size is None:
            assert hits.tolist() == right.tolist()
            by_class = [hits[data.splits["test"].labels == label].float().mean().item() for label in range(10)]
            assert record.metrics["test/balanced_acc"] == pytest.approx(sum(by_class) / 10, abs=1e-6)
            assert sum(record.data["predicted"]["test"]) == 33


def losses(folder: Path) -> list[float]:
    (path,) = folder.glob("outputs/runs/*/history.csv")
    return [float(row[name]) for row in csv.DictReader(path.read_text().splitlines()) for name in ("train/loss", "val/loss")]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """With BatchNorm, shifts, flips, cutout and dropout, over 50 steps of 15 images, which are 8 and 7."""
    chosen = ["data.source.train=180", "data.source.test=30", "batch_size=15", "epochs=5", "logger=none", "backbone.width=8"]
    chosen += [
        "data.augment.crop_padding=2",
        "data.augment.flip=true",
        "data.augment.cutout=4",
        "optimizer=sgd",
        "data.size=24",
    ]
    chosen += ["optimizer.lr=0.002", "neck=focal_block", "neck.drop=0.1", "neck.proj_drop=0.1", "+trainer.sync_batchnorm=true"]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, processes in zip(folders, (["trainer.accelerator=cpu"], TWO), strict=True):
        folder.mkdir()
        result = warm("train.py", *chosen, *processes, cwd=folder)
        assert result.returncode == 0, result.stderr
    one, two = (read_record(next(folder.glob("outputs/runs/*/record.json"))) for folder in folders)
    assert (one.world_size, two.world_size, one.steps) == (1, 2, 50)
    assert one.hash == two.hash
    assert one.initial_hash == two.initial_hash
    assert losses(folders[1]) == pytest.approx(losses(folders[0]), abs=1e-4)
    assert two.metrics["test/loss"] == pytest.approx(one.metrics["test/loss"], abs=1e-4)


@pytest.mark.slow
def test_a_multirun_of_process_groups_is_refused(tmp_path: Path) -> None:
    result = warm("train.py", "-m", "seed=0,1", *SMALL, *TWO, cwd=tmp_path)
    assert result.returncode != 0
    assert "add hydra/launcher=local" in result.stderr
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.slow
def test_the_command_trains_a_group_of_processes_with_a_neck_of_the_users(tmp_path: Path) -> None:
    """The other ranks start as a script of this package, beside modules with names that a user may choose too."""
    (tmp_path / "mine" / "neck").mkdir(parents=True)
    (tmp_path / "mine" / "study.py").write_text("from necklace.necks import ConvNeck as Own\n")
    (tmp_path / "mine" / "neck" / "own.yaml").write_text("_target_: study.Own\nwidth: 4\n")
    settings = ["train", *SMALL, *TWO, "epochs=1", "neck=own", "hydra.searchpath=[file://mine]"]
    env = environment(tmp_path, str(tmp_path / "mine"))
    line = [sys.executable, "-m", COMMAND, *settings]
    result = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("outputs/runs/*_own_*/record.json")
    assert read_record(path).world_size == 2
    found = WarmProcess(COMMAND, *settings, cwd=tmp_path, env=env).finish()
    assert "This run exists" in found.stdout


@pytest.mark.slow
def test_the_command_trains_a_multirun_side_by_side(tmp_path: Path) -> None:
    words = ["train", "-m", "hydra/launcher=local", "neck=none,spp", *SMALL, "epochs=1"]
    result = WarmProcess(COMMAND, *words, cwd=tmp_path, env=environment(tmp_path)).finish()
    assert result.returncode == 0, result.stderr
    records = [read_record(path) for path in tmp_path.glob("outputs/runs/*/record.json")]
    assert sorted(record.choices["neck"] for record in records) == ["none", "spp"]
