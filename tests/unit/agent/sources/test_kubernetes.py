"""The Kubernetes source against a server that speaks the API's protocol, whatever that does wrong."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import pytest

from cni_plugin.agent.patience import FREE
from cni_plugin.agent.sources import kubernetes
from cni_plugin.agent.sources.contract import Announcement, Mailbox, Snapshot, open_source
from cni_plugin.agent.sources.kube import api, follow
from cni_plugin.agent.sources.kube.api import Api
from cni_plugin.agent.sources.kube.errors import ApiError
from cni_plugin.agent.sources.kube.follow import Backoff, Pace
from cni_plugin.agent.sources.kube.view import Known, snapshot
from cni_plugin.agent.sources.kubernetes import Conf, KubernetesSource
from cni_plugin.errors import CniError
from tests.unit.agent.sources.kube_objects import big_node, flannel_notes, lease, node
from tests.unit.agent.sources.kube_server import CONFIG_MAPS, LEASES, NODES, KubeServer
from tests.unit.agent.sources.told import Told, wait
from tests.unit.support import Json

PACE = Pace(first=0.02, longest=0.2, answer=1.0, watch=(20.0, 20.0), grace=0.3, steady=0.1, page=10)
N1 = node("n1", "10.244.1.0/24", "192.0.2.1")
GOOD = '{"Network": "10.244.0.0/16"}'
MAC = "0a:54:0a:f4:01:00"


class World:
    """A server, the source that follows it as node n1, and what that says."""

    def __init__(self, server: KubeServer, pace: Pace) -> None:
        self.server = server
        self.told = Told()
        self.source = KubernetesSource(Conf(kubeconfig=str(server.kubeconfig)), "n1", self.told.mailbox, pace)

    def close(self) -> None:
        self.source.close()
        self.told.mailbox.close()


Begin: TypeAlias = Callable[..., World]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KubeServer]:
    with KubeServer(tmp_path) as made:
        made.configure(net_conf=GOOD)
        made.put(N1)
        yield made


@pytest.fixture
def begin(server: KubeServer) -> Iterator[Begin]:
    worlds: list[World] = []

    def start(**settings: object) -> World:
        worlds.append(World(server, PACE._replace(**settings)))  # type: ignore[arg-type]
        return worlds[-1]

    yield start
    for each in worlds:
        each.close()
    wait_for_ends()


def wait_for_ends() -> None:
    wait(lambda: not [each for each in threading.enumerate() if each.name.startswith("kubernetes-")])


@pytest.fixture
def world(begin: Begin) -> World:
    made = begin()
    made.told.wait(lambda: made.told.names() == ["n1"])
    for path in (NODES, LEASES, CONFIG_MAPS):
        wait(lambda path=path: len(made.server.asked_for(path, watches=True)) == 1)  # type: ignore[misc]
    return made


def peer(index: int, **notes: str) -> dict[str, object]:
    return node(f"p{index}", f"10.244.{index}.0/24", f"192.0.2.{index}", **notes)


# Following


def test_nodes_that_come_change_and_go_are_told_and_the_server_is_asked_nothing_more(world: World) -> None:
    asked = len(world.server.asked)
    for index in range(50, 55):
        world.server.put(peer(index))
        world.told.wait(lambda index=index: f"p{index}" in world.told.names())  # type: ignore[misc]
    world.server.put(node("p50", "10.244.50.0/24", "192.0.2.99"))
    world.told.until(lambda found: any(str(each.addresses[0]) == "192.0.2.99" for each in found.nodes))
    world.server.delete("p50")
    world.told.wait(lambda: "p50" not in world.told.names())
    assert len(world.server.asked) == asked, "its watches said it all"


def test_many_nodes_are_listed_in_pages_and_told_at_once(begin: Begin, server: KubeServer) -> None:
    for index in range(95):
        server.put(big_node(index))
    server.configure(net_conf='{"Network": "10.0.0.0/8"}')
    world = begin()
    world.told.until(lambda found: len(found.nodes) == 96)
    assert world.told.snapshots == 1
    assert len(server.asked_for(watches=False)) == 10


def test_a_heartbeat_of_a_kubelet_is_no_news(world: World) -> None:
    before = world.told.snapshots
    for index in range(20):
        world.server.put(N1 | {"status": {**N1["status"], "images": [{"sizeBytes": index}]}})
    world.told.read_for(0.2)
    assert world.told.snapshots == before


def test_a_storm_of_changes_is_at_most_20_snapshots_a_second_and_the_last_one_is_whole(world: World) -> None:
    before, begun = world.told.snapshots, time.monotonic()
    while time.monotonic() - begun < 1.0 or world.told.snapshots - before < 3:
        for index in range(2, 12):
            world.server.put(node(f"p{index}", f"10.244.{index}.0/24", f"192.0.2.{index}", tick=str(time.monotonic())))
            world.server.put(node("moving", "10.244.250.0/24", f"198.51.100.{time.monotonic_ns() % 250 + 1}"))
        world.told.read(0.005)
    world.server.put(node("moving", "10.244.250.0/24", "203.0.113.1"))
    world.told.until(lambda found: any(str(each.addresses[0]) == "203.0.113.1" for each in found.nodes))
    count, seconds = world.told.snapshots - before, time.monotonic() - begun
    assert count <= 20 * seconds + 2


def test_a_machine_that_stood_still_does_not_delay_the_next_snapshot(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What others took of the processor while one was put together is no work of ours that has to be made up for."""
    worked = 0.0
    monkeypatch.setattr(kubernetes, "thread_time", lambda: worked)
    waits: list[float] = []
    wait_for = world.source._ended.wait

    def noted(seconds: float) -> bool:
        waits.append(seconds)
        return wait_for(seconds)

    monkeypatch.setattr(world.source._ended, "wait", noted)

    def put_together(known: Known, this_node: str) -> Snapshot | None:
        nonlocal worked
        worked += 0.1
        return snapshot(known, this_node)

    world.server.put(peer(2))
    wait(lambda: waits == [PACE.spacing])
    monkeypatch.setattr(kubernetes, "snapshot", put_together)
    world.server.put(peer(3))
    wait(lambda: len(waits) == 2)
    assert waits[1] == pytest.approx(4 * 0.1), "what it works itself is a fifth of a processor at most"
    assert world.told.trouble == ""


