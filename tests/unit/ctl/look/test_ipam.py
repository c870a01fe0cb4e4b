"""`tullectl ipam`: who has which address, what is wrong with leases, and taking one back."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from cni_plugin.kernel.fake import FakeKernel
from tests.unit.ctl.tool import Tool
from tests.unit.support import UPLINK, Node


def data(node: Node) -> tuple[str, str]:
    return "--data-dir", f"{node.home}/data"


def test_ipam_list_says_who_has_which_address(node: Node, tool: Tool) -> None:
    node.call("ADD")
    (row,) = json.loads(tool("ipam", "list", "pods", "--json", *data(node)).out)
    assert (row["address"], row["container"], row["ifname"]) == ("10.22.0.2", "a", "eth0")
    assert "10.22.0.2" in tool("ipam", "list", *data(node)).out
    assert json.loads(tool("ipam", "list", "others", "--json", *data(node)).out) == []


def test_ipam_list_finds_the_folder_of_an_attachment_by_itself(node: Node, tool: Tool) -> None:
    node.call("ADD")
    found = json.loads(tool("ipam", "list", "pods", "--json", "--data-dir", f"{node.home}/elsewhere").out)
    assert [each["address"] for each in found] == ["10.22.0.2"]


def test_ipam_check_is_content_with_what_is_right(node: Node, tool: Tool) -> None:
    node.call("ADD")
    said = tool("ipam", "check", *data(node))
    assert said.exit == 0
    assert "every lease belongs to an attachment" in said.out
    assert json.loads(tool("ipam", "check", "--json", *data(node)).out) == []


def test_ipam_check_misses_no_lease_in_a_folder_that_its_attachment_does_not_lease_from(node: Node, tool: Tool) -> None:
    node.call("ADD")
    (node.home / "elsewhere" / "pods").mkdir(parents=True)
    assert tool("ipam", "check", "--data-dir", f"{node.home}/elsewhere").exit == 0


def leak(node: Node) -> None:
    for path in (node.home / "run" / "attachments" / "pods").iterdir():
        path.unlink()


def damage(node: Node) -> None:
    (node.home / "data" / "pods" / "10.22.0.2").write_bytes(b"")


def lose(node: Node) -> None:
    (node.home / "data" / "pods" / "10.22.0.2").unlink()


def bury(node: Node) -> None:
    node.unplug("a eth0")
    node.kernel = FakeKernel(node.kernel.state.values(), uplink=UPLINK, namespaces=())


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (leak, "leaked: no attachment has it"),
        (damage, "damaged"),
        (lose, "in use without a lease"),
        (bury, "leaked: its attachment is dead"),
    ],
)
def test_ipam_check_names_what_is_wrong_and_ends_with_1(
    node: Node, tool: Tool, harm: Callable[[Node], None], problem: str
) -> None:
    node.call("ADD")
    harm(node)
    said = tool("ipam", "check", "pods", "--json", *data(node))
    assert said.exit == 1
    found = [(each["address"], each["problem"]) for each in json.loads(said.out)]
    assert any(address == "10.22.0.2" and text.startswith(problem) for address, text in found), found
    assert "10.22.0.2" in tool("ipam", "check", *data(node)).out


def test_ipam_release_takes_a_leaked_address_back(node: Node, tool: Tool) -> None:
    node.call("ADD")
    leak(node)
    said = tool("ipam", "release", "pods", "10.22.0.2", *data(node))
    assert said.exit == 0
    assert "it was a eth0's" in said.out
    assert node.leases() == {}
    assert "nobody had it" in tool("ipam", "release", "pods", "10.22.0.2", *data(node)).out


def test_ipam_release_leaves_an_address_in_use_unless_forced_to(node: Node, tool: Tool) -> None:
    node.call("ADD")
    said = tool("ipam", "release", "pods", "10.22.0.2", *data(node))
    assert said.exit == 1
    assert "the attachment a eth0" in said.err
    assert list(node.leases()) == ["10.22.0.2"]
    assert tool("ipam", "release", "pods", "10.22.0.2", "--force", *data(node)).exit == 0
    assert node.leases() == {}


@pytest.mark.parametrize(("network", "address"), [("pods", "ten"), ("pods", "10.22.0.0/24"), ("../pods", "10.22.0.2")])
def test_ipam_release_of_what_is_no_address_or_no_network_is_refused(tool: Tool, network: str, address: str) -> None:
    said = tool("ipam", "release", network, address)
    assert said.exit == 1
    assert "invalid" in said.err
