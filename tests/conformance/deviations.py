"""Where Tulle differs from the reference on purpose: each difference by name, with the reason.

Nothing else may differ. A row whose difference is gone fails a test of its own, so the table stays true.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.conformance.nodes import Json


@dataclass(frozen=True)
class Deviation:
    """In the configurations named in `cases`, key `key` of property `what` is not compared."""

    what: str
    key: str
    cases: tuple[str, ...]
    reason: str


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
        "pods", "accept_dad", ("layer 2 only", "layer 2 with an empty ipam", "layer 2 in 0.3.1", "layer 2 in a vlan"),
        "the reference leaves duplicate address detection on for links without addresses of ours; "
        "Tulle has it off unless enabledad asks for it, so a link-local address is usable at once",
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
