"""What is known of the ruleset holds for one generation of it, and for the next where that is all our own doing."""

from __future__ import annotations

import pytest

from cni_plugin.diff import Op
from cni_plugin.kernel.nft.known import Known
from cni_plugin.kernel.nft.nft_held import Held
from cni_plugin.kernel.nft.nft_sets import Kind
from cni_plugin.model.nft import Chain, Element, Set, Table

CHAIN = Chain("pod", "", ("accept",))
SET = Set("near", "ipv6_addr")


@pytest.fixture
def known() -> Known:
    """Of generation 7: a chain, and two addresses in a set."""
    found = Known().at(7)
    found.right[CHAIN.key] = CHAIN
    found.contents[SET.key] = Held(Kind(SET.type, "", interval=False), {"fd00::1": "", "fd00::2": ""})
    return found


def values(known: Known) -> set[str] | None:
    held = known.contents.get(SET.key)
    return None if held is None else set(held.values)


def test_nothing_is_known_of_another_generation(known: Known) -> None:
    assert known.at(7)
    assert not known.at(8)
    assert not known.at(7)


def test_where_the_kernel_does_not_tell_its_generation_nothing_is_kept(known: Known) -> None:
    assert not known.at(0)


def test_who_changed_it_himself_knows_the_next(known: Known) -> None:
    known.wrote([Op("create", Element("near", "fd00::3")), Op("delete", Element("near", "FD00::1"))], 8)

    assert values(known.at(8)) == {"fd00::2", "fd00::3"}
    assert known.right


def test_where_somebody_else_was_there_too_nothing_is_known(known: Known) -> None:
    known.wrote([Op("create", Element("near", "fd00::3"))], 9)

    assert not known


@pytest.mark.parametrize("op", [
    Op("create", Element("near", "fd00::1")), Op("delete", Element("near", "fd00::9")),
    Op("create", Element("elsewhere", "fd00::1")),
])
def test_the_next_is_not_ours_where_we_may_have_changed_nothing(known: Known, op: Op) -> None:
    known.wrote([op], 8)

    assert not known


def test_a_chain_is_known_as_it_was_written(known: Known) -> None:
    longer = Chain("pod", "", ("drop", "accept"))
    known.wrote([Op("change", longer, CHAIN)], 8)
    assert known.at(8).right == {CHAIN.key: longer}

    known.wrote([Op("delete", longer)], 9)
    assert known.at(9).right == {}


def test_a_set_or_table_that_goes_is_no_longer_known(known: Known) -> None:
    known.wrote([Op("delete", SET), Op("delete", CHAIN)], 8)
    assert values(known) is None

    known.right[CHAIN.key] = CHAIN
    known.wrote([Op("delete", Table()), Op("delete", CHAIN)], 9)
    assert not known
