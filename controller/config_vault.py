"""The `vault:` section of the config: where recordings are kept, for how long, under which keys."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from controller.config_shapes import Name, Strict

Days = Annotated[int, Meta(ge=1, le=36_500)]
Text = Annotated[str, Meta(min_length=1, max_length=1024)]


class S3Config(Strict, frozen=True):
    """A bucket; vault.store is the prefix in it. secret_key_file: the secret access key."""

    bucket: Text
    access_key_id: Text
    secret_key_file: Text
    region: Text = "us-east-1"
    endpoint: Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+/?$")] = (
        "https://s3.amazonaws.com"
    )


class FileKeys(Strict, frozen=True, tag_field="provider", tag="file"):
    """A key file sealed by a passphrase. file: unset, keys.json in vault.folder; made if absent."""

    passphrase_file: Text
    file: Text | None = None


class Pkcs11Keys(Strict, frozen=True, tag_field="provider", tag="pkcs11"):
    """An AES key in an HSM. module: the vendor's library. create: make the key if absent."""

    module: Text
    token: Text
    pin_file: Text
    key: Text = "pbxctl"
    create: bool = False


class TransitKeys(Strict, frozen=True, tag_field="provider", tag="transit"):
    """The transit engine of OpenBao or HashiCorp Vault. cert, key_file: ours, where it asks."""

    url: Annotated[str, Meta(pattern=r"^https://")]
    token_file: Text
    key: Text = "pbxctl"
    mount: Text = "transit"
    ca: Text | None = None
    cert: Text | None = None
    key_file: Text | None = None


class VaultConfig(Strict, frozen=True):
    """ingest: host:port where agents bring what they sealed; listen: host:port for people.

    names: DNS names and addresses by which both are dialled, for the certificate. folder: key slots
    and what waits for a key (default: vault in state_dir); keep it out of backups, or erased
    recordings come back with them. store: a folder for the sealed bodies (default: store in
    folder), or the prefix in s3. duties: `ingest` takes recordings and
    has no key, `keep` has the keys and serves people; one vault does both. keys: what guards the
    keys; needed unless duties is `ingest`.
    tenants: whose recordings are taken; unset, recordings.tenant or the fleet's name alone.
    retention_days: of recordings whose rule says none; none stays longer than retention_max_days.
    give_up_h: a recording of which nothing was heard for so long has ended, partial.
    recording_max_mb: more of one is refused. free_min_mb: with less room nothing is taken.
    """

    ingest: str = "127.0.0.1:8446"
    listen: str = "127.0.0.1:8445"
    names: tuple[str, ...] = ()
    store: Text | None = None
    s3: S3Config | None = None
    folder: Text | None = None
    keys: FileKeys | Pkcs11Keys | TransitKeys | None = None
    duties: Literal["all", "ingest", "keep"] = "all"
    tenants: tuple[Name, ...] = ()
    retention_days: Days = 90
    retention_max_days: Days = 3650
    give_up_h: Annotated[float, Meta(gt=0, le=8760)] = 72.0
    recording_max_mb: Annotated[int, Meta(ge=1, le=65_536)] = 2048
    free_min_mb: Annotated[int, Meta(ge=0, le=1_048_576)] = 256
