import json
from pathlib import Path
from typing import Any

import pytest

import necklace.identity
from necklace.config import resolved
from necklace.identity import hash_identity, run_identity, run_label
from tests.conftest import CONFIGS, SMALL, compose_train

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
        "trainer.devices=2",
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
        "+trainer.limit_train_batches=2",
        "task.label_smoothing=0.1",
    )
    assert len({identity_of(change) for change in changes} | {base}) == len(changes) + 1


def test_label_is_readable_and_safe_in_paths() -> None:
    choices = {"data": "context", "backbone": "cifar_resnet", "neck": "focal"}
    label = run_label(choices, ["neck=focal", "neck.focal_level=3", "neck.kernels=[3,../5]", "seed=2"], 2)
    assert label == "context_cifar_resnet_focal_focal_level-3_kernels-3,..-5-_s2"
    hostile = run_label({**choices, "neck": "../<b>\U0001f600" * 90}, [], 0)
    assert "/" not in hostile
    assert len(hostile) < 110
    assert hostile.isascii()


def options_of(choice: str) -> list[str]:
    """Dotted keys of a group's choice, by composing it; a group within `data` belongs to data."""
    group, _, name = choice.rpartition("/")
    needed = ["data.root=/nowhere"] if choice in ("data/folder", "data/voc") else []
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
    if path.parent != CONFIGS and path.parts[-2] not in ("recipe", "job_logging") and not path.name.startswith("_")
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
    assert set(config) - necklace.identity.NEUTRAL[""] - necklace.identity.ADDED.keys() <= set(known["train"])


def test_an_added_option_counts_only_where_it_differs_from_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    base = identity_of()
    assert identity_of("+backbone.stages=[-1]") != base
    monkeypatch.setattr(necklace.identity, "ADDED", {"backbone.stages": [-1], "head.levels": 1, "warm": False})
    assert identity_of("+backbone.stages=[-1]") == base
    assert identity_of("+backbone.stages=[8]") != base
    assert identity_of("+head.levels=1", "+warm=false") == base
    assert identity_of("+head.levels=2") != base
    assert identity_of("+warm=true") != base
