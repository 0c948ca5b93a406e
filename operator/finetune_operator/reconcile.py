"""Reconciling one FineTuneJob: observe, plan, act, and say in status what is so."""

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Final, Protocol

from finetune_api.names import LABEL_JOB_UID
from finetune_api.report import JobReference
from finetune_api.status import FineTuneJobStatus
from finetune_operator.act import Actor
from finetune_operator.desired.names import build_job_name
from finetune_operator.kube.client import EVENTS, FINETUNEJOBS, PODS, ApiError, KubeClient
from finetune_operator.kube.status_writer import StatusWriter
from finetune_operator.kube.store import Store
from finetune_operator.log_context import add_subject
from finetune_operator.observation import Observation, Refusal
from finetune_operator.observe import Observer
from finetune_operator.plan.actions import CreateJob, compute_plan
from finetune_operator.recording import step
from finetune_operator.status.compute import compute_status
from finetune_operator.status.events import build_event
from finetune_operator.status.outcome import lacks_ends
from finetune_operator.status.patch import build_status_patch

RETRY_REFUSED_SECONDS: Final = 10.0
"""Time between two tries to create a Job that quota or policy refused: nothing tells when that changes."""

STATUS_FOLLOWS_SECONDS: Final = 0.1
"""Time from a run's first Job to its first status: the Jobs of other new runs go before it, and what happens next needs no second write."""

log = logging.getLogger(__name__)


class Closes(Protocol):
    """What must know that a run has ended."""

    def close(self, uid: str) -> None:
        """Take no more reports for the FineTuneJob with this UID."""


class Usage(Protocol):
    """What is told of each status that was written."""

    def note(self, ref: JobReference, gpu_resource: str | None, before: FineTuneJobStatus, after: FineTuneJobStatus) -> None:
        """Add what ``after`` says beyond ``before``."""


class Traces(Protocol):
    """What is told of attempts that end."""

    def note(self, observation: Observation, before: FineTuneJobStatus, after: FineTuneJobStatus) -> None:
        """Take note of ``after``, which was written in the place of ``before`` where ``observation`` had been seen."""


