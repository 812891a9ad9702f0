"""The units under a real systemd: the path of docs/deployment.md on one machine."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.deploy.machine import Machine, booted
from tests.lab.until import until

pytestmark = [pytest.mark.alone, pytest.mark.timeout(180)]
SINGLE = ("driver", "steward", "gate", "vault", "agent")
CAP_NET_RAW = 1 << 13
INIT = """set -e
systemd-sysusers pbxctl.conf && systemd-tmpfiles --create pbxctl.conf
pbxctl init --fleet office --node pbx1=asterisk:127.0.0.1@east --into /etc/pbxctl
cd /etc/pbxctl
sed -i 's#^state_dir:.*#state_dir: /var/lib/pbxctl#' pbxctl.yaml
cat >> pbxctl.yaml <<END
vault: {ingest: "127.0.0.1:8446", listen: "127.0.0.1:8445",
        keys: {provider: file, passphrase_file: secrets/vault}}
END
(umask 077; printf 'a long passphrase\\n' > secrets/vault)
chown -R pbxctl: secrets pki
runuser -u pbxctl -- pbxctl pki renew
"""
# A Redis for units of single roles: a socket that all of them reach.
SPLIT = """set -e
systemd-run --unit=redis-test redis-server --port 0 --unixsocket /run/redis-test.sock \
    --unixsocketperm 777 --save ''
sed -i 's#^redis:.*#redis: {url: "unix:///run/redis-test.sock"}#' /etc/pbxctl/pbxctl.yaml
for user in vault agent; do
    sed "s#^state_dir:.*#state_dir: /var/lib/pbxctl-$user#" /etc/pbxctl/pbxctl.yaml \
        > /etc/pbxctl-$user/pbxctl.yaml
    cp -r /etc/pbxctl/secrets /etc/pbxctl/pki /etc/pbxctl-$user/
    chown -R pbxctl-$user: /etc/pbxctl-$user/secrets /etc/pbxctl-$user/pki
done
mkdir -p /run/systemd/system/pbxctl-agent.service.d /run/systemd/system/pbxctl-steward.service.d
printf '[Service]\\nEnvironment=PBXCTL_AGENT_NODES=--node=pbx1\\n' \
    > /run/systemd/system/pbxctl-agent.service.d/here.conf
printf '[Service]\\nWatchdogSec=3\\n' > /run/systemd/system/pbxctl-steward.service.d/here.conf
systemctl daemon-reload
"""


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    with booted() as running:
        done = running.run(INIT)
        assert done.returncode == 0, done.stdout
        yield running


@pytest.fixture(scope="module")
def roles(machine: Machine) -> Machine:
    """Each role in its unit."""
    machine("systemctl stop pbxctl-up")
    done = machine.run(SPLIT + f"systemctl start {' '.join(f'pbxctl-{r}' for r in SINGLE)}")
    assert done.returncode == 0, done.stdout + machine("journalctl -u 'pbxctl-*' -n 40")
    return machine


def test_all_on_one_machine(machine: Machine) -> None:
    """`start` returns when the roles are there; `stop` leaves none."""
    started = machine.run("systemctl start pbxctl-up")
    assert started.returncode == 0, machine("journalctl -u pbxctl-up -n 40")
    told = machine(
        "runuser -u pbxctl -- pbxctl --config /etc/pbxctl/pbxctl.yaml nodes list -o name"
    )
    assert "pbx1" in told
    assert machine("systemctl is-active pbxctl-up").strip() == "active"
    assert machine.run("systemctl stop pbxctl-up").returncode == 0
    assert machine.show("pbxctl-up", "Result") == "success"
    assert machine("pgrep -u pbxctl") == ""


@pytest.mark.parametrize("role", SINGLE)
def test_a_role_runs_with_the_rights_of_its_unit(roles: Machine, role: str) -> None:
    """What systemd-analyze says of the file, the kernel says of the process."""
    pid = roles.show(f"pbxctl-{role}", "MainPID")
    status = dict(re.findall(r"^(\w+):\t(\S+)", roles(f"cat /proc/{pid}/status"), re.M))
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    allowed = CAP_NET_RAW if role == "agent" else 0
    assert int(status["CapEff"], 16) | int(status["CapBnd"], 16) == allowed
    assert "denied" not in roles(f"journalctl -u pbxctl-{role}").lower()
    assert roles.show(f"pbxctl-{role}", "NRestarts") == "0"


def test_a_killed_role_is_back(roles: Machine) -> None:
    before = roles.show("pbxctl-driver", "MainPID")
    roles(f"kill -9 {before}")

    def back() -> bool:
        state = roles.show("pbxctl-driver", "ActiveState")
        return state == "active" and roles.show("pbxctl-driver", "MainPID") != before

    until(back, 10, "another driver")


def test_a_role_that_hangs_is_started_again(roles: Machine) -> None:
    """By the watchdog, 3 s here and 30 s in the unit; one that works is left alone."""
    before = roles.show("pbxctl-steward", "MainPID")
    roles("sleep 5")
    assert roles.show("pbxctl-steward", "MainPID") == before
    roles(f"kill -STOP {before}")

    def back() -> bool:
        state = roles.show("pbxctl-steward", "ActiveState")
        return state == "active" and roles.show("pbxctl-steward", "MainPID") != before

    until(back, 20, "another steward")
    assert "watchdog" in roles("journalctl -u pbxctl-steward").lower()


def test_the_target_ends_them_all(roles: Machine) -> None:
    """Last: nobody is there afterwards."""
    roles("systemctl start pbxctl.target")
    assert roles.run("systemctl stop pbxctl.target").returncode == 0

    def ended() -> bool:
        return all(roles.show(f"pbxctl-{r}", "ActiveState") == "inactive" for r in SINGLE)

    until(ended, 25, "no role runs")
