#!/usr/bin/env python3
"""A container runtime's half of CNI, small enough to read: what libcni does, and nothing else.

It exists so that the lab, the tests and a person in a virtual machine can drive any CNI plugin with
exactly the environment and standard input that containerd or CRI-O would give it, and see the whole
answer. Promises, each checked against libcni's source (containernetworking/cni, libcni/api.go):

- ADD, CHECK, STATUS and GC walk the list in order, DEL in reverse; the first failure stops the walk
  (GC goes on and reports all of them).
- A plugin gets its own object plus `name`, `cniVersion`, `prevResult` (from the plugin before it, or from
  the cache) and of `runtimeConfig` only the capabilities that it declares.
- Verbs that the list's version does not have are not sent (CHECK before 0.4.0, STATUS and GC before 1.1.0).

As a command it is a stand-in for cnitool:

    NETCONFPATH=/etc/cni/net.d CNI_PATH=/opt/cni/bin scripts/lib/lab/runtime.py add tulle /run/netns/p1
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

Json = dict[str, object]
VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")

USAGE = """usage: runtime.py add|check|del|status|gc|version NETWORK [NETNS]

Drives the plugins of a CNI network list as a container runtime would.

  NETWORK      `name` of a .conflist file in $NETCONFPATH (default /etc/cni/net.d)
  NETNS        path of a network namespace, or a name below /run/netns (add, check, del)

environment: NETCONFPATH, CNI_PATH (default /opt/cni/bin), CNI_IFNAME (eth0), CNI_ARGS,
  CAP_ARGS (JSON: capability arguments), TULLE_RUNTIME_CACHE (/run/tulle-runtime)"""


class PluginError(Exception):
    """A plugin answered with an error. `code` is the CNI error code, 0 when there was no error object."""

    def __init__(self, verb: str, plugin: str, reply: Reply) -> None:
        self.verb, self.plugin, self.reply = verb, plugin, reply
        error = reply.json()
        code = error.get("code", 0)
        self.code = code if isinstance(code, int) else 0
        self.msg = str(error.get("msg", "")) or reply.stderr.strip() or "no error message"
        self.details = str(error.get("details", ""))
        super().__init__(f"{verb} by {plugin}: {self.msg} (code {self.code}) {self.details}".rstrip())


@dataclass(frozen=True)
class Reply:
    """What one execution of a plugin gave back."""

    code: int
    stdout: bytes
    stderr: str

    def json(self) -> Json:
        """The object on stdout; empty for no output, for null, and for what is not JSON (after a crash)."""
        try:
            value: object = json.loads(self.stdout) if self.stdout.strip() else None
        except ValueError:
            return {}
        return cast(Json, value) if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Attachment:
    """One interface of one container on one network."""

    container: str
    netns: str = ""
    ifname: str = "eth0"
    args: str = ""
    capabilities: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Network:
    """A network configuration list, as in a `.conflist` file."""

    name: str
    version: str
    plugins: tuple[Json, ...]
    disable_check: bool = False
    disable_gc: bool = False

    @classmethod
    def parse(cls, conf: Mapping[str, object]) -> Network:
        """From a list, or from one plugin's configuration: a list of one, as libcni up-converts it."""
        return cls(
            name=str(conf.get("name") or ""),
            version=_version(conf),
            plugins=tuple(cast(list[Json], conf.get("plugins", [dict(conf)]))),
            disable_check=_truth(conf.get("disableCheck")),
            disable_gc=_truth(conf.get("disableGC")),
        )

    @classmethod
    def load(cls, directory: Path, name: str) -> Network:
        """The first file of `directory`, in order of file names, whose `name` is `name`.

        Raises LookupError, naming the networks that there are."""
        seen = []
        for path in sorted(p for p in directory.glob("*") if p.suffix in {".conf", ".conflist", ".json"}):
            network = cls.parse(cast(Json, json.loads(path.read_text())))
            if network.name == name:
                return network
            seen.append(network.name)
        raise LookupError(f"no network {name!r} in {directory}: there is {', '.join(seen) or 'none'}")

    def at_least(self, *version: int) -> bool:
        return tuple(int(part) for part in self.version.split(".")) >= version


def _version(conf: Mapping[str, object]) -> str:
    """The highest version on offer that we know: `cniVersions` (1.1.0) is a list for the runtime to choose from."""
    offered = [*cast(list[str], conf.get("cniVersions") or []), str(conf.get("cniVersion") or "0.1.0")]
    known = [version for version in VERSIONS if version in offered]
    return known[-1] if known else offered[-1]


