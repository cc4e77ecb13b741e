"""The four dashboards, as code: `make docs` writes them to dashboards/, which Grafana reads at its start.

    Fleet           who is ready, what is asked and answered, how fast, what is wrong
    Constellation   Φ, κ and phase of the kernels, and of all four together
    Learning        bits per byte by bundle, what the uplink carries, what is refused, training
    Streams         what waits, what is full, what died

Every metric of common/runtime/metrics.py is on one of them, or in a rule that one shows.
"""

from typing import Final

from common.constants import (
    DRIFT_LIMIT_RAD,
    KAPPA_TARGET,
    KAPPA_WINDOW_TOKENS,
    PACKET_MAX_BYTES,
    PHASE_BOUNDS,
    PHASES,
    PHI_COLLAPSE,
    PHI_WINDOW,
)
from deploy.grafana.panels import Steps, board, heat, lines, number, quantiles, row, states

RATE: Final = "[$__rate_interval]"
GONE: Final = [f'absent(up{{job="{service}"}})' for service in ("aggregator", "trainer", "publisher")]
COLOURS: Final = ("blue", "yellow", "green", "red")  # of the phases, in their order


def fleet() -> bytes:
    """Who is ready, what is asked and answered, how fast, what is wrong."""
    good_above_0: Steps = ((None, "red"), (1.0, "green"))
    bad_above_0: Steps = ((None, "green"), (1.0, "red"))
    return board(
        "qig-fleet",
        "Fleet",
        "Who is ready, what is asked and answered, how fast, and what is wrong.",
        row(
            "Now",
            4,
            number(
                "Edges ready",
                "Edges that answer queries now: a token was made within seconds.",
                "none",
                'sum(qig_ready{job="edge"}) or vector(0)',
                steps=good_above_0,
            ),
            number(
                "Services not ready",
                "Processes that run and do not do their work; /readyz of each says why.",
                "none",
                "count(qig_ready == 0) or vector(0)",
                steps=bad_above_0,
            ),
            number(
                "Services down",
                "Processes that Prometheus does not reach, and services of the centre of which it finds none.",
                "none",
                f"count(up == 0 or {' or '.join(GONE)}) or vector(0)",
                steps=bad_above_0,
            ),
            number(
                "Alerts",
                "Alerts that fire now, of any severity; docs/incidents.md says what to do about each.",
                "none",
                'count(ALERTS{alertstate="firing"}) or vector(0)',
                steps=bad_above_0,
            ),
            number(
                "Answers a second",
                "Queries answered by all edges; what was refused, or broken off at its deadline, is not counted.",
                "reqps",
                'sum(outcome:qig_queries:rate5m{outcome!~"refused|late"}) or vector(0)',
            ),
            number(
                "Bundle",
                "Version of the newest release that the publisher made.",
                "none",
                'max(qig_bundle_version{job="publisher"})',
            ),
        ),
        row(
            "Answers",
            8,
            lines(
                "Queries by outcome",
                "Queries finished a second: at a stop text or the end, at the wanted length, only read, cancelled, "
                "late (broken off at their deadline), refused.",
                "reqps",
                ("outcome:qig_queries:rate5m", "{{outcome}}"),
            ),
            lines(
                "Time to answer",
                "From taking a query to its answer, over all edges.",
                "s",
                *quantiles("le:qig_answer_seconds_bucket:rate5m"),
            ),
            lines(
                "Tokens a second",
                "Tokens that all edges read and write.",
                "short",
                ("direction:qig_tokens:rate5m", "{{direction}}"),
            ),
        ),
        row(
            "",
            8,
            lines(
                "Schedule",
                "Queries that are being answered, and that wait for a place, on all edges.",
                "short",
                ("sum by (state) (qig_queue)", "{{state}}"),
            ),
            lines(
                "Requests by HTTP",
                "Requests to the API a second, by route and class of status.",
                "reqps",
                (f"sum by (route, status) (rate(qig_http_requests_total{RATE}))", "{{route}} {{status}}"),
            ),
            lines(
                "Refused by HTTP",
                "Requests to the API that were refused, since the edges started, by reason.",
                "short",
                ("sum by (code) (qig_http_refused_total)", "{{code}}"),
            ),
            lines(
                "Time to first text by HTTP",
                "From a streaming request to the first text of its answer.",
                "s",
                *quantiles(f"sum by (le) (rate(qig_http_first_text_seconds_bucket{RATE}))"),
            ),
        ),
        row(
            "Services",
            8,
            states(
                "Ready",
                "Whether each process does its work: a gap is one that Prometheus did not reach.",
                ("min by (job, instance) (qig_ready)", "{{job}} {{instance}}"),
                ("no", "yes"),
                ("red", "green"),
            ),
            lines(
                "Bundles behind",
                "How many releases behind the publisher each edge is. Packets count on the newest three: from three "
                "behind on an edge's own do not.",
                "none",
                ("instance:qig_bundle_version:behind", "{{instance}}"),
                bands=((None, "transparent"), (2.0, "orange"), (3.0, "red")),
            ),
        ),
        row(
            "",
            8,
            lines(
                "Bundle by edge",
                "Version that each enrolled edge serves, as it last reported to the publisher.",
                "none",
                ("max by (node) (qig_node_bundle_version)", "{{node}}"),
                floor=None,
            ),
            states(
                "Ring",
                "Which edges get a release first, and which when those found it good. In a fleet of fewer than eight "
                "all are first.",
                ("max by (node) (qig_node_ring)", "{{node}}"),
                ("first", "rest"),
                ("purple", "blue"),
            ),
        ),
        row(
            "",
            8,
            lines(
                "Alerts that fire",
                "Alerts by name and severity; docs/incidents.md says what to do about each.",
                "none",
                ('count by (alertname, severity) (ALERTS{alertstate="firing"})', "{{alertname}} ({{severity}})"),
            ),
            lines(
                "Periodic jobs that did not end well",
                "Runs of services' periodic jobs a second that failed, or found something they need away. None in a "
                "healthy fleet.",
                "short",
                (f'sum by (tick, outcome) (rate(qig_ticks_total{{outcome!="done"}}{RATE}))', "{{tick}} {{outcome}}"),
            ),
        ),
    )


