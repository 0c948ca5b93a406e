"""Where the API server is and who we are to it: found once, for kopf's watches and for our own calls alike."""

from typing import Final

import kopf
import yaml

_SETTINGS: Final = kopf.OperatorSettings()


class NoClusterError(Exception):
    """There is neither a ServiceAccount nor a usable kubeconfig."""


def find_connection() -> kopf.ConnectionInfo:
    """Return the pod's ServiceAccount, or outside a cluster the current context of the kubeconfig (``KUBECONFIG``).

    Reads the files anew at each call: the kubelet renews the token long before it expires.

    :raises NoClusterError: there is neither, or it can't be read.
    """
    try:
        connection = kopf.login_with_service_account(settings=_SETTINGS) or kopf.login_with_kubeconfig(settings=_SETTINGS)
    except (OSError, ValueError, KeyError, yaml.YAMLError, kopf.LoginError) as error:
        raise NoClusterError(f"neither a ServiceAccount nor a usable kubeconfig (see KUBECONFIG): {error}") from error
    if connection is None:
        raise NoClusterError("neither a ServiceAccount nor a kubeconfig (see KUBECONFIG)")
    return connection
