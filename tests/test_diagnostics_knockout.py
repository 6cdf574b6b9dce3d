"""Knockouts against models that are cut by hand."""

import copy
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from necklace.backbones import CifarResNet
from necklace.boxes.bootstrap import drops
from necklace.build import datamodule_of
from necklace.cli.inspection import main as inspect
from necklace.config import resolved
from necklace.data.datamodule import DataModule
from necklace.diagnostics import knockout
from necklace.diagnostics.knockout import changes_of, knock_out, knock_out_run
from necklace.diagnostics.knockout_metrics import Rights, value_of
from necklace.diagnostics.knockout_sites import Change, sites_of
from necklace.heads import Gap
from necklace.inference.trained_run import open_run
from necklace.model import Model, build_model
from necklace.necks import SPP, SPPF, FocalBlock, FocalModulation
from necklace.record import Record
from necklace.study.excerpts import read_knockout
from tests.conftest import SMALL, compose_train

CPU = torch.device("cpu")
MANY = ["data.val_fraction=0.5", "data.augment.flip=false"]


def data_of(*overrides: str) -> DataModule:
    return datamodule_of(resolved(compose_train([*SMALL, *MANY, *overrides])[0]))


@pytest.fixture(scope="module")
def data() -> DataModule:
    return data_of()


