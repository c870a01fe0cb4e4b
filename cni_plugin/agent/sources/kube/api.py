"""The Kubernetes API, as much of it as we use: list in pages, watch, apply a Lease, and patch the status of a Node.

lightkube builds the requests, with what `access` found. What it would decode whole, we read as raw JSON: a Node object
is 10 kB, of which we want a few words. Its own watch waits for ever on a peer that died without a word, goes on
at once after each failure, and splits lines where Go does not; so lines are split here, and `follow` has the patience.

    api = Api("/etc/kubernetes/kubelet.conf", patience=15)
    for page in api.pages(NODES, 250): ...
    for event in api.watch(NODES, page.version, 300, grace=10): ...

Promises: no answer is larger in memory than `MOST_BYTES`; a peer that is gone is noticed within 20 s (TCP
keepalive), one that is alive but silent when its time is over; no error text has a token in it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from typing import NamedTuple

import httpx2
import msgspec
from lightkube import ConfigError
from lightkube.config.client_adapter import ConnectionParams
from lightkube.core.generic_client import BasicRequest
from lightkube.resources import coordination_v1, core_v1
from lightkube.types import PatchType

from cni_plugin import decoding
from cni_plugin.agent.sources.kube import access
from cni_plugin.agent.sources.kube.errors import ApiError, Gone, Refused, short

MOST_BYTES = 64 << 20
_GONE = 410
_PASSING = (401, 408, 429)
"""Refusals that say nothing of our rights: credentials may be renewed, and a busy server have time again."""
_CONNECT = 5.0


class Kind(NamedTuple):
    """Which objects: lightkube's class, the namespace if they have one, and the only name that is wanted."""

    resource: type[core_v1.Node] | type[core_v1.ConfigMap] | type[coordination_v1.Lease]
    namespace: str | None = None
    name: str = ""


NODES = Kind(core_v1.Node)


def leases(namespace: str) -> Kind:
    """All Leases of a namespace."""
    return Kind(coordination_v1.Lease, namespace)


def config_map(namespace: str, name: str) -> Kind:
    """One ConfigMap. RBAC's `resourceNames` match a list or watch that selects this name."""
    return Kind(core_v1.ConfigMap, namespace, name)


class Page(NamedTuple):
    """A part of a list, by name; the version is that of the whole."""

    items: tuple[tuple[str, msgspec.Raw], ...]
    version: str


class Event(NamedTuple):
    """A change: `what` is ADDED, MODIFIED, DELETED or BOOKMARK, and the object's name and version."""

    what: str
    name: str
    version: str
    object: msgspec.Raw


class _Meta(msgspec.Struct, frozen=True):
    name: str = ""
    version: str = msgspec.field(default="", name="resourceVersion")
    rest: str = msgspec.field(default="", name="continue")


class _List(msgspec.Struct, frozen=True):
    meta: _Meta = msgspec.field(name="metadata")
    items: tuple[msgspec.Raw, ...] | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: msgspec.Raw


class _Object(msgspec.Struct, frozen=True):
    """An object's name and version; or a Status, which says what went wrong."""

    meta: _Meta = msgspec.field(default=_Meta(), name="metadata")
    code: int = 0
    message: str = ""


