"""An HTTP server that speaks the list and watch protocol of the Kubernetes API, and misbehaves when it is told to.

It keeps objects and the history of their changes, as an API server does: versions grow, a watch begins after the
version that it names, and one that is compacted away is answered with 410 Gone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Condition, Event, Thread
from types import TracebackType
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.unit.agent.sources.kube_objects import Object

NODES = "/api/v1/nodes"
CONFIG_MAPS = "/api/v1/namespaces/kube-tulle/configmaps"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-tulle/leases"


class Asked(NamedTuple):
    """A request that came in, and when."""

    at: float
    path: str
    params: dict[str, str]

    @property
    def watches(self) -> bool:
        return self.params.get("watch") == "true"


class Change(NamedTuple):
    """What a watch tells."""

    version: int
    kind: str
    path: str
    object: Object


class KubeServer:
    """`with` it, it listens on loopback; `url` and `kubeconfig` lead there. What it is to do wrong are attributes."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[Asked] = []
        self.patches: list[tuple[str, Object]] = []
        self.applied: list[Object] = []
        self.tokens: list[str] = []
        self.refuse = 0
        """The status that each request is answered with, 0 for none."""
        self.refuse_patches = 0
        self.refuse_leases = 0
        """The status that whatever is asked about Leases is answered with, 0 for none."""
        self.refuse_statuses = 0
        """The same of a Node's status alone."""
        self.hold_leases = 0.0
        """Seconds that a list of Leases takes."""
        self.expired_pages = 0
        """The pages of lists, beyond the first, that are refused with 410."""
        self.mute = False
        """Watches say nothing and do not end."""
        self.epoch = 0
        self.token = ""
        """The only token that is accepted."""
        self._now = Condition()
        self._over = Event()
        self._version = 100
        self._oldest = 0
        self._cuts = 0
        self._torn = False
        self._objects: dict[str, dict[str, Object]] = {NODES: {}, CONFIG_MAPS: {}, LEASES: {}}
        self._changes: list[Change] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"kube": self}))
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self.kubeconfig = folder / "kubeconfig"
        self.write_kubeconfig({})

    def __enter__(self) -> KubeServer:
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._over.set()
        self.cut()
        self._server.shutdown()
        self._server.server_close()

    def write_kubeconfig(self, user: Object) -> None:
        """As `kubectl config` would."""
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": self.url}}], "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }))

    def put(self, found: Object, path: str = NODES) -> None:
        """This object is new or another."""
        name = found["metadata"]["name"]
        with self._now:
            kind = "MODIFIED" if name in self._objects[path] else "ADDED"
            self._record(kind, path, found)

    def configure(self, **keys: str) -> None:
        """The ConfigMap has these keys, such as net_conf."""
        data = {f"{key.replace('_', '-')}.json": each for key, each in keys.items()}
        self.put({"kind": "ConfigMap", "metadata": {"name": "tulle-config"}, "data": data}, CONFIG_MAPS)

    def delete(self, name: str, path: str = NODES) -> None:
        """This object is gone."""
        with self._now:
            found = self._objects[path][name]
            self._record("DELETED", path, found)

    def bookmark(self) -> None:
        """Watches are told the newest version."""
        with self._now:
            self._version += 1
            mark = {"metadata": {"resourceVersion": str(self._version)}}
            for path in self._objects:
                self._tell(Change(self._version, "BOOKMARK", path, mark))

    def compact(self) -> None:
        """All history is forgotten; who watches is not told."""
        with self._now:
            self._oldest = self._version

    def forget_connections(self) -> None:
        """Those that are there are neither served nor ended any more; new ones are served."""
        self.epoch += 1

    def restore_backup(self) -> None:
        """All is as it was after the first two changes, and so is the version."""
        with self._now:
            self._changes = self._changes[:2]
            self._version = self._changes[-1].version
            for path in self._objects:
                found = (each.object for each in self._changes if each.path == path)
                self._objects[path] = {each["metadata"]["name"]: each for each in found}

    def break_off(self, code: int) -> None:
        """Watches are told an error in the stream, and end."""
        with self._now:
            self._version += 1
            for path in self._objects:
                self._tell(Change(self._version, "ERROR", path, {"kind": "Status", "code": code, "message": "because"}))

    def cut(self, *, torn: bool = False) -> None:
        """Watches are cut off, in the middle of a line if it is torn."""
        with self._now:
            self._cuts += 1
            self._torn = torn
            self._now.notify_all()

    def asked_for(self, path: str = NODES, *, watches: bool) -> list[Asked]:
        """The requests of that kind."""
        return [each for each in self.asked if each.path == path and each.watches == watches]

    def node(self, name: str) -> Object:
        """A node as it is now."""
        with self._now:
            return self._objects[NODES][name]

    def lease(self, name: str) -> Object | None:
        """A Lease as it is now."""
        with self._now:
            return self._objects[LEASES].get(name)

    def answer(self, asked: Asked) -> tuple[int, Object]:
        """A list or a page of one, as the real one words it."""
        with self._now:
            items = sorted(self._objects[asked.path].items())
            version = self._version
        version_then, _, begin = asked.params.get("continue", f"{version}:0").partition(":")
        if int(begin) and self.expired_pages:
            self.expired_pages -= 1
            return 410, {"kind": "Status", "code": 410, "message": "the continue token is too old"}
        wanted = asked.params.get("fieldSelector", "").removeprefix("metadata.name=")
        found = [each for name, each in items if not wanted or name == wanted]
        end = int(begin) + int(asked.params["limit"])
        rest = {"continue": f"{version_then}:{end}"} if end < len(found) else {}
        return 200, {"metadata": {"resourceVersion": version_then, **rest}, "items": found[int(begin):end]}

    def changes(self, asked: Asked) -> Iterator[bytes]:
        """The lines of a watch until its time is over; raises BrokenPipeError when it is to be cut."""
        until = time.monotonic() + float(asked.params["timeoutSeconds"])
        at, cuts, begun = int(asked.params["resourceVersion"]), self._cuts, self._version
        told = 0
        while True:
            with self._now:
                while self._cuts == cuts and len(self._changes) == told and time.monotonic() < until:
                    self._now.wait(until - time.monotonic())
                fresh, told = self._changes[told:], len(self._changes)
                if self._cuts > cuts:
                    if self._torn:
                        yield b'{"type":"MODIFIED","object":{"metadata":{"name":"to'
                    raise BrokenPipeError
            fresh = [each for each in fresh if each.path == asked.path]
            fresh = [each for each in fresh if each.version > (begun if each.kind == "ERROR" else at)]
            if self.mute:
                self.hold()
            yield from map(_line, fresh)
            if time.monotonic() >= until or any(each.kind == "ERROR" for each in fresh):
                return

    def hold(self) -> None:
        """Say nothing as long as there is a server."""
        self._over.wait()

    def is_gone(self, asked: Asked) -> bool:
        """Whether that version is compacted away."""
        return int(asked.params["resourceVersion"]) < self._oldest

    def patch(self, name: str, patch: Object) -> int:
        """A strategic merge patch of a node's status."""
        if self.refuse_patches or self.refuse_statuses:
            return self.refuse_patches or self.refuse_statuses
        found = json.loads(json.dumps(self.node(name)))
        notes = found["metadata"].setdefault("annotations", {})
        notes.update(patch.get("metadata", {}).get("annotations", {}))
        found["metadata"]["annotations"] = {key: each for key, each in notes.items() if each is not None}
        conditions = {each["type"]: each for each in found["status"].get("conditions", [])}
        conditions.update({each["type"]: each for each in patch.get("status", {}).get("conditions", [])})
        found["status"]["conditions"] = list(conditions.values())
        self.patches.append((name, patch))
        self.put(found)
        return 200

    def apply(self, name: str, lease: Object) -> int:
        """A server-side apply of a Lease, by the only one who ever does that."""
        if self.refuse_patches:
            return self.refuse_patches
        assert lease["metadata"]["name"] == name
        self.applied.append(lease)
        self.put(lease, LEASES)
        return 200

    def _record(self, kind: str, path: str, found: Object) -> None:
        self._version += 1
        found = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self._version)}}
        if kind == "DELETED":
            del self._objects[path][found["metadata"]["name"]]
        else:
            self._objects[path][found["metadata"]["name"]] = found
        self._tell(Change(self._version, kind, path, found))

    def _tell(self, change: Change) -> None:
        self._changes.append(change)
        self._now.notify_all()


