import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import necklace.identity
from necklace.config import resolved
from necklace.identity import hash_identity, hash_of_name, run_identity, run_label
from necklace.spec import said_of
from tests.conftest import CONFIGS, SMALL, compose_train, initialised, spec_of, the_composer

OPTIONS = Path(__file__).parent / "golden" / "options.json"


def identity_of(*overrides: str) -> str:
    return hash_identity(run_identity(resolved(compose_train([*SMALL, *overrides])[0]), {"train": "abc"}))


def test_identity_is_what_changes_the_result_and_nothing_else() -> None:
    base = identity_of()
    for neutral in (
        "logger=wandb",
        "callbacks.gates=0",
        "outputs=/elsewhere",
        "study=other",
        "rerun=true",
        "+trainer={devices: 2, sync_batchnorm: true}",
        "+trainer.sync_batchnorm=true",
        "trainer.timeout_s=5",
        "trainer.accelerator=gpu",
        "+trainer.enable_progress_bar=false",
    ):
        assert identity_of(neutral) == base, neutral
    changes = (
        "seed=1",
        "neck=sppf",
        "neck=focal",
        "head=pyramid",
        "backbone.depth=14",
        "optimizer.lr=0.1",
        "optimizer=sgd",
        "schedule=cosine",
        "epochs=3",
        "batch_size=8",
        "data.size=32",
        "data.augment.flip=true",
        "trainer.precision=bf16-mixed",
        "trainer.gradient_clip_val=1",
        "trainer.devices=2",
        "trainer.devices=3",
        "+trainer={num_nodes: 2, devices: [0, 1]}",  # four processes
        "+trainer.limit_train_batches=2",
        "task.label_smoothing=0.1",
        "task.class_weights=balanced",
        "task.monitor=val/balanced_acc",
        "data.sampler=balanced",
    )
    assert len({identity_of(change) for change in changes} | {base}) == len(changes) + 1


def said(*overrides: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """The choices and all that differs from the defaults, of a run of these overrides."""
    spec = spec_of([*SMALL, *overrides])
    return spec.choices, tuple(text for text in spec.said if text not in SAME)


# Of SMALL, in all of these runs.
SAME = ("data.source.train=120", "data.source.test=30", "data.size=24", "backbone.width=4", "epochs=2", "batch_size=16")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], []),
        (["neck=focal", "neck.focal_level=3", "optimizer.lr=0.01"], ["neck=focal", "neck.focal_level=3", "optimizer.lr=0.01"]),
        (["optimizer={lr: 1e-2}", "backbone.depth=14"], ["backbone.depth=14", "optimizer.lr=0.01"]),
        (["optimizer.lr=3e-3", "neck=none"], []),  # as it is anyway
        (["seed=3", "study=x", "logger=csv", "callbacks.gates=0", "trainer.accelerator=cpu", "rerun=true"], []),
        (["trainer.devices=2"], ["trainer.devices=2"]),
        (["head=pyramid", "data/sizes=native"], ["data/sizes=native", "head=pyramid"]),
        (["neck=focal", "~neck.bias"], ["neck=focal", "~neck.bias"]),
        (["data.augment={flip: true}", "+optimizer.amsgrad=true"], ["data.augment.flip=true", "optimizer.amsgrad=true"]),
    ],
)
def test_all_that_differs_from_the_defaults_is_said_once(overrides: list[str], expected: list[str]) -> None:
    assert list(said(*overrides)[1]) == expected


def test_a_network_goes_by_its_own_name() -> None:
    for overrides, name in (
        (["backbone=resnet18", "backbone.name=resnet50"], "resnet50"),
        (["backbone=timm", "backbone.name=convnext_atto"], "timm-convnext_atto"),
    ):
        config, choices = compose_train(overrides)
        with initialised():
            composer = the_composer()
            label = run_label(choices, said_of(config, resolved(config), choices, composer, overrides), 0)
        assert label == f"glyphs_{name}_none_s0"


def test_a_recipe_and_the_folder_of_the_images_are_in_the_name() -> None:
    overrides = ["+recipe=cifar_cpu", "data.root=/tmp/some/flowers", "optimizer.lr=0.1"]
    config, choices = compose_train(overrides)
    with initialised():
        composer = the_composer()
        found = said_of(config, resolved(config), choices, composer, overrides)
    assert run_label(choices, found, 0) == "folder-flowers_cifar_cpu_cifar_resnet_none_lr-0.1_s0"
    # CIFAR-10 is the same wherever it lies.
    overrides = ["data=cifar10", "data.root=/tmp"]
    config, choices = compose_train(overrides)
    with initialised():
        composer = the_composer()
        assert said_of(config, resolved(config), choices, composer, overrides) == ("data=cifar10",)


