"""A real Kubernetes for development and tests, built from Go modules and stopped without a trace.

`Cluster.up()` is the whole interface; `python -m finetune_devcluster` is the same on the command line.
"""

from finetune_devcluster.cluster import Cluster
from finetune_devcluster.errors import DevClusterError

__all__ = ["Cluster", "DevClusterError"]
