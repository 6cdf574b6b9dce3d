"""rich's Console for names that come from elsewhere."""

from collections.abc import Iterable

from rich import console
from rich.segment import Segment

from necklace.guard.text import printable


class Console(console.Console):
    """Prints what it is given as text: a name cannot move the cursor, set a window's title or write over other lines."""

    def render(self, renderable: console.RenderableType, options: console.ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render, with control characters spelled out; rich's own come as segments of their own."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)
