"""How requests that were served, and what is in a bundle, look on a terminal."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cni_plugin.ctl.show import heading, lines, out, table

if TYPE_CHECKING:
    from cni_plugin.ctl.support.bundle import Packed
    from cni_plugin.ctl.support.served import Served


def requests(found: Sequence[Served]) -> None:
    """Print requests, the last one last."""
    rows = [
        {
            "no": len(found) - index,
            "at": time.strftime("%H:%M:%S", time.localtime(each.at)),
            "verb": each.verb, "network": each.network, "container": each.container[:16], "ifname": each.ifname,
            "ms": f"{each.seconds * 1000:.1f}", "code": each.code or "ok", "message": each.message[:60],
        }
        for index, each in enumerate(found)
    ]
    table("Requests", ("no", "at", "verb", "network", "container", "ifname", "ms", "code", "message"), rows)


def replay(request: Served, ops: Sequence[str], reply: str, *, alike: bool) -> None:
    """Print what came of a request that was served again."""
    heading(f"# {request.verb} {request.container} {request.ifname} in {request.network}, on a kernel in memory")
    for each in ops:
        lines(each)
    if not ops:
        lines("# nothing was changed")
    heading("# replied then")
    lines(_pretty(request.stdout) or "(nothing)")
    heading("# replies now")
    lines(_pretty(reply) or "(nothing)")
    out.print("the same outcome" if alike else "another outcome", style="green" if alike else "bold red")


def bundle(path: str, members: Sequence[Packed], missing: Mapping[str, str]) -> None:
    """Print what is in an archive."""
    for each in members:
        lines(f"{len(each.text):>9}  {each.name}")
    for what, why in missing.items():
        out.print(f"  missing  {what}: {why}", markup=False, style="yellow")
    lines(f"wrote {path}: what is not known to be harmless is left out; read it before you send it")


def _pretty(text: str) -> str:
    try:
        return json.dumps(json.loads(text), indent=2)
    except ValueError:
        return text
