import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn import functional

import necklace.diagnostics.pictures
import necklace.inference.trained_run
from necklace.backbones import CifarResNet
from necklace.cli.main import main
from necklace.diagnostics.pictures import SHOWN, draw_run, layer_maps, open_run, spaced
from necklace.heads import Gap
from necklace.model import Model, build_model
from necklace.necks import FocalModulation
from necklace.record import Record, read_record, unpack_bits, write_record
from necklace.run.runner import run
from tests.conftest import SMALL, spec_of
from tests.test_diagnostics_plots import HOSTILE
from tests.test_run_runner import voc_folder

ROOT = Path(__file__).parents[1]
Train = Callable[..., tuple[Record, Path]]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A focal run of 24-pixel images that was asked for its pictures; not to be changed."""
    chosen = [
        *SMALL,
        "neck=focal",
        "data.eval_sizes=[16,32]",
        "callbacks.pictures=true",
        f"outputs={tmp_path_factory.mktemp('focal')}",
    ]
    record = run(spec_of(chosen))
    return Path(record.config["outputs"]) / "runs" / record.name


@pytest.fixture
def finished(trained: Path, tmp_path: Path) -> Path:
    """A copy of it, without pictures."""
    return Path(shutil.copytree(trained, tmp_path / trained.name, ignore=shutil.ignore_patterns("pictures")))


def inspect(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["necklace", "inspect", str(folder)])
    main()


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "pictures").iterdir()}


def numbers(folder: Path) -> dict:
    return json.loads((folder / "pictures" / "pictures.json").read_text())


def test_pictures_at_the_end_of_a_run_are_those_of_necklace_inspect(
    trained: Path, finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inspect(finished, monkeypatch)
    at_the_end = files(trained)
    assert files(finished) == at_the_end
    names = ["receptive_field.png", "gates.png", "confusion.png", "sizes.png"]
    assert sorted(at_the_end) == sorted([*names, "pictures.json"])
    for name in names:
        assert Image.open(io.BytesIO(at_the_end[name])).width == 920
    said = capsys.readouterr().out
    assert f"{finished / 'pictures'}: {', '.join(names)}" in said
    assert "theoretical receptive field is 25 pixels wide, a radius of 12.5" in said
    assert "contributions in neck after training: level1 k3 " in said


def test_the_numbers_are_those_of_the_record(trained: Path) -> None:
    record, found = read_record(trained / "record.json"), numbers(trained)
    counts = torch.tensor(found["confusion"]["counts"])
    assert found["confusion"]["split"] == "test"
    assert found["confusion"]["classes"] == record.data["classes"]
    assert int(counts.sum()) == record.data["images"]["test"] == 30
    assert counts.diagonal().sum() == unpack_bits(record.test_correct or "", 30).sum()
    assert int(counts.diagonal().sum()) / 30 == pytest.approx(record.metrics["test/acc"], abs=1e-6)
    labels = open_run(trained).data.splits["test"].labels
    assert counts.sum(1).tolist() == labels.bincount(minlength=10).tolist()
    values = [record.metrics["test/acc@16"], record.metrics["test/acc@32"]]
    assert found["by_size"] == {"metric": "test/acc", "sides": [16, 32], "values": values}
    assert found["run"] == record.name
    assert found["weights_hash"] == record.weights_hash
    assert found["notes"] == []


def test_the_fields_keep_within_the_theory(trained: Path) -> None:
    field = numbers(trained)["receptive_field"]
    assert (field["theoretical"], field["mass"], field["size"]) == (25, 0.95, [24, 24])
    for stage in ("before", "after"):
        assert 0 < 2 * field["backbone"][stage]["radius"] <= field["backbone"][stage]["extent"] <= 24
        assert field["backbone+neck"][stage]["extent"] == 24  # the global context is the whole image


def test_asking_for_pictures_makes_no_other_run(trained: Path, train_run: Train) -> None:
    record, folder = train_run("neck=focal", "data.eval_sizes=[16,32]")
    assert folder.name == trained.name
    assert record.weights_hash == read_record(trained / "record.json").weights_hash
    assert not (folder / "pictures").exists()


def test_a_picture_that_fails_leaves_the_run_finished(
    train_run: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(folder: Path, **_: Any) -> list[str]:
        raise OSError("no space left on device")

    monkeypatch.setattr(necklace.diagnostics.pictures, "draw_run", fail)
    _, folder = train_run("callbacks.pictures=true", "epochs=1")
    assert (folder / "record.json").exists()
    assert not (folder / "FAILED").exists()
    said = capsys.readouterr().out
    assert f"pictures: no space left on device; the run itself is finished, and necklace inspect {folder}" in said


def test_initial_weights_that_cannot_be_built_again_are_left_out(finished: Path) -> None:
    write_record(replace(read_record(finished / "record.json"), initial_hash="0" * 64), finished / "record.json")
    lines = draw_run(finished)
    (note,) = numbers(finished)["notes"]
    assert note.startswith("the initial weights could not be built again")
    assert lines.count(f"note: {note}") == 1
    assert list(numbers(finished)["receptive_field"]["backbone"]) == ["after"]
    assert numbers(finished)["contributions"]["neck"].keys() == {"contexts", "after"}


def test_without_a_focal_layer_the_rest_is_drawn(train_run: Train) -> None:
    _, folder = train_run("neck=sppf", "epochs=1")
    (folder / "pictures").mkdir()
    for name in ("gates.png", "sizes.png", "mine.png"):
        (folder / "pictures" / name).write_bytes(b"of an earlier time")
    lines = draw_run(folder)
    assert sum("no focal layer in the model" in line for line in lines) == 1
    assert sorted(files(folder)) == ["confusion.png", "mine.png", "pictures.json", "receptive_field.png"]
    assert numbers(folder)["contributions"] == {}
    field = numbers(folder)["receptive_field"]
    assert field["backbone+neck"]["before"]["extent"] > field["backbone"]["before"]["radius"]


def test_all_runs_show_the_same_images(trained: Path, train_run: Train) -> None:
    record, folder = train_run("neck=none", "seed=3", "epochs=1", "callbacks.pictures=true", "data.eval_sizes=[16,32]")
    images = numbers(folder)["images"]
    assert images == numbers(trained)["images"]
    assert len(images) == record.data["images"]["val"] == len(set(images)) > SHOWN
    assert "backbone+neck" not in numbers(folder)["receptive_field"]


def test_images_of_all_shapes_and_several_classes_are_drawn(tmp_path: Path) -> None:
    root = voc_folder(tmp_path / "voc")
    small = [text for text in SMALL if "data." not in text and "batch" not in text]
    chosen = [*small, f"outputs={tmp_path}", "data=voc", "task=multilabel", f"data.root={root}", "batch_size=4"]
    chosen += ["neck=focal_block", "epochs=1", "callbacks.pictures=true", "data.eval_sizes=[32]"]
    record = run(spec_of(chosen))
    folder = tmp_path / "runs" / record.name
    assert sorted(files(folder)) == ["gates.png", "pictures.json", "receptive_field.png", "sizes.png"]
    found = numbers(folder)
    assert list(found["contributions"]) == ["neck.modulation"]
    assert found["confusion"] is None
    assert found["by_size"]["metric"] == "test/map"
    assert [note for note in found["notes"] if "several classes" in note]


def test_hostile_class_names_are_data_and_nothing_else(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = necklace.inference.trained_run.datamodule_of
    names = (*HOSTILE, "plain")
    assert len(names) == 10

    def renamed(plain: dict):
        data = load(plain)
        data.classes = names
        return data

    monkeypatch.setattr(necklace.inference.trained_run, "datamodule_of", renamed)
    draw_run(finished)
    assert numbers(finished)["confusion"]["classes"] == list(names)
    assert (finished / "pictures" / "pictures.json").read_bytes().isascii()
    assert sorted(files(finished)) == ["confusion.png", "gates.png", "pictures.json", "receptive_field.png", "sizes.png"]


def test_a_folder_that_cannot_be_written_is_named(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (finished / "pictures").write_text("a file in the way, as root may write everywhere")
    with pytest.raises(SystemExit, match=r"error: .*File exists.*pictures"):
        inspect(finished, monkeypatch)


def focal_model(**options: Any) -> Model:
    return build_model(
        lambda: CifarResNet(8, 4), lambda channels: FocalModulation(channels, **options), Gap, 3, None, seed=0
    ).eval()


@pytest.fixture
def model() -> Model:
    return focal_model()


def test_contributions_are_the_norms_of_gated_contexts(model: Model) -> None:
    images = [torch.randn(1, 3, 20 + 8 * k, 28, generator=torch.Generator().manual_seed(k)) for k in range(3)]
    found = layer_maps(model, images, [0, 2])["neck"]
    neck = model.neck
    assert isinstance(neck, FocalModulation)
    totals = torch.zeros(3)
    for number, image in enumerate(images):
        with torch.no_grad():
            out = neck.f(model.backbone(image))
            z, gates = out[:, 16:32], out[:, 32:]
            contexts = []
            for layer in neck.focal_layers:
                z = functional.gelu(layer[0](z))  # pyright: ignore[reportIndexIssue]
                contexts.append(z)
            contexts.append(functional.gelu(z.mean((2, 3), keepdim=True)).expand_as(z))
            weighted = [context * gates[:, k : k + 1] for k, context in enumerate(contexts)]
            modulator = neck.h(sum(weighted))
        totals += torch.tensor([float((w**2).sum(1).sqrt().mean()) for w in weighted])
        if number in (0, 2):
            place = [0, 2].index(number)
            assert torch.allclose(found.gates[place], gates[0], atol=1e-6)
            assert torch.allclose(found.modulators[place], (modulator**2).sum(1).sqrt()[0], atol=1e-5)
    assert found.shares == pytest.approx((totals / totals.sum()).tolist(), rel=1e-5)
    assert len(found.gates) == len(found.modulators) == 2
    model.mirror, model.shift = True, 2  # the pictures are of the images themselves
    assert layer_maps(model, images, [0, 2])["neck"].shares == found.shares


def test_gates_set_by_hand_are_shown_as_set(model: Model) -> None:
    neck = model.neck
    assert isinstance(neck, FocalModulation)
    assert neck.f.bias is not None
    with torch.no_grad():
        neck.f.weight[32:] = 0
        neck.f.bias[32:] = torch.tensor([-2.0, 0.0, 0.0])
    found = layer_maps(model, [torch.randn(1, 3, 24, 24)], [0])["neck"]
    assert found.shares == [1.0, 0.0, 0.0]
    assert torch.equal(found.gates[0], torch.tensor([-2.0, 0.0, 0.0])[:, None, None].expand(3, 6, 6))


def test_nothing_stays_hooked_and_a_nan_names_its_level(model: Model) -> None:
    image = torch.randn(1, 3, 24, 24)
    layer_maps(model, [image], [0])
    assert not model.neck._forward_pre_hooks
    neck = model.neck
    assert isinstance(neck, FocalModulation)
    assert neck.f.bias is not None
    with torch.no_grad():
        neck.f.bias[33] = float("nan")
    with pytest.raises(ValueError, match="layer neck, level2 k5: gate or context is NaN or infinite"):
        layer_maps(model, [image], [0])
    assert not neck._forward_pre_hooks


def test_without_gating_contexts_count_as_they_are() -> None:
    found = layer_maps(focal_model(gating=False), [torch.randn(1, 3, 24, 24)], [0])["neck"]
    assert found.gates == []
    assert sum(found.shares) == pytest.approx(1)
    assert min(found.shares) > 0


def test_places_are_spaced_evenly_and_from_the_start() -> None:
    assert spaced(100, 4) == [0, 25, 50, 75]
    assert spaced(3, SHOWN) == [0, 1, 2]
    assert spaced(1, 32) == [0]
    for total in range(1, 80):
        places = spaced(total, 32)
        assert len(set(places)) == len(places) == min(total, 32)
        assert places == sorted(places)
        assert places[-1] < total