def model_of(neck: Callable[..., nn.Module], seed: int = 0) -> Model:
    model = build_model(partial(CifarResNet, 8, 4), neck, Gap, 10, (24, 24), seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # far from the start, so that a level makes a difference
        for name, parameter in model.named_parameters():
            if name.startswith(("neck", "head")) and parameter.ndim > 1:
                parameter.mul_(1 + 4 * torch.rand(parameter.shape, generator=generator))
    return model


def predictions(model: Model, data: DataModule) -> np.ndarray:
    """Whether each image of val is right, by the model's own forward."""
    correct = np.zeros(len(data.splits["val"]), bool)
    with torch.inference_mode():
        for batch in data.eval_batches("val"):
            batch = data.prepare(batch, augment=False)
            correct[batch.indices] = (model(batch.images).argmax(1) == batch.labels).numpy()
    return correct


def rights(measured: object) -> np.ndarray:
    assert isinstance(measured, Rights)
    return measured.correct


def gate_rows(layer: FocalModulation, level: int) -> int:
    return sum(layer.splits[:2]) + level


def cut(model: Model, levels: list[int]) -> Model:
    """A copy whose focal layer has gates of 0 for some levels, cut by hand in the weights of `f`."""
    model = copy.deepcopy(model)
    layer = next(module for module in model.modules() if isinstance(module, FocalModulation))
    with torch.no_grad():
        for level in levels:
            layer.f.weight[gate_rows(layer, level)] = 0
            assert layer.f.bias is not None
            layer.f.bias[gate_rows(layer, level)] = 0
    return model


@pytest.mark.parametrize(
    ("neck", "mirror", "shift"),
    [
        (partial(FocalModulation, focal_level=2), False, 1),
        (partial(FocalModulation, focal_level=2, normalize_modulator=True), True, 0),
        (partial(FocalModulation, focal_level=2, interaction="add", aggregate="top"), False, 0),
        (partial(FocalBlock, focal_level=2, layerscale=None), True, 1),
    ],
)
def test_a_silenced_level_is_a_level_cut_by_hand(
    neck: Callable[..., nn.Module], mirror: bool, shift: int, data: DataModule
) -> None:
    model = model_of(neck)
    model.mirror, model.shift = mirror, shift
    before = copy.deepcopy(model.state_dict())
    found = knock_out(model, data, "val/acc", 0, CPU)
    (site,) = found.sites
    assert np.array_equal(rights(found.base), predictions(model, data))
    differ = 0
    for change, measured in found.changed.items():
        if change.kind == "silenced":
            by_hand = predictions(cut(model, sorted(change.hit)), data)
            assert np.array_equal(rights(measured), by_hand), change
            differ += not np.array_equal(by_hand, rights(found.base))
    assert differ  # or the comparison would say nothing
    assert len(found.changed) == len(changes_of([site]))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(("neck", "sizes"), [(partial(SPP, kernel_sizes=(3, 5)), 3), (partial(SPPF, kernel_size=3), 4)])
def test_a_silenced_pool_is_a_pool_cut_by_hand(neck: Callable[..., nn.Module], sizes: int, data: DataModule) -> None:
    model = model_of(neck)
    found = knock_out(model, data, "val/acc", 0, CPU)
    width = model.neck.cv1.conv.out_channels  # pyright: ignore
    for change, measured in found.changed.items():
        if change.kind == "silenced":
            other = copy.deepcopy(model)
            with torch.no_grad():
                for place in change.hit:
                    other.neck.cv2.conv.weight[:, place * width : (place + 1) * width] = 0  # pyright: ignore
            assert np.array_equal(rights(measured), predictions(other, data)), change
    assert {change.kind for change in found.changed} == {"silenced", "mean", "positions"}
    assert len(found.sites[0].names) == sizes


def test_means_and_shuffles_are_those_of_the_whole_split(data: DataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one pass with all images of val at once, and with no room to keep the backbone's maps."""
    model = model_of(partial(FocalModulation, focal_level=2))
    found = knock_out(model, data, "val/acc", 3, CPU)
    images = torch.cat([data.prepare(batch, augment=False).images for batch in data.eval_batches("val")])
    labels = data.splits["val"].labels
    layer = model.neck
    assert isinstance(layer, FocalModulation)
    with torch.inference_mode():
        x = model.backbone(images)
        parts = layer.parts(x)
        assert parts.gates is not None
        for level in range(3):
            terms = [context * parts.gates[:, n : n + 1] for n, context in enumerate(parts.contexts)]
            terms[level] = terms[level].mean(0, keepdim=True)
            modulator = layer.h(sum(terms))
            right = model.head(layer.proj(parts.query * modulator)).argmax(1) == labels
            assert np.array_equal(rights(found.changed[Change("neck", "mean", frozenset([level]))]), right.numpy())
    monkeypatch.setattr(knockout, "ROOM", 0)
    again = knock_out(model, data, "val/acc", 3, CPU)
    other = knock_out(model, data, "val/acc", 4, CPU)
    assert all(np.array_equal(rights(again.changed[change]), rights(one)) for change, one in found.changed.items())
    shuffled = [change for change in found.changed if change.kind in ("positions", "images")]
    assert any(not np.array_equal(rights(other.changed[change]), rights(found.changed[change])) for change in shuffled)


def test_a_level_whose_gate_is_zero_everywhere_loses_nothing(data: DataModule) -> None:
    model = cut(model_of(partial(FocalModulation, focal_level=3)), [1])
    found = knock_out(model, data, "val/acc", 0, CPU)
    assert found.base is not None
    ends = drops(found.base, found.changed, "acc", np.random.default_rng(0), 200)
    dead = [change for change in found.changed if change.hit == {1}]
    assert len(dead) == 4
    for change in dead:
        assert value_of(found.base, "val/acc") - value_of(found.changed[change], "val/acc") == 0
        assert ends[change] == (0, 0)
    assert any(ends[change] != (0, 0) for change in found.changed)


def test_the_metric_and_its_resamples_are_those_of_the_images() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 40)
    one, two = (Rights(generator.random(40) < share, labels) for share in (0.8, 0.5))
    weights = generator.multinomial(40, np.full(40, 1 / 40), size=5)
    for weight, value, balanced in zip(
        weights, one.precisions("acc", weights)[0], one.precisions("balanced_acc", weights).T, strict=True
    ):
        images = np.repeat(np.arange(40), weight)
        assert value == pytest.approx(one.correct[images].mean())
        assert balanced == pytest.approx([one.correct[images[labels[images] == k]].mean() for k in range(3)])
    low, high = drops(one, {"two": two}, "acc", np.random.default_rng(1), 2000)["two"] or (0, 0)
    spread = 1.96 * (one.correct.astype(float) - two.correct).std() / 40**0.5
    drop = one.correct.mean() - two.correct.mean()
    assert (low, high) == pytest.approx((drop - spread, drop + spread), abs=0.04)


def test_a_layer_that_does_not_do_what_its_parts_say_is_named_and_left_alone(data: DataModule) -> None:
    class Odd(FocalModulation):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.proj(self.h(x))

    found = knock_out(model_of(Odd), data, "val/acc", 0, CPU)
    assert not found.sites
    assert not found.changed
    assert "not the sum of what its parts say" in found.notes[0]
    model = model_of(FocalModulation)
    model.neck.h = None  # pyright: ignore
    assert sites_of(model)[0] == []
    assert "without a layer `h`" in sites_of(model)[1][0]
    with pytest.raises(ValueError, match=r"this run has val/mine"):
        knock_out(model, data, "val/mine", 0, CPU)


def test_a_run_with_its_knockout_is_the_same_run(
    train_run: Callable[..., tuple[Record, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    focal = ["neck=focal", "trainer.precision=bf16-mixed", *MANY]
    plain, _ = train_run(*focal, outputs=tmp_path / "plain")
    record, folder = train_run(*focal, "callbacks.knockout=true", "logger=csv")
    assert (record.hash, record.weights_hash, record.metrics, record.gates) == (
        plain.hash,
        plain.weights_hash,
        plain.metrics,
        plain.gates,
    )
    first = (folder / "knockout.json").read_bytes()
    content = json.loads(first)
    assert content["value"] == pytest.approx(record.metrics["val/acc"], abs=1e-6)
    assert "knockout/neck/global/silenced" in (folder / "csv" / "metrics.csv").read_text()
    assert content["layers"]["neck"]["share"][2] == (record.gates or {})["layers"]["neck"]["global"]["contribution_share"]
    assert read_knockout(folder, record) == content
    inspect([str(folder), "--knockout"])
    assert (folder / "knockout.json").read_bytes() == first
    printed = capsys.readouterr().out
    assert "all but this one changed" in printed
    assert "what matters" in printed


def test_images_of_their_native_sizes_are_taken_with_those_of_their_size() -> None:
    native = data_of("data/sizes=native", "data.source.train=40")
    model = model_of(partial(FocalModulation, focal_level=1))
    found = knock_out(model, native, "val/acc", 0, CPU)
    assert np.array_equal(rights(found.base), predictions(model, native))
    silenced = found.changed[Change("neck", "silenced", frozenset([1]))]
    assert np.array_equal(rights(silenced), predictions(cut(model, [1]), native))
    assert found.alone == sum(len(step.indices) == 1 for step in native.sizes.eval_steps(native.splits["val"].shapes, 99, 0, 1))


def test_a_neck_without_levels_or_pools_has_nothing_to_knock_out(train_run: Callable[..., tuple[Record, Path]]) -> None:
    record, folder = train_run("callbacks.knockout=true")
    assert not (folder / "knockout.json").exists()
    assert "nothing to knock out" in knock_out_run(folder, "val/acc")["notes"][0]
    assert open_run(folder).record == record
