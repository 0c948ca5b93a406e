"""The cluster's own certificate authority, its certificates and its service-account key."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.files import write_atomic

_LIFETIME = datetime.timedelta(days=3650)
_CLOCK_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class KeyPair:
    """Paths of a PEM certificate and of its PEM private key."""

    cert: Path
    key: Path


class CertificateAuthority:
    """A certificate authority in a folder: `ca.crt` and `ca.key`, made once."""

    def __init__(self, folder: Path) -> None:
        """Open the authority in `folder`, making it when it is not there."""
        self.folder = folder
        self.cert = folder / "ca.crt"
        key_path = folder / "ca.key"
        if not (self.cert.exists() and key_path.exists()):
            self._make(key_path)
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise DevClusterError(f"{key_path} is not a key that this program made: take the cluster down and up again")
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(self.cert.read_bytes())

    def issue(self, file_name: str, common_name: str, groups: Sequence[str] = (), hosts: Sequence[str] | None = None) -> KeyPair:
        """Issue a certificate into `file_name`.crt and .key: a server's when `hosts` are given, else a client's.

        A client's common name is the Kubernetes user, and its groups are the organisations.
        """
        pair = KeyPair(self.folder / f"{file_name}.crt", self.folder / f"{file_name}.key")
        key = ec.generate_private_key(ec.SECP256R1())
        names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject = x509.Name([*names, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        usage = ExtendedKeyUsageOID.CLIENT_AUTH if hosts is None else ExtendedKeyUsageOID.SERVER_AUTH
        builder = (
            _build_certificate(subject, self._certificate.subject, key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if hosts is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName(_build_names(hosts)), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        write_atomic(pair.key, _encode_key(key), mode=0o600)
        write_atomic(pair.cert, certificate.public_bytes(serialization.Encoding.PEM))
        return pair

    def _make(self, key_path: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "finetune-devcluster")])
        certificate = (
            _build_certificate(name, name, key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_KEY_CERT_SIGN, critical=True)
            .sign(key, hashes.SHA256())
        )
        write_atomic(key_path, _encode_key(key), mode=0o600)
        write_atomic(self.cert, certificate.public_bytes(serialization.Encoding.PEM))


def make_signing_key(path: Path) -> Path:
    """Write the private key that signs service-account tokens, unless it is there already."""
    if not path.exists():
        # The API server derives the public key only from this older encoding.
        older = serialization.PrivateFormat.TraditionalOpenSSL
        write_atomic(path, _encode_key(ec.generate_private_key(ec.SECP256R1()), older), mode=0o600)
    return path


_KEY_CERT_SIGN = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _build_certificate(subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
    )


def _build_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _encode_key(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat = serialization.PrivateFormat.PKCS8) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
