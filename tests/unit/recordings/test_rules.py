"""Which calls are recorded."""

from __future__ import annotations

import pytest

from controller.config_file import parse
from controller.config_recordings import RecordingRule, RecordingsConfig
from controller.errors import ConfigError
from controller.media.recording import Decision, Offered, decide, rule_for

CALL = Offered("id-1", "+4930111", "49301234", "queue")


@pytest.mark.parametrize(
    ("rule", "fits"),
    [
        ({}, True),
        ({"prefix": "49301"}, True),
        ({"prefix": "49302"}, False),
        ({"caller": "+4930"}, True),
        ({"caller": "4930"}, False),
        ({"service": "queue"}, True),
        ({"service": "ivr"}, False),
        ({"phone": "desk"}, False),
        ({"service": "queue", "prefix": "5"}, False),
    ],
)
def test_a_rule_fits_when_all_it_names_is_true(rule: dict[str, str], fits: bool) -> None:
    assert (rule_for([RecordingRule(name="r", **rule)], CALL) is not None) is fits  # type: ignore[arg-type]


@pytest.mark.parametrize("who", ["caller", "callee"])
def test_a_phone_is_either_side(who: str) -> None:
    sides = {"caller": "x", "callee": "y"} | {who: "desk"}
    call = Offered("id", service="phone", **sides)
    assert rule_for([RecordingRule(name="r", phone="desk")], call)


def test_the_first_that_fits_counts() -> None:
    rules = [RecordingRule(name=n, service=s) for n, s in (("a", "ivr"), ("b", "queue"))]  # type: ignore[arg-type]
    found = rule_for([*rules, RecordingRule(name="c")], CALL)
    assert found
    assert found.name == "b"


def test_a_share_is_drawn_by_call_id() -> None:
    rule = RecordingRule(name="tenth", share=0.1)
    calls = [Offered(f"call-{i}", "", "", "") for i in range(5000)]
    first = [rule_for([rule], call) is not None for call in calls]
    assert first == [rule_for([rule], call) is not None for call in calls], "asked again, the same"
    assert 400 < sum(first) < 600
    other = [rule_for([RecordingRule(name="other", share=0.1)], call) is not None for call in calls]
    assert sum(a and b for a, b in zip(first, other, strict=True)) < 120, "rules draw apart"


@pytest.mark.parametrize(
    ("unable", "problem", "decision"),
    [
        ("go_on", "", Decision.RECORD),
        ("refuse", "", Decision.RECORD),
        ("go_on", "full", Decision.GO_ON),
        ("refuse", "full", Decision.REFUSE),
    ],
)
def test_what_cannot_be_recorded(unable: str, problem: str, decision: Decision) -> None:
    config = RecordingsConfig(unable=unable)  # type: ignore[arg-type]
    assert decide(config, RecordingRule(name="r"), problem) is decision
    assert decide(config, None, problem) is Decision.GO_ON, "no rule wants it recorded"


def test_recordings_need_a_vault_and_rules_a_name_each(tmp_path: object) -> None:
    start = "fleet: f\nregions: {e: {}}\nnodes: {}\n"
    nodes = 'nodes: {n: {kind: asterisk, region: e, sip: "192.0.2.1:5061", '
    nodes += 'control: "192.0.2.1:5039", password_file: /dev/null}}\n'
    text = start.replace("nodes: {}\n", nodes.replace("/dev/null", __file__))
    with pytest.raises(ConfigError, match="no vault"):
        parse(text + "recordings: {}\n", "/x/pbxctl.yaml")
    twice = 'recordings: {vault: "192.0.2.9:1", rules: [{name: a}, {name: a}]}\n'
    with pytest.raises(ConfigError, match="twice"):
        parse(text + twice, "/x/pbxctl.yaml")
    good = parse(text + twice.replace("name: a}]", "name: b}]"), "/x/pbxctl.yaml")
    assert good.takes_recordings == "192.0.2.9:1"
