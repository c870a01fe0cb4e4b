"""The configuration of a plugin, which a runtime hands over on stdin, as typed values: all defaults and checks of it.

The keys are those of the reference `bridge` plugin with the same defaults, plus `cluster` and `agent`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import ClassVar, Literal, TypeAlias

import msgspec

from cni_plugin.conf.reading import Conf, fold, invalid, typed
from cni_plugin.errors import INVALID_CONFIG, UNSUPPORTED_FIELD, CniError
from cni_plugin.keys import spelled
from cni_plugin.marks import MAX_MTU, MIN_MTU
from cni_plugin.spec import NAME, Dns, absolute, flaw_of_ifname

HOST_LOCAL = "host-local"
MAIN_NAMES = ("tulle", "bridge")
"""What we are called as a main plugin."""
DEFAULT_DATA_DIR = "/var/lib/cni/networks"
"""Where host-local has its leases, the reference's as ours."""
ENDINGS = (".conf", ".conflist", ".json")
"""What libcni, and so every runtime, takes for a network configuration (libcni/api.go: ConfFiles)."""
_VALID, _ONCE = "cni.dev/valid-attachments", "cni.dev/attachments"


class RangeConf(Conf, frozen=True):
    subnet: str = ""
    range_start: str = ""
    range_end: str = ""
    gateway: str = ""


class IpamConf(Conf, frozen=True):
    """What every IPAM has; its own keys are in its own file.

    `PATHS`: fields that are paths. `WHOLE`: these are all its keys, so that another one is probably a mistake.
    """

    PATHS: ClassVar[tuple[str, ...]] = ()
    WHOLE: ClassVar[bool] = False
    type: str = ""

    @property
    def subnets(self) -> tuple[str, ...]:
        """The networks that it names, as they are written."""
        return ()

    @property
    def folder(self) -> str:
        """The folder on this node that it names for its leases, "" for none."""
        return ""

    def check(self) -> None:
        """Raises CniError 2 or 7 for what is well typed, and cannot be."""


IpamShape: TypeAlias = Callable[[str], type[IpamConf]]
"""The keys that the IPAM behind an `ipam.type` has."""


class VlanTrunk(Conf, frozen=True):
    id: int | None = None
    min_id: int | None = None
    max_id: int | None = None


class RuntimeDns(Conf, frozen=True):
    servers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class RuntimeConfig(Conf, frozen=True):
    ips: tuple[str, ...] = ()
    mac: str = ""
    ip_ranges: tuple[tuple[RangeConf, ...], ...] = ()
    dns: RuntimeDns = RuntimeDns()


class CniArgs(Conf, frozen=True):
    ips: tuple[str, ...] = ()
    mac: str = ""


class Args(Conf, frozen=True):
    cni: CniArgs = CniArgs()


class Listed(Conf, frozen=True):
    """An attachment as GC's lists name it; without `ifname` it may be any of the container's."""

    container_id: str
    ifname: str = ""


class NetConf(Conf, frozen=True):
    """The configuration of one network. `mtu` in bytes, 0 when it is to be derived."""

    cni_version: str = "0.1.0"
    name: str = ""
    type: str = ""
    bridge: str = ""
    is_gateway: bool | None = None
    is_default_gateway: bool | None = None
    force_address: bool = False
    ip_masq: bool = False
    ip_masq_backend: Literal["", "iptables", "nftables"] = ""
    mtu: int = 0
    hairpin_mode: bool = False
    promisc_mode: bool = False
    vlan: int = 0
    vlan_trunk: tuple[VlanTrunk, ...] = ()
    preserve_default_vlan: bool = True
    macspoofchk: bool = False
    enabledad: bool = False
    disable_container_interface: bool = False
    port_isolation: bool = False
    mac: str = ""
    dns: Dns = Dns()
    ipam: IpamConf = IpamConf()
    args: Args = Args()
    runtime_config: RuntimeConfig = RuntimeConfig()
    cluster: str | Mapping[str, object] | None = None
    agent: Literal["auto", "required", "none"] = "auto"
    prev_result: Mapping[str, object] | None = None
    valid_attachments: tuple[Listed, ...] | None = msgspec.field(default=None, name=_VALID)
    attachments: tuple[Listed, ...] | None = msgspec.field(default=None, name=_ONCE)

    @property
    def gateway(self) -> bool:
        """Whether the bridge bears the pods' gateway address; in a cluster it does unless told otherwise."""
        if self.is_gateway is None:
            return self.default_gateway or self.cluster is not None
        return self.is_gateway or self.default_gateway

    @property
    def default_gateway(self) -> bool:
        """Whether the pods' default routes lead there; in a cluster they do unless told otherwise."""
        if self.is_default_gateway is None:
            return self.cluster is not None and self.is_gateway is not False
        return self.is_default_gateway

    @property
    def trunk(self) -> tuple[tuple[int, int], ...]:
        """The VLANs of `vlanTrunk` as (first, last)."""
        singles = [(each.id, each.id) for each in self.vlan_trunk if each.id is not None]
        spans = [
            (each.min_id, each.max_id)
            for each in self.vlan_trunk
            if each.min_id is not None and each.max_id is not None
        ]
        return tuple(sorted({*singles, *spans}))

    @property
    def valid(self) -> tuple[Listed, ...] | None:
        """What GC may keep: the specification's key, else the name that libcni once gave it; None without either."""
        return self.attachments if self.valid_attachments is None else self.valid_attachments

    @property
    def incomplete(self) -> Mapping[str, str]:
        """The entries of that list which name no interface, by their keys, with what is to be done about each."""
        key = _ONCE if self.valid_attachments is None else _VALID
        remedy = "the runtime must name an interface; all that {} has is kept meanwhile"
        entries = enumerate(self.valid or ())
        return {f"{key}[{at}].ifname": f"missing: {remedy.format(each.container_id)}"
                for at, each in entries if not each.ifname}