def constellation() -> bytes:
    """Φ, κ and phase of the kernels, and of all four together."""
    low, high = PHI_WINDOW
    foam, tacking, crystal = PHASE_BOUNDS
    ended, fracture = f"sum by (kernel) (rate(qig_answer_phases_total{{}}{RATE}))", f'{{phase="{PHASES[3]}"}}'
    phase = " or ".join((f'{n} * qig_phase{{phase="{name}"}}' for n, name in enumerate(PHASES)))
    return board(
        "qig-constellation",
        "Constellation",
        "Φ, κ and phase of the kernels, and of all four together.",
        row(
            "Kernels",
            9,
            lines(
                "Φ by kernel",
                "Integration of a kernel's state: the share of its one-step predictability that exists only because "
                f"its faculties act on each other. Healthy from {low} to {high}; below {PHI_COLLAPSE} a kernel falls "
                f"apart, above {high} no faculty keeps anything of its own. Mean over the edges; missing until 512 "
                "transitions were seen.",
                "none",
                ("kernel:qig_phi_ratio:avg", "{{kernel}}"),
                ceiling=1.0,
                bands=((None, "red"), (PHI_COLLAPSE, "orange"), (low, "green"), (high, "red")),
            ),
            lines(
                "κ by kernel",
                "Coupling: how strongly a kernel's state is held in one direction (von Mises-Fisher concentration "
                f"over 64 tokens). Bounds of the phases at {foam:g}, {tacking:g} and {crystal:g}; the set point is "
                f"{KAPPA_TARGET:g}. The edge in the middle. Loops read in the thousands, hence the logarithmic axis.",
                "none",
                ("kernel:qig_kappa:median", "{{kernel}}"),
                (f"vector({KAPPA_TARGET:g})", "set point"),
                log=True,
                bands=((None, "blue"), (foam, "yellow"), (tacking, "green"), (crystal, "red")),
            ),
        ),
        row(
            "",
            7,
            states(
                "Phase by kernel",
                f"Where κ places a kernel: {PHASES[0]} below {foam:g}, {PHASES[1]} to {tacking:g}, {PHASES[2]} to "
                f"{crystal:g}, {PHASES[3]} above. Where little or nothing is said, the query's text does. With several "
                "edges, the highest phase that any of them is in.",
                (f"max by (kernel) (sum without (phase) ({phase}))", "{{kernel}}"),
                PHASES,
                COLOURS,
            ),
            lines(
                "Answers in FRACTURE",
                f"Share of a kernel's answers of {KAPPA_WINDOW_TOKENS} tokens and more that ended there. Up to 0.7 is "
                "ordinary, above 0.9 it does not get out.",
                "percentunit",
                (f"{ended.format(fracture)} / {ended.format('')}", "{{kernel}}"),
                ceiling=1.0,
            ),
            lines(
                "p-value of Φ",
                "Probability of the same Φ without any coupling (a likelihood-ratio test); the least certain edge. "
                "Below 1e-12 it is drawn there.",
                "sci",
                ("clamp_min(max by (kernel) (qig_phi_p_value), 1e-12)", "{{kernel}}"),
                log=True,
            ),
        ),
        row(
            "All four together",
            8,
            lines(
                "Φ of the constellation",
                "Integration of what all four states hold together while they read the same text: the emergent one. "
                "The gate of DESIGN.md is 0.85. Mean over the edges, and each.",
                "none",
                ("fleet:qig_constellation_phi_ratio:avg", "mean"),
                ('qig_constellation_phi_ratio{job="edge"} >= 0', "{{instance}}"),
                ceiling=1.0,
                bands=((None, "transparent"), (high, "green")),
            ),
            lines(
                "Gain over the best kernel",
                "By how much the constellation's Φ is above that of the best kernel of the same edge. Not on the "
                "same text, so a hint; `qig validate` measures both on one stream.",
                "none",
                ("instance:qig_constellation_phi_ratio:gain", "{{instance}}"),
                floor=None,
                bands=((None, "red"), (0.0, "green")),
            ),
            lines(
                "Its p-value",
                "Probability of the constellation's Φ without any coupling; the least certain edge. Below 1e-12 it "
                "is drawn there.",
                "sci",
                ('clamp_min(max(qig_constellation_phi_p_value{job="edge"} >= 0), 1e-12)', "p"),
                log=True,
            ),
        ),
        row(
            "Places",
            8,
            lines(
                "Distance to the answering domain",
                "Fisher-Rao distance from a query to the domain that answered it; half of the queries lie nearer.",
                "radian",
                (f"histogram_quantile(0.5, sum by (le, kernel) (rate(qig_distance_rad_bucket{RATE})))", "{{kernel}}"),
            ),
            lines(
                "Margin",
                "How much farther the second domain lies than the first; half of the queries have less. Near 0 two "
                "kernels answer together.",
                "radian",
                (f"histogram_quantile(0.5, sum by (le, kernel) (rate(qig_margin_rad_bucket{RATE})))", "{{kernel}}"),
            ),
        ),
        row(
            "",
            8,
            lines(
                "Spread between nodes",
                "Mean distance of what different nodes brought to a domain from its mean, in the last batch with two "
                "nodes there: how alike what they read is.",
                "radian",
                ("max by (domain) (qig_spread_rad)", "{{domain}}"),
            ),
            lines(
                "Drift",
                "How far each kernel's home basin moved from one release to the next; the publisher refuses a "
                f"candidate from {DRIFT_LIMIT_RAD} on. 0 while memories alone are merged.",
                "radian",
                ('max by (kernel) (qig_drift_rad{job="publisher"})', "{{kernel}}"),
                bands=((None, "transparent"), (DRIFT_LIMIT_RAD, "red")),
                ceiling=2 * DRIFT_LIMIT_RAD,
            ),
        ),
    )


