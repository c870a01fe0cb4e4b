"""etcd v3 as a source needs it: one call, one transaction, one stream of changes, whichever endpoint answers.

The only importer of etcd3gw, which speaks to the JSON gateway that every etcd has (3.4 and later). Promises: a call
tries each endpoint once, from the one that answered last on; a stream that has died is noticed after `SILENCE` seconds
at the latest, whether the server, its leader or the network in between is gone; each error is a sentence that names the
endpoint. Nothing goes through a proxy of the environment. An instance belongs to one thread, but for `interrupt`.

    POST /v3/kv/range     {"key": "L2NvcmVvcy5jb20vbmV0d29yay8=", "range_end": ...}      keys and values in base64
    POST /v3/watch        {"create_request": {"key": ..., "start_revision": 42}}         a JSON object a line, for ever
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from etcd3gw.client import Etcd3Client
from etcd3gw.exceptions import ConnectionFailedError, ConnectionTimeoutError, Etcd3Exception

from cni_plugin import decoding
from cni_plugin.agent.sources.lease.schema import Stored
from cni_plugin.conf.reading import invalid
from cni_plugin.errors import CniError
from cni_plugin.harmless import Censor

PATIENCE = 3.0
"""Seconds to wait for a connection, and for the answer to a call."""
SILENCE = 20.0
"""Seconds without a word on a stream after which it is opened anew, at the cost of one small request."""
PORT = 2379
NEEDS_LEADER = {"Grpc-Metadata-hasleader": "true"}
"""Else a member that lost the others keeps the stream open and says nothing (etcd's api/v3rpc/rpctypes)."""
_LONGEST_WORDS = 300
"""Of one endpoint, whatever it answers: what the others say is to be heard as well."""
NOT_FOUND, UNAUTHENTICATED = 5, 16
"""Codes of gRPC: a lease that is over; a token that is."""
_FINAL = frozenset({3, NOT_FOUND, 7, 9, UNAUTHENTICATED})
"""Codes that another endpoint would answer with, too: what was asked for is wrong or not allowed."""

Json = dict[str, Any]


class Access(NamedTuple):
    """Where etcd is and who we are to it; files and names "" where they are not needed."""

    endpoints: Sequence[str]
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    username: str = ""
    password: str = ""


class EtcdError(Exception):
    """No endpoint did what was asked; the text says which, and why. `code` is gRPC's, 0 where there is none."""

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class Compacted(Exception):
    """The changes since that revision are not kept any more, or the store is another than it was: list again."""


class Change(NamedTuple):
    """A key that was written, or deleted when it is `gone`; `stored.modified` is the revision at which it was."""

    stored: Stored
    gone: bool


class Gateway:
    """See above. Raises CniError 7 for endpoints that are none."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._clients = [_client(each, access) for each in access.endpoints]
        self._token: dict[str, str] = {}
        self._at = 0
        self._lock = Lock()
        self._response: Any = None
        self._over = False

    def call(self, path: str, **body: object) -> Json:
        """The answer of the first endpoint that gives one. Raises EtcdError."""
        complaints = []
        for _ in self._clients:
            client = self._clients[self._at]
            try:
                return self._authenticated(client, path, body)
            except EtcdError as error:
                if error.code in _FINAL:
                    raise
                complaints.append(str(error)[:_LONGEST_WORDS])
                self._at = (self._at + 1) % len(self._clients)
        raise EtcdError("; ".join(complaints))

    def listed(self, prefix: str) -> tuple[int, list[Stored]]:
        """The revision of the store, and all keys that begin with `prefix`. Raises EtcdError."""
        answer = self.call("/kv/range", **span(prefix))
        return int(answer["header"]["revision"]), stored_in(answer)

    def changes(self, prefix: str, revision: int) -> Iterator[tuple[Change, ...]]:
        """What happens to keys that begin with `prefix` from `revision` on; () at first, once the stream stands.

        Raises EtcdError when the stream ends or is silent for too long, Compacted.
        """
        self.call("/kv/range", **span(prefix), count_only=True)  # by whom it is answered soon, and who knows the leader
        client = self._clients[self._at]
        try:
            yield from self._stream(client, prefix, revision)
        except Etcd3Exception as error:
            raise EtcdError(_words(client, error)) from error
        except (OSError, ValueError, AttributeError) as error:  # what requests raises, and urllib3 cut short
            raise EtcdError(f"{client.base_url}: the stream of changes ended: {error}") from error
        finally:
            self._at = (self._at + 1) % len(self._clients)

    def interrupt(self) -> None:
        """End the stream from another thread, and let no other begin."""
        with self._lock:
            self._over = True
            if self._response is not None:
                self._response.raw.shutdown()

    def reconnect(self) -> None:
        """Go on by new connections, from another thread: those that stand began at an address that is ours no more."""
        with self._lock:
            if self._response is not None:
                self._response.raw.shutdown()
        for each in self._clients:
            each.session.close()

    def _authenticated(self, client: Etcd3Client, path: str, body: Mapping[str, object]) -> Json:
        """A token is over five minutes after its last use by default, and is then asked for again."""
        if not self._access.username:
            return _post(client, path, body, {})
        if self._token:
            try:
                return _post(client, path, body, self._token)
            except EtcdError as error:
                if error.code != UNAUTHENTICATED:
                    raise
        who = {"name": self._access.username, "password": self._access.password}
        self._token = {"Authorization": str(_post(client, "/auth/authenticate", who, {})["token"])}
        return _post(client, path, body, self._token)

    def _stream(self, client: Etcd3Client, prefix: str, revision: int) -> Iterator[tuple[Change, ...]]:
        request = {"create_request": {**span(prefix), "start_revision": str(revision)}}
        response = client.session.post(
            client.get_url("/watch"), json=request, stream=True, timeout=(PATIENCE, SILENCE),
            headers={**NEEDS_LEADER, **self._token},
        )
        with response:
            with self._lock:
                self._response = response
                if self._over:
                    return
            try:
                for line in response.iter_lines():
                    if line:
                        yield _changes(decoding.decode(line), revision, client.base_url)
            finally:
                with self._lock:
                    self._response = None


def span(prefix: str) -> Json:
    """A request's `key` and `range_end` for all keys that begin with `prefix`."""
    return {"key": coded(prefix), "range_end": coded(prefix[:-1] + chr(ord(prefix[-1]) + 1))}


def coded(text: str | bytes) -> str:
    """Bytes as the gateway wants them."""
    return b64encode(text.encode() if isinstance(text, str) else text).decode()


def stored_in(answer: Mapping[str, Any]) -> list[Stored]:
    """The keys in the answer to a range request."""
    return [_stored(each) for each in answer.get("kvs", ())]


def _stored(raw: Mapping[str, Any]) -> Stored:
    return Stored(
        b64decode(raw["key"]).decode(errors="replace"), b64decode(raw.get("value", "")),
        int(raw.get("create_revision", 0)), int(raw.get("mod_revision", 0)), int(raw.get("lease", 0)),
    )


def _changes(line: Json, since: int, where: str) -> tuple[Change, ...]:
    """A line of the stream. Raises EtcdError, Compacted."""
    if "error" in line:
        raise EtcdError(f"{where}: {line['error'].get('message', line['error'])}")
    result = line["result"]
    if "compact_revision" in result:
        raise Compacted(f"{where}: changes before revision {result['compact_revision']} are not kept")
    if result.get("canceled"):
        raise EtcdError(f"{where}: {result.get('cancel_reason') or 'the stream of changes was cancelled'}")
    revision = int(result["header"]["revision"])
    if revision < since - 1:
        raise Compacted(f"{where}: the store is at revision {revision} and was at {since - 1}: it was put back")
    return tuple(Change(_stored(each["kv"]), each.get("type") == "DELETE") for each in result.get("events", ()))


def server_at(endpoint: str) -> tuple[str, str, int]:
    """Scheme, host and port of an endpoint. Raises CniError 7."""
    try:
        parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        host, port = parts.hostname, parts.port
    except ValueError:  # its text has what could be a part of a password
        raise _no_endpoint(endpoint) from None
    if parts.scheme not in ("http", "https") or not host or parts.username or parts.password:
        raise _no_endpoint(endpoint)
    return parts.scheme, host, port or PORT


def _client(endpoint: str, access: Access) -> Etcd3Client:
    scheme, host, port = server_at(endpoint)
    client = Etcd3Client(
        host, port, scheme, access.ca_file or None, access.key_file or None, access.cert_file or None, timeout=PATIENCE
    )
    client.session.trust_env = False
    return client


def _no_endpoint(endpoint: str) -> CniError:
    shown = Censor().text(endpoint)
    remedy = "write it as http://192.0.2.9:2379 or https://192.0.2.9:2379, and who asks as username and password"
    return invalid("source.endpoints", shown, remedy)


def _post(client: Etcd3Client, path: str, body: Mapping[str, object], headers: Mapping[str, str]) -> Json:
    """Raises EtcdError: without a code when another endpoint may do better."""
    try:
        answer = client.post(client.get_url(path), json=body, headers=dict(headers))
    except (ConnectionFailedError, ConnectionTimeoutError) as error:
        raise EtcdError(_words(client, error)) from error
    except Etcd3Exception as error:
        raise EtcdError(_words(client, error), _code(error)) from error
    except (OSError, ValueError) as error:
        raise EtcdError(f"{client.base_url}: {error}") from error
    if not isinstance(answer, dict):
        raise EtcdError(f"{client.base_url}: this is no etcd: it answered {answer!r}")
    return answer


def _code(error: Etcd3Exception) -> int:
    try:
        return int(decoding.decode(error.detail_text or "")["code"])
    except (ValueError, KeyError, TypeError):
        return 0


def _words(client: Etcd3Client, error: Etcd3Exception) -> str:
    try:
        said = decoding.decode(error.detail_text or "")["error"]
    except (ValueError, KeyError, TypeError):
        said = error.detail_text or str(error) or type(error).__name__
    return f"{client.base_url}: {said}"