def test_a_watch_goes_on_from_the_newest_version_that_it_was_told(world: World) -> None:
    world.server.put(peer(2))
    world.told.wait(lambda: "p2" in world.told.names())
    world.server.bookmark()

    def goes_on() -> bool:
        world.server.cut()
        return world.server.asked_for(watches=True)[-1].params["resourceVersion"] == "104"

    wait(goes_on)
    assert len(world.server.asked_for(watches=False)) == 1


def test_a_watch_that_the_server_ends_in_time_is_begun_anew_without_a_word(begin: Begin) -> None:
    world = begin(watch=(1.0, 1.0))
    world.told.wait(lambda: world.told.names() == ["n1"])
    wait(lambda: len(world.server.asked_for(watches=True)) >= 3)
    world.told.read_for(0.1)
    assert (world.told.trouble, len(world.server.asked_for(watches=False)), world.told.snapshots) == ("", 1, 1)
    world.server.put(peer(2))
    world.told.wait(lambda: "p2" in world.told.names())


def test_watches_ask_for_bookmarks_and_end_at_different_times(begin: Begin, server: KubeServer) -> None:
    worlds = [begin(watch=(300.0, 600.0)) for _ in range(4)]
    wait(lambda: len(server.asked_for(watches=True)) == len(worlds))
    asked = server.asked_for(watches=True)
    seconds = {int(each.params["timeoutSeconds"]) for each in asked}
    assert len(seconds) > 1 and all(300 <= each <= 600 for each in seconds)
    assert all(each.params["allowWatchBookmarks"] == "true" for each in asked)


# What goes wrong


@pytest.mark.parametrize("torn", [False, True], ids=["between lines", "in the middle of one"])
def test_a_watch_that_is_cut_off_is_resumed_and_nothing_is_missed(world: World, torn: bool) -> None:
    world.server.cut(torn=torn)
    world.server.put(peer(2))
    world.told.wait(lambda: world.told.names() == ["n1", "p2"])
    assert len(world.server.asked_for(watches=False)) == 1
    assert world.told.trouble == ""  # one hiccup is not worth a word


def test_a_version_that_is_forgotten_is_listed_again_at_once(world: World) -> None:
    world.server.compact()
    world.server.cut()
    world.server.put(peer(2))
    world.server.compact()
    world.told.wait(lambda: world.told.names() == ["n1", "p2"])
    assert len(world.server.asked_for(watches=False)) == 2
    world.server.put(peer(3))
    world.told.wait(lambda: world.told.names() == ["n1", "p2", "p3"])


def test_a_version_that_is_forgotten_within_the_stream_is_listed_again(world: World) -> None:
    world.server.break_off(410)
    wait(lambda: len(world.server.asked_for(watches=False)) == 2)
    world.server.put(peer(2))
    world.told.wait(lambda: "p2" in world.told.names())
    assert world.told.trouble == ""


def test_an_error_within_the_stream_is_no_reason_to_list_again(world: World) -> None:
    world.server.break_off(500)
    wait(lambda: len(world.server.asked_for(watches=True)) == 2)
    world.server.put(peer(2))
    world.told.wait(lambda: "p2" in world.told.names())
    assert len(world.server.asked_for(watches=False)) == 1


