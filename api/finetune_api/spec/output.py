"""Where results go."""

from finetune_api.base import ApiModel
from finetune_api.spec.source import SecretReference
from finetune_api.uri import EndpointUrl, OutputUri


class OutputSpec(ApiModel):
    """Where the adapter, the metrics and the checkpoints are written."""

    uri: OutputUri
    """Folder that results are written under: `s3://bucket/path` or `pvc://claim/path`. The adapter goes to `adapter/` in it,
    checkpoints to `checkpoints/<uid>/`. Local runs also take `file:///path`."""
    credentials_secret: SecretReference | None = None
    """Secret with the credentials for `uri`; keys as in `model.credentialsSecret`."""
    endpoint_url: EndpointUrl | None = None
    """Endpoint of an S3-compatible store."""
