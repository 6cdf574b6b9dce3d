"""Every key of every config is read or refused, and every value that its reader does not take is named."""

import re
import string
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf, open_dict

from necklace.cli.train import checking
from necklace.config import choices_of, leaves
from necklace.options.check import check_options, check_split_options
from necklace.options.errors import OptionError
from necklace.options.readers import readers_of
from necklace.options.refusal import composed
from tests.conftest import CONFIGS, the_composer

GROUPS = ["neck", "trainer", "optimizer", "callbacks", "data", "backbone", "head", "logger"]
NEEDS = {f"data/{name}": ["data.root=images"] for name in ("coco", "folder", "voc", "yolo")}
CHOICES = sorted(
    str(path.relative_to(CONFIGS).with_suffix(""))
    for path in CONFIGS.rglob("*.yaml")
    if path.parent != CONFIGS and path.parts[-2] not in ("recipe", "job_logging", "launcher") and not path.name.startswith("_")
)


@pytest.fixture(scope="module")
def check() -> Iterator[Callable[..., dict[str, str]]]:
    """Composes overrides and checks what comes out."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3", job_name="train"):

        def check(*overrides: str, shared: tuple[str, ...] = ()) -> dict[str, str]:
            config = composed(the_composer(), [*shared, *overrides])
            choices = choices_of(config.hydra)
            with open_dict(config):
                del config["hydra"]
            return check_options(config, choices, overrides, shared)

        yield check


def refusal(check: Callable[..., dict[str, str]], *overrides: str) -> str:
    with pytest.raises(OptionError) as error:
        check(*overrides)
    return str(error.value)


@cache
def plain_of(choice: str) -> dict[str, Any]:
    """A config with this choice; Hydra is initialised."""
    config = the_composer().compose(base(choice))
    plain: Any = OmegaConf.to_container(config, resolve=False)
    del plain["hydra"]
    return plain


@cache
def leaves_of(choice: str) -> list[str]:
    """Dotted paths of its options."""
    found = leaves(plain_of(choice))
    own = [path for path, value in found if not path.rpartition(".")[2].startswith("_") and value != {}]
    return [path for path in own if not path.startswith("backbone.options.")]  # timm's, which timm itself refuses


def base(choice: str) -> list[str]:
    group, _, name = choice.rpartition("/")
    return [f"{group}={name}", *NEEDS.get(choice, [])]


def test_every_choice_is_accepted_as_it_is(check: Callable[..., dict[str, str]]) -> None:
    for choice in CHOICES:
        assert check(*base(choice)) == {}, choice


def misspelt(name: str, number: int) -> str:
    """A name with one mistake: a letter added, dropped or swapped with the next, and where, by `number`."""
    place = number // 3 % len(name)
    if number % 3 == 0 or (number % 3 == 1 and len(name) <= 3) or len(set(name)) == 1:
        return name[:place] + string.ascii_lowercase[number % 26] + name[place:]
    if number % 3 == 1:
        return name[:place] + name[place + 1 :]
    place = next(at for at in (*range(place + 1, len(name)), *range(1, len(name))) if name[at] != name[at - 1])
    return name[: place - 1] + name[place] + name[place - 1] + name[place + 1 :]


def mistakes(choice: str, number: int) -> tuple[dict[str, list[str]], int]:
    """Each option of a config with this choice misspelt where it stands, and at the top and in another group as it is.

    Returns:
        Wrong key to the options that it may mean, and how many keys are left out because something has that very name there.
    """
    found: dict[str, list[str]] = {}
    known = leaves_of(choice)
    readers = readers_of(plain_of(choice))
    real = {*known, *readers.options, *readers.refused}
    real |= {path.rpartition(".")[0] for path in known}  # `data.sizes=1` takes the place of a part
    for path in known:
        number += 1
        parent, _, name = path.rpartition(".")
        group = GROUPS[number % len(GROUPS)]
        wrong = {name, f"{group}.{name}", f"{parent}." * bool(parent) + misspelt(name, number)} - {path}
        for key in wrong:
            found.setdefault(key, []).append(path)
    taken = {key for key in found if key in real or any(key.startswith(f"{part}.") for part in readers.open)}
    return {key: paths for key, paths in found.items() if key not in taken}, len(taken)


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_each_option_of_each_choice_misspelt_or_misplaced_is_refused_with_the_nearest(
    check: Callable[..., dict[str, str]], prefix: str
) -> None:
    """All mistakes of a config at once, as each gets a line of its own; some one by one in the next test."""
    made = left_out = 0
    for number, choice in enumerate(CHOICES):
        keys, real = mistakes(choice, 7 * number)
        made, left_out = made + len(keys), left_out + real
        text = problems(check, *base(choice), *(f"{prefix}{key}=1" for key in keys))
        lines = {line.partition(": ")[0]: line for line in text.splitlines()}
        for key, paths in keys.items():
            assert key in lines, (choice, key)
            assert_names(lines[key], key, paths)
    assert made > 4000
    assert left_out < made / 25


def assert_names(line: str, key: str, paths: list[str]) -> None:
    """That a refusal names an option that was meant, or one of the same name elsewhere."""
    last = key.rpartition(".")[2]
    if line.startswith(f"{key}: nothing reads it with "):  # another choice has this very option
        return
    assert line.startswith(f"{key}: nothing reads it; did you mean "), line
    named = line.partition("did you mean ")[2].partition("?")[0].partition(" ")[0]
    assert named in paths or re.split(r"[./]", named)[-1] == last, line


@settings(max_examples=8, phases=[Phase.generate], deadline=None, derandomize=True)
@given(data=st.data())
def test_a_mistake_is_refused_by_the_command_with_the_same_words(
    check: Callable[..., dict[str, str]], data: st.DataObject
) -> None:
    """By what Hydra does for `train.py`, which composes in another way than a study's plan."""
    choice, number = data.draw(st.sampled_from(CHOICES)), data.draw(st.integers(0, 30))
    keys, _ = mistakes(choice, number)
    key, prefix = data.draw(st.sampled_from(sorted(keys))), data.draw(st.sampled_from(["", "+", "++"]))
    overrides = [*base(choice), f"{prefix}{key}=1"]
    with checking(), pytest.raises(HydraException) as error:
        GlobalHydra.instance().config_loader().load_configuration("train", overrides, RunMode.RUN)
    text = problems(check, *overrides)
    assert str(error.value) == f"error: {text}"
    assert_names(text.splitlines()[0], key, keys[key])


