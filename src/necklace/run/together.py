"""Runs that differ in their seed alone, trained together on one GPU: `seeds_at_once=K`.

A small network leaves a GPU idle, since each of its operators ends sooner than the next one is started. So K runs take their
steps together: one batched forward pass through all K models (torch.func.vmap over stacked parameters), and one backward pass.
All else stays as it is for a single run: each has a thread, in which it walks through `fit` with its own images, loss,
optimizer, checkpoints and record. The threads take turns, as coroutines would: one of them computes, and the others wait at the
next meeting.

A run that fails or ends leaves the group, and the others go on. One that was interrupted continues from its own checkpoint: at
a meeting the runs need not be in the same epoch. Results differ from a single run's by rounding, as on another device.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Condition
from typing import Any

import torch
from hydra.utils import get_class
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

from necklace.data.sizes import Fixed
from necklace.run.conditions import is_single
from necklace.tasks import Task

OPTION = "seeds_at_once"


def together_problems(resolved: Mapping[str, Any]) -> list[str]:
    """A sentence for each option of a resolved config with which its seeds cannot be trained together; none for one seed."""
    if (count := resolved.get(OPTION, 1)) == 1:
        return []
    trainer, said = resolved["trainer"], f"{OPTION}={count}"
    problems = []
    accelerator = trainer.get("accelerator", "auto")
    if accelerator not in ("auto", "gpu", "cuda") or (accelerator == "auto" and not torch.cuda.is_available()):
        problems.append(
            f"{said}: must be 1 on a CPU, where it was measured to be slower: seeds together took 1.3 to 2.9 times as long as "
            "one after another by torch.func.vmap, and 1.06 to 2 times by grouped convolutions; hydra.launcher.slots=N trains "
            "seeds side by side"
        )
    if not is_single(trainer) or trainer.get("strategy", "auto") != "auto":
        shown = f"trainer.devices={trainer.get('devices', 1)} and trainer.strategy={trainer.get('strategy', 'auto')}"
        problems.append(f"{said}: must be 1 with {shown}: seeds are trained together by one process, on one GPU")
    sizes = resolved["data"]["sizes"]["_target_"]
    if get_class(sizes) is not Fixed:
        problems.append(f"{said}: must be 1 with data.sizes._target_={sizes}: seeds would have batches of different sizes")
    if trainer.get("profiler"):
        problems.append(f"{said}: must be 1 with trainer.profiler={trainer['profiler']}, which watches one run at a time")
    if trainer.get("fast_dev_run"):
        problems.append(f"{said}: must be 1 with trainer.fast_dev_run, which tries a single run")
    return problems


class Stopped(BaseException):
    """The group has been told to stop: an interrupt, which leaves a run as it leaves a single one."""


class Group:
    """The runs that are trained together.

    Args:
        count: How many.
    """

    def __init__(self, count: int) -> None:
        self._turn = Condition()  # whoever holds it computes
        self._present = set(range(count))
        self._brought: dict[int, Any] = {}
        self._given: dict[int, Any] = {}
        self._stopped = False

    @contextmanager
    def seat(self, place: int) -> Iterator[Seat]:
        """A run's seat, in its own thread: inside, it has its turn, but while it waits at a meeting."""
        with self._turn:
            try:
                yield Seat(self, place)
            finally:
                self._present.discard(place)
                self._turn.notify_all()

    def stop(self) -> None:
        """Let each run end at its next meeting, by `Stopped`."""
        self._stopped = True

    def meet(self, place: int, brought: Any, join: Callable[[list[Any]], Sequence[Any]]) -> Any:
        """Wait until all runs that are still there have brought something of the same kind.

        Args:
            place: The run's.
            brought: What it brings.
            join: Is called once with what all bring, by place; gives what each one gets. What it raises, it raises for all.
        """
        dtype = torch.get_default_dtype()  # a run in double precision changes it for the time of its step
        self._brought[place] = brought
        while place not in self._given:
            if self._stopped:
                raise Stopped
            if self._brought.keys() == self._present:
                places = sorted(self._brought)
                try:
                    given = join([self._brought[each] for each in places])
                except Exception as error:
                    given = [error] * len(places)
                self._brought.clear()
                self._given.update(zip(places, given, strict=True))
                self._turn.notify_all()
            else:
                self._turn.wait()
        torch.set_default_dtype(dtype)
        given = self._given.pop(place)
        if isinstance(given, Exception):
            raise given
        return given


class Seat:
    """A run's place in a group.

    Attributes:
        company: The most runs that took a step of this one together.
    """

    def __init__(self, group: Group, place: int) -> None:
        self.company = 1
        self._group, self._place = group, place
        self._step: _Share | None = None

    def take(self, task: Task, image_size: tuple[int, int]) -> None:
        """Let a task, before its first step, train with the group's; evaluation stays its own.

        Args:
            task: The run's.
            image_size: Height and width of its training images in pixels.

        Raises:
            ValueError: Its model cannot be computed for several seeds at once.
        """
        any_layout = check_model(task.model, image_size)

        def forward(images: Tensor) -> Tensor:
            if not (task.training and torch.is_grad_enabled()):
                return task.model(images)
            share: _Share = self._group.meet(self._place, (task.model, images, any_layout), joint_forward)
            self.company, self._step = max(self.company, share.company), share
            return share.logits

        def backward(loss: Tensor, *arguments: Any, **options: Any) -> None:
            loss.backward(*arguments, **options)  # to the logits, and to what the task itself may learn
            if self._step is None or self._step.logits.grad is None:
                raise ValueError(f"{OPTION}: {type(task).__name__}.training_step has to call the model by self(images)")
            share, self._step = self._step, None
            add_up(*self._group.meet(self._place, share, joint_backward))

        # On the object, as Lightning and the task itself look them up there.
        setattr(task, "forward", forward)  # noqa: B010
        setattr(task, "backward", backward)  # noqa: B010


