"""The S3 server of the cluster: versitygw over a folder."""

import datetime
import hashlib
import hmac
import urllib.error
import urllib.request
from pathlib import Path

from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.processes import wait_until
from finetune_devcluster.state import ObjectStore

PORT = 7070
BUCKET = "finetune"
ACCESS_KEY = "finetune-dev"
SERVICE = "s3"
NAMESPACE = "finetune-dev"
POD_ENDPOINT = f"http://{SERVICE}.{NAMESPACE}.svc:{PORT}"


def build_versitygw(binary: Path, address: str, port: int, metadata: Path, data: Path) -> list[str]:
    """Build versitygw's command line. Metadata lies beside the objects, as not every file system has attributes."""
    return [
        str(binary),
        f"--port={address}:{port}",
        "--quiet",
        # Clients in pods keep connections; without this every request opens one.
        "--keep-alive",
        "posix",
        f"--sidecar={metadata}",
        str(data),
    ]


def build_environment(store: ObjectStore) -> dict[str, str]:
    """Build the variables by which versitygw learns its root keys, so that no command line shows them."""
    return {"ROOT_ACCESS_KEY": store.access_key, "ROOT_SECRET_KEY": store.secret_key}


def ensure_bucket(store: ObjectStore, timeout: float = 15.0) -> None:
    """Make the bucket as soon as the server answers; one that exists is left alone.

    Raises:
        DevClusterError: the server did not answer in time, or refused.
    """
    answer: list[str] = []

    def attempt() -> bool:
        try:
            status = _put_bucket(store)
        except OSError as error:
            answer[:] = [str(error)]
            return False
        answer[:] = [f"HTTP {status}"]
        return status in (200, 409)

    if not wait_until(attempt, timeout, interval=0.05):
        raise DevClusterError(f"bucket {store.bucket} could not be made at {store.endpoint}: {answer[0]}")


def _put_bucket(store: ObjectStore) -> int:
    """Send CreateBucket, signed by Signature Version 4, and return the HTTP status."""
    host = store.endpoint.removeprefix("http://")
    now = datetime.datetime.now(datetime.UTC)
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    empty = hashlib.sha256(b"").hexdigest()
    headers = {"host": host, "x-amz-content-sha256": empty, "x-amz-date": stamp}
    names = ";".join(headers)
    canonical = "\n".join(["PUT", f"/{store.bucket}", "", *(f"{name}:{value}" for name, value in headers.items()), "", names, empty])
    scope = f"{day}/{store.region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{store.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    authorization = f"AWS4-HMAC-SHA256 Credential={store.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    request = urllib.request.Request(  # noqa: S310
        f"{store.endpoint}/{store.bucket}",
        method="PUT",
        headers={**{name: value for name, value in headers.items() if name != "host"}, "Authorization": authorization},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
