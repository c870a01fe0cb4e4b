"""CNI on the wire: which verbs there are, what they need, and what a result looks like in each version.

Source: the specification 1.1.0 (github.com/containernetworking/cni, SPEC.md), its older versions for the result
shapes, and what skel and libcni enforce beside it. Inside the plugin a result is always that of 1.1.0; it takes
the shape of the version asked for only here, on its way out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address, ip_interface
from typing import Annotated, NamedTuple

import msgspec

from cni_plugin.errors import (
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_ENVIRONMENT,
    CniError,
)

VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*\Z")
_PREFIX = re.compile(r"[^/%]+/[0-9]+\Z")
_U8 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 8) - 1)]
_U32 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
"""What a route message has room for (struct rtmsg, RTA_* and RTAX_* in linux/rtnetlink.h)."""


class Verb(NamedTuple):
    """What a verb needs of the environment, and the first version of the specification that has it."""

    needs: tuple[str, ...]
    since: str


VERBS = {
    "ADD": Verb(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"), "0.1.0"),
    "DEL": Verb(("CNI_CONTAINERID", "CNI_IFNAME"), "0.1.0"),
    "CHECK": Verb(("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"), "0.4.0"),
    "GC": Verb((), "1.1.0"),
    "STATUS": Verb((), "1.1.0"),
    "VERSION": Verb((), "0.1.0"),
}


class Request(NamedTuple):
    """What the runtime said in the environment, checked; paths are absolute."""

    verb: str
    container: str
    netns: str
    ifname: str
    args: Mapping[str, str]
    path: tuple[str, ...]
    netns_override: bool


class Interface(
    msgspec.Struct, frozen=True, omit_defaults=True, rename={"socket_path": "socketPath", "pci_id": "pciID"}
):
    """A link of the result. `mtu` in bytes; `sandbox` is the netns path, "" for a link of the host."""

    name: str
    mac: str = ""
    mtu: int = 0
    sandbox: str = ""
    socket_path: str = ""
    pci_id: str = ""


class IPConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """An address with prefix length; `interface` indexes the result's interfaces."""

    address: str
    gateway: str = ""
    interface: int | None = None


class RouteConfig(msgspec.Struct, frozen=True, omit_defaults=True):
    """A route of the pod. `mtu` and `advmss` in bytes; `table` and `scope` are rtnetlink's numbers."""

    dst: str
    gw: str = ""
    mtu: _U32 = 0
    advmss: _U32 = 0
    priority: _U32 = 0
    table: _U32 | None = None
    scope: _U8 | None = None


class Dns(msgspec.Struct, frozen=True, omit_defaults=True):
    """What goes into resolv.conf."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


class Result(msgspec.Struct, frozen=True):
    """A result of specification 1.1.0."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[RouteConfig, ...] = ()
    dns: Dns = Dns()


def at_least(version: str, first: str) -> bool:
    """Whether a supported version is `first` or newer."""
    return VERSIONS.index(version) >= VERSIONS.index(first)


def absolute(path: str, folder: str) -> str:
    """What a path means to who stands in this folder; "" stays "", and all stays as it is where no folder is known."""
    return f"{folder}/{path}" if folder and path and path[0] != "/" else path


def parse_request(env: Mapping[str, str], folder: str = "") -> Request:
    """The request in these CNI_* variables, made in this folder. Raises CniError 4 that names all that is missing."""
    verb = env.get("CNI_COMMAND", "")
    row = VERBS.get(verb)
    if row is None:
        raise CniError(INVALID_ENVIRONMENT, f"unknown CNI_COMMAND: {verb!r}; it must be one of {', '.join(VERBS)}")
    missing = [name for name in row.needs if not env.get(name)]
    if missing:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"required env variables [{','.join(missing)}] missing: {verb} cannot be served without them",
        )
    container, ifname = env.get("CNI_CONTAINERID", ""), env.get("CNI_IFNAME", "")
    if row.needs:
        _check_container(container)
        _check_ifname(ifname)
    return Request(
        verb=verb,
        container=container,
        netns=absolute(env.get("CNI_NETNS", ""), folder),
        ifname=ifname,
        args=parse_args(env.get("CNI_ARGS", ""), strict=verb in ("ADD", "CHECK")),
        path=tuple(absolute(each, folder) for each in env.get("CNI_PATH", "").split(":") if each),
        netns_override=env.get("CNI_NETNS_OVERRIDE", "").lower() in ("1", "true"),
    )


