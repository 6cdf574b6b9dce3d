import gc
import math
import weakref
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytorch_lightning as pl
import timm.models.focalnet as timm_focalnet
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from rich.console import Console
from torch import nn

import necklace.assembly
from necklace.assembly import datamodule_of, model_of
from necklace.data.datamodule import Batch
from necklace.gate_stats import BINS, DEAD, EDGES, LayerGates, _bins, quantile, share_below
from necklace.gates import Gates, GateWatch, _for_wandb, context_names, focal_layers, focal_parts
from necklace.history import History
from necklace.model import build_model
from necklace.necks import FocalBlock, FocalModulation
from necklace.record import Record, read_record
from necklace.run import RunFailed, run
from necklace.tasks import Classification
from tests.conftest import SMALL, compose_train
from tests.test_train import TWO, inspect, train

Train = Callable[..., tuple[Record, Path]]
CLASSES = ("ant", "bee", "cat")
SIZES = ((12, 12), (12, 12), (12, 12), (8, 14), (6, 6))
COUNTS = (5, 5, 3, 4, 1)  # the last batch of 12x12 is not full
EXACT = ("mean", "sd", "min", "max", "negative", "mass", "entropy", "contribution", "contribution_share")

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "default": lambda: FocalModulation(8),
    "three levels, normalised": lambda: FocalModulation(8, focal_level=3, normalize_modulator=True),
    "no local level": lambda: FocalModulation(8, focal_level=0),
    "no global context": lambda: FocalModulation(8, global_context=False),
    "one context": lambda: FocalModulation(8, focal_level=1, global_context=False),
    "no gating": lambda: FocalModulation(8, gating=False),
    "global alone, no gating": lambda: FocalModulation(8, focal_level=0, gating=False),
    "top": lambda: FocalModulation(8, aggregate="top"),
    "add": lambda: FocalModulation(8, interaction="add", context="avg_pool"),
    "dw_convnet": lambda: FocalModulation(
        8, interaction="dw_convnet", gating=False, global_context=False, aggregate="top", use_postln_in_modulation=True
    ),
    "block": lambda: FocalBlock(8),
    "timm": lambda: timm_focalnet.FocalModulation(8, focal_window=3, focal_level=2, normalize_modulator=True),
}


def batches(multilabel: bool = False) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(3)
    made = []
    for (height, width), count in zip(SIZES, COUNTS, strict=True):
        images = torch.randn(count, 3, height, width, generator=generator) * 3
        labels = torch.randint(0, 2, (count,), generator=generator)  # no cat: a class without an image has no row
        if multilabel:
            labels = torch.randint(-1, 2, (count, len(CLASSES)), generator=generator, dtype=torch.int8)
        made.append((images, labels))
    return made


def network(layer: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), layer()).eval()


def watched(model: nn.Module, data: Sequence[tuple[torch.Tensor, torch.Tensor]], **references: float) -> dict[str, LayerGates]:
    with GateWatch(model, len(CLASSES), references) as watch, torch.no_grad():
        for images, labels in data:
            watch.batch(images, labels)
            model(images)
    return watch.layers


