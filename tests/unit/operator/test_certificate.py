"""The report receiver's certificate."""

import asyncio
import base64
import ssl
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from finetune_operator.kube.client import SECRETS, ApiError
from finetune_operator.reports.certificate import (
    AUTHORITY_RENEWAL,
    LEAF_LIFE,
    LEAF_RENEWAL,
    KeyPair,
    build_authority,
    build_certificate,
    covers,
    needs_renewal,
)
from finetune_operator.reports.credentials import ReceiverCredentials
from tests.support.in_memory_api import Call, InMemoryApi
from tests.support.world import NOW

HOST = "finetune-operator-reports.finetune-system.svc"
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority() -> KeyPair:
    return build_authority(NOW)


@pytest.fixture(scope="module")
def leaf(authority: KeyPair) -> KeyPair:
    return build_certificate(authority, [HOST, "localhost"], NOW)


def _verify(authority: bytes, leaf: bytes, host: str, time: datetime) -> None:
    store = Store([x509.load_pem_x509_certificate(authority)])
    verifier = PolicyBuilder().store(store).time(time).build_server_verifier(x509.DNSName(host))
    verifier.verify(x509.load_pem_x509_certificate(leaf), [])


@pytest.mark.parametrize("host", [HOST, "localhost"])
def test_the_chain_verifies(authority: KeyPair, leaf: KeyPair, host: str) -> None:
    _verify(authority.certificate, leaf.certificate, host, NOW)


def test_not_for_another_host(authority: KeyPair, leaf: KeyPair) -> None:
    with pytest.raises(VerificationError):
        _verify(authority.certificate, leaf.certificate, "example.com", NOW)


def test_not_under_another_authority(leaf: KeyPair) -> None:
    with pytest.raises(VerificationError):
        _verify(build_authority(NOW).certificate, leaf.certificate, HOST, NOW)


@pytest.mark.parametrize("time", [NOW - timedelta(minutes=50), NOW + LEAF_LIFE - DAY])
def test_nodes_whose_clocks_differ_a_little_take_it(authority: KeyPair, leaf: KeyPair, time: datetime) -> None:
    _verify(authority.certificate, leaf.certificate, HOST, time)


def test_not_after_its_life(authority: KeyPair, leaf: KeyPair) -> None:
    with pytest.raises(VerificationError):
        _verify(authority.certificate, leaf.certificate, HOST, NOW + LEAF_LIFE + DAY)


async def test_a_client_that_knows_the_authority_connects(authority: KeyPair, leaf: KeyPair, tmp_path: Path) -> None:
    (tmp_path / "tls.crt").write_bytes(leaf.certificate)
    (tmp_path / "tls.key").write_bytes(leaf.key)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    client = ssl.create_default_context(cadata=authority.certificate.decode())
    # Made at a time that is past by now: only its names and signature are asked about here.
    client.verify_flags |= 0x200000  # X509_V_FLAG_NO_CHECK_TIME

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(greet, "localhost", 0, ssl=serving) as server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("localhost", port, ssl=client)
        assert await asyncio.wait_for(reader.read(), 5) == b"hello"
        writer.close()


@pytest.mark.parametrize(("left", "old"), [(LEAF_RENEWAL + DAY, False), (LEAF_RENEWAL - DAY, True), (-DAY, True)])
def test_the_leaf_is_renewed_in_time(leaf: KeyPair, left: timedelta, old: bool) -> None:
    assert needs_renewal(leaf.certificate, LEAF_RENEWAL, NOW + LEAF_LIFE - left) is old


def test_what_is_no_certificate_needs_renewal_and_covers_nothing() -> None:
    assert needs_renewal(b"garbage", LEAF_RENEWAL, NOW)
    assert not covers(b"garbage", [HOST])


def test_it_covers_its_hosts_and_no_other(authority: KeyPair, leaf: KeyPair) -> None:
    assert covers(leaf.certificate, [HOST])
    assert not covers(leaf.certificate, [HOST, "other"])
    assert not covers(authority.certificate, [HOST])


def _credentials(api: InMemoryApi, now: datetime = NOW, hosts: tuple[str, ...] = (HOST,)) -> ReceiverCredentials:
    return ReceiverCredentials(api, "system", "tls", list(hosts), lambda: now)


