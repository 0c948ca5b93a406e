"""Writing status: only on what the decision was made on."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from finetune_operator.kube.client import ApiError, KubeClient, Manifest, Resource
from finetune_operator.kube.conditional_patch import build_conditional_patch
from finetune_operator.kube.projection import project, says_the_same
from finetune_operator.kube.store import Store
from finetune_operator.objects import Object, name_of, namespace_of, uid_of


class StatusWriter:
    """Patches the status of one kind of resource, and keeps the answers in the store."""

    def __init__(self, client: KubeClient, store: Store, resource: Resource) -> None:
        self._client = client
        self._store = store
        self._resource = resource

    async def write(self, decided_on: Object, patch: Mapping[str, Any]) -> None:
        """Apply ``patch`` to the status of the resource that was ``decided_on``, if it is still that version or one that says the same.

        A resource that others write to all the time would otherwise wait for a pause: each conflict is a longer delay before the next
        try, and by then there is another version.

        :raises ApiError: it has changed (409), and the newest version is then in the store; it is gone (404), and then from the store as
            well; or the call failed.
        """
        try:
            answer = await self._send(decided_on, patch)
        except ApiError as error:
            # A server that does not serve the kind (yet) answers 404 as well, but names no object.
            if error.not_found and f'"{name_of(decided_on)}" not found' in error.message:
                self._forget(decided_on)
            raise
        self._store.put(self._resource, answer)

    async def _send(self, decided_on: Object, patch: Mapping[str, Any]) -> Manifest:
        metadata = {"uid": uid_of(decided_on), "resourceVersion": decided_on["metadata"]["resourceVersion"]}
        target = (self._resource, namespace_of(decided_on), name_of(decided_on))
        try:
            return await self._client.merge_patch(*target, {"metadata": metadata, "status": patch}, subresource="status")
        except ApiError as error:
            if not error.conflict:
                raise
            newest = await self._refresh(decided_on)
            if newest is None or not says_the_same(project(self._resource, decided_on), newest):
                raise
            return await self._write_among_others(newest, patch, error)

    async def _write_among_others(self, seen: Object, patch: Mapping[str, Any], conflict: ApiError) -> Manifest:
        operations = build_conditional_patch(seen, patch)
        try:
            return await self._client.json_patch(self._resource, namespace_of(seen), name_of(seen), operations, subresource="status")
        except ApiError as error:
            if error.status == HTTPStatus.UNPROCESSABLE_ENTITY:  # it says something else by now
                raise conflict from error
            raise

    async def _refresh(self, known: Object) -> Object | None:
        """Take the newest version into the store and return what is kept of it; None where another resource has the name."""
        newest = await self._client.get(self._resource, namespace_of(known), name_of(known))
        if uid_of(newest) != uid_of(known):
            self._forget(known)
            return None
        self._store.put(self._resource, newest)
        return project(self._resource, newest)

    def _forget(self, known: Object) -> None:
        if (stale := self._store.find(self._resource, uid_of(known))) is not None:
            self._store.remove(self._resource, stale)
