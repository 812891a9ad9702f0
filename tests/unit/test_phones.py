"""What a phone may be called, what is kept of it, and the files that phones and PBXs read."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from controller.config import Config
from controller.config_file import parse
from controller.errors import NotFound, Refused, UsageError
from controller.fleet.phones import NodePhones, PublishedPhone
from controller.media import phones as rules
from controller.media import provision
from controller.model import MediaPolicy
from controller.records.database import Database, open_database
from controller.records.phones import Digests, PhoneBook
from controller.records.tables import metadata
from controller.render.phones import phones_file, phones_in

REQUIRE = MediaPolicy.REQUIRE
ONE = Digests("1" * 32, "1" * 64)
TWO = Digests("2" * 32, "2" * 64)
HOSTILE = [
    'Robert"; DROP TABLE phones;--',
    "a\nauth = other\n[evil]\ntype=endpoint",
    "a\r\nX-Evil: 1",
    "<script>&amp;</user>]]>",
    "${SHELL(id)} {a=b} ^^",
    "%0d%0aVia: evil",
    "\x00"[:0] + "\x1b[2J\u202e\u2028;exec",
    "x" * 5000,
    "#include /etc/shadow",
    "",
]


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for name in "abc":
        (tmp_path / name).write_text("secret\n")
        (tmp_path / name).chmod(0o600)
    text = """
fleet: test
regions: {east: {spill_to: [west]}, west: {}, north: {}}
nodes:
  a: {kind: asterisk, region: east, sip: "192.0.2.1:5060", control: "192.0.2.1:5038",
      password_file: a}
  b: {kind: freeswitch, region: east, sip: "192.0.2.2:5060", control: "192.0.2.2:8021",
      password_file: b, weight: 3}
  c: {kind: asterisk, region: west, sip: "192.0.2.3:5060", control: "192.0.2.3:5038",
      password_file: c}
numbers:
  - {prefix: "95", service: echo}
  - {prefix: "400", service: phone}
