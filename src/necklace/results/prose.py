"""Sentences for a paper: text, code and citations, as Markdown or LaTeX, and the BibTeX entries of what they cite.

A sentence is a sequence of parts. Names from a study are text or code, never markup, so that nothing in them is obeyed.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from necklace.guard.text import in_markdown, on_one_line


@dataclass(frozen=True)
class Code:
    """A name or a command, set as code."""

    text: str


@dataclass(frozen=True)
class Cite:
    """A reference; its key is one of `BIBLIOGRAPHY`."""

    key: str


Part = str | Code | Cite
Sentence = Sequence[Part]
Paragraph = tuple[str, Sequence[Sentence]]
"""A heading, and sentences."""

# Key to type, fields and, for Markdown, the reference in words.
BIBLIOGRAPHY: dict[str, tuple[str, dict[str, str]]] = {
    "yang2022focal": (
        "inproceedings",
        {
            "author": "Yang, Jianwei and Li, Chunyuan and Dai, Xiyang and Gao, Jianfeng",
            "title": "Focal Modulation Networks",
            "booktitle": "Advances in Neural Information Processing Systems",
            "year": "2022",
            "eprint": "2203.11926",
            "archiveprefix": "arXiv",
        },
    ),
    "he2014spp": (
        "inproceedings",
        {
            "author": "He, Kaiming and Zhang, Xiangyu and Ren, Shaoqing and Sun, Jian",
            "title": "Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition",
            "booktitle": "European Conference on Computer Vision",
            "year": "2014",
            "eprint": "1406.4729",
            "archiveprefix": "arXiv",
        },
    ),
    "bouthillier2021accounting": (
        "inproceedings",
        {
            "author": "Bouthillier, Xavier and Delaunay, Pierre and Bronzi, Mirko and others",
            "title": "Accounting for Variance in Machine Learning Benchmarks",
            "booktitle": "Proceedings of Machine Learning and Systems",
            "year": "2021",
            "eprint": "2103.03098",
            "archiveprefix": "arXiv",
        },
    ),
    "wang2023anytime": (
        "misc",
        {
            "author": "Wang, Hongjian and Ramdas, Aaditya",
            "title": "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance",
            "year": "2023",
            "eprint": "2310.03722",
            "archiveprefix": "arXiv",
        },
    ),
    "holm1979simple": (
        "article",
        {
            "author": "Holm, Sture",
            "title": "A Simple Sequentially Rejective Multiple Test Procedure",
            "journal": "Scandinavian Journal of Statistics",
            "volume": "6",
            "number": "2",
            "pages": "65--70",
            "year": "1979",
        },
    ),
    "yadan2019hydra": (
        "misc",
        {
            "author": "Yadan, Omry",
            "title": "{Hydra}: A framework for elegantly configuring complex applications",
            "year": "2019",
            "howpublished": "https://github.com/facebookresearch/hydra",
        },
    ),
    "falcon2019lightning": (
        "misc",
        {
            "author": "Falcon, William and {The PyTorch Lightning team}",
            "title": "{PyTorch Lightning}",
            "year": "2019",
            "howpublished": "https://github.com/Lightning-AI/pytorch-lightning",
        },
    ),
    "biewald2020wandb": (
        "misc",
        {
            "author": "Biewald, Lukas",
            "title": "Experiment Tracking with {Weights and Biases}",
            "year": "2020",
            "howpublished": "https://www.wandb.com",
        },
    ),
}


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
    fields = {name: text.replace("{", "").replace("}", "") for name, text in BIBLIOGRAPHY[key][1].items()}
    where = fields.get("booktitle") or fields.get("journal") or fields.get("howpublished", "")
    more = [where, f"arXiv {fields['eprint']}" if "eprint" in fields else ""]
    authors = [name.partition(",")[0] for name in fields["author"].split(" and ")]
    names = f"{authors[0]} et al." if len(authors) > 2 else " and ".join(authors)
    return ". ".join([f"{names} ({fields['year']})", fields["title"], ", ".join(text for text in more if text)]) + "."
