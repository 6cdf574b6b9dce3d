"""Statistics of a focal layer's gates: sums over positions that stream over batches and merge over processes.

A gate is a raw linear output, unbounded and signed, so nothing here assumes [0, 1]: values go into a histogram whose bins are a
sixteenth of an octave apart (edges 2^e * (1 + k/16), e from -24 to 15, on both sides of zero, with one bin between them), so a
quantile is known to 1/16 of its magnitude, or to 2^-24 near zero, or, beyond 2^16, to lie between there and the extreme.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
DEAD = 1e-3  # of the layer's root mean square
STEPS, LOWEST, HIGHEST = 16, -24, 16
_SIDE = STEPS * (HIGHEST - LOWEST)
_MAGNITUDES = np.concatenate([2.0**e * (1 + np.arange(STEPS) / STEPS) for e in range(LOWEST, HIGHEST)] + [[2.0**HIGHEST]])
EDGES = np.concatenate([-_MAGNITUDES[::-1], _MAGNITUDES])  # [2 * _SIDE + 2]; the outermost bins extend to infinity
BINS = len(EDGES) - 1
# The sums that are kept for every context.
_COLUMNS = ("images", "count", "nonfinite", "sum", "squares", "mass", "negative", "dead", "contribution", "entropy", "entropic")


class _Groups:
    """Sums for each of G groups of images and n contexts.

    Attributes:
        sums: float64 [G, n, _COLUMNS].
        extremes: float64 [G, n, 2], the smallest gate and the negated largest.
        histogram: int64 [G, n, BINS].
    """

    def __init__(self, groups: int, contexts: int, device: torch.device) -> None:
        self.sums = torch.zeros(groups, contexts, len(_COLUMNS), dtype=torch.float64, device=device)
        self.extremes = torch.full((groups, contexts, 2), math.inf, dtype=torch.float64, device=device)
        self.histogram = torch.zeros(groups, contexts, BINS, dtype=torch.int64, device=device)

    def add(self, groups: Tensor, sums: Tensor, extremes: Tensor, bins: Tensor, weights: Tensor) -> None:
        """Add images to groups.

        Args:
            groups: int64 [P], the group of each image.
            sums: float64 [P, n, _COLUMNS].
            extremes: float64 [P, n, 2].
            bins: int64 [P, n, positions].
            weights: int64, like `bins`: 1 for a finite gate, else 0.
        """
        self.sums.index_add_(0, groups, sums)
        self.extremes.scatter_reduce_(0, groups[:, None, None].expand_as(extremes), extremes, "amin")
        rows = groups[:, None] * sums.shape[1] + torch.arange(sums.shape[1], device=groups.device)
        self.histogram.view(-1).index_add_(0, (rows[:, :, None] * BINS + bins).flatten(), weights.flatten())

    def merge(self, other: "_Groups") -> None:
        """Add another process's sums."""
        self.sums += other.sums
        self.extremes = torch.minimum(self.extremes, other.extremes)
        self.histogram += other.histogram

    def cpu(self) -> None:
        """Move the sums to the CPU."""
        self.sums, self.extremes, self.histogram = self.sums.cpu(), self.extremes.cpu(), self.histogram.cpu()


