"""Every metric of the system, declared once. docs/metrics.md is made from this list.

Names: prefix qig_, base units, _total for counters, _ratio for 0..1; kappa has no unit. Labels are bounded: kernels,
phases, streams, codes, outcomes, domains, routes, and at the centre the nodes that are enrolled there. Never a client,
an id or a text.

A stream label is one of streams.GROUPS or a broadcast's name, and an answers stream is "qig:answers".
"""

import math
from collections.abc import Container, Iterable
from contextlib import suppress
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from common.constants import KAPPA_WINDOW_TOKENS, PACKET_MAX_BYTES, PHASES, Phase
from common.runtime.streams import ANSWERS
from common.wire.messages import Figure

REGISTRY: Final = CollectorRegistry()
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
DECLARED: Final[list[tuple[str, str, tuple[str, ...], str]]] = []  # name, kind, labels, what it is


def _counter(name: str, text: str, *labels: str) -> Counter:
    DECLARED.append((name, "counter", labels, text))
    return Counter(name, text, labels, registry=REGISTRY)


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    DECLARED.append((name, "gauge", labels, text))
    return Gauge(name, text, labels, registry=REGISTRY)


def _histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
    DECLARED.append((name, "histogram", labels, text))
    return Histogram(name, text, labels, buckets=buckets, registry=REGISTRY)


disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series a counter, which nobody reads

READY = _gauge("qig_ready", "1 while this service does its work, as /readyz says, else 0")

# What a state is.
PHI = _gauge("qig_phi_ratio", "Integration of a kernel's state, 0..1; absent while it is not known", "kernel")
PHI_P_VALUE = _gauge("qig_phi_p_value", "Probability of that integration without any coupling", "kernel")
CONSTELLATION_PHI = _gauge(
    "qig_constellation_phi_ratio", "Integration of what all four states hold together, the emergent one, 0..1"
)
CONSTELLATION_PHI_P_VALUE = _gauge(
    "qig_constellation_phi_p_value", "Probability of that integration without any coupling"
)
KAPPA = _gauge("qig_kappa", "Coupling of a kernel's state: von Mises-Fisher concentration", "kernel")
PHASE = _gauge("qig_phase", "1 for the phase a kernel was last found in, 0 for the others", "kernel", "phase")
ANSWER_PHASES = _counter(
    "qig_answer_phases_total",
    f"Answers of {KAPPA_WINDOW_TOKENS} tokens and more, where none of the prompt's is left in kappa's window, by the "
    "phase they ended in",
    "kernel",
    "phase",
)
DISTANCE = _histogram(
    "qig_distance_rad", "Fisher-Rao distance of a query to the domain that answered it",
    (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3, 1.6, 2.0, 2.5, 3.15), "kernel",
)  # fmt: skip
MARGIN = _histogram(
    "qig_margin_rad", "How much farther from a query the second domain lies than the first",
    (0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.3, 3.15), "kernel",
)  # fmt: skip

