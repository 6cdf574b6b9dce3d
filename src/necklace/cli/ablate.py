"""A study, from plan to table: necklace ablate NAME, for what experiments/NAME/study.yaml asks.

Heavy imports wait until the command line is known to be good, and the launcher's server imports them meanwhile.
"""

import argparse
import math
import os
import re
import sys
from pathlib import Path

from necklace.cli.deferred import defer_scipy_signal
from necklace.cli.stopping import ENDED, STOPPED, at_once, ending_quickly, stoppable
from necklace.study.overrides import override, row_overrides
from necklace.study.study_file import (
    EXPERIMENTS,
    METRIC_NAMES,
    STUDY_FILE,
    StudyFile,
    known_metric,
    named_rows,
    read_study,
    shared_overrides,
    study_name,
)

VERBS = ("run", "plan", "table", "verify", "reproduce", "sync")
# Seeds up to which --until-decided goes unless told otherwise, and the most that it may be told.
MAX_SEEDS, MOST_SEEDS = 40, 1000
# These need records/ alone.
OF_RECORDS = ("verify", "reproduce", "metric")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command and carry it out; exit code 1 where a run is not done or something does not hold."""
    parsed = parse(arguments)
    trust_folders(parsed.trust)
    from necklace.cli.errors import EXPECTED, error_line

    try:
        check(parsed)
        if parsed.verb == "run" and not parsed.root:
            from necklace.launcher.server import start_server
            from necklace.study.preload import PRELOAD

            start_server(PRELOAD)  # which imports, on another core, what this process is about to import as well
        defer_scipy_signal()
        with at_once():
            from necklace.cli.study import carry_out

        with stoppable(ENDED if parsed.verb in OF_RECORDS else STOPPED), ending_quickly():
            sys.exit(carry_out(parsed))
    except EXPECTED as error:
        sys.exit(error_line(error))


def trust_folders(folders: list[Path]) -> None:
    """Let this process, and those that it starts, import modules of folders that the command trusts."""
    places = [str(folder.resolve()) for folder in folders]
    if places:
        sys.path[:0] = places
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*places, os.environ.get("PYTHONPATH")]))


def check(parsed: argparse.Namespace) -> None:
    """Find mistakes in what was asked for before anything heavy is imported.

    Sets `name` to the study's name alone, and `composer` to what has composed its first row, or None.

    Raises:
        ValueError: The name is none, or the study's file or an override is wrong.
        FileNotFoundError: There is no such study.
    """
    parsed.composer = None
    if parsed.name is None:
        return
    parsed.name = study_name(parsed.name)
    folder = EXPERIMENTS / parsed.name
    if parsed.verb == "run" and (folder / STUDY_FILE).is_file():
        print(f"{parsed.name}: starting", flush=True)  # at once: what follows is imported and composed for seconds
    if parsed.verb not in OF_RECORDS or not folder.is_dir():
        file = read_study(folder / STUDY_FILE)
        if parsed.verb not in OF_RECORDS:
            if parsed.until_decided:
                _check_until(file, parsed)
            _check_overrides(file, parsed)


def _check_until(file: StudyFile, parsed: argparse.Namespace) -> None:
    """Refuse studies that cannot run until they are decided; sets `most_seeds`, whether it was given or not."""
    if file.choose:
        raise ValueError(
            f"{file.name}: --until-decided: the study has choose, and what is chosen may change with every seed, and with it "
            "what is compared; choose first, and give the rows what was chosen in a study of their own"
        )
    if getattr(file, "rule", None) == "fixed":
        raise ValueError(f"{file.name}: --until-decided: study.yaml says rule: fixed; must be anytime, or left out")
    parsed.most_seeds = parsed.max_seeds or max(MAX_SEEDS, len(file.seeds))
    if parsed.most_seeds < len(file.seeds):
        raise ValueError(f"--max-seeds {parsed.most_seeds}: must be at least {len(file.seeds)}, the seeds of study.yaml")
    own = [text for text in parsed.overrides if text.startswith("hydra/launcher=")]
    if parsed.budget is not None and own and own[-1] != "hydra/launcher=local":
        raise ValueError(
            f"--budget with {own[-1]}: jobs wait in its queue, where no budget holds them; leave one of the two out"
        )


def _check_overrides(file: StudyFile, parsed: argparse.Namespace) -> None:
    """Compose the first row as far as Hydra goes, and keep it in `composer` for the plan, which composes all of them."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from necklace.cli.train import CONFIGS
    from necklace.config import Composer

    shared, for_hydra = overrides_of(parsed)
    grid = next((grid for grid in file.grids if "match" not in grid), {})
    options, name = named_rows(grid)[0] if grid else ({}, "")
    told = [*for_hydra, *shared_overrides(file, shared), *row_overrides(options)]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        parsed.composer = Composer(GlobalHydra.instance().config_loader(), "train")
        try:
            parsed.composer.prepare(told)
        except (HydraException, OmegaConfBaseException) as error:
            from necklace.options.refusal import explained

            raise ValueError(f"{file.name}: row '{name}': {explained(parsed.composer, told, error)}") from error


