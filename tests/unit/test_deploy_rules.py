"""Recording rules and alerts: each alert fires above its threshold and not at it, and has its place in the playbook."""

import inspect
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from promql import DEPLOY, RULE_FILES, RULES, SAMPLES

from common.constants import PHI_COLLAPSE
from common.runtime import metrics
from common.runtime.settings import SERVICES
from common.runtime.streams import GROUPS, OUTBOX_MAX_ENTRIES
from services.aggregator.bases import BASE_WINDOW
from services.cli import app as cli
from services.cli import home as places
from services.publisher.app.releases import DAY_S, WARN_DAYS

ROOT = Path(__file__).parents[2]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDS = {rule["record"]: rule for rule in RULES if "record" in rule}
PLAYBOOK = (ROOT / "docs" / "incidents.md").read_text(encoding="utf-8")
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="rules are not run: no promtool on the path; Debian's package prometheus brings it"
)

EVERY_S = 30
CENTRE = [service for service in SERVICES if service != "edge"]
LONG = "x2000"  # of samples: eight hours, which is more than any rule looks back


UNKNOWN = "NaN " * 100  # it is no number to promtool's "x" either


def flat(value: float) -> str:
    return f"{value}{LONG}"


def steps(before: float, after: float, at: int) -> str:
    """One value for so many minutes, then another."""
    return f"{before}x{at * 60 // EVERY_S} {after}{LONG}"


def growing(per_minute: float) -> str:
    return f"0+{per_minute * EVERY_S / 60:g}{LONG}"


def late(at: int, by: float) -> str:
    """0 for so many minutes, then once more by so much: a counter that counted something."""
    return f"0x{at * 60 // EVERY_S} {by:g}{LONG}"


def refused(of: float, per_minute: float, late: float = 0, cancelled: float = 0) -> dict[str, str]:
    """Shares of the queries: refused, broken off at their deadline, cancelled by whoever asked."""
    shares = {"refused": of, "late": late, "cancelled": cancelled, "stop": 1 - of - late - cancelled}
    return {
        f'qig_queries_total{{outcome="{outcome}", job="edge"}}': growing(share * per_minute)
        for outcome, share in shares.items()
    }


def burst(number: float) -> dict[str, str]:
    """So many refusals at once, an hour after the aggregator began, of a kind that it had none of."""
    return packets(0, 0) | {'qig_packets_total{job="aggregator", outcome="refused", code="replayed"}': late(60, number)}


def packets(refused: float, accepted: float) -> dict[str, str]:
    return {
        'qig_packets_total{job="aggregator", outcome="refused", code="clock"}': growing(refused / 60),
        'qig_packets_total{job="aggregator", outcome="accepted", code=""}': growing(accepted / 60),
    }


def waiting(stream: str, number: float, finished: str) -> dict[str, str]:
    return {
        f'qig_stream_lag{{stream="{stream}"}}': flat(0),
        f'qig_stream_pending{{stream="{stream}"}}': flat(number),
        f'qig_handled_total{{stream="{stream}", outcome="done"}}': finished,
        f'qig_handled_total{{stream="{stream}", outcome="unavailable"}}': growing(10),
    }


def up(**others: str) -> dict[str, str]:
    """The centre, and what is given by its job; "" for no target of it."""
    jobs = dict.fromkeys(CENTRE, flat(1)) | others
    return {f'up{{job="{job}", instance="{job}"}}': values for job, values in jobs.items() if values}


def begun(stream: str, at: int) -> dict[str, str]:
    """One that was done long ago, and one that is in work from then on."""
    return waiting(stream, 1, late(2, 1)) | {f'qig_stream_pending{{stream="{stream}"}}': late(at, 1)}


def phases(kernel: str, share: float, each_half_hour: float, instance: str = "a") -> dict[str, str]:
    """So many answers within half an hour, and how many of them ended in FRACTURE."""
    name = f'qig_answer_phases_total{{instance="{instance}", kernel="{kernel}", phase="%s"}}'
    return {
        name % "FRACTURE": growing(share * each_half_hour / 30),
        name % "CRYSTAL": growing((1 - share) * each_half_hour / 30),
        name % "FOAM": flat(0),
    }


