"""The runs that a study asks for, each composed once, with the spec that trains it."""

import copy
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from necklace.build import facts_of, forget_data
from necklace.config import Composer, cause_of, choices_of, resolved
from necklace.data.splits import splits_key
from necklace.guard.private import without_home
from necklace.guard.targets import check_composed, named_folders, named_targets
from necklace.identity import shown
from necklace.options.check import check_options, check_split_options
from necklace.options.errors import OptionError
from necklace.options.refusal import composed
from necklace.options.signatures import defined
from necklace.spec import RunSpec, run_spec, said_of
from necklace.study.matching import matched_width
from necklace.study.metrics import TASK_METRICS, usual_metric
from necklace.study.overrides import override, row_overrides
from necklace.study.store import StudyInfo
from necklace.study.study_file import StudyFile, axes_of, first_seeds, named_rows, shared_overrides


@dataclass(frozen=True)
class PlannedRun:
    """One run that a study asks for.

    Attributes:
        row: Name of its row.
        seed: Its seed.
        choice: Option to the value that is tried with it, where the study chooses.
        spec: The run itself.
    """

    row: str
    seed: int
    choice: dict[str, Any]
    spec: RunSpec


@dataclass(frozen=True)
class Plan:
    """All runs of a study.

    Attributes:
        file: What its author wrote.
        rows: Row to the overrides that make it, in order.
        controls: Row whose width was matched to another's neck to what was matched, `params` or `macs`.
        runs: Row by row, seed by seed; at least one.
        dropped: Sentences about rows that were asked for twice.
        metric: Name of the metric that the study is about.
        composed: The first row's config with its `hydra` node: which launcher, with which options, and where configs lie.
        hydra_overrides: The overrides of Hydra's own options that it was composed with.
    """

    file: StudyFile
    rows: dict[str, tuple[str, ...]]
    controls: dict[str, str]
    runs: tuple[PlannedRun, ...]
    dropped: tuple[str, ...]
    metric: str
    composed: DictConfig
    hydra_overrides: tuple[str, ...]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.file.name

    @property
    def axes(self) -> tuple[str, ...]:
        """Config keys that may differ between runs."""
        return axes_of(self.file)

    @property
    def root(self) -> Path:
        """The folder of the runs' folders."""
        return self.runs[0].spec.root

    @property
    def lock_dir(self) -> Path:
        """The folder of the launcher's locks on cores and GPUs."""
        return self.root.parent / ".slots"

    @property
    def loggers(self) -> dict[str, dict[str, Any]]:
        """Key of each of the runs' loggers to its options, the same for all runs."""
        return self.runs[0].spec.loggers

    @property
    def images(self) -> tuple[str, ...]:
        """Keys of the images that the runs see, as `necklace.data.splits` has them."""
        return tuple(dict.fromkeys(splits_key(run.spec.resolved["data"]) for run in self.runs))

    def info(self, allow: Sequence[str], arguments: Sequence[str]) -> StudyInfo:
        """The study as records/ describes it.

        Args:
            allow: Fields that may differ besides the axes.
            arguments: What the command was given.
        """
        return StudyInfo(
            name=self.name,
            question=self.file.question,
            baseline=self.file.baseline,
            metric=self.metric,
            rows=tuple(self.rows),
            seeds=tuple(dict.fromkeys(run.seed for run in self.runs)),
            overrides=without_home(self.file.overrides),
            axes=self.axes,
            same=self.file.same,
            controls=self.controls,
            tolerance=self.file.tolerance,
            allow=tuple(allow),
            arguments=tuple(arguments),
            dropped=self.dropped,
        )


