"""How a cluster names GPUs and parts of them: extended resources, and the labels that GPU feature discovery puts on their nodes.

It labels a node `<resource>.memory` (MiB), `.product` and `.count` for each resource: for whole GPUs, also where they are shared, and for
each MIG profile of the mixed strategy. Shares that were renamed have the labels of what is shared. The memory is that of the whole GPU (or
profile), however many share it; a product that is shared and not renamed ends in `-SHARED`.
"""

from typing import Final

GPU_RESOURCE: Final = "nvidia.com/gpu"
"""A whole GPU."""
_SHARED: Final = ".shared"
"""The device plugin's own suffix for a resource that is shared (`renameByDefault`)."""


def memory_label(resource: str) -> str:
    """Return the node label with the memory of one device of ``resource``, in MiB."""
    return f"{resource.removesuffix(_SHARED)}.memory"


def product_label(resource: str) -> str:
    """Return the node label with the product name of the devices of ``resource``."""
    return f"{resource.removesuffix(_SHARED)}.product"
