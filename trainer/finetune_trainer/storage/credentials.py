"""Credentials of one role (model, dataset, output), from the environment that the operator makes of a Secret."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from finetune_trainer.errors import ConfigInvalid

KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_REGION",
    "AWS_ENDPOINT_URL",
    "HF_TOKEN",
    "HF_ENDPOINT",
    "HTTP_BEARER_TOKEN",
    "OCI_USERNAME",
    "OCI_PASSWORD",
    ".dockerconfigjson",
    "GOOGLE_APPLICATION_CREDENTIALS_JSON",
)
"""Keys that a Secret named in ``credentialsSecret`` may have."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a store is reached by. Where a value is None, the client's own default chain applies: the standard variables of a local
    run (``AWS_ACCESS_KEY_ID``, ``HF_TOKEN``…), its profile, or the workload identity of the pod.

    Secrets are left out of ``repr``, so that no log and no traceback shows them.
    """

    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    region: str | None = None
    s3_endpoint_url: str | None = None
    hub_token: str | None = field(default=None, repr=False)
    hub_endpoint: str | None = None
    bearer_token: str | None = field(default=None, repr=False)
    oci_username: str | None = None
    oci_password: str | None = field(default=None, repr=False)
    docker_config: str | None = field(default=None, repr=False)
    google_key: str | None = field(default=None, repr=False)

    @classmethod
    def from_environ(cls, prefix: str, environ: Mapping[str, str] | None = None) -> Self:
        """Read the variables that begin with ``prefix`` (one of ``finetune_api.names.ENV_PREFIX_*``).

        Values lose white space at their ends, which a file made by ``echo`` carries into a Secret. An empty value counts as absent. Where
        there are none at all, region and S3 endpoint come from the standard variables, as keys and tokens do by the clients themselves.

        :raises ConfigInvalid: one half of an AWS key pair is missing.
        """
        source = os.environ if environ is None else environ
        values = [source.get(prefix + key, "").strip() or None for key in KEYS]
        if not any(values):
            return cls(
                region=source.get("AWS_REGION") or source.get("AWS_DEFAULT_REGION") or None,
                s3_endpoint_url=source.get("AWS_ENDPOINT_URL_S3") or source.get("AWS_ENDPOINT_URL") or None,
            )
        credentials = cls(*values)
        if (credentials.access_key_id is None) != (credentials.secret_access_key is None):
            missing, present = KEYS[:2] if credentials.access_key_id is None else KEYS[1::-1]
            raise ConfigInvalid(f"the Secret in credentialsSecret has {present} but not {missing}; add {missing} to it")
        return credentials
