"""README and docs hold: commands, links, file lists, and the numbers, which come from committed records.

Two marks in the source of a page say what becomes of the block of commands behind it:

- `<!-- runnable -->`: it is executed as it stands, in an empty folder. `python` and `necklace` on its PATH are those of this
  checkout, with options appended that make each training small (`SMALL`).
- `<!-- checked -->`: nothing is trained, but each command line is parsed, and each config composed.
"""

import itertools
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from necklace.cli.ablate import parse
from necklace.cli.main import USAGE
from necklace.config import Composer
from necklace.launcher.local import launching_overrides
from necklace.results.analysis import analyse
from necklace.results.figure_data import figure_data
from necklace.results.noise import ratio_interval, sd_interval
from necklace.results.results import Row
from necklace.study.store import read_records
from tests.conftest import the_composer
from tests.warm_shell import warm_command

ROOT = Path(__file__).parents[1]
DOCS = sorted(ROOT.glob("docs/*.md"))
PAGES = [ROOT / "README.md", *DOCS, *sorted(ROOT.glob("experiments/*/README.md"))]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
MARKED = re.compile(r"<!-- (\w+) -->\n```(?:bash|python)\n(.*?)```", re.S)
# Appended to each training of a runnable block, by a word of the block.
SMALL = {
    "stripes": ["data.source.count=40"],
    "data: context": ["data.source.train=60", "data.source.test=20"],
    "": ["data.source.train=60", "data.source.test=20", "data.size=24"],
}
ALWAYS = ["epochs=1", "backbone.width=4", "batch_size=16"]


def marked(mark: str) -> list[tuple[str, str]]:
    """Page and text of each block with a mark."""
    found = [(page, match) for page in PAGES for match in MARKED.finditer(page.read_text())]
    return [(page.name, match[2]) for page, match in found if match[1] == mark]


def section(page: Path, heading: str) -> str:
    """The first fenced block below a heading."""
    return page.read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].split("```")[1]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), [pytest.param(*found, id=found[0]) for found in marked("runnable")])