def stored(model: nn.Module, layer: nn.Module, data: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> list[dict[str, Any]]:
    """Each image by itself: its gates, contributions [n, positions], classes and size, from activations that are kept."""
    images = []
    for x, labels in data:
        kept: list[torch.Tensor] = []
        hook = layer.register_forward_hook(lambda module, args, output, kept=kept: kept.append(args[0]))
        with torch.no_grad():
            model(x)
            parts = focal_parts(layer, kept[0])
        hook.remove()
        for index in range(len(x)):
            height, width = (parts.contexts[0] if parts.gates is None else parts.gates).shape[2:]
            gates = None if parts.gates is None else parts.gates[index].double().numpy().reshape(-1, height * width)
            contributions = []
            for n, context in enumerate(parts.contexts):
                gate = 1.0 if parts.gates is None else parts.gates[index, n].double().numpy()
                norm = np.sqrt(((context[index].double().numpy() * gate) ** 2).sum(0))
                contributions.append(np.broadcast_to(norm, (height, width)).flatten())
            present = {labels[index].item()} if labels.ndim == 1 else set((labels[index] == 1).nonzero().flatten().tolist())
            images.append(
                {"gates": gates, "contributions": np.stack(contributions), "classes": present, "size": tuple(x.shape[2:])}
            )
    return images


def brute_force(images: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The figures of each context, by plain numpy over all positions at once."""
    contributions = np.concatenate([image["contributions"] for image in images], 1)
    mean = contributions.mean(1)
    rows: list[dict[str, Any]] = [
        {"contribution": mean[n], "contribution_share": mean[n] / mean.sum(), "count": contributions.shape[1]}
        for n in range(len(mean))
    ]
    if images[0]["gates"] is None:
        return rows
    gates = np.concatenate([image["gates"] for image in images], 1)
    size = np.abs(gates)
    shares = size / size.sum(0)
    entropy = -(shares * np.log(shares)).sum(0).mean()
    for n, row in enumerate(rows):
        row |= {"mean": gates[n].mean(), "sd": gates[n].std(), "min": gates[n].min(), "max": gates[n].max()}
        row |= {"negative": (gates[n] < 0).mean(), "mass": size[n].sum() / size.sum(), "entropy": entropy, "values": gates[n]}
    return rows


def splits(images: Sequence[dict[str, Any]]) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    yield "all", "", list(images)
    for number, name in enumerate(CLASSES):
        yield "class", name, [image for image in images if number in image["classes"]]
    for height, width in sorted({image["size"] for image in images}):
        yield "size", f"{height}x{width}", [image for image in images if image["size"] == (height, width)]


def assert_within_bin(found: float, values: np.ndarray, q: float) -> None:
    exact = np.quantile(values, q, method="inverted_cdf")
    assert abs(found - exact) <= max(abs(exact) / 16, 2.0**-24)


@pytest.mark.parametrize("multilabel", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_statistics_equal_brute_force_over_stored_activations(name: str, multilabel: bool) -> None:
    model, data = network(LAYERS[name]), batches(multilabel)
    ((layer_name, layer),) = focal_layers(model).items()
    reference = 20.0  # makes a good part of the gates "dead"
    found = watched(model, data, **{layer_name: reference})[layer_name].rows(CLASSES)
    images = stored(model, layer, data)
    expected = [(split, value, own) for split, value, own in splits(images) if own]
    assert [(row["split"], row["value"]) for row in found[:: len(context_names(layer))]] == [e[:2] for e in expected]
    assert ("cat" in {row["value"] for row in found}) == multilabel
    rows = iter(found)
    for _, _, own in expected:
        for context, brute in zip(context_names(layer), brute_force(own), strict=True):
            row = next(rows)
            assert row["context"] == context
            assert (row["images"], row["count"], row["nonfinite"]) == (len(own), brute["count"], 0)
            for figure in EXACT:
                assert row[figure] == (pytest.approx(brute[figure], rel=1e-5, abs=1e-7) if figure in brute else None), figure
            if "values" in brute:
                assert row["dead"] == pytest.approx((np.abs(brute["values"]) < DEAD * reference).mean(), abs=1e-12)
                for q in (5, 25, 50, 75, 95):
                    assert_within_bin(row[f"q{q:02}"], brute["values"], q / 100)
            else:
                assert row["dead"] is row["q50"] is None


def test_the_first_pass_measures_dead_gates_against_its_own_rms() -> None:
    model, data = network(lambda: FocalModulation(8, focal_level=1)), batches()
    layer = model.get_submodule("1")
    assert isinstance(layer, FocalModulation)
    with torch.no_grad():
        layer.f.weight[-1] *= 1e-5  # the global gate: all of it dead
        layer.f.bias[-1] = 0.0  # pyright: ignore[reportOptionalSubscript]
    first = watched(model, data)["1"]
    rms = math.sqrt(np.concatenate([image["gates"] for image in stored(model, layer, data)], 1).__pow__(2).mean())
    assert first.rms() == pytest.approx(rms, rel=1e-9)
    local, everywhere = [row["dead"] for row in first.rows(CLASSES)[:2]]
    assert everywhere == 1.0
    later = watched(model, data, **{"1": rms})["1"].rows(CLASSES)
    assert later[1]["dead"] == 1.0
    values = np.abs(np.concatenate([image["gates"][0] for image in stored(model, layer, data)]))
    assert (values < DEAD * rms * 15 / 16).mean() <= local <= (values < DEAD * rms * 17 / 16).mean()


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=40), st.sampled_from([0.0, 0.05, 0.3, 0.5, 0.95, 1.0]))
def test_bins_hold_their_values_and_quantiles_lie_in_the_right_one(numbers: list[float], q: float) -> None:
    values = torch.tensor(numbers, dtype=torch.float64)
    single = values.float().double().numpy()  # a double within a rounding of an edge may fall to either side of it
    bins = _bins(values).numpy()
    assert (single >= np.where(bins == 0, -np.inf, EDGES[bins])).all()
    assert (single <= np.where(bins == BINS - 1, np.inf, EDGES[bins + 1])).all()
    counts = np.bincount(bins, minlength=BINS)
    found = quantile(counts, q, single.min(), single.max())
    exact = np.quantile(single, q, method="inverted_cdf")
    if abs(exact) < 2.0**16:
        assert abs(found - exact) <= max(abs(exact) / 16, 2.0**-23)
    assert single.min() <= found <= single.max()
    magnitude = float(EDGES[700])
    assert share_below(counts, magnitude) == pytest.approx(((bins >= BINS - 700) & (bins < 700)).mean(), abs=1e-12)


def test_edges_are_a_sixteenth_of_an_octave_apart() -> None:
    positive = EDGES[len(EDGES) // 2 :]
    assert (positive[0], positive[-1]) == (2.0**-24, 2.0**16)
    assert all(0.03 < b / a - 1 <= 1 / 16 for a, b in pairwise(positive))


@pytest.mark.parametrize("multilabel", [False, True])
def test_the_states_of_two_ranks_merge_to_that_of_one(multilabel: bool) -> None:
    model, data = network(lambda: FocalModulation(8)), batches(multilabel)
    whole = watched(model, data, **{"1": 0.5})["1"]
    # Images go round the ranks, and one of them never sees an image of 6x6.
    parts = [[(x[rank::2], y[rank::2]) for x, y in data if len(x) > rank] for rank in (0, 1)]
    first, second = (watched(model, part, **{"1": 0.5})["1"] for part in parts)
    assert "6x6" not in {row["value"] for row in second.rows(CLASSES)}
    second.merge(first)
    for mine, one in zip(second.rows(CLASSES), whole.rows(CLASSES), strict=True):
        assert mine.keys() == one.keys()
        for name in one:
            assert mine[name] == (pytest.approx(one[name], rel=1e-5) if isinstance(one[name], float) else one[name]), name
    for mine, one in zip(second.histograms().values(), whole.histograms().values(), strict=True):
        assert mine.sum() == one.sum()


def test_hand_set_weights_have_the_mass_that_the_formula_gives() -> None:
    gates, context = [3.0, -1.0, 0.5], 2.0
    layer = FocalModulation(4, context="none")
    with torch.no_grad():
        layer.f.weight.zero_()
        layer.f.bias.copy_(torch.tensor([0.0] * 4 + [context] * 4 + gates))  # pyright: ignore[reportOptionalMemberAccess]
    with GateWatch(layer, 1) as watch, torch.no_grad():
        watch.batch(torch.zeros(2, 3, 6, 6), torch.zeros(2, dtype=torch.long))
        layer(torch.randn(2, 4, 3, 3))
    rows = watch.layers[""].rows(["thing"])[:3]
    shares = [3 / 4.5, 1 / 4.5, 0.5 / 4.5]
    gelu: Callable[[float], float] = lambda x: x * 0.5 * (1 + math.erf(x / math.sqrt(2)))  # noqa: E731
    levels = [gelu(context), gelu(gelu(context)), gelu(gelu(gelu(context)))]
    norms = [abs(gate) * level * math.sqrt(4) for gate, level in zip(gates, levels, strict=True)]
    for row, gate, share, norm in zip(rows, gates, shares, norms, strict=True):
        assert row["mass"] == pytest.approx(share, rel=1e-6)
        assert row["entropy"] == pytest.approx(-sum(s * math.log(s) for s in shares), rel=1e-6)
        assert (row["mean"], row["sd"], row["min"], row["max"], row["q50"]) == (gate, 0.0, gate, gate, gate)
        assert (row["negative"], row["dead"], row["count"]) == (float(gate < 0), 0.0, 18)
        assert row["contribution"] == pytest.approx(norm, rel=1e-6)
        assert row["contribution_share"] == pytest.approx(norm / sum(norms), rel=1e-6)


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


def test_every_focal_layer_of_a_timm_backbone_is_watched(tmp_path: Path) -> None:
    options = "+backbone.options={focal_levels: [2, 3, 1, 1]}"
    small = [text for text in SMALL if not text.startswith("backbone")]
    chosen = [*small, "backbone=timm", "backbone.stage=1", options, "neck=focal", "epochs=1", f"outputs={tmp_path}"]
    record = run(*compose_train(chosen), chosen)
    assert record.gates is not None
    layers = record.gates["layers"]
    assert [len(layers[name]) for name in sorted(layers)] == [3, 3, 4, 4, 3]
    assert sorted(layers)[-1] == "neck"
    assert all(name.startswith("backbone.network.") for name in sorted(layers)[:4])
    table = pq.read_table(tmp_path / "runs" / record.cell / "gates.parquet")
    assert set(table["layer"].to_pylist()) == set(layers)


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
    # isinstance would ask for the class of every object, which makes deprecated ones of torch's complain.
    return [item for item in gc.get_objects() if issubclass(type(item), torch.Tensor)]


class Probe(pl.LightningModule):
    """Runs a focal layer on its batches and learns something else."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.neck, self.scale = layer, nn.Parameter(torch.ones(()))
        self.fail_at: int | None = None

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        if self.current_epoch == self.fail_at:
            raise RuntimeError("the power went out")
        return self.scale**2

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.neck(batch.images)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.scale], 0.1)


