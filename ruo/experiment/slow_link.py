"""A slow link, simulated: ``python slow_link.py HOST PORT ROUND_TRIP_MS MEGABITS`` prints the port to connect to."""

import asyncio
import sys
from contextlib import suppress

_BURST_S = 0.01  # the delay that a link's queue makes up for when this process wakes late


async def _forward(host: str, port: int, round_trip_s: float, bytes_per_s: float) -> None:
    loop, delay_s = asyncio.get_running_loop(), round_trip_s / 2
    free_at = {"there": 0.0, "back": 0.0}  # when all that came before has left

    async def carry(way: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, begin_s: float = 0.0) -> None:
        """Forward from `begin_s` on until the sender ends; no more is in memory than the link itself would hold."""
        begun = loop.time() + begin_s
        while piece := await reader.read(1 << 16):
            now = loop.time()
            free_at[way] = max(free_at[way], now - _BURST_S, begun) + len(piece) / bytes_per_s
            await asyncio.sleep(free_at[way] - now)
            await writer.drain()  # what has arrived is taken before more leaves
            loop.call_at(max(free_at[way], now) + delay_s, writer.write, piece)
        await asyncio.sleep(delay_s)
        writer.write_eof()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            far_reader, far_writer = await asyncio.open_connection(host, port)
            with suppress(OSError):
                await asyncio.gather(
                    carry("there", reader, far_writer, round_trip_s), carry("back", far_reader, writer)
                )
            far_writer.close()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    # the process that started this one holds the other end of standard input; end with it
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    host, port, round_trip_ms, megabits = sys.argv[1:]
    asyncio.run(_forward(host, int(port), float(round_trip_ms) / 1e3, float(megabits) * 1e6 / 8))
