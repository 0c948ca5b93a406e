"""kopf's part: watching. Every event goes to the intake, and that is all that is done with it here.

Most go there before kopf reads them (:mod:`finetune_operator.kube.tapped_stream`); the handlers have what is left.
"""

from collections.abc import Callable
from typing import Any

import kopf

from finetune_operator.intake import SELECTORS, Intake
from finetune_operator.kube.client import Resource
from finetune_operator.kube.connection import find_connection
from finetune_operator.kube.watch_session import Places, open_watch_session


class NoDiffBase(kopf.DiffBaseStorage):
    """Keeps nothing: level-triggered work needs no record of what was last seen, and GitOps sees no annotation."""

    def build(self, *, body: kopf.Body, extra_fields: Any = None) -> kopf.BodyEssence:  # noqa: ANN401, ARG002
        """Return nothing to compare, which saves a deep copy of each object at each event."""
        return kopf.BodyEssence({})

    def fetch(self, *, body: kopf.Body) -> kopf.BodyEssence | None:  # noqa: ARG002
        """Return that nothing was kept."""
        return None

    def store(self, *, body: kopf.Body, patch: kopf.Patch, essence: kopf.BodyEssence) -> None:
        """Keep nothing."""


class NoProgress(kopf.ProgressStorage):
    """Keeps nothing: ``on.event`` handlers have no progress."""

    def fetch(self, *, key: Any, body: kopf.Body) -> None:  # noqa: ANN401
        """Return that nothing was kept."""

    def store(self, *, key: Any, record: Any, body: kopf.Body, patch: kopf.Patch) -> None:  # noqa: ANN401
        """Keep nothing."""

    def purge(self, *, key: Any, body: kopf.Body, patch: kopf.Patch) -> None:  # noqa: ANN401
        """Keep nothing."""

    def touch(self, *, body: kopf.Body, patch: kopf.Patch, value: Any) -> None:  # noqa: ANN401
        """Keep nothing."""

    def clear(self, *, essence: kopf.BodyEssence) -> kopf.BodyEssence:
        """Return what was given."""
        return essence


def build_registry(intake: Intake, on_end: Callable[[], None]) -> kopf.OperatorRegistry:
    """Return kopf's registry with one handler for each kind that is watched. ``on_end`` is called when kopf stops, for whatever reason."""
    registry = kopf.OperatorRegistry()
    places = Places(intake)

    @kopf.on.login(registry=registry)
    async def login(**_: Any) -> kopf.AiohttpSession:  # noqa: ANN401
        return open_watch_session(find_connection(), SELECTORS, places)

    @kopf.on.cleanup(registry=registry)
    async def end(**_: Any) -> None:  # noqa: ANN401
        on_end()

    def watch(resource: Resource) -> None:
        @kopf.on.event(resource.group, resource.version, resource.plural, registry=registry, id=f"watch-{resource.plural}")
        async def take(event: kopf.RawEvent, **_: Any) -> None:  # noqa: ANN401
            intake.take(resource, event["type"], event["object"])

    for resource in SELECTORS:
        watch(resource)
    return registry


def build_kopf_settings() -> kopf.OperatorSettings:
    """Return kopf's settings: watch, and nothing else."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # Events are the reconciler's, after the status they speak of
    settings.scanning.disabled = True  # no CRD or namespace comes or goes while we run
    settings.persistence.diffbase_storage = NoDiffBase()
    settings.persistence.progress_storage = NoProgress()
    settings.watching.server_timeout = 270
    settings.watching.connect_timeout = 10
    settings.watching.inactivity_timeout = 70
    settings.watching.chunk_size = 500
    settings.networking.request_timeout = 30
    settings.queueing.idle_timeout = 1.0  # a task for each object that was seen, for this long
    settings.networking.error_backoffs = (0.1, 0.5, 1, 2, 4, 8, 15, 15, 15)
    for resource, selectors in SELECTORS.items():
        key = (resource.group, resource.version, resource.plural)
        if "labelSelector" in selectors:
            settings.watching.label_selectors[key] = selectors["labelSelector"]
        if "fieldSelector" in selectors:
            settings.watching.field_selectors[key] = selectors["fieldSelector"]
    return settings