def make_plan(
    study: StudyFile,
    extra: Sequence[str] = (),
    seeds: int | None = None,
    hydra_overrides: Sequence[str] = (),
    composer: Composer | None = None,
    trust: Sequence[Path] = (),
) -> Plan:
    """Compose all runs of a study; Hydra has to be initialised with the configs.

    Args:
        study: The study.
        extra: Overrides of all runs, on top of the study's.
        seeds: So many of the study's seeds; beyond them, the next whole numbers.
        hydra_overrides: Overrides of Hydra's own options.
        composer: One that has read some of the configs already.
        trust: Folders whose Python files may run, besides those of `hydra_overrides`.

    Returns:
        The plan; runs that come twice are in it once.

    Raises:
        ValueError: The baseline or another named row does not exist, a width cannot be matched, the study names a class that
            may not run, or options are wrong: those of a row have to have an effect in it, those of all rows in at least one.
    """
    forget_data()  # which may have changed since an earlier plan
    composer = composer or Composer(GlobalHydra.instance().config_loader(), "train")
    planner = _Planner(shared_overrides(study, extra), hydra_overrides, composer, trust, named_targets(extra))
    rows, controls = _rows(study, planner)
    for row in [study.baseline, *(study.same or ())]:
        if row not in rows:
            raise ValueError(f"{study.name}: {row}: there is no such row; rows: {'; '.join(rows)}")
    chosen = _seeds(study, seeds)
    choices = [dict(zip(study.choose, values, strict=True)) for values in itertools.product(*study.choose.values())]
    runs: dict[str, PlannedRun] = {}
    dropped, kept = [], {}
    for name, overrides in rows.items():
        own: list[PlannedRun] = []
        for choice in choices:
            tried = tuple(override(key, value) for key, value in choice.items())
            try:
                own += planner.runs(name, choice, (*overrides, *tried), chosen)
            except (ValueError, HydraException, OmegaConfBaseException) as error:
                raise ValueError(f"{study.name}: row '{name}': {cause_of(error)}") from error
        twins = ", ".join(sorted({runs[run.spec.hash].row for run in own if run.spec.hash in runs}))
        if twins and not all(run.spec.hash in runs for run in own):
            raise ValueError(f"{study.name}: some of the runs of row '{name}' are those of row '{twins}'")
        if twins:
            dropped.append(f"row '{name}' is the same as row '{twins}' and was dropped")
            if name == study.baseline or name in (study.same or ()):
                raise ValueError(f"{study.name}: {dropped[-1]}, but the study names it")
            continue
        kept[name] = overrides
        runs |= {run.spec.hash: run for run in own}
    if unread := planner.unread():
        raise ValueError("\n".join(f"{study.name}: {option}: no row reads it: {why}" for option, why in unread.items()))
    return Plan(
        file=study,
        rows=kept,
        controls={name: what for name, what in controls.items() if name in kept},
        runs=tuple(runs.values()),
        dropped=tuple(dropped),
        metric=_metric(study, tuple(runs.values())),
        composed=planner.first,
        hydra_overrides=tuple(hydra_overrides),
    )


def _seeds(study: StudyFile, count: int | None) -> tuple[int, ...]:
    """The study's seeds, or as many as were asked for."""
    if count is None:
        return study.seeds
    if count < 1:
        raise ValueError(f"--seeds {count}: must be at least 1")
    return first_seeds(study, count)


def _metric(study: StudyFile, runs: Sequence[PlannedRun]) -> str:
    """The study's metric, which each of its rows has to have; where it names none, that of the baseline's task."""
    tasks = {run.row: run.spec.resolved["task"]["_target_"] for run in runs}
    if study.metric is None:
        return usual_metric(tasks[study.baseline])
    for row, task in tasks.items():
        names, of_a_class = TASK_METRICS.get(defined(task), ((), ()))
        if names and study.metric not in names and not study.metric.startswith(of_a_class):
            have = ", ".join((*names, *(f"{name}CLASS" for name in of_a_class)))
            raise ValueError(f"{study.name}: metric: {study.metric}: row '{row}' will not have it; its task measures {have}")
    return study.metric


