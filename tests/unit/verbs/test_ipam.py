"""The two sides of an IPAM: called as `host-local` by another main plugin, and delegating to a foreign one."""

from __future__ import annotations

import json
import shutil

import pytest

from cni_plugin import delegate
from cni_plugin.kernel.fake import FakeKernel
from cni_plugin.meter import Meter
from cni_plugin.verbs.run import ELSEWHERE, Agent, may_wait, run
from tests.unit.support import UPLINK, Node, executable

# As host-local, for another main plugin


def test_as_host_local_add_answers_with_addresses_alone(node: Node) -> None:
    node.called = "host-local"
    reply = node.configured(type="macvlan", master="eth0", mode="bridge").call("ADD")
    assert reply.exit == 0
    assert reply.body["ips"] == [{"address": "10.22.0.2/24", "gateway": "10.22.0.1"}]
    assert "interfaces" not in reply.body
    assert node.kernel.state == {}
    assert node.call("DEL").exit == 0
    assert node.leases() == {}


def test_as_host_local_check_gc_and_status_speak_of_leases_alone(node: Node) -> None:
    node.called = "host-local"
    node.call("ADD")
    assert node.configured(prevResult={"ips": []}).call("CHECK").exit == 0
    assert node.configured(prevResult={"ips": []}).call("CHECK", "b eth0").code == 101
    assert node.call("STATUS").exit == 0
    assert node.call("GC").exit == 0
    assert list(node.leases()) == ["10.22.0.2"]
    assert node.configured(**{"cni.dev/valid-attachments": []}).call("GC").exit == 0
    assert node.leases() == {}

# A foreign IPAM

FOREIGN = """#!/bin/sh
echo "$CNI_COMMAND" >> "$(dirname "$0")/log"
cat > /dev/null
[ "$CNI_COMMAND" = ADD ] || exit {other}
{add}
"""
GIVES = """echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.99.0.7/24", "gateway": "10.99.0.1"}]}'"""
REFUSES = """echo '{"code": 77, "msg": "no lease for you", "details": "none"}'; exit 1"""


def with_foreign(node: Node, add: str, other: int | str = 0) -> Node:
    executable(node.home / "bin" / "lender", FOREIGN.format(add=add, other=other))
    return node.configured(ipam={"type": "lender"})


def asked(node: Node) -> list[str]:
    log = node.home / "bin" / "log"
    return log.read_text().split() if log.exists() else []


@pytest.mark.parametrize("name", ["tulle", "bridge"])
def test_a_main_plugin_is_no_ipam_and_del_asks_none(node: Node, name: str) -> None:
    wrong = node.configured(ipam={"type": name})
    executable(node.home / "bin" / name, FOREIGN.format(add=GIVES, other=0))
    reply = wrong.call("ADD")
    assert reply.code == 7
    assert f"invalid ipam.type '{name}'" in reply.said
    assert wrong.call("DEL").exit == 0
    assert asked(node) == []


def test_where_nobody_may_be_waited_for_a_foreign_ipam_is_not_asked(node: Node) -> None:
    foreign = with_foreign(node, GIVES)
    foreign.agent = Agent(Meter(), waits=False)
    for verb in ("ADD", "DEL", "STATUS", "GC"):
        assert run("tulle", foreign.environ(verb, "a eth0"), foreign.configured(
            **{"cni.dev/valid-attachments": []}
        ).stdin, lambda: node.kernel, agent=foreign.agent) is ELSEWHERE
    assert asked(node) == []
    assert node.left() == []
    assert may_wait("tulle", "ADD", foreign.stdin)
    assert not may_wait("tulle", "ADD", node.stdin)
    assert not may_wait("host-local", "ADD", foreign.stdin)


def test_a_configuration_with_the_words_of_ours_in_it_may_have_to_wait_all_the_same(node: Node) -> None:
    told = node.configured(ipam={"type": "dhcp", "was": "host-local"})
    assert may_wait("tulle", "ADD", told.stdin)
    assert not may_wait("tulle", "ADD", node.configured(was='"type": "dhcp"').stdin)
    assert may_wait("tulle", "ADD", node.configured(enableDAD=True).stdin)