def _truth(value: object) -> bool:
    """Booleans of a list may arrive as strings (libcni, readBool)."""
    return value is True or (isinstance(value, str) and value.lower() == "true")


@dataclass(frozen=True)
class Runtime:
    """Executes plugins: `enter` goes before each command line (`nsenter --net=...`), `env` on top of ours."""

    path: tuple[Path, ...]
    cache: Path
    enter: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 60.0

    def add(self, network: Network, attachment: Attachment) -> Json:
        """Runs ADD through the chain; the last result. Raises PluginError and undoes nothing, like libcni."""
        result: Json | None = None
        for plugin in network.plugins:
            conf = self._conf(network, plugin, attachment, result)
            result = self._call("ADD", plugin, conf, attachment).json()
            # libcni, pkg/invoke/exec.go: a result without a version is of the configuration's.
            result.setdefault("cniVersion", network.version)
        self._remember(network, attachment, result or {})
        return result or {}

    def check(self, network: Network, attachment: Attachment) -> None:
        """Runs CHECK with the cached result. Raises PluginError; ValueError before version 0.4.0."""
        if not network.at_least(0, 4, 0):
            raise ValueError(f"configuration version {network.version} has no CHECK")
        if network.disable_check:
            return
        for plugin in network.plugins:
            conf = self._conf(network, plugin, attachment, self.cached(network, attachment))
            self._call("CHECK", plugin, conf, attachment)

    def delete(self, network: Network, attachment: Attachment) -> None:
        """Runs DEL backwards through the chain, then forgets the cached result. Raises PluginError."""
        cached = self.cached(network, attachment) if network.at_least(0, 4, 0) else None
        for plugin in reversed(network.plugins):
            self._call("DEL", plugin, self._conf(network, plugin, attachment, cached), attachment)
        self._cache_file(network, attachment).unlink(missing_ok=True)

    def status(self, network: Network) -> None:
        """Runs STATUS (from version 1.1.0 on). Raises PluginError: 50 or 51 when ADD cannot be served."""
        for plugin in network.plugins if network.at_least(1, 1, 0) else ():
            self._call("STATUS", plugin, self._conf(network, plugin, None, None), None)

    def gc(self, network: Network, valid: Iterable[Attachment] | None) -> None:
        """DEL for what the cache has and `valid` has not, then GC (from version 1.1.0 on) with `valid`.

        None sends no list, as `cnitool gc` does. Raises ExceptionGroup of every PluginError, at the end."""
        if network.disable_gc:
            return
        keep = None if valid is None else [{"containerID": a.container, "ifname": a.ifname} for a in valid]
        errors: list[PluginError] = []
        for gone in self._cached_attachments(network):
            if {"containerID": gone.container, "ifname": gone.ifname} not in (keep or []):
                with _collecting(errors):
                    self.delete(network, gone)
        for plugin in network.plugins if network.at_least(1, 1, 0) else ():
            conf = self._conf(network, plugin, None, None)
            if keep is not None:  # both names: libcni sends the misnamed key too (cni#1101)
                conf |= {"cni.dev/valid-attachments": keep, "cni.dev/attachments": keep}
            with _collecting(errors):
                self._call("GC", plugin, conf, None)
        if errors:
            raise ExceptionGroup(f"GC of {network.name}", errors)

    def version(self, plugin: str) -> Json:
        """What `plugin` says to VERSION; libcni fills the other variables with the word dummy."""
        dummy = Attachment(container="", netns="dummy", ifname="dummy")
        return self._call("VERSION", {"type": plugin}, {"cniVersion": "1.1.0"}, dummy).json()

    def cached(self, network: Network, attachment: Attachment) -> Json | None:
        """The result of the ADD, None when there is none or it cannot be read."""
        try:
            return cast(Json, json.loads(self._cache_file(network, attachment).read_text())["result"])
        except (OSError, ValueError, KeyError):
            return None

    def execute(
        self, verb: str, plugin: str, conf: Mapping[str, object], attachment: Attachment | None
    ) -> Reply:
        """One execution of one plugin, whatever it answers. Raises FileNotFoundError, naming the path."""
        attachment = attachment or Attachment(container="", ifname="")
        env = os.environ | self.env | {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": attachment.container,
            "CNI_NETNS": attachment.netns,
            "CNI_ARGS": attachment.args,
            "CNI_IFNAME": attachment.ifname,
            "CNI_PATH": os.pathsep.join(map(str, self.path)),
        }
        done = subprocess.run(
            [*self.enter, str(self.find(plugin))],
            input=json.dumps(conf).encode(), capture_output=True, env=env, timeout=self.timeout, check=False,
        )
        return Reply(done.returncode, done.stdout, done.stderr.decode(errors="replace"))

    def find(self, plugin: str) -> Path:
        """The executable of that name, first in `path` wins. Raises FileNotFoundError."""
        for directory in self.path:
            if "/" not in plugin and (directory / plugin).is_file():
                return directory / plugin
        raise FileNotFoundError(f"no plugin {plugin!r} in {os.pathsep.join(map(str, self.path))}")

    def _call(self, verb: str, plugin: Json, conf: Json, attachment: Attachment | None) -> Reply:
        reply = self.execute(verb, str(plugin["type"]), conf, attachment)
        if reply.code != 0:
            raise PluginError(verb, str(plugin["type"]), reply)
        return reply

    def _conf(
        self, network: Network, plugin: Json, attachment: Attachment | None, result: Json | None
    ) -> Json:
        conf: Json = {**plugin, "name": network.name, "cniVersion": network.version}
        if result is not None:
            conf["prevResult"] = result
        declared = cast(Mapping[str, bool], plugin.get("capabilities") or {})
        given = attachment.capabilities if attachment else {}
        wanted = {name: given[name] for name, on in declared.items() if on and name in given}
        return conf | ({"runtimeConfig": wanted} if wanted else {})

    def _cache_file(self, network: Network, attachment: Attachment) -> Path:
        return self.cache / f"{network.name}-{attachment.container}-{attachment.ifname}"

    def _remember(self, network: Network, attachment: Attachment, result: Json) -> None:
        self.cache.mkdir(parents=True, exist_ok=True)
        what = {"network": network.name, "attachment": vars(attachment), "result": result}
        self._cache_file(network, attachment).write_text(json.dumps(what))

    def _cached_attachments(self, network: Network) -> list[Attachment]:
        every = [json.loads(path.read_text()) for path in sorted(self.cache.glob(f"{network.name}-*"))]
        return [Attachment(**one["attachment"]) for one in every if one["network"] == network.name]