def learning() -> bytes:
    """Bits per byte by bundle, what the uplink carries, what is refused, training."""
    return board(
        "qig-learning",
        "Learning",
        "Bits per byte by bundle, what the uplink carries, what is refused, and training.",
        row(
            "Is it getting better?",
            9,
            lines(
                "Held-out bits per byte",
                "On each domain's held-out text, of the newest release (marked); lower is better.",
                "suffix: bit/B",
                ('max by (domain) (qig_held_out_bits_per_byte{job="publisher"})', "{{domain}}"),
                floor=None,
            ),
            lines(
                "Fresh text, bits per byte",
                "What the edges last learned from, read before it was learned: by the bundle, and by what answers, "
                "which is the bundle and what the edge has read since.",
                "suffix: bit/B",
                ("avg by (domain) (qig_bits_per_byte)", "{{domain}}, bundle"),
                ("avg by (domain) (qig_local_bits_per_byte)", "{{domain}}, here"),
                floor=None,
            ),
            lines(
                "Bundle version",
                "The newest release, and what the edges serve.",
                "none",
                ('max(qig_bundle_version{job="publisher"})', "released"),
                ('max(qig_bundle_version{job="edge"})', "newest edge"),
                ('min(qig_bundle_version{job="edge"})', "oldest edge"),
                floor=None,
            ),
        ),
        row(
            "The uplink",
            8,
            lines(
                "Bytes by node",
                "Bytes of sleep packets a second that each enrolled node sends, over the last hour.",
                "Bps",
                ("node:qig_node_packet_bytes:rate1h", "{{node}}"),
            ),
            heat(
                "Packet size",
                f"Sleep packets sent by the edges, by size with the signature; {PACKET_MAX_BYTES:,} bytes is the hard "
                "limit.",
                "bytes",
                f'sum by (le) (increase(qig_packet_bytes_bucket{{job="edge"}}{RATE}))',
            ),
            lines(
                "Packets by what became of them",
                "Sleep packets since the services started: sent and heard of by the edges, accepted and refused by "
                "the aggregator.",
                "short",
                ("sum by (outcome) (qig_packets_total)", "{{outcome}}"),
            ),
        ),
        row(
            "",
            8,
            lines(
                "Refusals by reason",
                "Sleep packets that the aggregator refused since it started.",
                "short",
                ('sum by (code) (qig_packets_total{job="aggregator", outcome="refused"}) > 0', "{{code}}"),
            ),
            lines(
                "Packets by node",
                "Sleep packets of each enrolled node since the aggregator started.",
                "short",
                ("sum by (node, outcome) (qig_node_packets_total)", "{{node}} {{outcome}}"),
            ),
            lines(
                "Distance by node",
                "Of a node's packets in the last batch that had some, the farthest from the centre of its domain.",
                "radian",
                ("max by (node) (qig_node_distance_rad)", "{{node}}"),
            ),
        ),
        row(
            "Bundles",
            8,
            lines(
                "Packets in a batch",
                "How many packets a batch is cut of; half of the batches have fewer.",
                "short",
                (f"histogram_quantile(0.5, sum by (le) (rate(qig_batch_packets_bucket{RATE})))", "half"),
            ),
            lines(
                "Candidates",
                "Candidates that the publisher released or refused since it started. `qig bundle why` gives the "
                "reasons.",
                "short",
                ("sum by (verdict) (qig_candidates_total)", "{{verdict}}"),
            ),
            lines(
                "Verdicts of the edges",
                "What edges said of bundles since they started: applied, found good, refused, gone back from.",
                "short",
                ('sum by (verdict) (qig_bundle_applied_total{job="edge"})', "{{verdict}}"),
            ),
            lines(
                "On trial and taken back",
                "Edges whose bundle has not proved good yet, and releases taken back since the publisher started.",
                "short",
                ('sum(qig_bundle_on_trial{job="edge"})', "edges on trial"),
                ("sum by (had) (qig_releases_taken_back_total)", "taken back from {{had}}"),
            ),
        ),
        row(
            "Training",
            8,
            lines(
                "Time at this batch",
                "How long the trainer works on its batch, and since its last checkpoint; nothing while it has none.",
                "s",
                ("time() - (qig_batch_began_time_seconds > 0)", "at the batch"),
                (
                    "time() - (qig_checkpoint_time_seconds > 0 and qig_batch_began_time_seconds > 0)",
                    "since a checkpoint",
                ),
            ),
            lines(
                "Training steps",
                "Steps that kernels were trained since the trainer started; none where memories alone are merged.",
                "short",
                ('sum(qig_train_steps_total{job="trainer"})', "steps"),
            ),
            lines(
                "Guards",
                "How often guards acted since the trainer started: restore undoes training, renew lets it go on.",
                "short",
                ("sum by (guard) (qig_guard_events_total)", "{{guard}}"),
            ),
            lines(
                "GPU",
                "How busy each GPU of the trainer's machine is, and the share of its memory in use; nothing without "
                "one.",
                "percentunit",
                ("max by (gpu) (qig_gpu_busy_ratio)", "busy, {{gpu}}"),
                ("gpu:qig_gpu_memory_bytes:ratio", "memory, {{gpu}}"),
            ),
        ),
    )


