"""A run's identity: all that changes its result, the hash over it, and its readable names: what differs from the defaults."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from necklace.guard.private import without_home

# What a run's result does not depend on, so that its identity must not either. All else counts: an option too many in the
# identity makes a new run, which costs time; a forgotten one would pass off one run's result as another's.
NEUTRAL = {
    "": {"logger", "callbacks", "outputs", "study", "rerun"},
    # Digest and sizes stand for these.
    "data": {
        "source",
        "root",
        "annotations",
        "on_corrupt",
        "download",
        "year",
        "size",
        "memory_gib",
        "cache",
        "duplicates",
        "max_pixels",
        "links",
        "test_fraction",
        "background",
    },
    "backbone": {"pretrained"},  # likewise
    "neck": {"recompute"},  # what is computed again in backward comes out the same, bit for bit
    "trainer": {
        "accelerator",
        "devices",
        "num_nodes",
        "strategy",
        "deterministic",
        "log_every_n_steps",
        "enable_progress_bar",
        "timeout_s",
        "fast_dev_run",  # a test of a few batches, which leaves no record
        "sync_batchnorm",  # with it the number of processes makes no difference; without, `_processes` counts
    },
}

# Of these, what makes another run all the same, by way of the digest: a name says it.
SAID = {
    "data": {"source", "root", "annotations", "on_corrupt", "year", "size", "test_fraction", "background", "links"}
    | {"max_pixels"},
    "backbone": {"pretrained"},
    "trainer": {"devices", "num_nodes"},
}
MOST = 100  # characters of a run's whole name

# Options that came later than the first runs, with the value at which a run is what it was before there was the option. At
# that value they do not count, so that earlier runs keep their hash. An option that is new in configs/ has to be put here;
# tests/golden/options.json lists those that were there from the start.
ADDED: dict[str, Any] = {
    "data.labels": "fine",
    "data.sampler": "shuffle",
    "data.augment.mosaic": 0.0,
    "data.boxes": False,
    "task.bias_lr": 1.0,
    "task.class_weights": None,
    "task.monitor": None,
    "neck.global_norm": "none",
    "neck.global_scale": 1.0,
    "backbone.stages": None,
    "optimizer.fused": None,
    "mirror": False,
    "shift": 0,
    **{f"streams.{name}": 0 if name == "rounding" else None for name in ("init", "order", "augment", "rounding")},
}


def run_identity(resolved: dict[str, Any], digest: dict[str, str]) -> dict[str, Any]:
    """All that changes a run's result, and nothing else: no paths, loggers, devices or progress bars.

    Args:
        resolved: The config as plain containers.
        digest: The data's content, by split.
    """
    kept = {name: value for name, value in resolved.items() if name not in NEUTRAL[""]}
    for group, neutral in NEUTRAL.items():
        if group:
            kept[group] = {name: value for name, value in kept[group].items() if name not in neutral}
    kept["data"]["digest"] = digest
    kept["backbone"]["pretrained"] = _weights_digest(resolved["backbone"])
    if (processes := _processes(resolved["trainer"])) > 1 and not trains_as_one(resolved):
        kept["trainer"]["processes"] = processes
    for option, as_before in ADDED.items():
        kept = _without(kept, option.split("."), as_before)
    return without_home(kept)


def hash_identity(identity: dict[str, Any]) -> str:
    """Ten hex digits over an identity."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]


def check_identity(
    config: Mapping[str, Any], identity: Mapping[str, Any], digest: Mapping[str, str], run_hash: str, where: str
) -> None:
    """Check that a record's config is the one that its hash was taken over.

    Args:
        config: Its resolved config.
        identity: Its identity.
        digest: The content of its data, by split.
        run_hash: Its hash.
        where: The file, for the message.

    Raises:
        ValueError: It is not.
    """
    strange = strange_options(config, identity, digest)
    if strange or hash_identity(dict(identity)) != run_hash:
        fields = f" ({', '.join(strange[:3])})" if strange else ""
        raise ValueError(f"{where}: its config, identity and hash do not belong together{fields}")


