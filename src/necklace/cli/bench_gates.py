"""CPU time of recording a focal layer's gates over val, against that of an epoch, on batches of data=context's size."""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from necklace.backbones import Backbone, CifarResNet, TimmBackbone
from necklace.cli.bench_loader import train_step
from necklace.cli.bench_machine import Machine
from necklace.cli.bench_report import Report
from necklace.diagnostics.focal import GateWatch
from necklace.heads import Gap
from necklace.model import Model, build_model
from necklace.necks import FocalBlock, FocalModulation, NoNeck

# Images of data=context that an epoch trains and evaluates.
CONTEXT = {"train": 5400, "val": 600, "side": 48, "classes": 4}
SUBJECTS: dict[str, tuple[Callable[[], Backbone], Callable[..., torch.nn.Module]]] = {
    "ResNet-8, focal": (CifarResNet, FocalModulation),
    "ResNet-8, focal_block": (CifarResNet, FocalBlock),
    "focalnet_tiny_srf to stage 1 (4 focal layers)": (partial(TimmBackbone, "focalnet_tiny_srf", stage=1), NoNeck),
}


def gates(report: Report, batch_size: int, every: int, rounds: int) -> None:
    """Measure what the gates cost, in ms and as a share of an epoch.

    Args:
        report: Where the table goes.
        batch_size: Images in a batch.
        every: Epochs from one pass with statistics to the next.
        rounds: Measurements of each kind; the table shows medians.
    """
    machine, rows = Machine(), []
    for name, (backbone, neck) in SUBJECTS.items():
        side, classes = CONTEXT["side"], CONTEXT["classes"]
        model = build_model(backbone, neck, Gap, classes, (side, side), 0)
        spent = _milliseconds(model, batch_size, rounds)
        steps, batches = CONTEXT["train"] / batch_size, CONTEXT["val"] / batch_size
        more = batches * (spent["watched"] - spent["plain"]) + spent["end"]
        share = more / (steps * spent["step"] + batches * spent["plain"])
        rows.append([name, *(spent[what] for what in ("step", "plain", "watched", "end")), 100 * share, 100 * share / every])
    kinds = dict.fromkeys(("training step", "val batch", "watched", "end of a pass"), ".1f")
    columns = {"ms of CPU time": "", **kinds, "of an epoch with a pass %": ".2f", f"every {every} epochs %": ".2f"}
    side = CONTEXT["side"]
    report.write(f"watching the gates, batches of {batch_size}, {side}x{side}, median of {rounds}", columns, rows, machine)


def _milliseconds(model: Model, batch_size: int, rounds: int) -> dict[str, float]:
    """Median CPU time of a training step, a val batch, the same with statistics, and of the end of a pass."""
    images = torch.randn(batch_size, 3, CONTEXT["side"], CONTEXT["side"])
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(batch_size) % CONTEXT["classes"]
    classes = [str(number) for number in range(CONTEXT["classes"])]

    def step() -> None:
        model.train()
        train_step(model, torch.optim.AdamW(model.parameters(), lr=1e-3), images, labels)
        model.eval()

    spent: dict[str, list[float]] = {"step": [], "plain": [], "watched": [], "end": []}
    for _ in range(rounds + 1):
        spent["step"].append(_cpu_ms(step))
        spent["plain"].append(_cpu_ms(lambda: _evaluate(model, images)))
        with GateWatch(model, len(classes)) as watch:
            _watched(watch, model, images, labels)  # the first batch of a pass allocates the sums
            spent["watched"].append(_cpu_ms(lambda watch=watch: _watched(watch, model, images, labels)))
        spent["end"].append(_cpu_ms(lambda watch=watch: [layer.rows(classes) for layer in watch.layers.values()]))
    # The first round warms up.
    return {what: statistics.median(times[1:]) for what, times in spent.items()}


@torch.no_grad()
def _evaluate(model: Model, images: Tensor) -> None:
    model(images)


def _watched(watch: GateWatch, model: Model, images: Tensor, labels: Tensor) -> None:
    watch.batch(images, labels)
    _evaluate(model, images)


def _cpu_ms(work: Callable[[], object]) -> float:
    """CPU time of this process, over all its threads: other load on the machine then counts little."""
    started = time.process_time()
    work()
    return 1000 * (time.process_time() - started)
