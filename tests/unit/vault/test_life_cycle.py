"""From the keeper to the end of a recording: what is kept how long, and what erasing leaves."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from obstore.store import LocalStore
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from controller.config import Config
from controller.config_file import parse
from controller.errors import KeyDestroyed, NotFound, Refused, Tampered, VaultError
from controller.records.database import Database, open_database
from controller.records.reads import ReadingLog
from controller.records.recording_rows import RecordingState, Wanted
from controller.records.recordings import RecordingIndex
from controller.vault import checking, erasure, fields, retention
from controller.vault.bodies import Bodies
from controller.vault.body import Reader
from controller.vault.custody import Custody, open_custody
from controller.vault.header import Particulars
from controller.vault.ingest import Ingest, Limits
from controller.vault.intake import Intake, open_intake
from controller.vault.keeper import Keeper, Rules
from controller.vault.reading import Reading
from controller.vault.store import Store, open_store
from controller.vault.wire import Outcome, State
from tests.sealed import Recording, plain
from tests.vault_server import quick_keys

DAY = retention.DAY_MS
TEXT = """
fleet: test
regions: {east: {}}
nodes: {n1: {kind: asterisk, region: east, sip: "192.0.2.1:5061", control: "192.0.2.1:5039",
        password_file: pw}}
vault: {keys: {provider: file, passphrase_file: pw}}
state_dir: state
"""


def config_in(folder: Path) -> Config:
    (folder / "pw").write_text("correct horse battery\n")
    (folder / "pw").chmod(0o600)
    quick_keys(folder / "state/vault", "correct horse battery")
    return parse(TEXT, str(folder / "pbxctl.yaml"))


class House:
    """All of a vault but its listeners, in this process."""

    def __init__(self, config: Config, give_up_s: float = 1000.0) -> None:
        self.config = config
        self.custody: Custody = open_custody(config)
        self.bodies = Bodies(open_store(config))
        self.intake: Intake = open_intake(config)
        self.database: Database = open_database(config)
        self.index = RecordingIndex(self.database)
        self.keeper = Keeper(
            self.bodies, self.intake, self.custody, self.index, Rules("test", 90, 3650, give_up_s)
        )
        self.reading = Reading(self.bodies, self.custody)
        self.ingest = Ingest(self.bodies, self.intake, Limits(frozenset({"test"}), 1 << 30, 0))

    def close(self) -> None:
        self.ingest.close()
        self.custody.close()
        self.database.close()

    def sealed(self, chunks: float = 2.5, **values: object) -> Recording:
        public = self.custody.keyring.pairs()[0].key
        return Recording(plain(chunks), public_key=public, **values)  # type: ignore[arg-type]

    def recorded(self, made: Recording) -> Recording:
        [ack] = self.ingest.take("n1", made.frames())
        assert ack.state is State.ENDED
        self.keeper.collect()
        self.keeper.finish()
        return made

    def heard(self, recording: str) -> bytes:
        return b"".join(self.reading.audio(self.index.get(recording)).parts())


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(config_in(tmp_path))
    yield made
    made.close()


def days(count: int) -> Particulars:
    return Particulars("c", "+4930111", "4001", "all", count)


def ago(count: float) -> int:
    return round((time.time() - count * 86_400) * 1e6)


def test_how_long_is_a_rule_s_to_say_within_the_vault_s_limits() -> None:
    now = 1_800_000_000_000
    assert retention.keep_until_ms(now, now, 30, 90, 365) == now + 30 * DAY
    assert retention.keep_until_ms(now, now, 0, 90, 365) == now + 90 * DAY
    assert retention.keep_until_ms(now, now, 9999, 90, 365) == now + 365 * DAY
    assert retention.keep_until_ms(now + 10 * DAY, now, 30, 90, 365) == now + 30 * DAY
    assert retention.period_of(now) == "2027-01"
    assert not retention.is_over("2027-01", now)
    assert retention.is_over("2026-12", now)


def test_what_is_over_goes_by_itself_and_what_is_held_stays(house: House) -> None:
    over = house.recorded(house.sealed(started_us=ago(31), particulars=days(30)))
    held = house.recorded(house.sealed(started_us=ago(31), particulars=days(30)))
    young = house.recorded(house.sealed(started_us=ago(29), particulars=days(30)))
    house.index.hold(held.id, "case 1", "cert:carl")
    assert house.keeper.expire() == 1
    assert house.index.get(over.id).state is RecordingState.ERASED
    with pytest.raises(NotFound):
        house.heard(over.id)
    assert house.heard(held.id) == held.plain
    assert house.heard(young.id) == young.plain
    with pytest.raises(FileNotFoundError):
        house.bodies.open_body(over.id)
    house.index.lift(held.id, "cert:carl")
    assert house.keeper.expire() == 1
    signed = house.index.erasure(over.id)
    assert signed is not None
    public = erasure.public_key(house.custody.signing_key())
    said = erasure.verify(public, signed.statement, signed.signature)
    assert (said.recording, said.reason) == (over.id, "retention: its time was over")
    with pytest.raises(Tampered):
        erasure.verify(public, signed.statement.replace(b"over", b"0ver"), signed.signature)


def test_a_month_s_key_goes_when_nothing_needs_it(house: House) -> None:
    house.recorded(house.sealed(started_us=ago(100), particulars=days(30)))
    held = house.recorded(house.sealed(started_us=ago(100), particulars=days(30)))
    house.recorded(house.sealed())
    house.index.hold(held.id, "case 1", "cert:carl")
    old = house.index.get(held.id).period
    house.keeper.expire()
    assert old in {kek.period for kek in house.custody.keyring.keks().values()}
    house.index.lift(held.id, "cert:carl")
    house.keeper.expire()
    periods = {kek.period for kek in house.custody.keyring.keks().values()}
    assert old not in periods
    assert len(periods) == 1


def test_a_lost_index_takes_no_key_with_it(house: House) -> None:
    made = house.recorded(house.sealed(started_us=ago(100), particulars=days(30)))
    house.index.hold(made.id, "case 1", "cert:carl")
    _sql(house, "DELETE FROM recordings")
    before = house.custody.keyring.keks()
    house.keeper.expire()
    assert house.custody.keyring.keks() == before
    assert checking.check(house.bodies, house.custody, house.index).stray_slots == 1


def test_a_backup_from_before_the_erasure_opens_nothing(house: House, tmp_path: Path) -> None:
    """Body, index and head of the backup, keys of today: as somebody who restores it has them."""
    made = house.recorded(house.sealed())
    other = house.recorded(house.sealed())
    row = house.index.get(made.id)
    assert house.heard(made.id) == made.plain
    backup = tmp_path / "backup"
    shutil.copytree(tmp_path / "state/vault/store", backup)
    house.index.doom(made.id, "cert:carl: asked to")
    house.keeper.erase(made.id)
    restored = Reading(Bodies(Store(LocalStore(backup), "backup", backup)), house.custody)
    assert row.slot is not None
    with pytest.raises(KeyDestroyed):
        house.custody.slots.data_key(row.slot, row.tenant, row.recording)
    with pytest.raises(NotFound, match="nobody can open it"):
        restored.audio(row)
    assert restored.numbers(row) == ("", "")
    kept = restored.audio(house.index.get(other.id))
    assert b"".join(kept.parts()) == other.plain, "the rest of the backup is good"
    # The key that it was sealed with, had somebody kept that, would open the body: so the body in
    # the backup is whole, and it is the key alone that is gone.
    read, size, complete = Bodies(Store(LocalStore(backup), "b", backup)).open_body(made.id)
    reader = Reader(row.suite, made.data_key, row.header, read, size, complete)
    assert reader.read(0, 1 << 20) == made.plain
    raw = b"".join(p.read_bytes() for p in (tmp_path / "state").rglob("*") if p.is_file())
    assert made.data_key not in raw
    assert made.envelope not in raw


def test_no_number_stands_in_the_index_in_clear(house: House, tmp_path: Path) -> None:
    made = house.recorded(house.sealed())
    row = house.index.get(made.id)
    assert house.reading.numbers(row) == ("+4930111", "4001")
    for file in (tmp_path / "state").rglob("*"):
        assert not file.is_file() or b"4930111" not in file.read_bytes(), file
    tags = house.custody.tags_key()
    found = house.index.find(Wanted(tags=(fields.tag(tags, "test", "+49 (30) 111"),)), 10)
    assert [r.recording for r in found] == [made.id]
    assert house.index.find(Wanted(tags=(fields.tag(tags, "other", "+4930111"),)), 10) == []
    with pytest.raises(Tampered):
        fields.open_field(made.data_key, "0" * 32, "caller", row.caller or b"")


def _sql(house: House, statement: str) -> None:
    with house.database.transaction() as sql:
        sql.execute(text(statement))


@pytest.mark.parametrize("dies_at", ["slots", "rows"])
def test_a_keeper_that_dies_leaves_one_slot_a_recording(tmp_path: Path, dies_at: str) -> None:
    """Between the slots and the rows, and between the rows and the end of the envelopes."""
    config = config_in(tmp_path)
    house = House(config)
    made = [house.sealed() for _ in range(3)]
    for one in made:
        house.ingest.take("n1", one.frames())
    envelopes = {p: p.read_bytes() for p in (tmp_path / "state/vault/intake").glob("*.envelope")}
    if dies_at == "slots":
        _sql(house, "CREATE TRIGGER away BEFORE INSERT ON recordings "
                    "BEGIN SELECT RAISE(ABORT, 'away'); END")  # fmt: skip
        with pytest.raises(VaultError):
            house.keeper.collect()
        _sql(house, "DROP TRIGGER away")
    else:
        house.keeper.collect()
        for path, content in envelopes.items():
            path.write_bytes(content)
    assert house.custody.slots.used == 3
    house.close()
    again = House(config)
    again.keeper.collect()
    again.keeper.finish()
    assert again.custody.slots.used == 3
    assert again.intake.waiting() == []
    for one in made:
        assert again.heard(one.id) == one.plain
        again.index.doom(one.id, "cert:carl: x")
        again.keeper.erase(one.id)
    assert again.custody.slots.used == 0, "nothing of an erased recording is left"
    again.close()


def test_an_erasure_that_was_cut_short_is_finished(house: House) -> None:
    made = house.recorded(house.sealed())
    house.index.doom(made.id, "cert:carl: asked to")
    with pytest.raises(NotFound):
        house.heard(made.id)
    assert house.keeper.expire() == 1
    signed = house.index.erasure(made.id)
    assert signed is not None
    assert b"cert:carl: asked to" in signed.statement
    assert house.custody.slots.used == 0


def test_what_is_silent_for_too_long_ends_as_partial(tmp_path: Path) -> None:
    house = House(config_in(tmp_path), give_up_s=0.0)
    made = house.sealed(5.5)
    house.ingest.take("n1", [made.begin(), made.some(0, 3)])
    house.keeper.collect()
    house.keeper.finish()
    row = house.index.get(made.id)
    assert (row.state, row.plain_bytes) == (RecordingState.PARTIAL, 3 << 14)
    assert "nothing was heard of it" in row.reason
    assert house.heard(made.id) == made.plain[: 3 << 14]
    house.close()


def test_a_partial_one_says_so_and_how_long_the_call_was(house: House) -> None:
    made = house.recorded(house.sealed(3.0, outcome=Outcome.PARTIAL))
    row = house.index.get(made.id)
    assert (row.state, row.length_ms, row.call_ms) == (RecordingState.PARTIAL, 1536, 60_000)
    assert house.heard(made.id) == made.plain


def test_erased_while_it_grows_its_agent_is_not_asked_again(house: House) -> None:
    made = house.sealed(4.5)
    house.ingest.take("n1", [made.begin(), made.some(0, 2)])
    house.keeper.collect()
    house.index.doom(made.id, "cert:carl: asked to")
    house.keeper.erase(made.id)
    [ack] = house.ingest.take("n1", [made.begin(), made.some(2, 1)])
    assert (ack.next, ack.state) == (3, State.OPEN)
    [ack] = house.ingest.take("n1", [made.some(3, 2), made.end()])
    assert ack.state is State.ENDED
    house.keeper.finish()
    assert house.index.get(made.id).state is RecordingState.ERASED
    with pytest.raises(FileNotFoundError):
        house.bodies.open_body(made.id)
    assert house.bodies.all_growing() == []


def test_an_envelope_to_another_vault_is_set_aside_and_told(house: House) -> None:
    made = Recording(plain(1))
    house.ingest.take("n1", made.frames())
    assert house.keeper.collect() == 0
    assert (house.intake.waiting(), house.intake.bad()) == ([], [made.id])
    other = house.recorded(house.sealed())
    assert house.heard(other.id) == other.plain


def test_a_beginning_recording_is_not_taken_for_a_finished_one(house: House) -> None:
    """A Begin that is being written shows in the store as a folder without anything in it yet."""
    made = house.sealed()
    folder = house.config.vault_path / "store/open" / made.id
    folder.mkdir(parents=True)
    (folder / "begin.staged-00").write_bytes(b"")
    assert house.keeper.finish_one(made.id) is False
    assert (folder / "begin.staged-00").exists()


@pytest.mark.parametrize(
    "left",
    [
        "begin",
        "end",
        "part-00000000",
        "begin end",
        "begin end part-00000002",
        "begin part-00000000",
    ],
)
def test_parts_half_gone_are_taken_away_and_the_body_stays(house: House, left: str) -> None:
    """A vault that died while it took the parts away, whichever were gone by then."""
    made = house.sealed(4.5)
    house.ingest.take("n1", [made.begin(), made.some(0, 2)])
    house.ingest.take("n1", [made.some(2, 3), made.end()])
    folder = house.config.vault_path / "store/open" / made.id
    parts = {path.name: path.read_bytes() for path in folder.iterdir()}
    house.keeper.collect()
    house.keeper.finish()
    folder.mkdir()
    for name in left.split():
        (folder / name).write_bytes(parts[name])
    assert house.heard(made.id) == made.plain
    house.keeper.finish()
    assert not folder.exists()
    assert house.heard(made.id) == made.plain
    [ack] = house.ingest.take("n1", made.frames())
    assert (ack.next, ack.state) == (5, State.ENDED)


def test_a_hold_and_an_erasure_cannot_both_win(house: House) -> None:
    made = house.recorded(house.sealed())
    house.index.doom(made.id, "cert:carl: x")
    with pytest.raises(Refused, match="nothing is left to hold"):
        house.index.hold(made.id, "too late", "cert:carl")
    other = house.recorded(house.sealed())
    house.index.hold(other.id, "in time", "cert:carl")
    with pytest.raises(Refused, match="legal hold"):
        house.index.doom(other.id, "cert:carl: x")


@pytest.mark.parametrize("table", ["recording_reads", "recording_erasures"])
@pytest.mark.parametrize("verb", ["DELETE FROM {}", "UPDATE {} SET at_ms = 0"])
def test_logs_are_append_only(house: House, table: str, verb: str) -> None:
    made = house.recorded(house.sealed())
    house.index.doom(made.id, "cert:carl: x")
    house.keeper.erase(made.id)
    ReadingLog(house.database).write("cert:anna", "auditor", "::1", "listen", made.id, "")
    with pytest.raises(IntegrityError, match="append-only"):
        _sql(house, verb.format(table))


def test_rotation_leaves_everything_readable_and_old_keys_gone(house: House) -> None:
    made = [house.recorded(house.sealed()) for _ in range(3)]
    bodies = {
        p: p.read_bytes() for p in (house.config.vault_path / "store").rglob("*") if p.is_file()
    }
    old_keks, old_pair = set(house.custody.keyring.keks()), house.custody.keyring.pairs()[0].id
    late = house.sealed()
    house.custody.new_pair()
    for _ in house.custody.slots.rotate(time.time_ns() // 1000):
        pass
    assert not old_keks & set(house.custody.keyring.keks())
    assert all(p.read_bytes() == content for p, content in bodies.items())
    assert [house.heard(one.id) for one in made] == [one.plain for one in made]
    house.recorded(late)
    assert house.heard(late.id) == late.plain, "an agent that had the old key still"
    assert house.custody.drop_old_pairs(house.intake, time.time_ns() // 1000 + 1) == [old_pair]
    with pytest.raises(KeyDestroyed):
        house.custody.keyring.private_key(old_pair)


def test_what_is_kept_and_why(house: House) -> None:
    one = house.recorded(house.sealed(particulars=Particulars("c", "1", "2", "sales", 30)))
    house.recorded(house.sealed(particulars=Particulars("c", "1", "2", "sales", 60)))
    house.recorded(house.sealed(particulars=Particulars("c", "1", "2", "claims", 0)))
    house.index.hold(one.id, "case", "cert:carl")
    now_ms = round(time.time() * 1000)
    seen = {(k.rule, k.recordings, k.held, k.overdue) for k in house.index.kept(now_ms)}
    assert seen == {("sales", 2, 1, 0), ("claims", 1, 0, 0)}


def test_wrong_passphrase_and_second_keeper_are_told_at_the_start(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    first = open_custody(config)
    with pytest.raises(Exception, match="another process writes"):
        open_custody(config)
    first.close()
    (tmp_path / "pw").write_text("another passphrase\n")
    with pytest.raises(Exception, match="passphrase does not open"):
        open_custody(config)


def test_slots_without_their_keyring_are_no_first_start(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    open_custody(config).close()
    (config.vault_path / "keyring").rename(tmp_path / "moved away")
    with pytest.raises(VaultError, match="keyring is missing"):
        open_custody(config)
    (tmp_path / "moved away").rename(config.vault_path / "keyring")
    open_custody(config).close()
