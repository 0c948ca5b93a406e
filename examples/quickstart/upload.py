"""Put the quick start's base model and data into an S3-compatible store. What lies there already, with the same digest, is skipped.

Credentials, and the endpoint where no flag gives it, come from the environment: ``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_REGION``, ``AWS_ENDPOINT_URL``. An object's SHA-256 is kept in its metadata; a broken upload is put right by running this again.
"""

# ruff: noqa: PLC0415 - heavy libraries are loaded where they are used, after the arguments have been checked

import argparse
import hashlib
import os
from pathlib import Path
from typing import Any

import dataset

MODEL_PREFIX = "models/quickstart-base"
DATASET_PREFIX = "datasets"
_DIGEST_KEY = "sha256"
_FIRST_REGION = "us-east-1"
"""The one region that a request to make a bucket must not name."""


def build_uploads(model: Path, data: Path) -> list[tuple[Path, str]]:
    """Return each file with its key in the bucket.

    :raises FileNotFoundError: the model's folder or the data is missing.
    """
    if not (model / "config.json").is_file():
        raise FileNotFoundError(f"{model} holds no model; make one by base_model.py")
    rows = [data / name for name in (dataset.TRAIN_FILE, dataset.HELD_OUT_FILE)]
    for path in rows:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; make it by dataset.py")
    files = [(path, f"{MODEL_PREFIX}/{path.name}") for path in sorted(model.iterdir())]
    return files + [(path, f"{DATASET_PREFIX}/{path.name}") for path in rows]


def connect(endpoint: str | None) -> Any:  # noqa: ANN401 - s3fs has no types
    """Return an S3 file system; path-style addresses, since a store in a cluster seldom has a name for each bucket."""
    import s3fs

    return s3fs.S3FileSystem(
        key=os.environ.get("AWS_ACCESS_KEY_ID"),
        secret=os.environ.get("AWS_SECRET_ACCESS_KEY"),
        endpoint_url=endpoint or None,
        client_kwargs={"region_name": _region()},
        config_kwargs={"s3": {"addressing_style": "path"}, "connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 5}},
        use_listings_cache=False,
        skip_instance_cache=True,
    )


def publish_file(store: Any, path: Path, address: str) -> bool:  # noqa: ANN401
    """Put ``path`` at ``address`` (``bucket/key``) unless it lies there already; return whether it was sent."""
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if store.exists(address) and store.info(address)["size"] == len(content) and store.metadata(address).get(_DIGEST_KEY) == digest:
        return False
    store.pipe_file(address, content, Metadata={_DIGEST_KEY: digest})
    return True


def upload(store: Any, bucket: str, model: Path, data: Path) -> tuple[int, int]:  # noqa: ANN401
    """Put model and data into ``bucket``, which is made if it is missing; return how many files were sent and how many lay there."""
    files = build_uploads(model, data)
    if not store.exists(bucket):
        region = _region()
        store.call_s3("create_bucket", Bucket=bucket, **({} if region == _FIRST_REGION else _located_in(region)))
    sent = [publish_file(store, path, f"{bucket}/{key}") for path, key in files]
    return sum(sent), len(sent) - sum(sent)


def _region() -> str:
    return os.environ.get("AWS_REGION", _FIRST_REGION)


def _located_in(region: str) -> dict[str, Any]:
    return {"CreateBucketConfiguration": {"LocationConstraint": region}}


def main() -> None:
    """Upload what the command line names."""
    parser = argparse.ArgumentParser(description="Put the quick start's base model and data into S3.")
    parser.add_argument("--model", type=Path, required=True, metavar="FOLDER", help="the base model, as base_model.py printed it")
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="the folder that dataset.py wrote")
    parser.add_argument("--bucket", default="finetune", help="bucket (default: %(default)s)")
    parser.add_argument("--endpoint", default=os.environ.get("AWS_ENDPOINT_URL"), metavar="URL", help="default: AWS_ENDPOINT_URL")
    arguments = parser.parse_args()
    try:
        sent, skipped = upload(connect(arguments.endpoint), arguments.bucket, arguments.model, arguments.data)
    except OSError as error:
        parser.exit(1, f"upload failed: {error}\n")
    print(f"s3://{arguments.bucket}: {sent} files sent, {skipped} there already")


if __name__ == "__main__":
    main()
