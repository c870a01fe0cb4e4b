"""Metrics and health over HTTP: what is told, to whom, and that no client holds the loop."""

from __future__ import annotations

import http.client
import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cni_plugin import histogram
from cni_plugin.agent.metrics import server as module
from cni_plugin.agent.metrics.gauges import Gauges, Pool
from cni_plugin.agent.metrics.journal import Journal, Served
from cni_plugin.agent.metrics.log import Log
from cni_plugin.agent.metrics.prometheus import CONTENT_TYPE, Page
from cni_plugin.agent.metrics.server import LARGEST_REQUEST, MOST_CLIENTS, MetricsServer, listening
from cni_plugin.errors import CniError
from tests.pace import PATIENCE

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class StandIn(Gauges):
    """A node with known numbers."""

    def __init__(self) -> None:
        self.queue = lambda: 7

    def pools(self) -> list[Pool]:
        return [Pool('po"ds', 0, 3, 250)]

    def attachments(self) -> dict[str, int]:
        return {'po"ds': 3}

    def bridge_ports(self) -> dict[str, int]:
        return {"tulle0": 4}


def journal() -> Journal:
    """One that has seen two ADDs, one of them refused, and a repair."""
    made = Journal("error", Log("error", os.open(os.devnull, os.O_WRONLY)))
    for code, seconds in ((0, 0.0034), (11, 0.02)):
        steps = {"queue": 0.0001, "netlink": seconds / 2}
        made.served(Served("ADD", "tulle", "pods", "c", "eth0", code, "", 1.0, seconds, steps, {}, "", ""))
    made.repaired("bridge", 1, 0.01)
    made.repaired("bridge", 1, 0.01, "refused")
    made.reconciled(0.01)
    return made


def samples(text: str) -> Samples:
    """Every sample of a page, by name and labels."""
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


@pytest.fixture(scope="module")
def page() -> str:
    return Page(journal(), StandIn()).text().decode()


def test_the_text_is_what_prometheus_reads(page: str) -> None:
    kinds = {each.name: each.type for each in text_string_to_metric_families(page)}
    assert kinds["tulle_cni_requests"] == "counter" and kinds["tulle_cni_request_duration_seconds"] == "histogram"
    assert "unknown" not in kinds.values() and "# EOF" not in page
    assert page.count("# TYPE tulle_cni_requests_total counter\n") == 1
    assert page.count("# HELP tulle_cni_requests_total ") == 1


def test_the_numbers_are_the_journals_and_the_nodes(page: str) -> None:
    found = samples(page)
    network = ("network", 'po"ds')
    assert found["tulle_cni_requests_total", (("code", "0"), ("verb", "ADD"))] == 1
    assert found["tulle_cni_requests_total", (("code", "11"), ("verb", "ADD"))] == 1
    assert found["tulle_cni_request_duration_seconds_count", (("verb", "ADD"),)] == 2
    assert found["tulle_cni_request_duration_seconds_sum", (("verb", "ADD"),)] == pytest.approx(0.0234)
    assert found["tulle_cni_step_duration_seconds_count", (("step", "netlink"), ("verb", "ADD"))] == 2
    assert found["tulle_ipam_addresses", (network, ("range_set", "0"), ("state", "used"))] == 3
    assert found["tulle_ipam_addresses", (network, ("range_set", "0"), ("state", "free"))] == 250
    assert found["tulle_attachments", (network,)] == 3
    assert found["tulle_bridge_ports", (("bridge", "tulle0"),)] == 4
    assert found["tulle_queue_length", ()] == 7
    assert found["tulle_reconcile_runs_total", ()] == 1
    assert found["tulle_reconcile_repairs_total", (("what", "bridge"),)] == 1
    assert found["tulle_reconcile_problems_total", (("what", "bridge"),)] == 1
    assert found["process_resident_memory_bytes", ()] > 1e6 and found["process_open_fds", ()] > 2
    assert ("process_cpu_seconds_total", ()) in found and ("process_start_time_seconds", ()) in found
    assert any(name == "tulle_agent_info" for name, _ in found)


def test_the_buckets_of_a_histogram_are_cumulative(page: str) -> None:
    buckets = [
        (float(dict(labels)["le"]), value)
        for (name, labels), value in samples(page).items()
        if name == "tulle_cni_request_duration_seconds_bucket"
    ]
    values = [value for _, value in sorted(buckets)]
    assert [bound for bound, _ in sorted(buckets)] == [*histogram.BOUNDS, float("inf")]
    assert values == sorted(values) and values[0] == 0 and values[-1] == 2
    assert dict(buckets)[0.003] == 0 and dict(buckets)[0.005] == 1 and dict(buckets)[0.02] == 2


