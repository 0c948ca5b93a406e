"""Real servers for the trainer's reading and writing: S3 (versitygw), HTTPS, and one that speaks the hub's protocol."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from finetune_devcluster.state import ObjectStore
from finetune_trainer.storage import Credentials, RetryPolicy, Store, open_store
from finetune_trainer.storage.faults import Role
from tests.support.https_server import make_certificate, run_https_server
from tests.support.hub_server import Hub, run_hub
from tests.support.object_store import Faults, run_faulty_proxy, run_object_store
from tests.support.quiet_imports import import_quietly

QUICK = RetryPolicy(attempts=4, first_delay=0.02, max_delay=0.05, total=60, connect_timeout=5, read_timeout=5)


@pytest.fixture(scope="session", autouse=True)
def libraries() -> None:
    import_quietly("dateutil.tz", "s3fs", "huggingface_hub", "pandas", "pyarrow.parquet")


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    with run_object_store(tmp_path_factory.mktemp("s3")) as store:
        yield store


class Bucket:
    """Opens stores in the test bucket, straight or through a proxy that fails."""

    def __init__(self, server: ObjectStore, proxy: str, faults: Faults) -> None:
        self.server = server
        self.proxy = proxy
        self.faults = faults
        self.uri = f"s3://{server.bucket}/{uuid.uuid4().hex[:10]}"
        self.credentials = Credentials(access_key_id=server.access_key, secret_access_key=server.secret_key, region=server.region)

    def environ(self, prefix: str) -> dict[str, str]:
        """The variables that a Secret with the credentials becomes."""
        return {
            f"{prefix}AWS_ACCESS_KEY_ID": self.server.access_key,
            f"{prefix}AWS_SECRET_ACCESS_KEY": self.server.secret_key,
            f"{prefix}AWS_REGION": self.server.region,
        }

    def open(self, folder: str = "", role: Role = "output", *, faulty: bool = False, policy: RetryPolicy = QUICK) -> Store:
        endpoint = self.proxy if faulty else self.server.endpoint
        return open_store(f"{self.uri}/{folder}" if folder else self.uri, role, self.credentials, endpoint, policy)


@pytest.fixture
def bucket(object_store: ObjectStore) -> Iterator[Bucket]:
    faults = Faults()
    with run_faulty_proxy(object_store.endpoint, faults) as proxy:
        yield Bucket(object_store, proxy, faults)


class Website:
    """A folder that an HTTPS server serves."""

    def __init__(self, root: Path, url: str, faults: Faults, token: str) -> None:
        self.root, self.url, self.faults, self.token = root, url, faults, token


@pytest.fixture
def website(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Website]:
    root, faults = tmp_path / "site", Faults()
    root.mkdir()
    certificate, key = make_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with run_https_server(root, certificate, key, "site-token", faults) as url:
        yield Website(root, url, faults, "site-token")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with run_hub(Hub()) as hub:
        yield hub
