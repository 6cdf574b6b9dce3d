"""Measure speed, as ratios taken in one run: python benchmark.py loader --root DIR, or studies, records or gates."""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from hydra import initialize_config_dir
from rich.console import Console
from rich.table import Table
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from necklace.backbones import Backbone, CifarResNet, TimmBackbone
from necklace.cell import cell_identity
from necklace.data.augment import Augmentation
from necklace.data.datamodule import DataModule
from necklace.data.folder import Folder
from necklace.data.sizes import Fixed
from necklace.data.splits import read_splits
from necklace.gates import GateWatch
from necklace.heads import Gap
from necklace.model import Model, build_model
from necklace.necks import FocalBlock, FocalModulation, NoNeck
from necklace.record import Record, pack_bits, read_record
from necklace.streams import torch_generator
from necklace.study.archive import archive_of
from necklace.study.plan import PlannedCell, make_plan, read_study
from necklace.study.states import states
from necklace.study.verify import write_study

HERE = Path(__file__).resolve().parent
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


def ours(root: Path, size: int, batch_size: int) -> Callable[[], Batches]:
    """Epochs of necklace's batches: images in memory, flip, crop and normalisation on whole batches."""
    augment = Augmentation(flip=True, crop_padding=4)
    data = DataModule(read_splits(Folder(root)), Fixed(size), batch_size, 0, augment, mean=MEAN, std=STD)

    def epoch() -> Batches:
        for batch in data.train_dataloader():
            prepared = data.prepare(batch, augment=True)
            yield prepared.images, prepared.labels

    return epoch