class ProbeBatches:
    """A list would be taken for several loaders."""

    def __len__(self) -> int:
        return len(COUNTS)

    def __iter__(self) -> Iterator[Batch]:
        zero = torch.tensor(0)
        return (Batch(x, y, y, zero, zero) for x, y in batches())


def fit(probe: Probe, gates: Gates, folder: Path, epochs: int = 1) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=[gates],
    )
    trainer.fit(probe, ProbeBatches(), ProbeBatches())
    return trainer


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec", "ignore:.*logging interval")
def test_a_gate_that_is_no_number_is_named_counted_and_marked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = FocalModulation(3)
    with torch.no_grad():
        layer.f.weight[-2] = 0.0
        layer.f.bias[-2] = math.inf  # pyright: ignore[reportOptionalSubscript]
    probe, gates = Probe(layer), Gates(1, tmp_path / "gates.parquet", CLASSES, Console(soft_wrap=True))
    trainer = fit(probe, gates, tmp_path, epochs=2)
    gates.chosen = 0, 5
    trainer.validate(probe, ProbeBatches(), verbose=False)
    positions = sum(count * height * width for count, (height, width) in zip(COUNTS, SIZES, strict=True))
    told = f"neck, level2 k5: NaN or infinite at {positions} positions of val at step 5 (epoch 0)"
    assert capsys.readouterr().out.count(told) == 1
    summary = gates.summary()
    assert summary is not None
    mark = {"layer": "neck", "context": "level2 k5", "epoch": 0, "step": 5, "positions": positions}
    assert summary["nonfinite"] == [mark]
    assert summary["layers"]["neck"]["level2 k5"]["mean"] is None
    others = [summary["layers"]["neck"][name] for name in ("level1 k3", "global")]
    assert all(math.isfinite(figures["mean"]) for figures in others)
    assert sum(figures["mass"] for figures in others) == pytest.approx(1, abs=1e-4)
    probe.fail_at = 0
    with pytest.raises(RuntimeError, match="the power went out") as error:
        fit(probe, gates, tmp_path)
    assert any(told in note for note in error.value.__notes__)


