"""All settings: one frozen object, read once from a TOML file and the environment, strict.

Precedence, lowest first: the defaults here, the TOML file, environment variables, command-line options.
An environment variable is GEARSHIFT_SECTION__KEY, for example GEARSHIFT_SERVER__HTTP_PORT=8080. A name
that is not a setting stops the start, with the nearest right name.
"""

import difflib
import json
import os
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import psutil
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from models.manifest import describe
from models.place import to_place
from models.versions import read_policy
from serving.core.autoscaling import ModelTargets, ScalingRules
from serving.core.demand import DemandOptions
from serving.core.policies.registry import named_policy

ENV_PREFIX = "GEARSHIFT_"
NOT_SETTINGS = frozenset({"GEARSHIFT_API_KEY", "GEARSHIFT_CONFIG", "GEARSHIFT_FASHION_MNIST", "GEARSHIFT_URL"})
"""Variables with our prefix that other tools of the project read."""

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Weight = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Bytes = Annotated[int, Field(ge=1024)]


class ConfigError(ValueError):
    """The settings cannot be used; the message names each wrong one and what was expected."""


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


def _place(value: str | Path) -> str | Path:
    return to_place(value) if isinstance(value, str) else value


def _known_versions(text: str) -> str:
    read_policy(text)
    return text


def _listed(value: object) -> object:
    """A list in one text, as an environment variable has it."""
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _weighed(value: object) -> object:
    """Names and weights in one text, as an environment variable has them."""
    if not isinstance(value, str):
        return value
    return dict(part.strip().rpartition("=")[::2] for part in value.split(",") if part.strip())