def parse_args(text: str, *, strict: bool = True) -> dict[str, str]:
    """CNI_ARGS, `K=V;K=V`. Raises CniError 4 when a pair has no `=`; unless `strict` such a one is left out."""
    pairs = [each.partition("=") for each in text.split(";") if each]
    for key, equals, _ in pairs if strict else ():
        if not equals:
            raise CniError(
                INVALID_ENVIRONMENT,
                f"CNI_ARGS: invalid pair {key!r}: it has no value; pairs are written KEY=VALUE;KEY=VALUE",
            )
    return {key: value for key, equals, value in pairs if equals}


def check_version(version: str, since: str = "0.1.0", verb: str = "") -> None:
    """Raises CniError 1 unless this version of the specification is spoken here and has the verb."""
    if version not in VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"incompatible CNI versions: cniVersion {version!r} is not supported; use one of those in the details",
            f"config is {version!r}, plugin supports {list(VERSIONS)}",
        )
    if not at_least(version, since):
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"config version does not allow {verb}: cniVersion is {version!r}; set it to {since!r} or newer",
        )


def render_version(version: str) -> bytes:
    """The answer to VERSION."""
    return msgspec.json.encode({"cniVersion": version, "supportedVersions": VERSIONS})


def render_error(error: CniError, version: str) -> bytes:
    """The error object of the specification."""
    shape: dict[str, object] = {"cniVersion": version, "code": error.code, "msg": readable(error.msg)}
    if error.details:
        shape["details"] = readable(error.details)
    return msgspec.json.encode(shape)


def readable(text: str) -> str:
    """The text with U+FFFD for what came from the environment as bytes that are no UTF-8: JSON cannot tell those."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def render(result: Result, version: str) -> bytes:
    """A result in the shape of this version.

    Before 0.3.0 that has room for one address of each family: raises CniError 1 for one with more, or without any.
    """
    shape = _render_listed(result, version) if at_least(version, "0.3.0") else _render_oldest(result, version)
    return msgspec.json.encode({"cniVersion": version, **shape})


def _render_listed(result: Result, version: str) -> dict[str, object]:
    """0.3.0 to 1.1.0. `ips[].version` went in 1.0.0; MTUs and what routes know beside dst and gw came in 1.1.0."""
    newest = version == "1.1.0"
    shape: dict[str, object] = {
        "interfaces": [
            each if newest else Interface(each.name, each.mac, sandbox=each.sandbox) for each in result.interfaces
        ],
        "ips": result.ips if at_least(version, "1.0.0") else [_with_version(each) for each in result.ips],
        "dns": result.dns,
    }
    if result.routes:
        shape["routes"] = [each if newest else RouteConfig(each.dst, each.gw) for each in result.routes]
    return {key: value for key, value in shape.items() if value or key == "dns"}


def _with_version(each: IPConfig) -> dict[str, object]:
    shape: dict[str, object] = msgspec.to_builtins(each)
    return {"version": "6" if ":" in each.address else "4", **shape}


def _render_oldest(result: Result, version: str) -> dict[str, object]:
    """0.1.0 and 0.2.0: the address of each family, with its routes."""
    shape: dict[str, object] = {"dns": result.dns}
    for key, six in (("ip4", False), ("ip6", True)):
        found = [each for each in result.ips if (":" in each.address) == six]
        if len(found) > 1:
            raise CniError(
                INCOMPATIBLE_VERSION,
                f"CNI version {version} does not support more than 1 address per family: set cniVersion to '0.3.0' or "
                "newer, or have the IPAM give one",
                ", ".join(each.address for each in result.ips),
            )
        for first in found:
            routes = [RouteConfig(each.dst, each.gw) for each in result.routes if (":" in each.dst) == six]
            shape[key] = {
                "ip": first.address,
                **({"gateway": first.gateway} if first.gateway else {}),
                **({"routes": routes} if routes else {}),
            }
    if len(shape) == 1:
        raise CniError(
            INCOMPATIBLE_VERSION,
            "cannot convert: no valid IP addresses; a network without addresses needs cniVersion 0.3.0 or newer",
        )
    return shape


class _OldIP(msgspec.Struct):
    ip: str
    gateway: str = ""
    routes: tuple[RouteConfig, ...] = ()


class _AnyResult(msgspec.Struct):
    """All shapes at once: what a key is absent in is left at its default."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IPConfig, ...] = ()
    routes: tuple[RouteConfig, ...] = ()
    dns: Dns = Dns()
    ip4: _OldIP | None = None
    ip6: _OldIP | None = None


