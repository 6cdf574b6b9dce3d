"""A benchmark's table: printed, and written as table.md, table.csv and, where it has a picture, table.png."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from necklace.atomic import write_whole
from necklace.cli.bench_machine import Machine

Cell = str | float | None
"""A text, a number, or None where there is nothing to say."""


@dataclass(frozen=True)
class Report:
    """Where a benchmark's table goes.

    Attributes:
        folder: The folder of its files; it is made.
        command: What made it.
        console: Where it is printed.
    """

    folder: Path
    command: str
    console: Console

    def write(
        self,
        title: str,
        columns: Mapping[str, str],
        rows: Sequence[Sequence[Cell]],
        machine: Machine,
        notes: Sequence[str] = (),
        picture: bytes | None = None,
    ) -> None:
        """Print a table and write its files, whole.

        Args:
            title: What was measured.
            columns: Name to the format of its numbers in table.md; table.csv has four digits of each.
            rows: Cells in the order of the columns.
            machine: What it was measured on.
            notes: What else the head says, a line each.
            picture: Content of table.png.

        Raises:
            TooBusyError: The machine became busy meanwhile; nothing is written.
        """
        facts = [f"command: {self.command}", *machine.facts(), *notes]
        head = "\n".join((f"# {title}", "", *(f"- {fact}" for fact in facts), ""))
        text = f"{head}\n{_markdown(columns, rows)}\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self.folder / "table.md", text)
        write_whole(self.folder / "table.csv", "".join(f"# {fact}\n" for fact in (title, *facts)) + _csv(list(columns), rows))
        if picture:
            write_whole(self.folder / "table.png", picture)
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        files = ", ".join(f"table.{kind}" for kind in ("md", "csv", *(["png"] if picture else [])))
        self.console.print(f"{self.folder}: {files}", markup=False, highlight=False, soft_wrap=True)


def _markdown(columns: Mapping[str, str], rows: Sequence[Sequence[Cell]]) -> str:
    """The table with its columns one below the other, so that it can be read in a terminal too."""
    formats = list(columns.values())
    texts = [list(columns), *([_text(cell, form) for cell, form in zip(row, formats, strict=True)] for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*texts, strict=True)]
    rules = ["-" * (width - 1) + ":" if form else "-" * width for width, form in zip(widths, formats, strict=True)]
    aligned = [
        [text.rjust(width) if form else text.ljust(width) for text, width, form in zip(line, widths, formats, strict=True)]
        for line in texts
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (aligned[0], rules, *aligned[1:]))


def _text(cell: Cell, form: str) -> str:
    return cell if isinstance(cell, str) else "" if cell is None else format(cell, form)


def _csv(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row] for row in rows)
    return file.getvalue()
