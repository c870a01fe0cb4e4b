"""What was written and is probably a mistake: keys that nobody reads, close to one that is read.

CNI configurations and net-conf.json may carry the keys of others, so an unknown one is no error there; but `ipMask` is
nobody's, and without a word a cluster would go unmasqueraded.

    of_plugin({"ipMask": True, ...}, conf)   ->   ["ipMask: there is no such key; did you mean ipMasq?"]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cni_plugin.conf.plugin import NetConf
from cni_plugin.conf.reading import Conf, typed
from cni_plugin.keys import strangers

if TYPE_CHECKING:
    from cni_plugin.network import NetworkKeys

_LISTS, _RUNTIMES = ("cniversions", "disablecheck", "disablegc", "capabilities", "plugins"), (
    "portmappings", "bandwidth", "aliases", "infinibandguid", "deviceid", "cgrouppath", "labels",
)
_FLANNELS = ("networks", "ipv6networks", "enablenftables", "type", "learning", "macprefix", "name", "psk", "mode")
_OTHERS = frozenset((*_LISTS, *_RUNTIMES, *_FLANNELS))
"""Keys that the specification, runtimes and flannel know, and that are close to one of ours or may come to be."""
_OPAQUE = ("cluster", "prevresult")


class _Type(Conf, frozen=True):
    type: str = ""


def of_plugin(raw: Mapping[str, object], conf: NetConf, *features: Conf) -> list[str]:
    """Of a plugin's configuration; its `cluster` is `of_cluster`'s, and a foreign IPAM's keys are its own."""
    skipped = _OPAQUE if conf.ipam.WHOLE else (*_OPAQUE, "ipam")
    return _worded({key: each for key, each in raw.items() if key.lower() not in skipped}, conf, *features)


def of_cluster(raw: object) -> list[str]:
    """Of a `cluster` object. Raises CniError 7 for one that cannot be read."""
    from cni_plugin import cluster as clusters  # an ADD asks of its plugin alone, and pays for what it imports
    from cni_plugin.network import NetworkKeys

    shapes = (typed(raw, NetworkKeys, "cluster"), *clusters.shapes(raw))
    return [*_worded(raw, *shapes, at="cluster"), *_of_backend(raw, "cluster.backend")]


def of_node(raw: object) -> list[str]:
    """Of one node of a list, which stands in a file of its own. Raises CniError 7."""
    from cni_plugin import cluster as clusters

    alone = {"nodes": [raw]}
    return [each.removeprefix("nodes[0].") for each in _worded(alone, *clusters.shapes(alone))]


def of_network(raw: Mapping[str, object], conf: NetworkKeys) -> list[str]:
    """Of flannel's net-conf.json."""
    return [*_worded(raw, conf), *_of_backend(raw, "Backend")]


def _of_backend(raw: object, at: str) -> list[str]:
    """A key of any backend is one, so that `type`, which is no backend's own, alone switches a cluster."""
    from cni_plugin.backends import contract as backends

    found = raw if isinstance(raw, dict) else {}
    given = next((each for key, each in found.items() if key.lower() == "backend"), None)
    known = [_Type(), *(backends.find(name).configure({}) for name in backends.names())]
    return _worded(given, *known, at=at)


def _worded(raw: object, *made: object, at: str = "") -> list[str]:
    return [
        f"{each.path}: there is no such key; did you mean {each.meant}?"
        for each in strangers(raw, *made, at=at, besides=_OTHERS)
        if each.meant
    ]
