"""The seam: what a connection to a broker can do, whichever client speaks the protocol.

A transport is one connection, used once: it never waits once it is made, decides nothing and logs
nothing. `Link` has the policy and the books.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from edge_rnn.messages import Message
from edge_rnn.mqtt.settings import Settings
from edge_rnn.payload import Properties

CONNECT_SECONDS = 5.0


class Publication(msgspec.Struct, gc=False):
    """A message of ours. `tag` is told when the broker has it; `mid`, its packet id, and `dup`,
    whether the broker may have it already, are the link's to set. `properties` need MQTT 5."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    tag: int = 0
    mid: int = 0
    dup: bool = False
    properties: Properties = ()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The broker lets us in. receive_max: how many QoS 1 publications it takes unconfirmed;
    max_packet: of how many bytes; session_expiry: for how many seconds it keeps our session."""

    session_present: bool
    receive_max: int = 65535
    max_packet: int | None = None
    max_qos: int = 2
    retain: bool = True
    session_expiry: float | None = None

    def lacks(self, s: Settings) -> str:
        """What the broker does not offer and we need, for people; "" if nothing."""
        if self.max_qos < max(s.out_qos, s.status.qos if s.status else 0):
            return "the broker takes QoS 0 only: set output.qos and status.qos to 0"
        if not self.retain and (s.out_retain or (s.status and s.status.retain)):
            return "the broker keeps no messages: set output.retain and status.retain to false"
        return ""


@dataclass(frozen=True, slots=True)
class Refused:
    """The broker does not. `final`: asking again is of no use before something is changed."""

    reason: str
    final: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The connection is over; taken_over: because another client uses our client id."""

    reason: str
    taken_over: bool = False


@dataclass(slots=True)
class Arrivals:
    """What a read brought, each kind in the order it came.

    granted: the QoS of each filter, or why it was refused; confirmed: packet ids of publications
    that the broker has dealt with, `errors` being what it said of those that it refused;
    malformed: what is wrong with each packet that claimed to be a message; among the `messages` it
    has an empty topic.
    """

    answer: Accepted | Refused | None = None
    granted: Sequence[int | str] = ()
    messages: list[Message] = field(default_factory=list)
    confirmed: list[int] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    malformed: list[str] = field(default_factory=list)
    ended: Ended | None = None


class Transport(Protocol):
    """One connection. Packet ids of messages are above `base`, so that none is like one of an
    earlier connection; those of publications are the caller's, who never uses one twice at once."""

    def __init__(self, settings: Settings, base: int) -> None:
        """Connect, waiting `CONNECT_SECONDS` at most, and ask to be let in. Raises OSError."""

    def fileno(self) -> int:
        """The socket's descriptor, to wait for; negative once the connection is over."""

    @property
    def wants_write(self) -> bool:
        """Is something left to be written?"""

    @property
    def unsent(self) -> int:
        """How many QoS 0 publications are not wholly written."""

    def patience(self) -> float:
        """Seconds until `read` has something to do though the socket has nothing to read."""

    def read(self, most: int) -> Arrivals:
        """What has come, up to about `most` messages."""

    def write(self) -> None:
        """As much as the socket takes."""

    def subscribe(self, mid: int, filters: Sequence[str], qos: int, *, retained: bool) -> None:
        """Ask for messages; with `retained` also, at a new subscription, for those kept."""

    def unsubscribe(self, mid: int, filters: Sequence[str]) -> None:
        """Ask for no more of these."""

    def publish(self, publications: Sequence[Publication]) -> None:
        """Have `write` send them, after what it has to send already."""

    def acknowledge(self, mids: Sequence[int]) -> None:
        """Have `write` send acknowledgements of messages."""

    def close(self, *, politely: bool) -> None:
        """End the connection; politely, so that the broker does not publish the last will."""