def test_label_is_readable_and_safe_in_paths() -> None:
    choices = {"data": "context", "backbone": "cifar_resnet", "neck": "focal"}
    label = run_label(choices, ["neck=focal", "neck.focal_level=3", "neck.kernels=[3,../5]", "seed=2"], 2)
    assert label == "context_cifar_resnet_focal_focal_level-3_kernels-3,..-5_s2"
    label = run_label(choices, [f"task.option_{number}={'x' * 20}" for number in range(9)], 2)
    assert label.startswith("context_cifar_resnet_focal_option_0-x")
    assert label.endswith("_and-8-more_s2")


HOSTILE = st.text(min_size=1, max_size=40) | st.sampled_from(["../<b>\U0001f600" * 90, "..", ".", "-", "猫", "\udcff"])


@settings(deadline=None, max_examples=60)
@given(st.lists(HOSTILE, min_size=3, max_size=3), st.lists(HOSTILE, max_size=12), st.integers(0, 10**6))
def test_any_name_is_a_folders_name_of_at_most_a_hundred_characters(names: list[str], values: list[str], seed: int) -> None:
    choices: dict[str, str] = dict(zip(("data", "backbone", "neck"), names, strict=True))
    name = run_label(choices, [f"neck.{number}={value}" for number, value in enumerate(values)], seed) + "_0123456789"
    assert len(name) <= 100
    assert name.isascii()
    assert not set(name) & set("/\\\0\n ")
    assert not name.startswith((".", "-"))
    assert hash_of_name(name) == "0123456789"


def options_of(choice: str) -> list[str]:
    """Dotted keys of a group's choice, by composing it; a group within `data` belongs to data."""
    group, _, name = choice.rpartition("/")
    needed = ["data.root=/nowhere"] if choice in ("data/coco", "data/folder", "data/voc", "data/yolo") else []
    config = resolved(compose_train([f"{group}={name}", *needed])[0])
    found: list[str] = []

    def walk(node: Any, path: str) -> None:
        if isinstance(node, dict) and node:
            for key, value in node.items():
                walk(value, f"{path}.{key}")
        else:
            found.append(path)

    top = group.partition("/")[0]
    walk(config[top], top)
    return sorted(found)


CHOICES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in CONFIGS.rglob("*.yaml")
    if path.parent != CONFIGS and path.parts[-2] not in ("recipe", "job_logging", "launcher") and not path.name.startswith("_")
)


@pytest.mark.parametrize("choice", CHOICES)
def test_an_option_that_is_new_says_at_which_value_runs_are_as_before(choice: str) -> None:
    """An option that nobody put into ADDED would give every earlier run another hash.

    options.json holds the options that the first runs had. Where this fails for a new option: add it to ADDED in identity.py
    with the value that stands for "as before"; never to options.json, unless the choice itself is new.
    """
    known = json.loads(OPTIONS.read_text())
    assert choice in known, f"a new choice: add it with its options to {OPTIONS.name}"
    group = choice.partition("/")[0]
    neutral = {f"{group}.{name}" for name in necklace.identity.NEUTRAL.get(group, ())} | necklace.identity.NEUTRAL[""]
    for option in options_of(choice):
        counts = not any(option == name or option.startswith(f"{name}.") for name in neutral)
        assert option in known[choice] or option in necklace.identity.ADDED or not counts, option


def test_top_level_options_are_known_as_well() -> None:
    known = json.loads(OPTIONS.read_text())
    config = resolved(compose_train([])[0])
    added = necklace.identity.ADDED.keys()
    new = set(config) - necklace.identity.NEUTRAL[""] - added - set(known["train"])
    assert all(f"{group}.{option}" in added for group in new for option in config[group])


def test_an_added_option_counts_only_where_it_differs_from_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    base = identity_of()
    assert identity_of("+backbone.parts=[-1]") != base
    added = {"backbone.parts": [-1], "head.parts": 1, "warm": False}
    monkeypatch.setattr(necklace.identity, "ADDED", necklace.identity.ADDED | added)
    assert identity_of("+backbone.parts=[-1]") == base
    assert identity_of("+backbone.parts=[8]") != base
    assert identity_of("+head.parts=1", "+warm=false") == base
    assert identity_of("+head.parts=2") != base
    assert identity_of("+warm=true") != base