security: {signalling: plain, media: plain, control: plain}
state_dir: state
"""
    return parse(text, str(tmp_path / "pbxctl.yaml"))


@pytest.fixture
def book(config: Config) -> PhoneBook:
    return PhoneBook(open_database(config))


@pytest.mark.parametrize("name", ["1", "1001", "0049301234", "9" * 18, "4001"])
def test_a_name_may_be(config: Config, name: str) -> None:
    assert rules.checked_name(config, name) == name


@pytest.mark.parametrize(
    "name",
    ["", "9" * 19, "a", "reception.2", "+49301", "*1", "1 001", "9500",
     "A", "a b", "-a", "a-", "a;b", "a\n", "1001\n", "ä", "٣", "../x", "a/b",
     "pbxctl-trunk", "pbxctl", "global", "system", 'a"', "a]", "{a}", "a\0"],
)  # fmt: skip
def test_a_name_may_not_be(config: Config, name: str) -> None:
    with pytest.raises(UsageError):
        rules.checked_name(config, name)


@pytest.mark.parametrize("display", ["\0", "\ud800", "x" * 5001])
def test_a_display_name_may_not_be(display: str) -> None:
    with pytest.raises(UsageError):
        rules.checked_display(display)


@pytest.mark.parametrize("display", HOSTILE)
def test_hostile_display_names_are_kept_and_harmless(
    config: Config, book: PhoneBook, display: str
) -> None:
    book.add("1001", rules.checked_display(display), "east", REQUIRE, ONE)
    kept = book.get("1001")
    assert kept.display == display
    shown = rules.caller_name(display)
    assert len(shown) <= rules.LABEL_MAX_CHARS
    assert not set(shown) & set("\"\\;<>{}[]()$#%&'`|,=\n\r\0\x1b\u202e\u2028")
    published = [PublishedPhone("1001", display, REQUIRE, ONE.md5, ONE.sha256)]
    asterisk = phones_file(config, "a", published, {"east": 1})
    plain = phones_file(config, "a", [PublishedPhone("1001", "", REQUIRE, "", "")], {"east": 1})
    # the same lines, so the name added none; sections and includes are the file's own
    assert asterisk.count("\n") == plain.count("\n")
    assert "evil" not in asterisk.replace(f'"{shown}"', "")
    tree = ElementTree.fromstring(phones_file(config, "b", published, {"east": 1}))
    assert [user.get("id") for user in tree.iter("user")] == ["1001"]
    values = {v.get("name"): v.get("value") for v in tree.iter("variable")}
    assert values["effective_caller_id_name"] == (shown or "1001")
    for text in (asterisk, phones_file(config, "b", published, {})):
        assert phones_in(text) == {"1001"}


@pytest.mark.parametrize("display", HOSTILE)
def test_hostile_display_names_in_provisioning(config: Config, display: str) -> None:
    phone = provision.Credentials("1001", display, "east", REQUIRE, "test", "pass-word_1")
    files = provision.files(config, phone, provision.Signalling())
    lines = files["baresip/accounts"].splitlines()
    assert len(lines) == 3  # a node each, whatever the name holds
    assert [f";prio={n};" in line for n, line in enumerate(lines)] == [True] * 3
    assert all(line.count('"') == 2 and line.count("<") == 1 for line in lines)
    tree = ElementTree.fromstring(files["linphone.xml"])
    names = [section.get("name") for section in tree]
    assert names == ["proxy_0", "proxy_1", "proxy_2", "auth_info_0", "sip"]
    keys = [line.partition(" = ")[0] for line in files["desk.cfg"].splitlines()]
    assert len(keys) == len(set(keys))


def test_digests_are_those_of_rfc_7616() -> None:
    # section 3.9.1: Mufasa, http-auth@example.org, Circle of Life
    made = rules.digests("Mufasa", "http-auth@example.org", "Circle of Life")
    assert made.md5 == "3d78807defe7de2157e2b0b6573a855f"
    secret = b"Mufasa:http-auth@example.org:Circle of Life"
    assert made.sha256 == hashlib.sha256(secret).hexdigest()
    assert made.md5 not in repr(made)


def test_phones_spread_over_their_regions_nodes(config: Config) -> None:
    first = [rules.servers(config, "east", str(n))[0].node for n in range(1000)]
    assert set(first) == {"a", "b"}
    assert 650 < first.count("b") < 850  # weight 3 of 4
    assert all(rules.servers(config, "east", str(n))[-1].node == "c" for n in range(20))
    assert [s.node for s in rules.servers(config, "west", "1")] == ["c"]


def test_the_regions_that_a_node_holds(config: Config) -> None:
    assert rules.regions_held_by(config, "a") == ["east"]
    assert rules.regions_held_by(config, "c") == ["east", "west"]
    assert rules.nodes_holding(config, "east") == ["a", "b", "c"]
    assert rules.nodes_holding(config, "north") == []


def test_srv_records_send_phones_to_their_region_first(config: Config) -> None:
    zone = provision.dns_zone(config, "east", provision.Signalling("tls"))
    records = [line.split() for line in zone.splitlines() if " SRV " in line]
    assert {(r[0], r[4], r[5], r[7]) for r in records} == {
        ("_sips._tcp", "10", "10", "a"),
        ("_sips._tcp", "10", "30", "b"),
        ("_sips._tcp", "20", "10", "c"),
    }
    assert "a 60 IN A 192.0.2.1" in zone


def test_a_zone_without_a_domain_says_that_its_name_is_an_example(config: Config) -> None:
    for domain, told in ((None, True), ("sip.example.org", False)):
        phones = msgspec.structs.replace(config.phones, domain=domain)
        changed = msgspec.structs.replace(config, phones=phones)
        zone = provision.dns_zone(changed, "east", provision.Signalling("tls"))
        assert ("; phones.domain is not set" in zone) is told
        assert f"$ORIGIN {domain or 'sip.example.net'}.\n" in zone


def test_a_phone_is_added_once(book: PhoneBook) -> None:
    book.add("1001", "", "east", REQUIRE, ONE)
    with pytest.raises(Refused, match="already"):
        book.add("1001", "other", "west", REQUIRE, TWO)
    assert book.get("1001").digests == ONE


def test_of_two_adds_at_once_one_wins(config: Config) -> None:
    books = [PhoneBook(open_database(config)) for _ in range(4)]
    start = threading.Barrier(len(books))
    ended: list[str] = []

    def add(book: PhoneBook) -> None:
        start.wait()
        try:
            book.add("1001", "", "east", REQUIRE, ONE)
            ended.append("added")
        except Refused:
            ended.append("refused")

    threads = [threading.Thread(target=add, args=(book,)) for book in books]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ended) == ["added", "refused", "refused", "refused"]
    assert len(books[0].all()) == 1


def test_every_change_raises_its_regions_version(book: PhoneBook) -> None:
    book.add("1001", "", "east", REQUIRE, ONE)
    book.add("2001", "", "west", REQUIRE, ONE)
    assert book.versions() == {"east": 1, "west": 1}
    assert book.rotate("1001", TWO).version == 2
    removed = book.remove("1001")
    assert (removed.version, removed.digests) == (3, Digests("", ""))
    version, phones = book.of_region("east")
    assert (version, phones) == (3, [])
    for gone in ("1001", "9999", "x' OR 1=1"):
        with pytest.raises(NotFound):
            book.rotate(gone, ONE)
        with pytest.raises(NotFound):
            book.remove(gone)
    assert book.versions() == {"east": 3, "west": 1}


def test_a_removed_phone_stays_until_forgotten_and_may_come_back(book: PhoneBook) -> None:
    book.add("1001", "", "east", REQUIRE, ONE)
    gone = book.remove("1001")
    again = book.add("1001", "back", "west", REQUIRE, TWO)
    book.forget([gone])  # late: it must not take the new one
    assert book.get("1001") == again
    assert book.versions()["east"] == 3  # the old region hears that it left
    book.forget([book.remove("1001")])
    assert book.all() == []


def test_a_node_is_waited_for_until_it_runs_on_the_change(config: Config, book: PhoneBook) -> None:
    phone = book.add("1001", "", "east", REQUIRE, ONE)
    told = {"a": NodePhones({"east": 1}), "b": NodePhones({"west": 5}), "c": NodePhones({})}
    assert rules.waiting(config, phone, told) == ["b", "c"]


def test_records_are_closed_and_have_no_password(config: Config, book: PhoneBook) -> None:
    password = rules.new_password()
    book.add("1001", "", "east", REQUIRE, rules.digests("1001", config.realm, password))
    files = list((config.state_path).glob("records.db*"))
    assert files
    for path in files:
        assert path.stat().st_mode & 0o077 == 0, path
        assert password.encode() not in path.read_bytes()


def test_migrations_make_what_the_tables_say(config: Config) -> None:
    database: Database = open_database(config)
    with database.transaction() as sql:
        assert compare_metadata(MigrationContext.configure(sql), metadata) == []
    database.upgrade()  # again: nothing to do


def test_tables_of_a_newer_version_are_used_as_they_are(config: Config) -> None:
    """The version before is started again when an upgrade is undone."""
    with open_database(config).transaction() as sql:
        sql.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        sql.exec_driver_sql("ALTER TABLE phones ADD COLUMN of_the_next_version TEXT")
    book = PhoneBook(open_database(config))
    book.add("1001", "", "east", REQUIRE, ONE)
    assert [phone.name for phone in book.all()] == ["1001"]
