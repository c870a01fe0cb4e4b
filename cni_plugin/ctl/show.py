"""How things look on a terminal: tables, findings, a pod's trace. Colours on a terminal only, and not with NO_COLOR.

What is printed here is for people and may change; `--json` is for programs. Nothing of what is shown is taken for
markup: names and rules come from the node and may hold brackets.
"""

from __future__ import annotations

import json as jsonlib
import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cni_plugin.ctl.diagnosis import ORDER
from cni_plugin.ctl.facts import ERROR, HINT, UNKNOWN, WARNING, Finding
from cni_plugin.ctl.look.top import Look, Row
from cni_plugin.ctl.look.trace import Trace
from cni_plugin.ctl.support.bundle import Member
from cni_plugin.ctl.support.served import Request
from cni_plugin.diff import Op

out = Console(highlight=False, soft_wrap=True, emoji=False)  # 0e:ab:1c is a MAC, and ":ab:" no emoji
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)
_STYLES = {ERROR: "bold red", WARNING: "yellow", UNKNOWN: "magenta", HINT: "cyan"}
_WIDTH = 110
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
        made.add_row(*(escape(_cell(row.get(each))) for each in columns))
    return made


def lines(text: str) -> None:
    """Print text as it is."""
    out.print(text, markup=False)


def warn(text: str) -> None:
    """Say on stderr what is probably a mistake."""
    err.print(text, markup=False, style="yellow")


def heading(text: str) -> None:
    """Print a heading."""
    out.print(text, markup=False, style="bold")


def findings(found: Sequence[Finding]) -> None:
    """Print findings, the gravest first, and how many there are of each sort."""
    for each in found:
        out.print(f"[{_STYLES[each.severity]}]{each.severity}[/] {escape(each.key)}: {escape(each.value)}")
        lines(textwrap.fill(each.why, _WIDTH, initial_indent="    ", subsequent_indent="    "))
        out.print(f"    [bold]{escape(each.remedy)}[/]\n")
    counts = [(each, sum(one.severity == each for one in found)) for each in ORDER]
    told = ", ".join(f"{count} {each}{'s' if count > 1 and each != UNKNOWN else ''}" for each, count in counts if count)
    lines(told or "all is well")


def differences(what: str, ops: Sequence[Op], problem: str, text: str) -> None:
    """Print what is not as it should be of one thing."""
    if ops or problem:
        heading(f"# {what}{f': {problem}' if problem else ''}")
        if text:
            lines(text)


def status(report: Mapping[str, object]) -> None:
    """Print what `tullectl status` found."""
    columns = {
        "networks": ("network", "used", "free", "of", "attachments", "masquerade"),
        "attachments": ("network", "container", "ifname", "ips", "host", "netns", "state"),
        "bridges": ("bridge", "mtu", "ports", "of"),
        "clusters": ("network", "node", "backend", "device", "mtu", "peers"),
    }
    for key, names in columns.items():
        table(key.capitalize(), names, _rows(report[key]))
    _cluster(_mapping(report["cluster"]))
    agent = _mapping(report["agent"])
    if not agent:
        lines("Agent: away")
        return
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(_number(agent.get("started"))))
    ready = "ready" if agent.get("ready") else f"not ready ({agent.get('problem') or 'starting'})"
    lines(f"Agent: {agent.get('version')}, pid {agent.get('pid')}, since {since}, {ready}, "
          f"{agent.get('queue')} waiting, {agent.get('served')} served")


def _cluster(told: Mapping[str, object]) -> None:
    """Print in a few lines how this node stands in its cluster; nothing without one."""
    if not told:
        return
    ready = "ready" if told.get("ready") else f"not ready ({told.get('reason') or 'starting'})"
    mine = " ".join(f"{_cell(told.get(key))}" for key in ("addresses", "podCIDRs"))
    lines(f"Cluster: {told.get('network')}, {told.get('nodes')} nodes by {told.get('backend')}, mtu {told.get('mtu')}, "
          f"from {told.get('source')}; this node is {told.get('node') or 'none of them'} {mine}, {ready}")
    for each in [str(told.get("trouble") or ""), *_texts(told.get("problems"))]:
        if each:
            out.print(f"  {each}", markup=False, style="yellow")


def replay(request: Request, ops: Sequence[str], reply: str, *, alike: bool) -> None:
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


def bundle(path: str, members: Sequence[Member], missing: Mapping[str, str]) -> None:
    """Print what is in an archive."""
    for each in members:
        lines(f"{len(each.text):>9}  {each.name}")
    for what, why in missing.items():
        out.print(f"  missing  {what}: {why}", markup=False, style="yellow")
    lines(f"wrote {path}: what is not known to be harmless is left out; read it before you send it")


