"""The receiver's certificate: an authority of our own, and a short-lived certificate signed by it. Pure but for the keys made."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE: Final = timedelta(days=3650)
"""Running Jobs carry the authority's certificate, so it outlives them all."""
AUTHORITY_RENEWAL: Final = timedelta(days=365)
"""With less than this left, a new authority is made."""
LEAF_LIFE: Final = timedelta(days=90)
LEAF_RENEWAL: Final = timedelta(days=30)
"""With less than this left, a new certificate is made."""
CLOCK_SKEW: Final = timedelta(hours=1)
"""Certificates are valid from this long before they are made: nodes' clocks differ."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes


def build_authority(now: datetime) -> KeyPair:
    """Make a certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "finetune-operator reports CA")])
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _encode(certificate, key)


def build_certificate(authority: KeyPair, hosts: list[str], now: datetime) -> KeyPair:
    """Make a server certificate for the DNS names ``hosts``, signed by ``authority``."""
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the authority's key is not an elliptic-curve key")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "finetune-operator reports")])
    certificate = (
        _builder(name, issuer.subject, key.public_key(), now, LEAF_LIFE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return _encode(certificate, key)


def read_expiry(certificate: bytes) -> datetime:
    """Return when the PEM ``certificate`` ends."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def needs_renewal(certificate: bytes, left: timedelta, now: datetime) -> bool:
    """True where the PEM ``certificate`` can't be read or is valid for less than ``left``."""
    try:
        return read_expiry(certificate) - now < left
    except ValueError:
        return True


def is_sound(pair: KeyPair) -> bool:
    """True where certificate and key of ``pair`` can be read and belong together."""
    try:
        certificate = x509.load_pem_x509_certificate(pair.certificate)
        return serialization.load_pem_private_key(pair.key, password=None).public_key() == certificate.public_key()
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return False


def is_issued_by(certificate: bytes, authority: bytes) -> bool:
    """True where the PEM ``authority`` has signed the PEM ``certificate``."""
    try:
        x509.load_pem_x509_certificate(certificate).verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def covers(certificate: bytes, hosts: list[str]) -> bool:
    """True where the PEM ``certificate`` is for each of ``hosts``."""
    try:
        names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound):
        return False
    return set(hosts) <= set(names.value.get_values_for_type(x509.DNSName))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + life)
    )


def _encode(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> KeyPair:
    return KeyPair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