def problems(check: Callable[..., dict[str, str]], *overrides: str) -> str:
    """What is wrong with overrides; empty if nothing is."""
    try:
        check(*overrides)
    except OptionError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("neck=focal focal_level=3", "focal_level: nothing reads it; did you mean neck.focal_level?"),
        ("neck=focal +focal_level=3", "focal_level: nothing reads it; did you mean neck.focal_level?"),
        ("neck=focal ++focal_level=3", "focal_level: nothing reads it; did you mean neck.focal_level?"),
        ("neck=none +focal_level=3", "did you mean neck.focal_level (of neck=dw_convnet, neck=focal, neck=focal_block)?"),
        ("neck.focal_level=3", "neck.focal_level: nothing reads it with neck=none; neck=dw_convnet, neck=focal, "),
        ("+lr=0.1", "lr: nothing reads it; did you mean optimizer.lr?"),
        ("+learning_rate=0.1", "did you mean optimizer.lr?"),
        ("+patience=3", "patience: nothing reads it: a run trains all its epochs, and val chooses the best one"),
        ("+callbacks.patience=3", "callbacks.patience: nothing reads it: a run trains all its epochs"),
        ("+ckpt_path=x", "ckpt_path: nothing reads it: the same command goes on from its last checkpoint"),
        ("+trainer.max_epochs=9", "trainer.max_epochs=9: not for a config to set: epochs= says how long a run trains"),
        ("trainer.max_epochs=9", "did you mean epochs?"),
        ("+max_epochs=9", "did you mean epochs?"),
        ("+trainer.logger=false", "trainer.logger=false: not for a config to set: logger= chooses it"),
        ("+neck.channels=3", "neck.channels=3: not for a config to set: the run sets it"),
        ("+data.batch_size=3", "data.batch_size=3: not for a config to set: batch_size= sets it"),
        ("trainer.max_time=1", "trainer.max_time=1: trainer.max_time is read, but not set yet; +trainer.max_time=1 sets it"),
        ("backbone=timm backbone.options={a:1}", "+backbone.options={a:1} sets it"),
        ("backbone=timm backbone.options.a=1", "+backbone.options.a=1 sets it"),
        ("+optimizer.dampening=0.1", "optimizer.dampening: nothing reads it"),
        ("neck=spp neck.kernel_size=3", "neck.kernel_size: nothing reads it with neck=spp; neck=sppf has it"),
        ("+callbacks.early=1", "callbacks.early: nothing reads it: a run trains all its epochs"),
        ("callbacks.every=1", "callbacks.every: nothing reads it; the options of callbacks are gates, knockout, pictures"),
        ("neck.foo=1", "neck.foo: nothing reads it; neck=none has no options"),
        ("logger=none +logger.mode=offline", "logger.mode: nothing reads it; did you mean logger.wandb.mode (of logger=w"),
        ("data.augment.flp=true", "did you mean data.augment.flip?"),
        ("neck=focal_block +neck.focal_levl=2", "neck.focal_levl: nothing reads it; did you mean neck.focal_level?"),
    ],
)
def test_a_key_that_nothing_reads(check: Callable[..., dict[str, str]], line: str, words: str) -> None:
    assert words in refusal(check, *line.split())


