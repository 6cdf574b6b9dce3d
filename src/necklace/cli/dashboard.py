"""A study's dashboard in W&B: necklace dashboard NAME saves it as a workspace of the study's project, or as a report."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir

from necklace.cli.ablate import overrides_of, trust_folders
from necklace.cli.errors import EXPECTED, error_line
from necklace.cli.stopping import ENDED, at_once
from necklace.cli.train import CONFIGS
from necklace.study.plan import make_plan
from necklace.study.study_file import EXPERIMENTS, STUDY_FILE, read_study, study_name


def main(arguments: list[str] | None = None) -> None:
    """Parse the command and carry it out."""
    parser = argparse.ArgumentParser(
        prog="necklace dashboard", description="Save a study's panels as a workspace of its W&B project."
    )
    parser.add_argument("name", help="folder below experiments/")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="as they were given to ablate")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="more configs, as they were given to ablate")
    parser.add_argument(
        "--trust", type=Path, action="append", default=[], metavar="DIR", help="folder of your own classes; their code runs"
    )
    parser.add_argument("--report", action="store_true", help="a W&B Report of what was found instead: table, figures, recipe")
    parser.add_argument("--dry-run", action="store_true", help="print the workspace or report as JSON; needs no network")
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY"), help="W&B user or team; yours, if not given")
    parsed = parser.parse_intermixed_args(arguments)
    if parsed.report and parsed.overrides:
        parser.error(f"{parsed.overrides[0]}: a report tells what the study's records say, and takes no overrides")
    for flag, folder in (("--config-dir", parsed.config_dir), *(("--trust", each) for each in parsed.trust)):
        if folder and not folder.is_dir():
            parser.error(f"{flag} {folder}: there is no such folder")
    trust_folders(parsed.trust)
    # Here, so that --help need not wait for it.
    from necklace.tracking.wandb_run import WandbError

    try:
        print(dashboard(parsed))
    except ModuleNotFoundError as error:
        if error.name != "wandb_workspaces":
            raise
        sys.exit("error: dashboards need wandb-workspaces: pip install -e '.[dashboards]'")
    except (*EXPECTED, WandbError) as error:
        sys.exit(error_line(error))


def dashboard(parsed: argparse.Namespace) -> str:
    """Build the workspace, or with --report the report, and save it, or give its spec.

    Raises:
        RuntimeError: There is no server to save it on, or that server cannot keep it.
    """
    with at_once(ENDED):  # some of these would swallow Ctrl-C
        from necklace.tracking.wandb_run import at_server, default_entity, wandb_mode
        from necklace.tracking.wandb_workspace import workspace

    entity, what = parsed.entity, "report" if parsed.report else "workspace"
    if not parsed.dry_run:
        mode, why = wandb_mode(None)
        if mode != "online":
            raise RuntimeError(
                f"{why or 'no API key is configured (wandb login, or WANDB_API_KEY), or WANDB_MODE forbids it'}; "
                f"--dry-run prints the {what} without a server; experiments/NAME/report.html shows the same here"
            )
        entity = entity or at_server("says whose key this is", default_entity)
    folder = EXPERIMENTS / study_name(parsed.name)
    if parsed.report:
        from necklace.results.analysis import analyse
        from necklace.study.store import read_records
        from necklace.tracking.wandb_report import study_report

        made: Any = study_report(analyse(read_records(folder)), entity or "")
    else:
        study = read_study(folder / STUDY_FILE)
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            own, for_hydra = overrides_of(parsed)
            made = workspace(make_plan(study, own, 1, for_hydra, trust=parsed.trust), entity or "")
    if parsed.dry_run:
        return made._to_model().model_dump_json(by_alias=True, indent=1)
    return f"saved: {at_server(f'keeps a {what}', lambda: made.save().url)}"