@contextmanager
def _collecting(errors: list[PluginError]) -> Iterator[None]:
    try:
        yield
    except PluginError as error:
        errors.append(error)


def _attachment(netns: str, env: Mapping[str, str]) -> Attachment:
    path = netns if "/" in netns else f"/run/netns/{netns}"
    container = "runtime-" + hashlib.sha512(path.encode()).hexdigest()[:20]  # as cnitool derives its own
    capabilities = cast(Json, json.loads(env.get("CAP_ARGS") or "{}"))
    return Attachment(container, path, env.get("CNI_IFNAME", "eth0"), env.get("CNI_ARGS", ""), capabilities)


def _run(arguments: Sequence[str], env: Mapping[str, str]) -> Json | None:
    verb, name, *rest = arguments
    network = Network.load(Path(env.get("NETCONFPATH", "/etc/cni/net.d")), name)
    path = tuple(Path(part) for part in env.get("CNI_PATH", "/opt/cni/bin").split(os.pathsep))
    runtime = Runtime(path=path, cache=Path(env.get("TULLE_RUNTIME_CACHE", "/run/tulle-runtime")))
    match verb, rest:
        case "add", [netns]:
            return runtime.add(network, _attachment(netns, env))
        case "check", [netns]:
            runtime.check(network, _attachment(netns, env))
        case "del", [netns]:
            runtime.delete(network, _attachment(netns, env))
        case "status", []:
            runtime.status(network)
        case "gc", []:
            runtime.gc(network, None)
        case "version", []:
            return {str(plugin["type"]): runtime.version(str(plugin["type"])) for plugin in network.plugins}
        case _:
            raise LookupError(USAGE)
    return None


def main(arguments: Sequence[str]) -> int:
    """The command. 0 when every plugin was content, 1 when one was not, 2 when it was called wrongly."""
    if not arguments or arguments[0] in {"-h", "--help"}:
        print(USAGE)
        return 0 if arguments else 2
    try:
        if len(arguments) < 2:
            raise LookupError(USAGE)
        answer = _run(arguments, os.environ)
    except LookupError as error:
        print(error.args[0], file=sys.stderr)
        return 2
    except (PluginError, ExceptionGroup, ValueError, OSError) as error:
        print(f"runtime.py: {error}", file=sys.stderr)
        return 1
    if answer is not None:
        print(json.dumps(answer, indent=4))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
