"""Names and messages as text: what a terminal would obey, and what Markdown would load, is shown instead."""

import re
import unicodedata

# Without these two, names in some scripts read wrong; they direct nothing.
_JOINERS = "\u200c\u200d"


def printable(text: str) -> str:
    r"""Text in which every control character is spelled out, such as `\x1b`; line breaks and tabs stay.

    Among them are those that turn the direction of writing, which can make a name look like another.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _is_shown(character) else _spelled(character) for character in text)


def on_one_line(text: str) -> str:
    """`printable` text without line breaks."""
    return printable(" ".join(text.split("\n")))


def in_markdown(text: str) -> str:
    """Text for a line of Markdown: no HTML, no link and no picture, which a page would fetch from elsewhere."""
    text = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", on_one_line(text))
    return re.sub(r"\](?=[(:\[])", r"]\\", text)


def _is_shown(character: str) -> bool:
    kind = unicodedata.category(character)
    return character in "\n\t" or character in _JOINERS or not (kind.startswith("C") or kind in ("Zl", "Zp"))


def _spelled(character: str) -> str:
    return ascii(character)[1:-1]