class LayerGates:
    """Statistics of one focal layer over any number of batches: over all images, by class, and by the images' size.

    Memory: 10 KiB for each context and class or size. A position at which a context or its gate is NaN or infinite is counted
    and left out of all other statistics.

    Attributes:
        contexts: Names of the contexts.
        gated: Whether the layer has gates; without them only contributions are measured.
        reference: Root mean square of the layer's gates in the pass before, or None in the first: then "dead" is measured
            against this pass's own, read from the histogram.
    """

    def __init__(
        self, contexts: Sequence[str], gated: bool, classes: int, reference: float | None, device: torch.device
    ) -> None:
        self.contexts, self.gated, self.reference = tuple(contexts), gated, reference
        # float64 is unknown to Apple's devices.
        self._device = torch.device("cpu") if device.type == "mps" else device
        self._by_class = _Groups(classes, len(self.contexts), self._device)
        self._by_size: dict[tuple[int, int], _Groups] = {}

    def add(self, contexts: Sequence[Tensor], gates: Tensor | None, pairs: Tensor, size: tuple[int, int]) -> None:
        """Add a batch.

        Args:
            contexts: For each context [B, C, h, w] or [B, C, 1, 1].
            gates: [B, n, h, w], or None for a layer without gating.
            pairs: int64 [2, P]: index of an image in the batch and a class that it shows, for all classes of all images.
            size: Height and width of the images in pixels.
        """
        height, width = (contexts[0] if gates is None else gates).shape[2:]
        norms = [torch.linalg.vector_norm(c, dim=1, dtype=torch.promote_types(c.dtype, torch.float32)) for c in contexts]
        norm = torch.stack([n.expand(-1, height, width) for n in norms], 1).flatten(2).to(self._device).double()
        value = torch.ones_like(norm) if gates is None else gates.flatten(2).to(self._device).double()
        good = value.isfinite() & norm.isfinite()
        value, norm = value.where(good, 0.0), norm.where(good, 0.0)
        magnitude = value.abs()
        # Where every gate is exactly zero there are no shares: entropy 0.
        share = magnitude / magnitude.sum(1, keepdim=True).clamp(min=1e-300)
        entropic = good.all(1, keepdim=True).expand_as(good)
        maps = {
            "count": good,
            "nonfinite": ~good,
            "sum": value,
            "squares": value.square(),
            "mass": magnitude,
            "negative": value < 0,
            "dead": good & (magnitude < DEAD * (self.reference or 0.0)),
            "contribution": magnitude * norm,
            "entropy": -torch.xlogy(share, share).sum(1, keepdim=True) * entropic,
            "entropic": entropic,
        }
        maps = {name: maps[name].sum(2, dtype=torch.float64) for name in maps}
        maps["images"] = torch.ones_like(maps["sum"])
        sums = torch.stack([maps[name] for name in _COLUMNS], 2)
        extremes = torch.stack([value.where(good, math.inf).amin(2), (-value).where(good, math.inf).amin(2)], 2)
        bins, weights = _bins(value), good.long()
        if size not in self._by_size:
            self._by_size[size] = _Groups(1, len(self.contexts), self._device)
        everyone = torch.zeros(len(value), dtype=torch.int64, device=self._device)
        self._by_size[size].add(everyone, sums, extremes, bins, weights)
        image, label = pairs.to(self._device)
        self._by_class.add(label, sums[image], extremes[image], bins[image], weights[image])

    def cpu(self) -> "LayerGates":
        """Move the sums to the CPU, from where they can be sent to other processes."""
        for groups in (self._by_class, *self._by_size.values()):
            groups.cpu()
        self._device = torch.device("cpu")
        return self

    def merge(self, other: "LayerGates") -> None:
        """Add the sums of another process in the same pass; counts add exactly, sums up to rounding in float64."""
        self._by_class.merge(other._by_class)
        for size, groups in other._by_size.items():
            self._by_size.setdefault(size, _Groups(1, len(self.contexts), self._device)).merge(groups)

    def rms(self) -> float | None:
        """Root mean square over all gates of the layer; None without gates."""
        count, squares = self._all().sums[0, :, [_COLUMNS.index("count"), _COLUMNS.index("squares")]].sum(0).tolist()
        return math.sqrt(squares / count) if self.gated and count else None

    def histograms(self) -> dict[str, np.ndarray]:
        """Context to the counts of its gates, int64 [BINS], between `EDGES`."""
        return dict(zip(self.contexts, self._all().histogram[0].numpy(), strict=True))

    def rows(self, classes: Sequence[str]) -> list[dict[str, Any]]:
        """The statistics, one row for each context: over all images, and for each class and size that has images.

        All are over the positions of the images. `count`: number of positions. `mean`, `sd` (of the population), `min`, `max`
        and quantiles: of the gate. `negative`, `dead`: share of positions with gate < 0, and with |gate| < 1e-3 `reference`.
        `mass`: the context's share of the sum of |gate|. `entropy`: mean over positions of the entropy of the contexts' shares
        of |gate|, in nats, not normalised: from 0 to ln(number of contexts); one value for the layer. `contribution`: mean over
        positions of the norm over channels of gate * context (of the context, without gating; before a division by
        `normalize_modulator`), which is what the modulator receives. `contribution_share`: its share of the contexts' sum.
        `nonfinite`: number of positions left out. A statistic that does not exist is None.

        Args:
            classes: Names of the classes.
        """
        threshold = self.reference if self.reference is not None else self.rms()
        groups = [("all", "", self._all(), 0)]
        groups += [("class", name, self._by_class, index) for index, name in enumerate(classes)]
        groups += [("size", f"{h}x{w}", self._by_size[h, w], 0) for h, w in sorted(self._by_size)]
        rows = []
        for split, value, sums, index in groups:
            if sums.sums[index, 0, 0] > 0:
                rows += [{"split": split, "value": value} | row for row in self._group_rows(sums, index, threshold)]
        return rows

    def _all(self) -> _Groups:
        total = _Groups(1, len(self.contexts), self._device)
        for groups in self._by_size.values():
            total.merge(groups)
        return total

    def _group_rows(self, groups: _Groups, index: int, rms: float | None) -> list[dict[str, Any]]:
        table = [dict(zip(_COLUMNS, row, strict=True)) for row in groups.sums[index].tolist()]
        mass, contribution = sum(row["mass"] for row in table), sum(row["contribution"] for row in table)
        rows = []
        for number, (name, total) in enumerate(zip(self.contexts, table, strict=True)):
            count = total["count"]
            row: dict[str, Any] = {"context": name, "images": int(total["images"]), "count": int(count)}
            row |= dict.fromkeys(("mean", "sd", "min", "max", *map(quantile_name, QUANTILES), "negative", "dead", "mass"))
            if self.gated and count:
                mean = total["sum"] / count
                low, high = (groups.extremes[index, number] * torch.tensor([1.0, -1.0])).tolist()
                counts = groups.histogram[index, number].numpy()
                row |= {"mean": mean, "sd": math.sqrt(max(0.0, total["squares"] / count - mean**2)), "min": low, "max": high}
                row |= {quantile_name(q): quantile(counts, q, low, high) for q in QUANTILES}
                dead = total["dead"] / count if self.reference is not None else share_below(counts, DEAD * (rms or 0.0))
                row |= {"negative": total["negative"] / count, "dead": dead, "mass": total["mass"] / mass if mass else None}
            row["entropy"] = total["entropy"] / total["entropic"] if self.gated and total["entropic"] else None
            row["contribution"] = total["contribution"] / count if count else None
            row["contribution_share"] = total["contribution"] / contribution if contribution else None
            row["nonfinite"] = int(total["nonfinite"])
            rows.append(row)
        return rows


