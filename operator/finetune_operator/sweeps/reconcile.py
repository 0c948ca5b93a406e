"""Reconciling one FineTuneSweep: observe, plan, act, and say in status what is so."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final

from finetune_api.names import LABEL_SUSPENDED_BY_SWEEP, SWEEP_KIND
from finetune_api.reasons import Reason
from finetune_api.status import ConditionType, Phase
from finetune_api.sweep import FineTuneSweepStatus
from finetune_api.sweep.spec import FineTuneSweepSpec
from finetune_operator.kube.client import EVENTS, FINETUNEJOBS, FINETUNESWEEPS, ApiError, KubeClient
from finetune_operator.kube.status_writer import StatusWriter
from finetune_operator.kube.store import Store
from finetune_operator.objects import Object, controller_uid_of
from finetune_operator.status.events import build_event_manifest
from finetune_operator.status.patch import build_status_patch
from finetune_operator.sweeps.manifest import build_trial_job
from finetune_operator.sweeps.observation import SweepObservation
from finetune_operator.sweeps.observe import SweepObserver
from finetune_operator.sweeps.plan import MakeTrial, SetSuspension, TrialView, compute_sweep_plan, compute_views
from finetune_operator.sweeps.status import compute_refused_status, compute_sweep_status

RETRY_REFUSED_SECONDS: Final = 10.0
"""Time between two tries to make a FineTuneJob that was refused: nothing tells when that changes."""

log = logging.getLogger(__name__)


class SweepReconciler:
    """Brings one FineTuneSweep at a time closer to what it asks for."""

    def __init__(
        self, client: KubeClient, store: Store, observer: SweepObserver, notice: Callable[[str], None], clock: Callable[[], datetime]
    ) -> None:
        """Make a reconciler.

        :param notice: is told the UID of each FineTuneJob that was written: the store knows it then, and its watch tells nothing new.
        """
        self._client = client
        self._store = store
        self._observer = observer
        self._notice = notice
        self._writer = StatusWriter(client, store, FINETUNESWEEPS)
        self._clock = clock

    async def reconcile(self, uid: str) -> float | None:
        """Do what is to be done now; return in how many seconds to look again, if nothing happens before.

        Dying between any two calls is safe: trials have names that follow from the specification, so that what was done is met again.

        :raises ApiError: a call failed; try again later.
        """
        observation = self._observer.observe(uid)
        if observation is None or observation.deleting or _has_ended(observation.status):
            return None
        spec = observation.spec
        if spec is None:
            await self._publish(observation, compute_refused_status(observation, self._clock()))
            return None
        views = compute_views(observation, spec)
        plan = compute_sweep_plan(observation, spec, views)
        made = [action for action in plan.actions if isinstance(action, MakeTrial)]
        if made:
            observation = await self._claim(observation, spec, views, made)
        obstacles = [await self._make(action, observation, spec) for action in made]
        for action in plan.actions:
            if isinstance(action, SetSuspension):
                await self._set_suspension(action, observation)
        obstacle = next(filter(None, obstacles), None)
        if obstacle is not None or not made:
            observation = replace(observation, obstacle=obstacle)
            await self._publish(observation, compute_sweep_status(observation, spec, views, self._clock(), complete=plan.complete))
        return RETRY_REFUSED_SECONDS if obstacle is not None else None

    async def _claim(
        self, observation: SweepObservation, spec: FineTuneSweepSpec, views: Sequence[TrialView], made: Sequence[MakeTrial]
    ) -> SweepObservation:
        """Write the trials into status before they are made.

        The write succeeds only on the newest version of the sweep: no trial is made from a stale view, such as one that has ended
        and whose FineTuneJob a person has deleted since.
        """
        names = {action.trial.build_name(observation.ref.name) for action in made}
        claimed = [replace(view, phase=Phase.PENDING) if view.name in names else view for view in views]
        status = compute_sweep_status(observation, spec, claimed, self._clock(), complete=False)
        await self._publish(observation, status, always=True)
        return self._observer.observe(observation.ref.uid) or observation

    async def _make(self, action: MakeTrial, observation: SweepObservation, spec: FineTuneSweepSpec) -> str | None:
        """Create the FineTuneJob of a trial; return what stands in the way, if it is something that only a person can move."""
        manifest = build_trial_job(spec, observation.ref, action.trial)
        name = manifest["metadata"]["name"]
        try:
            body = await self._client.create(FINETUNEJOBS, observation.ref.namespace, manifest)
        except ApiError as error:
            if error.conflict:
                body = await self._client.get(FINETUNEJOBS, observation.ref.namespace, name)
                if controller_uid_of(body) != observation.ref.uid:
                    return f"FineTuneJob {name} exists and is not of this sweep: delete it, or give the sweep another name."
            elif error.transient or error.not_found:
                raise
            else:
                return f"FineTuneJob {name} is refused: {error.message}"
        self._keep(body)
        return None

    async def _set_suspension(self, action: SetSuspension, observation: SweepObservation) -> None:
        labels = {LABEL_SUSPENDED_BY_SWEEP: "true" if action.suspend else None}
        patch = {"metadata": {"uid": action.uid, "labels": labels}, "spec": {"suspend": action.suspend}}
        try:
            body = await self._client.merge_patch(FINETUNEJOBS, observation.ref.namespace, action.name, patch)
        except ApiError as error:
            if error.not_found or error.conflict:
                return  # gone, or another by its name: its watch will tell
            raise
        self._keep(body)

    def _keep(self, body: Object) -> None:
        if uid := self._store.put(FINETUNEJOBS, body):
            self._notice(uid)

    async def _publish(self, observation: SweepObservation, status: FineTuneSweepStatus, *, always: bool = False) -> None:
        patch = build_status_patch(observation.stored_status, status)
        if not patch and not always:
            return
        await self._writer.write(observation.body, patch or {"observedGeneration": observation.generation})
        if _has_ended(status):
            await self._tell(observation, status)

    async def _tell(self, observation: SweepObservation, status: FineTuneSweepStatus) -> None:
        """Post the Event of the sweep's end. Status holds the truth already, so a lost one is only worth a line in the log."""
        end = next(condition for condition in status.conditions if condition.type == ConditionType.SUCCEEDED)
        event = build_event_manifest(
            observation.ref, SWEEP_KIND, Reason(end.reason), end.message, self._clock(), warning=end.status == "False"
        )
        try:
            await self._client.create(EVENTS, observation.ref.namespace, event)
        except ApiError as error:
            if not error.conflict:
                log.warning("event not posted: %s", error)


def _has_ended(status: FineTuneSweepStatus) -> bool:
    return status.phase is not None and status.phase.is_terminal
