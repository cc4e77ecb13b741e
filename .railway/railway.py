"""The edges on Railway: one service and one volume each. `railway config plan`, then `railway config apply`.

QIG_IMAGE names the slim image (Dockerfile) in a registry that Railway can read. What is set at the services by
hand is kept: docs/railway.md says what each variable holds.
"""
# ruff: noqa: INP001 -- read by Railway's command line, not a package

import os
from typing import Any, Final

from railway_sdk import Project, define_railway, image, preserve, project, service, volume

PARTIAL: Final = "edges"  # what else is in the project stays: a file without this name owns, and deletes, all of it
EDGES: Final = ("edge-1",)  # one line more is one edge more: each has a name, a key and a volume of its own
HOME: Final = "/var/lib/qig"
READY_S: Final = 300  # the first start fetches a bundle, and may compile for this processor
DRAINING_S: Final = 30  # a stop finishes what is being said and sends what is in the outbox; then the process is killed
# Set by hand, if at all: `apply` deletes every variable of an edge that is named neither here nor in its `env`.
SECRETS: Final = ("QIG_BROKER_URL", "EDGE_KEY", "FLEET_ROOT", "EDGE_API_KEYS", "FLEET_SECRET")
SETTINGS: Final = (
    "QIG_API_KEYS",
    "QIG_API_OPEN",
    "QIG_API_PER_MINUTE",
    "QIG_CRYSTAL_BYTES",
    "QIG_FLEET_SECRET",
    "QIG_HEALTH_ANSWERS",
    "QIG_HEALTH_S",
    "QIG_KEEP_BYTES",
    "QIG_KEEP_DAYS",
    "QIG_LOG_LEVEL",
    "QIG_PRIVATE",
    "QIG_PROBE_SHARE",
    "QIG_REDACT",
    "QIG_SLEEP_AFTER_BYTES",
    "QIG_SLEEP_IDLE_S",
    "QIG_SLEEP_MAX_S",
    "QIG_WORKERS",
)


@define_railway
def main(ctx: Any = None) -> Project:  # noqa: ARG001 -- what Railway's command line gives: every environment is alike
    """The project. Raises KeyError without QIG_IMAGE."""
    return project("qig-constellation", resources=[each for name in EDGES for each in edge(name)])


def edge(name: str) -> list[Any]:
    """A volume and the edge that keeps its state there. A volume means one replica, as an edge is one."""
    state = volume(f"{name}-state")
    runs = service(
        name,
        source=image(os.environ["QIG_IMAGE"]),
        start="python deploy/railway_edge.py",
        healthcheck="/readyz",
        healthcheckTimeout=READY_S,
        replicas=1,
        deploy={"restartPolicyType": "ALWAYS"},
        volumeMounts={HOME: state},
        env={
            "QIG_NODE": name,
            "QIG_HOME": HOME,
            "RAILWAY_RUN_UID": "0",  # for the volume alone: the start command becomes the image's user
            "RAILWAY_DEPLOYMENT_DRAINING_SECONDS": str(DRAINING_S),
            **{name: preserve() for name in (*SECRETS, *SETTINGS)},
        },
    )
    return [state, runs]
