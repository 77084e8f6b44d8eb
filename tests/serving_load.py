"""Many requests on many connections that are kept: ``python serving_load.py PORT REQUESTS CONNECTIONS BODY``.

Prints one JSON object: how often each (status, model header, set of predictions) was answered, and the
latencies' median and 99th percentile in milliseconds. The standard library alone, to leave the time to the server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter

HEAD = "POST /invocations HTTP/1.1\r\nHost: t\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
) -> tuple[int, dict[str, str], bytes]:
    """One request, and its status, headers and body."""
    writer.write(HEAD.format(len(body)).encode() + body)
    status, _, rest = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").partition("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in rest.strip().split("\r\n"))
    return int(status.split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


async def load(port: int, requests: int, connections: int, body: bytes) -> dict[str, object]:
    """Send them all."""
    seen: Counter[str] = Counter()
    taken: list[float] = []
    left = iter(range(requests))

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            begin = time.perf_counter()
            status, headers, content = await ask(reader, writer, body)
            taken.append(time.perf_counter() - begin)
            found = sorted({str(each["prediction"]) for each in json.loads(content)["predictions"]})
            seen[json.dumps([status, headers.get("x-confide-model"), found])] += 1
        writer.close()

    begin = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    seconds = time.perf_counter() - begin
    taken.sort()
    return {
        "seen": [[*json.loads(key), count] for key, count in seen.items()],
        "per_second": requests / seconds,
        "median_ms": 1000 * taken[len(taken) // 2],
        "p99_ms": 1000 * taken[len(taken) * 99 // 100],
    }


if __name__ == "__main__":
    port, requests, connections = (int(value) for value in sys.argv[1:4])
    sys.stdout.write(json.dumps(asyncio.run(load(port, requests, connections, sys.argv[4].encode()))) + "\n")
