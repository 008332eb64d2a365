"""What one send costs, without a server around it: `python -m bench.sends`.

Calls the handler of requests with what a browser sends, again and again in one thread: at once, so that a change of a
tenth of a millisecond shows, and with pauses, as when one person writes.
"""

from __future__ import annotations

import statistics
import time
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

from bench.stack import make_viewers, running

SENDS, PAUSED_SENDS, PAUSE = 300, 60, 0.1


class Sender:
    """Somebody who sends into their conversation. No reply runs: each is ended by hand before the next send."""

    def __init__(self) -> None:
        from django.db import connection

        from chatapp.asgi import django_application

        self.handler = django_application
        (self.who,) = make_viewers(1, prefix="sender")
        self.path = f"/conversations/{self.who['conversation']}/messages/"
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_backend_pid()")
            self.backend = cursor.fetchone()[0]

    def send(self) -> dict[str, float]:
        """Seconds of CPU here and in PostgreSQL, and of wall time."""
        form = {"text": "Tell me more.", "key": uuid4(), "leaf": self.who["leaf"], "model": self.who["model"]}
        body = urlencode(form).encode()
        scope, stream = self.scope(len(body)), BytesIO(body)
        database, cpu, wall = self.cpu_of_database(), time.thread_time(), time.perf_counter()
        response = self.handler._answer(scope, stream)
        wall, cpu = time.perf_counter() - wall, time.thread_time() - cpu
        if response.status_code != 200:
            raise SystemExit(f"a send was answered {response.status_code}")
        spent = {"web": cpu, "postgres": self.cpu_of_database() - database, "wall": wall}
        self.end_reply()
        return spent

    def scope(self, length: int) -> dict[str, Any]:
        host, token = b"127.0.0.1:8000", str(self.who["csrf"]).encode()
        headers = {
            b"host": host,
            b"origin": b"http://" + host,
            b"referer": b"http://" + host + self.path.encode(),
            b"user-agent": b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            b"accept": b"text/html",
            b"cookie": f"sessionid={self.who['session']}; csrftoken={self.who['csrf']}".encode(),
            b"content-type": b"application/x-www-form-urlencoded",
            b"content-length": str(length).encode(),
            b"hx-request": b"true",
            b"x-csrftoken": token,
        }
        return {
            "type": "http",
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": list(headers.items()),
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }

    def end_reply(self) -> None:
        from conversations.models import Conversation, Reply

        Reply.objects.filter(conversation=self.who["conversation"]).unfinished().update(state="complete")
        self.who["leaf"] = Conversation.objects.values_list("leaf", flat=True).get(
            pk=self.who["conversation"]
        )

    def cpu_of_database(self) -> float:
        return int(Path(f"/proc/{self.backend}/schedstat").read_text().split()[0]) / 1e9


def main() -> None:
    with running():
        sender = Sender()
        for _ in range(10):
            sender.send()  # what is loaded and planned once
        for name, count, pause in (("one after the other", SENDS, 0.0), ("with pauses", PAUSED_SENDS, PAUSE)):
            spent = []
            for _ in range(count):
                time.sleep(pause)
                spent.append(sender.send())
            medians = {part: statistics.median(send[part] for send in spent) * 1000 for part in spent[0]}
            print(f"{name:>20}: " + ", ".join(f"{part} {value:.2f} ms" for part, value in medians.items()))


if __name__ == "__main__":
    main()
