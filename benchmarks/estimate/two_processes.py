"""Holds the measurement of a divided model in one process that is told of others against two real processes, on tensors with contents.

python -m benchmarks.estimate.two_processes     # a minute; exit code 1 where any peak is another one, to the byte
"""

import contextlib
import multiprocessing
import socket
import sys
from typing import Any
from unittest import mock

from benchmarks.estimate.grid import FULL, GRADIENTS, UNQUANTISED, build_spec, llama
from finetune_api.spec import FineTuneJobSpec

CONFIG = llama(512, 1408, 6, 8, 2, 8000, pad_token_id=0)
CASES: dict[str, dict[str, Any]] = {
    "16 bits": {"quantization": UNQUANTISED},
    "full": FULL,
    "full, weights kept": GRADIENTS,
}
"""Packed rows: where they are not, transformers leaves out a mask that hides nothing, which can't be asked of tensors without contents."""


def build_case(name: str) -> FineTuneJobSpec:
    changes = {key: dict(value) for key, value in CASES[name].items()}
    training = {"sharding": "full", **changes.pop("training", {})}
    return build_spec(256, 2, 16, training=training, resources={"gpus": 2}, **changes)


def measure_really(rank: int, port: int, results: Any) -> None:
    """As one of two processes: measure each case, on tensors with contents."""
    import torch.distributed as dist  # noqa: PLC0415  seconds to import

    from benchmarks.estimate import fake_training  # noqa: PLC0415

    begin = dist.init_process_group

    def meet(*_: Any, **__: Any) -> None:
        store = dist.TCPStore("127.0.0.1", port, 2, is_master=rank == 0)  # type: ignore[attr-defined]
        begin("gloo", store=store, rank=rank, world_size=2)

    with (
        mock.patch.object(fake_training, "FakeTensorMode", return_value=contextlib.nullcontext()),
        mock.patch.object(fake_training, "_AllUsed", contextlib.nullcontext),
        mock.patch.object(dist, "init_process_group", meet),
    ):
        name = multiprocessing.current_process().name
        results.put((rank, name, fake_training.measure(CONFIG, build_case(name)).peak))


def main() -> int:
    from benchmarks.estimate.fake_training import measure  # noqa: PLC0415  seconds to import

    context = multiprocessing.get_context("spawn")
    differ = 0
    for name in CASES:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        results: Any = context.SimpleQueue()
        pair = [context.Process(target=measure_really, args=(rank, port, results), name=name) for rank in range(2)]
        for process in pair:
            process.start()
        for process in pair:
            process.join()
        if any(process.exitcode for process in pair):
            sys.stdout.write(f"{name}: a process failed\n")
            return 1
        peaks = sorted(results.get() for _ in pair)
        told = measure(CONFIG, build_case(name)).peak
        differ += any(peak != told for _, _, peak in peaks)
        sys.stdout.write(f"{name}: told of another {told:,} bytes; two processes {' and '.join(f'{peak:,}' for _, _, peak in peaks)}\n")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
