"""How nodes and what is between them look on a terminal; `show` has the rest.

A matrix of up to sixteen nodes has round trips in its cells, a larger one a sign a pair, so that two hundred nodes
still fit a screen's width; who is lost to whom is said in words below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.markup import escape
from rich.table import Table

from cni_plugin.ctl.cluster.matrix import MatrixRow, Pair
from cni_plugin.ctl.cluster.nodes import NodeRow
from cni_plugin.ctl.cluster.ping import Echoed, Summary
from cni_plugin.ctl.cluster.roster import Roster
from cni_plugin.ctl.show import lines, out, put, table

MOST_WITH_TIMES = 16
_MOST_LOST = 20
_UNITS = ((86400 * 2, 86400, "d"), (3600 * 2, 3600, "h"), (60 * 2, 60, "min"), (0, 1, "s"))


def nodes(cluster: Roster, rows: Sequence[NodeRow], now: float, *, pinged: bool) -> None:
    """Print the nodes of one cluster, and below them what is wrong with some."""
    space = ", ".join(cluster.networks) or "no common network"
    title = f"{cluster.network}: {len(rows)} nodes by {cluster.backend or 'no backend'} in {space} ({cluster.source})"
    if cluster.trouble:
        out.print(f"{title}: {cluster.trouble}", markup=False, style="bold red")
    trip = ["round trip"] if pinged else []
    columns = ["node", "addresses", "subnets", "since", "way", *trip, "heard", "in kernel"]
    table(title, columns, [_row(each, now) for each in rows])
    for each in rows:
        why = "" if each.why == each.name else each.why
        if why:
            out.print(f"  {each.name}: {why}", markup=False, style="red" if each.reached is False else "yellow")
        for line in each.missing[:3]:
            lines(f"  {each.name} lacks: {line}")


def matrix(rows: Sequence[MatrixRow], lost: Sequence[tuple[str, str]], *, left_out: int) -> None:
    """Print a matrix, why rows are unknown, and which pairs are lost."""
    put(_times(rows) if len(rows) <= MOST_WITH_TIMES else _signs(rows))
    if left_out:
        lines(f"{left_out} more nodes were left out: this is a sample")
    for why, names in _reasons(rows).items():
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        out.print(f"not known from {', '.join(names[:5])}{more}: {why}", markup=False, style="yellow")
    for one, other in lost[:_MOST_LOST]:
        out.print(f"{one} does not reach {other}", markup=False, style="bold red")
    if len(lost) > _MOST_LOST:
        lines(f"and {len(lost) - _MOST_LOST} more pairs")
    pairs = [each for row in rows for each in row.pairs.values()]
    known = [each for each in pairs if each.ms is not None]
    lines(f"{len(known)} of {len(rows) * (len(rows) - 1)} pairs answer, {len(lost)} are lost"
          + (f"; median {milliseconds(sorted(each.ms or 0.0 for each in known)[len(known) // 2])}" if known else ""))


def echoed(name: str, each: Echoed) -> None:
    """Print one echo."""
    said = f"{each.ms:.3f} ms" if each.ms is not None else each.why
    style = "" if each.ms is not None else "red"
    out.print(f"{name} ({each.address}) {each.number}: {said}", markup=False, style=style)


def summary(one: Summary) -> None:
    """Print what the echoes to an address come to."""
    times = f", {one.least:.3f}/{one.mean:.3f}/{one.most:.3f} ms least/mean/most" if one.received else ""
    lines(f"{one.received} of {one.sent} answered from {one.address}{times}")


def milliseconds(value: float) -> str:
    """A round trip in few signs."""
    return f"{value:.2f} ms" if value < 10 else f"{value:.0f} ms"


def ago(seconds: float) -> str:
    """A time span in few signs."""
    size, unit = next((size, unit) for least, size, unit in _UNITS if seconds >= least or not least)
    return f"{seconds / size:.0f} {unit}"


def _row(each: NodeRow, now: float) -> dict[str, object]:
    known = each.programmed is not None
    return {
        "node": each.name,
        "addresses": each.addresses,
        "subnets": each.subnets,
        "since": f"{ago(max(now - each.since, 0))} ago" if each.since else "-",
        "way": each.way or "none",
        "round trip": milliseconds(each.rtt) if each.rtt is not None else "-" if each.reached is None else "no answer",
        "heard": f"{ago(each.handshake)} ago" if each.handshake is not None else "-",
        "in kernel": ("yes" if each.programmed else "NO") if known else "-",
    }


def _times(rows: Sequence[MatrixRow]) -> Table:
    made = _table("ms from / to")
    for each in rows:
        made.add_column(escape(each.name), justify="right")
    for row in rows:
        made.add_row(escape(row.name), *(_time(row, other.name) for other in rows))
    return made


def _signs(rows: Sequence[MatrixRow]) -> Table:
    """Columns are numbered by rows: tens and ones are read downwards in the head."""
    made = _table("from / to")
    tens = "".join(str(number // 10 % 10) if number % 10 == 0 else " " for number in range(1, len(rows) + 1))
    ones = "".join(str(number % 10) for number in range(1, len(rows) + 1))
    made.add_column(f"{tens}\n{ones}", no_wrap=True)
    for number, row in enumerate(rows, 1):
        made.add_row(escape(f"{number} {row.name}"), "".join(_sign(row, other.name) for other in rows))
    return made


def _table(corner: str) -> Table:
    made = Table(box=None, pad_edge=False, header_style="bold")
    made.add_column(corner, style="bold", no_wrap=True)
    return made


def _time(row: MatrixRow, other: str) -> str:
    pair = row.pairs.get(other, Pair())
    if row.name == other:
        return "[dim]-[/]"
    if pair.lost:
        return "[bold red]lost[/]"
    return "[yellow]?[/]" if pair.ms is None else f"{pair.ms:.2f}"


def _sign(row: MatrixRow, other: str) -> str:
    pair = row.pairs.get(other, Pair())
    if row.name == other:
        return "[dim]-[/]"
    return "[bold red]X[/]" if pair.lost else "[yellow]?[/]" if pair.ms is None else "[green].[/]"


def _reasons(rows: Iterable[MatrixRow]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for each in rows:
        if each.why:
            found.setdefault(each.why, []).append(each.name)
    return found
