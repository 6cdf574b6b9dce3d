"""Time and memory of the necks beside their plain forms and beside timm's focal modulation, in turn within one process."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from timm.models.focalnet import FocalModulation as TimmModulation
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from necklace.cli.bench_machine import Machine
from necklace.cli.bench_necks_table import COLUMNS, Row, picture
from necklace.cli.bench_report import Report
from necklace.cli.bench_timing import Times, Work, best_rates, interleaved
from necklace.necks import SPP, SPPF, ConvNeck, FocalBlock, FocalModulation
from necklace.necks.depthwise import DepthwiseConv

LAST = torch.channels_last
Way = tuple[Callable[[int], nn.Module], torch.memory_format]
"""What builds a neck from its number of channels, and the layout of the maps that it gets."""


class ParallelSPP(SPP):
    """SPP as it is defined: each pool from the map itself."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool the map [B, C, h, w]."""
        x = self.cv1(x)
        return self.cv2(torch.cat([x, *(F.max_pool2d(x, k, 1, k // 2) for k in self.kernel_sizes)], dim=1))


class ChainedSPPF(SPPF):
    """SPPF as it is defined: one square pool, three times."""

    def forward(self, x: Tensor) -> Tensor:
        """Pool the map [B, C, h, w]."""
        found = [self.cv1(x)]
        for _ in range(3):
            found.append(F.max_pool2d(found[-1], self.kernel_size, 1, self.kernel_size // 2))
        return self.cv2(torch.cat(found, dim=1))


def plain(neck: nn.Module) -> nn.Module:
    """The neck with torch's own depth-wise convolutions, which keeps its levels to the plain form."""
    for module in list(neck.modules()):
        for name, child in module.named_children():
            if isinstance(child, DepthwiseConv):
                size, half = child.kernel_size[0], child.kernel_size[0] // 2
                own = nn.Conv2d(child.in_channels, child.in_channels, size, padding=half, groups=child.in_channels, bias=False)
                own.weight = child.weight
                setattr(module, name, own)
    return neck


def _focal(levels: int, window: int) -> dict[str, Way]:
    def ours(channels: int, recompute: bool = False) -> FocalModulation:
        return FocalModulation(channels, focal_level=levels, focal_window=window, recompute=recompute)

    def theirs(channels: int) -> nn.Module:
        return TimmModulation(channels, window, levels)

    return {
        "timm, channels_last": (theirs, LAST),
        "timm, contiguous": (theirs, torch.contiguous_format),
        "plain": (lambda channels: plain(ours(channels)), LAST),
        "ours": (ours, LAST),
        "ours, recompute": (lambda channels: ours(channels, recompute=True), LAST),
    }


def _dw_convnet(channels: int) -> FocalModulation:
    return FocalModulation(channels, gating=False, global_context=False, aggregate="top", interaction="dw_convnet")


# Family to its ways. The reference of a family is the faster of timm's layouts, or the first way.
FAMILIES: dict[str, dict[str, Way]] = {
    "conv": {"ours": (ConvNeck, LAST)},
    "spp": {"plain": (ParallelSPP, LAST), "ours": (SPP, LAST)},
    "sppf": {"plain": (ChainedSPPF, LAST), "ours": (SPPF, LAST)},
    "focal L2 w3": _focal(2, 3),
    "focal L3 w5": _focal(3, 5),
    "focal_block": {"plain": (lambda channels: plain(FocalBlock(channels)), LAST), "ours": (FocalBlock, LAST)},
    "dw_convnet": {"plain": (lambda channels: plain(_dw_convnet(channels)), LAST), "ours": (_dw_convnet, LAST)},
}
DIRECTIONS = ("forward", "forward+backward")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def necks(report: Report, sizes: Sequence[tuple[int, int, int, int]], dtypes: Sequence[str], device: str, rounds: int) -> None:
    """Measure every neck.

    Args:
        report: Where the table goes.
        sizes: Maps [B, C, h, w].
        dtypes: Names out of `DTYPES`; bfloat16 is autocast over fp32 weights.
        device: Where to compute, `cpu` or `cuda`; a CPU works on one thread.
        rounds: Measured rounds of each way.

    Raises:
        TooBusyError: The machine is too busy; nothing is written then.
        ValueError: There is no such device.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: this machine has no CUDA device that torch can use")
    where = torch.device(device)
    machine = Machine(device=where)
    rows, rates = [], []
    for dtype in dtypes:
        best = best_rates(DTYPES[dtype], where)
        rates.append(f"{dtype} " + ", ".join(f"{name} {rate:,.0f}" for name, rate in best.items()))
        for size in sizes:
            for family in FAMILIES:
                report.console.print(f"{family}, {'x'.join(map(str, size))}, {dtype}", style="dim")
                rows += _family(family, size, dtype, where, rounds, max(best.values()))
    notes = [
        f"times: {'CPU time on one thread' if device == 'cpu' else 'GPU time'}; median and quartiles of {rounds} rounds of all "
        "ways in turn",
        f"best rates in GMAC/s: {', '.join(rates)}; backward counts twice the MACs of forward",
        "ratio: to the plain form, or to the faster of timm's two layouts; median over rounds",
        "saved: for backward, without the input and the weights",
    ]
    cells = [row.cells() for row in rows]
    report.write("necks beside their plain forms and timm's", COLUMNS, cells, machine, notes, picture(rows))


def _family(
    family: str, size: tuple[int, int, int, int], dtype: str, device: torch.device, rounds: int, rate: float
) -> list[Row]:
    """The rows of a neck's ways, in both directions."""
    rows, built = [], {}
    for way, (build, layout) in FAMILIES[family].items():
        torch.manual_seed(0)
        x, grad = (torch.randn(size, device=device).contiguous(memory_format=layout) for _ in range(2))
        built[way] = build(size[1]).to(device), x.requires_grad_(), grad
    macs = _macs(*next(iter(built.values()))[:2])
    for direction in DIRECTIONS:
        works = {way: _work(neck, x, grad, direction, dtype) for way, (neck, x, grad) in built.items()}
        if direction == "forward":  # nothing is kept, so nothing can be computed again
            works.pop("ours, recompute", None)
        times = interleaved(works, rounds, device)
        reference = _reference(times)
        for way, own in times.items():
            neck, x, _ = built[way]
            backward = direction != "forward"
            done = macs * (3 if backward else 1)  # backward computes the input's and the weights' gradient, each as much again
            row = Row(
                size="x".join(map(str, size)),
                dtype=dtype,
                neck=family,
                way=way,
                direction=direction,
                params=sum(p.numel() for p in neck.parameters()),
                macs=macs,
                ms=own.median,
                ms_q1=own.quartiles[0],
                ms_q3=own.quartiles[1],
                wall_over_ms=own.waiting,
                ratio=statistics.median(a / b for a, b in zip(own.ms, times[reference].ms, strict=True)),
                saved_mib=_saved_bytes(neck, x, dtype) / 2**20 if backward else None,
                share_of_best_rate=done / 1e6 / own.median / rate,
            )
            rows.append(row)
    return rows


def _reference(times: dict[str, Times]) -> str:
    timms = [way for way in times if way.startswith("timm")]
    return min(timms, key=lambda way: times[way].median) if timms else next(iter(times))


def _work(neck: nn.Module, x: Tensor, grad: Tensor, direction: str, dtype: str) -> Work:
    def forward() -> None:
        neck.eval()
        with torch.no_grad(), _precision(x, dtype):
            neck(x)

    def both() -> None:
        neck.train()
        x.grad = None
        neck.zero_grad()
        with _precision(x, dtype):
            y = neck(x)
        y.backward(grad.to(y.dtype))

    return forward if direction == "forward" else both


def _precision(x: Tensor, dtype: str) -> AbstractContextManager[object]:
    return torch.autocast(x.device.type, dtype=torch.bfloat16) if dtype == "bfloat16" else nullcontext()


def _macs(neck: nn.Module, x: Tensor) -> int:
    """Multiply-adds of the convolutions in a forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        neck(x)
    return counter.get_total_flops() // 2


def _saved_bytes(neck: nn.Module, x: Tensor, dtype: str) -> int:
    """Bytes that forward keeps for backward, beside its input and its weights; each memory counts once."""
    given = {tensor.untyped_storage().data_ptr() for tensor in (x, *neck.parameters(), *neck.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), _precision(x, dtype):
        y = neck.train()(x)
    del y  # it holds what was kept, so that no memory was counted under two addresses
    return sum(kept.values())