_OPAQUE = ("cluster", "prevresult", "ipam")
_OWN = frozenset(NetConf.__struct_encode_fields__).difference(_OPAQUE)
_OF_IPAM = ("cniversion", "name", "type", "args", "runtimeconfig", _VALID, _ONCE)


def parse(raw: Mapping[str, object], ipam: IpamShape) -> NetConf:
    """The typed configuration of a main plugin, checked. Raises CniError 2 or 7."""
    conf = _read(raw, _OWN, ipam)
    _refuse_unserved(raw)
    for rule in _RULES:
        rule(conf)
    conf.ipam.check()
    return conf


def parse_for_ipam(raw: Mapping[str, object], ipam: IpamShape) -> NetConf:
    """What an IPAM plugin may look at: the other keys belong to the plugin that called it. Raises CniError 7."""
    conf = _read(raw, _OF_IPAM, ipam)
    conf.ipam.check()
    return conf


def parse_name(raw: Mapping[str, object], ipam: IpamShape, folder: str = "/") -> NetConf:
    """What names the network, its IPAM and the result: what DEL needs. Raises CniError 7 without a good name.

    A path that is relative to a folder that is gone names nothing.
    """
    known = {key: each for key, each in raw.items() if key.lower() in ("cniversion", "name", "type")}
    conf = typed(known, NetConf)
    check_name(conf.name)
    found = {key.lower(): each for key, each in raw.items() if each is not None}
    folded, previous = fold(found.get("ipam")), found.get("prevresult")
    given = folded if isinstance(folded, dict) else {}
    kind, data_dir = (each if isinstance(each, str) else "" for each in (given.get("type"), given.get("datadir")))
    kind = "" if kind in MAIN_NAMES else kind  # no ADD got an address there
    is_path = (folder or data_dir[:1] == "/") and "\0" not in data_dir
    kept = bare(kind, absolute(data_dir, folder) if is_path else "", ipam)
    return msgspec.structs.replace(conf, ipam=kept, prev_result=previous if isinstance(previous, dict) else None)


def bare(kind: str, data_dir: str, ipam: IpamShape) -> IpamConf:
    """What of an IPAM's keys it takes to give back: its type, and where its leases are, "" where they usually are."""
    return typed({"type": kind, "dataDir": data_dir}, ipam(kind), "ipam")


def _read(raw: Mapping[str, object], keys: Collection[str], ipam: IpamShape) -> NetConf:
    """These keys typed, and those whose insides are somebody else's: an IPAM's object, a result, a cluster's list."""
    conf = typed({key: each for key, each in raw.items() if key.lower() in keys}, NetConf)
    check_name(conf.name)
    found = {key.lower(): each for key, each in raw.items() if each is not None}
    cluster, previous, given = (found.get(key) for key in _OPAQUE)
    if cluster is not None and not isinstance(cluster, str | dict):
        raise invalid("cluster", cluster, "it must be an object with the nodes, or the path of a file with one")
    if previous is not None and not isinstance(previous, dict):
        raise invalid("prevResult", previous, "it must be an object")
    return msgspec.structs.replace(conf, cluster=cluster, prev_result=previous, ipam=_ipam(given, ipam))


def _ipam(given: object, ipam: IpamShape) -> IpamConf:
    """Typed as the IPAM that its type names has its keys."""
    if given is None:
        return ipam("")()
    if not isinstance(given, dict):
        raise invalid("ipam", given, "it must be an object")
    kind = typed({key: each for key, each in given.items() if key.lower() == "type"}, IpamConf, "ipam").type
    if kind in MAIN_NAMES:
        raise invalid("ipam.type", kind, f"that is a main plugin; name an IPAM plugin, such as {HOST_LOCAL}")
    return typed(given, ipam(kind), "ipam")