def parse_result(shape: object, where: str) -> Result:
    """A result of any version, as another plugin or an earlier ADD gave it; `where` names it in errors.

    Raises CniError 6 when it is not one.
    """
    try:
        each = msgspec.convert(_without_nulls(shape), _AnyResult, strict=False)
    except msgspec.ValidationError as error:
        raise CniError(DECODING_FAILURE, f"{where} is not a CNI result: {error}") from error
    old = [ip for ip in (each.ip4, each.ip6) if ip is not None]
    result = Result(
        each.interfaces,
        each.ips or tuple(IPConfig(ip.ip, ip.gateway) for ip in old),
        each.routes or tuple(route for ip in old for route in ip.routes),
        each.dns,
    )
    _check_addresses(result, where)
    return result


def _check_addresses(result: Result, where: str) -> None:
    prefixes = [*(each.address for each in result.ips), *(each.dst for each in result.routes)]
    addresses = [*(each.gateway for each in result.ips), *(each.gw for each in result.routes)]
    checks: list[tuple[Callable[[str], object], Iterable[str]]] = [
        (check_prefix, prefixes), (check_address, filter(None, addresses)),
    ]
    for read, texts in checks:
        for text in texts:
            try:
                read(text)
            except ValueError as error:
                raise CniError(DECODING_FAILURE, f"{where} is not a CNI result: {error}") from error


def check_prefix(text: str) -> None:
    """Raises ValueError unless this is an address with the length of its prefix, and no mask or zone in it."""
    if not _PREFIX.match(text):
        raise ValueError(f"{text!r} is not written as address/length")
    ip_interface(text)


def check_address(text: str) -> None:
    """Raises ValueError unless this is an address that means the same on every link."""
    if "%" in text:
        raise ValueError(f"{text!r} has a zone")
    ip_address(text)


def _without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_nulls(each) for key, each in value.items() if each is not None}
    if isinstance(value, list):
        return [_without_nulls(each) for each in value]
    return value


def _check_container(container: str) -> None:
    if not NAME.match(container):
        raise CniError(
            INVALID_ENVIRONMENT,
            f"invalid characters in containerID: CNI_CONTAINERID is {container!r}; it must begin with a letter or "
            "digit and hold only letters, digits, '_', '.' and '-'",
        )


def _check_ifname(ifname: str) -> None:
    flaw = flaw_of_ifname(ifname)
    if flaw:
        raise CniError(INVALID_ENVIRONMENT, f"interface name {flaw}: CNI_IFNAME is {ifname!r}; give another one")


def flaw_of_ifname(name: str) -> str:
    """Why no link of ours can have this name, "" for a good one; in the words of libcni where it has some.

    IFNAMSIZ is 16 with the final zero, and dev_valid_name forbids what follows; `%` would make a template of the name,
    in which the kernel puts a number (__dev_alloc_name, both in net/core/dev.c). What is no UTF-8 cannot be told.
    """
    if not name:
        return "is empty"
    if any("\ud800" <= each <= "\udfff" for each in name) or not name.isprintable():
        return "holds what is no text"
    if len(name.encode()) > 15:
        return "is too long, at most 15 bytes"
    if name in (".", ".."):
        return "is . or .."
    if any(each in "/:" or each.isspace() for each in name):
        return "contains / or : or whitespace characters"
    return "contains %, which stands for a number" if "%" in name else ""
