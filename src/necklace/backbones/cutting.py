"""Cut the layers of a network that none of its outputs depends on.

timm's feature extractors differ in what they keep: most end with the last stage that is asked for, some (EfficientNet,
MobileNet, Xception) keep all later ones. These would be computed and counted, saved in every checkpoint, and never trained.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

Removed = list[tuple[nn.Module, str, nn.Module]]
"""Parent, name and layer of all that was taken out of a network."""


class Gone(nn.Module):
    """In the place of a layer whose output nothing needs: hands on a copy of its input, which may be written over."""

    def forward(self, x: Any, *_: Any, **__: Any) -> Any:
        """Return a copy of `x`."""
        return x.detach().clone() if isinstance(x, Tensor) else x


def cut_unused(network: nn.Module, make_twin: Callable[[], nn.Module], size: tuple[int, int]) -> None:
    """Remove from a network, in place, the layers with weights on which no output depends.

    What cannot be taken out without harm, as where a layer's parts are needed by turns, stays and is frozen.

    Args:
        network: The network; what stays keeps its weights.
        make_twin: Makes the same network on torch's meta device, where nothing is computed and autograd still knows what
            depends on what.
        size: Height and width of images that it takes.
    """
    twin = make_twin()
    try:
        unused = _unused(twin, size)
    except RuntimeError:  # a network that looks at numbers on its way; NotImplementedError is one as well
        twin, unused = network, _unused(network, size)
    if not unused:
        return
    layers = _largest(twin, unused)
    for ends in (True, False):
        good = [layer for layer in layers if ends or _harmless(twin, [layer], size, ends)]
        if _harmless(twin, good, size, ends) and _harmless(network, good, size, ends):
            _take_out(network, good, ends)
            break
    for parameter in (value for name, value in network.named_parameters() if name in unused):
        parameter.requires_grad_(False)


def _outputs(network: nn.Module, size: tuple[int, int]) -> list[Tensor]:
    """What a network gives for one image."""
    device = next(network.parameters()).device
    pixels = torch.linspace(-1, 1, 3 * size[0] * size[1], device=device).view(1, 3, *size)
    training = network.training
    network.eval()
    outputs = list(network(pixels))
    network.train(training)
    return outputs


def _unused(network: nn.Module, size: tuple[int, int]) -> set[str]:
    """The names of trainable weights on which none of the outputs depends."""
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    total = torch.stack([output.sum() for output in _outputs(network, size)]).sum()
    gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    return {name for name, gradient in zip(trained, gradients, strict=True) if gradient is None}


def _largest(module: nn.Module, unused: set[str], path: str = "") -> list[str]:
    """The paths of the largest layers all of whose weights are unused; hooks, which take outputs, are left where they are."""
    found: list[str] = []
    for name, child in module.named_children():
        own = {f"{path}{name}.{parameter}" for parameter, _ in child.named_parameters()}
        hooked = any(each._forward_hooks or each._forward_pre_hooks for each in child.modules())
        if own and own <= unused and not hooked and not isinstance(child, nn.ModuleList | nn.ModuleDict):
            found.append(f"{path}{name}")
        elif own & unused:
            found += _largest(child, unused, f"{path}{name}.")
    return found


def _take_out(network: nn.Module, layers: Iterable[str], ends: bool) -> Removed:
    """Take layers out; with `ends`, a sequence ends with the last layer that is needed, else there are placeholders."""
    removed: Removed = []
    for path in layers:
        above, _, name = path.rpartition(".")
        parent = network.get_submodule(above)
        removed.append((parent, name, parent.get_submodule(name)))
        setattr(parent, name, Gone())
    for parent in dict.fromkeys(parent for parent, _, _ in removed if ends and isinstance(parent, nn.Sequential)):
        children = list(parent.named_children())
        first = next(number for number, (_, child) in enumerate(children) if isinstance(child, Gone))
        if not any(list(child.parameters()) for _, child in children[first:]):
            for name, child in children[first:]:
                if not isinstance(child, Gone):
                    removed.append((parent, name, child))
                del parent._modules[name]
    return removed


def _harmless(network: nn.Module, layers: list[str], size: tuple[int, int], ends: bool) -> bool:
    """Whether a network gives the same without some layers; it is left as it was."""
    with torch.no_grad():
        before = _outputs(network, size)
    order = {parent: list(parent._modules) for parent in network.modules()}
    removed = _take_out(network, layers, ends)
    after: list[Tensor] = []
    try:
        if before[0].is_meta:
            _unused(network, size)  # backward has to go through as well
        with torch.no_grad():
            after = _outputs(network, size)
    except Exception:  # whatever its code raises where a layer is missing
        after = []
    for parent, name, child in removed:
        parent._modules[name] = child
    for parent, names in order.items():
        parent._modules.update({name: parent._modules.pop(name) for name in names})
    same = [one.shape == other.shape and one.dtype == other.dtype for one, other in zip(before, after, strict=False)]
    if len(after) != len(before) or not all(same):
        return False
    return before[0].is_meta or all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
