"""A stand-in for a kubelet where no containers can run: it runs the container of a pod as a local process.

It registers a node, and for each pod bound to it starts the command of the pod's only container, with its environment,
its volumes as folders and its token; it ends the process as a kubelet would, and writes the same status. It is a
stand-in, and says so when it starts, on its node and in an event of every pod. What it does not do:

- isolate anything: a process sees this machine's files, network and processes, as the user that runs the node. Security
  contexts, resource limits and network policies are ignored.
- unpack images: the name of an image is looked up in a table of local commands (`Cluster.map_image`).
- mount: a container's path `P` lies at `$FINETUNE_ROOT/P`. Environment values and arguments that are, or begin with, the
  path of a volume are rewritten to it; a program that has a path of its own must look at `FINETUNE_ROOT`. The file of
  the termination message is also named by `FINETUNE_TERMINATION_MESSAGE_PATH`.
- route: there are no pod addresses and no ClusterIPs. In Python programs, names of Services lead to the local port of a
  pod behind them (`python_path/sitecustomize.py`); other programs do not find them.
- init containers, several containers, liveness probes, claims and host paths: such pods fail and say why.
"""