def hooked(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_hooks_are_gone_after_fit_and_after_an_exception(train_cell: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    models: list[nn.Module] = []
    during: list[int] = []

    def build(*arguments: Any) -> nn.Module:
        models.append(build_model(*arguments))
        return models[-1]

    monkeypatch.setattr(necklace.assembly, "build_model", build)
    record, _ = train_cell("neck=focal", "epochs=1")
    assert record.gates is not None
    assert hooked(models[0]) == 0

    def stumble(self: Classification, batch: Batch, batch_idx: int) -> None:
        during.append(hooked(self.model))
        raise OSError("unplugged")

    monkeypatch.setattr(Classification, "validation_step", stumble)
    with pytest.raises(RunFailed, match="unplugged"):
        train_cell("neck=focal_block", "epochs=1")
    assert during == [1]
    assert hooked(models[1]) == 0


def test_a_run_keeps_what_its_gates_do_and_is_not_changed_by_it(train_cell: Train, tmp_path: Path) -> None:
    record, folder = train_cell("neck=focal", "epochs=3", "callbacks.gates=2")
    unwatched, other = train_cell("neck=focal", "epochs=3", "callbacks.gates=0", outputs=tmp_path / "unwatched")
    assert record.weights_hash == unwatched.weights_hash
    assert record.cell == unwatched.cell
    assert record.figures == unwatched.figures
    assert unwatched.gates is None
    assert not (other / "gates.parquet").exists()
    rows = pq.read_table(folder / "gates.parquet").to_pylist()
    passes = [(row["weights"], row["epoch"]) for row in rows]
    assert list(dict.fromkeys(passes)) == [("epoch", 0), ("epoch", 2), ("chosen", record.best_epoch)]
    assert record.gates is not None
    assert record.gates["nonfinite"] == []
    assert read_record(folder / "record.json").gates == record.gates
    assert_chosen_weights(folder, ["neck=focal", *SMALL], record)
    chosen = [(row["split"], row["value"]) for row in rows if row["context"] == "global" and row["weights"] == "chosen"]
    assert chosen == [("all", ""), *(("class", name) for name in record.data["classes"]), ("size", "24x24")]


def assert_chosen_weights(folder: Path, chosen: list[str], record: Record) -> None:
    """The record's figures are those of one process with the chosen weights, over all of val."""
    config, _ = compose_train([text for text in chosen if "trainer" not in text])
    plain: Any = OmegaConf.to_container(config, resolve=True)
    data = datamodule_of(plain)
    model = model_of(config, data)
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in state.items()})
    model.eval()
    with GateWatch(model, len(data.classes)) as watch, torch.no_grad():
        for batch in data.eval_batches("val"):
            prepared = data.prepare(batch, augment=False)
            watch.batch(prepared.images, prepared.labels)
            model(prepared.images)
    expected = watch.layers["neck"].rows(data.classes)
    rows = [row for row in pq.read_table(folder / "gates.parquet").to_pylist() if row["weights"] == "chosen"]
    assert {row["epoch"] for row in rows} == {record.best_epoch}
    for row, other in zip(rows, expected, strict=True):
        for name, value in other.items():
            if name != "dead":  # here there is no pass before
                assert row[name] == (pytest.approx(value, rel=1e-4, abs=1e-6) if isinstance(value, float) else value), name
    assert record.gates is not None
    for row in expected[:3]:
        figures = record.gates["layers"]["neck"][row["context"]]
        assert figures["contribution"] == pytest.approx(row["contribution"], rel=1e-4)
        assert figures["q50"] == pytest.approx(row["q50"], rel=1e-4, abs=1e-6)