def _rows(study: StudyFile, planner: "_Planner") -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Row to its overrides, and matched row to what was matched."""
    rows: dict[str, tuple[str, ...]] = {}
    matched: list[tuple[str, dict[str, Any], Mapping[str, Any]]] = []
    for grid in study.grids:
        for options, name in named_rows(grid):
            if "match" in grid:
                matched.append((name, options, grid))
                rows.setdefault(name, ())  # its place in the order; its width comes when all rows are known
            else:
                rows.setdefault(name, row_overrides(options))
    for name, options, grid in matched:
        if not rows.get(grid["to"]):
            raise ValueError(f"{study.name}: to: {grid['to']}: there is no such row; rows: {', '.join(rows)}")
        overrides = row_overrides(options)
        try:
            own, target = (planner.composed(part)[1] for part in (overrides, rows[grid["to"]]))
        except (ValueError, HydraException, OmegaConfBaseException) as error:
            raise ValueError(f"{study.name}: row '{name}': {cause_of(error)}") from error
        rows[name] = (*overrides, f"neck.width={matched_width(own, target, grid['match'], name)}")
    return rows, {name: grid["match"] for name, _, grid in matched}


class _Planner:
    """Turns overrides into runs, composing once what they share."""

    def __init__(
        self,
        shared: tuple[str, ...],
        hydra_overrides: Sequence[str],
        composer: Composer,
        trust: Sequence[Path],
        named: Collection[str],
    ) -> None:
        self.first = DictConfig({})
        self._trust, self._named = trust, named
        self._composer = composer
        self._shared, self._for_hydra = shared, tuple(hydra_overrides)
        self._composed: dict[tuple[str, ...], tuple[DictConfig, dict[str, Any], dict[str, str]]] = {}
        self._idle: list[dict[str, str]] = []

    def composed(self, overrides: tuple[str, ...]) -> tuple[DictConfig, dict[str, Any], dict[str, str]]:
        """The config of a row's overrides, the same as plain containers, and the choices of groups; composed once."""
        if overrides not in self._composed:
            config = composed(self._composer, [*self._for_hydra, *self._shared, *overrides])
            choices = choices_of(config.hydra)
            if not self.first:
                self.first = copy.deepcopy(config)
            folders = [*named_folders(config.hydra), *self._trust]
            with open_dict(config):
                del config["hydra"]
            check_composed(config, folders, self._named)
            idle = check_options(config, choices, overrides, self._shared)
            plain = resolved(config)
            if plain["trainer"].get("fast_dev_run"):
                raise OptionError(
                    "trainer.fast_dev_run: leaves no record, and a study is made of records; train.py tries a run"
                )
            facts = facts_of(plain)
            self._idle.append(idle | check_split_options(facts.digest, facts.own_val, overrides, self._shared))
            self._composed[overrides] = config, plain, choices
        return self._composed[overrides]

    def unread(self) -> dict[str, str]:
        """Option to the reason why nothing reads it, of those that all rows share and none reads."""
        paths = set.intersection(*map(set, self._idle)) if self._idle else set()
        return {path: self._idle[0][path] for path in sorted(paths)}

    def runs(self, row: str, choice: dict[str, Any], overrides: tuple[str, ...], seeds: Sequence[int]) -> list[PlannedRun]:
        """The runs of a row and choice, one for each seed."""
        config, shared, choices = self.composed(overrides)
        refers = "${seed}" in json.dumps(OmegaConf.to_container(config, resolve=False), default=str)
        said = said_of(config, shared, choices, self._composer, [*self._for_hydra, *self._shared, *overrides])
        found = []
        for seed in seeds:
            if refers:
                config.seed = seed
                shared = resolved(config)
                said = said_of(config, shared, choices, self._composer, [*self._for_hydra, *self._shared, *overrides])
            own = {**shared, "seed": seed}
            given = (*self._shared, *overrides, f"seed={seed}")
            found.append(PlannedRun(row, seed, choice, run_spec(own, choices, given, said)))
        return found


def row_settings(plan: Plan) -> dict[str, dict[str, Any]]:
    """Settings of each run's loggers, where they have such options: its row, and the axes.

    Args:
        plan: The study.

    Returns:
        Run's hash to dotted key and value.
    """
    shared: dict[str, Any] = {f"{key}.axes": list(plan.axes) for key, options in plan.loggers.items() if "axes" in options}
    with_row = [f"{key}.row" for key, options in plan.loggers.items() if "row" in options]
    # What a study tries for a row, to choose from it, is no row of its own, but its runs are not to be averaged either.
    tried = [", ".join([run.row, *(f"{key}={shown(value)}" for key, value in run.choice.items())]) for run in plan.runs]
    return {run.spec.hash: {**dict.fromkeys(with_row, row), **shared} for run, row in zip(plan.runs, tried, strict=True)}
