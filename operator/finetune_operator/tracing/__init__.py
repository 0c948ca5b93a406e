"""OpenTelemetry traces, one for each attempt of a run. Nothing of OpenTelemetry is loaded before :func:`open_traces` is called."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_operator.kube.store import Store
    from finetune_operator.settings import OperatorSettings, TracingSettings
    from finetune_operator.tracing.traces import Traces


class TracingUnavailable(RuntimeError):
    """Tracing is asked for, and OpenTelemetry is not installed."""


def open_traces(settings: "TracingSettings", operator: "OperatorSettings", store: "Store") -> "Traces":
    """Load OpenTelemetry and begin to send spans.

    :raises TracingUnavailable: it is not installed.
    """
    try:
        from finetune_operator.tracing.traces import Traces  # noqa: PLC0415  loaded only where it is wanted
    except ImportError as error:
        message = f"tracing needs OpenTelemetry, which is not here ({error}): install finetune-operator[operator,tracing]"
        raise TracingUnavailable(message) from error
    return Traces.open(settings, operator.identity, operator.namespace, store)
