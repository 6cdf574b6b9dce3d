"""Streams that vary: what study.yaml says of them, and what runs then have in common."""

from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from necklace.build import datamodule_of, model_of
from necklace.identity import hash_identity
from necklace.model import move_last_place, weights_hash
from necklace.run.fit import task_of
from necklace.seeding import seed_of, varying_streams, without_seed
from necklace.study.plan import make_plan
from necklace.study.study_file import StudyFile, axes_of, read_study
from necklace.study.varying import seeds_of, vary_overrides
from tests.conftest import SMALL, spec_of

AUGMENTED = [*SMALL, "data.augment.crop_padding=2", "data.augment.flip=true", "data/sizes=multiscale"]


def facts(*overrides: str) -> dict[str, object]:
    """What each group of streams has decided in a run, before its first step."""
    spec = spec_of([*AUGMENTED, *overrides])
    data = datamodule_of(spec.resolved)
    (batch, *_) = data.train_dataloader()
    steps = [(step.indices.tolist(), step.size) for step in data._train_plan()[1]]
    same = batch._replace(images=data._sized["train"].gather(torch.arange(batch.total), (16, 16)))  # whatever the order
    return {
        "init": weights_hash(model_of(spec.config, data)),
        "order": steps,
        "augment": (data.prepare(same, augment=True).images.sum().item(), task_of(spec, data).seed),
    }


@pytest.mark.parametrize("group", ["init", "order", "augment"])
def test_a_group_of_streams_varies_alone(group: str) -> None:
    usual, other = facts("seed=3"), facts("seed=3", f"streams.{group}=7")
    assert {name for name in usual if usual[name] != other[name]} == {group}
    assert other[group] == facts("seed=7")[group]


def test_streams_at_their_defaults_are_what_runs_were_before() -> None:
    spec = spec_of([*SMALL, "seed=3"])
    assert "streams" not in spec.identity
    assert [seed_of({"seed": 3}, group) for group in ("init", "order", "augment")] == [3, 3, 3]
    moved = spec_of([*SMALL, "seed=3", "streams.order=3", "streams.rounding=2"])
    assert moved.identity["streams"] == {"order": 3, "rounding": 2}
    assert moved.hash != spec.hash
    assert {"streams.order=3", "streams.rounding=2"} <= set(moved.said)


def test_rounding_moves_each_weight_by_at_most_one_unit_in_the_last_place() -> None:
    spec = spec_of([*SMALL, "seed=3"])
    data = datamodule_of(spec.resolved)
    plain, moved, again, other = (model_of(OmegaConf.create(spec.resolved), data) for _ in range(4))
    for model, draw in ((moved, 1), (again, 1), (other, 2)):
        move_last_place(model, draw)
    assert weights_hash(moved) == weights_hash(again)
    assert len({weights_hash(model) for model in (plain, moved, other)}) == 3
    changed = total = 0
    for before, after in zip(plain.parameters(), moved.parameters(), strict=True):
        below, above = (torch.nextafter(before, torch.full_like(before, end)) for end in (-torch.inf, torch.inf))
        assert ((after == before) | (after == below) | (after == above)).all()
        assert (after[before == 0] == 0).all()
        changed, total = changed + int((after != before).sum()), total + int((before != 0).sum())
    assert changed / total == pytest.approx(2 / 3, abs=0.05)
    move_last_place(again, 0)
    assert weights_hash(moved) == weights_hash(again)


def test_what_varies_is_read_from_configs() -> None:
    def configs(**streams: object) -> list[dict[str, object]]:
        return [
            {"seed": s, "streams": {name: s if value == "seed" else value for name, value in streams.items()}} for s in (1, 2)
        ]

    assert varying_streams([{"seed": 1}, {"seed": 2}]) == ("init", "order", "augment")
    assert varying_streams(configs(init=None, order=0, augment=0, rounding=0)) == ("init",)
    assert varying_streams(configs(init=0, order=0, augment=0, rounding="seed")) == ("rounding",)
    assert varying_streams(configs(init=0, order="seed", augment=4, rounding=3)) == ("order",)
    rounded = [{"seed": s, "streams": {"rounding": s}} for s in (1, 2)]
    assert len({hash_identity(without_seed(identity)) for identity in rounded}) == 1
    assert hash_identity(without_seed({"seed": 1, "streams": {"rounding": 2}})) != hash_identity(without_seed(rounded[0]))


