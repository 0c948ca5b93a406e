"""The command line: `python -m finetune_devcluster`."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from finetune_devcluster import binaries, capabilities
from finetune_devcluster.cluster import Cluster, take_down
from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.paths import compute_state_dir
from finetune_devcluster.process_node.settings import BANNER

_MODES = ("auto", "node", "control-plane", "process-node")


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of every command."""
    parser = argparse.ArgumentParser(prog="python -m finetune_devcluster", description="A real Kubernetes for development and tests.")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, summary: str, *, cluster: bool = True) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=summary, description=summary)
        if cluster:
            command.add_argument("--name", default="dev", help="the cluster's name (default: dev)")
            command.add_argument("--state-dir", type=Path, help="folder of all clusters' state (default: .dev here)")
        return command

    build = add("binaries", "build the cluster's programs from Go modules, or find them in the cache", cluster=False)
    build.add_argument("programs", nargs="*", metavar="PROGRAM", help=f"which of {', '.join(binaries.ALL)} (default: all)")
    add("packages", "install the Debian packages that a node and its images need, or say what is missing", cluster=False)
    add("capabilities", "say what this machine can run, and why not the rest", cluster=False)
    up = add("up", "start the cluster, or find the one that runs")
    up.add_argument("--mode", choices=_MODES, default="auto")
    up.add_argument("--gpus", type=int, help="how many nvidia.com/gpu the node advertises")
    up.add_argument("--object-store", action=argparse.BooleanOptionalAction, default=None, help="run the S3 server")
    add("down", "stop the cluster and remove every trace of it")
    status = add("status", "say what runs and where")
    status.add_argument("--json", action="store_true", help="as JSON, the object store's keys too")
    add("kubeconfig", "print the path of the administrator's kubeconfig")
    load = add("load-image", "load an image archive (OCI layout or archive, Docker archive) into the node")
    load.add_argument("archive", type=Path)
    image = add("map-image", "name the local command that stands in for an image on a process node")
    image.add_argument("--path", type=Path, action="append", default=[], help="folder put first on its PATH")
    image.add_argument("reference")
    image.add_argument("entrypoint", nargs=argparse.REMAINDER, metavar="COMMAND")
    inside = add("exec", "run a command (default: a shell) inside the cluster's network, with kubectl and KUBECONFIG set")
    inside.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND")
    logs = add("logs", "print the end of a component's log")
    logs.add_argument("component")
    logs.add_argument("--lines", type=int, default=100)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = build_parser().parse_args(arguments)
    try:
        _COMMANDS[options.command](options)
    except DevClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _binaries(options: argparse.Namespace) -> None:
    for name, path in binaries.ensure_binaries(options.programs or binaries.ALL).items():
        print(f"{name}\t{path}")


def _packages(_: argparse.Namespace) -> None:
    installed = capabilities.install_packages(for_images=True)
    print(f"installed: {', '.join(installed)}" if installed else "every package that a node and its images need is there")


def _capabilities(_: argparse.Namespace) -> None:
    print(capabilities.compute_capabilities(capabilities.observe_machine()).describe())


def _up(options: argparse.Namespace) -> None:
    started = time.monotonic()
    print(f"bringing up cluster {options.name} (mode {options.mode})", flush=True)
    cluster = Cluster.up(
        options.name,
        mode=options.mode,
        gpus=options.gpus,
        state_root=options.state_dir,
        object_store=options.object_store,
    )
    print(f"cluster {cluster.name} ({cluster.mode}) is up after {time.monotonic() - started:.1f} s")
    if cluster.mode == "process-node":
        print(BANNER)
    print(f"export KUBECONFIG={cluster.kubeconfig}")


def _down(options: argparse.Namespace) -> None:
    take_down(compute_state_dir(options.name, options.state_dir))
    print(f"cluster {options.name} is down")


def _status(options: argparse.Namespace) -> None:
    status = _attach(options).describe()
    if options.json:
        print(json.dumps(status, indent=1))
        return
    for name, running in status["components"].items():
        print(f"{name:26}{'running' if running else 'STOPPED'}")
    print(f"{'API server':26}{status['server']}\n{'kubeconfig':26}{status['kubeconfig']}")
    print(f"{'audit log':26}{status['audit_log']}")
    if store := status["object_store"]:
        print(f"{'S3 from here':26}{store['endpoint']}\n{'S3 from pods':26}{store['pod_endpoint']}")


def _kubeconfig(options: argparse.Namespace) -> None:
    print(_attach(options).kubeconfig)


def _load_image(options: argparse.Namespace) -> None:
    started = time.monotonic()
    names = _attach(options).load_image(options.archive)
    print(f"loaded {', '.join(names)} in {time.monotonic() - started:.1f} s")


def _map_image(options: argparse.Namespace) -> None:
    words = [word for word in options.entrypoint if word != "--"]
    _attach(options).map_image(options.reference, words, options.path)


def _exec(options: argparse.Namespace) -> None:
    cluster = _attach(options)
    words = [word for word in options.words if word != "--"] or [os.environ.get("SHELL", "/bin/sh")]
    programs = binaries.ensure_binaries(["kubectl", "helm"])
    path = os.pathsep.join([*dict.fromkeys(str(each.parent) for each in programs.values()), os.environ["PATH"]])
    os.environ.update({"KUBECONFIG": str(cluster.kubeconfig), "PATH": path})
    argv = [*cluster.entry, *words]
    os.execvp(argv[0], argv)  # noqa: S606


def _logs(options: argparse.Namespace) -> None:
    print(_attach(options).log(options.component, options.lines))


def _attach(options: argparse.Namespace) -> Cluster:
    return Cluster.attach(options.name, options.state_dir)


_COMMANDS = {
    "binaries": _binaries,
    "packages": _packages,
    "capabilities": _capabilities,
    "up": _up,
    "down": _down,
    "status": _status,
    "kubeconfig": _kubeconfig,
    "load-image": _load_image,
    "map-image": _map_image,
    "exec": _exec,
    "logs": _logs,
}

if __name__ == "__main__":
    sys.exit(main())
