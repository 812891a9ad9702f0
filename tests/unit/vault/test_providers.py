"""One contract for every key provider, then what is each one's own.

PKCS#11 is tested with SoftHSM2, transit with a fake that speaks its HTTP (tests/transit_server.py).
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.errors import (
    ConfigError,
    KeysUnreachable,
    LoginRefused,
    Tampered,
    UsageError,
    VaultError,
)
from controller.vault.keys import file as key_file
from controller.vault.keys.file import FileProvider
from controller.vault.keys.pkcs11 import Pkcs11Provider
from controller.vault.keys.provider import Provider
from controller.vault.keys.transit import TransitProvider
from tests.transit_server import KEY_NAME, FakeTransit

SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
PASSPHRASE = "correct horse battery"
LOG_N = 14
PIN = "1234"
SECRET = bytes(range(32))

needs_softhsm = pytest.mark.skipif(
    not Path(SOFTHSM).exists(), reason="SoftHSM2 is not installed (apt install softhsm2)"
)


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A SoftHSM token; its library reads SOFTHSM2_CONF once a process."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    conf = folder / "softhsm2.conf"
    conf.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(conf))
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", "pbxctl",
             "--pin", PIN, "--so-pin", "87654321"],
            check=True, capture_output=True,
        )  # fmt: skip
        yield "pbxctl"


@pytest.fixture
def transit(tmp_path: Path) -> Iterator[FakeTransit]:
    (tmp_path / "token").write_text("s.fake\n")
    (tmp_path / "token").chmod(0o600)
    with FakeTransit(tmp_path).running() as fake:
        yield fake


def of_transit(fake: FakeTransit, timeout_s: float = 5.0) -> TransitProvider:
    token_file = fake.ca.parent / "token"
    return TransitProvider(fake.url, KEY_NAME, token_file, ca=fake.ca, timeout_s=timeout_s)


@pytest.fixture(params=["file", pytest.param("pkcs11", marks=needs_softhsm), "transit"])
def provider(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Provider]:
    made: Provider
    if request.param == "file":
        key_file.create(tmp_path / "key", PASSPHRASE, log_n=LOG_N)
        made = FileProvider(tmp_path / "key", PASSPHRASE)
    elif request.param == "pkcs11":
        label = request.getfixturevalue("token")
        made = Pkcs11Provider(SOFTHSM, label, PIN, "kek", create=True)
    else:
        made = of_transit(request.getfixturevalue("transit"))
    yield made
    made.close()


def test_what_it_wraps_it_unwraps(provider: Provider) -> None:
    for secret in (SECRET, b"", bytes(64)):
        wrapped = provider.wrap(secret, b"for this")
        assert provider.unwrap(wrapped, b"for this") == secret
        assert len(wrapped) <= 256
        assert secret == b"" or secret not in wrapped


def test_wrapping_twice_differs(provider: Provider) -> None:
    assert provider.wrap(SECRET, b"p") != provider.wrap(SECRET, b"p")


def test_another_purpose_or_altered_bytes_are_refused(provider: Provider) -> None:
    wrapped = provider.wrap(SECRET, b"for this")
    with pytest.raises(Tampered):
        provider.unwrap(wrapped, b"for that")
    flipped = bytearray(wrapped)
    flipped[-6] ^= 1
    for altered in (bytes(flipped), wrapped[:-4], b"", b"\xff" * 60):
        with pytest.raises(Tampered):
            provider.unwrap(altered, b"for this")
    assert provider.unwrap(wrapped, b"for this") == SECRET


def test_the_key_file_is_kept_by_its_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key_file.create(path, PASSPHRASE, log_n=LOG_N)
    assert path.stat().st_mode & 0o777 == 0o600
    wrapped = FileProvider(path, PASSPHRASE).wrap(SECRET, b"p")
    with pytest.raises(LoginRefused):
        FileProvider(path, PASSPHRASE + "!")
    with pytest.raises(UsageError, match="exists"):
        key_file.create(path, PASSPHRASE, log_n=LOG_N)
    key_file.change_passphrase(path, PASSPHRASE, "another passphrase", log_n=LOG_N)
    with pytest.raises(LoginRefused):
        FileProvider(path, PASSPHRASE)
    assert FileProvider(path, "another passphrase").unwrap(wrapped, b"p") == SECRET
    assert sorted(p.name for p in tmp_path.iterdir()) == ["key"]


def test_a_short_passphrase_makes_no_key_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="12 characters"):
        key_file.create(tmp_path / "key", "short", log_n=LOG_N)
    assert not (tmp_path / "key").exists()


@pytest.mark.parametrize("change", [{"log_n": 40}, {"log_n": 1}, {"format": "x"}, {"salt": ""}])
def test_a_hostile_key_file_costs_nothing(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "key"
    key_file.create(path, PASSPHRASE, log_n=LOG_N)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(VaultError, match="no key file"):
        FileProvider(path, PASSPHRASE)
    path.write_bytes(b"\xff")
    with pytest.raises(VaultError, match="no key file"):
        FileProvider(path, PASSPHRASE)
    path.unlink()
    with pytest.raises(VaultError, match="cannot be read"):
        FileProvider(path, PASSPHRASE)


@needs_softhsm
def test_the_hsm_key_cannot_be_read_out(token: str) -> None:
    import pkcs11

    provider = Pkcs11Provider(SOFTHSM, token, PIN, "stays", create=True)
    session = pkcs11.lib(SOFTHSM).get_token(token_label=token).open()
    [key] = session.get_objects({pkcs11.Attribute.LABEL: "stays"})
    with pytest.raises(pkcs11.AttributeSensitive):
        key[pkcs11.Attribute.VALUE]
    session.close()
    again = Pkcs11Provider(SOFTHSM, token, PIN, "stays")
    assert again.unwrap(provider.wrap(SECRET, b"p"), b"p") == SECRET
    again.close()
    provider.close()


@needs_softhsm
def test_a_key_that_can_be_read_out_is_refused(token: str) -> None:
    import pkcs11
    from pkcs11 import Attribute

    session = pkcs11.lib(SOFTHSM).get_token(token_label=token).open(rw=True, user_pin=PIN)
    session.generate_key(
        pkcs11.KeyType.AES, 256, label="loose", store=True, template={Attribute.EXTRACTABLE: True}
    )
    session.close()
    with pytest.raises(VaultError, match="read out"):
        Pkcs11Provider(SOFTHSM, token, PIN, "loose")


@needs_softhsm
def test_what_is_wrong_with_the_hsm_is_said(token: str) -> None:
    with pytest.raises(UsageError, match="no token"):
        Pkcs11Provider(SOFTHSM, "absent", PIN, "kek")
    with pytest.raises(UsageError, match="no AES key"):
        Pkcs11Provider(SOFTHSM, token, PIN, "absent")
    with pytest.raises(LoginRefused):
        Pkcs11Provider(SOFTHSM, token, "999999", "kek")
    with pytest.raises(KeysUnreachable):
        Pkcs11Provider("/nonexistent.so", token, PIN, "kek")


def test_the_token_is_read_anew_each_time(transit: FakeTransit) -> None:
    provider = of_transit(transit)
    wrapped = provider.wrap(SECRET, b"p")
    transit.token = "s.renewed"
    with pytest.raises(LoginRefused, match="token"):
        provider.unwrap(wrapped, b"p")
    (transit.ca.parent / "token").write_text("s.renewed\n")
    assert provider.unwrap(wrapped, b"p") == SECRET
    (transit.ca.parent / "token").chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        provider.unwrap(wrapped, b"p")


def test_the_purpose_goes_to_transit_and_no_token_in_a_path(transit: FakeTransit) -> None:
    of_transit(transit).wrap(b"s", b"purpose")
    [(path, body)] = transit.seen
    assert path == "/v1/transit/encrypt/pbxctl"
    assert body == {"plaintext": "cw==", "associated_data": "cHVycG9zZQ=="}


def test_a_transit_that_fails_is_not_taken_for_tampering(transit: FakeTransit) -> None:
    provider = of_transit(transit, timeout_s=0.3)
    wrapped = provider.wrap(SECRET, b"p")
    transit.sealed = True
    with pytest.raises(KeysUnreachable, match="503: Vault is sealed"):
        provider.unwrap(wrapped, b"p")
    transit.sealed = False
    transit.silent_s = 1.0
    with pytest.raises(KeysUnreachable, match="does not answer"):
        provider.unwrap(wrapped, b"p")
    transit.silent_s = 0
    assert provider.unwrap(wrapped, b"p") == SECRET


def test_transit_must_show_a_certificate_of_its_authority(transit: FakeTransit) -> None:
    stranger = TransitProvider(transit.url, KEY_NAME, transit.ca.parent / "token")
    with pytest.raises(KeysUnreachable, match="certificate verify failed"):
        stranger.wrap(SECRET, b"p")
    assert not transit.seen
    with pytest.raises(UsageError, match="https"):
        TransitProvider("http://127.0.0.1:8200", KEY_NAME, transit.ca.parent / "token")
    with pytest.raises(UsageError, match="has no"):
        TransitProvider(
            transit.url, KEY_NAME, transit.ca.parent / "token", mount="other", ca=transit.ca
        ).wrap(SECRET, b"p")


def test_threads_share_a_cipher(tmp_path: Path) -> None:
    key_file.create(tmp_path / "key", PASSPHRASE, log_n=LOG_N)
    provider = FileProvider(tmp_path / "key", PASSPHRASE)
    wrong: list[bytes] = []

    def work() -> None:
        for _ in range(2000):
            secret = os.urandom(32)
            if provider.unwrap(provider.wrap(secret, b"p"), b"p") != secret:
                wrong.append(secret)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
