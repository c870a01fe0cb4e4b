"""The commands of `tullectl` that look inside this node: plan, status, diff, trace and top. None of them changes it.

What a command needs is imported when it runs: to say `--help` is not to load the engine.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Annotated

import msgspec
import typer

from cni_plugin.ctl import show
from cni_plugin.ctl.options import DEFAULT_CONF_DIR, ConfDir, Json, RunDir, or_explain
from cni_plugin.kernel.open import open_kernel
from cni_plugin.store.records import DEFAULT_RUN_DIR, Records


def plan(
    config: Annotated[str, typer.Argument(help="A network configuration: *.conf, *.json or *.conflist.")] = "",
    container: Annotated[str, typer.Option(help="The container ID to plan for.")] = "example",
    ifname: Annotated[str, typer.Option(help="The interface's name in the pod.")] = "eth0",
    json: Json = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Print what an ADD with this configuration would do, in the words of ip, bridge and nft; nothing is touched."""
    from cni_plugin.ctl.look.plan import first_config, plan_add
    from cni_plugin.describe import script

    folder = os.environ.get("NETCONFPATH") or DEFAULT_CONF_DIR
    with open_kernel() as kernel:
        steps = or_explain(lambda: plan_add(config or first_config(folder), (container, ifname), kernel, run_dir))
    if json:
        show.as_json([{"what": step.title, "ops": script(step.ops).splitlines()} for step in steps])
        return
    for step in steps:
        show.heading(f"# {step.title}")
        show.lines(script(step.ops) if step.ops else "# nothing to do: it is as it should be")


def status(json: Json = False, conf_dir: ConfDir = DEFAULT_CONF_DIR, run_dir: RunDir = DEFAULT_RUN_DIR) -> None:
    """Show attachments, addresses used and free, bridges, the cluster, and the agent."""
    from cni_plugin.ctl import ask
    from cni_plugin.ctl.cluster.members import memberships
    from cni_plugin.ctl.host import Host
    from cni_plugin.ctl.look import show as look
    from cni_plugin.ctl.look import status as state

    records = Records(run_dir)
    with open_kernel() as kernel:
        report: dict[str, object] = {**or_explain(lambda: state.report(kernel, records))}
        found = or_explain(lambda: memberships(kernel, records, conf_dir or DEFAULT_CONF_DIR))
    report["bridges"] = or_explain(lambda: state.bridges(Host().links(), records))
    report["agent"] = agent = ask.status(run_dir)
    report["cluster"] = state.cluster(found, agent or {})
    show.as_json(report) if json else look.status(report)


def diff(json: Json = False, run_dir: RunDir = DEFAULT_RUN_DIR) -> None:
    """Print what is not as it should be, as the lines that would put it right. Exit code 1 when there is any."""
    from cni_plugin.ctl.look.diff import is_wrong, rows
    from cni_plugin.ctl.look.show import differences
    from cni_plugin.node.repair import repair

    with open_kernel() as kernel:
        found = or_explain(lambda: [each for each in repair(kernel, Records(run_dir), dry_run=True) if is_wrong(each)])
    if json:
        show.as_json(rows(found))
    elif found:
        differences(found)
    else:
        show.lines("all is as it should be")
    if found:
        raise typer.Exit(1)


def trace(
    pod: Annotated[str, typer.Argument(help="A container ID, the beginning of one, or a pod's address.")],
    to: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="Also show the way to this address.")] = "",
    json: Json = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Show everything that belongs to one pod, and why. Exit code 1 when some of it is not as it should be."""
    from cni_plugin.ctl.host import Host
    from cni_plugin.ctl.look import show as look
    from cni_plugin.ctl.look import trace as pods
    from cni_plugin.ctl.look.status import inside

    records = Records(run_dir)
    if to and not _is_address(to):
        raise typer.BadParameter(f"{to!r} is no IPv4 or IPv6 address", param_hint="--to")
    with open_kernel() as kernel:
        found = or_explain(lambda: pods.find(records, pod))
        told = or_explain(lambda: [pods.trace(kernel, each, inside(records, each), to, Host()) for each in found])
    if json:
        show.as_json(told)
    else:
        for each in told:
            look.trace(each)
    if any(map(pods.wrong, told)):
        raise typer.Exit(1)


def top(
    once: Annotated[bool, typer.Option("--once", help="Print it once, all since the agent started.")] = False,
    json: Json = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Show how many requests the agent serves and how long they take; Enter ends it."""
    from cni_plugin.ctl.look import show as look
    from cni_plugin.ctl.look import top as counters

    if once or json or not show.out.is_terminal:
        seen = or_explain(lambda: counters.look(run_dir))
        rows = counters.rows(seen)
        told = {"at": seen.at, "started": seen.started, "rows": msgspec.to_builtins(rows)}
        show.as_json(told) if json else show.out.print(look.top(rows, seen, seen.at - seen.started))
        return
    with suppress(KeyboardInterrupt), look.screen() as screen:
        or_explain(lambda: counters.live(run_dir, lambda *looks: screen.update(look.top(*looks), refresh=True)))


def _is_address(text: str) -> bool:
    from ipaddress import ip_address

    try:
        ip_address(text)
    except ValueError:
        return False
    return True
