import subprocess
import sys
from pathlib import Path

import pytest

import necklace.cell
from necklace.cell import code_digest

NECK = '''"""A neck."""
from torch import nn


class Mine(nn.Module):
    """Nothing much."""

    def forward(self, x):
        """Do it."""
        return x  # as it is
'''


def digest_in_a_fresh_process(folder: Path) -> str:
    code = "from necklace.cell import code_digest; print(code_digest({'neck': {'_target_': 'mine_neck.Mine'}}))"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_a_users_own_file_counts_and_its_comments_do_not(tmp_path: Path) -> None:
    (tmp_path / "mine_neck.py").write_text(NECK)
    first = digest_in_a_fresh_process(tmp_path)
    (tmp_path / "mine_neck.py").write_text(
        NECK.replace("# as it is", "# unchanged").replace("Nothing much", "Little").replace("\n\n\n", "\n")
    )
    assert digest_in_a_fresh_process(tmp_path) == first
    (tmp_path / "mine_neck.py").write_text(NECK.replace("return x", "return 2 * x"))
    assert digest_in_a_fresh_process(tmp_path) != first


def test_the_package_counts_without_what_only_looks_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {
        "run.py": "a = 1\n",
        "necks/spp.py": "b = 2\n",
        "study/table.py": "c = 3\n",
        "loggers.py": "d = 4\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(necklace.cell, "__file__", str(tmp_path / "cell.py"))

    def digest() -> str:
        necklace.cell._package_digest.cache_clear()
        necklace.cell._file_code.cache_clear()
        return code_digest({})

    try:
        first = digest()
        (tmp_path / "study" / "table.py").write_text("c = 4\n")
        (tmp_path / "loggers.py").write_text("d = 5\n")
        assert digest() == first
        (tmp_path / "necks" / "spp.py").write_text("b = 3\n")
        assert digest() != first
    finally:
        monkeypatch.undo()
        digest()


def test_installed_packages_and_what_cannot_be_found_add_nothing() -> None:
    installed = {"backbone": {"_target_": "torch.nn.Identity"}, "list": [{"_target_": "necklace.necks.SPP"}]}
    assert code_digest(installed) == code_digest({}) == code_digest({"neck": {"_target_": "there.is.no.such.Module"}})
