"""`tullectl bundle`: one archive for a bug report, with all that is known of Tulle on this node and no secrets.

    tulle-bundle-node1-20260701-120000.tar.gz        mode 0600
      versions.json  status.json  diff.json  doctor.json  leases.json      what the tool says
      agent.json  requests.json  metrics.json                              what the agent says, if one runs
      records/<network>/<container>:<ifname>  clusters/<network>           what is on record
      clusters/<network>-nodes.json                                        the file with the node list
      configurations/<file>                                                what the runtime reads
      node/ip-link.txt ... os-release.txt sysctls.txt                      what the node's own programs say
      missing.json                                                         what could not be had, and why

Of others' JSON only that is taken along which is known to be harmless (`cni_plugin.harmless`), and what was left out is
looked for in all the rest; no environment but a request's is looked at.
"""

from __future__ import annotations

import io
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import msgspec

from cni_plugin import decoding
from cni_plugin.client import VERSION
from cni_plugin.ctl import ask
from cni_plugin.ctl.host import PATH, Host, program
from cni_plugin.ctl.notes import Notes
from cni_plugin.ctl.support import served
from cni_plugin.errors import DECODING_FAILURE, CniError
from cni_plugin.harmless import Censor
from cni_plugin.kernel.host import files
from cni_plugin.kernel.host.program import run
from cni_plugin.store.clusters import all_facts
from cni_plugin.store.records import Records

STDOUT = "-"
"""The path that means it."""
_PROGRAMS: Mapping[str, tuple[str, ...]] = {
    "ip-link": ("ip", "-s", "-d", "link"), "ip-addr": ("ip", "addr"), "ip-rule": ("ip", "rule"),
    "ip-route": ("ip", "route", "show", "table", "all"), "ip6-route": ("ip", "-6", "route", "show", "table", "all"),
    "ip-neigh": ("ip", "neigh"), "bridge-link": ("bridge", "-d", "link"), "bridge-fdb": ("bridge", "fdb"),
    "bridge-vlan": ("bridge", "vlan"), "nft-ruleset": ("nft", "list", "ruleset"),
}
_SYSCTLS = (
    "net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/default/rp_filter", "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables",
    "net/netfilter/nf_conntrack_count", "net/netfilter/nf_conntrack_max", "net/ipv4/neigh/default/gc_thresh3",
    "net/ipv6/neigh/default/gc_thresh3", "kernel/random/boot_id",
)


class Packed(NamedTuple):
    """A file of the archive."""

    name: str
    text: str


class Sources(NamedTuple):
    """Where the files that are taken along as they are stand, and what else of the tool goes in, by name."""

    run_dir: str
    conf_dir: str
    said: Mapping[str, object]


def default_name() -> str:
    """A name that tells node and time."""
    return f"tulle-bundle-{os.uname().nodename}-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz"


def collect(sources: Sources, notes: Notes) -> list[Packed]:
    """All members, secrets left out; what could not be had is in `notes` and in the last of them."""
    censor = Censor()
    found = [
        *_files("configurations", sources.conf_dir, censor, notes),
        *_below("records", f"{sources.run_dir}/attachments", censor, notes),
        *_files("clusters", f"{sources.run_dir}/clusters", censor, notes),
        *_node_lists(sources.run_dir, censor, notes),
        *_agent(sources.run_dir, censor, notes),
        *(_json(f"{name}.json", censor.told(shape)) for name, shape in sources.said.items()),
        _json("versions.json", _versions()),
        *_node(notes),
    ]
    found.append(_json("missing.json", notes.unknown))
    return [Packed(each.name, censor.text(each.text)) for each in sorted(found)]


def write(path: str, members: list[Packed]) -> None:
    """Make the archive, mode 0600, or on stdout for "-". Raises OSError."""
    import tarfile  # 10 ms, and only for a bundle

    folder = (default_name() if path == STDOUT else os.path.basename(path)).removesuffix(".tar.gz")
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for each in members:
            data = each.text.encode("utf-8", "replace")
            entry = tarfile.TarInfo(f"{folder}/{each.name}")
            entry.size, entry.mode, entry.mtime = len(data), 0o600, int(time.time())
            archive.addfile(entry, io.BytesIO(data))
    if path == STDOUT:
        sys.stdout.buffer.write(memory.getvalue())
        sys.stdout.buffer.flush()
    else:
        files.write(path, memory.getvalue())


