"""The focal layers of a model, their parts, and statistics of their gates over one pass of images.

Every focal layer counts, in the neck or anywhere else. It is recognised by what it offers (`FocalLayer`), or as timm's, in a
focalnet backbone, by the name of its class. So this file imports neither our neck nor timm: an edit of the neck leaves runs
without it as they are.
"""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from necklace.boxes.truth import COUNTS
from necklace.data.boxes import Targets
from necklace.diagnostics.gate_stats import LayerGates
from necklace.necks.focal_parts import FocalParts

TIMM_LAYER = ("timm.models.focalnet", "FocalModulation")


@runtime_checkable
class FocalLayer(Protocol):
    """A module whose gates can be watched, such as necklace.necks.FocalModulation or a user's own.

    Attributes:
        context_names: Name of each aggregated context, in the order of the gates.
    """

    context_names: tuple[str, ...]

    def parts(self, x: Tensor) -> FocalParts:
        """The parts that forward computes on its way for the input x [B, C, h, w]."""
        ...


def focal_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The focal layers of a model, or of the task around it, by name, such as `neck` or `neck.modulation`."""
    return {
        name.removeprefix("model."): module
        for name, module in model.named_modules()
        if _has_parts(module) or _is_timm_layer(module)
    }


def context_names(layer: nn.Module) -> tuple[str, ...]:
    """The names of a focal layer's contexts, such as ("level1 k3", "level2 k5", "global")."""
    if isinstance(layer, FocalLayer):
        return tuple(layer.context_names)
    timm_layer: Any = layer
    return (*(f"level{number} k{kernel}" for number, kernel in enumerate(timm_layer.kernel_sizes, 1)), "global")


def focal_parts(layer: nn.Module, x: Tensor) -> FocalParts:
    """The parts that a focal layer computes on its way for the input x [B, C, h, w]."""
    if isinstance(layer, FocalLayer):
        return layer.parts(x)
    # timm's layer hands nothing out, so its parts are computed from its weights (both in [B, C, h, w]).
    timm_layer: Any = layer
    query, z, gates = torch.split(timm_layer.f(x), timm_layer.input_split, dim=1)
    contexts = []
    for gather in timm_layer.focal_layers:
        z = gather(z)
        contexts.append(z)
    contexts.append(timm_layer.act(z.mean((2, 3), keepdim=True)))
    total = torch.stack([context * gates[:, n : n + 1] for n, context in enumerate(contexts)]).sum(0)
    modulator = timm_layer.h(total / len(contexts) if timm_layer.normalize_modulator else total)
    return FocalParts(query, contexts, gates, modulator)


class GateWatch:
    """Watches the focal layers of a model through one pass over images: a context manager.

    Inside it, a hook computes the parts of each layer from the layer's input (so this holds for any fast path of its forward
    too), and their sums stream over the batches. Outside it the model is untouched. A batch has to be announced before the
    model sees it:

        with GateWatch(model, len(classes)) as watch, torch.no_grad():
            for batch in batches:
                watch.batch(batch.images, batch.labels)
                model(batch.images)
        watch.layers["neck"].rows(classes)

    Attributes:
        layers: Name to statistics, of the layers that have been called.
    """

    def __init__(self, model: nn.Module, classes: int, references: Mapping[str, float] | None = None) -> None:
        """Find the layers; they are hooked when the context is entered.

        Args:
            model: The model.
            classes: Number of classes.
            references: Each layer's root mean square in the pass before, if there was one.
        """
        self.layers: dict[str, LayerGates] = {}
        self._modules, self._classes, self._references = focal_layers(model), classes, references or {}
        self._hooks: list[RemovableHandle] = []
        self._batch: tuple[Tensor, tuple[int, int], int] | None = None

    def __enter__(self) -> "GateWatch":
        for name, module in self._modules.items():

            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = name) -> None:
                self._take(name, module, args[0] if args else kwargs["x"])

            self._hooks.append(module.register_forward_pre_hook(hook, with_kwargs=True))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        self._batch = None

    def batch(self, images: Tensor, labels: Any) -> None:
        """Announce a batch: images [B, 3, H, W], labels int64 [B] or [B, K] (1 where a class is present), or `Targets`."""
        if isinstance(labels, Targets):
            counted = labels.flags == COUNTS
            shown = (labels.image[counted] * self._classes + labels.classes[counted]).unique()
            pairs = torch.stack([shown // self._classes, shown % self._classes])
        elif labels.ndim == 1:
            pairs = torch.stack([torch.arange(len(labels), device=labels.device), labels])
        else:
            pairs = (labels == 1).nonzero().T
        self._batch = pairs, (images.shape[2], images.shape[3]), len(images)

    @torch.no_grad()
    def _take(self, name: str, module: nn.Module, x: Tensor) -> None:
        if self._batch is None:
            return
        pairs, size, count = self._batch
        if len(x) != count:
            pairs = pairs[:, :0]  # a user's neck has cut the images up: which part shows which class is not known
        parts = focal_parts(module, x)
        if name not in self.layers:
            reference, gated = self._references.get(name), parts.gates is not None
            self.layers[name] = LayerGates(context_names(module), gated, self._classes, reference, x.device)
        self.layers[name].add(parts.contexts, parts.gates, pairs, size)


def _has_parts(module: nn.Module) -> bool:
    # The class is asked too: a wrapper that passes attributes on, such as a compiled module, would count its layer twice.
    return hasattr(type(module), "parts") and isinstance(module, FocalLayer)


def _is_timm_layer(module: nn.Module) -> bool:
    return any((kind.__module__, kind.__qualname__) == TIMM_LAYER for kind in type(module).__mro__)