def _secret(api: InMemoryApi) -> dict[str, bytes]:
    (secret,) = api.all(SECRETS)
    return {key: base64.b64decode(value) for key, value in secret.get("data", {}).items()}


async def _loaded(api: InMemoryApi, now: datetime = NOW, hosts: tuple[str, ...] = (HOST,)) -> dict[str, bytes]:
    await _credentials(api, now, hosts).load()
    return _secret(api)


async def test_the_secret_is_filled_once_and_used_by_every_replica() -> None:
    api = InMemoryApi()
    api.seed(SECRETS, {"metadata": {"name": "tls", "namespace": "system", "uid": "secret"}})
    first = await _loaded(api)
    assert set(first) == {"ca.crt", "ca.key", "tls.crt", "tls.key"}
    writes = len(api.writes)
    assert await _loaded(api) == first
    assert len(api.writes) == writes


async def test_where_there_is_no_secret_one_is_made() -> None:
    assert set(await _loaded(InMemoryApi())) == {"ca.crt", "ca.key", "tls.crt", "tls.key"}


async def test_an_old_leaf_is_renewed_under_the_same_authority() -> None:
    api = InMemoryApi()
    before = await _loaded(api)
    after = await _loaded(api, NOW + LEAF_LIFE - LEAF_RENEWAL + DAY)
    assert after["ca.crt"] == before["ca.crt"]
    assert after["tls.crt"] != before["tls.crt"]


async def test_an_old_authority_is_renewed_with_its_leaf() -> None:
    api = InMemoryApi()
    before = await _loaded(api)
    later = x509.load_pem_x509_certificate(before["ca.crt"]).not_valid_after_utc - AUTHORITY_RENEWAL + DAY
    after = await _loaded(api, later)
    assert after["ca.crt"] != before["ca.crt"]
    _verify(after["ca.crt"], after["tls.crt"], HOST, later)


async def test_another_host_takes_another_leaf() -> None:
    api = InMemoryApi()
    await _loaded(api)
    after = await _loaded(api, hosts=(HOST, "other"))
    assert covers(after["tls.crt"], ["other"])


@pytest.mark.parametrize("part", ["ca.crt", "ca.key", "tls.crt", "tls.key"])
@pytest.mark.parametrize("value", [b"garbage", None], ids=["garbage", "missing"])
async def test_a_damaged_secret_is_mended(part: str, value: bytes | None) -> None:
    api = InMemoryApi()
    await _loaded(api)
    (secret,) = api.all(SECRETS)
    secret["data"][part] = None if value is None else base64.b64encode(value).decode()
    secret["data"] = {key: kept for key, kept in secret["data"].items() if kept is not None}
    after = await _loaded(api)
    _verify(after["ca.crt"], after["tls.crt"], HOST, NOW)
    key = serialization.load_pem_private_key(after["tls.key"], None)
    assert key.public_key() == x509.load_pem_x509_certificate(after["tls.crt"]).public_key()


async def test_of_two_replicas_that_fill_it_at_once_one_wins_and_both_serve_the_same() -> None:
    api = InMemoryApi()
    api.seed(SECRETS, {"metadata": {"name": "tls", "namespace": "system", "uid": "secret"}})
    replicas = [_credentials(api), _credentials(api)]
    await asyncio.gather(*(replica.load() for replica in replicas))
    assert replicas[0].authority == replicas[1].authority == _secret(api)["ca.crt"].decode()


async def test_a_replica_that_was_faster_is_read() -> None:
    api = InMemoryApi()
    api.seed(SECRETS, {"metadata": {"name": "tls", "namespace": "system", "uid": "secret"}})
    slow, fast = _credentials(api), _credentials(api)

    async def overtaken() -> None:
        def overtake(call: Call) -> None:
            if call.method == "PATCH":
                api.before = lambda _: None
                raise ApiError(409, "Conflict", "changed", "PATCH")

        api.before = overtake
        await slow.load()

    await overtaken()
    await fast.load()
    assert slow.authority == fast.authority


async def test_a_secret_that_cannot_be_read_is_said() -> None:
    def forbid(_: Call) -> None:
        raise ApiError(403, "Forbidden", "secrets is forbidden", "GET")

    api = InMemoryApi()
    api.before = forbid
    with pytest.raises(ApiError, match="forbidden"):
        await _credentials(api).load()
