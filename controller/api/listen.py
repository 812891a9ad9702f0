"""Where the gate listens: always a unix socket for this machine, TCP with mTLS when configured."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path

from controller.config import Config, TlsConfig
from controller.durable import own_folder
from controller.errors import ConfigError, PbxctlError, Refused

SOCKET_NAME = "gate.sock"
_SUN_PATH_MAX = 107  # Linux unix(7): sun_path has 108 bytes with its NUL


def socket_path(config: Config) -> Path:
    return config.state_path / SOCKET_NAME


def unix_socket(path: Path) -> socket.socket:
    """A listening socket for its owner alone. One left by a gate that died is replaced.

    Raises Refused when a living gate listens there.
    """
    if len(os.fsencode(path)) > _SUN_PATH_MAX:
        raise PbxctlError(
            f"the gate's socket path has more than {_SUN_PATH_MAX} bytes: {path}",
            hint="choose a shorter state_dir",
        )
    own_folder(path.parent)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if _answers(path):
            raise Refused(
                f"another gate listens on {path}", hint="stop it, or set another state_dir"
            )
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            sock.bind(str(path))
        finally:
            os.umask(before)
        sock.listen(128)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise PbxctlError(
            f"the gate cannot listen on {path}: {error.strerror}",
            hint="state_dir must be writable by the user that runs pbxctl",
        ) from error
    except BaseException:
        sock.close()
        raise
    return sock


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


def server_tls(config: Config, tls: TlsConfig) -> ssl.SSLContext:
    """TLS 1.3 for clients with a certificate of client_ca. ConfigError when a file is unusable."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    cert, key, ca = (config.path(p) for p in (tls.cert, tls.key, tls.client_ca))
    try:
        context.load_cert_chain(cert, key)
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"cert, key or client_ca cannot be used: {error}",
            file=config.source,
            key="gate.tls",
            hint="all three are PEM; the key must fit the certificate and be readable",
        ) from error
    return context
