"""Waiting for conditions: the tests never sleep for a fixed time and hope."""

import time

#: Generous: a loaded CI machine must not fail a test that is right.
TIMEOUT = 20.0


def eventually(condition, message="condition", timeout=TIMEOUT):
    """Calls `condition` until it returns something true, and returns that.

    An `AssertionError` inside counts as not yet, and is raised when the time is over.
    """
    end = time.monotonic() + timeout
    while True:
        failure = None
        try:
            if value := condition():
                return value
        except AssertionError as error:
            failure = error
        if time.monotonic() > end:
            raise failure or AssertionError(f"timed out after {timeout} s: {message}")
        time.sleep(0.01)
