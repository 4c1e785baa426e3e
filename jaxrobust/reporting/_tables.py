"""Tables: Markdown in reports, the same on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class Table:
    """A table with a caption."""

    caption: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        """The table in Markdown."""

        def line(cells: Sequence[str]) -> str:
            return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"

        rule = "|" + "|".join(["---"] + ["---:"] * (len(self.headers) - 1)) + "|"
        lines = [line(self.headers), rule, *map(line, self.rows)]
        return f"**{self.caption}**\n\n" + "\n".join(lines) + "\n"


def print_table(table: Table) -> None:
    """Show a table on the terminal."""
    from rich.console import Console
    from rich.table import Table as RichTable

    shown = RichTable(title=table.caption, title_justify="left")
    for number, header in enumerate(table.headers):
        shown.add_column(header, justify="left" if number == 0 else "right", no_wrap=number == 0, overflow="fold")
    for row in table.rows:
        shown.add_row(*row)
    console = Console()
    console.print(shown) if console.is_terminal else Console(width=150).print(shown)