@pytest.mark.parametrize(
    "line",
    [
        "+w=8 backbone.width=${w}",
        "optimizer=sgd +optimizer.maximize=false",
        "+optimizer.betas=[0.9,0.99]",
        "+trainer.limit_train_batches=10",
        "+trainer.limit_val_batches=0.5",
        "+trainer.enable_progress_bar=false",
        "+recipe=cifar_sizes data.root=x",
        "neck=focal neck.kernels=[3,5,7] neck.focal_window=3",
        "study=2024",
        "data.eval_sizes=[24,32] data.train_images=null",
        "backbone.pretrained=weights.pth backbone.pretrained_skip=[conv1] backbone=resnet18",
        "~trainer.precision neck=spp ~neck.kernel_sizes",
        "backbone=timm +backbone.options={a:1}",
        "trainer.devices=[0,1] trainer.strategy=ddp",
    ],
)
def test_what_is_read_is_accepted(check: Callable[..., dict[str, str]], line: str) -> None:
    assert check(*line.split()) == {}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("epochs=1.5", "epochs=1.5: must be a whole number from 1"),
        ("study=../x", "study='../x': must name a folder below outputs"),
        ("epochs=0", "epochs=0: must be"),
        ("epochs=null", "epochs=null: must be"),
        ("epochs=true", "epochs=true: must be"),
        ("epochs={a:1}", "epochs={a:1}: must be"),
        ("seed=-1", "seed=-1: must be a whole number from 0"),
        ("seed=one", "seed=one: must be"),
        ("batch_size=[4]", "batch_size=[4]: must be"),
        ("data.train_images=0", "data.train_images=0: must be a whole number from 1 or null"),
        ("data.eval_sizes=24", "data.eval_sizes=24: must be a list"),
        ("data.eval_sizes=[24,0]", "data.eval_sizes=[24,0]: must be a list"),
        ("data.val_fraction=1", "data.val_fraction=1: must be a number above 0 below 1"),
        ("data.std=[0,1,1]", "data.std=[0,1,1]: must be a list of 3 values, each a number above 0"),
        ("data.mean=[1,1]", "data.mean=[1,1]: must be a list of 3"),
        ("data.size=0", "data.size=0: must be a number of pixels from 1"),
        ("data.augment.flip=yes", "data.augment.flip=yes: must be true or false"),
        ("optimizer.lr=nan", "optimizer.lr=nan: must be a number above 0"),
        ("optimizer.lr=1e309", "optimizer.lr=inf: must be a number above 0"),
        ("optimizer.lr=-1", "optimizer.lr=-1: must be"),
        ("optimizer.lr=high", "optimizer.lr=high: must be"),
        ("optimizer=sgd optimizer.momentum=0", "optimizer: Nesterov momentum requires a momentum"),
        ("neck=[focal,spp]", "neck=[focal,spp]: must be one choice"),
        ("neck=null", "neck=null: must be one of attention, conv, dw_convnet, focal"),
        ("neck=3", "neck=3: must be one of"),
        ("neck=focl", "neck=focl: there is no neck/focl; did you mean neck=focal?"),
        ("data/size=native", "data/size: nothing reads it; did you mean data/sizes?"),
        ("data.sizes=native", "data.sizes=native: must be a choice, such as data/sizes=fixed"),
        ("callbacks=none", "callbacks=none: must be options, each set by its name, such as callbacks.knockout=VALUE"),
        ("streams=3", "streams=3: must be options, each set by its name, such as streams.rounding=VALUE"),
        ("~neck", "neck: is missing"),
        ("~callbacks.gates", "callbacks.gates: is missing"),
        ("callbacks.gates=often", "callbacks.gates=often: must be a whole number from 0"),
        ("callbacks.pictures=1", "callbacks.pictures=1: must be true or false"),
        ("rerun=maybe", "rerun=maybe: must be one of true, false, stale, failed"),
        ("outputs=null", "outputs=null: must be text"),
        ("neck=focal neck.focal_window=4", "neck.focal_window=4: makes even kernels"),
        ("neck=focal_block neck.mlp_ratio=0", "neck.mlp_ratio=0: allowed are numbers > 0"),
        ("neck=spp neck.kernel_sizes=5", "neck.kernel_sizes=5: must be a list"),
        ("backbone.depth=9", "backbone.depth=9: a CIFAR ResNet has 6n + 2 layers"),
        ("head=pyramid head.bins=[2,2]", "head.bins=[2, 2]: must be"),
        ("task.label_smoothing=1", "task.label_smoothing=1: must be"),
        ("data=folder", "data.root: is missing; give it a value with data.root=VALUE"),
        ("neck._target_=no.such.Class", "neck._target_=no.such.Class: cannot be imported"),
        ("data.size=${data.siez}", "data.siez"),
        ("+seed=1", "+seed=1: seed is an option already, without the +: seed=1"),
        ("+neck=sppf", "+neck=sppf: neck is chosen already; neck=sppf chooses another"),
        ("~neck.nothing", "neck.nothing: there is nothing of this name"),
        ("seed=0,1", "To sweep over it, add --multirun"),
        ("+trainer.precision=8-bit", "trainer.precision is an option already"),
        ("trainer.precision=8-bit", "trainer.precision=8-bit: must be"),
        ("trainer.accelerator=tpuu", "trainer.accelerator=tpuu: must be one of auto, cpu"),
        ("trainer.devices=0", "trainer.devices=0: must be"),
    ],
)
def test_a_value_that_its_reader_does_not_take(check: Callable[..., dict[str, str]], line: str, words: str) -> None:
    assert words in refusal(check, *line.split())


