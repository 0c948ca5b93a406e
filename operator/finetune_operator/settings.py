"""What the operator is told by its environment, read once and checked as a whole."""

import json
import math
import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import ValidationError

from finetune_api.defaults import DefaultsByNamespace
from finetune_api.names import ENV_TRACING_ENDPOINT, ENV_TRACING_HEADERS
from finetune_api.resource import SpecInvalid, parse_strictly

_IMAGE: Final = re.compile(r"^\S{1,1024}$")
_NAMESPACE: Final = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
_HOST: Final = re.compile(r"^(?=.{1,253}$)(?![0-9.]+$)[a-z0-9]([-a-z0-9]*[a-z0-9])?([.][a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")

T = TypeVar("T")


class SettingsInvalid(ValueError):
    """The environment can't be used; the message has one line for each fault."""


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Where spans go, and which."""

    endpoint: str
    """Address of an OTLP/HTTP receiver; spans go to ``/v1/traces`` below it."""
    ratio: float = 1.0
    """Share of the attempts that are traced, 0 to 1."""
    headers: str = field(default="", repr=False)
    """Headers that the operator sends: ``name=value,name=value``."""
    trainer_secret: str = ""
    """Secret in the run's namespace with the headers that its trainers send; empty, or where there is none, they send none."""
    trainer_secret_key: str = "headers"
    """The key in it."""


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """How trainer pods are made."""

    image: str
    """Image of the trainer."""
    image_pull_policy: str = "IfNotPresent"
    """Kubernetes' own names: Always, IfNotPresent, Never."""
    grace_seconds: int = 300
    """Time between SIGTERM and SIGKILL: the last step, its checkpoint and the upload must fit."""
    model_cache: str = ""
    """Volume claim with a shared cache of base models, in the run's namespace; empty means none."""
    default_queue: str = ""
    """LocalQueue of runs that name none; empty leaves them without one."""
    gang_schedulers: Mapping[str, str] = field(default_factory=dict)
    """`schedulerName` of the pods of a run by its `scheduling.gang`; what is not in it is refused."""
    simulated_gpus: bool = False
    """The cluster advertises GPUs that it doesn't have; trainers that asked for one run on the CPU."""
    report_service: str = ""
    """Host and port that trainers report to; empty turns reports off."""
    tracing: TracingSettings | None = None
    """Where trainers send their spans; None turns tracing off."""


@dataclass(frozen=True, slots=True)
class LeaseTimes:
    """All in seconds."""

    duration: float = 10.0
    """A Lease that has not changed for so long may be taken over."""
    validity: float = 7.0
    """A leader writes for so long after it last began a renewal that succeeded. What is left of `duration` is for calls under way."""
    renewal: float = 2.0
    """Time between two renewals."""
    retry: float = 1.0
    """Time between two looks of a follower."""

    @classmethod
    def of(cls, duration: float) -> Self:
        """Return the times that go with a Lease of ``duration``."""
        return cls(duration, validity=0.7 * duration, renewal=0.2 * duration, retry=min(1.0, 0.1 * duration))


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """The operator's own settings. See the chart's values for what each is for."""

    trainer: TrainerSettings
    namespace: str = "default"
    """Namespace of the operator itself: home of its TLS Secret."""
    watch_namespaces: tuple[str, ...] = ()
    """Namespaces to watch; empty means all."""
    report_port: int = 8443
    tls_secret: str = "finetune-operator-tls"
    page_service: str = ""
    """Host and port of the page to look at; empty turns it off."""
    page_port: int = 8444
    page_api_tokens: bool = False
    """The page takes tokens of the API server's own audience too."""
    health_port: int = 8080
    log_level: str = "INFO"
    log_format: str = "json"
    kueue: bool = True
    """Follow Kueue where it is installed."""
    defaults: DefaultsByNamespace = field(default_factory=DefaultsByNamespace)
    """What runs get that do not say it themselves."""
    node_check: bool = False
    """Read Nodes, to say at once where no node could take a run. It takes a right that a Role can't give."""
    node_seconds: float = 30.0
    """Time between two looks at the nodes while runs wait."""
    gpu_prices: Mapping[str, float] = field(default_factory=dict)
    """Price of one GPU for one hour, by the resource that it is asked for by; runs on others have no cost."""
    lease: str = ""
    """Name of the Lease that the leading replica holds; empty where there is one operator only."""
    lease_times: LeaseTimes = LeaseTimes()
    """How long the Lease lasts, and what follows from it."""
    identity: str = ""
    """Name of this replica: its pod's."""
    report_address: str = ""
    """Host and port at which the other replicas reach this one's report receiver."""
    workers: int = 16
    """Jobs reconciled at the same time."""
    resync_seconds: float = 300.0
    """Time between two complete comparisons with the API server."""


