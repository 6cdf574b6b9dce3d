import gc
import subprocess
import sys
import weakref

import pytest
import timm.models.focalnet as timm_focalnet
import torch
from torch import Tensor, nn

from necklace import source_code
from necklace.diagnostics.focal import GateWatch, context_names, focal_layers, focal_parts
from necklace.necks import FocalModulation, FocalParts
from tests.test_diagnostics_gate_stats import CLASSES, batches, watched


def test_timms_layer_and_ours_with_its_weights_have_the_same_statistics() -> None:
    torch.manual_seed(0)
    theirs = timm_focalnet.FocalModulation(8, focal_window=3, focal_level=2, use_post_norm=True, normalize_modulator=True)
    ours = FocalModulation(8, use_postln_in_modulation=True, normalize_modulator=True, ln_eps=1e-6)
    ours.load_state_dict(theirs.state_dict())
    assert context_names(theirs) == context_names(ours) == ("level1 k3", "level2 k5", "global")
    x = torch.randn(3, 8, 7, 9)
    mine, other = focal_parts(ours, x), focal_parts(theirs, x)
    assert mine.query is not None
    assert other.query is not None
    y = theirs.proj(theirs.norm(other.query * other.modulator))
    torch.testing.assert_close(y, theirs(x))
    torch.testing.assert_close(other.modulator, mine.modulator)
    found = []
    for layer in (ours, theirs):
        with GateWatch(layer, 2) as watch:
            watch.batch(torch.zeros(3, 3, 14, 18), torch.tensor([0, 1, 1]))
            layer(x)
        found.append(watch.layers[""].rows(["a", "b"]))
    for one, two in zip(*found, strict=True):
        for name, value in two.items():
            assert one[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name


def test_a_neck_that_cuts_images_up_is_watched_without_classes() -> None:
    class Quarters(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.focal = FocalModulation(3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.focal(x=torch.cat(x.chunk(2, dim=3)))

    layers = watched(Quarters(), batches()[:2])
    rows = layers["focal"].rows(CLASSES)
    assert {row["split"] for row in rows} == {"all", "size"}
    assert rows[0]["count"] == 2 * 5 * 12 * 12


def test_memory_is_flat_over_100_batches() -> None:
    class Recorder(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(weakref.ref(x))
            return x

    def allocated() -> int:
        gc.collect()
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in _tensors()}
        return sum(storages.values())

    seen: list[weakref.ref] = []
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Recorder(), FocalModulation(8)).eval()
    sizes = []
    with GateWatch(model, 3) as watch, torch.no_grad():
        for number in range(100):
            watch.batch(torch.zeros(4, 3, 8, 8), torch.tensor([0, 1, 2, 2]))
            model(torch.randn(4, 3, 8, 8))
            if number in (4, 99):
                sizes.append(allocated())
    assert sizes[0] == sizes[1]
    assert len(seen) == 100
    assert all(reference() is None for reference in seen)


def _tensors() -> list[torch.Tensor]:
    # isinstance would ask for the class of every object, which makes deprecated ones of torch's complain. Tensors without
    # storage, which an export has left behind, are of other classes.
    return [item for item in gc.get_objects() if type(item) in (torch.Tensor, nn.Parameter)]


class Mine(nn.Module):
    """A user's focal layer, which has nothing to do with ours but for the two names."""

    def __init__(self, gated: bool = True) -> None:
        super().__init__()
        self.gated, self.context_names = gated, ("near", "far")

    def parts(self, x: Tensor) -> FocalParts:
        gates = torch.stack([x.mean(1), -x.mean(1)], 1) if self.gated else None
        return FocalParts(None, [x, x.mean((2, 3), keepdim=True)], gates, x)

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("gated", [True, False])
def test_a_users_own_focal_layer_is_watched(gated: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), Mine(gated)).eval()
    rows = watched(model, batches())["1"].rows(CLASSES)
    assert [row["context"] for row in rows[:2]] == ["near", "far"]
    assert rows[0]["mass"] == (0.5 if gated else None)


class NoFocalLayer(nn.Module):
    """Has one of the two names."""

    context_names = ("near",)


class Passing(nn.Module):
    """Passes on the attributes of what it wraps, as a compiled module does."""

    def __init__(self, wrapped: nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def __getattr__(self, name: str):
        return super().__getattr__(name) if name in ("wrapped", "_modules") else getattr(self.wrapped, name)


def test_a_focal_layer_is_known_by_what_it_offers_and_counts_once() -> None:
    class Derived(timm_focalnet.FocalModulation):
        pass

    class FocalModulationOfNobody(nn.Module):
        pass

    model = nn.ModuleDict(
        {
            "ours": FocalModulation(4),
            "mine": Mine(),
            "wrapped": Passing(FocalModulation(4)),
            "timm": timm_focalnet.FocalModulation(4, 3, 2),
            "derived": Derived(4, 3, 1),
            "part": NoFocalLayer(),
            "other": FocalModulationOfNobody(),
        }
    )
    assert list(focal_layers(model)) == ["ours", "mine", "wrapped.wrapped", "timm", "derived"]
    assert context_names(model["derived"]) == ("level1 k3", "global")


def test_watching_gates_imports_neither_timm_nor_wandb() -> None:
    """An edit of the focal neck must not touch runs without it either: no import of it, in any function."""
    code = "import sys, necklace.diagnostics.gate_callback; print({'timm', 'wandb'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "set()\n"
    version: dict[str, str] = {}
    source_code.add_module("necklace.diagnostics.gate_callback", version)
    assert {"necklace.diagnostics.focal", "necklace.diagnostics.gate_stats", "necklace.necks.focal_parts"} <= version.keys()
    assert not {"necklace.necks.focal", "necklace.plotting", "necklace.tracking.wandb_logger"} & version.keys()