def test_a_list_whose_next_page_has_expired_begins_anew(begin: Begin, server: KubeServer) -> None:
    for index in range(25):
        server.put(peer(index + 2))
    server.expired_pages = 1
    world = begin()
    world.told.until(lambda found: len(found.nodes) == 26)
    assert world.told.snapshots == 1


def test_what_is_deleted_while_nobody_watches_is_gone_after_the_next_list(world: World) -> None:
    world.server.put(peer(2))
    world.told.wait(lambda: "p2" in world.told.names())
    world.server.refuse = 503
    world.server.cut()
    world.server.delete("p2")
    world.server.compact()
    world.told.wait(lambda: world.told.trouble != "")
    assert "p2" in world.told.names()  # what was known stays until the API says otherwise
    world.server.refuse = 0
    world.told.wait(lambda: "p2" not in world.told.names() and world.told.trouble == "")


def test_after_a_long_outage_all_is_listed_again_for_the_storage_may_be_an_older_one(begin: Begin) -> None:
    world = begin(doubt=0.3)
    world.told.wait(lambda: world.told.names() == ["n1"])
    world.server.put(peer(2))
    world.told.wait(lambda: "p2" in world.told.names())
    world.server.refuse = 503
    world.server.cut()
    time.sleep(0.6)
    world.server.restore_backup()
    world.server.refuse = 0
    world.told.wait(lambda: world.told.names() == ["n1"])
    world.server.put(peer(3))
    world.told.wait(lambda: world.told.names() == ["n1", "p3"])


@pytest.mark.parametrize(("status", "hint"), [(500, "500"), (401, "token"), (403, "conf/kubernetes/tulle.yaml")])
def test_a_server_that_refuses_is_told_and_asked_less_and_less_often(world: World, status: int, hint: str) -> None:
    world.server.refuse = status
    world.server.cut()
    world.told.wait(lambda: hint in world.told.trouble)
    assert world.server.url in world.told.trouble
    wait(lambda: len(world.server.asked_for(watches=True)) > 12)
    times = [each.at for each in world.server.asked_for(watches=True)][1:12]
    gaps = [after - before for before, after in pairwise(times)]
    assert sum(gaps) > 0.5, "ten waits, each but the first ones of a tenth of a second at least"
    assert world.told.names() == ["n1"]
    world.server.refuse = 0
    world.told.wait(lambda: world.told.trouble == "")
    world.server.put(peer(2))
    world.told.wait(lambda: "p2" in world.told.names())


def test_waits_double_to_their_longest_differ_and_begin_again_after_success() -> None:
    backoff = Backoff(Pace())
    waits = [backoff.next() for _ in range(20)]
    assert all(0.1 * 2**at <= each <= 0.2 * 2**at for at, each in enumerate(waits[:7]))
    assert all(15.0 <= each <= 30.0 for each in waits[8:]) and len(set(waits)) == len(waits)
    backoff.reset()
    assert backoff.next() <= 0.2


def test_a_server_that_falls_silent_is_left_when_its_time_is_over(begin: Begin, server: KubeServer) -> None:
    server.mute = True
    world = begin(watch=(1.0, 1.0))
    world.told.wait(lambda: world.told.names() == ["n1"])
    server.put(peer(2))
    server.mute = False  # for those who ask again
    world.told.wait(lambda: "p2" in world.told.names())
    assert len(server.asked_for(watches=False)) == 1


def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_a_pause(begin: Begin) -> None:
    world = begin(watch=(0.0, 0.0), steady=0.5)
    world.told.wait(lambda: world.told.trouble != "")
    assert "as soon as it had begun" in world.told.trouble
    time.sleep(1.0)
    assert len(world.server.asked_for(watches=True)) < 25


def test_a_server_that_is_not_there_yet_is_told_and_found_when_it_comes(tmp_path: Path) -> None:
    later = KubeServer(tmp_path)
    later.configure(net_conf=GOOD)
    later.put(N1)
    later._server.server_close()
    told = Told()
    source = KubernetesSource(Conf(kubeconfig=str(later.kubeconfig)), "n1", told.mailbox, PACE)
    try:
        told.wait(lambda: "refused" in told.trouble)
        assert told.snapshot is None
    finally:
        source.close()


def test_a_kubeconfig_that_comes_later_is_read_then(tmp_path: Path, server: KubeServer) -> None:
    told = Told()
    late = tmp_path / "late"
    source = KubernetesSource(Conf(kubeconfig=str(late)), "n1", told.mailbox, PACE)
    try:
        told.wait(lambda: str(late) in told.trouble)
        late.write_text(server.kubeconfig.read_text())
        told.wait(lambda: told.names() == ["n1"] and told.trouble == "")
    finally:
        source.close()


def test_a_character_that_some_take_for_a_line_break_breaks_nothing(world: World) -> None:
    world.server.put(peer(2, note="one\u0085two\u2028three\x0bfour"))
    world.told.wait(lambda: "p2" in world.told.names())
    assert len(world.server.asked_for(watches=True)) == 1