def per_image(root: Path, size: int, batch_size: int, workers: int) -> Callable[[], Batches]:
    """Epochs as they are usually written: ImageFolder, PIL, transforms for each image, worker processes."""
    transform = v2.Compose(
        [
            v2.Resize((size, size)),
            v2.RandomCrop(size, padding=4, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    images = ImageFolder(root / "train", transform)
    loader = DataLoader(images, batch_size, shuffle=True, num_workers=workers, drop_last=True, persistent_workers=True)
    return lambda: loader


def load(batches: Batches) -> float:
    """Images per second of going through an epoch."""
    started, images = time.perf_counter(), 0
    for x, _ in batches:
        images += len(x)
    return images / (time.perf_counter() - started)


def train(batches: Batches, model: Model) -> float:
    """Images per second of training for an epoch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    started, images = time.perf_counter(), 0
    for x, y in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), y).backward()
        optimizer.step()
        images += len(x)
    return images / (time.perf_counter() - started)


def loader(root: Path, size: int, batch_size: int, workers: int, rounds: int, console: Console) -> None:
    """Compare both ways of loading, in turn, alone and with ResNet-8 behind them."""
    ways = {"necklace": ours(root, size, batch_size), "ImageFolder": per_image(root, size, batch_size, workers)}
    classes = len(ImageFolder(root / "train").classes)
    speeds: dict[tuple[str, str], list[float]] = {}
    for number in range(rounds + 1):
        for name, epoch in ways.items():
            model = build_model(CifarResNet, NoNeck, Gap, classes, (size, size), 0)
            for what, measure in (("loader alone", load), ("training ResNet-8", lambda b, m=model: train(b, m))):
                if what == "training ResNet-8" and number == 0:
                    continue  # the first round warms up workers, caches and allocator
                speed = measure(epoch())
                if number:
                    speeds.setdefault((what, name), []).append(speed)
    table = Table("", "necklace images/s", f"ImageFolder, {workers} workers", "ratio", title=f"{root}, {size}x{size}")
    for what in ("loader alone", "training ResNet-8"):
        mine, usual = speeds[what, "necklace"], speeds[what, "ImageFolder"]
        ratio = statistics.median(a / b for a, b in zip(mine, usual, strict=True))
        table.add_row(what, f"{statistics.median(mine):,.0f}", f"{statistics.median(usual):,.0f}", f"{ratio:.2f}")
    console.print(table)


# About two seconds of training a cell on two cores, of few images: drawing them takes 0.7 ms each and is no training.
CELL = {
    "data": "context",
    "data.source.train": 200,
    "data.source.test": 50,
    "backbone.width": 32,
    "epochs": 3,
    "logger": "none",
}


def studies(cells: int, cold: int, console: Console) -> None:
    """Compare a study of short cells, one slot, with their training time and with a cold `python train.py` for each."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "experiments" / "short"
        folder.mkdir(parents=True)
        study = {"question": "What does a cell cost beside its training?", "baseline": "none", "seeds": list(range(cells))}
        study |= {"overrides": CELL, "cells": [{"neck": "none"}]}
        (folder / "study.yaml").write_text(json.dumps(study))  # JSON is YAML

        def timed(*command: str) -> float:
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], cwd=scratch, check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - started

        start = timed("-c", "import necklace.run")
        began = time.time()
        study_seconds = timed(str(HERE / "ablate.py"), "short", "hydra.launcher.slots=1")
        paths = list(Path(scratch).glob("outputs/short/*/record.json"))
        cells_seconds = max(path.stat().st_mtime for path in paths) - began
        records = [json.loads(path.read_text()) for path in paths]
        fits = sum(record["fit_seconds"] for record in records)
        own = [f"{key}={value}" for key, value in CELL.items()]
        alone = [timed(str(HERE / "train.py"), *own, "study=cold", f"seed={seed}") for seed in range(cold)]
    cold_seconds = statistics.mean(alone) * cells
    table = Table("", "seconds", title=f"{cells} cells of {fits / cells:.1f} s of training, one slot")
    table.add_row("training, summed over the cells", f"{fits:.0f}")
    table.add_row("one cold start (imports)", f"{start:.1f}")
    table.add_row("python ablate.py, plan to the last cell", f"{cells_seconds:.0f}")
    table.add_row("python ablate.py, plan to report, costs measured", f"{study_seconds:.0f}")
    table.add_row(f"cold python train.py for each ({cold} measured)", f"{cold_seconds:.0f}")
    table.add_section()
    table.add_row("(to the last cell - cold start) / training", f"{(cells_seconds - start) / fits:.2f}")
    table.add_row("(to the report - cold start) / training", f"{(study_seconds - start) / fits:.2f}")
    table.add_row("study / cold processes", f"{study_seconds / cold_seconds:.2f}")
    console.print(table)


def records(counts: Sequence[int], console: Console) -> None:
    """Time plan and table of a study whose cells are all there, made from one real record."""
    table = Table(
        "cells", "plan s", "records, tables, figures, report s", "in all s", "ms a cell", title="a study's plan and table"
    )
    with tempfile.TemporaryDirectory() as scratch, initialize_config_dir(str(HERE / "configs"), version_base="1.3"):
        small = {key: value for key, value in CELL.items() if key != "data"} | {"epochs": 1}
        own = [f"{key}={value}" for key, value in small.items()]
        command = [sys.executable, str(HERE / "train.py"), *own, "study=one"]
        subprocess.run(command, cwd=scratch, check=True, stdout=subprocess.DEVNULL)
        real = read_record(next(Path(scratch).glob("outputs/one/*/record.json")))
        curve = next(Path(scratch).glob("outputs/one/*/history.csv")).read_text()
        for count in counts:
            rows, name = count // 100, f"many{count}"
            path = Path(scratch) / "experiments" / name / "study.yaml"
            path.parent.mkdir(parents=True)
            grid = {"neck": "none", "optimizer.lr": [round(1e-3 * 1.01**k, 8) for k in range(rows)]}
            study = {"question": "How long?", "baseline": f"none, optimizer.lr={grid['optimizer.lr'][0]}"}
            path.write_text(json.dumps(study | {"seeds": list(range(100)), "overrides": small, "cells": [grid]}))
            extra = [f"outputs={scratch}/outputs"]
            plan = make_plan(read_study(path), extra)
            for cell in plan.cells:
                _write_twin(real, cell, plan.root, curve)
            started = time.perf_counter()
            plan = make_plan(read_study(path), extra)
            found = states(plan)
            planned = time.perf_counter()
            write_study(archive_of(plan, found, [], [], [], {}), path.parent)
            ended = time.perf_counter()
            seconds = [planned - started, ended - planned, ended - started]
            table.add_row(f"{len(plan.cells):,}", *(f"{value:.1f}" for value in seconds), f"{1000 * seconds[2] / count:.2f}")
    console.print(table)


def _write_twin(real: Record, cell: PlannedCell, root: Path, curve: str) -> None:
    """A record of the planned cell with outcomes of chance."""
    generator = torch_generator(cell.seed, cell.row)
    correct = torch.rand(real.data["images"]["test"], generator=generator) < 0.5
    config = {
        **real.config,
        "seed": cell.seed,
        "optimizer": {**real.config["optimizer"], "lr": float(cell.row.partition("=")[2])},
    }
    identity = cell_identity(config, real.data["digest"])
    figures = real.figures | {"test/acc": float(correct.float().mean())}
    twin = replace(real, cell=cell.label, cell_hash=cell.cell_hash, config=config, identity=identity, figures=figures)
    twin = replace(twin, test_correct=pack_bits(correct), code=cell.code, weights_hash=cell.cell_hash)
    folder = root / cell.label
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(asdict(twin)))
    (folder / "history.csv").write_text(curve)


# Images of data=context: what an epoch of it trains and judges.
CONTEXT = {"train": 5400, "val": 600, "side": 48, "classes": 4}
WATCHED: dict[str, tuple[Callable[[], Backbone], Callable[..., torch.nn.Module]]] = {
    "ResNet-8, focal": (CifarResNet, FocalModulation),
    "ResNet-8, focal_block": (CifarResNet, FocalBlock),
    "focalnet_tiny_srf to stage 1 (4 focal layers)": (lambda: TimmBackbone("focalnet_tiny_srf", stage=1), NoNeck),
}


def gates(batch_size: int, every: int, rounds: int, console: Console) -> None:
    """Compare the time that watching the gates of val costs with that of an epoch, on batches of data=context's size."""
    table = Table(
        "ms of CPU time",
        "training step",
        "val batch",
        "watched",
        "end of a pass",
        "of an epoch with a pass %",
        f"every {every} epochs %",
        title=f"watching the gates, batches of {batch_size}, {CONTEXT['side']}x{CONTEXT['side']} (median of {rounds})",
    )
    images = torch.randn(batch_size, 3, CONTEXT["side"], CONTEXT["side"])
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch_size) % CONTEXT["classes"]
    classes = [str(number) for number in range(CONTEXT["classes"])]
    for name, (backbone, neck) in WATCHED.items():
        model = build_model(backbone, neck, Gap, len(classes), (CONTEXT["side"], CONTEXT["side"]), 0)

        @torch.no_grad()
        def judge(model: Model = model) -> None:
            model(images)

        def judge_watched(judge: Callable[[], None] = judge) -> None:
            watch.batch(images, labels)
            judge()

        def step(model: Model = model) -> None:
            train([(images, labels)], model.train())
            model.eval()

        def end() -> None:
            for layer in watch.layers.values():
                layer.rows(classes)

        spent: dict[str, list[float]] = {}
        for _ in range(rounds + 1):
            for what, way in (("step", step), ("plain", judge)):
                spent.setdefault(what, []).append(cpu_ms(way))
            with GateWatch(model, len(classes)) as watch:
                judge_watched()  # the first batch makes room for the sums, once a pass
                spent.setdefault("watched", []).append(cpu_ms(judge_watched))
            spent.setdefault("end", []).append(cpu_ms(end))
        # The first round warms up.
        once = {what: statistics.median(times[1:]) for what, times in spent.items()}
        steps, judged = CONTEXT["train"] / batch_size, CONTEXT["val"] / batch_size
        more = judged * (once["watched"] - once["plain"]) + once["end"]
        share = more / (steps * once["step"] + judged * once["plain"])
        table.add_row(name, *(f"{once[w]:.1f}" for w in once), f"{100 * share:.2f}", f"{100 * share / every:.2f}")
    console.print(table)


