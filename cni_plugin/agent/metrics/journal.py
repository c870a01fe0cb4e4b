"""What the agent did: the last requests, how many there were of each kind, how long they took, and a log line of each.

    journal = Journal("info")
    journal.served(Served(verb="ADD", network="pods", seconds=0.0034, ...))
    journal.repaired("masquerade", operations=2, seconds=0.001)
    journal.snapshot()["verbs"]["ADD"]["p99"]

All of it is plain integers and lists in the agent's one thread: some microseconds a request, and memory that does not
grow however long the agent lives and whatever names it is sent.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Mapping

import msgspec

from cni_plugin.agent.metrics.log import Lines, Log
from cni_plugin.errors import NOT_AVAILABLE, TRY_AGAIN_LATER
from cni_plugin.histogram import Histogram
from cni_plugin.spec import VERBS

RECENT = 50
"""Requests that are remembered whole."""
MOST_KINDS = 32
"""Codes, steps and repairs that are counted by name; a delegated plugin may answer with any code there is."""
OTHER = "other"
STEPS = ("queue", "ipam", "netlink", "nft", "records", OTHER)

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_QUIET = ("VERSION", "STATUS")
"""What runtimes ask every few seconds: not worth a line while all is well."""


class Served(msgspec.Struct, frozen=True):
    """One request that was answered. `code`: the CNI error code, 0 without error; `at`: time.time() when it came;
    `seconds`: until it was answered, and by step in `steps`; `environ`: its CNI_* variables and TRACEPARENT."""

    verb: str
    name: str
    network: str
    container: str
    ifname: str
    code: int
    message: str
    at: float
    seconds: float
    steps: dict[str, float]
    environ: dict[str, str]
    stdin: str
    stdout: str


class Verb:
    """All requests of one verb: how long they took, in all and by step, and how they ended."""

    def __init__(self) -> None:
        self.durations = Histogram()
        self.steps = {name: Histogram() for name in STEPS}
        self.codes: dict[str, int] = {}

    def count(self, each: Served) -> None:
        """Count one."""
        self.durations.observe(each.seconds)
        _add(self.codes, str(each.code))
        for name, seconds in each.steps.items():
            self.steps[name if name in self.steps else OTHER].observe(seconds)

    def snapshot(self) -> dict[str, object]:
        """Plain values for JSON."""
        steps = {name: each.snapshot() for name, each in self.steps.items() if each.count}
        return {**self.durations.snapshot(), "codes": dict(self.codes), "steps": steps}


class Repair(msgspec.Struct):
    """All repairs of one kind: how many, of how many operations, how many of them failed, and how long they took."""

    count: int = 0
    operations: int = 0
    problems: int = 0
    seconds: float = 0.0


class Journal:
    """Kept by the agent's main thread alone. Nothing here waits or raises."""

    def __init__(self, level: str = "info", log: Log | None = None) -> None:
        self._log = log or Log(level)
        self._recent: deque[Served] = deque(maxlen=RECENT)
        self.started = time.time()
        self.total = 0
        self.verbs: dict[str, Verb] = {}
        self.repairs: dict[str, Repair] = {}
        self.passes = Histogram()

    @property
    def dropped(self) -> int:
        """Log lines that could not be written."""
        return self._log.dropped

    def served(self, each: Served) -> None:
        """A request was answered."""
        self.total += 1
        self._recent.append(each)
        verb = each.verb if each.verb in VERBS else OTHER
        self.verbs.setdefault(verb, Verb()).count(each)
        self._log.write(_level(each), each.message or ("served" if not each.code else "failed"), _fields(each))

    def repaired(self, what: str, operations: int, seconds: float, problem: str = "") -> None:
        """Something of the node was not as it should be and was put right, or not: then `problem` says why."""
        known = what if what in self.repairs or len(self.repairs) < MOST_KINDS else OTHER
        repair = self.repairs.setdefault(known, Repair())
        repair.count += 1
        repair.operations += operations
        repair.problems += bool(problem)
        repair.seconds += seconds
        level = "error" if problem else "warn" if operations else "debug"
        self._log.write(
            level, problem or "repaired", {"repair": what, "operations": operations, "ms": seconds * 1000}
        )

    def reconciled(self, seconds: float) -> None:
        """One pass over the node's state is done."""
        self.passes.observe(seconds)

    def say(self, level: str, message: str, **fields: object) -> None:
        """A line about the agent itself."""
        self._log.write(level, message, fields)

    def stderr(self) -> Lines:
        """What may take the place of sys.stderr: all that is said there is logged, too."""
        return Lines(self._log)

    def recent(self) -> list[Served]:
        """The last requests, oldest first, at most RECENT, without what is not known to be harmless in them."""
        from cni_plugin.harmless import Censor  # 5 ms, and only for somebody who asks

        censor = Censor()
        shown = [censor.served(each.environ, each.stdin, each.stdout, each.message) for each in self._recent]
        return [msgspec.structs.replace(each, **new) for each, new in zip(self._recent, shown, strict=True)]

    def snapshot(self) -> dict[str, object]:
        """All counters as plain values for JSON; buckets are those of `histogram.BOUNDS`."""
        return {
            "started": self.started,
            "at": time.time(),
            "total": self.total,
            "verbs": {name: each.snapshot() for name, each in self.verbs.items()},
            "repairs": {name: msgspec.to_builtins(each) for name, each in self.repairs.items()},
            "reconcile": self.passes.snapshot(),
            "dropped_lines": self.dropped,
        }


def trace(environ: Mapping[str, str]) -> dict[str, str]:
    """`trace_id` and `span_id` of the caller's span; {} when there is none that is valid.

    Source: W3C Trace Context, section 3.2: version ff and identifiers of zeros are invalid; version 00 has four parts,
    later ones may have more.
    """
    found = _TRACEPARENT.fullmatch(environ.get("TRACEPARENT", ""))
    if found is None:
        return {}
    version, trace_id, span_id, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return {}
    return {"trace_id": trace_id, "span_id": span_id}


def _level(each: Served) -> str:
    if each.code:
        return "warn" if each.code in (TRY_AGAIN_LATER, NOT_AVAILABLE) else "error"
    return "debug" if each.verb in _QUIET else "info"


def _fields(each: Served) -> dict[str, object]:
    return {
        "verb": each.verb,
        "network": each.network,
        "container": each.container,
        "ifname": each.ifname,
        "code": each.code,
        "ms": each.seconds * 1000,
        **{f"{name}_ms": seconds * 1000 for name, seconds in each.steps.items()},
        **trace(each.environ),
    }


def _add(counts: dict[str, int], key: str) -> None:
    if key not in counts and len(counts) >= MOST_KINDS:
        key = OTHER
    counts[key] = counts.get(key, 0) + 1