@pytest.mark.parametrize(
    ("given", "values", "overrides"),
    [
        ([2, 0], (2, 0), ()),
        ({"init": [0, 1], "order": 0, "augment": 5}, (0, 1), ("streams.order=0", "streams.augment=5")),
        ({"init": [1], "augment": [1]}, (1,), ("streams.order=0",)),
        (
            {"rounding": [1, 2]},
            (1, 2),
            ("streams.init=0", "streams.order=0", "streams.augment=0", "streams.rounding=${seed}"),
        ),
        ({"order": [4], "rounding": 3}, (4,), ("streams.init=0", "streams.augment=0", "streams.rounding=3")),
    ],
)
def test_seeds_name_what_varies(given: object, values: tuple[int, ...], overrides: tuple[str, ...]) -> None:
    seeds = seeds_of(given)
    assert (seeds.values, seeds.overrides) == (values, overrides)


def study_at(folder: Path, **content: object) -> StudyFile:
    """A study of one row, with other content."""
    usual = {"question": "q", "baseline": "none", "seeds": [1, 2], "rows": [{"neck": "none"}]}
    (folder / "study.yaml").write_text(yaml.safe_dump(usual | content))
    return read_study(folder / "study.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"seeds": {"init": 0}}, "seeds: {'init': 0}: must be a list"),
        ({"seeds": {"init": [0, 1], "order": [1, 0]}}, "the same for each that varies"),
        ({"seeds": {"weights": [0]}}, "some of init, order, augment, rounding"),
        ({"seeds": {"init": [0, 0]}}, "distinct"),
        ({"seeds": {"init": [True]}}, "must be a list"),
        ({"seeds": {"init": [0], "order": -1}}, "must be a list"),
        ({"seeds": {"rounding": [0, 1]}}, "seeds: "),
        ({"seeds": {}}, "must be a list"),
        ({"seeds": [0, 1], "rows": [{"vary": ["init", "rounding"]}]}, "0 moves nothing"),
        ({"rows": [{"vary": "weights"}]}, "vary: weights: must be all, init, order, augment, rounding, or several"),
        ({"rows": [{"vary": ["init", "init+init"]}]}, r"vary: init\+init: "),
        ({"rows": [{"vary": 3}]}, "vary: 3: "),
        ({"rows": [{"vary": "init", "streams.order": 4}]}, "streams.order: vary says which streams vary"),
        ({"seeds": {"init": [1]}, "overrides": {"streams.order": 4}}, "streams.order: seeds says which streams vary"),
        ({"seeds": {"init": [1]}, "rows": [{"vary": "init"}]}, "vary: seeds says which streams vary"),
        ({"overrides": {"vary": "init"}}, "vary: belongs to a row"),
    ],
)
def test_what_is_wrong_with_streams_is_said_in_one_line(tmp_path: Path, content: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        study_at(tmp_path, **content)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("hydra_ready")
def test_a_plan_has_the_seed_as_its_pair_whatever_varies(tmp_path: Path) -> None:
    values = [override.partition("=")[::2] for override in SMALL if not override.startswith(("neck", "seed"))]
    shared = {key: yaml.safe_load(value) for key, value in values}
    rows = [{"vary": ["init", "augment+order", "rounding", "all"]}]
    study = study_at(tmp_path, baseline="vary=all", rows=rows, overrides=shared)
    plan = make_plan(study)
    assert axes_of(study) == ("streams",)
    assert [(run.row, run.seed) for run in plan.runs[:3]] == [("vary=init", 1), ("vary=init", 2), ("vary=augment+order", 1)]
    by_row = {row: [run.spec.resolved for run in plan.runs if run.row == row] for row in plan.rows}
    assert {row: varying_streams(configs) for row, configs in by_row.items()} == {
        "vary=init": ("init",),
        "vary=augment+order": ("order", "augment"),
        "vary=rounding": ("rounding",),
        "vary=all": ("init", "order", "augment"),
    }
    rounding = [run.spec for run in plan.runs if run.row == "vary=rounding"]
    assert [spec.resolved["streams"]["rounding"] for spec in rounding] == [1, 2]
    assert [f"streams.rounding={n}" in spec.said for n, spec in enumerate(rounding, 1)] == [True, True]
    assert vary_overrides("all") == ()
