"""How what the doctor found looks on a terminal: the gravest first, and how many there are of each sort."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.markup import escape

from cni_plugin.ctl.diagnosis import ORDER
from cni_plugin.ctl.doctor.contract import ERROR, HINT, UNKNOWN, WARNING, Finding
from cni_plugin.ctl.show import lines, out

_STYLES = {ERROR: "bold red", WARNING: "yellow", UNKNOWN: "magenta", HINT: "cyan"}
_WIDTH = 110


def findings(found: Sequence[Finding]) -> None:
    """Print findings, the gravest first, and how many there are of each sort."""
    for each in found:
        out.print(f"[{_STYLES[each.severity]}]{each.severity}[/] {escape(each.key)}: {escape(each.value)}")
        lines(textwrap.fill(each.why, _WIDTH, initial_indent="    ", subsequent_indent="    "))
        out.print(f"    [bold]{escape(each.remedy)}[/]\n")
    counts = [(each, sum(one.severity == each for one in found)) for each in ORDER]
    told = ", ".join(f"{count} {each}{'s' if count > 1 and each != UNKNOWN else ''}" for each, count in counts if count)
    lines(told or "all is well")
