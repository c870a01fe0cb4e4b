"""Who is called, and what it is told: a name and a configuration, understood by the files of the rooms.

    parse({"name": "pods", "type": "tulle", "ipam": {"type": "host-local"}})       a wiring, with its features
    parse({"name": "pods", ...}, "host-local")                                     an IPAM that a main plugin calls
    parse({"name": "pods", "type": "...", "prevResult": ...}, "...")               a feature, after a main plugin
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import msgspec
from msgspec.structs import replace

from cni_plugin.conf import plugin
from cni_plugin.conf.plugin import IpamConf, NetConf
from cni_plugin.conf.reading import Conf, invalid, typed
from cni_plugin.errors import UNSUPPORTED_FIELD, CniError
from cni_plugin.features import contract as features
from cni_plugin.features.contract import Feature
from cni_plugin.ipams import contract as ipams
from cni_plugin.ipams.contract import Ipam
from cni_plugin.wirings import contract as wirings
from cni_plugin.wirings.contract import Wiring


class Plugin(msgspec.Struct, frozen=True):
    """Of `wiring`, `ipam` and `feature` the one that is called, none of them for a name that nobody bears.

    `features` are the keys of those that take part, by their names.
    """

    conf: NetConf
    wiring: Wiring | None = None
    ipam: Ipam | None = None
    feature: Feature | None = None
    features: Mapping[str, Conf] = {}

    @property
    def waits(self) -> bool:
        """Whether an ADD, or what takes one back, may have to wait for others."""
        by_itself = (self.wiring is not None and self.wiring.dad(self.conf)) or any(
            found.waits(conf) for name, conf in self.features.items() if (found := features.find(name)) is not None
        )
        return by_itself or (self.ipam or ipams.find(self.conf.ipam.type)).WAITS


def parse(raw: Mapping[str, object], name: str = "") -> Plugin:
    """The plugin of this name, else of the configuration's type, with its keys typed and checked.

    Raises CniError 2 or 7.
    """
    found = _called(name) if name else _named(raw)
    if found.ipam is not None:
        keys = found.ipam.Conf
        conf = plugin.parse(raw, NetConf, plugin.FOR_IPAM, lambda _: keys)
        conf.ipam.check()
        return replace(found, conf=conf)
    shape = found.wiring.KEYS if found.wiring is not None else NetConf
    conf = plugin.parse(raw, shape, plugin.keys_of(shape), _ipam)
    chosen = _features(found, raw)
    conf.check()
    conf.ipam.check()
    return replace(found, conf=conf.called(name or conf.type), features=chosen)


def parse_name(raw: Mapping[str, object], name: str = "", folder: str = "/") -> Plugin:
    """What DEL needs of a configuration that need not be whole. Raises CniError 7 without a good name of a network."""
    found = _called(name) if name else _named(raw)
    conf = plugin.parse_name(raw, lambda kind: (found.ipam or ipams.find(kind)).Conf, folder)
    if found.ipam is None and _is_main(conf.ipam.type):  # no ADD got an address there
        conf = replace(conf, ipam=ipams.find("").Conf())
    return replace(found, conf=conf)


@lru_cache(maxsize=64)
def bare_ipam(kind: str, data_dir: str) -> IpamConf:
    """What it takes to give back to an IPAM, by what is on record. Remembered: a network's pods have the same there."""
    return plugin.bare(kind, data_dir, lambda kind: ipams.find(kind).Conf)


def names() -> list[str]:
    """What we can be called."""
    return [*wirings.names(), *ipams.names(), *features.names()]


def _called(name: str) -> Plugin:
    wiring = wirings.find(name)
    ipam = ipams.served(name) if wiring is None else None
    feature = features.served(name) if wiring is None and ipam is None else None
    return Plugin(NetConf(), wiring, ipam, feature)


def _named(raw: Mapping[str, object]) -> Plugin:
    """By the type, where a file bears that name; else it is one of ours under a name that somebody gave it."""
    kind = next((each for key, each in raw.items() if key.lower() == "type"), None)
    found = _called(kind) if isinstance(kind, str) else Plugin(NetConf())
    return found if (found.wiring, found.ipam, found.feature) != (None, None, None) else _called(wirings.OURS)


def _features(found: Plugin, raw: Mapping[str, object]) -> dict[str, Conf]:
    """The keys of the feature that is called, or of those that the wiring serves itself."""
    if found.feature is not None:
        chosen = [found.feature]
    elif found.wiring is not None:
        own = (features.find(each) for each in found.wiring.FEATURES)
        chosen = [*filter(None, own), *_capabilities(found.wiring, raw)]
    else:
        chosen = []
    return {each.NAME: _typed(each, raw) for each in chosen}


def _typed(feature: Feature, raw: Mapping[str, object]) -> Conf:
    keys = plugin.keys_of(feature.KEYS)
    return typed({key: each for key, each in raw.items() if key.lower() in keys}, feature.KEYS)


def _capabilities(wiring: Wiring, raw: Mapping[str, object]) -> list[Feature]:
    """The features that a runtime asks for one pod. What nobody makes would be missed only when it is used (for host

    ports: when somebody connects); so it is refused here.
    """
    runtime = next((each for key, each in raw.items() if key.lower() == "runtimeconfig"), None)
    chosen = []
    for key, value in runtime.items() if isinstance(runtime, dict) else ():
        name = wiring.CAPABILITIES.get(key.lower()) if value else None
        if name is None:
            continue
        found = features.find(name)
        if found is None:
            raise CniError(
                UNSUPPORTED_FIELD,
                f"runtimeConfig.{key} {value!r} is not served by this release: chain the {name} plugin after this one "
                f"and remove {key} from this one's capabilities",
            )
        chosen.append(found)
    return chosen


def _ipam(kind: str) -> type[IpamConf]:
    if _is_main(kind):
        raise invalid("ipam.type", kind, "that is a main plugin; name an IPAM plugin, such as host-local")
    return ipams.find(kind).Conf


def _is_main(kind: str) -> bool:
    return bool(kind) and ipams.served(kind) is None and wirings.find(kind) is not None
