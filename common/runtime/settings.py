"""Settings: one flat frozen model a service, read from the environment once, at start.

A field `batch_packets` is the variable QIG_BATCH_PACKETS. A name that begins with QIG_ and that no service knows stops
the start, with the closest name that exists: a misspelt setting that is silently ignored costs a night. The broker's
address may hold a password, so it may come from a file: QIG_BROKER_URL_FILE. On Railway the platform says where to
listen, and which replica this is: its word goes before any setting's.

>>> load(AggregatorSettings, {"QIG_BROKER_URL": "redis://127.0.0.1:6379", "QIG_BATCH_PACKETS": "4"}).batch_packets
4
"""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from common.errors import Rejected, said
from common.runtime import address

PREFIX: Final = "QIG_"
BROKER_URL_FILE: Final = "QIG_BROKER_URL_FILE"
RAILWAY: Final = ("RAILWAY_ENVIRONMENT_NAME", "RAILWAY_ENVIRONMENT")  # either is set there; the second is the older
RAILWAY_SAYS: Final = {"PORT": "http_port", "RAILWAY_REPLICA_ID": "replica"}
EVERY_ADDRESS: Final = "::"  # of both IPs: the public network comes by IPv4, an old private one by IPv6
COLLECTORS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")  # OpenTelemetry's own names
_PASSWORDS: Final = re.compile(r"([?&][a-z_]*password=)[^&]*")
_PORT: Final = "Port of /healthz, /readyz and /metrics; 0 picks a free one"
NodeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]


class CommonSettings(BaseSettings):
    """What every service needs."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", env_prefix=PREFIX)

    broker_url: str = Field(
        description="The broker's address: one server's, sentinels' or a cluster's (docs/broker.md); with a password, "
        "better by file (QIG_BROKER_URL_FILE)"
    )
    home: Path = Field(Path(".qig"), description="Directory for state and keys")
    node: NodeName = Field("node-1", description="This node's name in the fleet: letters, digits and . _ -")
    replica: NodeName | None = Field(
        None, description="What tells this process from others of its node, at the broker; its process id when not set"
    )
    http_host: str = Field("127.0.0.1", description="Address of /healthz, /readyz and /metrics; of an edge's API too")
    http_port: int = Field(0, ge=0, le=65_535, description=_PORT)
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="What is logged")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 -- pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 -- `load` reads the mapping it is given, not the process
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` passes in."""
        return (init_settings,)


class EdgeSettings(CommonSettings):
    """An edge node: answers, learns, sleeps."""

    http_port: int = Field(8000, ge=0, le=65_535, description=_PORT)
    workers: int = Field(2, ge=1, le=64, description="Threads that generate")
    sleep_after_bytes: int = Field(20_000, ge=1, description="Fresh text after which an edge wants to sleep, bytes")
    sleep_idle_s: float = Field(
        5.0, ge=0, description="Idle time before it may sleep, seconds; each node waits its own, up to three times this"
    )
    sleep_max_s: float = Field(
        3600.0,
        gt=0,
        description="The longest it stays awake with something learned, seconds; each node's own is up to a quarter "
        "shorter, and a minute more while queries wait",
    )
    crystal_bytes: int = Field(
        1024, ge=0, le=2900, description="Crystals in a packet, in private mode with mentions, bytes; 0: figures alone"
    )
    probe_share: int = Field(8, ge=2, description="One in this many interactions is kept for trying bundles on")
    health_answers: int = Field(
        64,
        ge=1,
        description="Answers after which a new bundle that serves well is good; until then it is gone back from",
    )
    health_s: float = Field(60.0, ge=0, le=300, description="Seconds after which it is good, whatever was asked")


class ApiSettings(BaseModel):
    """An edge's HTTP API."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    api_keys: Path | None = Field(
        None, description="File of the API's keys (`qig keys api`); HOME/trust/api-keys.json when this is not set"
    )
    api_open: bool = Field(
        False, description="Answer without keys on an address that others reach; only behind what keeps them out"
    )
    api_per_minute: int = Field(0, ge=0, description="Requests that each key may make a minute; 0 for no limit")


DEFAULT_API: Final = ApiSettings()


class PrivacySettings(BaseModel):
    """What an edge keeps of what it is asked, and what of it may leave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    redact: str = Field(
        "emails,numbers,keys",
        description="What is taken out of a text before it is kept and learned, by commas: emails, numbers, keys, "
        "MODULE:FUNCTION of your own (str to str); empty for nothing",
    )
    keep_days: float = Field(30.0, gt=0, description="Age at which what was asked and answered is deleted, days")
    keep_bytes: int = Field(
        256 << 20, ge=0, description="Texts and answers kept, bytes; above it the oldest are deleted"
    )
    private: Literal["off", "on", "strict"] = Field(
        "off",
        description="on: an n-gram leaves only when QIG_COMMON_EDGES edges hold it or the bundle's memories know it; "
        "strict: the first alone; docs/privacy.md",
    )
    fleet_secret: Path | None = Field(
        None,
        description="File of the secret that edges share (`qig keys secret`); HOME/private/fleet.secret when this is "
        "not set. An edge that has it proposes tokens, private or not",
    )


