"""What the fork server imports once for all operators. Importing it must start nothing."""

import kopf
import uvloop

__all__ = ["kopf", "uvloop"]