def strange_options(config: Mapping[str, Any], identity: Mapping[str, Any], digest: Mapping[str, str]) -> list[str]:
    """The options of an identity that a config does not have, or has otherwise."""
    data = config.get("data")
    given = leaves({**config, "data": {**(data if isinstance(data, dict) else {}), "digest": dict(digest)}})
    absent = object()
    # The identity holds a weights file's digest, not its path; a number of processes that no config says; and no home.
    return [
        key
        for key, value in leaves(identity).items()
        if key not in ("backbone.pretrained", "trainer.processes")
        and without_home(given.get(key, absent)) != without_home(value)
    ]


def differences(
    resolved: dict[str, Any],
    raw: dict[str, Any],
    defaults: dict[str, Any],
    choices: Mapping[str, str],
    usual: Mapping[str, str],
) -> tuple[str, ...]:
    """All that makes a run another than the default one, as overrides, in the config's order; the seed is not among them.

    However it was asked for: by overrides of single values or whole groups, by a recipe, by a study.

    Args:
        resolved: The config as plain containers.
        raw: The same before its interpolations were filled in: what follows from another option is not said twice.
        defaults: The raw config of the same choices alone.
        choices: Config group to chosen name.
        usual: Config group to the name that is chosen where nobody chooses.

    Returns:
        Such as `("neck=focal", "neck.focal_level=3", "optimizer.lr=0.01")`. A choice that is named after its network, such as
        `backbone=resnet18` with another `backbone.name`, is given as that network: `backbone=resnet50`.
    """
    own, plain, common = leaves(raw), leaves(resolved), leaves(defaults)
    renamed = {
        group: plain[f"{group}.name"]
        for group, choice in choices.items()
        if common.get(f"{group}.name") == choice != plain.get(f"{group}.name", choice)
    }
    order = {name: place for place, name in enumerate(resolved)}  # Hydra's choices come in no order of their own
    groups = sorted(choices, key=lambda group: (order.get(group.partition("/")[0], len(order)), group))
    said = {group: choices[group] for group in groups if usual.get(group) != choices[group]} | renamed
    said |= {key: _at(resolved, key) for key, value in own.items() if key not in common or common[key] != value}
    for group in renamed:
        del said[f"{group}.name"]
    # Where the data lies is no difference, unless it has no usual place: then it says which data it is.
    if common.get("data.root") != "???":
        said.pop("data.root", None)
    gone = [f"~{key}" for key in common if key not in own and _is_said(key)]
    return (*(f"{key}={shown(value)}" for key, value in said.items() if _is_said(key)), *gone)


def run_words(choices: Mapping[str, str], said: Sequence[str]) -> list[str]:
    """A run in short words, such as `["glyphs", "cifar_resnet", "focal", "focal_level=3", "lr=0.01"]`.

    Args:
        choices: Config group to chosen name.
        said: All that differs from the defaults, see `differences`.
    """
    pairs = [text.lstrip("+").partition("=") for text in said]
    given = {key: value for key, _, value in pairs if _is_said(key.lstrip("~"))}
    main = {group: given.pop(group, choices[group]) for group in ("data", "backbone", "neck")}
    if "data.root" in given:
        main["data"] += f"-{Path(given.pop('data.root')).absolute().name}"
    if "backbone.name" in given:
        main["backbone"] += f"-{given.pop('backbone.name')}"
    if "backbone.pretrained" in given:
        given["backbone.pretrained"] = Path(given["backbone.pretrained"]).name
    bare = [given.pop(group) for group in ("data/sizes", "recipe") if group in given]
    # The subject first, the data last: it has the most options, and a name may have no room for the last ones.
    keys = sorted(given, key=lambda key: (not key.startswith("neck."), key.startswith(("data.", "~data."))))
    names = list(map(short_key, keys))
    names = [name if names.count(name) == 1 else key for key, name in zip(keys, names, strict=True)]
    words = [
        f"no {name[1:]}" if name.startswith("~") else f"{name}={given[key]}" for key, name in zip(keys, names, strict=True)
    ]
    return [main["data"], *bare, main["backbone"], main["neck"], *words]