def kappa(value: float, answers: float = 1) -> dict[str, str]:
    return {
        'qig_kappa{instance="a", kernel="heart"}': flat(value),
        'qig_kappa{instance="b", kernel="heart"}': flat(value),
        'qig_kappa{instance="c", kernel="heart"}': flat(9000),
        'qig_distance_rad_count{instance="a", kernel="heart"}': growing(answers),
    }


def answered(each_ten_minutes: float, until: int | None = None) -> dict[str, str]:
    """So many answers of a kernel at one edge within ten minutes, and none from a minute on."""
    step = each_ten_minutes * EVERY_S / 600
    number = 2000 if until is None else until * 60 // EVERY_S
    return {'qig_distance_rad_count{instance="a", kernel="heart"}': f"0+{step:g}x{number} {number * step:g}{LONG}"}


def together(phi: float, best: float) -> dict[str, str]:
    return {
        'qig_constellation_phi_ratio{instance="a", job="edge"}': flat(phi),
        'qig_constellation_phi_ratio{instance="b", job="edge"}': UNKNOWN,
        'qig_phi_ratio{instance="a", kernel="heart"}': flat(best),
        'qig_phi_ratio{instance="a", kernel="vocab"}': flat(best - 0.2),
    }


def versions(released: float, served: float) -> dict[str, str]:
    return {
        'qig_bundle_version{instance="p", job="publisher"}': flat(released),
        'qig_bundle_version{instance="a", job="edge"}': flat(served),
        'qig_bundle_version{instance="b", job="edge"}': flat(released),
    }


def trust_ends(at_s: float) -> dict[str, str]:
    return {
        'qig_trust_ends_time_seconds{job="publisher"}': flat(at_s),
        'qig_trust_ends_time_seconds{job="edge"}': flat(0),
    }


def candidates(refused: float, released: float) -> dict[str, str]:
    return {
        'qig_candidates_total{verdict="refused"}': late(60, refused),
        'qig_candidates_total{verdict="released"}': late(60, released),
    }


def died(stream: str, code: str, by: float, at: int) -> dict[str, str]:
    return {f'qig_dead_letters_total{{stream="{stream}", code="{code}"}}': late(at, by)}


def refusal(stream: str, code: str) -> dict[str, str]:
    """Of what has an alert of its own."""
    return {f'qig_stream_dead{{stream="{stream}"}}': steps(3, 4, 10), **died(stream, code, 1, 10)}


def training(began_s: float, checkpoint_s: float, job_limit_s: float | None = 0) -> dict[str, str]:
    """job_limit_s: None as of a release that did not show it."""
    limit = {} if job_limit_s is None else {'qig_job_limit_seconds{job="trainer"}': flat(job_limit_s)}
    return limit | {
        'qig_batch_began_time_seconds{job="trainer"}': flat(began_s),
        'qig_checkpoint_time_seconds{job="trainer"}': flat(checkpoint_s),
        'qig_batch_began_time_seconds{job="edge"}': flat(0),
        'qig_checkpoint_time_seconds{job="edge"}': flat(0),
        'qig_job_limit_seconds{job="edge"}': flat(0),
    }


EDGE = 'qig_ready{job="edge", instance="%s"}'
UP = 'up{job="edge", instance="%s"}'
GONE_AFTER_5 = f"1x{5 * 60 // EVERY_S} stale"
HEART = 'qig_phi_ratio{kernel="heart", instance="a"}'
FILL = 'qig_stream_fill_ratio{stream="qig:packets"}'
OUTBOX = 'qig_stream_outbox{stream="qig:batches"}'
DEAD = 'qig_stream_dead{stream="qig:queries"}'
REMADE = 'qig_groups_remade_total{stream="qig:packets"}'
TAKEN_BACK = 'qig_releases_taken_back_total{had="ring"}'
REFUSALS = {"qig:packets": "clock", "qig:candidates": "candidate_refused"}
FAULTS = ("never_finished", "handler_failed", "blob_missing", "no_body", "no_stream", "wrong_type")

