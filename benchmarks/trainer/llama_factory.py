"""LLaMA-Factory as a contender: `python -m benchmarks.trainer.llama_factory FOLDER RESULT BEGUN SETTINGS`, in its own environment.

Imports nothing of this project but the clock: what it stands on here is what its own package asks for.
"""

import json
import sys
from pathlib import Path

from benchmarks.trainer.probe import install


def main() -> None:
    """Train as the arguments say."""
    folder, result, begun, settings = sys.argv[1:]
    install(Path(result), float(begun))
    from llamafactory.train.tuner import run_exp  # type: ignore[import-not-found]  # noqa: PLC0415  only in its own environment

    columns = {"prompt": "prompt", "response": "completion"}
    Path(folder, "dataset_info.json").write_text(json.dumps({"rows": {"file_name": "train.jsonl", "columns": columns}}))
    run_exp(json.loads(settings))


if __name__ == "__main__":
    main()
