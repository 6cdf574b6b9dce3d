"""Seeds that are trained together end where each would alone: on the CPU, behind the refusal that stands before it there."""

import csv
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import Tensor, nn

from necklace.build import datamodule_of
from necklace.config import resolved
from necklace.launcher.hydra_jobs import error_of
from necklace.options.errors import OptionError
from necklace.record import Record
from necklace.run.fit import task_of
from necklace.run.folder import RunBusy, RunFolder
from necklace.run.history import History
from necklace.run.runner import RunFailed, RunRefused, run, run_composed, run_together
from necklace.run.together import Group, add_up, check_model, joint_backward, joint_forward, together_problems
from necklace.spec import RunSpec
from necklace.study.execute import train_planned_together
from tests.conftest import SMALL, compose_train, initialised, spec_of

# The trainings of this file are smaller still: 24 images in batches of 4.
TINY = ["data.source.train=30", "data.size=12", "batch_size=4"]
CIFAR = ["backbone=cifar_resnet", "backbone.width=4"]
FAST = ["backbone=fast_cnn", "backbone.width=8"]


@pytest.fixture
def double() -> Iterator[None]:
    """All that a run computes is computed in double precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def specs(outputs: Path, *overrides: str, seeds: tuple[int, ...] = (0, 1)) -> list[RunSpec]:
    small = [text for text in SMALL if not text.startswith("backbone.")]
    return [spec_of([*small, *TINY, *CIFAR, f"outputs={outputs}", f"seed={seed}", *overrides]) for seed in seeds]


def last_weights(outputs: Path, record: Record) -> dict[str, Tensor]:
    return torch.load(RunFolder(outputs / "runs" / record.name).last, weights_only=True)["state_dict"]


def furthest(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest difference of an entry, over the largest entry of its tensor or 1."""
    assert one.keys() == other.keys()
    gaps = [(one[name] - other[name]).abs().max() / one[name].abs().max().clamp(min=1) for name in one]
    return float(torch.stack([gap.double() for gap in gaps]).max())


def steps(spec: RunSpec, count: int, take: Callable[[Any, Any], None]) -> dict[str, Tensor]:
    """The state of a run's model after so many steps with the run's own images, by SGD."""
    data = datamodule_of(spec.resolved)
    task = task_of(spec, data)
    task.to(torch.get_default_dtype())
    take(task, data)
    optimizer = torch.optim.SGD(task.parameters(), lr=0.005, momentum=0.9, weight_decay=1e-3)
    done = 0
    while done < count:
        for raw in data.train_dataloader():
            batch = data.prepare(raw, augment=True)
            optimizer.zero_grad()
            task.backward(task.losses(task(batch.images), batch.labels, training=True).mean())
            optimizer.step()
            done += 1
            if done == count:
                break
    return task.model.state_dict()


