"""`python -m finetune_devcluster.process_node`: started by `up --mode process-node`, seldom by hand."""

import argparse
import asyncio
import json
from pathlib import Path

from finetune_devcluster.process_node.node import serve
from finetune_devcluster.process_node.settings import BANNER, Settings, find_pod_address


def main() -> None:
    """Run the process node that the command line describes."""
    parser = argparse.ArgumentParser(prog="python -m finetune_devcluster.process_node", description=BANNER)
    parser.add_argument("--folder", type=Path, required=True, help="the cluster's state folder")
    parser.add_argument("--server", required=True, help="URL of the API server")
    parser.add_argument("--node-name", required=True)
    parser.add_argument("--port", type=int, required=True, help="loopback port that serves logs")
    parser.add_argument("--names", type=json.loads, default={}, help="JSON: {name: {port: [address, port]}}")
    options = parser.parse_args()
    print(BANNER, flush=True)
    address = find_pod_address()
    asyncio.run(serve(Settings(options.folder, options.server, options.node_name, options.port, address, options.names)))


if __name__ == "__main__":
    main()