class ServerSettings(_Section):
    """Where the gateway listens."""

    host: str = "127.0.0.1"
    """Address to listen on. Loopback by default: without `api_keys_file`, whoever connects is served."""
    http_port: Port = 8000
    """Port of the inference API. 0 picks a free one."""
    grpc_port: Port | Literal["off"] = 8001
    """Port of the inference API over gRPC. 0 picks a free one; `off`: there is none."""
    metrics_port: Port = 8002
    """Port of the Prometheus page, right for all replicas of the node. 0 picks a free one."""
    backlog: Annotated[int, Field(ge=1, le=65535)] = 1024
    """Connections the kernel may hold that no replica has accepted yet."""
    drain_s: Seconds = 10.0
    """Most time that accepted requests get to finish after a stop was asked for, seconds."""
    lame_duck_s: Annotated[float, Field(ge=0, le=600, allow_inf_nan=False)] = 0.0
    """How long a gateway that is to stop is unready and still accepts, seconds: what its load balancer needs to
    notice. Answers ask callers to connect anew. 0: it drains at once."""
    tls_certfile: Path | None = None
    """PEM certificate chain; with `tls_keyfile` the API speaks HTTPS."""
    tls_keyfile: Path | None = None
    """PEM private key of `tls_certfile`."""
    api_keys_file: Path | None = None
    """File with the keys of callers, one a line; read again when it changes. All but the questions for health then
    need one, as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Default: none is asked for."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.tls_certfile is None) != (self.tls_keyfile is None):
            raise ValueError("tls_certfile and tls_keyfile go together")
        taken = [port for port in (self.http_port, self.grpc_port, self.metrics_port) if port not in (0, "off")]
        if len(taken) != len(set(taken)):
            raise ValueError("http_port, grpc_port and metrics_port must differ")
        return self


class EngineSettings(_Section):
    """What runs the gateway and the models."""

    kind: Literal["ray", "inprocess"] = "ray"
    """`ray`: replicas under Ray Serve. `inprocess`: the same composition in this process."""
    topology: Literal["colocated", "split"] = "colocated"
    """`colocated`: models run inside the gateway replicas. `split`: in worker replicas of their own."""
    replicas: Annotated[int, Field(ge=1, le=256)] = 1
    """Gateway replicas."""
    replicas_per_node: Annotated[int, Field(ge=0, le=256)] = 0
    """On a cluster: most gateway replicas of one node, which share its cores. 0: all of them, as on a single node."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Batches that run at the same time: threads of a colocated replica, worker replicas in split.
    0: the usable cores, shared between the colocated replicas of a node."""
    runtime_dir: Path = Field(default_factory=lambda: Path(tempfile.gettempdir()) / f"gearshift-{os.getuid()}")
    """Sockets, metric files and state of the running servers of this node, a folder below it for each port."""


class ModelSettings(_Section):
    """What is served."""

    repository: Annotated[str | Path, AfterValidator(_place)] | None = None
    """Folder of families, NAME/VERSION/family.json, its URL in an object store (s3://, gs://), or one .onnx file.
    Default: the demo families."""
    name: str | None = None
    """What a model served from one .onnx file is called. Default: the file's name."""
    versions: Annotated[str, AfterValidator(_known_versions)] = "latest"
    """Which versions of a model are served: `latest`, `latest:N`, `all`, or their numbers, as in `1,3`. A request that
    names none gets the highest."""
    control: Literal["none", "poll", "explicit"] = "none"
    """How what is served changes: `none`: not at all. `poll`: with the repository, looked at every `poll_s`.
    `explicit`: by calls of clients."""
    poll_s: Seconds = 15.0
    """Time between two looks at the repository."""
    load: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Models to begin with under `explicit` control; `*`: all."""
    mirror_dir: Path = Field(default_factory=lambda: _cache_home() / "gearshift" / "repository")
    """Where the versions of a repository in an object store are kept."""
    cache_dir: Path = Field(default_factory=lambda: _cache_home() / "gearshift" / "profiles")
    """Where measured profiles are kept between starts."""
    watts_per_core: Annotated[float, Field(ge=0)] = 10.0
    """Power one busy core draws, watts: turns processor time into the energy estimate. 0: no estimate."""


class CacheSettings(_Section):
    """Answers kept for callers who ask the same again. Off unless a model is named."""

    models: Annotated[tuple[str, ...], BeforeValidator(_listed)] = ()
    """Models whose answers are kept; `*`: all. For models that always answer the same inputs alike."""
    max_bytes: Bytes = 64 * 1024 * 1024
    """Most memory for the answers of one version of a model, in each gateway replica."""
    max_age_s: Seconds = 300.0
    """An answer older than this is not given again."""

    def keeps(self, model: str) -> bool:
        """Whether the answers of a model are kept."""
        return "*" in self.models or model in self.models


class LimitSettings(_Section):
    """What one client may ask of the gateway."""

    max_json_bytes: Bytes = 8 * 1024 * 1024
    """Largest JSON part of a request: parsed JSON takes many times its size."""
    max_binary_bytes: Bytes = 64 * 1024 * 1024
    """Largest request body, also after decompression."""
    max_queue_bytes: Bytes = 256 * 1024 * 1024
    """Most input bytes waiting in one model's queue."""
    allow_nan: bool = False
    """Whether binary float inputs may hold NaN or infinity (JSON cannot)."""
    max_connections: Annotated[int, Field(ge=1)] = 1024
    """Open connections a replica; more wait in the backlog."""
    max_streams: Annotated[int, Field(ge=1)] = 256
    """Calls that may be open at once on one gRPC connection; further ones wait at their client."""
    connection_age_s: Seconds = 600.0
    """A gRPC connection this old is told to go, losing no call: so new replicas get their share of the clients."""
    max_header_bytes: Bytes = 16 * 1024
    """Request line and headers together."""
    max_headers: Annotated[int, Field(ge=4)] = 100
    """Header lines of one request."""
    header_timeout_s: Seconds = 5.0
    """From the first byte of a request, or the start of a fresh connection, to the end of its headers."""
    body_timeout_s: Seconds = 30.0
    """From the end of the headers to the end of the body."""
    idle_timeout_s: Seconds = 60.0
    """A connection between two requests."""
    write_timeout_s: Seconds = 30.0
    """A client that does not read its answer."""


def _known_policy(text: str) -> str:
    named_policy(text)
    return text


class SchedulerSettings(_Section):
    """How variants and batches are chosen."""

    policy: Annotated[str, AfterValidator(_known_policy)] = "look-ahead"
    """The rule that picks variant and batch: `look-ahead`, or a published one to compare it with, as NAME,
    NAME:ARGUMENT or either with `+early-drop` behind it."""
    utilization: Share = 0.97
    """Share of future worker time the policy counts on; the rest absorbs bursts."""
    min_success: Share = 0.3
    """A request whose best chance to be met is below this is dropped at once."""
    plan_quantile: Share = 0.9
    """Share of batches that must be as fast as admission assumes."""
    energy_weight: Annotated[float, Field(ge=0)] = 0.0
    """Accuracy worth giving up to save one millijoule a row."""
    weights: Annotated[dict[str, Weight], BeforeValidator(_weighed)] = Field(default_factory=dict)
    """What models may count on of the workers while all want them, relative to each other: `fashion=2,text=1`. A model
    that is not named weighs 1."""


class LogSettings(_Section):
    """What is written, and how."""

    format: Literal["auto", "json", "console"] = "auto"
    """`auto`: console on a terminal, else JSON."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity written."""
    request_share: Share = 0.0
    """Share of the inference requests that get a line each, with how they went."""


def _known_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError("an address that begins with http:// or https://")
    return text


class TracingSettings(_Section):
    """What is told to OpenTelemetry."""

    endpoint: Annotated[str, AfterValidator(_known_url)] | None = None
    """Where spans go, by OTLP over HTTP, for example http://collector:4318/v1/traces. Without it nothing is traced."""
    sample_ratio: Share = 0.01
    """Share of the requests that are traced, of those whose callers did not decide it."""
    follow_caller: bool = True
    """Whether a caller's `traceparent` decides if its request is traced."""
    service_name: Annotated[str, Field(min_length=1)] = "gearshift"
    """What the service is called in the traces."""


def _table(value: object) -> object:
    """A variable holds a table as JSON."""
    return json.loads(value) if isinstance(value, str) else value


class ModelScaling(_Section):
    """What one model asks of the autoscaler where it differs from the section."""

    target_busy: Annotated[float, Field(gt=0, le=1)] | None = None
    max_accuracy_forgone: Share | None = None
    min_attainment: Share | None = None


class AutoscalingSettings(_Section):
    """When replicas are added and taken away: of the gateway when colocated, of the workers when split."""

    min_replicas: Annotated[int, Field(ge=0, le=1024)] = 0
    """Fewest replicas. 0: as many as are started."""
    max_replicas: Annotated[int, Field(ge=0, le=1024)] = 0
    """Most replicas. 0: there is no autoscaling."""
    target_busy: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Share of worker time that the load may take at the accuracy wanted; the rest absorbs bursts."""
    max_accuracy_forgone: Share = 0.005
    """Accuracy, on average over rows, that load may cost before more replicas are wanted. 1: only deadlines count."""
    min_attainment: Share = 0.99
    """Share of rows answered in time below which more replicas are wanted."""
    window_s: Seconds = 10.0
    """Over about how long the load is averaged, seconds; a tenth of it where accuracy is being given up."""
    up_delay_s: Annotated[float, Field(ge=0, le=86_400)] = 3.0
    """How long more replicas must have been needed before they are started, seconds."""
    up_cooldown_s: Annotated[float, Field(ge=0, le=86_400)] = 5.0
    """Least time between two scale-outs, seconds. Replicas on their way count as there."""
    max_up_factor: Annotated[float, Field(ge=1, le=1024)] = 4.0
    """Most replicas after a scale-out, as a multiple of those before; one more is always allowed."""
    down_delay_s: Annotated[float, Field(ge=0, le=86_400)] = 120.0
    """How long fewer replicas must have been enough before any are stopped, seconds."""
    down_cooldown_s: Annotated[float, Field(ge=0, le=86_400)] = 15.0
    """Least time between two scale-ins, seconds: what it takes to see that one was too much."""
    max_down_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Most of the replicas stopped at once, as a share; one is always allowed."""
    models: Annotated[dict[str, ModelScaling], BeforeValidator(_table)] = Field(default_factory=dict)
    """A table for each model with a `target_busy`, `max_accuracy_forgone` or `min_attainment` of its own; JSON in a
    variable."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_replicas and not self.max_replicas:
            raise ValueError("min_replicas needs max_replicas: without it there is no autoscaling")
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas is below min_replicas")
        return self

    def rules(self, replicas: int = 1) -> ScalingRules:
        """For the control law; `replicas` are started, which are the fewest where no number of those is set."""
        return ScalingRules(
            min_replicas=self.min_replicas or min(replicas, self.max_replicas),
            max_replicas=self.max_replicas,
            up_delay_s=self.up_delay_s,
            up_cooldown_s=self.up_cooldown_s,
            max_up_factor=self.max_up_factor,
            down_delay_s=self.down_delay_s,
            down_cooldown_s=self.down_cooldown_s,
            max_down_share=self.max_down_share,
            window_s=self.window_s,
            targets=self._targets(ModelScaling()),
            models={name: self._targets(model) for name, model in self.models.items()},
        )

    def demand(self, model: str) -> DemandOptions:
        """How that model's demand is looked at."""
        return DemandOptions(
            self.window_s, self._targets(self.models.get(model) or ModelScaling()).max_accuracy_forgone
        )

    def _targets(self, model: ModelScaling) -> ModelTargets:
        own = model.model_dump(exclude_none=True)
        return ModelTargets(**{name: own.get(name, getattr(self, name)) for name in ModelTargets.__slots__})


class Settings(_Section):
    """Every setting of Gearshift."""

    server: ServerSettings = Field(default_factory=ServerSettings)
    engine: EngineSettings = Field(default_factory=EngineSettings)
    models: ModelSettings = Field(default_factory=ModelSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    limits: LimitSettings = Field(default_factory=LimitSettings)
    scheduler: SchedulerSettings = Field(default_factory=SchedulerSettings)
    autoscaling: AutoscalingSettings = Field(default_factory=AutoscalingSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    tracing: TracingSettings = Field(default_factory=TracingSettings)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.autoscaling.max_replicas and self.engine.kind == "inprocess":
            raise ValueError("autoscaling.max_replicas needs engine.kind = 'ray': one process has no replicas")
        return self

    @property
    def run_folder(self) -> Path:
        """Where this server keeps its sockets, metric files and state while it runs: shared by its replicas."""
        return self.engine.runtime_dir / str(self.server.http_port)

    def thread_workers(self) -> int:
        """Worker threads of one colocated replica."""
        if self.engine.workers:
            return self.engine.workers
        sharing = self.engine.replicas_per_node or max(self.engine.replicas, self.autoscaling.max_replicas)
        return max(1, usable_cores() // sharing)

    def worker_replicas(self) -> int:
        """Worker replicas of the split topology."""
        return self.engine.workers or usable_cores()


def load_settings(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """The settings of this process. `overrides` (section -> key -> value) win; values of None are left out.

    The file defaults to $GEARSHIFT_CONFIG. Raises `ConfigError`.
    """
    environ = os.environ if environ is None else environ
    if file is None and "GEARSHIFT_CONFIG" in environ:
        file = Path(environ["GEARSHIFT_CONFIG"])
    values: dict[str, Any] = {}
    for layer in (_from_file(file), _from_environment(environ), overrides or {}):
        _merge(values, layer)
    _refuse_unknown(values)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"settings: {describe(error)}") from error


def usable_cores() -> int:
    """Whole cores this process may use: its affinity, cut by the cgroup's quota. At least 1."""
    cores = len(os.sched_getaffinity(0))
    quota = cgroup_cores()
    return max(1, min(cores, int(quota)) if quota else cores)


def cgroup_cores(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """Cores the cgroup's processor quota allows (v2, else v1); None where there is no quota."""
    try:
        quota, period = (root / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return None
    if quota in ("max", "-1"):
        return None
    return int(quota) / int(period)


def cgroup_memory_bytes(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Memory the cgroup allows (v2, else v1); None where there is no limit below the host's memory."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = (root / name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if limit != "max" and int(limit) < psutil.virtual_memory().total:
            return int(limit)
    return None


def _from_file(file: Path | None) -> dict[str, Any]:
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"settings file {file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings file {file}: not valid TOML: {error}") from error


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in environ.items():
        if name.startswith(ENV_PREFIX) and name not in NOT_SETTINGS:
            section, _, key = name.removeprefix(ENV_PREFIX).lower().partition("__")
            if not key:
                raise ConfigError(f"environment variable {name} is not a setting{_nearest(name, _env_names())}")
            values.setdefault(section, {})[key] = value
    return values


def _merge(values: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for section, entries in layer.items():
        if not isinstance(entries, Mapping):
            raise ConfigError(f"setting '{section}' is not a section{_nearest(section, list(Settings.model_fields))}")
        present = {key: value for key, value in entries.items() if value is not None}
        values.setdefault(section, {}).update(present)


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    for section, entries in values.items():
        field = Settings.model_fields.get(section)
        if field is None:
            raise ConfigError(
                f"there is no settings section '{section}'{_nearest(section, list(Settings.model_fields))}"
            )
        known = list(_section_type(section).model_fields)
        for key in entries:
            if key not in known:
                raise ConfigError(f"there is no setting '{section}.{key}'{_nearest(key, known)}")


def _section_type(section: str) -> type[_Section]:
    annotation = Settings.model_fields[section].annotation
    if not (isinstance(annotation, type) and issubclass(annotation, _Section)):
        raise TypeError(f"section {section} is not a section type")
    return annotation


def setting_names() -> list[tuple[str, str]]:
    """Every (section, key), in order: documentation and error messages are made from it."""
    return [(section, key) for section in Settings.model_fields for key in _section_type(section).model_fields]


def _env_names() -> list[str]:
    return [f"{ENV_PREFIX}{section}__{key}".upper() for section, key in setting_names()]


def _nearest(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(names)}"