def trace(told: Trace) -> None:
    """Print all about one attachment."""
    about = _mapping(told["attachment"])
    heading(f"attachment {about['container']} {about['ifname']} in {about['network']}: {about['state']}")
    for key in ("ips", "gateways", "mac", "mtu", "bridge", "host", "netns", "created", "plugin", "ipam", "data_dir"):
        lines(f"  {key:<9} {_cell(about[key])}")
    _section("leases", _cell(told["leases"]) or "none")
    _objects(_rows(told["objects"]))
    _link("host link", told.get("host"))
    pod = _mapping(told.get("pod"))
    _link("pod's link", pod.get("link"))
    _section("pod's addresses", *_texts(pod.get("addresses")))
    _section("pod's routes", *_texts(pod.get("routes")))
    neighbours = [*_rows(told.get("neighbours")), *_rows(pod.get("neighbours"))]
    _section("neighbours", *("{address} is {mac} on {dev} ({state})".format(**each) for each in neighbours))
    entries = _rows(told.get("entries"))
    _section("forwarding entries", *("{mac} behind {dev} ({state})".format(**each) for each in entries))
    _section("nft rules", *(f"{each['table']} {each['chain']}: {each['text']}" for each in _rows(told.get("rules"))))
    for to, hops in _mapping(told.get("way")).items():
        _section(f"the way to {to}", *_texts(hops))
    _section("not known", *(f"{what}: {why}" for what, why in _mapping(told["unknown"]).items()), style="magenta")


def top(rows: Sequence[Row], look: Look, seconds: float) -> RenderableType:
    """What the agent serves, as something that can be drawn again and again."""
    made = Table(title=f"the last {seconds:.0f} s", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for each in ("verb", "step", "count", "a second", "p50 ms", "p90 ms", "p99 ms", "mean ms", "errors"):
        made.add_column(each, justify="left" if each in ("verb", "step") else "right")
    for row in rows:
        durations = (f"{value:.1f}" if row.count else "-" for value in (row.p50, row.p90, row.p99, row.mean))
        errors = "" if row.step else f"[bold red]{row.errors}[/]" if row.errors else "0"
        verb = "" if row.step else escape(row.verb)
        made.add_row(verb, row.step, str(row.count), f"{row.rate:.2f}", *durations, errors,
                     style="dim" if row.step else "")
    repairs = "; ".join(f"{name} {one.count} times" for name, one in look.repairs.items())
    return Group(made, Text(f"put right since the agent started: {repairs or 'nothing'}", style="dim"))


def screen() -> Live:
    """A part of the terminal that is drawn again and again."""
    return Live(console=out, auto_refresh=False)


def requests(found: Sequence[Request]) -> None:
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


def _objects(rows: Iterable[Mapping[str, object]]) -> None:
    heading("what ADD made")
    for each in rows:
        mark, style = ("ok", "green") if each["stands"] else ("WRONG", "bold red")
        changed = " (changed by another plugin or person)" if each["changed"] else ""
        out.print(f"  [{style}]{mark:<5}[/] {escape(str(each['line']))}{changed}")
        if each["why"]:
            out.print(f"        # {each['why']}", markup=False, style="dim")
        if not each["stands"]:
            lines(textwrap.indent(str(each["remedy"]), "        "))


def _link(title: str, shape: object) -> None:
    link = _mapping(shape)
    if not link:
        return
    if link.get("state") == "gone":
        _section(title, f"{link['name']} is gone", style="bold red")
        return
    counters = _mapping(link["counters"])
    port = f", port of {link['master']} ({link['port']})" if link["master"] else ""
    _section(
        title,
        f"{link['name']}, index {link['index']}, {link['state']}, mtu {link['mtu']}, {link['mac']}{port}",
        ", ".join(f"{key} {value}" for key, value in counters.items()),
    )


def _section(title: str, *texts: str, style: str = "") -> None:
    if texts:
        heading(title)
        for each in texts:
            out.print(textwrap.indent(each, "  "), markup=False, style=style)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _rows(value: object) -> list[Mapping[str, object]]:
    return [_mapping(each) for each in value] if isinstance(value, list | tuple) else []


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list | tuple) else []


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _pretty(text: str) -> str:
    try:
        return jsonlib.dumps(jsonlib.loads(text), indent=2)
    except ValueError:
        return text


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str("" if value is None else value)
