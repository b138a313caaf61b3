"""How long a read waits, how often it asks again, and how much is asked for at once. Every number, in one place."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

REQUESTS_PER_HOST: Final = 32
"""Requests in flight to one host or bucket, for the whole process. At 30 ms to the first byte and 80 MB/s a
connection, 16 give 400 MB/s and 32 give 600 (measured on loopback), twice what two cores decode; S3 asks for no
more than one connection per 85 to 90 MB/s wanted. HTTP/1.1 clients of object stores open 8 to 64."""

REQUESTS: Final = 64
"""Requests in flight of a process, whatever the hosts: with `RUN_BYTES` each, 256 MiB at the very most."""

RUN_BYTES: Final = 4 << 20
"""Neighbouring blocks are asked for at once up to here: at 80 MB/s a request then takes as long as it waits for its
first byte, and splitting it further would cost more than it gains."""

GAP_BYTES: Final = 1 << 10
"""Bytes between two blocks that are read and thrown away rather than asked around. GDAL's COGs have 8 between
neighbours; more would be other blocks, which somebody else may have to ask for again."""

HEADER_BYTES: Final = 32 << 10
"""First read of a file: holds the header of a 10 m band (2.7 kB) and of the largest COGs that are met."""

HEADER_LIMIT: Final = 4 << 20
"""More than this is no header of an image of 10980 pixels, but a file that leads a reader on."""

HEADERS: Final = 4096
"""Headers kept: 3 kB each for a 10 m band, 12 MB together."""

REDIRECTS: Final = 5
"""A sixth redirect is taken for a loop."""


@dataclass(frozen=True)
class Patience:
    """How long and how often; the defaults are for providers on the open internet. Times in seconds."""

    tries: int = 6
    tries_where_nobody_is: int = 3
    """Where a connection is refused or a name unknown, which is said at once; 1 soon after these were in vain."""
    absent: float = 30.0
    """How long "soon" is."""
    first_wait: float = 0.5
    """Before the second try; doubled before each further one, each taken at random from half of it to all of it."""
    longest_wait: float = 30.0
    retry_after: float = 60.0
    """A server that says when to come again is believed up to here."""
    connect: float = 10.0
    silence: float = 30.0
    """Without a byte."""
    slowest: float = 50_000.0
    """Bytes a second below which a try is given up."""
    deadline: float = 240.0
    """For one range with all its tries."""

    def wait(self, tries: int, said: float = 0.0) -> float:
        """Seconds before the next try, after so many; `said`: what the server asked for."""
        own = min(self.longest_wait, self.first_wait * 2 ** (tries - 1)) * random.uniform(0.5, 1)  # noqa: S311
        return max(own, min(said, self.retry_after))

    def longest_try(self, length: int) -> float:
        """Seconds that one try may take for so many bytes."""
        return self.connect + self.silence + length / self.slowest