def overrides_of(parsed: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The overrides of the runs, and those of Hydra's own options, with the launcher among them.

    Raises:
        ValueError: One sets what the study sets.
    """
    own = [text for text in parsed.overrides if not text.lstrip("+~").startswith("hydra")]
    for_hydra = [text for text in parsed.overrides if text not in own]
    for text in own:
        if text.lstrip("+~").partition("=")[0] in ("seed", "study", "rerun"):
            raise ValueError(f"{text}: the study sets this; see --seeds, --retry-failed and --rerun-stale")
    if parsed.config_dir:
        for_hydra.append(override("hydra.searchpath", [f"file://{parsed.config_dir.resolve()}"]))
    from necklace.launcher.local import launching_overrides

    return own, launching_overrides(for_hydra)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line (None: this process's) as a namespace, with `verb` for what is to be done."""
    parser = argparse.ArgumentParser(
        prog=None if arguments is None else "necklace ablate",
        description="Run what is missing of a study and write its tables, figures and report.",
        epilog="Overrides (key=value) are Hydra's, of all runs; hydra.launcher.slots=N trains so many runs side by side.",
    )
    parser.add_argument("name", nargs="?", help="folder below experiments/, or its path")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help=f"may begin with a verb: {', '.join(VERBS)}"
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--plan", action="store_true", help="only print what is done and what is missing")
    instead.add_argument("--table", action="store_true", help="train nothing, write the tables of the finished runs")
    parser.add_argument("--retry-failed", action="store_true", help="train failed runs again")
    parser.add_argument("--rerun-stale", action="store_true", help="train runs again that other code has trained")
    parser.add_argument("--seeds", type=int, metavar="N", help="so many seeds instead of the study's")
    parser.add_argument("--until-decided", action="store_true", help="run seed after seed until each row is decided")
    parser.add_argument(
        "--max-seeds", type=_max_seeds, metavar="N", help=f"with --until-decided: at most, by default {MAX_SEEDS}"
    )
    parser.add_argument(
        "--budget", type=_seconds, metavar="TIME", help="with --until-decided: start no run after so long, such as 3h or 45m"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="FIELD", help="let a field differ; printed below the table"
    )
    instead.add_argument("--verify", action="store_true", help="derive everything committed from records/ and compare")
    again = "train K random runs again and compare with their records; what is found of stale ones is noted in the table"
    instead.add_argument("--reproduce", type=int, metavar="K", help=again)
    instead.add_argument("--wandb-sync", action="store_true", help="upload the runs that W&B does not have yet; train nothing")
    parser.add_argument("--config-dir", type=Path, metavar="DIR", help="more configs, such as a neck of yours")
    parser.add_argument(
        "--trust", type=Path, action="append", default=[], metavar="DIR", help="folder of your own classes; their code runs"
    )
    instead.add_argument("--from", dest="root", type=Path, metavar="DIR", help="a table of any runs, such as outputs/runs")
    parser.add_argument(
        "--metric",
        type=_metric,
        metavar="METRIC",
        help=f"print the table of another metric, and write nothing: {METRIC_NAMES}",
    )
    parser.add_argument("--figures", type=Path, metavar="DIR", help="with --from: also draw figures into this folder")
    parsed = parser.parse_intermixed_args(arguments)
    _take_verb(parsed, parser)
    if (parsed.name is None) == (parsed.root is None):
        parser.error("one of NAME and --from DIR, please")
    _check_until_decided(parsed, parser)
    if parsed.root is None and parsed.figures:
        parser.error("--figures goes with --from DIR; a study draws its figures into its own folder")
    if parsed.root is None and parsed.metric:
        if parsed.verb not in ("run", "table") or parsed.overrides:
            parser.error("--metric goes with NAME or --from DIR alone: it prints a table and does nothing else")
        parsed.verb = "metric"
    for flag, folder in (("--config-dir", parsed.config_dir), *(("--trust", each) for each in parsed.trust)):
        if folder and not folder.is_dir():
            parser.error(f"{flag} {folder}: there is no such folder")
    if parsed.name and "=" in parsed.name:
        parser.error(f"the study's name comes before overrides such as {parsed.name}")
    return parsed


def _check_until_decided(parsed: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Refuse what does not go together with --until-decided, or only with it."""
    if not parsed.until_decided:
        for flag, value in (("--max-seeds", parsed.max_seeds), ("--budget", parsed.budget)):
            if value is not None:
                parser.error(f"{flag} goes with --until-decided")
        return
    if parsed.seeds is not None:
        parser.error("--seeds and --until-decided: one of them, please; --max-seeds N says how far it may go")
    if parsed.root is not None or parsed.metric or parsed.verb not in ("run", "plan", "table"):
        parser.error("--until-decided goes with NAME, and with --plan or --table")
    if parsed.budget is not None and parsed.verb != "run":
        parser.error("--budget: nothing is trained here")


def _max_seeds(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{text}: must be a whole number from 1 to {MOST_SEEDS}")
    return int(text)


def _seconds(text: str) -> float:
    """Seconds of a time such as `3h`, `45m`, `90s` or `1h30m`."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text, re.ASCII)
    seconds = math.fsum(float(number) * {"d": 86400, "h": 3600, "m": 60, "s": 1}[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: must be a time above 0, such as 3h, 45m or 90s")
    return seconds


def _take_verb(parsed: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Set `verb` from the flags, or from a verb behind the study's name, and take it off the overrides."""
    flags = {
        "plan": ("--plan", parsed.plan),
        "table": ("--table", parsed.table),
        "verify": ("--verify", parsed.verify),
        "reproduce": ("--reproduce", parsed.reproduce is not None),
        "sync": ("--wandb-sync", parsed.wandb_sync),
    }
    parsed.verb = next((verb for verb, (_, given) in flags.items() if given), "run")
    if parsed.overrides and _is_word(parsed.overrides[0]):
        verb = parsed.overrides.pop(0)
        if verb not in VERBS:
            parser.error(f"{verb}: must be key=value or one of {', '.join(VERBS)}")
        if parsed.verb not in ("run", verb):
            parser.error(f"{verb} and {flags[parsed.verb][0]}: one of them, please")
        parsed.verb = verb
    if parsed.verb == "reproduce" and parsed.reproduce is None:
        count = parsed.overrides.pop(0) if parsed.overrides and _is_word(parsed.overrides[0]) else "1"
        if not count.isdecimal():
            parser.error(f"reproduce {count}: must be a number of runs")
        parsed.reproduce = int(count)
    for text in filter(_is_word, parsed.overrides):
        parser.error(f"{text}: must be key=value; one verb may follow the study's name: {', '.join(VERBS)}")


def _metric(name: str) -> str:
    try:
        return known_metric(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"invalid choice: {name!r} (one of {METRIC_NAMES})") from error


def _is_word(text: str) -> bool:
    """Whether it can be no override of Hydra's, which are key=value or ~key."""
    return "=" not in text and not text.startswith("~")


if __name__ == "__main__":
    main()
