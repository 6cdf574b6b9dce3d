"""A study's dashboard in W&B: python dashboard.py NAME saves it as a workspace of the study's project."""

import argparse
import os
import sys
from pathlib import Path

import wandb
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from wandb.errors import Error as WandbError

from necklace.study.plan import make_plan, read_study
from necklace.wandb_runs import wandb_mode

HERE = Path(__file__).resolve().parent


def main() -> None:
    """Parse the command and carry it out."""
    parser = argparse.ArgumentParser(description="Save a study's panels as a workspace of its W&B project.")
    parser.add_argument("name", help="folder below experiments/")
    parser.add_argument("overrides", nargs="*", default=[], metavar="key=value", help="as they were given to ablate.py")
    parser.add_argument("--dry-run", action="store_true", help="print the workspace as JSON; needs no network")
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY"), help="W&B user or team; yours, if not given")
    arguments = parser.parse_intermixed_args()
    try:
        print(dashboard(arguments))
    except ModuleNotFoundError as error:
        if error.name != "wandb_workspaces":
            raise
        sys.exit("error: dashboards need wandb-workspaces: pip install -e '.[dashboards]'")
    except (OSError, ValueError, RuntimeError, HydraException, OmegaConfBaseException, WandbError) as error:
        sys.exit(f"error: {error}")


def dashboard(arguments: argparse.Namespace) -> str:
    """Build the workspace and save it, or give its spec."""
    from necklace.study.dashboard import workspace

    entity = arguments.entity
    if not arguments.dry_run:
        mode, why = wandb_mode(None)
        if mode != "online":
            raise RuntimeError(
                f"{why or 'no API key is configured (wandb login, or WANDB_API_KEY), or WANDB_MODE forbids it'}; "
                "--dry-run prints the workspace without a server; experiments/NAME/report.html shows the same here"
            )
        entity = entity or wandb.Api(timeout=10).default_entity
    study = read_study(Path("experiments") / arguments.name / "study.yaml")
    with initialize_config_dir(str(HERE / "configs"), version_base="1.3"):
        built = workspace(make_plan(study, arguments.overrides, 1), entity or "")
    if arguments.dry_run:
        return built._to_model().model_dump_json(by_alias=True, indent=1)
    return f"saved: {built.save().url}"


if __name__ == "__main__":
    main()