def test_runnable_blocks_run(page: str, block: str, tmp_path: Path) -> None:
    small = shlex.join([*ALWAYS, *next(options for word, options in SMALL.items() if word in block)])
    interpreter = shlex.quote(sys.executable)
    (tmp_path / "bin").mkdir()
    environment = os.environ | {
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
    }
    # A block sets PYTHONPATH for its own files; the package is found whatever it says.
    script = block.replace("PYTHONPATH=mine", f"PYTHONPATH=mine{os.pathsep}{ROOT / 'src'}")
    with warm_command() as warm:
        commands = {
            "python": f"""
                case "$*" in
                  *--verify*) exec {warm} {ROOT}/"$@" ;;
                  train.py*|ablate.py*) exec {warm} {ROOT}/"$@" {small} ;;
                  *) exec {interpreter} "$@" ;;
                esac""",
            "necklace": f"""exec {warm} necklace.cli.main "$@" """,
        }
        for name, body in commands.items():
            path = tmp_path / "bin" / name
            path.write_text(f"#!/bin/bash\n{body}\n")
            path.chmod(0o755)
        result = subprocess.run(
            ["bash", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
    assert result.returncode == 0, f"{page}\n{result.stdout}\n{result.stderr}"


@pytest.mark.parametrize("page", dict.fromkeys(page for page, _ in marked("checked")))
def test_checked_commands_are_valid(page: str, hydra_ready: None) -> None:
    composer = the_composer()
    lines = [line for name, block in marked("checked") if name == page for line in block.splitlines() if line]
    for line in lines:
        check_command(line, composer)


def check_command(line: str, composer: Composer) -> None:
    """Raise where a command line has a verb, an option or an override that does not exist."""
    program, verb, *arguments = shlex.split(line, comments=True)
    assert (program, verb) in (("python", "train.py"), ("python", "ablate.py")) or program == "necklace", line
    verb = verb.removesuffix(".py")
    assert re.search(rf"^  {verb} ", USAGE, re.M), line
    if verb == "ablate":
        overrides = parse(arguments).overrides
        composer.compose(launching_overrides([text for text in overrides if text.startswith("hydra")]))
        composer.compose([text for text in overrides if not text.startswith("hydra")])
    elif verb == "train" and "--help" not in arguments:
        # What a search tries is no value of a run.
        for overrides in combinations([text for text in arguments if text != "-m" and "(" not in text]):
            composer.compose(overrides)


def combinations(overrides: list[str]) -> list[list[str]]:
    """The runs of a multirun: a comma outside of brackets separates values."""
    choices = []
    for text in overrides:
        key, _, values = text.partition("=")
        choices.append([f"{key}={value}" for value in re.split(r",(?![^\[]*\])", values)])
    return [list(combination) for combination in itertools.product(*choices)]


def test_commands_in_running_text_exist() -> None:
    for page in PAGES:
        for verb, what in re.findall(r"`necklace (\w+) ?(\w*)", page.read_text()):
            assert re.search(rf"^  {verb} ", USAGE, re.M), f"{page}: necklace {verb}"
            assert verb != "bench" or what in USAGE, f"{page}: necklace bench {what}"


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_pictures_exist(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page}: {link}"
        assert target.is_relative_to(ROOT)
        if anchor:
            assert anchor in map(slug, re.findall(r"^#+ (.*)$", target.read_text(), re.M)), f"{page}: {link}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_tree_of_architecture_md_is_the_source_tree() -> None:
    listed: set[str] = set()
    top = folder = ""
    for line in section(ARCHITECTURE, "Tree").splitlines():
        name = line.split()[0] if line.strip() else ""
        depth = len(line) - len(line.lstrip())
        if depth == 0 and name.endswith("/"):
            top = folder = name
        elif name.endswith("/"):
            folder = f"{top}{name}"
        elif name.endswith(".py"):
            listed.add(f"{folder if depth == 4 else top}{name}")
    found = {str(path.relative_to(ROOT)) for path in ROOT.glob("src/*/**/*.py") if path.name != "__init__.py"}
    assert sorted(listed) == sorted(found)


def test_the_layers_of_architecture_md_are_the_import_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert section(ARCHITECTURE, "Arrows").split() == " ".join(layers).split()


def test_the_walks_of_architecture_md_name_each_file_once() -> None:
    walks = re.findall(r"<!-- walk -->\n(.*?)<!-- end of walk -->", ARCHITECTURE.read_text(), re.S)
    assert len(walks) == 2
    for walk in walks:
        files = re.findall(r"^\d+\. `([^`]+)`", walk, re.M)
        assert len(files) == len(set(files)) == len(walk.splitlines())
        assert all((ROOT / file).is_file() for file in files)


# ---- numbers


def table_lines(page: Path) -> list[list[str]]:
    """The texts of the first table of a page, without its header."""
    block = re.search(r"(?:^\|.*\n)+", page.read_text(encoding="utf-8"), re.M)
    assert block
    return [[text.strip() for text in line.strip("|").split("|")] for line in block[0].splitlines()[2:]]


def accuracy(row: Row) -> str:
    assert row.summary
    assert row.summary.sd is not None
    return f"{100 * row.summary.mean:.2f} ± {100 * row.summary.sd:.2f}"


def to_baseline(row: Row) -> str:
    return paired(row.difference)


def to_control(row: Row) -> str:
    return paired(row.control.difference if row.control else None)


def paired(difference: object) -> str:
    interval = getattr(difference, "interval", None)
    if interval is None:
        return ""
    mean, low, high = (100 * value for value in (difference.mean, interval.low, interval.high))  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def neck_params(row: Row) -> str:
    assert row.cost
    return f"{row.cost.neck_params:,}"


def all_params(row: Row) -> str:
    assert row.cost
    return f"{row.cost.params:,}"


def spread(row: Row) -> str:
    found = sd_interval(_values(row))
    assert found
    return f"{100 * np.std(_values(row), ddof=1):.2f} ({100 * found.low:.2f} to {100 * found.high:.2f})"


def share_of_all(row: Row) -> str:
    every = analyse(read_records(ROOT / "experiments" / "noise_sources")).rows[0]
    if row.name == every.name:
        return ""
    found = ratio_interval(_values(row), _values(every))
    assert found
    share = np.var(_values(row), ddof=1) / np.var(_values(every), ddof=1)
    return f"{share:.2f} ({found.low:.2f} to {found.high:.2f})"


def _values(row: Row) -> np.ndarray:
    return np.array([run.record.metrics["test/acc"] for run in row.runs if run.record])


TABLES = {
    "README.md": ("necks_cifar10", [accuracy, to_baseline, to_control, neck_params]),
    "experiments/necks_cifar10/README.md": ("necks_cifar10", [accuracy, to_baseline, to_control, neck_params]),
    "experiments/boxes_bccd/README.md": ("boxes_bccd", [accuracy, to_baseline, to_control, neck_params]),
    "experiments/necks_context/README.md": ("necks_context", [accuracy, to_baseline, all_params]),
    "experiments/focal_context/README.md": ("focal_context", [accuracy, to_baseline, to_control, all_params]),
    "experiments/focal_context_hints/README.md": ("focal_context_hints", [accuracy, to_baseline, to_control, all_params]),
    "experiments/focal_context_hints_long/README.md": (
        "focal_context_hints_long",
        [accuracy, to_baseline, to_control, all_params],
    ),
    "experiments/focal_context_long/README.md": ("focal_context_long", [accuracy, to_baseline, to_control, all_params]),
    "experiments/focal_context_transport/README.md": (
        "focal_context_transport",
        [accuracy, to_baseline, to_control, all_params],
    ),
    "experiments/cifar10_fast/README.md": ("cifar10_fast", [accuracy, all_params]),
    "experiments/cifar10_fast_long/README.md": ("cifar10_fast_long", [accuracy, all_params]),
    "experiments/focal_cifar_pilot/README.md": ("focal_cifar_pilot", [accuracy, to_baseline, all_params]),
    "experiments/pools_equal_bf16/README.md": ("pools_equal_bf16", [accuracy, to_baseline]),
    "experiments/noise_sources/README.md": ("noise_sources", [accuracy, spread, share_of_all]),
}


@pytest.mark.parametrize("page", TABLES)
def test_tables_hold_the_numbers_of_the_records(page: str) -> None:
    study, columns = TABLES[page]
    results = analyse(read_records(ROOT / "experiments" / study))
    expected = [[column(row) for column in columns] for row in results.rows]
    lines = table_lines(ROOT / page)
    assert [line[1:] for line in lines] == expected
    if page == "README.md":
        assert [line[0] for line in lines] == [row.name for row in results.rows]
    path = ROOT / "experiments" / study / "figures" / "differences.json"
    drawn = json.loads(path.read_text()) if path.exists() else None  # of a row alone there are none
    assert drawn == figure_data(results).get("differences")


def test_the_drawing_of_the_walk_is_the_scripts() -> None:
    from necklace.plotting import saved

    drawing = runpy.run_path(str(ROOT / "docs" / "walk.py"))["drawing"]
    assert saved(drawing(), "walk", "svg") == saved(drawing(), "walk", "svg")
    texts = re.findall(r">([^<>]+)</text>", (ROOT / "docs" / "walk.svg").read_text())
    assert texts == re.findall(r">([^<>]+)</text>", saved(drawing(), "walk", "svg").decode())
