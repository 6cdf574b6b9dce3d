"""Which random streams vary with the seed in the rows of a study, in words."""

from collections.abc import Sequence

from necklace.results.prose import Code, Part, Sentence
from necklace.results.results import Row
from necklace.seeding import GROUPS, varying_streams

WORDS = {
    "init": "the initial weights",
    "order": "the order of the images",
    "augment": "the augmentation (and dropout)",
    "rounding": "the rounding (the last place of the initial weights)",
}


def varying(row: Row) -> tuple[str, ...] | None:
    """The streams that follow the seed in a row's finished runs, see `varying_streams`; None without any."""
    configs = [run.record.config for run in row.runs if run.record and "seed" in run.record.config]
    return varying_streams(configs) if configs else None


def streams_sentences(rows: Sequence[Row]) -> list[Sentence]:
    """What a seed decides, for a methods section: once where it is the same in all rows, else by row."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if (streams := varying(row)) is not None:
            found.setdefault(streams, []).append(row)
    sentences: list[Sentence] = []
    for streams, own in found.items():
        names: list[Part] = []
        for number, row in enumerate(own):
            names += [", " if number else "", Code(row.name)]
        start: list[Part] = ["The seed decides "] if len(found) == 1 else ["In ", *names, ", the seed decides "]
        sentences.append([*start, f"{_joined(streams)}{_kept(streams, own)}."])
    return sentences


def streams_notes(rows: Sequence[Row]) -> list[str]:
    """The same as notes below a table, where not all that can vary does so in every row."""
    if all(varying(row) in (None, GROUPS) for row in rows):
        return []
    return ["".join(part.text if isinstance(part, Code) else str(part) for part in each) for each in streams_sentences(rows)]


def _joined(streams: Sequence[str]) -> str:
    words = [WORDS[name] for name in streams]
    return f"{', '.join(words[:-1])}{',' * (len(words) > 2)} and {words[-1]}" if len(words) > 1 else "".join(words) or "nothing"


def _kept(streams: Sequence[str], rows: Sequence[Row]) -> str:
    """Which streams stay, and at which seed."""
    stays = [name for name in GROUPS if name not in streams]
    own = [run.record.config.get("streams") or {} for row in rows for run in row.runs if run.record]
    places = [(name, sorted({each[name] for each in own if each.get(name) is not None})) for name in stays]
    words = [f"{WORDS[name]} at {', '.join(map(str, values))}" for name, values in places]
    return f"; what else is random has a seed of its own ({'; '.join(words)})" if words else ""
