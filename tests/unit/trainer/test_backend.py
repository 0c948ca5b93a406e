"""What the processes of a run exchange tensors by."""

from finetune_trainer.group import choose_backend


def test_gpus_exchange_by_nccl_and_processors_by_gloo() -> None:
    assert choose_backend("cuda") == "nccl"
    assert choose_backend("cpu") == choose_backend("cpu", offloads=True) == "gloo"


def test_parts_in_the_nodes_memory_are_exchanged_from_there() -> None:
    """NCCL takes no tensor of a processor: without gloo beside it the first checkpoint, and the first gradient's norm, would fail."""
    assert choose_backend("cuda", offloads=True) == "cpu:gloo,cuda:nccl"
