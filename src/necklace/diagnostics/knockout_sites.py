"""Where a neck joins several contexts, and how one of them is changed on the way: by hooks, so the neck itself stays as it is.

A focal layer joins gate * context of each level into a sum, the input of its layer `h`. SPP and SPPF join the map and its pools
side by side, the input of their `cv2`. `Switch` recomputes the terms from their definition and hands the joined ones on:

- `silenced`: 0 in the term's place;
- `mean`: the term's mean over the images of val that have the map's size, at each position and channel;
- `positions`: the gate's values in another order of the image's positions (of a pool, which has no gate, the term's);
- `images`: the gate of another image of val with a map of that size.

Deeper levels, which are computed from a level's context, and other gates stay as they are: a term is cut, not its computation.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from necklace.diagnostics.focal import context_names, focal_layers, focal_parts
from necklace.necks import SPP, SPPF
from necklace.seeding import torch_generator

KINDS = ("silenced", "mean", "positions", "images")
STREAM = "knockout"  # its draws are of (seed, "knockout", and one of these)
_POSITIONS, _PARTNERS = 0, 1
# By how much of the largest value two ways of adding up may differ. Convolutions on a GPU round to ten bits.
_TOLERANCE = {torch.float32: 2e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}


class Unfit(ValueError):
    """A layer that does not join its terms as its parts say, or not image by image."""


class Terms(NamedTuple):
    """What a layer joins for B images.

    Attributes:
        contexts: Each [B, C, h, w], or [B, C, 1, 1].
        gates: [B, len(contexts), h, w], or None where the contexts are joined as they are.
    """

    contexts: Sequence[Tensor]
    gates: Tensor | None

    def weighted(self, place: int, gates: Tensor | None = None) -> Tensor:
        """Gate * context; by other gates, if they are given."""
        gates = self.gates if gates is None else gates
        return self.contexts[place] if gates is None else self.contexts[place] * gates[:, place : place + 1]


class Site(Protocol):
    """A layer that joins terms; `kind` is `focal` or `pools`."""

    name: str  # in the model, such as `neck`
    kind: str
    names: tuple[str, ...]  # of its terms
    changes: tuple[str, ...]  # which of `KINDS` there are
    entry: nn.Module  # whose input the terms are computed from
    target: nn.Module  # whose input is the joined terms

    def terms(self, x: Tensor) -> Terms:
        """The terms for an input of `entry`."""
        ...

    def joined(self, terms: Sequence[Tensor]) -> Tensor:
        """The input of `target`."""
        ...


class FocalSite:
    """A focal layer, of ours, of timm's, or a user's that adds up its weighted contexts before a layer `h`."""

    kind: str = "focal"

    def __init__(self, name: str, layer: nn.Module) -> None:
        target = getattr(layer, "h", None)
        if not isinstance(target, nn.Module):
            raise Unfit(f"{name}: is a focal layer without a layer `h` that takes the sum of its contexts")
        self.name, self.names = name, context_names(layer)
        self.entry: nn.Module = layer
        self.target: nn.Module = target
        self.changes: tuple[str, ...] = KINDS
        self._divided = bool(getattr(layer, "normalize_modulator", False))

    def terms(self, x: Tensor) -> Terms:
        """See `Site`."""
        parts = focal_parts(self.entry, x)
        return Terms(parts.contexts, parts.gates)

    def joined(self, terms: Sequence[Tensor]) -> Tensor:
        """See `Site`."""
        result = terms[0]
        for term in terms[1:]:  # in the plain form's order
            result = result + term
        return result / len(self.names) if self._divided else result


class PoolSite:
    """SPP or SPPF: the map as it is and its pools, side by side."""

    kind: str = "pools"

    def __init__(self, name: str, layer: SPP | SPPF) -> None:
        if isinstance(layer, SPP):
            sizes = layer.kernel_sizes
        else:
            sizes = tuple(1 + times * (layer.kernel_size - 1) for times in (1, 2, 3))
        self.changes: tuple[str, ...] = KINDS[:3]
        self.name = name
        self.entry: nn.Module = layer.cv2
        self.target: nn.Module = layer.cv2
        numbers = [f"pool{n} k{k}" for n, k in enumerate(sizes, 1)]
        self.names = ("no pool", *numbers)

    def terms(self, x: Tensor) -> Terms:
        """See `Site`."""
        return Terms(x.chunk(len(self.names), 1), None)

    def joined(self, terms: Sequence[Tensor]) -> Tensor:
        """See `Site`."""
        return torch.cat(list(terms), 1)


def sites_of(model: nn.Module, part: str = "neck") -> tuple[list[Site], list[str]]:
    """The layers of a model's part that join terms, and a sentence for each that cannot be changed."""
    found: list[Site] = []
    notes: list[str] = []
    inside = f"{part}."
    for name, layer in focal_layers(model).items():
        if f"{name}.".startswith(inside):
            try:
                found.append(FocalSite(name, layer))
            except Unfit as error:
                notes.append(str(error))
    for name, layer in model.named_modules():
        if f"{name}.".startswith(inside) and isinstance(layer, SPP | SPPF):
            found.append(PoolSite(name, layer))
    return found, notes


