"""The masquerade chain: one rule a network and family, however many pods, and text that nft accepts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from hashlib import sha256
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cni_plugin.model.nft import comment
from cni_plugin.plan.masquerade import HOOK, Masquerade, masquerade_chain

fours = st.integers(0, 2**16 - 1).flatmap(
    lambda n: st.integers(8, 30).map(lambda p: str(ip_network(f"10.{n >> 8}.{n & 255}.0/{p}", strict=False)))
)
sixes = st.integers(0, 2**16 - 1).flatmap(
    lambda n: st.integers(16, 120).map(lambda p: str(ip_network(f"fd00:{n:x}::/{p}", strict=False)))
)
some = st.lists(fours | sixes, max_size=4).map(tuple)
masquerades = st.dictionaries(st.text("abc-", min_size=1, max_size=5), st.builds(Masquerade, some, some), max_size=3)


def rules(**networks: Masquerade) -> tuple[str, ...]:
    return masquerade_chain(networks).rules


def test_a_network_has_one_rule_a_family() -> None:
    found = rules(pods=Masquerade(("10.22.0.0/24", "10.23.0.0/24", "fd00:22::/64")))
    assert [each.split()[0] for each in found] == ["ip", "ip6"]


def test_what_stays_inside_the_subnets_the_cluster_or_is_multicast_keeps_its_address() -> None:
    four, six = rules(pods=Masquerade(("10.22.0.0/24", "fd00:22::/64"), ("10.0.0.0/9", "fd00::/16")))
    assert "ip daddr != { 10.0.0.0/9, 224.0.0.0/4 } masquerade" in four
    assert "ip6 daddr != { fd00::/16, ff00::/8 } masquerade" in six


def test_subnets_that_overlap_or_touch_are_one_for_nft_refuses_intervals_that_overlap() -> None:
    (rule,) = rules(pods=Masquerade(("10.22.0.0/25", "10.22.0.0/24", "10.22.0.128/25", "10.22.1.0/24")))
    assert "ip saddr { 10.22.0.0/23 } " in rule


def test_networks_come_in_the_order_of_their_names_so_that_equal_records_give_equal_chains() -> None:
    a, b = Masquerade(("10.1.0.0/16",)), Masquerade(("10.2.0.0/16",))
    assert masquerade_chain({"a": a, "b": b}) == masquerade_chain({"b": b, "a": a})


def test_without_networks_there_are_no_rules() -> None:
    assert rules() == ()
    assert rules(pods=Masquerade(())) == ()


def test_what_was_masqueraded_before_goes_on_being_masqueraded() -> None:
    before, after = Masquerade(("10.1.0.0/16",), ("10.0.0.0/8",)), Masquerade(("10.2.0.0/16",), ("10.0.0.0/8",))
    joined = before.joined(after)
    assert joined == after.joined(before) == Masquerade(("10.1.0.0/16", "10.2.0.0/16"), ("10.0.0.0/8",))
    assert joined.joined(before) == joined


def test_a_rule_ends_in_a_digest_of_its_text_and_its_comment_fits() -> None:
    for name in ("pods", "n" * 200):
        (rule,) = rules(**{name: Masquerade(("10.1.0.0/16",))})
        found = re.fullmatch(r'(.*) comment "(network n?p?.* ([0-9a-f]{8}))"', rule)
        assert found is not None
        assert found[3] == sha256(found[1].encode()).hexdigest()[:8]
        assert len(found[2]) < 128


@pytest.mark.parametrize("name", ["pods", "a.b-c_d"])
def test_a_comment_names_the_network(name: str) -> None:
    assert comment("accept", f"network {name}").startswith(f'accept comment "network {name} ')


def nft(script: str) -> subprocess.CompletedProcess[str]:
    """Check a script in a network namespace that ends with the call."""
    return subprocess.run(
        ["unshare", "-n", "nft", "-c", "-f", "-"], input=script, capture_output=True, text=True, check=False
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="nft -c asks the kernel: needs root")
@pytest.mark.skipif(not (shutil.which("nft") and shutil.which("unshare")), reason="nft or unshare is not installed")
@settings(max_examples=12, deadline=None)
@given(masquerades)
def test_nft_accepts_the_chain_of_any_networks(networks: dict[str, Masquerade]) -> None:
    chain = masquerade_chain(networks)
    lines = ["add table inet tulle", f"add chain inet tulle {chain.name} {{ {HOOK} }}"]
    script = "\n".join(lines + [f"add rule inet tulle {chain.name} {each}" for each in chain.rules])
    done = nft(script)
    assert done.returncode == 0, f"{script}\n{done.stderr}"


@pytest.mark.skipif(os.geteuid() != 0, reason="nft -c asks the kernel: needs root")
@pytest.mark.skipif(not (shutil.which("nft") and shutil.which("unshare")), reason="nft or unshare is not installed")
def test_the_check_by_nft_would_see_a_mistake() -> None:
    assert nft("add table inet tulle; add chain inet tulle c { type filter hook nowhere priority 0; }").returncode != 0