# Alert, minutes after which it is looked at, what Prometheus has seen by then, whether it fires.
CASES: list[tuple[str, int, dict[str, str], bool]] = [
    ("NoEdgeReady", 4, {EDGE % "a": flat(0), EDGE % "b": flat(0)}, True),
    ("NoEdgeReady", 4, {'up{job="trainer"}': flat(1)}, True),
    ("NoEdgeReady", 4, {EDGE % "a": flat(0), EDGE % "b": flat(1)}, False),
    ("NoEdgeReady", 4, {EDGE % "a": steps(1, 0, 3)}, False),
    ("ServiceDown", 4, up(), False),
    ("ServiceDown", 4, up(trainer=flat(0)), True),
    ("ServiceDown", 4, up(trainer=steps(1, 0, 3) + " 1x9"), False),
    ("ServiceDown", 4, up(edge=flat(0)), True),
    *(("ServiceDown", 4, up(**{job: ""}), True) for job in CENTRE),
    *(("ServiceDown", 8, up(**{job: GONE_AFTER_5}), True) for job in CENTRE),
    *(("ServiceDown", 5, up(**{job: GONE_AFTER_5}), False) for job in CENTRE),
    ("ServiceDown", 8, up() | {'up{job="aggregator", instance="second"}': GONE_AFTER_5}, False),
    ("EdgeGone", 10, {UP % "a": flat(1), UP % "b": steps(1, 0, 5)}, True),
    ("EdgeGone", 10, {UP % "a": flat(1), UP % "b": GONE_AFTER_5}, True),
    ("EdgeGone", 10, {UP % "a": flat(1), UP % "b": flat(1)}, False),
    ("EdgeGone", 30, {UP % "a": flat(1), UP % "b": steps(1, 0, 5)}, False),
    ("NotReady", 8, {'qig_ready{job="trainer"}': flat(0)}, True),
    ("NotReady", 8, {'qig_ready{job="trainer"}': flat(1)}, False),
    ("NotReady", 8, {'qig_ready{job="trainer"}': steps(1, 0, 4)}, False),
    ("QueriesRefused", 15, refused(0.06, 60), True),
    ("QueriesRefused", 15, refused(0.05, 60), False),
    ("QueriesRefused", 15, refused(0.5, 2), False),
    ("QueriesRefused", 15, refused(0, 60, late=0.06), True),
    ("QueriesRefused", 15, refused(0, 60, late=0.05), False),
    ("QueriesRefused", 15, refused(0.03, 60, late=0.03), True),
    ("QueriesRefused", 15, refused(0.02, 60, late=0.03, cancelled=0.5), False),
    ("ConsumerDead", 15, waiting("qig:queries", 3, late(2, 5)), True),
    ("ConsumerDead", 15, waiting("qig:packets", 1, late(2, 5)), True),
    ("ConsumerDead", 15, waiting("qig:queries", 3, growing(1)), False),
    ("ConsumerDead", 15, waiting("qig:queries", 0, late(2, 5)), False),
    ("ConsumerDead", 15, waiting("qig:candidates", 1, late(2, 5)), False),
    ("LearningStuck", 90, waiting("qig:candidates", 1, late(2, 5)), True),
    ("LearningStuck", 90, waiting("qig:batches", 1, flat(0)), True),
    ("LearningStuck", 90, waiting("qig:batches", 1, late(60, 1)), False),
    ("LearningStuck", 90, waiting("qig:batches", 0, late(2, 5)), False),
    ("LearningStuck", 181, begun("qig:batches", 120), True),
    ("LearningStuck", 179, begun("qig:batches", 120), False),
    ("LearningStuck", 90, waiting("qig:batches", 1, "_x20 " + late(50, 1)), False),
    ("StreamFilling", 8, {FILL: flat(0.51)}, True),
    ("StreamFilling", 8, {FILL: flat(0.5)}, False),
    ("StreamFull", 4, {FILL: flat(0.91)}, True),
    ("StreamFull", 4, {FILL: flat(0.9)}, False),
    ("OutboxFull", 8, {OUTBOX: flat(5001)}, True),
    ("OutboxFull", 8, {OUTBOX: flat(5000)}, False),
    ("DeadLetters", 30, {DEAD: steps(3, 4, 10)}, True),
    ("DeadLetters", 30, {DEAD: flat(3)}, False),
    ("DeadLetters", 90, {DEAD: steps(3, 4, 10)}, False),
    ("DeadLetters", 30, {DEAD: flat(100_000), **died("qig:queries", "garbage", 1, 10)}, True),
    ("DeadLetters", 30, {DEAD: flat(100_000), **died("qig:queries", "garbage", 0, 10)}, False),
    ("DeadLetters", 90, {DEAD: flat(100_000), **died("qig:queries", "garbage", 1, 10)}, False),
    *(("DeadLetters", 30, refusal(stream, code), False) for stream, code in REFUSALS.items()),
    *(("DeadLetters", 30, died(stream, code, 1, 10), True) for stream in REFUSALS for code in FAULTS),
    *(("DeadLetters", 30, died(stream, code, 0, 10), False) for stream in REFUSALS for code in FAULTS),
    ("GroupRemade", 30, {REMADE: late(10, 1)}, True),
    ("GroupRemade", 30, {REMADE: flat(1)}, False),
    ("GroupRemade", 80, {REMADE: late(10, 1)}, False),
    ("PhiCollapse", 40, {HEART: steps(0.65, 0.64, 10), **answered(3.1)}, True),
    ("PhiCollapse", 40, {HEART: steps(0.8, 0.65, 10), **answered(3.1)}, False),
    ("PhiCollapse", 40, {HEART: steps(0.64, 0.4, 10), **answered(3.1)}, False),
    ("PhiCollapse", 40, {HEART: steps(0.8, 0.4, 30), **answered(3.1)}, False),
    ("PhiCollapse", 40, {HEART: steps(0.8, 0.4, 10), **answered(2.9)}, False),
    *(("PhiCollapse", at, {HEART: steps(0.8, 0.4, 10), **answered(600, until=10)}, False) for at in (20, 26, 40)),
    ("FractureStuck", 60, phases("heart", 0.91, 600) | phases("percept", 0, 6000), True),
    ("FractureStuck", 60, phases("heart", 0.9, 600) | phases("percept", 0.9, 6000), False),
    ("FractureStuck", 60, phases("heart", 0.89, 600) | phases("percept", 0.89, 6000), False),
    ("FractureStuck", 60, phases("heart", 1, 10.1) | phases("percept", 0.7, 600), True),
    ("FractureStuck", 60, phases("heart", 1, 9.9) | phases("percept", 0.7, 600), False),
    ("FractureStuck", 60, phases("heart", 1, 9) | phases("heart", 1, 9, instance="b"), False),
    ("FractureStuck", 60, phases("heart", 0.7, 60) | phases("percept", 0, 0), False),
    ("FractureStuck", 14, phases("heart", 1, 600), False),
    ("KappaOutOfBand", 70, kappa(9.9), True),
    ("KappaOutOfBand", 70, kappa(300.1), True),
    ("KappaOutOfBand", 70, kappa(10), False),
    ("KappaOutOfBand", 70, kappa(300), False),
    ("KappaOutOfBand", 70, kappa(5, answers=0.3), False),
    ("NoEmergence", 30, together(0.7, 0.7) | answered(3.1), True),
    ("NoEmergence", 30, together(0.71, 0.7) | answered(3.1), False),
    ("NoEmergence", 30, together(0.7, 0.7) | answered(2.9), False),
    *(("NoEmergence", at, together(0.7, 0.7) | answered(600, until=10), False) for at in (20, 26, 40)),
    (
        "NoEmergence",
        30,
        {'qig_constellation_phi_ratio{instance="a", job="edge"}': UNKNOWN, HEART: flat(0.9), **answered(3.1)},
        False,
    ),
    ("PacketRejectRatio", 90, packets(10.1, 89.9), True),
    ("PacketRejectRatio", 90, packets(9.9, 90.1), False),
    ("PacketRejectRatio", 90, packets(4.9, 4.9), False),
    ("PacketRejectRatio", 75, burst(6), True),
    ("PacketRejectRatio", 75, burst(5), False),
    ("BundleSkew", 20, versions(7, 5), True),
    ("BundleSkew", 20, versions(7, 6), False),
    ("BundleSkew", 20, {'qig_bundle_version{instance="a", job="edge"}': flat(1)}, False),
    ("BundleRolledBack", 30, {TAKEN_BACK: late(10, 1)}, True),
    ("BundleRolledBack", 30, {TAKEN_BACK: flat(1)}, False),
    ("BundleRolledBack", 80, {TAKEN_BACK: late(10, 1)}, False),
    ("TrustEnds", 10, trust_ends(WARN_DAYS * DAY_S + 599), True),
    ("TrustEnds", 10, trust_ends(WARN_DAYS * DAY_S + 600), False),
    ("TrustEnds", 10, trust_ends(0), False),
    ("CandidatesRefused", 120, candidates(3, 0), True),
    ("CandidatesRefused", 120, candidates(2, 0), False),
    ("CandidatesRefused", 120, candidates(3, 1), False),
    ("TrainerStuck", 40, training(120, 0), True),
    ("TrainerStuck", 40, training(120, 300), True),
    ("TrainerStuck", 40, training(590, 0), True),
    ("TrainerStuck", 40, training(600, 0), False),
    ("TrainerStuck", 40, training(120, 600), False),
    ("TrainerStuck", 40, training(0, 120), False),
    ("TrainerStuck", 100, training(599, 0, job_limit_s=3600), True),
    ("TrainerStuck", 100, training(600, 0, job_limit_s=3600), False),
    ("TrainerStuck", 70, training(60, 0, job_limit_s=3600), False),
    ("TrainerStuck", 40, training(599, 0, job_limit_s=None), True),
    ("TrainerStuck", 40, training(600, 0, job_limit_s=None), False),
    ("GuardRestored", 30, {'qig_guard_events_total{guard="restore-heart"}': late(10, 1)}, True),
    ("GuardRestored", 30, {'qig_guard_events_total{guard="renew-heart"}': late(10, 1)}, False),
    ("GuardRestored", 80, {'qig_guard_events_total{guard="restore-heart"}': late(10, 1)}, False),
]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    assert PROMTOOL is not None
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)