@dataclass(frozen=True)
class Change:
    """A change of some of a layer's terms.

    Attributes:
        site: The layer.
        kind: One of `KINDS`.
        hit: Places of the terms that are changed.
    """

    site: str
    kind: str
    hit: frozenset[int]


class _Seen:
    """What a first pass over images of one size has seen of a layer's call: sums of its terms, and its gates."""

    def __init__(self) -> None:
        self.images = 0
        self.sums: list[Tensor] = []
        self.gates: list[Tensor] = []

    def add(self, terms: Terms, weighted: Sequence[Tensor], keep_gates: bool) -> None:
        own = [term.double().sum(0) for term in weighted]
        self.sums = [a + b for a, b in zip(self.sums, own, strict=True)] if self.sums else own
        self.images += len(weighted[0])
        if keep_gates and terms.gates is not None:
            self.gates.append(terms.gates.detach().clone())

    def whole_gates(self) -> Tensor:
        if len(self.gates) != 1:
            self.gates = [torch.cat(self.gates)]
        return self.gates[0]


class Switch:
    """Changes a layer's terms while a model sees images of one size: first all of them as they are, then again with changes.

    Args:
        sites: The layers.
        seed: The run's seed, for what is shuffled.
        order: int64 [G], positions in val of the images of this size, in the order in which they come.
        size: Their height and width in pixels.

    Attributes:
        unfit: Name to a sentence, of layers that do not join their terms as their parts say.
    """

    def __init__(self, sites: Sequence[Site], seed: int, order: Tensor, size: tuple[int, int]) -> None:
        self.unfit: dict[str, str] = {}
        self._sites, self._seed, self._order = list(sites), seed, order
        self._partners = _partners(len(order), torch_generator(seed, STREAM, _PARTNERS, *size))
        self._seen: dict[tuple[str, int, int], _Seen] = {}
        self._change: Change | None = None
        self._places = torch.empty(0, dtype=torch.int64)  # of the batch among the images of this size
        self._permutations: dict[int, Tensor] = {}
        self._view = 0
        self._calls: dict[str, int] = {}
        self._pending: dict[str, list[Tensor]] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Within it, the model's layers are watched, and changed where that is asked for."""
        with ExitStack() as stack:
            for site in self._sites:
                if site.entry is not site.target:
                    hook = site.entry.register_forward_pre_hook(self._entering(site), with_kwargs=True)
                    stack.callback(hook.remove)
                stack.callback(site.target.register_forward_pre_hook(self._joining(site)).remove)
            yield

    def batch(self, places: Tensor) -> None:
        """Announce a batch: int64 [B], its images' places among those of this size."""
        self._places, self._permutations = places, {}

    def begin(self, view: int, change: Change | None) -> None:
        """Announce a call of the neck with one of the batch's views, see `Model.views`."""
        self._view, self._change, self._calls = view, change, {}

    def end(self) -> None:
        """After the call of the neck as it is: a layer whose terms nobody took is unfit."""
        for name in [name for name, waiting in self._pending.items() if waiting]:
            self._refuse(name, "its layer `h` is not called")
        self._pending = {}

    def _refuse(self, name: str, why: str) -> None:
        self.unfit.setdefault(name, f"{name}: cannot be changed: {why}")

    def _entering(self, site: Site) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._change is None or self._change.site == site.name:
                self._pending.setdefault(site.name, []).append(args[0] if args else kwargs["x"])

        return hook

    def _joining(self, site: Site) -> Callable[..., tuple[Tensor, ...] | None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
            if site.name in self.unfit or (self._change is not None and self._change.site != site.name):
                return None
            if site.entry is site.target:
                x = args[0]
            elif self._pending.get(site.name):
                x = self._pending[site.name].pop()
            else:
                return None
            call = self._calls[site.name] = self._calls.get(site.name, -1) + 1
            terms = site.terms(x)
            if self._change is None:
                return self._as_it_is(site, call, terms, args[0])
            return (site.joined(self._changed(site, call, terms, self._change)),)

        return hook

    def _as_it_is(self, site: Site, call: int, terms: Terms, given: Tensor) -> tuple[Tensor] | None:
        """Take note of the terms; what is handed on is joined here too, so that a change differs from it in nothing else."""
        weighted = [terms.weighted(place) for place in range(len(terms.contexts))]
        joined = site.joined(weighted)
        if len(joined) != len(self._places):
            self._refuse(site.name, "it is called with something else than the images of a batch")
        elif joined.shape != given.shape or not _close(joined, given):
            self._refuse(site.name, "what it joins is not the sum of what its parts say")
        if site.name in self.unfit:
            return None
        if site.kind == "focal" and terms.gates is None:
            site.changes = KINDS[:2]  # there are no gates to be shuffled
        seen = self._seen.setdefault((site.name, call, self._view), _Seen())
        seen.add(terms, weighted, "images" in site.changes)
        return (joined,)

    def _changed(self, site: Site, call: int, terms: Terms, change: Change) -> list[Tensor]:
        gates, found = terms.gates, []
        seen = self._seen[site.name, call, self._view]
        if gates is not None and change.kind == "positions":
            gates = self._shuffled(gates)
        elif gates is not None and change.kind == "images":
            gates = seen.whole_gates()[self._partners[self._places].to(gates.device)]
        for place in range(len(terms.contexts)):
            term = terms.weighted(place)
            if place in change.hit:
                if change.kind == "silenced":
                    term = torch.zeros_like(term)
                elif change.kind == "mean":
                    term = (seen.sums[place] / seen.images).to(term.dtype).expand_as(term)
                elif gates is not None:
                    term = terms.weighted(place, gates)
                else:
                    term = self._shuffled(term)
            found.append(term)
        return found

    def _shuffled(self, x: Tensor) -> Tensor:
        """A map [B, n, h, w] with the positions of each image in an order of their own, the same for all that is shuffled."""
        positions = x.shape[2] * x.shape[3]
        if positions not in self._permutations:
            orders = [
                torch.randperm(positions, generator=torch_generator(self._seed, STREAM, _POSITIONS, int(image)))
                for image in self._order[self._places]
            ]
            self._permutations[positions] = torch.stack(orders).to(x.device)
        order = self._permutations[positions][:, None].expand(-1, x.shape[1], -1)
        return x.flatten(2).gather(2, order).view(x.shape)


def _partners(count: int, generator: torch.Generator) -> Tensor:
    """For each of so many images another one, all different: the next in a random order, int64 [count]."""
    order = torch.randperm(count, generator=generator)
    partners = torch.empty_like(order)
    partners[order] = order.roll(-1)
    return partners


def _close(mine: Tensor, given: Tensor) -> bool:
    """Whether two forms of the same sum differ by rounding only."""
    worst = float((mine.float() - given.float()).abs().max())
    rounding = max(_TOLERANCE.get(mine.dtype, 2e-3), _TOLERANCE.get(given.dtype, 2e-3))
    return worst <= rounding * max(float(given.float().abs().max()), 1e-6)
