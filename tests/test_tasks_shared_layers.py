"""Two real processes of a gloo group against one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from timm.layers.drop import DropPath
from torch import multiprocessing, nn
from torchvision.ops import StochasticDepth

from necklace.backbones import CifarResNet
from necklace.data.augment import Augmentation, Share, normalise
from necklace.heads import Gap
from necklace.model import build_model
from necklace.necks import FocalBlock
from necklace.seeding import torch_generator
from necklace.tasks.shared_layers import SharedBatchNorm, SharedDropout, share_batch_norms, share_dropout

RANKS = 2


def in_group(work: Callable[..., Any], folder: Path, *arguments: Any) -> list[Any]:
    """What `work(rank, *arguments)` gives in each of two processes."""
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_member, args=(work, folder, rank, arguments)) for rank in range(RANKS)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


def _member(work: Callable[..., Any], folder: Path, rank: int, arguments: tuple[Any, ...]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=RANKS)
    torch.save(work(rank, *arguments), folder / f"{rank}.pt")
    dist.destroy_process_group()


def images(*shape: int) -> torch.Tensor:
    made = torch.randn(*shape, generator=torch.Generator().manual_seed(0)) * 3 + 5
    return made.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else made


def norm(kind: str, channels: int) -> nn.Module:
    torch.manual_seed(1)
    layer: Any = {
        "plain": lambda: nn.BatchNorm2d(channels),
        "no scale, short memory": lambda: nn.BatchNorm2d(channels, momentum=0.4),
        "cumulative": lambda: nn.BatchNorm2d(channels, momentum=None),
        "not affine": lambda: nn.BatchNorm2d(channels, affine=False),
        "no statistics": lambda: nn.BatchNorm2d(channels, track_running_stats=False),
        "of vectors": lambda: nn.BatchNorm1d(channels),
    }[kind]()
    if layer.affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
        layer.weight.requires_grad_(not kind.startswith("no scale"))
    return nn.Sequential(layer)


def two_steps(layer: nn.Module, x: torch.Tensor, upstream: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    layer(x).backward(upstream)
    y = layer(x)
    y.backward(upstream)
    found = {"y": y.detach(), "x": x.grad}
    found |= {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.requires_grad}
    return found | {name: value.clone() for name, value in layer.named_buffers()}


def of_rank(rank: int, kind: str, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    layer = share_batch_norms(norm(kind, shape[1]))
    assert isinstance(next(layer.children()), SharedBatchNorm)
    x, upstream = images(*shape), images(*shape).flip(0)
    return two_steps(layer, x[rank::RANKS], upstream[rank::RANKS])


@pytest.mark.parametrize("kind", ["plain", "no scale, short memory", "cumulative", "not affine", "no statistics", "of vectors"])
def test_batch_norm_of_two_processes_of_unequal_shares_is_that_of_one(kind: str, tmp_path: Path) -> None:
    shape = (7, 5) if kind == "of vectors" else (7, 5, 4, 3)
    plain = norm(kind, 5)
    x, upstream = images(*shape), images(*shape).flip(0)
    due = two_steps(plain, x, upstream)
    parts = in_group(of_rank, tmp_path, kind, shape)
    for name, value in due.items():
        for rank, part in enumerate(parts):
            if name in ("y", "x"):
                assert torch.allclose(part[name], value[rank::RANKS], atol=2e-5), name
                assert part[name].stride() == value[rank::RANKS].contiguous(memory_format=layout(value)).stride()
            elif name.startswith("0.running") or name.endswith("tracked"):
                assert torch.allclose(part[name], value, atol=1e-5), name
        if name in ("0.weight", "0.bias"):
            assert torch.allclose(parts[0][name] + parts[1][name], value, rtol=1e-4, atol=1e-4), name


def layout(value: torch.Tensor) -> torch.memory_format:
    return torch.channels_last if value.ndim == 4 else torch.contiguous_format


def trained(rank: int, ranks: int) -> torch.Tensor:
    """The losses of ten steps in double precision, of 7 images each."""
    model: Any = build_model(lambda: CifarResNet(8, 4), partial(FocalBlock, drop=0.1, proj_drop=0.1), Gap, 10, (16, 16), 0)
    model.double().train()
    dropouts = []
    if ranks > 1:
        share_batch_norms(model)
        dropouts = share_dropout(model)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    augment = Augmentation(True, 2, 4, 0.3, 0.5)
    pixels = torch.randint(256, (7, 16, 16, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    share = Share(rank, ranks, 7)
    losses = []
    for step in range(10):
        batch = augment(pixels[rank::ranks], torch_generator(0, "augment", step), share)
        torch.manual_seed(step)
        for layer in dropouts:
            layer.share = share
        logits = model(normalise(batch, (0.5,) * 3, (0.25,) * 3).double())
        loss = nn.functional.cross_entropy(logits, torch.arange(7)[rank::ranks], reduction="sum") / 7
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.detach().clone())
        if ranks > 1:
            for value in (losses[-1], *(parameter.grad for parameter in model.parameters())):
                dist.all_reduce(value)
        optimizer.step()
    return torch.stack(losses)


def test_two_processes_take_the_steps_of_one_to_double_precision(tmp_path: Path) -> None:
    due = trained(0, 1)
    assert due[-1] < due[0] - 0.1
    for losses in in_group(trained, tmp_path, RANKS):
        assert torch.allclose(losses, due, rtol=0, atol=1e-10)


def one_value(rank: int) -> str:
    layer = share_batch_norms(nn.Sequential(nn.BatchNorm2d(3)))
    try:
        layer(torch.ones(rank, 3, 1, 1))
    except ValueError as error:
        return str(error)
    return ""


def test_one_value_for_all_ranks_is_refused(tmp_path: Path) -> None:
    assert all("at least 2" in words for words in in_group(one_value, tmp_path))


@pytest.mark.parametrize(
    "layer",
    [nn.Dropout(0.3), nn.Dropout1d(0.4), nn.Dropout2d(0.4), DropPath(0.4), StochasticDepth(0.4, "row")],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("form", ["by channels", "plain", "tokens"])
def test_a_share_of_dropout_is_that_of_one_process(layer: nn.Module, form: str) -> None:
    if form == "tokens" and isinstance(layer, nn.Dropout2d):
        pytest.skip("is for maps")
    x = images(9, 4, 3, 5)
    if form == "plain":
        x = x.contiguous()
    if form == "tokens":
        x = x.flatten(2).transpose(1, 2)
    elif isinstance(layer, nn.Dropout1d):
        x = x.flatten(2).contiguous()
    model = nn.Sequential(layer).train()
    torch.manual_seed(3)
    due = model(x)
    (shared,) = share_dropout(model)
    assert isinstance(shared, SharedDropout)
    for rank in range(4):
        shared.share = Share(rank, 4, 9)
        torch.manual_seed(3)
        assert torch.equal(model(x[rank::4]), due[rank::4])
    assert (due == 0).any()
    assert torch.equal(model.eval()(x), x)