ODD = ["null", "true", "-1", "0.5", "nan", "inf", "1e309", "foo", "''", "[]", "[1,x]", "[null]", "{}", "{a:1}", "'1'"]


def test_an_odd_value_of_each_option_is_taken_or_named(check: Callable[..., dict[str, str]]) -> None:
    """Each option in one config that has it, with three of the odd values, another three for the next option."""
    of: dict[str, str] = {}
    for choice in CHOICES:
        of |= dict.fromkeys(leaves_of(choice), choice)
    for number, (path, choice) in enumerate(sorted(of.items())):
        for value in (ODD[(3 * number + step) % len(ODD)] for step in range(3)):
            for line in problems(check, *base(choice), f"{path}={value}").splitlines():
                assert line.startswith((path, path.split(".")[0])), (choice, line)
    assert len(of) > 100


def test_all_problems_are_listed_at_once(check: Callable[..., dict[str, str]]) -> None:
    text = refusal(check, "epochs=1.5", "batch_size=0", "+lr=1", "data.size=x", "+trainer.limit_test_batches=1")
    starts = {line.split(":")[0] for line in text.splitlines()}
    assert starts == {"lr", "epochs=1.5", "batch_size=0", "data.size=x", "trainer.limit_test_batches=1"}


@pytest.mark.parametrize(
    ("choices", "option", "why"),
    [
        ("data/sizes=native", "data.size=64", "data.sizes has sizes of its own (data/sizes=fixed reads data.size)"),
        ("backbone=resnet18", "backbone.pretrained_skip=[conv1]", "there is no backbone.pretrained"),
        ("neck=focal neck.focal_level=1", "neck.focal_factor=4", "no second level"),
        ("neck=focal", "neck.ln_eps=1e-6", "use_postln_in_modulation is off"),
        ("optimizer=sgd", "optimizer.momentum=0.8", "schedule=one_cycle moves it from 0.95 to 0.85"),
    ],
)
def test_an_option_without_effect_is_refused_where_it_is_given(
    check: Callable[..., dict[str, str]], choices: str, option: str, why: str
) -> None:
    key = option.partition("=")[0]
    text = refusal(check, *choices.split(), option)
    assert text.startswith(f"{key}=")
    assert why in text
    assert check(*choices.split()) == {}


