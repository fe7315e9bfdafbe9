"""The rules of HTTP/2 as a whole."""

import test_http2_format
import test_http2_frames
import test_http2_messages
import test_http2_streams
import test_http2_upstream

TABLES = (test_http2_format.rules, test_http2_frames.rules, test_http2_streams.rules, test_http2_messages.rules)
RULES = [rule.id for table in TABLES for rule in table] + list(test_http2_upstream.BAD)


def test_every_rule_has_a_name_of_its_own():
    assert len(set(RULES)) == len(RULES)
