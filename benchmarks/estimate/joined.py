"""A model of which each of several processes holds all (DDP), on tensors without contents: torch's own reducer, with nobody to send to."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.testing._internal.distributed.fake_pg  # makes the backend known
from torch import nn
from torch._C._distributed_c10d import FakeStore
from torch.nn.parallel import distributed


class _Reducer:
    """torch's reducer, which does not sort its buckets anew after the first pass: that reads numbers, and takes no more memory."""

    def __init__(self, reducer: Any) -> None:
        self._reducer = reducer

    def _rebuild_buckets(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)


def _do_nothing(*_: Any, **__: Any) -> None:
    """Stands for what the processes tell one another. A Mock would keep every tensor that it is given."""


def _answer_at_once(_: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    done: Any = torch.futures.Future()
    done.set_result(bucket.buffer())
    return done


@contextmanager
def join_gradients(model: nn.Module, size: int) -> Iterator[nn.Module]:
    """Yield ``model`` as the first of ``size`` processes calls it, as accelerate wraps it: by torch's defaults."""
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=size)
    try:
        with (
            mock.patch.object(distributed, "_verify_param_shape_across_processes", _do_nothing),
            mock.patch.object(distributed, "_sync_module_states", _do_nothing),
        ):
            joined: Any = nn.parallel.DistributedDataParallel(model)
        joined.register_comm_hook(None, _answer_at_once)
        joined.reducer = _Reducer(joined.reducer)
        yield joined
    finally:
        dist.destroy_process_group()