def streams() -> bytes:
    """What waits, what is full, what died."""
    return board(
        "qig-streams",
        "Streams",
        "What waits in the broker, what is full, what died.",
        row(
            "Work",
            8,
            lines(
                "Waiting",
                "Entries of each work stream that nobody has finished: not given to anybody yet, or in work.",
                "short",
                ("stream:qig_stream_waiting:max", "{{stream}}"),
            ),
            lines(
                "Finished a second",
                "Entries that were done, refused or buried, by stream.",
                "short",
                ("stream:qig_handled_finished:rate5m", "{{stream}}"),
            ),
            lines(
                "Full",
                "Entries of a work stream, of as many as it takes. At 1 whoever would add to it waits.",
                "percentunit",
                ("max by (stream) (qig_stream_fill_ratio)", "{{stream}}"),
                ceiling=1.0,
                bands=((None, "transparent"), (0.5, "orange"), (0.9, "red")),
            ),
        ),
        row(
            "",
            8,
            lines(
                "Oldest in work",
                "How long the longest held entry has not been touched; after 5 s another consumer takes it.",
                "s",
                ("max by (stream) (qig_stream_oldest_idle_seconds)", "{{stream}}"),
            ),
            lines(
                "Outbox",
                "Messages that handlers sent and the relay has not carried to their stream yet.",
                "short",
                ("max by (stream) (qig_stream_outbox)", "{{stream}}"),
            ),
        ),
        row(
            "How it ends",
            8,
            lines(
                "Deliveries by how they ended",
                "Deliveries of work a second. unavailable: put off, because something it needs is away; gone: "
                "somebody else had finished it.",
                "short",
                (f"sum by (stream, outcome) (rate(qig_handled_total{RATE}))", "{{stream}} {{outcome}}"),
            ),
            lines(
                "Dead letters",
                "Entries that were put aside with their reason, and lie there: `qig dead list`.",
                "short",
                ("max by (stream) (qig_stream_dead)", "{{stream}}"),
            ),
            lines(
                "Dead letters by reason",
                "Entries that ended as a dead letter since the services started.",
                "short",
                ("sum by (stream, code) (qig_dead_letters_total) > 0", "{{stream}} {{code}}"),
            ),
        ),
        row(
            "",
            8,
            lines(
                "Broadcasts read",
                "Entries of broadcasts that were read a second, by how that ended.",
                "short",
                (f"sum by (stream, outcome) (rate(qig_followed_total{RATE}))", "{{stream}} {{outcome}}"),
            ),
            lines(
                "Published twice",
                "Publications that did nothing since the services started, because their id was there before: what "
                "was handed in again after a fault, and counted once.",
                "short",
                ("sum by (stream) (qig_duplicates_total)", "{{stream}}"),
            ),
            lines(
                "Groups made anew",
                "Consumer groups that were lost and made anew since the services started: the broker began without "
                "its data. None in a healthy fleet.",
                "short",
                ("sum by (stream) (qig_groups_remade_total)", "{{stream}}"),
            ),
        ),
    )


def render() -> dict[str, bytes]:
    """Every dashboard, by file name."""
    return {f"{each.__name__}.json": each() for each in (fleet, constellation, learning, streams)}
