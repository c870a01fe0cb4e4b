"""`tullectl`, the operator's tool: what would be done, what stands, what is wrong and why, and what to put right.

    tullectl plan /etc/cni/net.d/10-tulle.conflist
    tullectl status --json
    tullectl diff && tullectl doctor
    tullectl nodes && tullectl ping --all
    tullectl trace 10.244.1.7 --to 192.0.2.9
    tullectl repair

It works with the same states and records as the plugin, and needs neither a runtime nor an agent (but `top` and
`replay`, which ask the agent). Exit codes: 0 all is well, 1 something is not (and it says what), 2 the command line
is wrong. This file is the command line and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Annotated

import msgspec
import typer

from cni_plugin.client import VERSION
from cni_plugin.ctl import ask, show
from cni_plugin.ctl import diagnosis as doctor
from cni_plugin.ctl.cluster import members
from cni_plugin.ctl.cluster.commands import cluster_app
from cni_plugin.ctl.facts import Finding
from cni_plugin.ctl.gather import Machine, Places, gather
from cni_plugin.ctl.gather import probe as ask_peers
from cni_plugin.ctl.look import addresses, view
from cni_plugin.ctl.look.trace import Eyes
from cni_plugin.ctl.notes import Notes
from cni_plugin.ctl.options import ConfDir, DataDir, Json, RunDir, or_explain
from cni_plugin.ctl.show import err, out
from cni_plugin.ctl.support import bundle, served
from cni_plugin.describe import script
from cni_plugin.kernel.door import Kernel
from cni_plugin.kernel.open import open_kernel
from cni_plugin.records import DEFAULT_RUN_DIR, Records
from cni_plugin.verbs.repair import Repair
from cni_plugin.verbs.repair import repair as walk

app = typer.Typer(
    help="Look inside Tulle, the container network of this node.", no_args_is_help=True, add_completion=False
)
ipam_app = typer.Typer(help="The addresses of the in-process host-local IPAM.", no_args_is_help=True)
app.add_typer(ipam_app, name="ipam")
app.add_typer(cluster_app)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"tullectl {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    del version


@app.command()
def plan(
    config: Annotated[str, typer.Argument(help="A network configuration: *.conf, *.json or *.conflist.")] = "",
    container: Annotated[str, typer.Option(help="The container ID to plan for.")] = "example",
    ifname: Annotated[str, typer.Option(help="The interface's name in the pod.")] = "eth0",
    json: Json = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Print what an ADD with this configuration would do, in the words of ip, bridge and nft; nothing is touched."""
    from cni_plugin.verbs.peers import doubts_in
    from cni_plugin.verbs.plan import plan_add

    with open_kernel() as kernel:
        records = Records(run_dir)
        asked = or_explain(lambda: view.context(config or view.first_config(), (container, ifname), kernel, records))
        steps = or_explain(lambda: plan_add(asked))
        for each in doubts_in(asked.raw, asked.conf, records):
            show.warn(each)
    if json:
        show.as_json([{"what": step.title, "ops": script(step.ops).splitlines()} for step in steps])
        return
    for step in steps:
        show.heading(f"# {step.title}")
        show.lines(script(step.ops) if step.ops else "# nothing to do: it is as it should be")


@app.command()
def status(
    json: Json = False, conf_dir: ConfDir = view.CONF_DIR, run_dir: RunDir = DEFAULT_RUN_DIR
) -> None:
    """Show attachments, addresses used and free, bridges, the cluster, and the agent."""
    records = Records(run_dir)
    with open_kernel() as kernel:
        report: dict[str, object] = {**or_explain(lambda: view.report(kernel, records))}
        found = or_explain(lambda: members.memberships(kernel, records, conf_dir or view.CONF_DIR))
    report["bridges"] = or_explain(lambda: view.bridges(Machine().links(), records))
    report["agent"] = agent = ask.status(run_dir)
    report["cluster"] = view.cluster(found, agent or {})
    show.as_json(report) if json else show.status(report)


@app.command()
def diff(json: Json = False, run_dir: RunDir = DEFAULT_RUN_DIR) -> None:
    """Print what is not as it should be, as the lines that would put it right. Exit code 1 when there is any."""
    with open_kernel() as kernel:
        found = or_explain(lambda: list(walk(kernel, Records(run_dir), dry_run=True)))
    if json:
        show.as_json(_repairs(each for each in found if each.ops or each.problem))
    else:
        for each in found:
            show.differences(each.what, each.ops, each.problem, script(each.ops))
        if not _any_wrong(found):
            out.print("all is as it should be")
    if _any_wrong(found):
        raise typer.Exit(1)


