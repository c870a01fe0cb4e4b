"""How a node and its pods look on a terminal; `cni_plugin.ctl.show` has what all commands share."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from cni_plugin.ctl.show import cell, heading, lines, out, table
from cni_plugin.describe import script

if TYPE_CHECKING:
    from cni_plugin.ctl.look.top import Look, TopRow
    from cni_plugin.ctl.look.trace import Trace
    from cni_plugin.node.contract import Repair


def differences(found: Iterable[Repair]) -> None:
    """Print what is not as it should be, thing by thing."""
    for each in found:
        heading(f"# {each.what}{f': {each.problem}' if each.problem else ''}")
        if each.ops:
            lines(script(each.ops))


def repairs(found: Iterable[Repair], *, dry_run: bool) -> None:
    """Print what came of each thing that was looked at."""
    for each in found:
        verdict = each.problem or ("right" if not each.ops else "wrong" if dry_run else "put right")
        lines(f"{each.what}: {verdict}")
        if each.ops:
            lines(script(each.ops))


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
    mine = " ".join(f"{cell(told.get(key))}" for key in ("addresses", "podCIDRs"))
    lines(f"Cluster: {told.get('network')}, {told.get('nodes')} nodes by {told.get('backend')}, mtu {told.get('mtu')}, "
          f"from {told.get('source')}; this node is {told.get('node') or 'none of them'} {mine}, {ready}")
    for each in [str(told.get("trouble") or ""), *_texts(told.get("problems"))]:
        if each:
            out.print(f"  {each}", markup=False, style="yellow")


def trace(told: Trace) -> None:
    """Print all about one attachment."""
    about = _mapping(told["attachment"])
    heading(f"attachment {about['container']} {about['ifname']} in {about['network']}: {about['state']}")
    for key in ("ips", "gateways", "mac", "mtu", "bridge", "host", "netns", "created", "plugin", "ipam", "data_dir"):
        lines(f"  {key:<9} {cell(about[key])}")
    _section("leases", cell(told["leases"]) or "none")
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


def top(rows: Sequence[TopRow], look: Look, seconds: float) -> RenderableType:
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
