"""Reading and writing files wherever a URI says they are: S3, HTTPS, a hub, a mounted volume, the local disk."""

from finetune_trainer.storage.credentials import Credentials
from finetune_trainer.storage.opening import open_store
from finetune_trainer.storage.retry import RetryPolicy
from finetune_trainer.storage.store import Store, StoredFile

__all__ = ["Credentials", "RetryPolicy", "Store", "StoredFile", "open_store"]