def read_settings(environ: Mapping[str, str]) -> OperatorSettings:
    """Read the settings from ``FINETUNE_…`` variables.

    :raises SettingsInvalid: names every variable at fault and what it should be.
    """
    faults: list[str] = []

    def read(name: str, default: T, parse: Callable[[str], T]) -> T:
        text = environ.get(name, "").strip()
        try:
            return parse(text) if text else default
        except ValueError as error:
            faults.append(f"{name}={text!r}: {error}")
            return default

    image = environ.get("FINETUNE_TRAINER_IMAGE", "").strip()
    if not _IMAGE.match(image):
        faults.append("FINETUNE_TRAINER_IMAGE: must name the trainer's image, for example registry.example.com/finetune-trainer:0.1.0")
    endpoint = read(ENV_TRACING_ENDPOINT, "", _endpoint)
    tracing = TracingSettings(
        endpoint=endpoint,
        ratio=read("FINETUNE_TRACING_RATIO", 1.0, _share),
        headers=environ.get(ENV_TRACING_HEADERS, "").strip(),
        trainer_secret=read("FINETUNE_TRACING_TRAINER_SECRET", "", _namespace),
        trainer_secret_key=environ.get("FINETUNE_TRACING_TRAINER_SECRET_KEY", "").strip() or "headers",
    )
    settings = OperatorSettings(
        trainer=TrainerSettings(
            image=image,
            image_pull_policy=read("FINETUNE_TRAINER_IMAGE_PULL_POLICY", "IfNotPresent", _one_of("Always", "IfNotPresent", "Never")),
            grace_seconds=read("FINETUNE_TRAINER_GRACE_SECONDS", 300, _integer(1, 86_400)),
            default_queue=read("FINETUNE_DEFAULT_QUEUE", "", _namespace),
            gang_schedulers=read("FINETUNE_GANG_SCHEDULERS", {}, _gang_schedulers),
            simulated_gpus=read("FINETUNE_SIMULATED_GPUS", default=False, parse=_boolean),
            report_service=read("FINETUNE_REPORT_SERVICE", "", _service),
            tracing=tracing if endpoint else None,
        ),
        namespace=read("FINETUNE_OPERATOR_NAMESPACE", "default", _namespace),
        watch_namespaces=read("FINETUNE_WATCH_NAMESPACES", (), _namespaces),
        report_port=read("FINETUNE_REPORT_PORT", 8443, _integer(1, 65_535)),
        tls_secret=environ.get("FINETUNE_TLS_SECRET", "").strip() or "finetune-operator-tls",
        page_service=read("FINETUNE_PAGE_SERVICE", "", _service),
        page_port=read("FINETUNE_PAGE_PORT", 8444, _integer(1, 65_535)),
        page_api_tokens=read("FINETUNE_PAGE_API_TOKENS", default=False, parse=_boolean),
        health_port=read("FINETUNE_HEALTH_PORT", 8080, _integer(1, 65_535)),
        log_level=read("FINETUNE_LOG_LEVEL", "INFO", lambda text: _one_of("DEBUG", "INFO", "WARNING", "ERROR")(text.upper())),
        log_format=read("FINETUNE_LOG_FORMAT", "json", _one_of("json", "text")),
        kueue=read("FINETUNE_KUEUE", default=True, parse=_boolean),
        defaults=read("FINETUNE_DEFAULTS", DefaultsByNamespace(), _defaults),
        node_check=read("FINETUNE_NODE_CHECK", default=False, parse=_boolean),
        node_seconds=read("FINETUNE_NODE_SECONDS", 30.0, lambda text: float(_integer(1, 3_600)(text))),
        gpu_prices=read("FINETUNE_GPU_PRICES", {}, _prices),
        lease=read("FINETUNE_LEASE", "", _namespace),
        lease_times=LeaseTimes.of(read("FINETUNE_LEASE_SECONDS", 10, _integer(2, 300))),
        identity=environ.get("POD_NAME", "").strip() or f"{socket.gethostname()}-{os.getpid()}",
        report_address=_read_address(environ),
        workers=read("FINETUNE_WORKERS", 16, _integer(1, 256)),
        resync_seconds=read("FINETUNE_RESYNC_SECONDS", 300.0, lambda text: float(_integer(5, 86_400)(text))),
    )
    if faults:
        raise SettingsInvalid("\n".join(faults))
    return settings