DEFAULT_PRIVACY: Final = PrivacySettings()


class AggregatorSettings(CommonSettings):
    """The aggregator: validates packets and cuts batches."""

    http_port: int = Field(8001, ge=0, le=65_535, description=_PORT)
    batch_packets: int = Field(8, ge=1, le=256, description="Packets that make a batch due")
    batch_age_s: float = Field(
        60.0, ge=0, description="Age of the oldest waiting packet that makes a batch due, seconds"
    )
    mass_cap: float = Field(100_000.0, gt=0, description="The most counts one packet brings into a merge")
    node_packets: int = Field(
        64, ge=1, description="Packets of one node that may wait for a batch; an edge has one a domain on its way"
    )
    crystal_edges: int = Field(
        3,
        ge=1,
        le=8,
        description="Nodes that must bring an n-gram to a domain before it counts, where five or more are enrolled; "
        "until then it waits at the centre. 1 asks for none",
    )
    common_edges: int = Field(3, ge=3, le=8, description="Edges that have to mention the same before it may be said")


class TrainerSettings(CommonSettings):
    """The trainer: turns batches into candidates."""

    http_port: int = Field(8002, ge=0, le=65_535, description=_PORT)
    size: Literal["tiny", "small", "base"] | None = Field(
        None, description="Size of a genesis to train; the one in QIG_DATA/genesis serves when this is not set"
    )
    steps: int = Field(
        0, ge=0, description="Training steps a batch; 0 merges memories alone, which is as good (docs/experiments.md)"
    )
    data: Path = Field(Path("data"), description="Directory of the corpora, one DOMAIN.jsonl.gz each")
    genesis: Path = Field(Path(".qig/genesis"), description="Directory of the first constellation")


class RunPodSettings(BaseModel):
    """A trainer that has its batches worked on at a RunPod endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    runpod_endpoint: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#]+$",
        description="The endpoint that batches go to, `https://api.runpod.ai/v2/ID`; they stay here when it is not set",
    )
    runpod_key: Path | None = Field(None, description="File of the key to it")
    runpod_timeout_s: float = Field(
        3600.0, ge=5, le=604_800, description="The longest that a batch is worked on there, seconds"
    )


class WorkerSettings(BaseModel):
    """The worker at such an endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path = Field(Path("data"), description="Directory of the same corpora as the trainer's, and of the genesis")
    runpod_volume: Path = Field(Path("/runpod-volume"), description="Where its network volume is, if it has one")


DEFAULT_RUNPOD: Final = RunPodSettings()


class PublisherSettings(CommonSettings):
    """The publisher: gates, signs and releases bundles."""

    http_port: int = Field(8003, ge=0, le=65_535, description=_PORT)
    regress_limit: float = Field(0.01, ge=0, description="How much worse an old domain may get, share of bits per byte")


SERVICES: Final[dict[str, type[CommonSettings]]] = {
    "edge": EdgeSettings,
    "aggregator": AggregatorSettings,
    "trainer": TrainerSettings,
    "publisher": PublisherSettings,
}
MODELS: Final[tuple[type[BaseModel], ...]] = (
    *SERVICES.values(),
    ApiSettings,
    PrivacySettings,
    RunPodSettings,
    WorkerSettings,
)
SECTIONS: Final[dict[str, type[BaseModel]]] = {
    "every service": CommonSettings,
    **SERVICES,
    "an edge's HTTP API": ApiSettings,
    "an edge's privacy": PrivacySettings,
    "a trainer with RunPod": RunPodSettings,
    "a worker on RunPod": WorkerSettings,
}
S = TypeVar("S", bound=BaseModel)


def variable(field: str) -> str:
    """The environment variable of a field."""
    return PREFIX + field.upper()


def known_variables() -> frozenset[str]:
    """Every QIG_ name that some service reads: one environment may serve several services."""
    return frozenset({variable(name) for model in MODELS for name in model.model_fields} | {BROKER_URL_FILE})


def load(model: type[S], environ: Mapping[str, str] | None = None) -> S:
    """The settings of one service, or of an edge's HTTP API, from the environment.

    Raises Rejected: "unknown_setting" with the closest name, "bad_setting" with the variable and what it should be,
    "no_broker" when a service is given no address.
    """
    environ = os.environ if environ is None else environ
    given = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
    _refuse_unknown(given)
    given |= _railway(environ)
    values = {name: given[variable(name)] for name in model.model_fields if variable(name) in given}
    if "broker_url" in model.model_fields:
        values["broker_url"] = _broker_url(given)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = variable(str(first["loc"][0]))
        message = f"{name}={given.get(name, '')!r}: {first['msg'][:1].lower()}{first['msg'][1:]} (docs/settings.md)"
        raise Rejected("bad_setting", message) from None