def quantile_name(q: float) -> str:
    """Such as q05 for 0.05."""
    return f"q{round(100 * q):02}"


def _bins(values: Tensor) -> Tensor:
    """The bin of each value, int64 of the same shape."""
    # The upper bits of a float32 are its exponent and the first bits of its mantissa: a sixteenth of an octave each.
    bits = values.abs().float().view(torch.int32) >> (23 - STEPS.bit_length() + 1)
    place = (bits.long() - (127 + LOWEST) * STEPS + 1).clamp(0, _SIDE)
    return _SIDE + place.where(values >= 0, -place)


def quantile(counts: np.ndarray, q: float, low: float, high: float) -> float:
    """The q-quantile of values from their histogram, to within the bin that it lies in.

    Args:
        counts: int64 [BINS], not all zero.
        q: In [0, 1].
        low: The smallest value.
        high: The largest.
    """
    reached = counts.cumsum()
    # The smallest value that at least a share q of the values does not exceed.
    rank = max(1.0, math.ceil(q * reached[-1]))
    bin_ = int(np.searchsorted(reached, rank))
    left = low if bin_ == 0 else max(low, EDGES[bin_])
    right = high if bin_ == BINS - 1 else min(high, EDGES[bin_ + 1])
    return float(left + (right - left) * (rank - (reached[bin_] - counts[bin_]) - 0.5) / counts[bin_])


def share_below(counts: np.ndarray, magnitude: float) -> float:
    """The share of values closer to zero than `magnitude`, with values taken as even within a bin; counts: int64 [BINS]."""
    below = np.interp([-magnitude, magnitude], EDGES, np.concatenate([[0], counts.cumsum()]))
    return float((below[1] - below[0]) / counts.sum())


def even_bins(counts: np.ndarray, low: float, high: float, bins: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """A histogram in even bins, for programs that draw no others, with values taken as even within a bin of `EDGES`.

    Args:
        counts: int64 [BINS].
        low: The smallest value.
        high: The largest, above it.
        bins: Number of even bins.

    Returns:
        Counts, float64 [bins], and edges, float64 [bins + 1].
    """
    cumulative = np.concatenate([[0], counts.cumsum()])
    edges = np.linspace(low, high, bins + 1)
    reached = np.interp(edges, EDGES, cumulative)
    reached[0], reached[-1] = 0, cumulative[-1]  # the bin of an extreme extends beyond it
    return np.diff(reached), edges
