"""A local HTTPS server of a folder's files, with a certificate of its own."""

import datetime
import http.server
import ipaddress
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.object_store import Faults, run_server


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Make a self-signed certificate for localhost; returns the files of certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return files


@contextmanager
def run_https_server(
    root: Path,
    certificate: Path,
    key: Path,
    token: str | None = None,
    faults: Faults | None = None,
    redirect: str | None = None,
    seen_authorizations: list[str | None] | None = None,
) -> Iterator[str]:
    """Serve the files below ``root``; with ``token``, only to requests that bear it; ``redirect`` sends them there. Yields the URL."""
    rules = faults or Faults()
    authorizations = [] if seen_authorizations is None else seen_authorizations

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

        def answer(self) -> None:
            rules.seen.append(f"{self.command} {self.path}")
            authorizations.append(self.headers.get("Authorization"))
            if redirect is not None:
                self.send_response(302)
                self.send_header("Location", redirect + self.path)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
            file = root / unquote(self.path).lstrip("/")
            verdict = rules.rule(self.command, self.path)
            if isinstance(verdict, int):
                return self.reply(verdict)
            if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
                return self.reply(401)
            if not file.is_file():
                return self.reply(404)
            return self.reply(200, file.read_bytes(), cut=verdict == "truncate")

        def reply(self, status: int, content: bytes = b"", *, cut: bool = False) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content[: len(content) // 2] if cut else content)
            self.close_connection = self.close_connection or cut

        do_GET = do_HEAD = answer  # noqa: N815

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    with run_server(server):
        yield f"https://localhost:{server.server_port}"
