from pathlib import Path

import pytest

from necklace import source_code
from necklace.source_code import code_of, file_of


def test_a_file_is_found_without_importing_it() -> None:
    for module, end, is_package in (
        ("necklace.necks", "necklace/necks/__init__.py", True),
        ("necklace.necks.spp", "necklace/necks/spp.py", False),
        ("torch.optim.adamw", "torch/optim/adamw.py", False),
    ):
        found = file_of(module)
        assert found is not None
        assert found[0].as_posix().endswith(end)
        assert found[1] == is_package
    assert file_of("necklace.necks.nothing") is None
    assert file_of("no_such_package_at_all") is None


def test_the_code_of_a_module_is_all_that_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_code, "_LOADED_NS", 2**62)
    found = code_of("necklace.data.glyphs")
    assert {"necklace.data.glyphs", "necklace.data.raster", "necklace.seeding", "necklace.data.images"} <= found.keys()
    assert not {name for name in found if "necks" in name or not name.startswith("necklace")}
    assert code_of("numpy") == code_of("__main__.Something") == {}


def test_code_of_a_file_that_changed_since_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "just_written.py").write_text("SIDE = 3\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert code_of("just_written") == {}
    monkeypatch.setattr(source_code, "_LOADED_NS", 2**62)
    assert list(code_of("just_written")) == ["just_written"]