@dataclass
class _Joint:
    """A batched forward pass: logits [K, B, C] with their graph, and each model's parameters."""

    logits: Tensor
    parameters: list[list[nn.Parameter]]


@dataclass
class _Share:
    """One run's part of a batched forward pass: its number in it, and its logits [B, C] as a leaf."""

    joint: _Joint
    number: int
    logits: Tensor

    @property
    def company(self) -> int:
        return len(self.joint.parameters)


def joint_forward(brought: Sequence[tuple[nn.Module, Tensor, bool]]) -> list[_Share]:
    """The forward pass of models that are equal but for their weights, each in training mode with images of its own.

    Args:
        brought: Model and images [B, 3, H, W] of each run, and what `check_model` gave.
    """
    models, images, (any_layout, *_) = zip(*brought, strict=True)
    with torch.enable_grad():
        # One that is alone computes as a single run does, to the bit.
        logits = models[0](images[0])[None] if len(models) == 1 else _batched(models, torch.stack(images), any_layout)
    trained = [[each for each in model.parameters() if each.requires_grad] for model in models]
    joint = _Joint(logits, trained)
    return [_Share(joint, number, each.detach().requires_grad_()) for number, each in enumerate(logits)]


def joint_backward(brought: Sequence[_Share]) -> list[tuple[list[nn.Parameter], list[Tensor]]]:
    """The backward pass of a batched forward pass.

    Args:
        brought: The shares of the runs that are still there, with gradients of their logits.

    Returns:
        For each: its parameters and their gradients, without parameters that the logits do not depend on.
    """
    joint = brought[0].joint
    of_logits = torch.zeros_like(joint.logits)  # of a run that has left, they stay zero
    for share in brought:
        of_logits[share.number] = _some(share.logits.grad)
    parameters = [each for share in brought for each in joint.parameters[share.number]]
    found = iter(torch.autograd.grad(joint.logits, parameters, of_logits, allow_unused=True))
    results = []
    for share in brought:
        pairs = [(each, grad) for each in joint.parameters[share.number] if (grad := next(found)) is not None]
        results.append(([each for each, _ in pairs], [grad for _, grad in pairs]))
    return results


def add_up(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    """Add gradients to those of parameters, each in its parameter's layout, which an optimizer's fused operators rely on.

    Not by autograd's own accumulation, which takes several times as long.
    """
    made: list[Tensor] = []
    moved: list[Tensor] = []
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if parameter.grad is not None:
            parameter.grad += gradient
        elif gradient.stride() == parameter.stride():
            parameter.grad = gradient
        else:
            parameter.grad = torch.empty_like(parameter)
            made.append(parameter.grad)
            moved.append(gradient)
    if made:
        torch._foreach_copy_(made, moved)  # pyright: ignore[reportPrivateImportUsage]


def _some(gradient: Tensor | None) -> Tensor:
    assert gradient is not None  # each run has gone back to its logits
    return gradient


def _batched(models: Sequence[nn.Module], images: Tensor, any_layout: bool) -> Tensor:
    """Logits [K, B, C] of K models for images [K, B, 3, H, W]; changes their buffers, such as those of BatchNorm."""
    own = [dict(model.named_parameters()) for model in models]
    parameters = {name: torch.stack([each[name] for each in own]) for name in own[0]}
    states = [dict(model.named_buffers()) for model in models]
    buffers = {name: torch.stack([each[name] for each in states]) for name in states[0]}

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor) -> Tensor:
        return functional_call(models[0], (parameters, buffers), (images,))

    with _AnyLayout() if any_layout else nullcontext():
        logits = vmap(one)(parameters, buffers, images)
    if buffers:
        with torch.no_grad():
            places = [state[name] for state in states for name in buffers]
            found = [buffers[name][number] for number in range(len(states)) for name in buffers]
            torch._foreach_copy_(places, found)  # pyright: ignore[reportPrivateImportUsage]
    return logits


class _AnyLayout(TorchFunctionMode):
    """Leaves out the layout in memory that a model asks for, such as channels_last: vmap refuses it; values are equal."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {name: value for name, value in (kwargs or {}).items() if name != "memory_format"}
        return func(*args, **kwargs)


def check_model(model: nn.Module, image_size: tuple[int, int]) -> bool:
    """Try a model, on the CPU and on a copy, with two seeds at once.

    Args:
        model: The model, before its first step.
        image_size: Height and width of the training images in pixels.

    Returns:
        Whether it can be batched only where the layouts that it asks for are left out, which costs time.

    Raises:
        ValueError: It draws random numbers, so that seeds would not have their own, or it has what torch.func cannot batch.
    """
    models = [copy.deepcopy(model).train() for _ in range(2)]
    images = torch.zeros(2, 2, 3, *image_size, dtype=next(model.parameters()).dtype)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before = torch.get_rng_state()
        models[0](images[0])
        if not torch.equal(torch.get_rng_state(), before):
            raise ValueError(
                f"{OPTION}: must be 1 with a model that draws random numbers in training, such as dropout (neck.proj_drop, "
                "backbone.drop_rate): the seeds would not draw what each draws alone"
            )
        try:
            _batched(models, images, any_layout=False)
            return False
        except Exception:  # whatever it was, it comes again if it was not about layouts
            pass
        try:
            _batched(models, images, any_layout=True)
            return True
        except Exception as error:
            why = f"torch.func cannot batch it over seeds: {' '.join(str(error).split())}"
            raise ValueError(f"{OPTION}: must be 1 with this model: {why}") from error