def _read_address(environ: Mapping[str, str]) -> str:
    host = environ.get("POD_IP", "").strip()
    port = environ.get("FINETUNE_REPORT_PORT", "").strip() or "8443"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}" if host else ""


def _one_of(*values: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text not in values:
            raise ValueError(f"must be one of {', '.join(values)}")
        return text

    return parse


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(text)

    return parse


def _boolean(text: str) -> bool:
    return _one_of("true", "false")(text.lower()) == "true"


def _namespace(text: str) -> str:
    if not _NAMESPACE.match(text):
        raise ValueError("must be a name of lower-case letters, digits and '-'")
    return text


def _namespaces(text: str) -> tuple[str, ...]:
    names = tuple(_namespace(part.strip()) for part in text.split(",") if part.strip())
    if not names:
        raise ValueError("must name namespaces, separated by commas; leave it empty to watch all")
    return names


def _service(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not _HOST.match(host):
        raise ValueError("must be a DNS name and a port, such as finetune-operator-reports.finetune-system.svc:443")
    _integer(1, 65_535)(port)
    return text


def _endpoint(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or parts.username is not None:
        raise ValueError("must be an address such as http://otel-collector.observability:4318, without user, query or fragment")
    return text.rstrip("/")


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ValueError("must be a number from 0 to 1")
    return share


def _defaults(text: str) -> DefaultsByNamespace:
    try:
        parsed = json.loads(text)
    except ValueError:
        raise ValueError("must be a JSON object of defaults") from None
    try:
        defaults = parse_strictly(DefaultsByNamespace, parsed)
        for namespace in defaults.namespaces:
            defaults.of(namespace)
    except SpecInvalid as error:
        raise ValueError("; ".join(fault.removeprefix("spec.") for fault in error.faults)) from None
    except ValidationError as error:
        raise ValueError(f"namespaces.{namespace}, together with cluster: {error.errors()[0]['loc'][0]}: too many") from None
    return defaults


def _gang_schedulers(text: str) -> dict[str, str]:
    try:
        names = json.loads(text)
    except ValueError:
        names = None
    known = ("volcano", "coscheduling")
    if not isinstance(names, dict) or any(key not in known or not isinstance(name, str) for key, name in names.items()):
        raise ValueError('must be a JSON object of schedulers by kind, such as {"volcano": "volcano"}')
    return {kind: name for kind, name in names.items() if name}


def _prices(text: str) -> dict[str, float]:
    try:
        prices = json.loads(text)
    except ValueError:
        prices = None
    if not isinstance(prices, dict) or not all(
        isinstance(price, int | float) and not isinstance(price, bool) and 0 <= price < math.inf for price in prices.values()
    ):
        raise ValueError('must be a JSON object of prices by resource, such as {"nvidia.com/gpu": 2.5}')
    return {resource: float(price) for resource, price in prices.items()}
