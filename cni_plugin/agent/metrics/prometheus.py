"""The journal and the gauges as Prometheus has them: families of samples, and their text (exposition format 0.0.4).

    tulle_cni_request_duration_seconds_bucket{le="0.003",verb="ADD"} 12

prometheus_client renders. Its package imports an HTTP server, a client and TLS, 9 MiB and 28 ms, of which nothing is
used here; so its modules are loaded without running that `__init__` (1 MiB). A bare module stands in for the package
meanwhile and is taken away afterwards, so that whoever imports the package later gets the real one.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

from cni_plugin.agent.metrics.gauges import Gauges
from cni_plugin.agent.metrics.journal import Journal, Verb
from cni_plugin.client import VERSION
from cni_plugin.histogram import BOUNDS, Histogram

if TYPE_CHECKING:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Library(NamedTuple):
    """What is used of prometheus_client."""

    counter: type[CounterMetricFamily]
    gauge: type[GaugeMetricFamily]
    histogram: type[HistogramMetricFamily]
    process: ProcessCollector
    render: Callable[..., bytes]


class Page:
    """All of the agent's metrics, collected anew each time."""

    def __init__(self, journal: Journal, gauges: Gauges | None = None) -> None:
        self._journal = journal
        self._gauges = gauges
        self._library = load()

    def text(self) -> bytes:
        """The page. The renderer speaks OpenMetrics: a counter's family has no `_total`, and the end is marked."""
        lines = []
        counter = ""
        for line in self._library.render(self).decode().splitlines():
            match line.split(" ", 3):
                case ["#", "HELP", *_]:
                    held = line
                    continue
                case ["#", "TYPE", name, kind]:
                    counter = name if kind == "counter" else ""
                    if counter:
                        line = f"# TYPE {name}_total counter"
                        held = held.replace(f"# HELP {name} ", f"# HELP {name}_total ", 1)
                    lines.append(held)
                case ["#", "EOF"]:
                    continue
            lines.append(line)
        return ("\n".join(lines) + "\n").encode()

    def collect(self) -> Iterator[Metric]:
        """The families, as prometheus_client wants them of a registry."""
        yield from self._requests()
        yield from self._reconcile()
        if self._gauges is not None:
            yield from self._node(self._gauges)
        yield from self._agent()
        yield from self._library.process.collect()

    def _requests(self) -> Iterator[Metric]:
        make, verbs = self._library, self._journal.verbs
        total = make.counter("tulle_cni_requests", "CNI requests by verb and error code, 0 without error.",
                             labels=["verb", "code"])
        spans = make.histogram("tulle_cni_request_duration_seconds", "From the arrival of a request to its answer.",
                               labels=["verb"])
        steps = make.histogram("tulle_cni_step_duration_seconds", "Where the time of a request went.",
                               labels=["verb", "step"])
        for name, verb in verbs.items():
            for code, count in verb.codes.items():
                total.add_metric([name, code], count)
            _add(spans, [name], verb.durations)
            _add_steps(steps, name, verb)
        yield from (total, spans, steps)

    def _reconcile(self) -> Iterator[Metric]:
        make, journal = self._library, self._journal
        yield make.counter("tulle_reconcile_runs", "Passes over the node's state.", value=journal.passes.count)
        spans = make.histogram("tulle_reconcile_duration_seconds", "How long a pass took.", labels=[])
        _add(spans, [], journal.passes)
        yield spans
        repairs = make.counter("tulle_reconcile_repairs", "What was found broken and put right.", labels=["what"])
        problems = make.counter("tulle_reconcile_problems", "What could not be put right.", labels=["what"])
        for what, each in journal.repairs.items():
            repairs.add_metric([what], each.count - each.problems)
            problems.add_metric([what], each.problems)
        yield from (repairs, problems)

    def _node(self, gauges: Gauges) -> Iterator[Metric]:
        addresses = self._library.gauge("tulle_ipam_addresses", "Addresses of a network's range set.",
                                        labels=["network", "range_set", "state"])
        for pool in gauges.pools():
            addresses.add_metric([pool.network, str(pool.range_set), "used"], pool.used)
            addresses.add_metric([pool.network, str(pool.range_set), "free"], pool.free)
        yield addresses
        yield self._by("tulle_attachments", "Attachments of a network.", "network", gauges.attachments().items())
        yield self._by("tulle_bridge_ports", "Ports of a bridge, which holds 1023.", "bridge",
                       gauges.bridge_ports().items())
        yield self._library.gauge("tulle_queue_length", "Requests that wait for their turn.", value=gauges.queue())

    def _agent(self) -> Iterator[Metric]:
        yield self._by("tulle_agent_info", "The agent's release.", "version", [(VERSION, 1)])
        yield self._library.counter("tulle_log_lines_dropped", "Log lines that nobody took.",
                                    value=self._journal.dropped)

    def _by(self, name: str, text: str, label: str, values: Iterable[tuple[str, float]]) -> Metric:
        family = self._library.gauge(name, text, labels=[label])
        for key, value in values:
            family.add_metric([key], value)
        return family


def load() -> Library:
    """The parts of prometheus_client. Raises ImportError without it."""
    with _bare_package("prometheus_client"):
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
        from prometheus_client.openmetrics.exposition import generate_latest
        from prometheus_client.process_collector import ProcessCollector
    process = ProcessCollector(registry=None)
    return Library(CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, process, generate_latest)


def _add_steps(family: HistogramMetricFamily, verb: str, each: Verb) -> None:
    for step, histogram in each.steps.items():
        if histogram.count:
            _add(family, [verb, step], histogram)


def _add(family: HistogramMetricFamily, labels: list[str], histogram: Histogram) -> None:
    """Prometheus' buckets hold all that was at most so long."""
    buckets, below = [], 0
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), histogram.counts, strict=True):
        below += count
        buckets.append((bound, float(below)))
    family.add_metric(labels, buckets, histogram.total)


@contextmanager
def _bare_package(name: str) -> Iterator[None]:
    if name in sys.modules:
        yield
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.submodule_search_locations is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    module = ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations)
    module.__spec__ = spec
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]
