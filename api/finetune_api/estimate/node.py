"""What a run takes of the node's memory for the parts of a divided model that lie there (``training.shardOffloading``)."""

from finetune_api.spec import ResourcesSpec


def compute_node_bytes(part: int, read: int, collected: int, resources: ResourcesSpec) -> int:
    """Return the most that the processes of one pod hold at once, in bytes: while they step and write checkpoints, or while they load.

    :param part: what one process holds for good: its part of the weights, in full fine-tuning of gradients and optimizer as well.
    :param read: the model as one process of the pod after the other reads it whole, while those before it hold their parts of it; 0 of a
        base that is quantised on the GPU.
    :param collected: what the first process brings together for a checkpoint.
    """
    processes = resources.gpus
    loading = read + (processes - 1) * read // (processes * resources.nodes)
    return max(processes * part + collected, loading)
