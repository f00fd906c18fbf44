"""A plain page: findings in words, key figures, then pictures and tables in the order given. It works from a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stmp_platform.report.page import figure_html, render

if TYPE_CHECKING:
    from markupsafe import Markup
    from plotly.graph_objects import Figure


@dataclass(frozen=True)
class Part:
    """A picture, or a table whose first column names its rows."""

    title: str
    caption: str = ""
    html: Markup | None = None
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


@dataclass
class Sheet:
    """What a page says.

    Attributes
    ----------
    sentences, warnings : list of str
        The findings, the most important first; what the reader must know before believing them.
    tiles : list of (name, value, note)
    """

    title: str
    subtitle: str
    sentences: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tiles: list[tuple[str, str, str]] = field(default_factory=list)
    parts: list[Part] = field(default_factory=list)

    def picture(self, title: str, figure: Figure, caption: str) -> None:
        """Add a picture."""
        self.parts.append(Part(title, caption, html=figure_html(figure, f"{len(self.parts)}")))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
        """Add a table, if it has rows."""
        if rows:
            self.parts.append(Part(title, caption, columns=columns, rows=rows))

    def write(self, page: Path) -> Path:
        """Write the page, whole or not at all."""
        content: dict[str, Any] = {name: getattr(self, name) for name in self.__dataclass_fields__}
        page.parent.mkdir(parents=True, exist_ok=True)
        beside = page.with_name(f".{page.name}.part")
        try:
            beside.write_text(render("sheet.html.j2", content), encoding="utf-8")
            beside.replace(page)
        finally:
            beside.unlink(missing_ok=True)
        return page