def given_broker(environ: Mapping[str, str] | None = None) -> str | None:
    """The broker's address, by QIG_BROKER_URL_FILE or QIG_BROKER_URL; None where neither is set to anything.

    Raises Rejected("bad_setting") for a file that holds none.
    """
    found = os.environ if environ is None else environ
    if path := found.get(BROKER_URL_FILE):
        return _read_secret(Path(path))
    return found.get(variable("broker_url")) or None


def traces_to(environ: Mapping[str, str] | None = None) -> str | None:
    """The variable that names a collector of traces; None where there is none, or OTEL_SDK_DISABLED or
    OTEL_TRACES_EXPORTER say that nothing goes to it. All others of OpenTelemetry's variables are read by its SDK.
    """
    given = os.environ if environ is None else environ
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true" or given.get("OTEL_TRACES_EXPORTER") == "none":
        return None
    return next((name for name in COLLECTORS if given.get(name)), None)


def redacted(url: str) -> str:
    """A broker address as it may be shown: without its password."""
    parts = urlsplit(url)
    if parts.password is not None:
        url = urlunsplit(parts._replace(netloc=f"{parts.username or ''}:***@{parts.netloc.rpartition('@')[2]}"))
    return _PASSWORDS.sub(r"\1***", url)


def user_of(url: str) -> str | None:
    """The user that a broker address names."""
    name = urlsplit(url).username
    return unquote(name) if name else None


def markdown() -> str:
    """docs/settings.md."""
    text = "# Settings\n\nEnvironment variables, read once at start. Made from `common/runtime/settings.py`.\n"
    for title, model in SECTIONS.items():
        text += f"\n## {title}\n\n| variable | default | what |\n|---|---|---|\n"
        common = set() if model is CommonSettings else set(CommonSettings.model_fields)
        shown = [name for name in model.model_fields if name not in common - {"http_port"}]  # each service has its port
        for name in shown:
            field = model.model_fields[name]
            given = "not set" if field.default is None else f"`{field.default}`"
            default = "required" if field.is_required() else given
            text += f"| `{variable(name)}` | {default} | {field.description} |\n"
    return text + _railway_markdown()


def _railway_markdown() -> str:
    first, older = RAILWAY
    rows = "".join(f"| `{variable(field)}` | what `{name}` says |\n" for name, field in RAILWAY_SAYS.items())
    return (
        f"\n## On Railway\n\nWhere `{first}` or `{older}` is set, these settings are what the platform says, whatever"
        f" they are given.\n\n| variable | there |\n|---|---|\n{rows}"
        f"| `{variable('http_host')}` | `{EVERY_ADDRESS}`, every address of either IP |\n"
    )


def _railway(environ: Mapping[str, str]) -> dict[str, str]:
    """What Railway says, under our names. It is not asked whether an image or a person said otherwise: what listens
    anywhere else cannot be reached there.
    """
    if not any(environ.get(name) for name in RAILWAY):
        return {}
    its = {variable(field): environ[name] for name, field in RAILWAY_SAYS.items() if environ.get(name)}
    return its | {variable("http_host"): EVERY_ADDRESS}


def _refuse_unknown(given: Mapping[str, str]) -> None:
    known = known_variables()
    for name in sorted(given):
        if name not in known:
            close = difflib.get_close_matches(name.removeprefix(PREFIX), [k.removeprefix(PREFIX) for k in known], n=1)
            hint = f"did you mean {PREFIX}{close[0]}?" if close else "see docs/settings.md"
            raise Rejected("unknown_setting", f"{name} is no setting: {hint}")


def _broker_url(given: Mapping[str, str]) -> str:
    """Raises Rejected("no_broker", "bad_setting")."""
    url = given_broker(given)
    if url is None:
        message = (
            "QIG_BROKER_URL is not set: `qig up` starts an embedded broker, or name yours (redis://127.0.0.1:6379)"
        )
        raise Rejected("no_broker", message)
    try:
        address.parse(url)
    except ValueError as error:
        raise Rejected("bad_setting", f"QIG_BROKER_URL is no broker address: {error}") from None
    return url


def _read_secret(path: Path) -> str:
    try:
        if secret := path.read_text(encoding="utf-8").strip():
            return secret
        why = "it is empty"
    except OSError as error:
        why = error.strerror or said(error)
    except UnicodeDecodeError:
        why = "it is no UTF-8 text"
    raise Rejected("bad_setting", f"{BROKER_URL_FILE}={path}: {why}; it holds the broker's address, in one line")
