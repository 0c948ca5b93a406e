"""What the observer keeps of a run goes with the run."""

import gc
import weakref

from finetune_api.defaults import DefaultsByNamespace
from finetune_operator.kube.client import FINETUNEJOBS
from finetune_operator.kube.store import Store
from finetune_operator.observe import Observer
from tests.support.world import UID, build_finetunejob


def test_a_specification_is_read_once_for_each_generation() -> None:
    store = Store()
    observer = Observer(store, simulated_gpus=False)
    store.put(FINETUNEJOBS, build_finetunejob(version=1))
    first, again = observer.observe(UID), observer.observe(UID)
    store.put(FINETUNEJOBS, build_finetunejob({"suspend": True}, version=2, generation=2))
    second = observer.observe(UID)
    assert first is not None
    assert again is not None
    assert second is not None
    assert second.spec is not None
    assert first.spec is again.spec
    assert second.spec.suspend


def test_the_specification_of_a_run_that_is_gone_is_let_go() -> None:
    store = Store()
    defaults = DefaultsByNamespace.model_validate({"cluster": {"modelCache": "shared"}})
    observer = Observer(store, simulated_gpus=False, defaults=defaults)
    body = build_finetunejob()
    store.put(FINETUNEJOBS, body)
    observation = observer.observe(UID)
    assert observation is not None
    spec = weakref.ref(observation.spec)
    store.remove(FINETUNEJOBS, body)
    assert observer.observe(UID) is None
    del observation
    gc.collect()
    assert spec() is None
