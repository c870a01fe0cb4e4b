"""What all commands print with: text, tables, JSON. Colours on a terminal only, and not with NO_COLOR.

What is printed here is for people and may change; `--json` is for programs. Nothing of what is shown is taken for
markup: names and rules come from the node and may hold brackets.
"""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

out = Console(highlight=False, soft_wrap=True, emoji=False)  # 0e:ab:1c is a MAC, and ":ab:" no emoji
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
_PIPE = 1000
"""Columns that a pipe has: what goes to grep is not folded."""


def as_json(shape: object) -> None:
    """Print JSON."""
    print(jsonlib.dumps(shape, indent=2))


def table(title: str, columns: Sequence[str], rows: Sequence[object]) -> None:
    """Print rows, which are dicts, as a table; `title: none` without any."""
    if not rows:
        lines(f"{title}: none")
        return
    put(a_table(title, columns, rows))


def put(made: Table) -> None:
    """Print a table that is made already; on a pipe nothing of it is folded."""
    where = out if out.is_terminal else Console(highlight=False, soft_wrap=True, emoji=False, width=_PIPE)
    where.print(made)


def a_table(title: str, columns: Sequence[str], rows: Sequence[object]) -> Table:
    """The table itself."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for each in columns:
        made.add_column(each, overflow="fold")
    for row in rows:
        assert isinstance(row, dict)
        made.add_row(*(escape(cell(row.get(each))) for each in columns))
    return made


def lines(text: str) -> None:
    """Print text as it is."""
    out.print(text, markup=False)


def heading(text: str) -> None:
    """Print a heading."""
    out.print(text, markup=False, style="bold")


def cell(value: object) -> str:
    """A value as a table has it."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str("" if value is None else value)