def _json(name: str, shape: object) -> Packed:
    return Packed(name, msgspec.json.format(msgspec.json.encode(shape)).decode() + "\n")


def _versions() -> dict[str, object]:
    name = os.uname()
    return {
        "tulle": VERSION, "python": platform.python_version(), "kernel": f"{name.release} {name.version}",
        "machine": name.machine, "node": name.nodename, "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _files(folder: str, place: str, censor: Censor, notes: Notes) -> list[Packed]:
    """The JSON files of a folder. What is no JSON is left out: nobody could tell what in it is secret."""
    found = []
    for name in notes.many(place, lambda: files.names(place)):
        path = f"{place}/{name}"
        if not os.path.isdir(path):
            shape = notes.one(path, partial(_censored, path, censor))
            found += [_json(f"{folder}/{name}", shape)] if shape is not None else []
    return found


def _censored(path: str, censor: Censor) -> object:
    data = files.follow(path)
    try:
        return censor.json(decoding.decode(data))
    except msgspec.DecodeError as error:
        censor.document(data)
        raise CniError(DECODING_FAILURE, f"it is left out, for what in it is secret cannot be told: {error}") from error


def _below(folder: str, place: str, censor: Censor, notes: Notes) -> Iterator[Packed]:
    for name in notes.many(place, lambda: files.names(place)):
        yield from _files(f"{folder}/{name}", f"{place}/{name}", censor, notes)


def _node_lists(run_dir: str, censor: Censor, notes: Notes) -> Iterator[Packed]:
    """The files that networks' node lists are in, where they are not in the configuration itself."""
    for each in notes.many("node lists", lambda: all_facts(Records(run_dir))):
        path = decoding.decode(each.source)
        shape = notes.one(path, partial(_censored, path, censor)) if isinstance(path, str) else None
        if shape is not None:
            yield _json(f"clusters/{each.network}-nodes.json", shape)


def _agent(run_dir: str, censor: Censor, notes: Notes) -> Iterator[Packed]:
    status = notes.one("agent", lambda: ask.ask(run_dir, "status"))
    if status is None:
        return
    settings = {key: censor.json(each) for key, each in _mapping(status).items() if key == "settings"}
    yield _json("agent.json", {**_mapping(censor.told(status)), **settings})
    yield _json("metrics.json", notes.one("metrics", lambda: ask.ask(run_dir, "metrics")))
    requests = notes.many("requests", lambda: served.recent(run_dir))
    yield _json(served.MEMBER, [_request(each, censor) for each in requests])


def _request(each: served.Served, censor: Censor) -> served.Served:
    return msgspec.structs.replace(each, **censor.served(each.environ, each.stdin, each.stdout, each.message))


def _mapping(shape: object) -> dict[str, object]:
    return {str(key): each for key, each in shape.items()} if isinstance(shape, Mapping) else {}


def _node(notes: Notes) -> Iterator[Packed]:
    for name, words in _PROGRAMS.items():
        path = program(words[0])
        if path:
            text = notes.one(" ".join(words), partial(_output, path, words))
            yield Packed(f"node/{name}.txt", text or "")
        else:
            notes.unknown[" ".join(words)] = f"{words[0]} is not installed"
    links = notes.many("links", Host().links)
    yield _json("node/links.json", links)
    values = {each: _line(f"/proc/sys/{each}") for each in _SYSCTLS}
    yield Packed("node/sysctls.txt", "".join(f"{key} = {value}\n" for key, value in values.items()))
    release = notes.one("os-release", lambda: files.follow("/etc/os-release").decode(errors="replace"))
    yield Packed("node/os-release.txt", release or "")


def _output(path: str, words: tuple[str, ...]) -> str:
    done = run(path, list(words[1:]), {"PATH": ":".join(PATH), "LC_ALL": "C"}, b"", quiet=True)
    return (done.stdout + done.stderr).decode(errors="replace")


def _line(path: str) -> str:
    try:
        return files.follow(path).decode(errors="replace").strip()
    except OSError as error:
        return f"(not known: {error.strerror})"
