"""An upstream that is well or not, as a test wishes."""

import itertools
import threading

from .upstream import RawUpstream, UpstreamConnection
from .wire import Closed


class Moody(RawUpstream):
    """Answers each request with the status of its mood; one without a status closes the connection.

    `mood` is a status, `None`, or a list of them that is gone through again and again. `requests`
    counts what came.
    """

    def __init__(self, mood: int | None | list = 200, **options):
        self.lock = threading.Lock()
        self.requests = 0
        self.become(mood)
        super().__init__(self._converse, **options)

    def become(self, mood: int | None | list):
        moods = itertools.cycle(mood if isinstance(mood, list) else [mood])
        with self.lock:
            self.moods = moods

    def _converse(self, connection: UpstreamConnection):
        connection.record = False
        while True:
            try:
                connection.read_request()
            except Closed:
                return
            with self.lock:
                self.requests += 1
                mood = next(self.moods)
            if mood is None:
                connection.close()
                return
            connection.send(f"HTTP/1.1 {mood} Mood\r\nContent-Length: 0\r\n\r\n")