class Api:
    """One connection, for one thread; others may call `stop` and `is_stranded`, which alone raise no ApiError."""

    def __init__(self, kubeconfig: str, patience: float) -> None:
        """`patience`: the seconds that an answer may take."""
        config = access.config(kubeconfig)
        self.server = access.host(config)
        self._patience = patience
        self._response: httpx2.Response | None = None
        params = ConnectionParams(timeout=httpx2.Timeout(patience, connect=min(patience, _CONNECT)), trust_env=False)
        try:
            self._client = access.Client(params, config, field_manager="tulle")
        except ConfigError as error:
            raise ApiError(f"{kubeconfig}: {error}; use token, tokenFile, or client-certificate and -key") from error
        except (ssl.SSLError, ValueError) as error:
            raise ApiError(f"{kubeconfig}: a certificate or key of it cannot be used: {short(str(error))}") from error

    def pages(self, kind: Kind, size: int) -> Iterator[Page]:
        """All objects, so many at a time, all as of one moment. Raises Gone when that took too long."""
        rest = ""
        while True:
            request = self._list(kind, {"limit": str(size), "continue": rest or None})
            answer = decoding.decode_as(_List, self._ask(request))
            yield Page(tuple((_about(each).meta.name, each) for each in answer.items or ()), answer.meta.version)
            rest = answer.meta.rest
            if not rest:
                return

    def watch(self, kind: Kind, version: str, seconds: int, grace: float) -> Iterator[Event | None]:
        """Changes since that version for about so many seconds; the first is None: the server has agreed.

        A server that says nothing until `grace` seconds after that is given up. Raises Gone.
        """
        times = {"timeoutSeconds": str(seconds), "allowWatchBookmarks": "true"}
        request = self._list(kind, {"resourceVersion": version, **times}, watch=True)
        request.timeout = httpx2.Timeout(self._patience, connect=min(self._patience, _CONNECT), read=seconds + grace)
        with closing(self._send(request)) as response:
            yield None
            for line in _lines(response.iter_bytes()):
                yield _event(line)

    def apply(self, namespace: str, name: str, lease: Mapping[str, object]) -> None:
        """Have a Lease say this and nothing else of ours, whether there is one or not (server-side apply, 1.16+)."""
        headers = {"Content-Type": PatchType.APPLY.value}
        params = {"force": "true"}
        self._ask(self._client.prepare_request(
            "patch", coordination_v1.Lease, lease, name, namespace=namespace, params=params, headers=headers
        ))

    def patch(self, node: str, patch: Mapping[str, object]) -> None:
        """A strategic merge patch of a Node through its status: annotations and conditions go there, its spec not."""
        headers = {"Content-Type": PatchType.STRATEGIC.value}
        self._ask(self._client.prepare_request("patch", core_v1.NodeStatus, patch, node, headers=headers))

    def stop(self) -> None:
        """Wake up the thread that waits for the server, with an error."""
        found = self._socket()
        if found is not None:
            with suppress(OSError):
                socket.socket.shutdown(found, socket.SHUT_RDWR)  # not TLS's, which would touch the reader's state

    def is_stranded(self) -> bool:
        """Whether the connection begins at an address that this machine has no more: no answer can reach it."""
        found = self._socket()
        if found is None:
            return False
        try:
            address, _, *scope = found.getsockname()
            with socket.socket(found.family, socket.SOCK_DGRAM) as probe:
                probe.bind((address, 0, *scope))
        except OSError:
            return True
        return False

    def _socket(self) -> socket.socket | None:
        response = self._response
        stream = response.extensions.get("network_stream") if response is not None else None
        found = stream.get_extra_info("socket") if stream is not None else None
        return found if isinstance(found, socket.socket) else None

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()  # type: ignore[no-untyped-call]

    def _list(self, kind: Kind, params: dict[str, str | None], *, watch: bool = False) -> BasicRequest:
        selector = {"fieldSelector": f"metadata.name={kind.name}"} if kind.name else {}
        return self._client.prepare_request(
            "list", kind.resource, namespace=kind.namespace, watch=watch, params={**params, **selector}
        )

    def _ask(self, request: BasicRequest) -> bytes:
        with closing(self._send(request)) as response:
            return _whole(response)

    def _send(self, request: BasicRequest) -> httpx2.Response:
        """The response, whose body is still to be read."""
        response: httpx2.Response = self._client.send(self._client.build_adapter_request(request), stream=True)
        self._response = response
        if response.is_success:
            return response
        with closing(response):
            raise _refusal(request, response)


class Line:
    """The connection of a thread that lives on when one is lost. `held`: the one that there is, for other threads."""

    def __init__(self, connect: Callable[[], Api]) -> None:
        self._connect = connect
        self.held: Api | None = None

    def api(self) -> Api:
        """It, made if there is none. Raises ApiError."""
        if self.held is None:
            self.held = self._connect()
        return self.held

    def close(self) -> None:
        """Let go of it: the next one reads the configuration, and the token, anew."""
        api, self.held = self.held, None
        if api is not None:
            api.close()


def _about(data: bytes | msgspec.Raw) -> _Object:
    return decoding.decode_as(_Object, data)


def _event(line: bytes) -> Event:
    found = decoding.decode_as(_Event, line)
    about = _about(found.object)
    if found.type != "ERROR":
        return Event(found.type, about.meta.name, about.meta.version, found.object)
    if about.code == _GONE:
        raise Gone(about.message)
    raise ApiError(f"the API server broke off: {short(about.message)} ({about.code})")


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines; the beginning of one that is never ended is not told."""
    begun = bytearray()
    for chunk in chunks:
        begun += chunk
        if b"\n" in chunk:
            *whole, rest = bytes(begun).split(b"\n")
            begun = bytearray(rest)
            yield from filter(None, whole)
        elif len(begun) > MOST_BYTES:
            raise ApiError(f"the API server sent a line of more than {MOST_BYTES >> 20} MiB")


def _whole(response: httpx2.Response) -> bytes:
    chunks, size = [], 0
    for chunk in response.iter_bytes():
        chunks.append(chunk)
        size += len(chunk)
        if size > MOST_BYTES:
            raise ApiError(f"the API server answered with more than {MOST_BYTES >> 20} MiB")
    return b"".join(chunks)


def _refusal(request: BasicRequest, response: httpx2.Response) -> ApiError:
    """What the server says why, and what to do about it."""
    said = b"".join(_first(response.iter_bytes(), 64 << 10))
    try:
        message = _about(said).message
    except msgspec.DecodeError:
        message = ""
    code = response.status_code
    if code == _GONE:
        return Gone(message)
    told = f"{request.method} {request.url} is answered with {code} {short(message)}".strip()
    kind = Refused if 400 <= code < 500 and code not in _PASSING else ApiError
    return kind(f"{told}{_remedy(request, code)}")


def _remedy(request: BasicRequest, code: int) -> str:
    """After the server's words, which are shortened: this is not."""
    if code == 401:
        return ": the token or certificate is not accepted"
    if code == 403 and str(request.url).endswith("/status"):
        return ": apply conf/kubernetes/node-status.yaml (chart: nodeStatus=true), which allows it"
    if code == 403:
        return ": apply the RBAC rules of conf/kubernetes/tulle.yaml; kubelet's own credentials do not do"
    return ""


def _first(chunks: Iterable[bytes], most: int) -> Iterator[bytes]:
    size = 0
    for chunk in chunks:
        yield chunk
        size += len(chunk)
        if size > most:
            return
