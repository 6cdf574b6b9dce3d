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


def test_an_option_of_the_choice_taken() -> None:
    assert is_own("neck.focal_level", {"neck": "focal"})
    assert not is_own("neck.focal_level", {"neck": "none"})
