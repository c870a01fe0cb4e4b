"""The CNI configuration that the runtime finds: made of a template, and put in place when the node is ready, last.

A runtime takes the first file of /etc/cni/net.d as soon as it is there, and starts pods (failure 27: pods on half a
network). So it is written once all else stands, by rename, and only when it would change; nothing removes it, not even
an upgrade: STATUS says then that no pod should come.

    {"name": "tulle", "plugins": [{"type": "tulle", ...}]}   ->   ... "cluster": "/run/tulle/cluster.json" ...
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from cni_plugin.conf.plugin import check_name
from cni_plugin.conf.reading import decode
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.kernel.host import files

DEFAULT: Mapping[str, object] = {
    "cniVersion": "1.0.0",
    "cniVersions": ["1.0.0", "1.1.0"],
    "name": "tulle",
    "plugins": [
        {
            "type": "tulle",
            "bridge": "tulle0",
            "ipMasq": True,
            "hairpinMode": True,
            "capabilities": {"ips": True, "mac": True, "ipRanges": True, "dns": True},
            "ipam": {"type": "host-local"},
        }
    ],
}
"""What is written when neither the source nor the node has a template."""


def template(path: str) -> Mapping[str, object] | None:
    """The node's own template, None when there is no such file. Raises CniError 6 and 7, OSError."""
    try:
        return ours(decode(files.follow(path), f"in {path}"))
    except FileNotFoundError:
        return None


def name_of(conf: Mapping[str, object]) -> str:
    """The network's name. Raises CniError 7 without a good one."""
    name = conf.get("name")
    check_name(name if isinstance(name, str) else "")
    assert isinstance(name, str)
    return name


def completed(conf: Mapping[str, object], cluster: str) -> dict[str, object]:
    """The template with the cluster's file in each plugin of ours that names no cluster itself. Raises CniError 7."""
    plugins = conf.get("plugins")
    if not isinstance(plugins, list) or not all(isinstance(each, dict) for each in plugins):
        where = "in the template of the CNI configuration"
        raise CniError(INVALID_CONFIG, f"invalid plugins {plugins!r} {where}: it must be a list of objects")
    return {**conf, "plugins": [_told(each, cluster) for each in plugins]}


def ours(conf: Mapping[str, object]) -> Mapping[str, object]:
    """The same, as far as it calls us: else pods would come up on another plugin's network. Raises CniError 7."""
    plugins = conf.get("plugins")
    found = [each for each in plugins if isinstance(each, dict)] if isinstance(plugins, list) else [conf]
    if not any(each.get("type") == "tulle" or _names_cluster(each) for each in found):
        kinds = ", ".join(repr(each.get("type")) for each in found) or "none"
        raise CniError(INVALID_CONFIG, f"invalid plugins {kinds}: no plugin of type tulle is among them")
    return conf


def put(path: str, conf: Mapping[str, object]) -> bool:
    """Have this configuration at `path`; whether it had to be written. Raises OSError."""
    data = msgspec.json.format(msgspec.json.encode(conf), indent=2) + b"\n"
    with suppress(FileNotFoundError):
        if files.follow(path) == data:
            files.finish(path)
            return False
    files.publish(path, data)
    return True


def _told(plugin: Mapping[str, object], cluster: str) -> dict[str, object]:
    named = _names_cluster(plugin)
    return dict(plugin) if named or plugin.get("type") != "tulle" else {**plugin, "cluster": cluster}


def _names_cluster(plugin: Mapping[str, object]) -> bool:
    return any(key.lower() == "cluster" for key in plugin)
