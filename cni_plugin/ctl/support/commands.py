"""The commands of `tullectl` for a bug report: replay a request that was served, and bundle all that is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from cni_plugin.conf.plugin import DEFAULT_DATA_DIR
from cni_plugin.ctl import show
from cni_plugin.ctl.options import DEFAULT_CONF_DIR, ConfDir, DataDir, Json, RunDir, or_explain
from cni_plugin.kernel.open import open_kernel
from cni_plugin.store.records import DEFAULT_RUN_DIR, Records

if TYPE_CHECKING:
    from cni_plugin.ctl.eyes import Places
    from cni_plugin.ctl.notes import Notes


def replay(
    number: Annotated[int, typer.Argument(help="Which one: 1 is the last. Without it they are listed.")] = 0,
    source: Annotated[str, typer.Option("--from", metavar="FILE", help="From a bundle, not from the agent.")] = "",
    json: Json = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """List the agent's last requests, or serve one of them again on a kernel in memory. The node is not touched."""
    from cni_plugin.ctl.support import served
    from cni_plugin.ctl.support import show as support

    requests = or_explain(lambda: served.bundled(source) if source else served.recent(run_dir))
    if not number:
        show.as_json(msgspec.to_builtins(requests)) if json else support.requests(requests)
        return
    from cni_plugin.ctl.support import replay

    request = or_explain(lambda: served.numbered(requests, number))
    done = or_explain(lambda: replay.replay(request, frozenset() if source else _held()))
    alike = replay.same(request, done.reply)
    reply = done.reply.stdout.decode(errors="replace")
    if json:
        show.as_json({"request": msgspec.to_builtins(request), "ops": done.lines, "reply": reply, "same": alike})
    else:
        support.replay(request, done.lines, reply, alike=alike)
    if not alike:
        raise typer.Exit(1)


def bundle(
    file: Annotated[
        str, typer.Argument(help="The archive to write; - is stdout, and without it a name with node and time.")
    ] = "",
    json: Json = False,
    conf_dir: ConfDir = DEFAULT_CONF_DIR,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    run_dir: RunDir = DEFAULT_RUN_DIR,
) -> None:
    """Write one archive for a bug report; secrets are left out. Read it before you send it."""
    from cni_plugin.ctl.eyes import Places
    from cni_plugin.ctl.notes import Notes
    from cni_plugin.ctl.support import bundle
    from cni_plugin.ctl.support import show as support

    notes, places = Notes(), Places(data_dir, conf_dir or DEFAULT_CONF_DIR)
    said = _said(notes, Records(run_dir), places)
    path = file or bundle.default_name()
    members = or_explain(lambda: bundle.collect(bundle.Sources(run_dir, places.conf_dir, said), notes))
    or_explain(lambda: bundle.write(path, members))
    if path == bundle.STDOUT:
        return  # not a word more there
    if json:
        show.as_json({"file": path, "members": [each.name for each in members], "missing": notes.unknown})
    else:
        support.bundle(path, members, notes.unknown)


def _said(notes: Notes, records: Records, places: Places) -> dict[str, object]:
    """What other commands say, by the names of theirs."""
    from cni_plugin.ctl.diagnosis import examine
    from cni_plugin.ctl.eyes import Eyes
    from cni_plugin.ctl.host import Host
    from cni_plugin.ctl.look import addresses, diff
    from cni_plugin.ctl.look.status import report
    from cni_plugin.node.repair import repair

    with open_kernel() as kernel:
        def wrong() -> list[dict[str, object]]:
            return diff.rows(repair(kernel, records, dry_run=True))

        def found() -> object:
            return msgspec.to_builtins(examine(Eyes(kernel, records, places, Host(), probing=True)))

        return {
            "status": notes.one("status", lambda: report(kernel, records)),
            "diff": notes.one("diff", wrong),
            "doctor": notes.one("doctor", found),
            "leases": notes.one("leases", lambda: addresses.leases(places.data_dir, "", records)),
        }


def _held() -> frozenset[str]:
    with open_kernel() as kernel:
        return kernel.locally_held()