# Queries and answers.
QUERIES = _counter("qig_queries_total", "Queries finished, by how: late is broken off at its deadline", "outcome")
QUEUE = _gauge("qig_queue", "Queries in an edge's schedule: being answered, or waiting for a place", "state")
ANSWER_SECONDS = _histogram(
    "qig_answer_seconds", "Time from taking a query to its answer",
    (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)  # fmt: skip
TOKENS = _counter("qig_tokens_total", "Tokens read and written", "direction")
FIRST_TEXT_SECONDS = _histogram(
    "qig_http_first_text_seconds", "Time from a streaming request to the first text of its answer",
    (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)  # fmt: skip
HTTP_REQUESTS = _counter(
    "qig_http_requests_total", "Requests to the API by route and class of status", "route", "status"
)
HTTP_REFUSED = _counter("qig_http_refused_total", "Requests to the API that were refused, by reason", "code")
BITS_PER_BYTE = _gauge(
    "qig_bits_per_byte", "Prequential bits per byte of a domain's fresh text, under the bundle", "domain"
)
LOCAL_BITS_PER_BYTE = _gauge(
    "qig_local_bits_per_byte",
    "The same under what answers here: the bundle and what this edge has read since",
    "domain",
)

# Streams.
LAG = _gauge("qig_stream_lag", "Entries that nobody in the group has been given yet", "stream")
PENDING = _gauge("qig_stream_pending", "Entries given to a consumer and not finished", "stream")
FILL = _gauge("qig_stream_fill_ratio", "Entries of a work stream, of as many as it takes", "stream")
OLDEST_IDLE = _gauge("qig_stream_oldest_idle_seconds", "How long the longest held entry has not been touched", "stream")
OUTBOX = _gauge("qig_stream_outbox", "Messages sent by handlers and not yet carried to their stream", "stream")
DEAD = _gauge("qig_stream_dead", "Dead letters that wait for a person", "stream")
DEAD_LETTERS = _counter("qig_dead_letters_total", "Entries that ended as a dead letter, by reason", "stream", "code")
HANDLED = _counter("qig_handled_total", "Deliveries by how they ended", "stream", "outcome")
DUPLICATES = _counter("qig_duplicates_total", "Publications that did nothing: their id was there before", "stream")
FOLLOWED = _counter("qig_followed_total", "Broadcast entries read, by how that ended", "stream", "outcome")
GROUPS_REMADE = _counter("qig_groups_remade_total", "Consumer groups found lost and made anew", "stream")
TICKS = _counter("qig_ticks_total", "Periodic jobs by how they ended", "tick", "outcome")

# What the fleet learns.
PACKET_BYTES = _histogram(
    "qig_packet_bytes", "Size of a sleep packet, signature included",
    (256.0, 512.0, 1024.0, 1536.0, 2048.0, 3072.0, float(PACKET_MAX_BYTES)),
)  # fmt: skip
PACKETS = _counter("qig_packets_total", "Sleep packets by what became of them", "outcome", "code")
NODE_PACKETS = _counter(
    "qig_node_packets_total", "Sleep packets of each enrolled node by what became of them", "node", "outcome"
)
NODE_DISTANCE = _gauge(
    "qig_node_distance_rad",
    "Of an enrolled node's packets in the last batch that had some, the farthest from the centre of its domain",
    "node",
)
NODE_BYTES = _counter("qig_node_packet_bytes_total", "Bytes of all sleep packets of an enrolled node", "node")
NODE_BUNDLE = _gauge(
    "qig_node_bundle_version", "Version that an enrolled edge serves, by what it last reported", "node"
)
NODE_RING = _gauge("qig_node_ring", "0 for an enrolled edge that gets a release first, 1 for the rest", "node")
SPREAD = _gauge(
    "qig_spread_rad",
    "Mean distance of what different nodes brought to a domain from its mean, in the last batch with two nodes there",
    "domain",
)
BATCH_PACKETS = _histogram(
    "qig_batch_packets", "Packets in a batch", (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
)
CANDIDATES = _counter("qig_candidates_total", "Candidates by the gate's verdict", "verdict")
TRUST_ENDS = _gauge(
    "qig_trust_ends_time_seconds",
    "When what the offline keys signed ends, and no list of bundles is believed, since 1970; 0 but at the publisher",
)
BUNDLE_VERSION = _gauge("qig_bundle_version", "Version of the bundle in use")
BUNDLE_APPLIED = _counter("qig_bundle_applied_total", "Verdicts of an edge on bundles", "verdict")
BUNDLE_ON_TRIAL = _gauge("qig_bundle_on_trial", "1 while the bundle in use has not proved good here, else 0")
TAKEN_BACK = _counter(
    "qig_releases_taken_back_total", "Releases taken back for what edges said, by who had them", "had"
)
HELD_OUT = _gauge("qig_held_out_bits_per_byte", "Bits per byte on a domain's held-out text", "domain")
DRIFT = _gauge(
    "qig_drift_rad",
    "How far a kernel's home basin lies from that of the bundle before, by a candidate's figures",
    "kernel",
)
GUARD_EVENTS = _counter("qig_guard_events_total", "Guards that acted", "guard")
TRAIN_STEPS = _counter("qig_train_steps_total", "Training steps made")
BATCH_BEGAN = _gauge(
    "qig_batch_began_time_seconds", "When the batch that is worked on was begun, since 1970; 0 while there is none"
)
CHECKPOINT = _gauge(
    "qig_checkpoint_time_seconds", "When training last kept a checkpoint of that batch, since 1970; 0 for never"
)
JOB_LIMIT = _gauge(
    "qig_job_limit_seconds", "How long a job at RunPod may take; 0 where the trainer works on its batches itself"
)
GPU_BUSY = _gauge("qig_gpu_busy_ratio", "Share of the last second in which a GPU computed; absent without one", "gpu")
GPU_MEMORY = _gauge("qig_gpu_memory_bytes", "Memory of a GPU, used and in all; absent without one", "gpu", "kind")


def show_phi(kernel: str, phi: float | None, p_value: float | None) -> None:
    """Set integration and its p-value of one kernel, or take both away: an unknown phi is no number."""
    for gauge, value in ((PHI, phi), (PHI_P_VALUE, p_value)):
        if value is None:
            with suppress(KeyError):  # it was not shown
                gauge.remove(kernel)
        else:
            gauge.labels(kernel).set(value)


def show_constellation_phi(phi: float | None, p_value: float | None) -> None:
    """Set both of the constellation basin; NaN while they are not known: these gauges have no label to remove, and 0
    would be a figure.
    """
    for gauge, value in ((CONSTELLATION_PHI, phi), (CONSTELLATION_PHI_P_VALUE, p_value)):
        gauge.set(math.nan if value is None else value)


def show_phase(kernel: str, phase: Phase) -> None:
    """Set the state set of one kernel: exactly one phase reads 1."""
    for name in PHASES:
        PHASE.labels(kernel, name).set(1.0 if name == phase else 0.0)


show_constellation_phi(None, None)  # not known yet


def show_figures(figures: Iterable[Figure]) -> None:
    """Set what a candidate, or the bundle that it became, was measured to be; of other domains nothing stays."""
    gauges = {"bits_per_byte": HELD_OUT, "drift_rad": DRIFT}
    for gauge in gauges.values():
        gauge.clear()
    for figure in figures:
        if figure.name in gauges and figure.domain is not None:
            gauges[figure.name].labels(figure.domain).set(figure.after)


def show_only(gauge: Gauge, domains: Container[str]) -> None:
    """Take away what a gauge by domain shows of others than these: domains end, and others are opened."""
    shown = [sample.labels["domain"] for family in gauge.collect() for sample in family.samples]
    for domain in shown:
        if domain not in domains:
            gauge.remove(domain)


def begin(counter: Counter, *rows: tuple[str, ...]) -> None:
    """Show these label values from the start, as 0: Prometheus sees no increase where a series begins with a 1."""
    for row in rows:
        counter.labels(*row)


def stream_label(stream: str) -> str:
    """A stream's name as a label: bounded, whatever the clients are called."""
    return "qig:answers" if stream.startswith(ANSWERS) else stream


def exposition() -> bytes:
    """What /metrics serves."""
    return generate_latest(REGISTRY)


def markdown() -> str:
    """docs/metrics.md."""
    head = "# Metrics\n\nEvery service serves these at `/metrics`. Made from `common/runtime/metrics.py`.\n\n"
    table = "| name | kind | labels | what |\n|---|---|---|---|\n"
    return (
        head
        + table
        + "".join(f"| `{n}` | {kind} | {', '.join(ls) or '-'} | {text} |\n" for n, kind, ls, text in DECLARED)
    )
