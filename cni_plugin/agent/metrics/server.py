"""Metrics and health over HTTP, for who asks from this very node: off by default, and on loopback alone.

    GET /metrics     Prometheus' text
    GET /healthz     200: who answers is the agent's main loop, so an answer is the proof that it turns
    GET /readyz      200 when the next pod would be served well, else 503 and the reason as text

It lives in the agent's loop without a thread. What it watches it watches with an epoll of its own, whose descriptor
the loop watches (epoll(7): one is readable when it has events). Promise: who is slow, stuck or talks for too long
holds nobody; at most MOST_CLIENTS are served at a time, and a new one takes the place of the one that is slowest.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

from cni_plugin.agent.metrics.gauges import Gauges
from cni_plugin.agent.metrics.journal import Journal
from cni_plugin.agent.metrics.prometheus import CONTENT_TYPE, Page
from cni_plugin.errors import INVALID_CONFIG, IO_FAILURE, CniError

MOST_CLIENTS = 16
LARGEST_REQUEST = 8 << 10
"""Bytes of a request's head; a body is not read."""
PATIENCE = 5.0
"""Seconds for a client from its connection to the end of its answer."""
_PLAIN = "text/plain; charset=utf-8"
_REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed",
    431: "Request Header Fields Too Large", 500: "Internal Server Error", 503: "Service Unavailable",
}


class MetricsServer:
    """Serves `journal` and `gauges` on this socket; `ready` says why no pod should come now, "" when it may."""

    def __init__(
        self, listener: socket.socket, journal: Journal, ready: Callable[[], str], gauges: Gauges | None = None
    ) -> None:
        self._page = Page(journal, gauges)
        self._ready = ready
        self._listener = listener
        self._poll = select.epoll()
        self._poll.register(self._listener.fileno(), select.EPOLLIN)
        self._clients: dict[int, _Client] = {}

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._listener.getsockname()[1])

    def filenos(self) -> tuple[int, ...]:
        """What to watch."""
        return (self._poll.fileno(),)

    def readable(self, _fd: int) -> None:
        """Do what can be done at once."""
        for fd, _ in self._poll.poll(0):
            if fd == self._listener.fileno():
                self._accept()
            elif fd in self._clients:
                self._advance(self._clients[fd])

    def due(self) -> float | None:
        """The time.monotonic() at which somebody's time is over."""
        return min((each.until for each in self._clients.values()), default=None)

    def run(self) -> None:
        """Hang up on those whose time is over."""
        now = time.monotonic()
        for each in [each for each in self._clients.values() if each.until <= now]:
            self._drop(each)

    def close(self) -> None:
        """Hang up on all."""
        for each in list(self._clients.values()):
            self._drop(each)
        self._poll.close()
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(MOST_CLIENTS):
            try:
                channel, _ = self._listener.accept()
            except OSError:  # nobody left; or no descriptors, and they wait on
                return
            if len(self._clients) >= MOST_CLIENTS:
                self._drop(min(self._clients.values(), key=lambda each: each.until))
            client = _Client(channel)
            self._clients[client.fd] = client
            self._poll.register(client.fd, select.EPOLLIN)

    def _advance(self, client: _Client) -> None:
        if not client.answer:
            head = client.receive()
            if head is None:
                self._drop(client)
                return
            if not head:
                return
            client.answer = self._answer(head)
            self._poll.modify(client.fd, select.EPOLLOUT)
        if client.send():
            self._drop(client)

    def _answer(self, head: bytes) -> bytes:
        if len(head) > LARGEST_REQUEST:
            return _response(431, b"a request is at most 8 KiB\n")
        try:
            method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
        except ValueError:
            return _response(400, b"not an HTTP request\n")
        if method not in ("GET", "HEAD"):
            return _response(405, b"only GET and HEAD\n")
        code, body, kind = self._look_up(target.partition("?")[0])
        return _response(code, body, kind=kind, head_only=method == "HEAD")

    def _look_up(self, path: str) -> tuple[int, bytes, str]:
        match path:
            case "/metrics":
                try:
                    return 200, self._page.text(), CONTENT_TYPE
                except Exception as error:  # whoever scrapes sees it; pods are served on
                    return 500, f"{type(error).__name__}: {error}\n".encode(), _PLAIN
            case "/healthz":
                return 200, b"ok\n", _PLAIN
            case "/readyz":
                problem = self._ready()
                return (503, f"{problem}\n".encode(), _PLAIN) if problem else (200, b"ok\n", _PLAIN)
            case _:
                return 404, b"/metrics, /healthz and /readyz\n", _PLAIN

    def _drop(self, client: _Client) -> None:
        del self._clients[client.fd]
        client.close()  # and out of the epoll with it


class _Client:
    """One HTTP client: one request, one answer. `until`: the time.monotonic() at which we are through with it."""

    def __init__(self, channel: socket.socket) -> None:
        channel.setblocking(False)
        self._channel = channel
        self.fd = channel.fileno()
        self.until = time.monotonic() + PATIENCE
        self._head = b""
        self.answer = b""

    def receive(self) -> bytes | None:
        """The head of the request once it is whole or too long, b"" before; None when the client has gone."""
        try:
            data = self._channel.recv(LARGEST_REQUEST)
        except BlockingIOError:
            return b""
        except OSError:
            return None
        self._head += data
        if not data:
            return None
        return self._head if b"\r\n\r\n" in self._head or len(self._head) > LARGEST_REQUEST else b""

    def send(self) -> bool:
        """Send what the client takes; whether there is no more to do for it."""
        try:
            self.answer = self.answer[self._channel.send(self.answer) :]
        except BlockingIOError:
            return False
        except OSError:
            return True
        return not self.answer

    def close(self) -> None:
        """Hang up."""
        self._channel.close()


def _response(code: int, body: bytes, *, kind: str = _PLAIN, head_only: bool = False) -> bytes:
    lines = (
        f"HTTP/1.1 {code} {_REASONS[code]}",
        f"Content-Type: {kind}",
        f"Content-Length: {len(body)}",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + (b"" if head_only else body)


def place(address: str) -> tuple[IPv4Address | IPv6Address, int]:
    """Address and port in the setting `metrics`. Raises CniError 7 for what is none, or not loopback's."""
    host, _, port = address.rpartition(":")
    try:
        ip = ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
        number = int(port)
        if not 0 <= number <= 65535:
            raise ValueError(f"{number} is no port")
    except ValueError as error:
        raise CniError(
            INVALID_CONFIG, f"invalid metrics {address!r}: {error}; write 127.0.0.1:9472 or [::1]:9472"
        ) from error
    if not ip.is_loopback:
        raise CniError(
            INVALID_CONFIG,
            f"invalid metrics {address!r}: it is open to the network, and there is no authentication; listen on "
            "127.0.0.1 or [::1], and put a proxy in front for who is elsewhere",
        )
    return ip, number


def listening(address: str) -> socket.socket:
    """A socket there: who connects is answered once the agent's loop turns.

    Raises CniError 7 for an address that is not loopback's, 5 for one that cannot be had.
    """
    ip, number = place(address)
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((str(ip), number))
        listener.listen(MOST_CLIENTS)
    except OSError as error:
        listener.close()
        raise CniError(IO_FAILURE, f"metrics cannot listen on {address}: {error.strerror}; choose another") from error
    return listener
