"""SIPp's log lines become outcomes."""

from __future__ import annotations

import math

from tests.lab.sipp import parse

LOG = """\
1-9@127.0.100.12|sent|100|
2-9@127.0.100.12|sent|150|
3-9@127.0.100.12|sent|200|
1-9@127.0.100.12|final|104|200
2-9@127.0.100.12|final|153|503 7
1-9@127.0.100.12|peer-bye|900|
4-9@127.0.100.12|sent|300|
4-9@127.0.100.12|final|340|200
4-9@127.0.100.12|lost|5000|
5-9@127.0.100.12|se"""


def test_each_call_has_one_outcome() -> None:
    one, two, four = parse(LOG).calls
    assert (one.code, one.setup_ms, one.completed, one.hung_up_by_peer) == (200, 4, True, True)
    assert (two.code, two.setup_ms, two.retry_after_s, two.completed) == (503, 3, 7, False)
    assert (four.answered, four.completed) == (True, False)


def test_a_call_still_under_way_is_none_until_all_is_over() -> None:
    assert parse(LOG).attempted == 3
    over = parse(LOG, over=True)
    assert over.attempted == 4
    assert over.codes == {200: 2, 503: 1, 0: 1}
    assert (over.answered, over.failed, over.completed) == (2, 2, 1)


def test_percentiles_are_over_answered_calls_alone() -> None:
    result = parse(LOG)
    assert result.setup_ms(0.5) == 4
    assert result.setup_ms(0.99) == 40
    assert math.isnan(parse("").setup_ms(0.5))
