"""Where Tulle differs from the reference on purpose: each difference by name, with the reason.

Nothing else may differ. A row whose difference is gone fails a test of its own, so the table stays true.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from tests.conformance.cases import CASES, Case
from tests.conformance.nodes import Json


def _is_v4_only(case: Case) -> bool:
    """Whether the pods of this configuration have IPv4 addresses and no others."""
    words = json.dumps([case.configuration("/data"), case.args])
    return "ipam" in case.configuration("/data") and "10.6" in words and "::" not in words and "enabledad" not in words


@dataclass(frozen=True)
class Deviation:
    """In the configurations named in `cases`, key `key` of property `what` is not compared."""

    what: str
    key: str
    cases: tuple[str, ...]
    reason: str


V4_ONLY = tuple(each.name for each in CASES if _is_v4_only(each))

DEVIATIONS: tuple[Deviation, ...] = (
    Deviation(
        "results", "dns", ("dns from resolvConf", "static ipam"),
        "the reference of 2022 (1.1.1) drops what the IPAM says about DNS; later ones pass it on as Tulle does",
    ),
    Deviation(
        "results", "dns", ("dns from the runtime",),
        "the reference bridge ignores the capability dns; Tulle serves it (CONVENTIONS.md)",
    ),
    Deviation(
        "pods", "accept_dad", V4_ONLY,
        "the reference switches duplicate address detection off in every pod; Tulle gives a pod with IPv4 addresses "
        "only no IPv6 link-local address, so there is nothing to detect, nor to flood to all pods of the bridge",
    ),
    Deviation(
        "ports", "flags", ("mac spoof check", "mac spoof check dual"),
        "the reference filters by rules in a table `bridge nat`; Tulle locks the port to its MAC (Linux 5.18), which "
        "needs no rules. `test_a_forged_mac_gets_nowhere` sends the packets",
    ),
)


def without_deviations(what: str, case: str, value: object) -> object:
    """A property with the keys taken out that differ by design in this configuration."""
    keys = deviating_keys(what, case)
    return _without(value, keys) if keys else value


def deviating_keys(what: str, case: str) -> set[str]:
    """The keys of a property that differ by design in this configuration."""
    return {row.key for row in DEVIATIONS if row.what == what and case in row.cases}


def _without(value: object, keys: set[str]) -> object:
    if isinstance(value, list):
        return [_without(each, keys) for each in value]
    if isinstance(value, dict):
        kept: Json = {key: each for key, each in value.items() if key not in keys}
        return kept
    return value