@needs_promtool
def test_promtool_finds_nothing_wrong_with_the_configuration_and_the_rules() -> None:
    for done in (
        run("check", "config", str(DEPLOY / "prometheus" / "prometheus.yml")),
        run("check", "config", str(DEPLOY / "prometheus" / "local.yml")),
        run("check", "rules", *map(str, RULE_FILES)),
    ):
        assert done.returncode == 0, done.stderr
        assert "rules found" in done.stdout or "rule files found" in done.stdout


def test_a_prometheus_beside_qig_up_reads_where_a_fleet_in_the_repository_writes_its_services() -> None:
    config = DEPLOY / "prometheus" / "local.yml"
    (job,) = yaml.safe_load(config.read_text(encoding="utf-8"))["scrape_configs"]
    files = [(config.parent / file).resolve() for (found,) in [job["file_sd_configs"]] for file in found["files"]]
    homes = [inspect.signature(command).parameters["home"].default for command in (cli.up, cli.demo)]
    assert files == [ROOT / home / places.PROMETHEUS for home in homes]


def alone(alert: str, folder: Path) -> list[str]:
    """Files of an alert and the names that it reads: promtool works out every rule there is each half minute."""
    read = {name for name in RECORDS if name in ALERTS[alert]["expr"]}  # none of which reads another
    files = []
    for path in RULE_FILES:
        groups = yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for group in groups:
            group["rules"] = [
                rule for rule in group["rules"] if rule.get("alert") == alert or rule.get("record") in read
            ]
        files.append(folder / path.name)
        files[-1].write_text(yaml.safe_dump({"groups": groups}), encoding="utf-8")
    return list(map(str, files))


