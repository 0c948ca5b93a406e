"""Writing status: only on the version that the decision was made on."""

from collections.abc import Mapping
from typing import Any

from finetune_api.report import JobReference
from finetune_operator.kube.client import ApiError, KubeClient, Resource
from finetune_operator.kube.store import Store
from finetune_operator.objects import uid_of


class StatusWriter:
    """Patches the status of one kind of resource, and keeps the answers in the store."""

    def __init__(self, client: KubeClient, store: Store, resource: Resource) -> None:
        self._client = client
        self._store = store
        self._resource = resource

    async def write(self, ref: JobReference, version: str, patch: Mapping[str, Any]) -> None:
        """Apply ``patch`` to the status of ``ref`` if it is still at ``version``.

        :raises ApiError: it is not (409), and the newest version is then in the store; it is gone (404), and then from the store as well;
            or the call failed.
        """
        body = {"metadata": {"uid": ref.uid, "resourceVersion": version}, "status": patch}
        try:
            answer = await self._client.merge_patch(self._resource, ref.namespace, ref.name, body, subresource="status")
        except ApiError as error:
            if error.conflict:
                await self._refresh(ref)
            # A server that does not serve the kind (yet) answers 404 as well, but names no object.
            elif error.not_found and f'"{ref.name}" not found' in error.message:
                self._forget(ref)
            raise
        self._store.put(self._resource, answer)

    async def _refresh(self, ref: JobReference) -> None:
        newest = await self._client.get(self._resource, ref.namespace, ref.name)
        if uid_of(newest) == ref.uid:
            self._store.put(self._resource, newest)
        else:
            self._forget(ref)

    def _forget(self, ref: JobReference) -> None:
        if (stale := self._store.find(self._resource, ref.uid)) is not None:
            self._store.remove(self._resource, stale)
