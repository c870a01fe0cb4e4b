"""The configuration of a plugin, which a runtime hands over on stdin, as typed values: the keys that all plugins share.

What a wiring, an IPAM or a feature has of its own stands in its file. Beside the specification's keys there are two of
ours, `cluster` and `agent`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import ClassVar, Literal, Self, TypeAlias

import msgspec

from cni_plugin.conf.reading import Conf, fold, invalid, typed
from cni_plugin.errors import INVALID_CONFIG, CniError
from cni_plugin.keys import spelled
from cni_plugin.marks import MAX_MTU, MIN_MTU
from cni_plugin.spec import NAME, Dns, absolute

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
    """What every plugin of a network is told. `mtu` in bytes, 0 when it is to be derived."""

    cni_version: str = "0.1.0"
    name: str = ""
    type: str = ""
    mtu: int = 0
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

    def called(self, name: str) -> Self:
        """The same with what follows from the name that the plugin is called by."""
        del name
        return self

    def check(self) -> None:
        """Raises CniError 2 or 7 for what is well typed, and cannot be."""
        if self.mtu and not MIN_MTU <= self.mtu <= MAX_MTU:
            raise invalid(
                "mtu", self.mtu, f"it must be between {MIN_MTU} and {MAX_MTU} bytes; leave it out to derive it"
            )

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
FOR_IPAM = frozenset(("cniversion", "name", "type", "args", "runtimeconfig", _VALID, _ONCE))
"""What an IPAM plugin may look at: the other keys belong to the plugin that called it."""


def keys_of(shape: type[Conf]) -> frozenset[str]:
    """The keys, in lower case, that are a struct's own to read."""
    return frozenset(shape.__struct_encode_fields__).difference(_OPAQUE)


def parse(raw: Mapping[str, object], shape: type[NetConf], keys: Collection[str], ipam: IpamShape) -> NetConf:
    """These keys typed, and those whose insides are somebody else's: an IPAM's object, a result, a cluster's list.

    Raises CniError 7.
    """
    conf = typed({key: each for key, each in raw.items() if key.lower() in keys}, shape)
    check_name(conf.name)
    found = {key.lower(): each for key, each in raw.items() if each is not None}
    cluster, previous, given = (found.get(key) for key in _OPAQUE)
    if cluster is not None and not isinstance(cluster, str | dict):
        raise invalid("cluster", cluster, "it must be an object with the nodes, or the path of a file with one")
    if previous is not None and not isinstance(previous, dict):
        raise invalid("prevResult", previous, "it must be an object")
    return msgspec.structs.replace(conf, cluster=cluster, prev_result=previous, ipam=_ipam(given, ipam))


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
    is_path = (folder or data_dir[:1] == "/") and "\0" not in data_dir
    kept = bare(kind, absolute(data_dir, folder) if is_path else "", ipam)
    return msgspec.structs.replace(conf, ipam=kept, prev_result=previous if isinstance(previous, dict) else None)


def bare(kind: str, data_dir: str, ipam: IpamShape) -> IpamConf:
    """What of an IPAM's keys it takes to give back: its type, and where its leases are, "" where they usually are."""
    return typed({"type": kind, "dataDir": data_dir}, ipam(kind), "ipam")


def _ipam(given: object, ipam: IpamShape) -> IpamConf:
    """Typed as the IPAM that its type names has its keys."""
    if given is None:
        return ipam("")()
    if not isinstance(given, dict):
        raise invalid("ipam", given, "it must be an object")
    kind = typed({key: each for key, each in given.items() if key.lower() == "type"}, IpamConf, "ipam").type
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