def test_an_option_without_effect_may_be_shared_with_rows_that_read_it(check: Callable[..., dict[str, str]]) -> None:
    assert check("data/sizes=native", shared=("data.size=64",)) == {
        "data.size": "data.sizes has sizes of its own (data/sizes=fixed reads data.size)"
    }
    assert check("data/sizes=fixed", shared=("data.size=64",)) == {}


def test_a_split_that_is_not_there_or_is_there_already() -> None:
    given = ["data.val_fraction=0.2", "data.eval_sizes=[24]", "data={test_images: 3}"]
    assert check_split_options(("train", "val", "test"), False, given) == {}
    with pytest.raises(OptionError, match=r"data\.val_fraction: nothing reads it: the data has a val split of its own"):
        check_split_options(("train", "val", "test"), True, given)
    with pytest.raises(OptionError, match=r"data\.eval_sizes: nothing reads it: the data has no test split") as error:
        check_split_options(("train", "val"), False, given)
    assert "data.test_images" in str(error.value)
    assert set(check_split_options(("train",), True, [], given)) == {"data.val_fraction", "data.eval_sizes", "data.test_images"}


OWN = """
from torch import nn

class Own(nn.Module):
    def __init__(self, channels, width: int = 4, act=None, *, size: "Unknown" = 3):
        super().__init__()
        self.out_channels = channels

class Open(Own):
    def __init__(self, channels, **options):
        super().__init__(channels)
"""


def test_a_users_neck_is_checked_by_its_own_signature(
    check: Callable[..., dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_own_neck.py").write_text(OWN)
    (tmp_path / "neck").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    for name, content in {
        "own": {"_target_": "my_own_neck.Own", "width": 8, "act": {"_target_": "torch.nn.GELU", "approximate": "tanh"}},
        "typo": {"_target_": "my_own_neck.Own", "widht": 8},
        "open": {"_target_": "my_own_neck.Open", "anything": 8},
    }.items():
        (tmp_path / "neck" / f"{name}.yaml").write_text(yaml.safe_dump(content))
    search = f"hydra.searchpath=[file://{tmp_path}]"

    def own(*overrides: str) -> dict[str, str]:
        return check(search, *overrides)

    assert own("neck=own") == own("neck=own", "+neck.size=[3]") == own("neck=open", "+neck.more=1") == {}
    assert refusal(own, "neck=typo") == "neck.widht: nothing reads it; did you mean neck.width?"
    assert "neck.width=wide: must be a whole number" in refusal(own, "neck=own", "neck.width=wide")
    assert "neck.act.aproximate: nothing reads it" in refusal(own, "neck=own", "+neck.act.aproximate=none")
    assert "did you mean neck=own?" in refusal(own, "neck=owm")


def test_a_check_costs_little(check: Callable[..., dict[str, str]]) -> None:
    """A plan composes each row once; what it needs beyond that has to stay below what composing takes."""
    check("neck=focal", "seed=1")
    started = time.perf_counter()
    for seed in range(20):
        check("neck=focal", f"seed={seed}", "optimizer.lr=0.1")
    assert (time.perf_counter() - started) / 20 < 0.1