def test_a_resumed_run_has_the_rows_of_an_undisturbed_one(
    train_cell: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["neck=focal", "epochs=4", "callbacks.gates=1"]
    undisturbed, folder = train_cell(*options, outputs=tmp_path / "undisturbed")

    def stumble(self: History, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 2:  # after the pass, before the checkpoint
            raise OSError("unplugged")
        ended(self, trainer, pl_module)

    ended = History.on_train_epoch_end
    monkeypatch.setattr(History, "on_train_epoch_end", stumble)
    with pytest.raises(RunFailed, match="unplugged"):
        train_cell(*options)
    monkeypatch.undo()
    resumed, other = train_cell(*options)
    assert resumed.resumed == 1
    assert resumed.gates == undisturbed.gates
    assert pq.read_table(other / "gates.parquet").equals(pq.read_table(folder / "gates.parquet"))


def test_without_a_focal_layer_one_line_says_so(train_cell: Train, capsys: pytest.CaptureFixture[str]) -> None:
    record, folder = train_cell("neck=sppf")
    assert record.gates is None
    assert not (folder / "gates.parquet").exists()
    assert capsys.readouterr().out.count("gates: there is no focal layer in the model") == 1


def test_gates_that_broke_the_loss_are_named(train_cell: Train) -> None:
    options = ["neck=focal", "optimizer.lr=1e30", "schedule=constant", "epochs=1", "callbacks.gates=5"]
    with pytest.raises(RunFailed, match=r"the training loss is (nan|inf).*\n(?:.*\n)*gates: neck, .*: NaN or infinite"):
        train_cell(*options)


def test_a_pass_comes_with_the_first_validation_that_is_due(train_cell: Train) -> None:
    record, folder = train_cell("neck=focal", "epochs=6", "callbacks.gates=3", "+trainer.check_val_every_n_epoch=2")
    assert record.best_epoch in (1, 3, 5)
    rows = pq.read_table(folder / "gates.parquet").to_pylist()
    # Val is judged after epochs 1, 3 and 5.
    assert sorted({row["epoch"] for row in rows if row["weights"] == "epoch"}) == [1, 5]


def test_a_class_whose_name_is_no_text_has_rows(tmp_path: Path) -> None:
    gates = Gates(1, tmp_path / "gates.parquet", ["inv\udcff", "b"], Console(quiet=True))
    assert pa.Table.from_pylist([{"value": name} for name in gates.classes])["value"].to_pylist() == ["inv\\udcff", "b"]


@pytest.mark.parametrize("every", [-1, 1.5, "true"])
def test_an_interval_that_is_no_number_of_epochs_is_refused(train_cell: Train, every: Any) -> None:
    with pytest.raises(RunFailed, match=r"callbacks\.gates=.*: must be a number of epochs, or 0 for none"):
        train_cell("neck=focal", f"callbacks.gates={every}")


def test_wandb_gets_scalars_histograms_and_the_table() -> None:
    layers = watched(network(LAYERS["default"]), batches())
    rows = [{"weights": "epoch", "epoch": 4, "step": 7, "layer": "1"} | row for row in layers["1"].rows(CLASSES)]
    logged = _for_wandb(layers, rows, 4)
    assert logged["epoch"] == 4
    assert sum(logged[f"gates/1/{name}/mass"] for name in layers["1"].contexts) == pytest.approx(1)
    assert logged["gates/1/entropy"] == rows[0]["entropy"]
    histogram = logged["gates/1/global/gate"]
    assert sum(histogram.histogram) == pytest.approx(rows[0]["count"], rel=1e-9)
    assert len(logged["gates/table"].data) == len(rows)
    assert sum(isinstance(value, float) for value in logged.values()) == 7


@pytest.mark.slow
def test_two_processes_gather_the_gates_of_every_image_once(tmp_path: Path) -> None:
    """A real gloo group over images of many sizes; its figures are those of one process with the same weights."""
    sizes = ["data/sizes=native", "data.sizes.max_side=48", "data.source.test=33", "data.source.train=150"]
    small = [text for text in SMALL if "source" not in text and text != "logger=none"]
    result = train("neck=focal", *small, *sizes, *TWO, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (path,) = tmp_path.glob("outputs/runs/*/record.json")
    record = read_record(path)
    assert record.world_size == 2
    assert_chosen_weights(path.parent, ["neck=focal", *small, *sizes, "logger=none"], record)
    (run,) = path.parent.glob("wandb/offline-run-*/run-*.wandb")
    summary = inspect(run)["summary"]
    assert {"gates/neck/entropy", "gates/neck/global/mass", "gates/neck/level1 k3/contribution_share"} <= summary.keys()
