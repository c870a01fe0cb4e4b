"""Requests that no runtime would send, made of those that runtimes do: what the tests of bad input draw from.

A configuration is changed where it has structure (a value becomes another, a key goes, comes, or is spelt otherwise,
an object is nested), and then its text may be cut, bent or dressed in another encoding. Paths are chosen, never made
up, so that nothing is written or started outside of a test's folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

Json = dict[str, object]
VERBS = ("ADD", "ADD", "ADD", "DEL", "DEL", "CHECK", "GC", "STATUS", "VERSION")
NAMES = ("tulle", "tulle", "tulle", "bridge", "host-local", "portmap", "x", "")
_WORDS = (
    "", "x", "\0", "a\0b", "ä", "\u202e", "x" * 300, "10.22.0.0/24", "fd00:22::/64", "0.0.0.0/0", "10.22.0.5", "::",
    "999.1.1.1", "10.22.0.1/33", "10.22.0.300", "host-local", "static", "lender", "tulle", "bridge", "br%d", ".", "a b",
    "eth0", "0a:58:0a:16:00:05", "01:00:5e:00:00:01", "1.1.0", "0.1.0", "9.9.9", "required", "none", "vxlan", "host-gw",
)
_NUMBERS = (0, 1, -1, 67, 1400, 4094, 4095, 65535, 65536, 2**31, 2**32, 2**63, 2**64 - 1, 1.5, 1e308, -0.0)
_KEYS = (
    "cniVersion", "name", "type", "bridge", "isGateway", "isDefaultGateway", "forceAddress", "ipMasq", "ipMasqBackend",
    "mtu", "hairpinMode", "promiscMode", "vlan", "vlanTrunk", "id", "minID", "maxID", "preserveDefaultVlan",
    "macspoofchk", "enabledad", "disableContainerInterface", "portIsolation", "mac", "dns", "nameservers", "ipam",
    "subnet", "rangeStart", "rangeEnd", "gateway", "ranges", "routes", "dst", "gw", "table", "scope", "args", "cni",
    "ips", "runtimeConfig", "ipRanges", "portMappings", "cluster", "network", "backend", "nodes", "node", "address",
    "podCIDRs", "agent", "prevResult", "interfaces", "address", "interface", "cni.dev/valid-attachments",
    "cni.dev/attachments", "containerID", "ifname", "", "x", "Ä",
)
_ANYTHING: st.SearchStrategy[Any] = (
    st.sampled_from([*_WORDS, *_NUMBERS, None, True, False])
    | st.text(st.characters(exclude_characters="/.\0", codec="utf-8"), max_size=6)
    | st.sampled_from([[], {}, [[]], [{}], [None], [[{}]], {"": None}, {"x": [1]}])
)


LENDER = """#!/bin/sh
echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.99.0.7/24", "gateway": "10.99.0.1"}]}'
"""
PLAIN: Json = {
    "cniVersion": "1.1.0", "name": "pods", "type": "tulle", "bridge": "tulle0", "isDefaultGateway": True,
    "ipMasq": True, "hairpinMode": True, "mtu": 1400, "vlan": 0, "dns": {"nameservers": ["10.22.0.1"]},
    "ipam": {
        "type": "host-local", "ranges": [[{"subnet": "10.22.0.0/24"}], [{"subnet": "fd00:22::/64"}]],
        "routes": [{"dst": "0.0.0.0/0"}], "dataDir": "data",
    },
    "runtimeConfig": {"dns": {"servers": ["10.22.0.1"]}, "portMappings": []}, "agent": "auto",
    "cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}],
}
ADDED: Json = {
    "interfaces": [{"name": "tulle0"}, {"name": "eth0", "sandbox": "/run/netns/a"}],
    "ips": [{"address": "10.22.0.2/24", "gateway": "10.22.0.1", "interface": 1}], "routes": [{"dst": "0.0.0.0/0"}],
}
LIST: Json = {
    "network": "10.22.0.0/16", "backend": {"type": "vxlan", "vni": 7, "port": 8472, "directRouting": False},
    "node": "n1", "nodes": [
        {"name": "n1", "address": "192.0.2.1", "podCIDRs": ["10.22.0.0/24"]},
        {"name": "n2", "address": "192.0.2.2", "podCIDRs": ["10.22.1.0/24"]},
    ],
}
BASES: tuple[Json, ...] = (
    PLAIN,
    {**PLAIN, "prevResult": ADDED},
    {**PLAIN, "args": {"cni": {"ips": ["10.22.0.77"], "mac": "0a:58:0a:16:00:05"}}},
    {**PLAIN, "name": "cluster", "cluster": LIST, "ipam": {"type": "host-local", "dataDir": "data"}},
    {**PLAIN, "name": "foreign", "ipam": {"type": "lender", "x": {"y": ["host-local"]}}},
    {"cniVersion": "0.3.1", "name": "old", "type": "bridge", "ipam": {"type": "host-local", "subnet": "10.9.0.0/16"}},
    {"cniVersion": "1.0.0", "name": "flat", "type": "tulle", "vlanTrunk": [{"id": 5}, {"minID": 7, "maxID": 9}]},
)


class Fuzzed(NamedTuple):
    """One request: what the plugin is called by, its environment, its stdin."""

    name: str
    environ: dict[str, str]
    stdin: bytes


class Bad(NamedTuple):
    """What of a reply must not be, with the request that it is the reply to."""

    why: str
    request: Fuzzed
    reply: str


@st.composite
def requests(draw: st.DrawFn, bases: Sequence[Mapping[str, object]], environ: Mapping[str, str]) -> Fuzzed:
    """A request with a configuration made of one of `bases`; `environ` holds what is not to be changed."""
    verb = draw(st.sampled_from(VERBS))
    pod = draw(st.sampled_from([*"abcdefgh", "c" * 200]))
    said = {
        "CNI_COMMAND": verb, "CNI_CONTAINERID": pod, "CNI_IFNAME": f"eth{len(pod)}{pod[0]}",
        "CNI_NETNS": f"/run/netns/{pod}", **environ,
    }
    for key in draw(st.sampled_from([(), (), (), *zip(_VARIABLES)])):
        value = draw(st.sampled_from(_VALUES))
        said = {name: each for name, each in said.items() if name != key} if value is None else {**said, key: value}
    conf = draw(_changed(draw(st.sampled_from(bases))))
    text = json.dumps(conf, ensure_ascii=draw(st.booleans())).encode()
    return Fuzzed(draw(st.sampled_from(NAMES)), said, draw(st.sampled_from(_BENT))(text, draw))


def drawn(environ: Mapping[str, str], count: int) -> list[Fuzzed]:
    """So many requests, for who cannot draw them one by one."""
    found: list[Fuzzed] = []

    @settings(
        max_examples=count, deadline=None, database=None, phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(requests(BASES, environ))
    def draw(request: Fuzzed) -> None:
        found.append(request)

    draw()
    return found


_VARIABLES = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_IFNAME", "CNI_ARGS", "CNI_NETNS_OVERRIDE", "TRACEPARENT", "X")
_VALUES = (
    None, "", "x", "ADD", "DEL", "add", "IP=10.22.0.9", "IP=;MAC=x", "K8S_POD_NAME=x;IgnoreUnknown=1", "=;=", ";;;",
    "1", "a" * 300, "a/b", "..", "eth0:1", "br%d", "a b", "ä", "\udcff", "x\udc80y", "-", "IP=10.22.0.9,fd00:22::9",
)


@st.composite
def _changed(draw: st.DrawFn, base: Mapping[str, object]) -> Any:
    value: Any = json.loads(json.dumps(base))
    for _ in range(draw(st.sampled_from([0, 1, 1, 2, 3]))):
        value = _change(draw, value, draw(st.integers(1, 4)))
    return value


def _change(draw: st.DrawFn, value: Any, depth: int) -> Any:
    """The value with something in it, so deep at most, changed."""
    if depth and isinstance(value, dict) and value:
        key = draw(st.sampled_from(sorted(value)))
        return {**value, key: _change(draw, value[key], depth - 1)}
    if depth and isinstance(value, list) and value:
        at = draw(st.integers(0, len(value) - 1))
        return [*value[:at], _change(draw, value[at], depth - 1), *value[at + 1 :]]
    if isinstance(value, dict) and value and draw(st.booleans()):
        return _rekeyed(draw, value)
    if draw(st.integers(0, 9)) == 0:
        return _nested(value, draw(st.sampled_from([1, 50, 98, 99, 100, 101, 130])))
    return draw(_ANYTHING)


def _rekeyed(draw: st.DrawFn, value: dict[str, Any]) -> dict[str, Any]:
    key = draw(st.sampled_from(sorted(value)))
    match draw(st.integers(0, 3)):
        case 0:
            return {name: each for name, each in value.items() if name != key}
        case 1:
            return {name.upper() if name == key else name: each for name, each in value.items()}
        case 2:
            return {**value, key.swapcase(): draw(_ANYTHING)}
        case _:
            return {**value, draw(st.sampled_from(_KEYS)): draw(_ANYTHING)}


def _nested(value: Any, depth: int) -> Any:
    for _ in range(depth):
        value = [value]
    return value


def _cut(text: bytes, draw: st.DrawFn) -> bytes:
    return text[: draw(st.integers(0, len(text)))]


def _bitten(text: bytes, draw: st.DrawFn) -> bytes:
    at = draw(st.integers(0, max(len(text) - 1, 0)))
    return text[:at] + draw(st.binary(max_size=3)) + text[at + draw(st.integers(0, 2)) :]


def _deep(text: bytes, draw: st.DrawFn) -> bytes:
    depth, (begin, end) = draw(st.sampled_from([101, 600, 5000])), draw(st.sampled_from([("[", "]"), ('{"a":', "}")]))
    inside = f"{begin * depth}1{end * (depth if draw(st.booleans()) else 0)}".encode()
    return text.replace(b"{", b'{"x":' + inside + b",", 1)


_BENT: tuple[Callable[[bytes, st.DrawFn], bytes], ...] = (
    *(lambda text, _: text,) * 24,
    _cut,
    _bitten,
    _deep,
    lambda text, _: b"\xef\xbb\xbf" + text,
    lambda text, _: text.decode(errors="replace").encode("utf-16"),
    lambda text, _: text + text,
    lambda text, _: b"[" + text + b"]",
    lambda _, draw: draw(st.binary(max_size=40)),
)


def flaw(request: Fuzzed, stdout: bytes, code: int) -> Bad | None:
    """What is wrong with a reply: a runtime must be able to read it, and nobody be told of what nobody foresaw."""
    why = _why(stdout, code)
    return Bad(why, request, stdout.decode(errors="replace")[:400]) if why else None


def _why(stdout: bytes, code: int) -> str:
    if not code and not stdout.strip():
        return ""
    try:
        said = json.loads(stdout)
    except ValueError:
        return "no JSON"
    if not isinstance(said, dict):
        return "no object"
    if not code:
        return "an error with exit code 0" if "code" in said else ""
    if not isinstance(said.get("code"), int) or not said.get("msg"):
        return "no error object"
    return "unforeseen" if said["code"] == 999 or "unforeseen" in said["msg"] else ""