@app.command()
def repair(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is not as it should be.")] = False,
    json: Json = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Compare all that is on record with the kernel, and put right what differs."""
    with open_kernel() as kernel:
        found = or_explain(lambda: list(walk(kernel, Records(run_dir), dry_run=dry_run)))
    if json:
        show.as_json(_repairs(found))
    else:
        for each in found:
            verdict = each.problem or ("right" if not each.ops else "wrong" if dry_run else "put right")
            show.lines(f"{each.what}: {verdict}")
            if each.ops:
                show.lines(script(each.ops))
    if any(each.problem or (dry_run and each.ops) for each in found):
        raise typer.Exit(1)


@app.command("doctor")
def doctor_command(
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Send packets to the peers.")] = True,
    json: Json = False,
    conf_dir: ConfDir = view.CONF_DIR,
    data_dir: DataDir = addresses.DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Find out what is wrong with this node, and explain it: what was seen, why it matters, what to do."""
    with open_kernel() as kernel:
        found = _diagnose(kernel, run_dir, Places(data_dir, conf_dir or view.CONF_DIR), probed=probe)
    show.as_json(msgspec.to_builtins(found)) if json else show.findings(found)
    if doctor.ill(found):
        raise typer.Exit(1)


@app.command("trace")
def trace_command(
    pod: Annotated[str, typer.Argument(help="A container ID, the beginning of one, or a pod's address.")],
    to: Annotated[str, typer.Option("--to", metavar="ADDRESS", help="Also show the way to this address.")] = "",
    json: Json = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Show everything that belongs to one pod, and why. Exit code 1 when some of it is not as it should be."""
    from cni_plugin.ctl.look import trace

    records = Records(run_dir)
    if to and not _is_address(to):
        raise typer.BadParameter(f"{to!r} is no IPv4 or IPv6 address", param_hint="--to")
    with open_kernel() as kernel:
        found = or_explain(lambda: trace.find(records, pod))
        told = or_explain(
            lambda: [trace.trace(kernel, each, view.inside(records, each), to, Eyes()) for each in found]
        )
    if json:
        show.as_json(told)
    else:
        for each in told:
            show.trace(each)
    if any(map(trace.wrong, told)):
        raise typer.Exit(1)


@app.command("top")
def top_command(
    once: Annotated[bool, typer.Option("--once", help="Print it once, all since the agent started.")] = False,
    json: Json = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Show how many requests the agent serves and how long they take; Enter ends it."""
    from cni_plugin.ctl.look import top

    if once or json or not out.is_terminal:
        look = or_explain(lambda: top.look(run_dir))
        found = top.rows(look)
        told = {"at": look.at, "started": look.started, "rows": msgspec.to_builtins(found)}
        show.as_json(told) if json else out.print(show.top(found, look, look.at - look.started))
        return
    with suppress(KeyboardInterrupt), show.screen() as screen:
        or_explain(lambda: top.live(run_dir, lambda *seen: screen.update(show.top(*seen), refresh=True)))


@app.command("replay")
def replay_command(
    number: Annotated[int, typer.Argument(help="Which one: 1 is the last. Without it they are listed.")] = 0,
    source: Annotated[str, typer.Option("--from", metavar="FILE", help="From a bundle, not from the agent.")] = "",
    json: Json = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """List the agent's last requests, or serve one of them again on a kernel in memory. The node is not touched."""
    requests = or_explain(lambda: served.bundled(source) if source else served.recent(run_dir))
    if not number:
        show.as_json(msgspec.to_builtins(requests)) if json else show.requests(requests)
        return
    from cni_plugin.ctl.support import replay

    def held() -> frozenset[str]:
        with open_kernel() as kernel:
            return kernel.locally_held()

    request = or_explain(lambda: served.numbered(requests, number))
    done = or_explain(lambda: replay.replay(request, frozenset() if source else held()))
    alike = replay.same(request, done.reply)
    if json:
        reply = done.reply.stdout.decode(errors="replace")
        show.as_json({"request": msgspec.to_builtins(request), "ops": done.lines, "reply": reply, "same": alike})
    else:
        show.replay(request, done.lines, done.reply.stdout.decode(errors="replace"), alike=alike)
    if not alike:
        raise typer.Exit(1)


@app.command("bundle")
def bundle_command(
    file: Annotated[
        str, typer.Argument(help="The archive to write; - is stdout, and without it a name with node and time.")
    ] = "",
    json: Json = False,
    conf_dir: ConfDir = view.CONF_DIR,
    data_dir: DataDir = addresses.DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Write one archive for a bug report; secrets are left out. Read it before you send it."""
    notes, records = Notes(), Records(run_dir)
    places = Places(data_dir, conf_dir or view.CONF_DIR)
    with open_kernel() as kernel:
        said = {
            "status": notes.one("status", lambda: view.report(kernel, records)),
            "diff": notes.one("diff", lambda: _repairs(walk(kernel, records, dry_run=True))),
            "doctor": notes.one("doctor", lambda: msgspec.to_builtins(_diagnose(kernel, run_dir, places, probed=True))),
            "leases": notes.one("leases", lambda: addresses.leases(data_dir, "", records)),
        }
    path = file or bundle.default_name()
    members = or_explain(lambda: bundle.collect(bundle.Sources(run_dir, places.conf_dir, said), notes))
    or_explain(lambda: bundle.write(path, members))
    if path == bundle.STDOUT:
        return  # not a word more there
    if json:
        show.as_json({"file": path, "members": [each.name for each in members], "missing": notes.unknown})
    else:
        show.bundle(path, members, notes.unknown)


@app.command()
def cleanup(
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without this only say what would go.")] = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Remove all that Tulle made on this node outside of pods: bridges, VXLAN devices, routes, the nft table."""
    with open_kernel() as kernel:
        ops = or_explain(lambda: view.cleanup(kernel, Records(run_dir), really=yes))
    show.lines(script(ops) if ops else "nothing of ours is here")
    if ops and not yes:
        err.print("nothing was done: add --yes to do it")


@ipam_app.command("list")
def ipam_list(
    network: Annotated[str, typer.Argument(help="A network; all of them without one.")] = "",
    json: Json = False,
    data_dir: DataDir = addresses.DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """List the addresses in use, and whose they are."""
    rows = or_explain(lambda: addresses.leases(data_dir, network, Records(run_dir)))
    if json:
        show.as_json(rows)
    else:
        show.table("Addresses", ("network", "address", "container", "ifname", "flaw"), rows)


@ipam_app.command("check")
def ipam_check(
    network: Annotated[str, typer.Argument(help="A network; all of them without one.")] = "",
    json: Json = False,
    data_dir: DataDir = addresses.DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Compare leases with attachments: leaked, damaged and missing ones. Exit code 1 when there are any."""
    with open_kernel() as kernel:
        rows = or_explain(lambda: addresses.check(kernel, data_dir, network, Records(run_dir)))
    if json:
        show.as_json(rows)
    elif rows:
        show.table("Not as it should be", ("network", "address", "container", "ifname", "problem"), rows)
    else:
        out.print("every lease belongs to an attachment, and every attachment has its lease")
    if rows:
        raise typer.Exit(1)


@ipam_app.command("release")
def ipam_release(
    network: Annotated[str, typer.Argument(help="The network.")],
    address: Annotated[str, typer.Argument(help="The address to take back.")],
    force: Annotated[bool, typer.Option("--force", help="Even when an attachment on record has it.")] = False,
    data_dir: DataDir = addresses.DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Take back one address, damaged or not, whoever has it."""
    said = or_explain(lambda: addresses.release(data_dir, network, address, Records(run_dir), force=force))
    out.print(said, markup=False)


def _diagnose(kernel: Kernel, run_dir: str, places: Places, *, probed: bool) -> list[Finding]:
    machine = Machine()
    facts = gather(kernel, Records(run_dir), places, machine)
    return doctor.diagnose(ask_peers(facts, kernel, machine) if probed else facts)


def _repairs(found: Iterable[Repair]) -> list[dict[str, object]]:
    return [{"what": each.what, "ops": script(each.ops).splitlines(), "problem": each.problem} for each in found]


def _any_wrong(found: Iterable[Repair]) -> bool:
    return any(each.ops or each.problem for each in found)


def _is_address(text: str) -> bool:
    from ipaddress import ip_address

    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def main() -> None:
    """The entry point."""
    os.umask(0o077)
    app()


if __name__ == "__main__":
    main()
