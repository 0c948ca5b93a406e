"""Acting: the calls that a plan asks for."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from finetune_api.reasons import Reason
from finetune_api.report import JobReference
from finetune_api.spec import FineTuneJobSpec
from finetune_api.trainer_config import ReportingConfig
from finetune_operator.desired.gang import build_pod_group
from finetune_operator.desired.group import build_service
from finetune_operator.desired.job import build_job
from finetune_operator.kube.client import JOBS, POD_GROUPS, SERVICES, ApiError, KubeClient, Resource
from finetune_operator.kube.store import Store
from finetune_operator.kueue.workloads import WorkloadBook
from finetune_operator.objects import controller_uid_of, name_of
from finetune_operator.observation import Observation, Refusal
from finetune_operator.plan.actions import Action, CreateJob, DeleteJob, PatchJob, PatchWorkload
from finetune_operator.settings import TrainerSettings
from finetune_operator.status.diagnosis import diagnose_refusal

log = logging.getLogger(__name__)


class Actor:
    """Carries out actions and puts the answers into the store, so that the next look sees them."""

    def __init__(
        self,
        client: KubeClient,
        store: Store,
        trainer: TrainerSettings,
        reporting: Callable[[], ReportingConfig | None],
        workloads: WorkloadBook | None = None,
    ) -> None:
        self._workloads = workloads or WorkloadBook()
        self._client = client
        self._store = store
        self._trainer = trainer
        self._reporting = reporting

    async def apply_action(self, action: Action, observation: Observation) -> Refusal | None:
        """Carry out one action; return why the API server refused it, where it did so for good.

        :raises ApiError: the call can be tried again.
        """
        match action:
            case CreateJob(attempt):
                return await self._create(attempt, observation)
            case PatchJob(name, uid, patch):
                metadata = {**patch.get("metadata", {}), "uid": uid}
                body = await self._client.merge_patch(JOBS, observation.ref.namespace, name, {**patch, "metadata": metadata})
                self._store.put(JOBS, body)
            case DeleteJob(name, uid):
                await self._delete(observation.ref.namespace, name, uid)
            case PatchWorkload(name, uid, patch):
                await self._patch_workload(observation.ref.namespace, name, uid, patch)
        return None

    async def _delete(self, namespace: str, name: str, uid: str) -> None:
        going = await self._client.delete(JOBS, namespace, name, uid=uid)
        # A watch that begins anew right now never tells of it: the next pass would delete the Job again.
        if going is not None:
            self._store.put(JOBS, going)
        elif (known := self._store.job(uid)) is not None:
            self._store.remove(JOBS, known)

    async def _patch_workload(self, namespace: str, name: str, uid: str, patch: Mapping[str, Any]) -> None:
        resource = self._workloads.resource
        if resource is None:
            return  # Kueue went meanwhile, and its Workloads with it
        metadata = {**patch.get("metadata", {}), "uid": uid}
        self._workloads.put(await self._client.merge_patch(resource, namespace, name, {**patch, "metadata": metadata}))

    def _settings_of(self, observation: Observation) -> TrainerSettings:
        given = observation.defaults
        if given is None:
            return self._trainer
        return replace(self._trainer, image=given.trainer_image or self._trainer.image, model_cache=given.model_cache or "")

    async def _create(self, attempt: int, observation: Observation) -> Refusal | None:
        assert observation.spec is not None  # noqa: S101  # no plan creates a Job without a valid specification
        manifest = build_job(
            observation.spec,
            observation.ref,
            attempt,
            trainer=self._settings_of(observation),
            reporting=self._reporting(),
            failures=observation.status.failures,
            grace_seconds=observation.grace_seconds,
        )
        if observation.spec.resources.nodes > 1:
            refusal = await self._create_group(observation.ref, observation.spec)
            if refusal is not None:
                return refusal
        namespace, name = observation.ref.namespace, name_of(manifest)
        try:
            body = await self._client.create(JOBS, namespace, manifest)
        except ApiError as error:
            if error.transient:
                raise
            if not error.conflict:
                diagnosis = diagnose_refusal(error.message)
                return Refusal(diagnosis.reason, diagnosis.message)
            # It exists: made by an earlier try whose answer was lost, or by someone else.
            body = await self._client.get(JOBS, namespace, name)
            if controller_uid_of(body) != observation.ref.uid:
                message = f"A Job named {name} exists and is not this run's. Delete or rename it, and this run's Job is created."
                return Refusal(Reason.NAME_TAKEN, message)
        self._store.put(JOBS, body)
        log.info(
            "job created", extra={"job": str(observation.ref.name), "namespace": namespace, "uid": observation.ref.uid, "attempt": attempt}
        )
        return None

    async def _create_group(self, ref: JobReference, spec: FineTuneJobSpec) -> Refusal | None:
        """Create what the pods of a run of several have in common, before the first of them looks for it. An earlier attempt may have."""
        gang = spec.scheduling.gang
        if gang is not None and gang not in self._trainer.gang_schedulers:
            message = (
                f"scheduling.gang is {gang}, which this operator is not set up for. Its administrator sets "
                f"gangScheduling.{gang}.schedulerName in the chart; or create the run anew without scheduling.gang."
            )
            return Refusal(Reason.POLICY_REFUSED, message)
        if (refusal := await self._create_once(SERVICES, "Service", build_service(ref), ref)) is not None or gang != "coscheduling":
            return refusal
        return await self._create_once(POD_GROUPS, "PodGroup", build_pod_group(spec, ref), ref)

    async def _create_once(self, resource: Resource, kind: str, manifest: Mapping[str, Any], ref: JobReference) -> Refusal | None:
        name = name_of(manifest)
        try:
            await self._client.create(resource, ref.namespace, manifest)
        except ApiError as error:
            if error.transient:
                raise
            if error.not_found and resource is POD_GROUPS:
                message = (
                    "scheduling.gang is coscheduling, but the cluster has no PodGroups of scheduling.x-k8s.io/v1alpha1. Install "
                    "scheduler-plugins with its CRDs; or create the run anew without scheduling.gang."
                )
                return Refusal(Reason.POLICY_REFUSED, message)
            if not error.conflict:
                diagnosis = diagnose_refusal(error.message)
                return Refusal(diagnosis.reason, diagnosis.message)
            body = await self._client.get(resource, ref.namespace, name)
            if controller_uid_of(body) != ref.uid:
                message = f"A {kind} named {name} exists and is not this run's. Delete it, and this run's Job is created."
                return Refusal(Reason.NAME_TAKEN, message)
        return None