def steps_together(runs: list[RunSpec], count: int) -> list[dict[str, Tensor]]:
    group, found = Group(len(runs)), {}

    def one(place: int, spec: RunSpec) -> None:
        with group.seat(place) as seat:
            found[place] = steps(spec, count, lambda task, data: seat.take(task, data.size))

    threads = [threading.Thread(target=one, args=each) for each in enumerate(runs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[place] for place in range(len(runs))]


@pytest.mark.parametrize(
    ("neck", "backbone", "count"),
    [
        ("none", FAST, 100),
        ("sppf", CIFAR, 100),
        ("focal", FAST, 100),
        ("none", CIFAR, 8),
        ("sppf", FAST, 8),
        ("focal", CIFAR, 8),
    ],
    ids=lambda value: value[0].removeprefix("backbone=") if isinstance(value, list) else str(value),
)
def test_steps_together_are_the_steps_alone(tmp_path: Path, neck: str, backbone: list[str], count: int) -> None:
    runs = specs(tmp_path, f"neck={neck}", *backbone)
    for dtype, number, tolerance in ((torch.float32, 1, 1e-6), (torch.float64, count, 1e-9)):
        torch.set_default_dtype(dtype)
        try:
            alone = steps(runs[1], number, lambda task, data: None)
            together = steps_together(runs, number)
        finally:
            torch.set_default_dtype(torch.float32)
        assert any("running_var" in name for name in alone)
        assert furthest(alone, together[1]) <= tolerance
        assert furthest(alone, together[0]) > 1e-3  # another seed is another run


# All of training that is not the model: weights in the loss, clipping, accumulation, another optimizer and schedule.
OPTIONS = ["task.class_weights=balanced", "task.label_smoothing=0.1", "trainer.gradient_clip_val=0.5", "schedule=cosine"]
OPTIONS += ["+trainer.accumulate_grad_batches=2", "optimizer=sgd", "data.eval_sizes=[16]", "neck=focal"]


def test_records_together_are_the_records_alone(tmp_path: Path, double: None, capsys: pytest.CaptureFixture[str]) -> None:
    one, many = tmp_path / "one", tmp_path / "many"
    alone = [run(spec) for spec in specs(one, *OPTIONS, seeds=(0, 5))]
    capsys.readouterr()
    together = run_together(specs(many, *OPTIONS, seeds=(0, 5)))
    said = capsys.readouterr().out
    assert all(f"seed {seed}: epoch 2/2" in said for seed in (0, 5))
    varying = {"weights_hash", "fit_seconds", "images_per_s", "wall_seconds", "device", "gates", "config"}
    for first, second in zip(alone, together, strict=True):
        assert isinstance(second, Record)
        assert vars(first) | dict.fromkeys(varying) == vars(second) | dict.fromkeys(varying)
        assert second.device == first.device | {"seeds_at_once": 2}
        assert first.gates
        assert second.gates
        assert first.gates["layers"].keys() == second.gates["layers"].keys()
        assert furthest(last_weights(one, first), last_weights(many, second)) <= 1e-9
        folders = RunFolder(one / "runs" / first.name), RunFolder(many / "runs" / second.name)
        assert sorted(path.name for path in folders[0].path.iterdir()) == sorted(
            path.name for path in folders[1].path.iterdir()
        )
        curves = [list(csv.DictReader(folder.history_path.read_text().splitlines())) for folder in folders]
        assert len(curves[0]) == len(curves[1]) == 2
        for row, other in zip(*curves, strict=True):
            assert row.keys() == other.keys()
            pairs = [(float(row[name]), float(other[name])) for name in row if name != "seconds"]
            assert max(abs(a - b) for a, b in pairs) < 1e-6  # metrics are kept in single precision


def test_a_group_of_one_trains_as_a_single_run_to_the_bit(tmp_path: Path) -> None:
    (alone,) = [run(spec) for spec in specs(tmp_path / "one", "neck=sppf", seeds=(3,))]
    (grouped,) = run_together(specs(tmp_path / "group", "neck=sppf", seeds=(3,)))
    assert isinstance(grouped, Record)
    assert grouped.weights_hash == alone.weights_hash
    assert grouped.device == alone.device


def test_runs_that_exist_are_held_or_fail_leave_the_others_alone_and_continue_later(
    tmp_path: Path, double: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    done, held, failing, whole = specs(tmp_path, "epochs=3", seeds=(0, 1, 2, 3))
    first = run(done)
    original = History.on_train_epoch_end

    def broken(self: History, trainer: Any, pl_module: Any) -> None:
        if f"_s2_{failing.hash}" in str(self.path) and trainer.current_epoch == 1:
            raise OSError("no space left")
        original(self, trainer, pl_module)

    monkeypatch.setattr(History, "on_train_epoch_end", broken)
    lock = RunFolder.of(held).lock_path
    with FileLock(lock):
        results = run_together([done, held, failing, whole])
        returns = train_planned_together([held, done])
    assert results[0] == first
    assert isinstance(results[1], RunBusy)
    assert isinstance(error_of(returns[0]), RunBusy)
    assert error_of(returns[1]) is None
    assert isinstance(results[2], RunFailed)
    assert not isinstance(results[2], RunRefused)
    assert "no space left" in (RunFolder.of(failing).failure() or "")
    assert isinstance(results[3], Record)
    assert results[3].device["seeds_at_once"] == 2
    monkeypatch.undo()

    # One continues with its second epoch, the other begins with its first.
    resumed, begun = run_together([failing, held])
    assert isinstance(resumed, Record)
    assert isinstance(begun, Record)
    assert (resumed.resumed, begun.resumed) == (1, 0)
    alone = tmp_path / "alone"
    for record, spec in zip((begun, resumed, results[3]), specs(alone, "epochs=3", seeds=(1, 2, 3)), strict=True):
        single = run(spec)
        assert record.metrics == single.metrics
        assert furthest(last_weights(alone, single), last_weights(tmp_path, record)) <= 1e-9


def test_ctrl_c_ends_the_group_and_leaves_runs_that_can_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = History.on_train_epoch_end

    def interrupted(self: History, trainer: Any, pl_module: Any) -> None:
        original(self, trainer, pl_module)
        if trainer.current_epoch == 1 and "_s0_" in str(self.path):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(History, "on_train_epoch_end", interrupted)
    runs = specs(tmp_path, "epochs=400")
    with pytest.raises(KeyboardInterrupt):
        run_together(runs)
    for spec in runs:
        folder = RunFolder.of(spec)
        assert not folder.is_held()
        assert folder.last.exists()
        assert not folder.failed_path.exists()
        assert not folder.record_path.exists()


def test_what_cannot_be_trained_together_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = "must be 1 on a CPU, where it was measured to be slower: seeds together took 1.3 to 2.9 times as long"
    for overrides, words in (
        (["trainer.accelerator=cpu"], measured),
        (["trainer.accelerator=gpu", "trainer.devices=2"], "must be 1 with trainer.devices=2 and trainer.strategy=auto"),
        (["trainer.accelerator=gpu", "trainer.strategy=ddp"], "must be 1 with trainer.devices=1 and trainer.strategy=ddp"),
        (["trainer.accelerator=gpu", "data/sizes=native"], "must be 1 with data.sizes._target_=necklace.data.sizes.Native"),
        (["trainer.accelerator=gpu", "data/sizes=multiscale"], "necklace.data.sizes.Multiscale: seeds would have batches"),
        (["trainer.accelerator=gpu", "+trainer.profiler=simple"], "must be 1 with trainer.profiler=simple"),
        (["trainer.accelerator=gpu", "+trainer.fast_dev_run=true"], "must be 1 with trainer.fast_dev_run"),
    ):
        (problem,) = together_problems(resolved(compose_train(["seeds_at_once=5", *overrides])[0]))
        assert problem.startswith("seeds_at_once=5: ")
        assert words in problem
    assert together_problems(resolved(compose_train(["trainer.accelerator=cpu", "trainer.devices=2"])[0])) == []
    assert together_problems(resolved(compose_train(["trainer.accelerator=gpu", "seeds_at_once=5"])[0])) == []
    with initialised(), pytest.raises(OptionError, match="must be 1 on a CPU"):
        run_composed(compose_train([*SMALL, "trainer.accelerator=cpu", "seeds_at_once=2", f"outputs={tmp_path}"])[0])
    drawing = "must be 1 with a model that draws random numbers in training, such as dropout"
    for result in run_together(specs(tmp_path, "neck=focal", "neck.proj_drop=0.1")):
        assert isinstance(result, RunRefused)
        assert drawing in str(result)
    assert not [path for path in (tmp_path / "runs").iterdir() if not path.name.startswith(".")]


def test_one_that_leaves_within_a_step_takes_nothing_from_the_others() -> None:
    torch.manual_seed(0)
    models = [nn.Sequential(nn.Flatten(), nn.Linear(12, 2)) for _ in range(3)]
    images = [torch.randn(4, 3, 2, 2) for _ in models]
    group, counts = Group(3), {}

    def one(place: int) -> None:
        with group.seat(place):
            for _ in range(2):
                share = group.meet(place, (models[place], images[place], False), joint_forward)
                counts.setdefault(place, []).append(share.company)
                if place == 1:
                    return
                share.logits.square().sum().backward()
                add_up(*group.meet(place, share, joint_backward))

    threads = [threading.Thread(target=one, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {0: [3, 2], 1: [3], 2: [3, 2]}
    assert all(parameter.grad is None for parameter in models[1].parameters())
    for model, own in zip(models[::2], images[::2], strict=True):
        due = torch.autograd.grad(2 * model(own).square().sum(), list(model.parameters()))
        for parameter, gradient in zip(model.parameters(), due, strict=True):
            assert parameter.grad is not None
            assert torch.allclose(parameter.grad, gradient, rtol=1e-5)


def test_an_error_of_the_batched_pass_reaches_every_run() -> None:
    group, errors = Group(2), []

    def one(place: int) -> None:
        with group.seat(place), pytest.raises(RuntimeError) as caught:
            group.meet(place, (nn.Flatten(), torch.zeros(1, 3, 2 + place, 2), False), joint_forward)
        errors.append(str(caught.value))

    threads = [threading.Thread(target=one, args=(place,)) for place in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 2
    assert all("stack expects each tensor to be equal size" in words for words in errors)


class Branching(nn.Module):
    """Looks at its values, which a batched model cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.fc(images.mean((2, 3)))
        return logits if logits.sum() > 0 else -logits


def test_a_model_that_cannot_be_batched_is_refused_and_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert not check_model(model, (8, 8))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for refused, words in (
        (Branching(), "torch.func cannot batch it"),
        (nn.Sequential(nn.BatchNorm2d(3, momentum=None)), "batch"),
    ):
        with pytest.raises(ValueError, match=words):
            check_model(refused, (8, 8))


def test_gradients_are_added_up_in_the_parameters_own_layout() -> None:
    convolution = nn.Conv2d(4, 5, 3).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    parameters = list(convolution.parameters())
    gradients = [torch.randn(parameter.shape) for parameter in parameters]
    for times in (1, 2):
        add_up(parameters, gradients)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            assert parameter.grad is not None
            assert parameter.grad.stride() == parameter.stride()
            assert torch.equal(parameter.grad, times * gradient)
        gradients = [gradient.clone() for gradient in gradients]
