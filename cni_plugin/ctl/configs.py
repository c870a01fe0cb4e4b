"""The configurations in a runtime's folder, as the doctor looks at them: which are ours, what they need, what is wrong.

Runtimes take the first file by name with one of three endings; a folder that is not there is an empty one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_network
from typing import NamedTuple

import msgspec

from cni_plugin import decoding, doubts
from cni_plugin.conf import plugin, reading
from cni_plugin.conf.plugin import NetConf
from cni_plugin.errors import CniError
from cni_plugin.features import contract as features
from cni_plugin.kernel.host import files
from cni_plugin.plugins import Plugin, parse
from cni_plugin.rooms import default
from cni_plugin.wirings import bridge
from cni_plugin.wirings import contract as wirings


class ConfigFile(msgspec.Struct, frozen=True):
    """A file in the runtime's configuration folder; `ours`: one of its plugins is Tulle, of `network`."""

    path: str
    ours: bool = False
    plugins: tuple[str, ...] = ()
    agent: str = "auto"
    families: tuple[int, ...] = ()
    needs: tuple[str, ...] = ()
    backend: str = ""
    problem: str = ""
    network: str = ""
    ranges: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


class Read(NamedTuple):
    """A file: what the doctor looks at, and where it is ours and good the typed and the plain configuration."""

    config: ConfigFile
    conf: NetConf | None
    raw: Mapping[str, object]


def read(place: str, networks: Collection[str]) -> tuple[Read, ...]:
    """Every configuration in order. One of another plugin's name is ours when pods of its network are on record.

    Raises OSError when the folder cannot be listed.
    """
    names = [each for each in files.listed(place) if each.endswith(plugin.ENDINGS)]
    return tuple(_read(f"{place}/{each}", networks) for each in names)


def _read(path: str, networks: Collection[str]) -> Read:
    try:
        raw = reading.decode(files.follow(path), f"in {path}")
    except OSError as error:
        return Read(ConfigFile(path, problem=f"cannot be read: {error.strerror}"), None, {})
    except CniError as error:
        return Read(ConfigFile(path, problem=error.msg), None, {})
    plugins = [each for each in _plugins(raw) if isinstance(each, dict)]
    types = tuple(str(each.get("type", "")) for each in plugins)
    mine = [each for each in plugins if _is_ours(each, raw, networks)]
    if not mine:
        return Read(ConfigFile(path, plugins=types), None, raw)
    whole = {"name": raw.get("name"), "cniVersion": raw.get("cniVersion"), **mine[0]}
    whole = {key: each for key, each in whole.items() if each is not None}
    try:
        found = parse(whole)
    except CniError as error:
        return Read(ConfigFile(path, ours=True, plugins=types, problem=error.msg), None, whole)
    told = msgspec.structs.replace(_config(path, types, found), doubts=tuple(_doubts(whole, found)))
    return Read(told, found.conf, whole)


def _plugins(raw: Mapping[str, object]) -> list[object]:
    plugins = raw.get("plugins")
    return plugins if isinstance(plugins, list) else [raw]


def _is_ours(plugin: Mapping[str, object], raw: Mapping[str, object], networks: Collection[str]) -> bool:
    kind = plugin.get("type")
    if kind == wirings.OURS:
        return True
    found = wirings.find(kind) if isinstance(kind, str) else None
    return found is not None and found.KEPT and raw.get("name") in networks


def _config(path: str, types: tuple[str, ...], found: Plugin) -> ConfigFile:
    conf = found.conf
    bridged = conf if isinstance(conf, bridge.Conf) else bridge.Conf()
    return ConfigFile(
        path,
        ours=True,
        plugins=types,
        agent=conf.agent,
        families=tuple(sorted(set(_families(conf)))) if bridged.gateway else (),
        needs=tuple(_needs(found)),
        backend=_backend(conf),
        network=conf.name,
        ranges=tuple(_subnets(conf)),
    )


def _needs(found: Plugin) -> Iterator[str]:
    """What its wiring and its features need of the kernel, its backend left out."""
    if found.wiring is not None:
        yield from found.wiring.needed(found.conf)
    for name, conf in found.features.items():
        feature = features.called(name)
        if feature.wanted(conf):
            yield from feature.NEEDS


def _subnets(conf: NetConf) -> Iterator[str]:
    """Those in the configuration that are networks; ADD refuses the others with words of its own."""
    for subnet in conf.ipam.subnets:
        with suppress(ValueError):
            yield str(ip_network(subnet, strict=False))


def _families(conf: NetConf) -> Iterator[int]:
    return (ip_network(each).version for each in _subnets(conf))


def _cluster(conf: NetConf) -> object:
    """The cluster's object, None without one or when its file cannot be read."""
    if not isinstance(conf.cluster, str):
        return conf.cluster
    try:
        return decoding.decode(files.follow(conf.cluster))
    except (OSError, msgspec.MsgspecError):
        return None


def _doubts(raw: Mapping[str, object], found: Plugin) -> Iterator[str]:
    """What is probably a mistake; what is one in the list of nodes is told where that is looked at."""
    yield from doubts.of_plugin(raw, found.conf, *found.features.values())
    cluster = _cluster(found.conf)
    with suppress(CniError):
        yield from doubts.of_cluster(cluster) if cluster is not None else ()


def _backend(conf: NetConf) -> str:
    """The backend of the cluster, also when none is named; "" without a cluster."""
    folded = reading.fold(_cluster(conf))
    backend = folded.get("backend") or {} if isinstance(folded, dict) else None
    return str(backend.get("type") or default("backends")).lower() if isinstance(backend, dict) else ""
