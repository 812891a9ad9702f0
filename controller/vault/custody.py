"""The vault's keys as the config names them: the provider, the keyring and the key slots.

    FOLDER/keyring            X-Wing pairs, KEKs and secrets, each wrapped by the provider
    FOLDER/slots              one data key a recording, wrapped by a KEK
    FOLDER/public-keys.json   what agents seal to

FOLDER is vault.folder. All blocks.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import dataclass
from pathlib import Path

from controller.config import Config, read_secret
from controller.config_vault import FileKeys, Pkcs11Keys, VaultConfig
from controller.durable import own_folder
from controller.errors import ConfigError, StoreUnreachable, VaultError
from controller.vault import key_slots
from controller.vault.intake import Intake
from controller.vault.key_slots import WritableKeySlots
from controller.vault.keys import file, keyring
from controller.vault.keys.file import FileProvider
from controller.vault.keys.keyring import Keyring
from controller.vault.keys.pkcs11 import Pkcs11Provider
from controller.vault.keys.provider import Provider
from controller.vault.keys.published import publish
from controller.vault.keys.transit import TransitProvider


def public_keys_path(config: Config) -> Path:
    return config.vault_path / "public-keys.json"


@dataclass(frozen=True)
class Custody:
    """The one writer of keys: a second keeper on the same folder is refused."""

    provider: Provider
    keyring: Keyring
    slots: WritableKeySlots
    public_keys: Path

    def tags_key(self) -> bytes:
        """For the keyed hashes of numbers."""
        return self.keyring.secret("tags", now_us())

    def signing_key(self) -> bytes:
        """The seed of the Ed25519 key that signs erasures."""
        return self.keyring.secret("erasures", now_us())

    def new_pair(self) -> str:
        """Has agents seal to a new X-Wing pair from now on; its id."""
        made = self.keyring.new_pair(now_us())
        publish(self.public_keys, self.keyring.pairs())
        return made.id

    def drop_old_pairs(self, intake: Intake, older_than_us: int) -> list[str]:
        """Destroys the pairs that no envelope names and no agent may still use.

        older_than_us: a pair is kept while its successor is younger, because an agent that has
        been away seals to what it knew.
        """
        if intake.waiting():
            return []
        dropped = []
        pairs = self.keyring.pairs()
        for successor, old in itertools.pairwise(pairs):
            if successor.created_us < older_than_us and self.keyring.destroy_pair(old.id):
                dropped.append(old.id)
        if dropped:
            publish(self.public_keys, self.keyring.pairs())
        return dropped

    def close(self) -> None:
        self.slots.close()
        self.keyring.close()
        self.provider.close()


def open_custody(config: Config) -> Custody:
    """Makes what a first start needs. Raises ConfigError, VaultError, LoginRefused, Unreachable."""
    _with_keys(config)
    folder = config.vault_path
    try:
        own_folder(folder)
    except OSError as error:
        raise StoreUnreachable(
            f"{folder} cannot be made: {error.strerror}", hint="or name another vault.folder"
        ) from error
    with contextlib.ExitStack() as undo:
        provider = open_provider(config, make=not (folder / "keyring").exists())
        undo.callback(provider.close)
        rings, slots = folder / "keyring", folder / "slots"
        if not rings.exists():
            if slots.exists():
                # A new keyring would make every recording look destroyed.
                raise VaultError(
                    f"{rings} is missing, and {slots} is there",
                    hint="put the keyring back from a backup, or move the slots away",
                )
            keyring.make(rings)
        ring = Keyring(rings, provider, writable=True)
        undo.callback(ring.close)
        if not slots.exists():
            key_slots.make(slots)
        custody = Custody(provider, ring, WritableKeySlots(slots, ring), public_keys_path(config))
        undo.callback(custody.slots.close)
        pairs = ring.pairs()
        if pairs:
            ring.private_key(pairs[0].id)  # the wrong key file or token is told now, not later
            publish(custody.public_keys, pairs)
        else:
            custody.new_pair()
        undo.pop_all()
    return custody


def open_provider(config: Config, *, make: bool) -> Provider:
    """What vault.keys names. make: a key file that is not there yet."""
    vault = _with_keys(config)
    keys = vault.keys
    if isinstance(keys, FileKeys):
        path = key_file_path(config)
        passphrase = read_secret(config.path(keys.passphrase_file))
        if make and not path.exists():
            file.create(path, passphrase)
        return FileProvider(path, passphrase)
    if isinstance(keys, Pkcs11Keys):
        pin = read_secret(config.path(keys.pin_file))
        return Pkcs11Provider(keys.module, keys.token, pin, keys.key, create=keys.create)
    assert keys is not None  # noqa: S101 - _with_keys has seen to it
    client = None
    if keys.cert and keys.key_file:
        client = (config.path(keys.cert), config.path(keys.key_file))
    return TransitProvider(
        keys.url,
        keys.key,
        config.path(keys.token_file),
        mount=keys.mount,
        ca=config.path(keys.ca) if keys.ca else None,
        client=client,
    )


def _with_keys(config: Config) -> VaultConfig:
    if config.vault is None or config.vault.keys is None:
        raise ConfigError(
            "is missing",
            file=config.source,
            key="vault.keys",
            hint="as in keys: {provider: file, passphrase_file: secrets/vault}",
        )
    return config.vault


def key_file_path(config: Config) -> Path:
    """Of the provider `file`."""
    keys = _with_keys(config).keys
    if isinstance(keys, FileKeys) and keys.file:
        return config.path(keys.file)
    return config.vault_path / "keys.json"


def now_us() -> int:
    return time.time_ns() // 1000