def run_label(choices: Mapping[str, str], said: Sequence[str], seed: int) -> str:
    """A readable folder name, such as `context_cifar_resnet_focal_focal_level-3_lr-0.01_s0`, safe in paths.

    With the hash behind it, it has at most `MOST` characters; `and-2-more` stands for two words that found no room.

    Args:
        choices: Config group to chosen name.
        said: All that differs from the defaults, see `differences`.
        seed: The run's seed.
    """
    words = [re.sub(r"[^\w.,+-]+", "-", word, flags=re.ASCII).strip("-") or "-" for word in run_words(choices, said)]
    room = MOST - len(f"_s{seed}_0123456789")
    if len("_".join(words)) > room:  # the group can be guessed, but for the backbone's, which has options like the neck's
        words = [re.sub(r"^(?:data|head|task|schedule|trainer)\.(?!seed)(?=\w+-)", "", word) for word in words]
    whole, kept = "_".join(words), len(words)
    while len(whole) > room and kept > 1:
        kept -= 1
        whole = "_".join([*words[:kept], f"and-{len(words) - kept}-more"])
    return whole[:room].lstrip(".-") + f"_s{seed}"


def short_key(key: str) -> str:
    """An option's name where room is scarce: `focal_level` of neck.focal_level, `lr` of optimizer.lr, else group and name."""
    top, *rest = key.split(".")
    if not rest:
        return key
    return rest[-1] if top in ("neck", "optimizer") else f"{top}.{rest[-1]}"


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters, in UTF-8, that stays different from others of the same beginning."""
    text = text.encode(errors="backslashreplace").decode()
    if len(text) <= most:
        return text
    return f"{text[: most - 7]}…{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def leaves(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key to value of a config's options; an empty mapping is a value."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def shown(value: Any) -> str:
    """An option's value in words, such as `0.001`, `true`, `null` and `[3,5]`."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str).replace('"', "")


def _is_said(key: str) -> bool:
    """Whether a difference in an option or choice makes another run."""
    top, *rest = re.split(r"[./]", key)
    if top in NEUTRAL[""] or key == "seed":
        return False
    return not rest or rest[0] not in NEUTRAL.get(top, set()) - SAID.get(top, set())


def hash_of_name(name: str) -> str:
    """The hash at the end of a run's name."""
    return name.rpartition("_")[2]


def _at(config: Any, key: str) -> Any:
    """A config's value at a dotted key."""
    for name in key.split("."):
        config = config[name]
    return config


def _without(node: dict[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    """The node without the option at `path`, if it is there and has the value."""
    name, *rest = path
    if not isinstance(node, dict) or name not in node:
        return node
    left = _without(node[name], rest, value) if rest else node[name]
    gone = left == ({} if rest else value)  # with its last option goes a group, which was not there before
    return {key: kept for key, kept in node.items() if key != name} if gone else {**node, name: left}


def _processes(trainer: dict[str, Any]) -> int:
    """The processes that train a run, by its resolved `trainer`."""
    devices = trainer.get("devices", 1)
    if str(devices) in ("auto", "-1"):
        devices = 1
        if trainer.get("accelerator") in ("auto", "gpu", "cuda"):
            import torch  # here: tables read identities without torch

            devices = max(1, torch.cuda.device_count())
    elif isinstance(devices, str) and "," in devices:
        devices = [each for each in devices.split(",") if each.strip()]
    count = len(devices) if isinstance(devices, list) else int(devices)
    return count * int(trainer.get("num_nodes") or 1)


def trains_as_one(resolved: dict[str, Any]) -> bool:
    """Whether several processes of a run train as one does, but for rounding.

    They do where they share BatchNorm's statistics, and all else is drawn for the whole step. The images of a mosaic are those
    of a process, and with native sizes some groups of images are too small for several.
    """
    data = resolved["data"]
    apart = data.get("augment", {}).get("mosaic") or str(data.get("sizes", {}).get("_target_", "")).endswith(".Native")
    return bool(resolved["trainer"].get("sync_batchnorm")) and not apart


def _weights_digest(backbone: dict[str, Any]) -> str | None:
    """The content of the weights file that a backbone starts from, named or given; None without one."""
    if not backbone.get("pretrained"):
        return None
    from necklace.backbones.named import weights_file  # here: tables read identities without torch

    with open(str(weights_file(backbone)), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
