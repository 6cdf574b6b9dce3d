"""What a knockout has found, as a table of plain text."""

from collections.abc import Mapping, Sequence
from typing import Any

CHANGES = {"silenced": "silenced", "mean": "mean over images", "positions": "positions shuffled", "images": "images shuffled"}
SCOPES = {"one": "this one changed", "others": "all but this one changed"}


def knockout_lines(content: Mapping[str, Any]) -> list[str]:
    """The lines to print of `knock_out_run`'s content: for each layer what flows, and what it costs to change it."""
    lines: list[str] = []
    metric = content["metric"]
    for name, layer in content["layers"].items():
        rows = [row for row in content["changes"] if row["layer"] == name]
        if not rows:
            continue
        if not lines:
            lines.append(f"{metric} {100 * content['value']:.2f} % on {content['images']} images of val, with nothing changed")
        lines += ["", f"{name}: what flows (share of the contribution, in %), and what matters:"]
        lines.append(f"the drop in {metric} in points [95 % interval over images, for these weights]")
        kinds = [kind for kind in CHANGES if any(row["change"] == kind for row in rows)]
        for scope, words in SCOPES.items():
            found = {(row["context"], row["change"]): _drop(row) for row in rows if row["scope"] == scope}
            if found:
                table = [["", "flows", *(CHANGES[kind] for kind in kinds)]]
                for context, share in zip(layer["contexts"], layer["share"], strict=True):
                    flows = "" if share is None else f"{100 * share:.1f}"
                    table.append([context, flows, *(found.get((context, kind), "") for kind in kinds)])
                lines += [f"{words}:", *_aligned(table)]
    if lines:
        lines += ["", "A drop near 0 with a large share: much flows, and the net does not need it. One seed is one net."]
    return lines + [f"note: {note}" for note in content["notes"]]


def _drop(row: Mapping[str, Any]) -> str:
    ends = "" if row["low"] is None else f" [{100 * row['low']:.2f}, {100 * row['high']:.2f}]"
    return f"{100 * row['drop']:.2f}{ends}"


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True))])
        for row in table
    ]
