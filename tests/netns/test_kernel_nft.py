"""Chains of table `inet tulle` in a real kernel: whole, recognised, and without a trace when they go."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from cni_plugin.diff import Op, diff
from cni_plugin.kernel.errors import KernelError
from cni_plugin.kernel.linux import LinuxKernel
from cni_plugin.kernel.nft import nft_process
from cni_plugin.kernel.nft.nft_raw import GET_SET, NEW_ELEMENT, Change, RawNft
from cni_plugin.model.base import state
from cni_plugin.model.nft import Chain, Element, Set
from tests.netns.kernel_world import MakeNetns, kernel_of, put, run, wrong

FOREIGN = "add table inet other; add chain inet other c { type filter hook input priority 0; }"


def rule(text: str) -> str:
    """A rule with the comment that it is recognised by."""
    return f'{text} comment "tulle net {hashlib.sha256(text.encode()).hexdigest()[:8]}"'


MASQUERADE = Chain(
    "masq_net",
    "type nat hook postrouting priority 100; policy accept;",
    (
        rule("ip saddr 10.22.0.0/16 ip daddr != { 10.22.0.0/16, 224.0.0.0/4, 10.3.0.0/16, 10.9.0.0/16 } masquerade"),
        rule("ip6 saddr fd22::/64 ip6 daddr != { fd22::/64, ff00::/8 } masquerade"),
    ),
)
OTHER = Chain(
    "masq_other",
    "type nat hook postrouting priority srcnat; policy accept;",
    (rule("ip saddr 10.23.0.0/16 masquerade"),),
)


@pytest.fixture(params=["library", "program"])
def kernel(netns: MakeNetns, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[LinuxKernel]:
    """A node, its nftables by libnftables and, as where that is missing, by running `nft`."""
    if request.param == "program":
        monkeypatch.setattr(nft_process, "_load_library", lambda: None)
    with kernel_of(netns("node")) as kernel:
        run(f"nft {FOREIGN}")
        yield kernel


LOOK = Chain("look", "type filter hook input priority filter; policy accept;", (rule("ip saddr != @some drop"),))


@pytest.mark.parametrize(("kind", "values"), [
    ("ipv4_addr", ("192.0.2.2", "192.0.2.3", "203.0.113.9")),
    ("ipv6_addr", ("2001:db8::2", "fd00::", "2001:db8:0:1::")),
])
def test_a_set_changes_by_its_elements_and_goes_with_them(
    kernel: LinuxKernel, kind: str, values: tuple[str, ...]
) -> None:
    look = LOOK if kind == "ipv4_addr" else Chain("look", LOOK.hook, (rule("ip6 saddr != @some drop"),))
    whole = state([Set("some", kind), look, *(Element("some", each) for each in values)])
    kernel.apply(diff(whole, {}))
    assert kernel.read(whole.values()) == whole
    assert inside(kernel) == set(values)
    assert kernel.elements("none") == {}

    fewer = {key: each for key, each in whole.items() if each != Element("some", values[0])}
    kernel.apply(diff(fewer, whole))
    kernel.apply(diff(fewer, whole))  # what is gone already is gone
    assert inside(kernel) == set(values[1:])

    kernel.apply(diff({}, fewer))
    assert "inet tulle" not in ruleset()


def inside(kernel: LinuxKernel, name: str = "some") -> set[str]:
    """The values in a set."""
    return {each.value for each in kernel.elements(name).values() if isinstance(each, Element)}


@contextmanager
def sent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Change]]:
    """What nftables is asked by messages; by its library nothing is asked meanwhile."""
    messages: list[Change] = []
    ask, transact = RawNft.ask, RawNft.transact

    def asked(self: RawNft, each: Change) -> list[tuple[int, bytes]]:
        messages.append(each)
        return ask(self, each)

    def transacted(self: RawNft, some: Sequence[Change]) -> None:
        messages.extend(some)
        transact(self, some)

    with monkeypatch.context() as patch:
        patch.setattr(RawNft, "ask", asked)
        patch.setattr(RawNft, "transact", transacted)
        patch.setattr(nft_process.NftProcess, "run", lambda *_: pytest.fail("the library was asked"))
        yield messages


def test_one_element_among_thousands_is_one_small_message(
    kernel: LinuxKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = state([Set("some", "ipv4_addr"), *(Element("some", f"10.{n >> 8}.{n & 255}.1") for n in range(3000))])
    kernel.apply(diff(many, {}))
    with sent(monkeypatch) as messages:
        kernel.apply([Op("create", Element("some", "192.0.2.1"))])

    assert [each.kind for each in messages] == [GET_SET, NEW_ELEMENT]
    assert len(messages[-1].what) < 64
    assert len(kernel.elements("some")) == 3001


def ruleset() -> str:
    return run("nft list ruleset")


def test_a_chain_is_made_and_read_back_as_it_was_wanted(kernel: LinuxKernel) -> None:
    assert kernel.read([MASQUERADE]) == {}

    put(kernel, [MASQUERADE, OTHER])

    assert kernel.read([MASQUERADE, OTHER]) == state([MASQUERADE, OTHER])
    assert ruleset().count("masquerade") == 3


def test_who_finds_a_chain_as_it_is_wanted_needs_no_library(
    kernel: LinuxKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor a process for it: a pod's ADD changes nothing in nftables, but for a network's first."""
    put(kernel, [MASQUERADE, OTHER])
    with LinuxKernel() as another, monkeypatch.context() as patch:
        patch.setattr(nft_process.NftProcess, "run", lambda *_: pytest.fail("the library was asked"))

        assert another.read([MASQUERADE, OTHER]) == state([MASQUERADE, OTHER])