def test_neither_tls_nor_an_http_library_is_loaded_for_it() -> None:
    """prometheus_client's package would: 9 MiB in a process that promises to stay small."""
    code = (
        "import sys\n"
        "from cni_plugin.agent.metrics.journal import Journal\n"
        "from cni_plugin.agent.metrics.prometheus import Page\n"
        "Page(Journal()).text()\n"
        "assert not sys.modules.keys() & {'ssl', 'http', 'http.server', 'urllib.request', 'wsgiref', 'asyncio'}\n"
        "import prometheus_client; prometheus_client.start_http_server"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


class Running(NamedTuple):
    """A server in a loop of its own, as the agent's is."""

    server: MetricsServer
    problem: list[str]

    def get(self, path: str, method: str = "GET") -> tuple[int, str, str]:
        """Status, content type, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=10)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """A client that may do as it likes."""
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=PATIENCE)


@pytest.fixture
def running() -> Iterator[Running]:
    problem = [""]
    server = MetricsServer(listening("127.0.0.1:0"), journal(), lambda: problem[0], StandIn())
    reader, writer = socket.socketpair()

    def turn() -> None:
        with select.epoll() as poll:
            for fd in (*server.filenos(), reader.fileno()):
                poll.register(fd, select.EPOLLIN)
            while True:
                for fd, _ in poll.poll(0.05):
                    if fd == reader.fileno():
                        return
                    server.readable(fd)
                server.run()

    thread = threading.Thread(target=turn)
    thread.start()
    yield Running(server, problem)
    writer.send(b"x")
    thread.join(PATIENCE)
    server.close()
    reader.close()
    writer.close()


def test_metrics_are_served(running: Running) -> None:
    code, kind, body = running.get("/metrics?name=x")
    assert (code, kind) == (200, CONTENT_TYPE)
    assert ("tulle_queue_length", ()) in samples(body)
    assert running.get("/metrics", "HEAD")[::2] == (200, "")


def test_health_is_told(running: Running) -> None:
    assert running.get("/healthz")[::2] == (200, "ok\n")
    assert running.get("/readyz")[::2] == (200, "ok\n")
    running.problem[0] = "bridge tulle0 is full"
    assert running.get("/readyz")[::2] == (503, "bridge tulle0 is full\n")
    assert running.get("/healthz")[0] == 200, "it lives: a restart would not help"


def test_what_is_not_known_is_refused(running: Running) -> None:
    assert running.get("/")[0] == 404
    assert running.get("/metrics", "POST")[0] == 405
    with running.connect() as client:
        client.sendall(b"nonsense\r\n\r\n")
        assert client.recv(99).startswith(b"HTTP/1.1 400 ")


def test_a_page_that_cannot_be_made_is_an_error_and_no_end(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "pools", lambda _: 1 / 0)
    assert running.get("/metrics")[::2] == (500, "ZeroDivisionError: division by zero\n")
    assert running.get("/healthz")[0] == 200


def test_a_client_that_talks_for_too_long_is_cut_off(running: Running) -> None:
    with running.connect() as client:
        client.sendall(b"GET /metrics HTTP/1.1\r\n")
        received = b""
        try:
            for _ in range(64):
                client.sendall(b"X: " + b"y" * (LARGEST_REQUEST // 16) + b"\r\n")
            received = client.recv(99)
        except OSError:
            pass  # reset while it talked
        assert received.startswith(b"HTTP/1.1 431 ") or not received
    assert running.get("/healthz")[0] == 200


def test_slow_clients_hold_nobody_and_are_hung_up_on(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    slow = [running.connect() for _ in range(3)]
    for each in slow:
        each.sendall(b"GET /met")
    assert running.get("/metrics")[0] == 200
    assert [each.recv(99) for each in slow] == [b"", b"", b""]
    for each in slow:
        each.close()


def test_a_client_that_does_not_read_holds_nobody(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StandIn, "attachments", lambda _: {f"{index:0100}": 1 for index in range(50_000)})
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", running.server.port))
        client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
        assert running.get("/healthz")[0] == 200
        body = b"".join(iter(lambda: client.recv(1 << 20), b""))
    assert body.count(b"\ntulle_attachments{") == 50_000, "and gets all of it once it does"


def test_more_clients_than_are_served_at_a_time_displace_the_slowest(running: Running) -> None:
    idle = [running.connect() for _ in range(2 * MOST_CLIENTS)]
    assert running.get("/healthz")[0] == 200
    assert len(running.server._clients) <= MOST_CLIENTS
    assert idle[0].recv(1) == b""
    for each in idle:
        each.close()


@pytest.mark.parametrize("address", ["0.0.0.0:9472", "[::]:9472", "192.0.2.1:9472", "[fe80::1]:9472"])
def test_an_address_that_others_reach_is_refused(address: str) -> None:
    with pytest.raises(CniError, match="open to the network"):
        listening(address)


@pytest.mark.parametrize("address", ["9472", "localhost:9472", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", ":9472"])
def test_what_is_no_address_is_refused_with_an_example(address: str) -> None:
    with pytest.raises(CniError, match=r"write 127\.0\.0\.1:9472"):
        listening(address)


def test_a_port_that_is_taken_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(CniError, match="cannot listen on 127"):
            listening(f"127.0.0.1:{taken.getsockname()[1]}")


def test_ipv6s_loopback_will_do() -> None:
    try:
        server = MetricsServer(listening("[::1]:0"), journal(), str)
    except CniError as error:
        pytest.skip(f"no IPv6 here: {error.msg}")
    with socket.create_connection(("::1", server.port), timeout=PATIENCE) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\n\r\n")
        while not select.select([client], [], [], 0.01)[0]:
            for fd in select.select(server.filenos(), [], [], 0)[0]:
                server.readable(fd)
        assert client.recv(99).startswith(b"HTTP/1.1 200 ")
    server.close()