def cpu_ms(way: Callable[[], None]) -> float:
    """CPU time of this process, over all its threads: whatever else the machine does then counts little."""
    started = time.process_time()
    way()
    return 1000 * (time.process_time() - started)


def main() -> None:
    """Parse the command and run the benchmark."""
    parser = argparse.ArgumentParser(description="Ratios of speed, each measured in turn within one run.")
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("loader", help="batches in memory against ImageFolder with PIL and workers, over whole epochs")
    one.add_argument("--root", type=Path, required=True, help="image folder with train/CLASS/*.jpg")
    one.add_argument("--size", type=int, default=32)
    one.add_argument("--batch-size", type=int, default=128)
    one.add_argument("--workers", type=int, default=2)
    one.add_argument("--rounds", type=int, default=1, help="measured epochs of each kind, after one to warm up")
    two = commands.add_parser("studies", help="a study of short cells against their training time, and against cold processes")
    two.add_argument("--cells", type=int, default=30)
    two.add_argument("--cold", type=int, default=5, help="cold processes to measure; the mean stands for all cells")
    three = commands.add_parser("records", help="plan and table of studies that are done, by their number of cells")
    three.add_argument("--counts", type=int, nargs="+", default=[1000, 2500, 5000], metavar="N", help="hundreds")
    four = commands.add_parser("gates", help="what watching a focal neck's gates costs, against an epoch's time")
    four.add_argument("--batch-size", type=int, default=64)
    four.add_argument("--every", type=int, default=5, help="epochs from pass to pass, as callbacks.gates")
    four.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    if arguments.command == "studies":
        return studies(arguments.cells, arguments.cold, Console())
    if arguments.command == "gates":
        return gates(arguments.batch_size, arguments.every, arguments.rounds, Console())
    if arguments.command == "records":
        if any(count < 100 or count % 100 for count in arguments.counts):
            parser.error(f"--counts {' '.join(map(str, arguments.counts))}: must be hundreds, such as 1000")
        return records(arguments.counts, Console())
    return loader(arguments.root, arguments.size, arguments.batch_size, arguments.workers, arguments.rounds, Console())


if __name__ == "__main__":
    main()