def located(conf: NetConf, folder: str) -> NetConf:
    """The same with whole paths: relative ones are meant from this folder.

    Raises CniError 7 for one where the folder is not known, for then it could mean any file.
    """
    ipam = {each: getattr(conf.ipam, each) for each in conf.ipam.PATHS}
    paths = {f"ipam.{spelled(each)}": path for each, path in ipam.items()}
    if isinstance(conf.cluster, str):
        paths["cluster"] = conf.cluster
    for key, path in paths.items():
        if "\0" in path:
            raise invalid(key, path, "a path holds no NUL")
    relative = {key: path for key, path in paths.items() if path and path[0] != "/"}
    if not relative:
        return conf
    for key, path in relative.items():
        if not folder:
            raise invalid(key, path, "the folder that it is relative to is gone; write the whole path")
    whole = {each: absolute(path, folder) for each, path in ipam.items()}
    return msgspec.structs.replace(
        conf,
        ipam=msgspec.structs.replace(conf.ipam, **whole),
        cluster=absolute(conf.cluster, folder) if isinstance(conf.cluster, str) else conf.cluster,
    )


def check_name(name: str) -> None:
    """Raises CniError 7 unless this can name a network: it becomes a directory, and must not lead out of it."""
    if not NAME.match(name):
        what = "invalid characters found in network name" if name else "missing network name"
        remedy = "a network's name begins with a letter or digit and holds letters, digits, '_.-'"
        raise CniError(INVALID_CONFIG, f"{what}: invalid name {name!r}: {remedy}")


def _check_bridge(conf: NetConf) -> None:
    name = conf.bridge
    flaw = flaw_of_ifname(name) if name else ""
    if flaw:
        raise invalid("bridge", name, f"the interface name {flaw}")
    if conf.vlan and conf.gateway and (flaw := flaw_of_ifname(f"{name}.{conf.vlan}")):
        raise invalid("bridge", name, f"its VLAN's interface would be {name}.{conf.vlan}, and that name {flaw}")


def _check_mtu(conf: NetConf) -> None:
    if conf.mtu and not MIN_MTU <= conf.mtu <= MAX_MTU:
        raise invalid("mtu", conf.mtu, f"it must be between {MIN_MTU} and {MAX_MTU} bytes; leave it out to derive it")


def _check_modes(conf: NetConf) -> None:
    if conf.hairpin_mode and conf.promisc_mode:
        raise CniError(
            INVALID_CONFIG,
            "cannot set hairpin mode and promiscuous mode at the same time. Set hairpinMode or promiscMode to false",
        )
    if conf.disable_container_interface and conf.ipam.type:
        raise CniError(
            INVALID_CONFIG,
            "cannot use IPAM when DisableContainerInterface flag is set: remove disableContainerInterface or ipam.type "
            f"{conf.ipam.type!r}",
        )


def _check_vlans(conf: NetConf) -> None:
    if not 0 <= conf.vlan <= 4094:
        raise CniError(
            INVALID_CONFIG,
            f"invalid VLAN ID {conf.vlan} (must be between 0 and 4094): set vlan to one of these, 0 for none",
        )
    for each in conf.vlan_trunk:
        _check_trunk(each)
    if not conf.preserve_default_vlan and not conf.vlan and not conf.vlan_trunk:
        raise invalid("preserveDefaultVlan", False, "without vlan or vlanTrunk the port would be in no VLAN at all")


def _check_trunk(each: VlanTrunk) -> None:
    shape = {"id": each.id, "minID": each.min_id, "maxID": each.max_id}
    given = {key: value for key, value in shape.items() if value is not None}
    if not given:
        raise invalid("vlanTrunk", given, "give each entry an id, or minID and maxID")
    if (each.min_id is None) != (each.max_id is None):
        raise invalid("vlanTrunk", given, "minID and maxID should be configured simultaneously")
    if any(not 1 <= value <= 4094 for value in given.values()):
        raise invalid("vlanTrunk", given, "VLAN ids must be between 1 and 4094")
    if each.min_id is not None and each.max_id is not None and each.min_id > each.max_id:
        raise invalid("vlanTrunk", given, "minID must not be greater than maxID")


def _refuse_unserved(raw: Mapping[str, object]) -> None:
    """A mapping that nobody makes would be missed only when somebody connects; so it is refused here."""
    runtime = next((each for key, each in raw.items() if key.lower() == "runtimeconfig"), None)
    served_by = {"portmappings": "portmap", "bandwidth": "bandwidth"}
    for key, value in runtime.items() if isinstance(runtime, dict) else ():
        if value and key.lower() in served_by:
            raise CniError(
                UNSUPPORTED_FIELD,
                f"runtimeConfig.{key} {value!r} is not served by this release: chain the {served_by[key.lower()]} "
                f"plugin after this one and remove {key} from this one's capabilities",
            )


_RULES: tuple[Callable[[NetConf], None], ...] = (
    _check_bridge,
    _check_mtu,
    _check_modes,
    _check_vlans,
)
