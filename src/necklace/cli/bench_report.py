"""What benchmarks have in common: the machine, whether it is free, and a table on the screen and in files."""

import csv
import io
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from necklace.allocator import keep_freed_memory
from necklace.atomic import write_whole
from necklace.run.conditions import device_name

# Where results are kept, below the working directory.
RESULTS = Path("experiments") / "benchmarks"
# A thread that has a core to itself has wall / CPU of 1; beyond this, a time says more of the neighbours than of the code.
BUSY = 1.1
_PROBE_S = 0.3


class Benchmark:
    """One benchmark: measured on a free machine, or not at all.

    Args:
        name: Of its folder below `RESULTS`.
        console: Where to print.
        threads: What the measured processes use, in words.

    Attributes:
        facts: What the header of its table says, a line each.

    Raises:
        RuntimeError: The machine is busy.
    """

    def __init__(self, name: str, console: Console, threads: str = "one thread") -> None:
        self.name, self.console = name, console
        keeps = keep_freed_memory()
        torch.set_num_threads(1)
        self._loads = [self._load()]
        told = sys.argv[sys.argv.index("bench") :] if "bench" in sys.argv else ["bench", name]
        self.facts = [
            f"command: necklace {shlex.join(told)}",
            f"machine: {device_name(torch.device('cpu'))}, {os.cpu_count()} cores, {threads}",
            f"versions: Python {platform.python_version()}, torch {version('torch')}, torchvision {version('torchvision')}",
            f"allocator: {'freed memory is kept' if keeps else 'as the C library has it'}",
        ]

    def write(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], file: str = "table") -> None:
        """Print a table, and write it as `FILE.md` and `FILE.csv`, whole.

        Args:
            title: What was measured, and in which units.
            columns: Heads of the columns.
            rows: Text of each cell.
            file: Name of the files, without suffix.

        Raises:
            RuntimeError: The machine became busy meanwhile; nothing is written.
        """
        self._loads.append(self._load())
        facts = [*self.facts, f"load: wall / CPU of one thread {self._loads[0]:.2f} before, {self._loads[-1]:.2f} after"]
        table = Table(*columns, title=title)
        for row in rows:
            table.add_row(*row)
        self.console.print(table)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        lines = [" | ".join(cells) for cells in (columns, ["---"] * len(columns), *rows)]
        folder = RESULTS / self.name
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{file}.csv", "".join(f"# {fact}\n" for fact in facts) + text.getvalue())
        head = "".join(f"- {fact}\n" for fact in facts)
        write_whole(folder / f"{file}.md", f"# {title}\n\n{head}\n" + "".join(f"| {line} |\n" for line in lines))
        self.console.print(f"{folder}: {file}.md, {file}.csv", markup=False)

    def _load(self) -> float:
        """Wall / CPU of one thread that counts, for a moment."""
        wall, cpu = time.perf_counter(), time.process_time()
        while time.perf_counter() - wall < _PROBE_S:
            sum(range(1000))
        ratio = (time.perf_counter() - wall) / (time.process_time() - cpu)
        if ratio > BUSY:
            raise RuntimeError(
                f"bench {self.name}: the machine is busy: one thread that counts has wall / CPU {ratio:.2f}, more than {BUSY}; "
                "nothing is written; try again when it is free"
            )
        return ratio
