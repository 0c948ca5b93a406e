"""Projected tokens as a kubelet asks for them, and reports sent with them."""

import json
import ssl
import urllib.error
import urllib.request
from typing import Any

from finetune_devcluster.api_client import ApiClient

Object = dict[str, Any]


def request_token(client: ApiClient, namespace: str, audience: str, pod: Object | None = None) -> str:
    """Return a token of the namespace's default ServiceAccount, bound to ``pod`` if one is given."""
    spec: Object = {"audiences": [audience], "expirationSeconds": 3600}
    if pod is not None:
        metadata = pod["metadata"]
        spec["boundObjectRef"] = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    answer = client.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/default/token", request)
    token: str = answer["status"]["token"]
    return token


def send_report(url: str, authority: str, token: str, report: Object | str) -> int:
    """POST a report over TLS, checked against ``authority`` and no other, and return the answer's status."""
    body = (report if isinstance(report, str) else json.dumps(report)).encode()
    context = ssl.create_default_context(cadata=authority)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers, method="POST")  # noqa: S310  # the operator's own https:// address
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
