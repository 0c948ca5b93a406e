"""The few requests that the cluster's own set-up makes of its API server, over one client certificate."""

import json
import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from finetune_devcluster.errors import DevClusterError
from finetune_devcluster.pki import KeyPair

_APPLY = "application/apply-patch+yaml"
_JSON_PATCH = "application/json-patch+json"


class ApiClient:
    """A synchronous client of one API server."""

    def __init__(self, server: str, ca: Path, pair: KeyPair) -> None:
        """Prepare a client that authenticates by the certificate in `pair`."""
        self.server = server
        context = ssl.create_default_context(cafile=str(ca))
        context.load_cert_chain(pair.cert, pair.key)
        # No proxy: the API server is on this machine whatever the environment says.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))

    def request(self, method: str, path: str, body: object = None, content_type: str = "application/json") -> Any:  # noqa: ANN401
        """Send one request and return the decoded JSON, or the text where the answer is not JSON.

        Raises:
            ApiError: the server answered with an error status.
            OSError: the server could not be reached.
        """
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": content_type}
        request = urllib.request.Request(self.server + path, data, headers, method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=10) as response:
                text = response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")[:2000]
            raise ApiError(error.code, f"{method} {path}: {said}") from None
        return json.loads(text) if text.startswith(("{", "[")) else text

    def apply(self, path: str, manifest: dict[str, Any]) -> None:
        """Apply one object server-side."""
        self.request("PATCH", f"{path}?fieldManager=finetune-devcluster&force=true", manifest, _APPLY)

    def patch_json(self, path: str, operations: list[dict[str, Any]]) -> None:
        """Apply a JSON patch."""
        self.request("PATCH", path, operations, _JSON_PATCH)

    def is_ready(self, path: str = "/readyz") -> bool:
        """Tell whether the server answers `path` with success."""
        try:
            self.request("GET", path)
        except (OSError, DevClusterError):
            return False
        return True


class ApiError(DevClusterError):
    """The API server refused a request."""

    def __init__(self, status: int, message: str) -> None:
        """Keep the HTTP status beside the message."""
        super().__init__(f"HTTP {status} from {message}")
        self.status = status
