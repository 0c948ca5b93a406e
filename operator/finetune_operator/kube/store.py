"""The newest state of the world that the watches have shown.

Watch events, lists and the answers to our own writes all pass through :meth:`Store.put`; the newer resourceVersion wins, so that
a late or replayed event never takes back what a write has shown, and a reconciliation always sees the operator's own writes.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final

from finetune_api.names import LABEL_JOB_UID, LABEL_SWEEP_UID
from finetune_api.status import Phase
from finetune_operator.kube.client import EVENTS, FINETUNEJOBS, FINETUNESWEEPS, JOBS, PODS, Resource
from finetune_operator.kube.projection import Kept, project, says_the_same
from finetune_operator.objects import Object, controller_uid_of, label_of, namespace_of, parse_time, uid_of, version_of

TOMBSTONES_KEPT: Final = 20_000
"""UIDs of deleted objects that are remembered, so that a late answer does not bring one back."""

_INDEX_LABELS: Final = {JOBS: LABEL_JOB_UID, PODS: LABEL_JOB_UID, FINETUNEJOBS: LABEL_SWEEP_UID}
"""The label by which the objects of a kind are found."""


class Store:
    """Objects by kind and UID, with the FineTuneJob that each one belongs to; a FineTuneSweep belongs to itself."""

    def __init__(self, on_trial: Callable[[str], None] = lambda _: None) -> None:
        """Make an empty store.

        :param on_trial: is told the UID of a sweep whenever a FineTuneJob of it changes or goes, be it by our own hand.
        """
        self._on_trial = on_trial
        self._objects: dict[Resource, dict[str, Kept]] = {FINETUNEJOBS: {}, FINETUNESWEEPS: {}, JOBS: {}, PODS: {}, EVENTS: {}}
        self._indexes: dict[Resource, defaultdict[str, set[str]]] = {kind: defaultdict(set) for kind in _INDEX_LABELS}
        self._warning_of: dict[str, str] = {}
        self._tombstones: OrderedDict[str, None] = OrderedDict()
        self._begun: datetime | None = None
        self._born_since: set[str] = set()

    def begin(self, time: datetime | None) -> None:
        """Take what the store holds for all that anybody else may have worked on, up to ``time`` by the API server's clock.

        To be called after a complete list of the FineTuneJobs, by the one operator that works from then on.
        """
        self._begun = time
        self._born_since.clear()

    def is_born_since(self, uid: str) -> bool:
        """True of a FineTuneJob that was created after :meth:`begin`: not listed by then, and younger by its own time too."""
        return uid in self._born_since

    def keep(self, resource: Resource, body: Object) -> Kept:
        """Return what is kept of ``body``: the object that is here where it is the same version, so that a list takes no room twice."""
        known = self._objects[resource].get(uid_of(body))
        return known if known is not None and version_of(known) == version_of(body) else project(resource, body)

    def _weigh(self, resource: Resource, body: Object) -> Kept | None:
        """Return what is to be kept of ``body`` if it tells anything new.

        Of one that differs in nothing that is kept, the newer resourceVersion is taken down, and that is all.
        """
        uid = uid_of(body)
        known = self._objects[resource].get(uid)
        if uid in self._tombstones or (known is not None and version_of(known) >= version_of(body)):
            return None
        kept = project(resource, body)
        if known is not None and says_the_same(known, kept):
            self._objects[resource][uid] = kept
            return None
        return kept

    def put(self, resource: Resource, body: Object) -> str | None:
        """Keep ``body`` if it is newer than what is known.

        Returns the UID of the FineTuneJob concerned, or None if nothing changed that is kept.
        """
        kept = self._weigh(resource, body)
        if kept is None:
            return None
        uid = uid_of(body)
        known = self._objects[resource].get(uid)
        self._objects[resource][uid] = kept
        if known is None and resource is FINETUNEJOBS and self._is_younger(body):
            self._born_since.add(uid)
        if resource is EVENTS:
            self._keep_newest_warning(body)
        if (key := _index_key_of(resource, body)) is not None:
            self._indexes[resource][key].add(uid)
            if resource is FINETUNEJOBS:
                self._on_trial(key)
        return self._owner_of(resource, body)

    def remove(self, resource: Resource, body: Object) -> str | None:
        """Forget ``body``; return the UID of the FineTuneJob concerned."""
        uid = uid_of(body)
        self._tombstones[uid] = None
        while len(self._tombstones) > TOMBSTONES_KEPT:
            self._tombstones.popitem(last=False)
        self._objects[resource].pop(uid, None)
        self._born_since.discard(uid)
        if resource is EVENTS and self._warning_of.get(target := body["involvedObject"].get("uid", "")) == uid:
            del self._warning_of[target]
        key = _index_key_of(resource, body)
        if key is not None and key in (index := self._indexes[resource]):
            index[key].discard(uid)
            if not index[key]:
                del index[key]
            if resource is FINETUNEJOBS:
                self._on_trial(key)
        return self._owner_of(resource, body)

    def replace(self, resource: Resource, bodies: Iterable[Object], version: int, namespace: str | None = None) -> Iterator[str]:
        """Take over a complete list (of ``namespace``, or of all) as of ``version``.

        Yields the UIDs of the FineTuneJobs concerned by what appeared, changed or went.
        """
        listed = {uid_of(body): body for body in bodies}
        for body in listed.values():
            if owner := self.put(resource, body):
                yield owner
        # What is newer than the list was made while it was under way: it isn't missing.
        gone = [
            body
            for uid, body in self._objects[resource].items()
            if uid not in listed and version_of(body) <= version and namespace in (None, namespace_of(body))
        ]
        for body in gone:
            if owner := self.remove(resource, body):
                yield owner

    def find(self, resource: Resource, uid: str) -> Object | None:
        """Return the object of this kind with this UID."""
        return self._objects[resource].get(uid)

    def finetunejob(self, uid: str) -> Object | None:
        """Return the FineTuneJob with this UID."""
        return self._objects[FINETUNEJOBS].get(uid)

    def uids(self, resource: Resource) -> list[str]:
        """Return the UIDs of all objects of this kind."""
        return list(self._objects[resource])

    def finetunejobs(self) -> list[Object]:
        """Return every FineTuneJob."""
        return list(self._objects[FINETUNEJOBS].values())

    def waits_for_node(self, uid: str) -> bool:
        """True of a FineTuneJob that has not come as far as a node, by its status."""
        body = self.finetunejob(uid)
        return body is not None and body.get("status", {}).get("phase") in (None, Phase.PENDING, Phase.QUEUED)

    def jobs_of(self, uid: str) -> list[Object]:
        """Return the Jobs that the FineTuneJob with this UID controls."""
        jobs = (self._objects[JOBS][job] for job in self._indexes[JOBS].get(uid, ()))
        return [job for job in jobs if controller_uid_of(job) == uid]

    def trials_of(self, uid: str) -> list[Object]:
        """Return the FineTuneJobs that the FineTuneSweep with this UID controls."""
        trials = (self._objects[FINETUNEJOBS][trial] for trial in self._indexes[FINETUNEJOBS].get(uid, ()))
        return [trial for trial in trials if controller_uid_of(trial) == uid]

    def pods_of(self, uid: str) -> list[Object]:
        """Return the pods that carry the label of the FineTuneJob with this UID; whose they are is for the caller to check."""
        return [self._objects[PODS][pod] for pod in self._indexes[PODS].get(uid, ())]

    def pod(self, uid: str) -> Object | None:
        """Return the pod with this UID."""
        return self._objects[PODS].get(uid)

    def job(self, uid: str) -> Object | None:
        """Return the Job with this UID."""
        return self._objects[JOBS].get(uid)

    def warning_of(self, job_uid: str) -> Object | None:
        """Return the newest Event that says why the Job with this UID could not create a pod."""
        event = self._warning_of.get(job_uid)
        return self._objects[EVENTS].get(event) if event else None

    def _is_younger(self, body: Object) -> bool:
        created = parse_time(body["metadata"].get("creationTimestamp"))
        return self._begun is not None and created is not None and created > self._begun

    def _keep_newest_warning(self, event: Object) -> None:
        target = event["involvedObject"].get("uid", "")
        known = self.warning_of(target)
        if known is None or version_of(known) <= version_of(event):
            self._warning_of[target] = uid_of(event)

    def _owner_of(self, resource: Resource, body: Object) -> str | None:
        if resource in (FINETUNEJOBS, FINETUNESWEEPS):
            return uid_of(body)
        if resource is EVENTS:
            job = self._objects[JOBS].get(body["involvedObject"].get("uid", ""))
            return label_of(job, LABEL_JOB_UID) if job is not None else None
        return label_of(body, LABEL_JOB_UID)


def _index_key_of(resource: Resource, body: Object) -> str | None:
    label = _INDEX_LABELS.get(resource)
    return label_of(body, label) if label is not None else None
