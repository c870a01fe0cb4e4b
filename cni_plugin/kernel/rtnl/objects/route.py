"""A unicast route. How those that stand are told apart is in `rtnl.routes`, which lists them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

from cni_plugin.diff import Op
from cni_plugin.kernel.rtnl import codec, encode
from cni_plugin.kernel.rtnl.addresses import family_of
from cni_plugin.kernel.rtnl.codec import Attr, nest
from cni_plugin.kernel.rtnl.encode import Place
from cni_plugin.kernel.rtnl.lookup import Lookup
from cni_plugin.kernel.rtnl.numbers import RTN_UNICAST, RTNH_F_ONLINK, SCOPE_LINK, SCOPE_NOWHERE, SCOPE_UNIVERSE
from cni_plugin.kernel.rtnl.routes import Routes
from cni_plugin.model.base import POD, Verb
from cni_plugin.model.layer3 import MAIN_TABLE, Route

GONE = encode.NO_IPV6
_TABLE_COMPAT = 252
"""What the header says where the table's number does not fit in there (RT_TABLE_COMPAT)."""


def write(op: Op, each: Route, place: Place) -> Iterator[bytearray]:
    """Its request."""
    address, _, length = each.dst.partition("/")
    family = family_of(address)
    bits = int(length or (128 if family == socket.AF_INET6 else 32))
    table = each.table or MAIN_TABLE
    fields = {
        "family": family,
        "dst_len": bits,
        "table": table if table < 256 else _TABLE_COMPAT,
        "proto": each.protocol,
        "scope": _scope(op.verb, each),
        "type": RTN_UNICAST,
        "flags": RTNH_F_ONLINK if each.onlink and op.verb != "delete" else 0,
    }
    attrs: list[Attr] = [("RTA_DST", address)] if bits else []
    attrs += [("RTA_OIF", place.must(each.dev)), ("RTA_TABLE", table), *_gateway(each, family)]
    attrs += encode.given(("RTA_PRIORITY", each.priority))
    if op.verb == "delete":
        yield codec.encode(codec.RTM_DELROUTE, 0, fields, attrs)
        return
    attrs += encode.given(("RTA_PREFSRC", each.src))
    if metrics := encode.given(("RTAX_MTU", each.mtu), ("RTAX_ADVMSS", each.advmss)):
        attrs.append(("RTA_METRICS", nest(*metrics)))
    yield codec.encode(codec.RTM_NEWROUTE, _flags(op.verb, each), fields, attrs)


def read(want: Route, look: Lookup) -> Route | None:
    """It as it stands, in the words of who wants it."""
    return look.once(("routes", want.ns), lambda: Routes(look.spaces[want.ns], want.ns)).find(want)


def _flags(verb: Verb, each: Route) -> int:
    """In a pod several routes to one destination may stand side by side: neither EXCL nor REPLACE."""
    if verb == "change":
        return encode.PUT
    return codec.NLM_F_CREATE if each.ns == POD else encode.NEW


def _scope(verb: Verb, each: Route) -> int:
    if each.scope >= 0:
        return each.scope
    if verb == "delete":
        return SCOPE_NOWHERE  # "any", net/ipv4/fib_trie.c, fib_table_delete
    return SCOPE_UNIVERSE if each.via or ":" in each.dst else SCOPE_LINK


def _gateway(each: Route, family: int) -> list[Attr]:
    if not each.via:
        return []
    if family_of(each.via) == family:
        return [("RTA_GATEWAY", each.via)]
    via: dict[str, Any] = {"family": family_of(each.via), "addr": each.via}
    return [("RTA_VIA", via)]
