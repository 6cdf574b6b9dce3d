"""What was measured of a study's rows at the end: `records/costs.json`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from necklace.atomic import write_changed
from necklace.migrations import migrated_cost
from necklace.record import checked, read_json


@dataclass(frozen=True)
class _Cost:
    """What was measured of a row: speeds and memory, the run and code that it was measured of, and the conditions."""

    latency_ms: float
    train_images_per_s: float
    peak_memory_mib: float
    device: str
    threads: int
    hash: str
    code: str


def write_costs(costs: dict[str, dict[str, Any]], folder: Path) -> None:
    """Write the costs of a study's rows into its folder."""
    path = folder / "records" / "costs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_changed(path, json.dumps(costs, indent=1, sort_keys=True, allow_nan=False) + "\n")


def read_costs(folder: Path) -> dict[str, dict[str, Any]]:
    """The costs in a study's folder; none if there are none.

    Raises:
        ValueError: The file is not what `write_costs` writes.
    """
    path = folder / "records" / "costs.json"
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be a mapping of rows to their costs")
    return {row: asdict(checked(_Cost, migrated_cost(cost), path, row)) for row, cost in content.items()}