def _line(change: Change) -> bytes:
    return json.dumps({"type": change.kind, "object": change.object}, ensure_ascii=False).encode() + b"\n"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    kube: KubeServer
    epoch = 0

    def setup(self) -> None:
        super().setup()
        self.epoch = self.kube.epoch

    def do_GET(self) -> None:
        asked = self._asked()
        if self._refused():
            return
        if asked.path == LEASES and not asked.watches:
            time.sleep(self.kube.hold_leases)
        if not asked.watches:
            self._reply(*self.kube.answer(asked))
        elif self.kube.is_gone(asked):
            self._reply(410, {"kind": "Status", "code": 410, "message": "too old resource version"})
        else:
            self._stream(asked)

    def do_PATCH(self) -> None:
        asked = self._asked()
        patch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return
        kind = self.headers["Content-Type"]
        if asked.path.startswith(LEASES):
            assert (kind, asked.params["force"]) == ("application/apply-patch+yaml", "true")
            self._reply(self.kube.apply(asked.path.split("/")[-1], patch), {"kind": "Status"})
            return
        assert kind == "application/strategic-merge-patch+json"
        assert asked.path.endswith("/status")
        self._reply(self.kube.patch(asked.path.split("/")[-2], patch), {"kind": "Status"})

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass

    def _hold_if_forgotten(self) -> None:
        if self.epoch != self.kube.epoch:
            self.kube.hold()
            raise BrokenPipeError

    def _asked(self) -> Asked:
        self._hold_if_forgotten()
        url = urlsplit(self.path)
        asked = Asked(time.monotonic(), url.path, {key: each[0] for key, each in parse_qs(url.query).items()})
        self.kube.asked.append(asked)
        return asked

    def _refused(self) -> bool:
        shown = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.kube.tokens.append(shown)
        leases = self.kube.refuse_leases if self.path.startswith(LEASES) else 0
        status = self.kube.refuse or leases or (401 if self.kube.token and shown != self.kube.token else 0)
        if status:
            self._reply(status, {"kind": "Status", "code": status, "message": "not now"})
        return bool(status)

    def _reply(self, status: int, body: Object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, asked: Asked) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            for line in self.kube.changes(asked):
                self._hold_if_forgotten()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True
