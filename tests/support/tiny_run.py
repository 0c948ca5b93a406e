"""A run that costs seconds: a tiny Llama, a tiny dataset, both in an S3 store, and the FineTuneJob that trains on them.

As a program it writes model and data into a folder: `python -m tests.support.tiny_run FOLDER`.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final

from finetune_devcluster.state import ObjectStore
from tests.support.manifests import Manifest, merge

MODEL: Final = "models/tiny"
DATASET: Final = "datasets/sums.jsonl"
USELESS_DATASET: Final = "datasets/useless.jsonl"
SECRET: Final = "s3"
ROWS: Final = 200


def build_rows() -> list[dict[str, str]]:
    """Return the dataset: what is learnt is short and regular, so that the loss falls within a few steps."""
    return [{"prompt": f"What is {number} plus {number}? ", "completion": f"The sum is {2 * number}."} for number in range(ROWS)]


def write_sources(folder: Path) -> None:
    """Write model and data into ``folder``, by their keys in the store."""
    from tests.support.tiny_model import build_model, build_tokenizer

    model = folder / MODEL
    model.mkdir(parents=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(model)
    build_model(len(tokenizer)).save_pretrained(model)
    (folder / DATASET).parent.mkdir(parents=True)
    (folder / DATASET).write_text("".join(json.dumps(row) + "\n" for row in build_rows()))
    (folder / USELESS_DATASET).write_text('{"neither": "prompt", "nor": "answer"}\n' * 20)


def connect(store: ObjectStore) -> Any:
    """Return a file system over the store, as this machine reaches it."""
    import s3fs

    return s3fs.S3FileSystem(
        key=store.access_key,
        secret=store.secret_key,
        endpoint_url=store.endpoint,
        client_kwargs={"region_name": store.region},
        config_kwargs={"s3": {"addressing_style": "path"}, "connect_timeout": 10, "read_timeout": 60},
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def upload_sources(store: ObjectStore, folder: Path) -> None:
    """Put what :func:`write_sources` wrote into the store."""
    files = connect(store)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            files.pipe_file(f"{store.bucket}/{path.relative_to(folder)}", path.read_bytes())


def build_secret(store: ObjectStore) -> Manifest:
    """Return the Secret with the store's credentials, as pods need them."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": SECRET},
        "stringData": {
            "AWS_ACCESS_KEY_ID": store.access_key,
            "AWS_SECRET_ACCESS_KEY": store.secret_key,
            "AWS_ENDPOINT_URL": store.pod_endpoint,
            "AWS_REGION": store.region,
        },
    }


def build_run(namespace: str, name: str, bucket: str, patch: Manifest | None = None) -> Manifest:
    """Return a FineTuneJob with the merge patch ``patch`` applied to its spec. No failure is retried, so none passes unseen."""
    credentials = {"credentialsSecret": {"name": SECRET}}
    spec = {
        "model": {"uri": f"s3://{bucket}/{MODEL}", **credentials},
        "dataset": {"uri": f"s3://{bucket}/{DATASET}", "evalFraction": 0, **credentials},
        "training": {
            "maxSteps": 20,
            "learningRate": 1e-2,
            "perDeviceBatchSize": 1,
            "gradientAccumulationSteps": 1,
            "maxLength": 64,
            "packing": False,
            "gradientCheckpointing": False,
            "checkpoint": {"everySteps": 1000},
        },
        "resources": {"gpus": 0, "cpu": "100m", "memory": "3Gi"},
        "output": {"uri": f"s3://{bucket}/adapters/{namespace}/{name}", **credentials},
        # Threads of several trainers on few processors wait for each other.
        "pod": {"env": [{"name": "OMP_NUM_THREADS", "value": "1"}]},
        "backoffLimit": 0,
    }
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": merge(spec, patch or {}),
    }


if __name__ == "__main__":
    write_sources(Path(sys.argv[1]))
