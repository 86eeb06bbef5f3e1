"""A problem is an error, or is logged once and counted."""

import logging

import pytest

from frcnn.data.problems import ErrorPolicy
from frcnn.errors import DataError


def test_raise_stops_with_the_message_and_says_how_to_go_on():
    policy = ErrorPolicy("raise", name="data.train")
    with pytest.raises(DataError, match=r"a\.jpg: broken .*on_error=skip"):
        policy.report("a.jpg: broken")
    assert policy.count == 0


def test_skip_warns_once_for_each_problem_and_counts(caplog):
    policy = ErrorPolicy("skip", name="data.train")
    assert policy.summary() == ""
    for message in ("a.jpg: broken", "b.jpg: broken", "a.jpg: broken"):
        policy.report(message)
    assert policy.count == 2
    assert [(record.name, record.levelno) for record in caplog.records] == [("frcnn.data", logging.WARNING)] * 2
    assert "a.jpg: broken" in caplog.messages[0] and "b.jpg: broken" in caplog.messages[1]
    assert "2" in policy.summary() and "data.train" in policy.summary()