def test_a_rule_that_somebody_wrote_is_told_in_nfts_words(kernel: LinuxKernel) -> None:
    put(kernel, [MASQUERADE])
    run("nft add rule inet tulle masq_net ip saddr 10.0.0.1 accept")

    (found,) = kernel.read([MASQUERADE]).values()

    assert isinstance(found, Chain)
    assert found.rules == (*MASQUERADE.rules, "ip saddr 10.0.0.1 accept")


def test_failure_21_foreign_tables_are_the_same_before_and_after(kernel: LinuxKernel) -> None:
    before = ruleset()

    put(kernel, [MASQUERADE])
    assert run("nft list table inet other") in before
    kernel.apply([Op("delete", MASQUERADE)])

    assert ruleset() == before


def test_the_table_stays_until_the_last_thing_in_it_goes(kernel: LinuxKernel) -> None:
    put(kernel, [MASQUERADE, OTHER])

    kernel.apply([Op("delete", MASQUERADE)])
    assert kernel.read([OTHER]) == state([OTHER])
    run("nft add set inet tulle pods { type ipv4_addr; }")
    kernel.apply([Op("delete", OTHER)])
    assert "table inet tulle" in ruleset()
    run("nft delete set inet tulle pods")
    kernel.apply([Op("delete", OTHER)])

    assert "tulle" not in ruleset()


@pytest.mark.parametrize(
    "damage",
    [
        "flush chain inet tulle masq_net",
        "add rule inet tulle masq_net ip saddr 10.0.0.1 accept",
        "insert rule inet tulle masq_net ip daddr 10.0.0.1 counter accept",
        "flush chain inet tulle masq_net; delete chain inet tulle masq_net",
        "flush ruleset",
    ],
)
def test_failure_22_what_somebody_did_to_a_chain_is_seen_and_put_right(kernel: LinuxKernel, damage: str) -> None:
    put(kernel, [MASQUERADE])
    run(f"nft {damage}")
    assert wrong(kernel, [MASQUERADE]) != []

    kernel.apply(diff(state([MASQUERADE]), kernel.read([MASQUERADE])))

    assert wrong(kernel, [MASQUERADE]) == []


def test_a_chain_on_another_hook_is_declared_anew(kernel: LinuxKernel) -> None:
    put(kernel, [MASQUERADE])
    moved = Chain("masq_net", "type nat hook postrouting priority srcnat - 5; policy accept;", MASQUERADE.rules)

    (op,) = diff(state([moved]), kernel.read([moved]))
    kernel.apply([op])

    assert kernel.read([moved]) == state([moved])
    assert len(wrong(kernel, [MASQUERADE])) == 1


def test_a_rule_that_nftables_refuses_changes_nothing_and_is_told_in_its_words(kernel: LinuxKernel) -> None:
    before = ruleset()

    with pytest.raises(KernelError, match="syntax error") as caught:
        put(kernel, [OTHER, Chain("broken", OTHER.hook, ("ip saddr masquerade",))])

    assert caught.value.done == ()
    assert ruleset() == before


def test_deleting_a_chain_that_is_not_there_is_no_error_and_leaves_no_table(kernel: LinuxKernel) -> None:
    kernel.apply([Op("delete", MASQUERADE), Op("delete", OTHER)])

    assert "tulle" not in ruleset()