def test_a_del_that_is_on_record_with_a_foreign_ipam_waits_for_it_elsewhere(node: Node) -> None:
    assert with_foreign(node, GIVES).call("ADD").exit == 0
    node.agent = Agent(Meter(), waits=False)
    reply = run("tulle", node.environ("DEL", "a eth0"), node.stdin, lambda: node.kernel, agent=node.agent)
    assert reply is ELSEWHERE
    assert asked(node) == ["ADD"]
    node.agent = Agent(Meter())
    assert node.call("DEL").exit == 0
    assert asked(node) == ["ADD", "DEL"]
    assert node.left() == []


def test_a_foreign_ipam_is_asked_and_told(node: Node) -> None:
    foreign = with_foreign(node, GIVES)
    listed = {"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}]}
    answer = foreign.call("ADD")
    assert answer.addresses == ["10.99.0.7/24"], answer.said
    checked = foreign.after(answer).call("CHECK")
    assert checked.exit == 0, checked.said
    assert foreign.call("STATUS").exit == 0
    assert foreign.configured(**listed).call("GC").exit == 0
    assert foreign.call("DEL").exit == 0
    assert asked(node) == ["ADD", "CHECK", "STATUS", "GC", "DEL"]
    assert node.left() == []


def test_a_foreign_ipam_that_refuses_is_told_del_and_its_error_is_ours(node: Node) -> None:
    reply = with_foreign(node, REFUSES).call("ADD")
    assert reply.code == 77
    assert "no lease for you" in reply.said
    assert asked(node) == ["ADD", "DEL"]
    assert (node.standing(), node.left()) == ({}, [])


def test_a_foreign_ipam_that_gives_nothing_is_an_error(node: Node) -> None:
    reply = with_foreign(node, "echo '{}'").call("ADD")
    assert reply.exit == 1
    assert "gave no addresses" in reply.said
    assert asked(node) == ["ADD", "DEL"]
    assert (node.standing(), node.left()) == ({}, [])


def test_an_add_that_fails_after_a_foreign_ipam_gave_tells_it_del(node: Node) -> None:
    count = 0
    while True:
        shutil.rmtree(node.home / "bin", ignore_errors=True)
        node.kernel = FakeKernel(uplink=UPLINK, fail_at=count)
        reply = with_foreign(node, GIVES).call("ADD")
        if reply.exit == 0:
            break
        assert asked(node)[-1:] in ([], ["DEL"])
        assert (node.standing(), node.left()) == ({}, []), f"operation {count}"
        count += 1
    assert count > 5


def test_what_goes_wrong_while_taking_back_does_not_hide_what_went_wrong_first(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(dev: str, host_dev: str) -> None:
        raise TimeoutError(110, f"{dev} did not come up behind {host_dev}")

    monkeypatch.setattr(node.kernel, "announce", refuse)
    reply = with_foreign(node, GIVES, other=3).call("ADD")
    assert asked(node) == ["ADD", "DEL"]
    assert reply.code == 5
    assert "did not come up" in reply.said


OLD = """#!/bin/sh
echo "$CNI_COMMAND $CNI_ARGS" >>"$(dirname "$0")/log"
[ "$CNI_COMMAND" != VERSION ] || exec echo '{"cniVersion": "1.0.0", "supportedVersions": ["0.3.1", "1.0.0"]}'
stdin=$(cat)
case $stdin in
*'"cniVersion":"1.0.0"'*) echo "$stdin" >"$(dirname "$0")/told" ;;
*) echo '{"code": 1, "msg": "incompatible CNI versions"}'; exit 1 ;;
esac
[ "$CNI_COMMAND" != ADD ] || echo '{"ips": [{"address": "10.99.0.7/24"}]}'
"""


def test_an_older_foreign_ipam_is_asked_in_its_version_and_not_for_what_it_cannot_know(node: Node) -> None:
    executable(node.home / "bin" / "foreign", OLD)
    old = node.configured(ipam={"type": "foreign"})
    added = old.call("ADD")
    assert added.addresses == ["10.99.0.7/24"], added.said
    assert added.body["cniVersion"] == "1.1.0"
    assert old.after(added).call("CHECK").exit == 0
    told = json.loads((node.home / "bin" / "told").read_text())
    assert told["ipam"] == {"type": "foreign"}
    assert told["prevResult"]["cniVersion"] == "1.0.0"
    for verb in ("STATUS", "DEL"):
        reply = old.call(verb)
        assert reply.exit == 0, reply.said
    assert asked(node).count("STATUS") == 1, "what it refused it was not asked again"
    assert node.left() == []


@pytest.mark.parametrize("previous", [{"ips": 7}, {"routes": [{"dst": "::/0", "mtu": -1}]}, {"ips": []}])
def test_a_result_that_is_none_keeps_no_older_ipam_from_giving_back(node: Node, previous: object) -> None:
    executable(node.home / "bin" / "foreign", OLD.replace('"0.3.1", ', "").replace("1.0.0", "0.2.0"))
    node.configured(ipam={"type": "foreign"}).call("ADD")
    (node.home / "bin" / "told").unlink()
    reply = node.configured(ipam={"type": "foreign"}, prevResult=previous).call("DEL")
    assert reply.exit == 0, reply.said
    assert "prevResult" not in json.loads((node.home / "bin" / "told").read_text())


def test_gc_waits_for_an_ipam_that_does_not_answer_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    foreign = with_foreign(node, GIVES)
    pods = ("a eth0", "b eth1", "c eth2")
    for each in pods:
        assert foreign.call("ADD", each).exit == 0
    monkeypatch.setattr(delegate, "LONGEST_OTHERS", 0.5)
    with_foreign(node, GIVES, other="$(exec sleep 1000)")
    (node.home / "bin" / "log").unlink()
    reply = foreign.configured(**{"cni.dev/valid-attachments": []}).call("GC")
    assert reply.code == 103
    assert asked(node) == ["DEL"]
    for each in (*pods, "ipam"):
        assert f"{each}: {node.home}/bin/lender DEL did not answer" in str(reply.body["details"])
    assert {each.container for each in node.records.all()} == {"a", "b", "c"}, "the next GC tries again"


@pytest.mark.parametrize("args", ["COLOUR=red", "IP", "=;;;", "IP=1.2.3.4;COLOUR"])
def test_no_args_keep_a_foreign_ipam_from_giving_back(node: Node, args: str) -> None:
    """It would refuse what it does not know, or what is no pair."""
    foreign = with_foreign(node, GIVES)
    foreign.call("ADD")
    strict = FOREIGN.replace("#!/bin/sh\n", "#!/bin/sh\ncase $CNI_ARGS in *IgnoreUnknown=1*) ;; *) exit 1 ;; esac\n")
    executable(node.home / "bin" / "lender", strict.format(add=GIVES, other=0))
    reply = foreign.call("DEL", CNI_ARGS=args)
    assert reply.exit == 0, reply.said
    assert node.left() == []


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ('{"ips": [{"address": "here"}]}', 6), ('{"ips": [{"address": "10.99.0.7"}]}', 6), ('{"ips": 7}', 6),
        ('{"ips": [{"address": "10.99.0.7/24", "gateway": "x"}]}', 6), ("[]", 104), ("null", 104), ("no JSON", 104),
        ('{"ips": [{"address": "10.99.0.7/24"}], "routes": [{"dst": "x"}]}', 6), ("", 104),
    ],
)
def test_a_malformed_answer_is_told_and_what_was_given_is_given_back(node: Node, answer: str, code: int) -> None:
    reply = with_foreign(node, f"echo '{answer}'").call("ADD")
    assert reply.code == code, reply.said
    assert asked(node) == ["ADD", "DEL"]
    assert node.left() == []


@pytest.mark.parametrize("error", ['{"code": 0, "msg": null}', '{"code": -3}', '{"code": "x"}', '{"code": true}'])
def test_an_error_without_a_code_gets_ours(node: Node, error: str) -> None:
    reply = with_foreign(node, f"echo '{error}'; exit 1").call("ADD")
    assert reply.code in (1, 104)
    assert "None" not in reply.said
