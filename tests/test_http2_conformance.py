"""docs/http2-conformance.md lists what is tested, and nothing else."""

import fnmatch

import pytest
import test_http2_format
import test_http2_frames
import test_http2_messages
import test_http2_streams
import test_http2_upstream
from support.h2rules import deviations

TABLES = (test_http2_format.rules, test_http2_frames.rules, test_http2_streams.rules, test_http2_messages.rules)
RULES = [rule.id for table in TABLES for rule in table] + list(test_http2_upstream.BAD)


def test_every_rule_has_a_name_of_its_own():
    assert len(set(RULES)) == len(RULES)


@pytest.mark.parametrize("pattern", deviations())
def test_every_listed_deviation_is_a_rule(pattern):
    assert fnmatch.filter(RULES, pattern)