@needs_promtool
@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_fires_beyond_its_threshold_and_not_at_it(alert: str, tmp_path: Path) -> None:
    firing = f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) > bool 0 or vector(0)'
    tests = [
        {
            "interval": f"{EVERY_S}s",
            "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [
                {
                    "expr": firing,
                    "eval_time": f"{minutes}m",
                    "exp_samples": [{"labels": "{}", "value": float(fires)}],
                }
            ],
        }
        for name, minutes, series, fires in CASES
        if name == alert
    ]
    file, rules = tmp_path / "rules.test.yml", alone(alert, tmp_path)
    settings = {"rule_files": rules, "evaluation_interval": f"{EVERY_S}s", "tests": tests}
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    done = run("test", "rules", str(file))
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_finds_nothing_wrong_with_what_a_service_serves() -> None:
    assert PROMTOOL is not None
    metrics.HELD_OUT.labels("d").set(1.0)
    done = subprocess.run([PROMTOOL, "check", "metrics"], input=metrics.exposition(), capture_output=True, check=False)
    wrong = [line for line in done.stderr.splitlines() if b"bits_per_byte" not in line]  # bits are what they are
    assert (done.stdout, wrong) == (b"", [])
    assert b"qig_held_out_bits_per_byte" in done.stderr


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    for fires in (True, False):
        assert {name for name, _, _, each in CASES if each is fires} == set(ALERTS)