class Reconciler:
    """Brings one FineTuneJob at a time closer to what it asks for."""

    def __init__(
        self,
        client: KubeClient,
        store: Store,
        observer: Observer,
        actor: Actor,
        reports: Closes,
        clock: Callable[[], datetime],
        usage: Usage | None = None,
        traces: Traces | None = None,
    ) -> None:
        self._usage = usage
        self._traces = traces
        self._client = client
        self._store = store
        self._writer = StatusWriter(client, store, FINETUNEJOBS)
        self._observer = observer
        self._actor = actor
        self._reports = reports
        self._clock = clock

    async def reconcile(self, uid: str) -> float | None:
        """Do what is to be done now; return in how many seconds to look again, if nothing happens before.

        Dying between any two calls is safe: what was done shows in the next observation, and doing it again changes nothing.

        :raises ApiError: a call failed; try again later.
        """
        with step("observe"):
            observation = self._observer.observe(uid)
            if observation is None:
                self._reports.close(uid)
                return None
            add_subject(job=f"{observation.ref.namespace}/{observation.ref.name}", attempt=observation.status.attempt)
            if lacks_ends(observation):
                observation = await self._look_for_ends(observation)
        with step("plan"):
            plan = compute_plan(observation, self._clock())
        refusal: Refusal | None = None
        begins = _needs_no_claim(observation) and any(isinstance(action, CreateJob) for action in plan.actions)
        for action in plan.actions:
            with step(f"act: {type(action).__name__}"):
                if isinstance(action, CreateJob):
                    add_subject(attempt=action.attempt)
                    if not begins:
                        observation = await self._claim(action.attempt, observation)
                try:
                    refusal = await self._actor.apply_action(action, observation) or refusal
                except ApiError:
                    if begins:
                        await self._claim(0, observation)  # status says that the run was seen, and the next try is an ordinary one
                    raise
        if begins and refusal is None:
            return STATUS_FOLLOWS_SECONDS
        if plan.actions:
            observation = self._observer.observe(uid, refusal)
            if observation is None:
                return None
        with step("publish"):
            is_written = await self._publish_status(observation)
        if refusal is not None:
            return RETRY_REFUSED_SECONDS
        is_as_planned = not plan.actions and not is_written
        return plan.look_again_in if is_as_planned or _has_ended(observation) else self._look_again(uid)

    def _look_again(self, uid: str) -> float | None:
        """Return when something follows from the status just written. No watch event tells: the store has seen the write."""
        observation = self._observer.observe(uid)
        if observation is None:
            return None
        plan = compute_plan(observation, self._clock())
        follows = _has_ended(observation) or any(isinstance(action, CreateJob) for action in plan.actions)
        return 0.0 if plan.actions and follows else plan.look_again_in

    async def _look_for_ends(self, observation: Observation) -> Observation:
        """Ask for the run's pods: their watch is behind that of the Jobs, and a verdict without them would be wrong for good."""
        selector = f"{LABEL_JOB_UID}={observation.ref.uid}"
        listing = await self._client.list(PODS, observation.ref.namespace, labelSelector=selector)
        for pod in listing.items:
            self._store.put(PODS, pod)
        return self._observer.observe(observation.ref.uid) or observation

    async def _claim(self, attempt: int, observation: Observation) -> Observation:
        """Write the attempt into status before its Job is created.

        The write succeeds only on the newest version of the resource. So a Job is never made from a stale view: not for a run that
        has ended meanwhile, nor twice by two operators. Where the attempt is claimed already (the operator died in between, or the
        Job was deleted by hand), a patch that changes nothing makes the same check and writes nothing.
        """
        nodes = observation.spec.resources.nodes if observation.spec is not None else 1
        name = build_job_name(observation.ref.name, observation.ref.uid, attempt, nodes=nodes)
        if observation.status.attempt == attempt and observation.status.job_name == name:
            await self._writer.write(observation.body, {"attempt": attempt})
            return observation
        claim: dict[str, object] = {"attempt": attempt, "job_name": name, "defaults": observation.defaults}
        if observation.status.attempt != attempt:
            claim["attempt_interruptions"] = 0
        claimed = replace(observation, status=observation.status.model_copy(update=claim))
        await self._publish_status(replace(claimed, job=None, attempt=attempt, pods=()), written=observation.status)
        return claimed

    async def _publish_status(self, observation: Observation, written: FineTuneJobStatus | None = None) -> bool:
        """Write the status that follows from ``observation``, where it differs from what is stored; return whether it did.

        :param written: the status as it was before this pass, where a claim comes with ``observation`` already.
        """
        desired = compute_status(observation, self._clock())
        if desired is observation.status:
            return False  # ended or being deleted: left as it is, also where another release would write it otherwise
        patch = build_status_patch(observation.stored_status, desired)
        if not patch:
            return False
        if desired.phase is not None and desired.phase.is_terminal:
            self._reports.close(observation.ref.uid)
        await self._writer.write(observation.body, patch)
        if desired.phase is not observation.status.phase:
            log.info("phase is %s", desired.phase, extra={"attempt": desired.attempt})
        if self._usage is not None:
            spec = observation.spec
            self._usage.note(observation.ref, spec.resources.gpu_resource if spec else None, written or observation.status, desired)
        if self._traces is not None:
            self._traces.note(observation, written or observation.status, desired)
        if event := build_event(observation.ref, written or observation.status, desired, self._clock()):
            await self._post_event(event)
        return True

    async def _post_event(self, event: dict[str, object]) -> None:
        """Post an Event. Status holds the truth already, so a lost Event is only worth a line in the log."""
        try:
            await self._client.create(EVENTS, str(event["metadata"]["namespace"]), event)  # type: ignore[index]
        except ApiError as error:
            if not error.conflict:
                log.warning("event not posted: %s", error)


def _needs_no_claim(observation: Observation) -> bool:
    """True of a run that nobody can have carried out: it is younger than this operator's reign, and no attempt was ever claimed.

    One that the platform gives something to is claimed all the same: what it was given must be written before anything is made of it.
    """
    return observation.is_new and observation.status.attempt is None and observation.defaults is None


def _has_ended(observation: Observation) -> bool:
    return observation.status.phase is not None and observation.status.phase.is_terminal
