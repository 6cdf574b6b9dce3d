"""Write all that a study commits: records/, runs.csv, tables, figures/, the methods section and report.html."""

from pathlib import Path

from necklace.atomic import is_left_over, write_whole
from necklace.guard.links import check_no_link
from necklace.results.figures import write_figures
from necklace.results.methods import methods_files
from necklace.results.report import report_html
from necklace.results.results import Results
from necklace.results.runs_csv import runs_csv
from necklace.results.table import TableText, latex, markdown, table_text
from necklace.study.store import StudyRecords, write_records


def write_study(study: StudyRecords, results: Results, folder: Path) -> tuple[TableText, list[str]]:
    """Write a study's folder.

    Args:
        study: The study and its runs.
        results: What `analyse` gave for it.
        folder: Such as experiments/NAME; is made where it is missing.

    Returns:
        The table, and the names of the runs that were moved to `records/retired/`.
    """
    table = table_text(results)
    folder.mkdir(parents=True, exist_ok=True)
    check_no_link(folder / "records", folder / "figures")
    _remove_half_written(folder)
    retired = write_records(study, folder)
    for name, text in (table_files(study, table) | methods_files(results)).items():
        write_whole(folder / name, text)
    write_figures(results, folder / "figures")
    write_whole(folder / "report.html", report_html(results, table))
    return table, retired


def table_files(study: StudyRecords, table: TableText) -> dict[str, str]:
    """The tables of a study, file name to content."""
    return {
        "runs.csv": runs_csv(study),
        "table.md": markdown(table, study.info.name),
        "table.tex": latex(table, study.info.name),
    }


def _remove_half_written(folder: Path) -> None:
    """Remove the temporary files of processes that were killed."""
    for path in [*folder.glob(".*.[0-9]*"), *folder.glob("*/.*.[0-9]*")]:
        if is_left_over(path):
            path.unlink(missing_ok=True)
