import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from necklace.code_version import changed_modules, code_version, git_state, version_digest

SOURCE = Path(__file__).parents[1] / "src"
NECK = '''"""A neck."""
from torch import nn

from mine_layers import width


class Mine(nn.Module):
    """Nothing much."""

    def forward(self, x):
        """Do it."""
        return width * x  # as it is
'''
MINE = {"neck": {"_target_": "mine_neck.Mine"}}
FOCAL = {
    "neck": {"_target_": "necklace.necks.FocalModulation"},
    "data": {"source": {"_target_": "necklace.data.glyphs.Glyphs"}},
}
SPP = {"neck": {"_target_": "necklace.necks.SPP"}, "data": {"source": {"_target_": "necklace.data.voc.Voc"}}}


def version_in_a_fresh_process(folder: Path, config: dict) -> dict[str, str]:
    code = f"import json; from necklace.code_version import code_version; print(json.dumps(code_version({config!r})))"
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", str(SOURCE))])
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of this package, to be edited."""
    shutil.copytree(SOURCE / "necklace", tmp_path / "necklace", ignore=shutil.ignore_patterns("__pycache__"), symlinks=True)
    return tmp_path


def edit(path: Path, text: str = "\n\nADDED_BY_A_TEST = 1\n") -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def test_a_users_own_files_count_and_their_comments_do_not(tmp_path: Path) -> None:
    (tmp_path / "mine_neck.py").write_text(NECK)
    (tmp_path / "mine_layers.py").write_text("width = 1\n")
    first = version_in_a_fresh_process(tmp_path, MINE)
    assert {"mine_neck", "mine_layers"} <= first.keys()
    same = NECK.replace("# as it is", "# unchanged").replace("Nothing much", "Little").replace("\n\n\n", "\n")
    (tmp_path / "mine_neck.py").write_text(same)
    assert version_in_a_fresh_process(tmp_path, MINE) == first
    (tmp_path / "mine_neck.py").write_text(NECK.replace("width * x", "width * x + x"))
    assert changed_modules(first, version_in_a_fresh_process(tmp_path, MINE)) == ["mine_neck"]
    (tmp_path / "mine_neck.py").write_text(NECK)
    (tmp_path / "mine_layers.py").write_text("width = 2\n")
    assert changed_modules(first, version_in_a_fresh_process(tmp_path, MINE)) == ["mine_layers"]


def test_a_users_package_counts_by_what_is_used_of_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine_necks"
    mine.mkdir()
    (mine / "__init__.py").write_text("from .blur import Blur as Soft\nfrom .other import *\n__all__ = ['Soft']\n")
    (mine / "blur.py").write_text("from . import shapes\nfrom .deep.down import f\nclass Blur: ...\n")
    (mine / "shapes.py").write_text("import typing\nif typing.TYPE_CHECKING:\n    from .other import Other\n")
    (mine / "other.py").write_text("class Other: ...\n")
    (mine / "deep").mkdir()
    (mine / "deep" / "down.py").write_text("def f():\n    from mine_necks import late\n")
    (mine / "late.py").write_text("")
    own = {"neck": {"_target_": "mine_necks.Soft"}}
    found = [name for name in version_in_a_fresh_process(tmp_path, own) if name.startswith("mine")]
    assert found == ["mine_necks.blur", "mine_necks.deep.down", "mine_necks.late", "mine_necks.shapes"]
    star = version_in_a_fresh_process(tmp_path, {"neck": {"_target_": "mine_necks.Other"}})
    assert [name for name in star if name.startswith("mine")] == ["mine_necks.other"]
    # What the package does when it is imported counts for each of its modules.
    edit(mine / "__init__.py", "import torch\ntorch.set_default_dtype(torch.float64)\n")
    assert "mine_necks" in version_in_a_fresh_process(tmp_path, own)


def test_a_new_neck_and_code_that_only_reads_change_nothing(package: Path) -> None:
    before = version_in_a_fresh_process(package, FOCAL)
    (package / "necklace" / "necks" / "aspp.py").write_text("from torch import nn\n\nclass ASPP(nn.Module): ...\n")
    init = package / "necklace" / "necks" / "__init__.py"
    edit(init, "from necklace.necks.aspp import ASPP\n")
    for reads in (
        "data/voc.py",
        "necks/spp.py",
        "results/table.py",
        "study/execute.py",
        "diagnostics/pictures.py",
        "cli/study.py",
    ):
        edit(package / "necklace" / reads)
    for reads in ("tracking/wandb_logger.py", "launcher/worker.py", "plotting.py", "run/runner.py", "run/folder.py"):
        edit(package / "necklace" / reads)
    for keeps in ("record.py", "migrations.py", "identity.py", "spec.py", "code_version.py"):
        edit(package / "necklace" / keeps)
    assert changed_modules(before, version_in_a_fresh_process(package, FOCAL)) == []


def test_an_edit_of_a_neck_changes_its_runs_alone(package: Path) -> None:
    before = [version_in_a_fresh_process(package, config) for config in (FOCAL, SPP)]
    edit(package / "necklace" / "necks" / "focal.py")
    after = [version_in_a_fresh_process(package, config) for config in (FOCAL, SPP)]
    assert changed_modules(before[0], after[0]) == ["necklace.necks.focal"]
    assert before[1] == after[1]
    edit(package / "necklace" / "data" / "voc.py")
    assert changed_modules(before[1], version_in_a_fresh_process(package, SPP)) == ["necklace.data.voc"]
    edit(package / "necklace" / "run" / "fit.py")
    assert "necklace.run.fit" in changed_modules(before[1], version_in_a_fresh_process(package, SPP))


def test_installed_packages_and_what_cannot_be_found_add_nothing() -> None:
    base = code_version({})
    for target in ("torch.nn.Identity", "there.is.no.such.Module", "necklace.nothing.Here", "nothing"):
        assert code_version({"list": [{"_target_": target}]}) == base
    assert code_version({"logger": {"_target_": "necklace.tracking.wandb_logger.wandb_logger"}}) == base
    assert version_digest(base) == version_digest(dict(reversed(base.items())))


@pytest.mark.parametrize("folder", ["lib/python3.11/site-packages", "dist-packages", "mine"])
def test_packages_of_an_environment_that_this_one_builds_on_are_installed_too(tmp_path: Path, folder: str) -> None:
    base = tmp_path / folder  # as with --user, --system-site-packages, a .pth file or PYTHONPATH
    (base / "theirs").mkdir(parents=True)
    (base / "theirs" / "layers.py").write_text("class Neck: ...\n")
    found = version_in_a_fresh_process(base, {"neck": {"_target_": "theirs.layers.Neck"}})
    assert ("theirs.layers" in found) == (folder == "mine")


def test_the_entry_brings_what_every_run_needs_and_no_neck() -> None:
    base = code_version({})
    assert {"necklace.run.fit", "necklace.data.datamodule", "necklace.seeding", "necklace.run.history"} <= base.keys()
    for room in ("necks", "results", "study", "launcher", "tracking", "cli"):
        assert not [name for name in base if name.startswith(f"necklace.{room}.") and name != "necklace.necks.focal_parts"]


@pytest.mark.parametrize(
    ("path", "dirty"), [("src/necklace/x.py", True), ("configs/a.yaml", True), ("experiments/a/x.json", False)]
)
def test_what_studies_write_does_not_make_the_code_uncommitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, dirty: bool
) -> None:
    files = [tmp_path / "src" / "necklace" / "code_version.py", tmp_path / path]
    files[1].parent.mkdir(parents=True)
    files[0].parent.mkdir(parents=True, exist_ok=True)
    files[0].write_text("")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.setattr("necklace.code_version.__file__", str(files[0]))
    states = [git_state.__wrapped__()]
    files[1].write_text("new")
    states.append(git_state.__wrapped__())
    assert [state["dirty"] for state in states if state] == [False, dirty]