def test_a_source_ends_at_once_whatever_it_waits_for(begin: Begin, server: KubeServer) -> None:
    """A watch, or the next try: neither would be over before the test is."""
    for_hours = {"watch": (9999.0, 9999.0), "first": 9999.0, "longest": 9999.0}
    following = begin(**for_hours)
    following.told.wait(lambda: following.told.names() == ["n1"])
    server.refuse = 500
    refused = begin(**for_hours)
    refused.told.wait(lambda: refused.told.trouble != "")
    for each in (following, refused):
        each.source.close()
    wait_for_ends()


def test_a_mistake_of_ours_while_putting_together_is_told_and_not_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(kubernetes, "snapshot", lambda *_: 1 // 0)
        world.server.put(peer(2))
        world.told.wait(lambda: "ZeroDivisionError" in world.told.trouble)
    world.server.put(peer(3))
    world.told.wait(lambda: world.told.names() == ["n1", "p2", "p3"] and world.told.trouble == "")


def test_a_hundred_failures_leave_no_descriptor_open(begin: Begin, server: KubeServer) -> None:
    world = begin(first=0.002, longest=0.01)
    world.told.wait(lambda: world.told.names() == ["n1"])
    before = len(os.listdir("/proc/self/fd"))
    for status in (0, 500, 410, 0):
        server.refuse = status
        count = len(server.asked)
        while len(server.asked) < count + 25:
            server.cut()
            time.sleep(0.01)
    world.server.put(peer(2))
    world.told.wait(lambda: "p2" in world.told.names() and world.told.trouble == "")
    wait(lambda: len(os.listdir("/proc/self/fd")) <= before + 4)


# Who we are


def test_a_token_that_was_rotated_is_read_anew_and_never_told(tmp_path: Path, server: KubeServer) -> None:
    token = tmp_path / "token"
    token.write_text("first-secret\n")
    server.write_kubeconfig({"tokenFile": str(token)})
    server.token = "first-secret"
    told = Told()
    source = KubernetesSource(Conf(kubeconfig=str(server.kubeconfig)), "n1", told.mailbox, PACE)
    try:
        told.wait(lambda: told.names() == ["n1"])
        server.token = "second-secret"
        server.cut()
        told.wait(lambda: "401" in told.trouble)
        assert "secret" not in told.trouble
        token.write_text("second-secret\n")
        told.wait(lambda: told.trouble == "")
        assert server.tokens[-1] == "second-secret"
    finally:
        source.close()


@pytest.mark.parametrize("token", ["two\nlines-secret", "a\x00secret"])
def test_a_token_that_no_header_can_hold_is_not_told_either(server: KubeServer, token: str) -> None:
    server.write_kubeconfig({"token": token})
    told = Told()
    source = KubernetesSource(Conf(kubeconfig=str(server.kubeconfig)), "n1", told.mailbox, PACE)
    try:
        told.wait(lambda: told.trouble != "")
        assert "secret" not in told.trouble
    finally:
        source.close()


def test_a_host_name_with_capitals_finds_its_node_which_has_none(server: KubeServer) -> None:
    told = Told()
    options = {"type": "kubernetes", "kubeconfig": str(server.kubeconfig)}
    source = open_source(options, "N1", told.mailbox)
    try:
        found = told.until(lambda snapshot: snapshot.me is not None)
        assert found.me is not None and found.me.name == "n1" and not any("N1" in each for each in found.problems)
    finally:
        source.close()


def test_a_kubeconfig_that_is_no_yaml_is_told_by_the_place_and_nothing_of_it_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text("users:\n- name: u\n  user: {token: secret\n")
    told = Told()
    source = KubernetesSource(Conf(kubeconfig=str(path)), "n1", told.mailbox, PACE)
    try:
        told.wait(lambda: "is no valid YAML at line 4, column 1" in told.trouble)
        assert "secret" not in told.trouble
    finally:
        source.close()


@pytest.mark.parametrize(
    ("cluster", "user", "says"),
    [
        ({"certificate-authority": "ca.crt"}, {}, "certificate-authority {}/ca.crt: No such file or directory"),
        ({"certificate-authority-data": "bm9uZQ=="}, {}, "a certificate or key of it cannot be used"),
        ({}, {"tokenFile": "token"}, "tokenFile {}/token: No such file or directory; put that file there"),
        ({}, {"client-certificate": "c.pem"}, "client-certificate and client-key belong together"),
        ({}, {"auth-provider": {"name": "gcp"}}, "auth-provider not supported; use token, tokenFile"),
        ({"server": "192.0.2.9:6443"}, {}, "write it as https://192.0.2.9:6443"),
        ({"server": "ftp://192.0.2.9"}, {}, "server ftp://192.0.2.9: write it as https://192.0.2.9:6443"),
        ({"server": 6443}, {}, "is no kubeconfig: Expected `str`, got `int` - at `$.server`"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_told_by_file_key_and_remedy(
    tmp_path: Path, server: KubeServer, cluster: Json, user: Json, says: str
) -> None:
    server.write_kubeconfig({"password": "secret", **user})
    conf = json.loads(server.kubeconfig.read_text())
    conf["clusters"][0]["cluster"] = {"server": "https://192.0.2.9:6443", **cluster}
    path = tmp_path / "kubeconfig.json"
    path.write_text(json.dumps(conf))
    with pytest.raises(ApiError) as caught:
        Api(str(path), PACE.answer)
    assert str(path) in str(caught.value) and says.format(tmp_path) in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "5", "[]", "{}", '{"current-context": "c", "contexts": "x"}'])
def test_a_file_that_is_no_kubeconfig_is_told_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    with pytest.raises(ApiError, match=str(path)):
        Api(str(path), PACE.answer)


def test_a_tokens_file_is_looked_for_beside_the_kubeconfig(server: KubeServer) -> None:
    server.write_kubeconfig({"tokenFile": "token"})
    (server.kubeconfig.parent / "token").write_text("word")
    found = Api(str(server.kubeconfig), PACE.answer)
    assert [name for page in found.pages(api.NODES, 10) for name, _ in page.items] == ["n1"]


@pytest.mark.parametrize("name", ["", "tulle-config", "a/b/c", "/x", "x/"])
def test_a_config_map_that_is_no_name_is_refused(name: str) -> None:
    mailbox = Mailbox()
    with pytest.raises(CniError) as caught:
        open_source({"type": "kubernetes", "configMap": name}, "n1", mailbox)
    assert caught.value.code == 7 and "namespace/name" in caught.value.msg
    mailbox.close()


def test_without_a_service_account_the_trouble_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    told = Told()
    source = open_source({"type": "kubernetes"}, "n1", told.mailbox)
    try:
        told.wait(lambda: "serviceaccount" in told.trouble)
    finally:
        source.close()


# The configuration


def test_the_network_configuration_is_followed(world: World) -> None:
    world.server.configure(net_conf='{"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}}')
    world.told.until(lambda found: found.conf is not None and found.conf.backend == "host-gw")
    world.server.configure(net_conf='{"Network": ')
    broken = world.told.until(lambda found: bool(found.problems))
    assert broken.conf is not None and broken.conf.backend == "host-gw" and "net-conf.json" in broken.problems[0]
    world.server.delete("tulle-config", CONFIG_MAPS)
    gone = world.told.until(lambda found: "there is no ConfigMap" in "".join(found.problems))
    assert gone.conf == broken.conf
    world.server.configure(net_conf=GOOD)
    world.told.until(lambda found: found.problems == ())


def test_without_a_config_map_there_is_no_configuration_and_that_is_told(tmp_path: Path) -> None:
    with KubeServer(tmp_path) as server:
        server.put(N1)
        world = World(server, PACE)
        found = world.told.until(lambda found: bool(found.nodes))
        assert found.conf is None and "kube-tulle/tulle-config" in found.problems[0]
        world.close()


# Announcing


def said(address: str = "192.0.2.1", backend: str = "vxlan") -> Announcement:
    return Announcement((ip_address(address),), backend, lambda _: {"vtepMAC": MAC, "vni": "1"})


def notes(world: World, name: str = "n1") -> dict[str, str]:
    """What a node's Lease says."""
    found: dict[str, str] = (world.server.lease(name) or {"metadata": {"annotations": {}}})["metadata"]["annotations"]
    return found


def node_notes(world: World) -> dict[str, str]:
    found: dict[str, str] = world.server.node("n1")["metadata"]["annotations"]
    return found


def test_what_is_published_is_said_once_in_the_nodes_lease_and_nothing_is_written_to_a_node(world: World) -> None:
    world.source.publish(said())
    wait(lambda: notes(world).get("tulle.network/address") == "192.0.2.1")
    assert json.loads(notes(world)["tulle.network/backend-data"]) == {"vtepMAC": MAC, "vni": "1"}
    assert world.server.lease("n1") | {"metadata": None} == lease("n1") | {"metadata": None}  # type: ignore[operator]
    world.told.read_for(0.3)
    world.source.publish(said())
    world.told.read_for(0.2)
    assert len(world.server.applied) == 1  # as it is shown already
    assert world.server.patches == []


def test_what_somebody_else_undoes_is_said_again(world: World) -> None:
    world.source.publish(said())
    wait(lambda: "tulle.network/address" in notes(world))
    world.server.put(lease("n1", address="192.0.2.66"), LEASES)
    wait(lambda: notes(world).get("tulle.network/address") == "192.0.2.1")
    world.server.delete("n1", LEASES)
    wait(lambda: "tulle.network/address" in notes(world))
    assert len(world.server.applied) == 3


def test_a_lease_that_nobody_or_another_owns_is_made_the_nodes_own(begin: Begin, server: KubeServer) -> None:
    server.put(lease("n1", "another-node-of-that-name", address="192.0.2.1", backend="vxlan"), LEASES)
    world = begin()
    world.source.publish(said())
    wait(lambda: len(server.applied) == 1)
    assert server.applied[0]["metadata"]["ownerReferences"] == lease("n1")["metadata"]["ownerReferences"]


def test_somebody_who_undoes_it_again_and_again_is_not_fought_without_a_pause(world: World) -> None:
    world.source.publish(said())
    begun = time.monotonic()
    for number in range(1, FREE + 3):
        wait(lambda number=number: len(world.server.applied) == number)  # type: ignore[misc]
        wait(lambda: "tulle.network/address" in notes(world))
        world.server.delete("n1", LEASES)
    assert time.monotonic() - begun >= 1.0, "the wait for the last one"


def test_a_node_that_moves_often_is_not_taken_for_one_in_a_quarrel(world: World) -> None:
    for number in range(20, 30):
        world.source.publish(said(f"192.0.2.{number}"))
        wait(lambda now=f"192.0.2.{number}": notes(world).get("tulle.network/address") == now)  # type: ignore[misc]
    assert not world.source._publisher._patience.holds("lease")


def test_a_node_whose_subnet_comes_later_is_announced_then(begin: Begin, server: KubeServer) -> None:
    server.put(node("n1", "", "192.0.2.1"))
    world = begin()
    world.source.publish(said())
    world.told.until(lambda found: found.me is not None and not found.me.pod_cidrs)
    assert server.applied == []
    server.put(N1)
    wait(lambda: "tulle.network/address" in notes(world))


def test_a_node_that_is_deleted_and_comes_back_with_another_subnet_is_known_and_announced_by_that(
    world: World,
) -> None:
    world.source.publish(Announcement((ip_address("192.0.2.1"),), "vxlan", lambda cidrs: {"of": str(cidrs[0])}))
    wait(lambda: "10.244.1.0/24" in notes(world).get("tulle.network/backend-data", ""))
    world.server.delete("n1")
    gone = world.told.until(lambda found: found.me is None)
    assert any("n1" in each and "not in the API" in each for each in gone.problems)
    again = node("n1", "10.244.9.0/24", "192.0.2.1")
    again["metadata"]["uid"] = "another"
    world.server.put(again)
    back = world.told.until(lambda found: found.me is not None)
    assert back.me is not None and [str(each) for each in back.me.pod_cidrs] == ["10.244.9.0/24"]
    wait(lambda: "10.244.9.0/24" in notes(world)["tulle.network/backend-data"])
    owners = (world.server.lease("n1") or {})["metadata"]["ownerReferences"]
    assert [each["uid"] for each in owners] == ["another"]
    world.server.delete("n1", LEASES)  # as the garbage collector may, for the owner that is gone
    wait(lambda: "tulle.network/address" in notes(world))


def test_a_node_that_moves_asks_anew_for_its_connections_began_at_an_address_that_is_gone(begin: Begin) -> None:
    """And does not wait for the end of what it asked before."""
    world = begin(watch=(9999.0, 9999.0))
    world.told.wait(lambda: world.told.names() == ["n1"])
    world.source.publish(said())
    wait(lambda: len(world.server.applied) == 1)
    world.server.forget_connections()
    world.source.publish(said("192.0.2.8"))
    world.server.put(peer(2))
    world.told.wait(lambda: "p2" in world.told.names())
    wait(lambda: notes(world)["tulle.network/address"] == "192.0.2.8")
    assert len(world.server.asked_for(watches=False)) == 1
    assert (world.told.trouble, world.told.snapshot and world.told.snapshot.problems) == ("", ())


@pytest.mark.parametrize(("address", "stranded"), [("127.0.0.1", False), ("198.51.100.77", True)])
def test_a_connection_is_stranded_when_its_own_address_is_gone(address: str, *, stranded: bool) -> None:
    class Began(socket.socket):
        def getsockname(self) -> tuple[str, int]:
            return address, 40000

    api = Api.__new__(Api)
    with Began() as channel, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Api, "_socket", lambda _: channel)
        assert api.is_stranded() is stranded


def test_flannels_annotations_are_written_while_some_other_node_is_its(world: World) -> None:
    other = peer(2)
    other["metadata"]["annotations"] = flannel_notes("192.0.2.2", "2e:00:00:00:00:02")  # type: ignore[index]
    world.source.publish(said())
    wait(lambda: len(world.server.applied) == 1)
    assert world.server.patches == []
    world.server.put(other)
    wait(lambda: node_notes(world).get("flannel.alpha.coreos.com/kube-subnet-manager") == "true")
    assert json.loads(node_notes(world)["flannel.alpha.coreos.com/backend-data"]) == {"VNI": 1, "VtepMAC": MAC}
    world.server.delete("p2")
    world.told.wait(lambda: "p2" not in world.told.names())
    world.source.publish(said("192.0.2.8"))
    wait(lambda: node_notes(world)["flannel.alpha.coreos.com/public-ip"] == "192.0.2.8")  # who bears them is right
    assert not any(key.startswith("tulle.network/") for key in node_notes(world))


def unavailable(world: World, status: str) -> None:
    bad = {"type": "NetworkUnavailable", "status": status, "reason": "NoRouteCreated"}
    world.server.put(N1 | {"status": {**N1["status"], "conditions": [{"type": "Ready", "status": "True"}, bad]}})


@pytest.mark.parametrize("before", ["True", "Unknown"])
def test_ready_takes_the_mark_away_that_the_network_is_missing(world: World, before: str) -> None:
    unavailable(world, before)
    time.sleep(0.1)
    assert world.server.patches == []
    world.source.ready()
    wait(lambda: len(world.server.patches) == 1)
    conditions = {each["type"]: each for each in world.server.node("n1")["status"]["conditions"]}
    assert conditions["NetworkUnavailable"]["status"] == "False" and conditions["Ready"]["status"] == "True"
    assert conditions["NetworkUnavailable"]["reason"] == "TulleIsUp"
    world.told.read_for(0.2)
    assert len(world.server.patches) == 1


def test_where_nobody_says_that_the_network_is_missing_nothing_is_written_to_the_node(world: World) -> None:
    world.source.ready()
    world.source.publish(said())
    wait(lambda: len(world.server.applied) == 1)
    world.told.read_for(0.2)
    assert world.server.patches == []


def test_what_is_refused_is_told_as_a_problem_and_tried_again(world: World) -> None:
    world.server.refuse_patches = 403
    world.source.publish(said())
    found = world.told.until(lambda found: "peers are not told" in "".join(found.problems))
    assert found.nodes and world.told.trouble == ""
    assert "apply the RBAC rules of conf/kubernetes/tulle.yaml" in "".join(found.problems)
    world.server.refuse_patches = 0
    wait(lambda: "tulle.network/address" in notes(world))
    # what was refused once more may have been said by the Node's annotations meanwhile, of which is told, too
    world.told.until(lambda found: "peers are not told" not in "".join(found.problems))


def test_who_may_not_write_the_nodes_status_tells_the_peers_all_the_same(world: World) -> None:
    world.server.refuse_statuses = 403
    unavailable(world, "True")
    world.source.ready()
    world.source.publish(said())
    wait(lambda: "tulle.network/address" in notes(world))
    found = world.told.until(lambda found: bool(found.problems))
    (problem,) = found.problems
    assert "status" in problem and "peers" not in problem
    assert problem.endswith("apply conf/kubernetes/node-status.yaml (chart: nodeStatus=true), which allows it")


# Leases of others


def leased(index: int, **notes: str) -> dict[str, object]:
    return lease(f"p{index}", **notes)


def address_of(world: World, name: str) -> str:
    nodes = world.told.snapshot.nodes if world.told.snapshot else ()
    return next((str(each.addresses[0]) for each in nodes if each.name == name), "")


def test_what_a_nodes_lease_says_is_followed(world: World) -> None:
    world.server.put(peer(2))
    world.told.wait(lambda: address_of(world, "p2") == "192.0.2.2")
    world.server.put(leased(2, address="198.51.100.2"), LEASES)
    world.told.wait(lambda: address_of(world, "p2") == "198.51.100.2")
    world.server.put(leased(2, address="198.51.100.3"), LEASES)
    world.told.wait(lambda: address_of(world, "p2") == "198.51.100.3")
    world.server.delete("p2", LEASES)
    world.told.wait(lambda: address_of(world, "p2") == "192.0.2.2")


def test_the_first_that_is_told_knows_the_leases(begin: Begin, server: KubeServer) -> None:
    """A peer that would be reached at another address for a moment would lose packets at every start of an agent."""
    server.put(peer(2))
    server.put(leased(2, address="198.51.100.2"), LEASES)
    server.hold_leases = 0.3
    world = begin()
    world.told.wait(lambda: world.told.snapshot is not None)
    assert address_of(world, "p2") == "198.51.100.2"


def test_a_node_without_an_internal_ip_is_reached_where_its_lease_says(world: World) -> None:
    world.server.put(node("p2", "10.244.2.0/24"))
    world.told.until(lambda found: any("p2 is left out" in each for each in found.problems))
    world.server.put(leased(2, address="198.51.100.2"), LEASES)
    found = world.told.until(lambda found: len(found.nodes) == 2)
    assert found.problems == ()


@pytest.mark.parametrize("status", [403, 404, 405])
def test_a_server_without_leases_is_lived_with_and_told(begin: Begin, server: KubeServer, status: int) -> None:
    server.refuse_leases = status
    server.refuse_statuses = 403
    server.put(peer(2, tulle__network="x"))
    server.put(peer(3, **{"tulle.network__address": "198.51.100.3"}))
    world = begin()
    world.told.wait(lambda: world.told.names() == ["n1", "p2", "p3"])
    assert address_of(world, "p3") == "198.51.100.3" and world.told.trouble == ""
    found = world.told.until(lambda found: any("no Leases in kube-tulle" in each for each in found.problems))
    assert any(str(status) in each for each in found.problems)
    world.source.publish(said())
    world.told.until(lambda found: any("peers are not told" in each for each in found.problems))
    world.server.put(peer(4))
    world.told.wait(lambda: "p4" in world.told.names())
    assert server.patches == []
    server.refuse_leases = 0
    world.told.until(lambda found: found.problems == ())
    assert "tulle.network/address" in notes(world)


@pytest.mark.parametrize("status", [403, 404])
def test_where_no_lease_can_be_written_the_nodes_annotations_tell_the_peers_if_they_may(
    begin: Begin, server: KubeServer, status: int
) -> None:
    """As with the rules of a release before, under which peers understand nothing else."""
    server.refuse_leases = status
    world = begin()
    world.source.publish(said())
    wait(lambda: bool(server.patches))
    assert server.node("n1")["metadata"]["annotations"]["tulle.network/address"] == "192.0.2.1"
    server.put(peer(2))
    world.told.wait(lambda: "p2" in world.told.names())  # and what the API showed before that
    written = len(server.patches)
    world.told.until(lambda found: any("not told of this node by its Lease" in each for each in found.problems))
    assert len(server.patches) == written, "what the API shows is not written again"
    server.refuse_leases = 0
    wait(lambda: "tulle.network/address" in notes(world))


# Beside agents of a release before, which announce by annotations of their Nodes


def old(index: int, address: str) -> dict[str, object]:
    data = json.dumps({"vtepMAC": MAC, "vni": "1"})
    return peer(index, **{
        "tulle.network__address": address, "tulle.network__backend": "vxlan", "tulle.network__backend_data": data,
    })


def test_a_node_is_the_same_before_and_after_its_agent_is_updated(begin: Begin, server: KubeServer) -> None:
    server.put({**old(2, "198.51.100.2")})
    world = begin()
    world.told.wait(lambda: address_of(world, "p2") == "198.51.100.2")
    before, snapshots = world.told.snapshot, world.told.snapshots
    assert before is not None
    notes = {"address": "198.51.100.2", "backend": "vxlan", "backend_data": json.dumps({"vtepMAC": MAC, "vni": "1"})}
    server.put(leased(2, **notes), LEASES)
    world.told.until(lambda found: bool(found.problems))  # of what is left over
    after = world.told.snapshot
    assert after is not None and (after.nodes, world.told.snapshots) == (before.nodes, snapshots + 1)


def test_the_annotations_of_a_node_with_a_lease_count_no_more(world: World) -> None:
    world.server.put(leased(2, address="198.51.100.2"), LEASES)
    world.server.put(old(2, "203.0.113.66"))
    world.told.wait(lambda: address_of(world, "p2") == "198.51.100.2")
    assert world.told.snapshot is not None and world.told.snapshot.nodes[-1].data == {}


def test_annotations_left_over_are_told_with_the_command_that_removes_them_once_no_agent_needs_them(
    world: World,
) -> None:
    world.server.put(old(2, "192.0.2.2"))
    world.server.put(old(3, "192.0.2.3"))
    world.server.put(leased(2, address="192.0.2.2"), LEASES)
    found = world.told.until(lambda found: len(found.nodes) == 3)
    assert found.problems == ()
    world.server.put(leased(3, address="192.0.2.3"), LEASES)
    found = world.told.until(lambda found: bool(found.problems))
    (problem,) = found.problems
    assert "2 nodes" in problem and "kubectl annotate node --all tulle.network/address- " in problem
    world.server.put(peer(2))
    world.server.put(peer(3))
    world.told.until(lambda found: found.problems == ())


# What is published, again


def test_an_announcement_that_cannot_be_made_is_told_and_ends_nothing(world: World) -> None:
    def broken(_: object) -> dict[str, str]:
        raise KeyError("vni")

    world.source.publish(Announcement((), "vxlan", broken))
    world.told.until(lambda found: "KeyError" in "".join(found.problems))
    world.source.publish(said())
    wait(lambda: "tulle.network/address" in notes(world))


def test_the_pace_of_the_real_thing_is_that_of_the_documentation() -> None:
    assert follow.Pace() == Pace(0.2, 30.0, 15.0, (300.0, 600.0), 10.0, 2.0, 120.0, 0.05, 250)
    assert NODES == "/api/v1/nodes"