@pytest.mark.parametrize("name", RECORDS)
def test_a_recorded_name_says_its_level_its_metric_and_what_was_done(name: str) -> None:
    level, metric, operations = name.split(":")
    assert SAMPLES[name] - {"job"} == ({level} if level != "fleet" else set())
    assert metric.startswith("qig_")
    assert operations


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_grave_it_is_what_is_wrong_what_to_do_and_where_to_read_on(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")
    assert rule["annotations"]["runbook_url"] == f"docs/incidents.md#{name.lower()}"


def test_the_playbook_has_each_alert_under_its_name_with_its_severity_in_the_order_of_the_rules() -> None:
    told = re.findall(r"^### (\w+)\n\n\*(\w+)\*", PLAYBOOK, re.MULTILINE)
    assert told == [(name, rule["labels"]["severity"]) for name, rule in ALERTS.items()]


def test_the_playbook_says_of_each_alert_what_it_means_what_to_look_at_and_what_to_do() -> None:
    for section in re.split(r"^### ", PLAYBOOK, flags=re.MULTILINE)[1:]:
        assert re.findall(r"^\*\*(\w+)\*\*", section, re.MULTILINE) == ["Means", "Look", "Do"], section[:40]


def test_thresholds_are_those_of_the_code() -> None:
    assert ALERTS["PhiCollapse"]["expr"].count(f" {PHI_COLLAPSE:g}") == 2
    assert f"> {OUTBOX_MAX_ENTRIES // 2}" in ALERTS["OutboxFull"]["expr"]
    assert f"< {WARN_DAYS * DAY_S:.0f}" in ALERTS["TrustEnds"]["expr"]
    assert f">= {BASE_WINDOW - 1}" in ALERTS["BundleSkew"]["expr"]


def test_every_work_stream_has_an_alert_for_when_nobody_finishes_what_is_in_it() -> None:
    watched = re.findall(r"qig:\w+", ALERTS["ConsumerDead"]["expr"] + ALERTS["LearningStuck"]["expr"])
    assert sorted(watched) == sorted(GROUPS)
