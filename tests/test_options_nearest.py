import pytest

from necklace.options.nearest import advice, is_own, nearest

KNOWN = ["neck.focal_level", "optimizer.lr", "data.size", "data.sizes.size", "data/sizes", "epochs", "trainer.devices", "neck"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("focal_level", "neck.focal_level"),
        ("head.focal_level", "neck.focal_level"),
        ("neck.focal_levl", "neck.focal_level"),
        ("neks.focal_level", "neck.focal_level"),
        ("lr", "optimizer.lr"),
        ("learning_rate", "optimizer.lr"),
        ("trainer.max_epochs", "epochs"),
        ("epoch", "epochs"),
        ("data/size", "data/sizes"),
        ("data.siez", "data.size"),
        ("necks", "neck"),
        ("xyzzy_q", None),
        ("callbacks.early", None),  # close to nothing, though data.year shares three letters with it
        ("callbacks.every", None),
        ("data.early", None),
        ("window", "neck.focal_window"),
        ("optimizer.rl", "optimizer.lr"),
        ("optimizer_lr", "optimizer.lr"),
        ("focal.level", "neck.focal_level"),
        ("neck.size", "data.size"),
    ],
)
def test_the_nearest_option(key: str, expected: str | None) -> None:
    assert nearest(key, KNOWN) == expected


def test_what_is_said_of_a_key() -> None:
    taken = {"neck": "none"}
    assert advice("focal_level", KNOWN, taken) == "; did you mean neck.focal_level?"
    assert advice("neck.focal_level", ["epochs"], taken).startswith(
        " with neck=none; neck=dw_convnet, neck=focal, neck=focal_block"
    )
    assert "no workers" in advice("data.num_workers", KNOWN, taken)
    assert "--cfg job" in advice("xyzzy_q", KNOWN, taken)


@pytest.mark.parametrize("key", ["callbacks.early", "callbacks.EarlyStopping", "early_stopping_patience", "trainer.patience"])
def test_stopping_early_is_said_to_be_no_part_of_a_run(key: str) -> None:
    assert advice(key, KNOWN, {}) == ": a run trains all its epochs, and val chooses the best one"


def test_where_nothing_is_near_the_options_of_the_group_are_named() -> None:
    known = [
        "callbacks.gates",
        "callbacks.pictures",
        "seed",
        "epochs",
        "neck",
        "data/sizes",
        *(f"trainer.t{n}" for n in range(20)),
    ]
    assert advice("callbacks.every", known, {}).startswith("; the options of callbacks are gates, pictures; train.py --cfg job")
    assert advice("neck.foo", known, {"neck": "none"}).startswith("; neck=none has no options; ")
    assert advice("quux.foo", known, {}).startswith("; there is no quux; ")
    assert advice("foo", known, {}).startswith("; there are callbacks, epochs, neck, seed, trainer; ")
    assert advice("trainer.foo", known, {}).startswith("; the options of trainer are t0, t1, t10, ")
    assert "t19 and 8 more; " in advice("trainer.foo", known, {})


def test_an_option_of_the_choice_taken() -> None:
    assert is_own("neck.focal_level", {"neck": "focal"})
    assert not is_own("neck.focal_level", {"neck": "none"})
