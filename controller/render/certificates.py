"""The certificates that a node or an edge has on its own disk, below tls/ of its folder."""

from __future__ import annotations

from pathlib import Path

from controller.config import Config
from controller.errors import ConfigError
from controller.model import Kind
from controller.pki.store import open_store
from controller.pki.wanted import control_name, edge_name
from controller.render.file import File


def tls_files(config: Config, name: str) -> dict[str, File]:
    """The certificates and keys that the node or edge needs on its disk, below tls/.

    Raises ConfigError when one is not there.
    """
    security, store = config.security, open_store(config)
    wanted: dict[str, Path] = {}
    if security.signalling == "tls":
        wanted |= {
            "sip.pem": store.certificate("sip", name),
            "sip.key": store.key("sip", name),
            "sip-ca.pem": store.ca("sip"),
        }
    if security.control == "tls" and name in config.nodes:
        own = control_name(name)
        wanted |= {
            "control.pem": store.certificate("control", own),
            "control.key": store.key("control", own),
            "control-ca.pem": store.ca("control"),
        }
    if config.redis.speaks_tls and name in config.edges:
        wanted |= {
            "control.pem": store.certificate("control", edge_name(name)),
            "control.key": store.key("control", edge_name(name)),
            "control-ca.pem": store.ca("control"),
        }
    texts = {file: read_pem(config, path) for file, path in wanted.items()}
    node = config.nodes.get(name)
    if node and node.kind is Kind.FREESWITCH and "sip.pem" in texts:
        # sofia wants these names, and the key in one file with its certificate
        texts["agent.pem"] = texts.pop("sip.pem") + texts.pop("sip.key")
        texts["cafile.pem"] = texts.pop("sip-ca.pem")
    if name in config.edges and security.peers_ca and "sip-ca.pem" in texts:
        texts["peers-ca.pem"] = texts["sip-ca.pem"] + read_pem(
            config, config.path(security.peers_ca)
        )
    return {f"tls/{file}": File(text, 0o600) for file, text in texts.items()}


def read_pem(config: Config, path: Path) -> str:
    try:
        return path.read_text("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {getattr(error, 'strerror', None) or error}",
            file=config.source,
            key="security",
            hint="pbxctl pki renew makes certificates; or set security to plain",
        ) from error
