"""Where the Kubernetes API is, who we are there and how to prove it: a kubeconfig, or a pod's service account.

lightkube knows their forms (TLS, tokens that are read anew once they are refused). Promises: a file that is missing or
wrong is named with what to do about it, and nothing of what it says; a peer that is gone is noticed within 20 s, by
TCP's keepalive.
"""

from __future__ import annotations

import socket
import ssl

import httpx2
import msgspec
import yaml  # type: ignore[import-untyped]
from lightkube import ConfigError, KubeConfig
from lightkube.config.client_adapter import ConnectionParams, user_auth, verify_cluster
from lightkube.config.kubeconfig import SERVICE_ACCOUNT, SingleConfig
from lightkube.config.models import User
from lightkube.core.generic_client import GenericSyncClient

from cni_plugin.agent.sources.kube.errors import ApiError
from cni_plugin.kernel.host import files

_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 15_000),
)
"""tcp(7): 10 s without a byte, then three probes 3 s apart; what we sent must be acknowledged within 15 s."""


def _connection(config: SingleConfig, conn_parameters: ConnectionParams) -> httpx2.Client:
    """lightkube's own would be without keepalive, and make a TLS context twice, 0.1 s each where there is no CA."""
    if config.cluster.server.startswith("https:"):
        tls = verify_cluster(config.cluster, config.user or User(), config.abs_file, trust_env=False)
    else:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    transport = httpx2.HTTPTransport(verify=tls, trust_env=False, socket_options=_KEEPALIVE)
    auth = user_auth(config.user) if config.user else None
    return httpx2.Client(
        base_url=config.cluster.server, auth=auth, transport=transport, timeout=conn_parameters.timeout, trust_env=False
    )


class Client(GenericSyncClient):
    """lightkube's, by that connection."""

    AdapterClient = staticmethod(_connection)


def config(kubeconfig: str) -> SingleConfig:
    """From the file, else from the service account that Kubernetes gives to each pod. Raises ApiError."""
    try:
        found = KubeConfig.from_file(kubeconfig) if kubeconfig else KubeConfig.from_service_account(SERVICE_ACCOUNT)
        chosen = found.get()
    except KeyError as error:
        raise ApiError(f"{kubeconfig or 'the environment'} does not say {error}") from error
    except yaml.YAMLError as error:  # its own text quotes the file, which has secrets
        at = error.problem_mark if isinstance(error, yaml.MarkedYAMLError) else None
        place = f" at line {at.line + 1}, column {at.column + 1}" if at else ""
        raise ApiError(f"{kubeconfig} is no valid YAML{place}") from error
    except ConfigError as error:
        raise ApiError(f"{kubeconfig}: {error}" if kubeconfig else str(error)) from error
    except (AttributeError, TypeError, msgspec.ValidationError) as error:
        detail = f": {error}" if isinstance(error, msgspec.ValidationError) else ""
        raise ApiError(
            f"{kubeconfig} is no kubeconfig{detail}; it has current-context, clusters, users and contexts, as kubectl "
            "config view shows"
        ) from error
    if chosen is None or chosen.user is None:
        raise ApiError(f"{kubeconfig} names no user for its current context")
    return _with_files(chosen, chosen.user)


def _with_files(config: SingleConfig, user: User) -> SingleConfig:
    """With the token's file where kubectl looks for it, beside the kubeconfig. Raises ApiError for one that is none."""
    if bool(user.client_cert or user.client_cert_data) != bool(user.client_key or user.client_key_data):
        raise ApiError(f"{config.fname}: client-certificate and client-key belong together, and one of them is missing")
    named = {
        "certificate-authority": config.cluster.certificate_auth, "client-certificate": user.client_cert,
        "client-key": user.client_key, "tokenFile": user.token_file,
    }  # fmt: skip
    paths = {key: str(config.abs_file(each)) for key, each in named.items() if each}
    for key, path in paths.items():
        try:
            files.follow(path)
        except OSError as error:
            raise ApiError(
                f"{config.fname}: {key} {path}: {error.strerror}; put that file there, or correct the path"
            ) from error
    return config._replace(user=msgspec.structs.replace(user, token_file=paths.get("tokenFile")))


def host(config: SingleConfig) -> str:
    """The server's address, without what might be secret in it. Raises ApiError for one that is none."""
    try:
        url = httpx2.URL(config.cluster.server).copy_with(username=None, password=None, query=None)
    except httpx2.InvalidURL as error:
        raise ApiError(f"{config.fname}: server is no URL ({error}): write it as https://192.0.2.9:6443") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ApiError(f"{config.fname}: server {url}: write it as https://192.0.2.9:6443")
    return str(url)
