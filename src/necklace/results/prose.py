"""Sentences for a paper: text, code and citations, as Markdown or LaTeX, and the BibTeX entries of what they cite.

A sentence is a sequence of parts. Names from a study are text or code, never markup, so that nothing in them is obeyed.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from necklace.guard.text import in_markdown, on_one_line
from necklace.results.methods_bibliography import BIBLIOGRAPHY


@dataclass(frozen=True)
class Code:
    """A name or a command, set as code."""

    text: str


@dataclass(frozen=True)
class Cite:
    """A reference; its key is one of `methods_bibliography.BIBLIOGRAPHY`."""

    key: str


Part = str | Code | Cite
Sentence = Sequence[Part]
Paragraph = tuple[str, Sequence[Sentence]]
"""A heading, and sentences."""


def cited(paragraphs: Iterable[Paragraph]) -> list[str]:
    """The keys that are cited, each once, in the order in which they come."""
    parts = (part for _, sentences in paragraphs for sentence in sentences for part in sentence)
    return list(dict.fromkeys(part.key for part in parts if isinstance(part, Cite)))


def markdown_of(title: str, paragraphs: Sequence[Paragraph]) -> str:
    """Paragraphs as Markdown, with Pandoc's citations and the references in words."""
    lines = [f"# {in_markdown(title)}", ""]
    for heading, sentences in paragraphs:
        lines += [f"**{heading}.** " + " ".join("".join(map(_markdown, sentence)) for sentence in sentences), ""]
    keys = cited(paragraphs)
    if keys:
        lines += ["References (BibTeX in `methods.bib`):", "", *(f"- \\[@{key}\\] {_reference(key)}" for key in keys), ""]
    return "\n".join(lines)


def latex_of(paragraphs: Sequence[Paragraph]) -> str:
    r"""Paragraphs as LaTeX, without a preamble; `\\bibliography{methods}` finds what they cite."""
    lines = []
    for heading, sentences in paragraphs:
        text = " ".join("".join(map(_latex_part, sentence)) for sentence in sentences)
        lines += [rf"\paragraph{{{latex_text(heading)}.}} {text}", ""]
    return "\n".join(lines)


def bibtex_of(paragraphs: Sequence[Paragraph]) -> str:
    """The BibTeX entries of what the paragraphs cite."""
    entries = []
    for key in cited(paragraphs):
        kind, fields = BIBLIOGRAPHY[key]
        entries.append("\n".join([f"@{kind}{{{key},", *(f"  {name} = {{{text}}}," for name, text in fields.items()), "}", ""]))
    return "\n".join(entries)


_LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "×": r"$\times$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "'": r"\textquotesingle{}", '"': r"\textquotedbl{}"}
_LATEX |= {character: f"\\{character}" for character in "&%$#_{}"}
_PROSE = _LATEX | {"'": "'", '"': "''"}


def latex_text(text: str, code: bool = False) -> str:
    """Text in which nothing is a command of LaTeX.

    Args:
        text: Any text.
        code: Whether it is set as code, where quotes are straight and hyphens stay apart.
    """
    known = _LATEX | {"-": "-{}"} if code else _PROSE
    return "".join(known.get(character, character) for character in on_one_line(text))


def _latex_part(part: Part) -> str:
    if isinstance(part, Cite):
        return rf"~\cite{{{part.key}}}"
    return rf"\texttt{{{latex_text(part.text, code=True)}}}" if isinstance(part, Code) else latex_text(part)


def _markdown(part: Part) -> str:
    if isinstance(part, Cite):
        return f" [@{part.key}]"
    if isinstance(part, Code):
        text = on_one_line(part.text)
        fence = "`" * (1 + max((len(run) for run in _runs_of_ticks(text)), default=0))
        pad = " " if text.startswith("`") or text.endswith("`") else ""
        return f"{fence}{pad}{text}{pad}{fence}"
    return in_markdown(part)


def _runs_of_ticks(text: str) -> list[str]:
    return [run for run in "".join(c if c == "`" else " " for c in text).split() if run]


def _reference(key: str) -> str:
    fields = {name: re.sub(r"[{}\\]", "", text) for name, text in BIBLIOGRAPHY[key][1].items()}
    where = fields.get("booktitle") or fields.get("journal") or fields.get("howpublished", "")
    more = [where, f"arXiv {fields['eprint']}" if "eprint" in fields else ""]
    authors = [name.partition(",")[0] for name in fields["author"].split(" and ")]
    names = f"{authors[0]} et al." if len(authors) > 2 else " and ".join(authors)
    return ". ".join([f"{names} ({fields['year']})", fields["title"], ", ".join(text for text in more if text)]) + "."
