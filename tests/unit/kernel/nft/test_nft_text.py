"""A transaction in nft's language: in the order that nftables takes, whatever order the operations come in."""

from __future__ import annotations

import pytest

from cni_plugin.diff import Op, diff
from cni_plugin.kernel.nft.known import hook_of
from cni_plugin.kernel.nft.nft_text import commands
from cni_plugin.model.base import state
from cni_plugin.model.nft import Chain, Element, Map, Set

BASE = Chain("base", "type filter hook forward priority filter;", ("ip daddr vmap @pods",))
POD = Chain("pod", "", ("ip saddr @near accept",))
SET, MAP = Set("near", "ipv4_addr"), Map("pods", "ipv4_addr", data="verdict")
IN = [Element("near", "10.0.0.1"), Element("near", "10.0.0.2"), Element("pods", "10.0.0.9", "jump pod")]


def test_what_is_referred_to_is_there_first() -> None:
    assert commands(diff(state([*IN, POD, BASE, MAP, SET]), {})).splitlines() == [
        "add table inet tulle",
        "add chain inet tulle pod",
        "flush chain inet tulle pod",
        "add chain inet tulle base { type filter hook forward priority filter; }",
        "flush chain inet tulle base",
        "add set inet tulle near { type ipv4_addr; }",
        "add map inet tulle pods { type ipv4_addr : verdict; }",
        "add element inet tulle near { 10.0.0.1, 10.0.0.2 }",
        "add element inet tulle pods { 10.0.0.9 : jump pod }",
        "add rule inet tulle pod ip saddr @near accept",
        "add rule inet tulle base ip daddr vmap @pods",
    ]


def test_what_refers_goes_first() -> None:
    assert commands([Op("delete", each) for each in (SET, POD, *IN[1:])]).splitlines() == [
        "add table inet tulle",
        "add chain inet tulle pod",
        "flush chain inet tulle pod",
        "delete element inet tulle near { 10.0.0.2 }",
        "delete element inet tulle pods { 10.0.0.9 }",
        "delete set inet tulle near",
        "delete chain inet tulle pod",
    ]


def test_an_element_that_leads_elsewhere_is_replaced() -> None:
    assert commands([Op("change", Element("pods", "10.0.0.9", "drop"), IN[-1])]).splitlines()[1:] == [
        "delete element inet tulle pods { 10.0.0.9 }",
        "add element inet tulle pods { 10.0.0.9 : drop }",
    ]


@pytest.mark.parametrize(("table", "name", "number"), [
    ("inet tulle", "filter", 0), ("bridge tulle", "filter", -200), ("bridge tulle", "dstnat - 5", -305),
])
def test_a_priority_has_a_name_of_its_own_in_bridges(table: str, name: str, number: int) -> None:
    assert hook_of(f"type filter hook prerouting priority {name};", table)[2] == number


def test_a_chain_that_is_jumped_to_has_no_hook() -> None:
    assert hook_of("", "inet tulle") == ("", "", 0, "")
