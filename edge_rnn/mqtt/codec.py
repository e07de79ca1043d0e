"""MQTT 5 packets out of a stream of bytes, many at a time. No socket, no clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mqtt5 import (
    ConnAckPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    Packet,
    PubAckPacket,
    PublishPacket,
    QoS,
    SubAckPacket,
    read,
)

from edge_rnn.messages import Message
from edge_rnn.mqtt.transport import Accepted, Arrivals, Ended, Refused

# Unsupported version, client id, password, authorization, banned, authentication method.
FINAL = frozenset({132, 133, 134, 135, 138, 140})
ONLY_3_1_1 = 'it speaks MQTT 3.1.1 only: set broker.protocol = "3.1.1"'

_CONNACK, _PUBLISH, _PUBACK = 2, 3, 4
_HEADER_BYTES = 5
_FAILURE = 128


class PacketReader:
    """Takes bytes as they come, gives what they say.

    max_packet: a larger packet ends the connection, before memory is taken for it.
    properties: messages keep their user properties.
    """

    def __init__(self, base: int, max_packet: int, *, properties: bool = False) -> None:
        self._base, self._max_packet, self._properties = base, max_packet, properties
        self._buffer = bytearray()
        self.hungry = False  # there may be a whole packet in the buffer

    def __len__(self) -> int:
        """How many bytes are in the buffer."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Add bytes."""
        self._buffer += data
        self.hungry = True

    def read(self, most: int) -> Arrivals:
        """Take whole packets off the buffer, until `most` of them were messages."""
        arrivals = Arrivals()
        at = 0
        with memoryview(self._buffer) as view:
            while len(arrivals.messages) < most and arrivals.ended is None:
                size = self._one(view[at:], arrivals)
                if not size:
                    self.hungry = False
                    break
                at += size
        del self._buffer[:at]
        return arrivals

    def _one(self, view: memoryview, arrivals: Arrivals) -> int:
        """Take one packet -> its size; 0 if it is not whole yet."""
        try:
            packet, size = read(view)
        except IndexError:
            return self._check_size(view, arrivals)
        except ValueError as e:
            return self._skip(view, str(e), arrivals)
        except BaseException as e:  # the codec panics at text that is not UTF-8
            if type(e).__name__ != "PanicException":
                raise
            with view:  # given back here, whoever keeps the exception and what it refers to
                return self._skip(view, "text that is not UTF-8", arrivals)
        if type(packet) is PublishPacket:
            self._message(packet, arrivals)
        elif type(packet) is PubAckPacket:
            arrivals.confirmed.append(packet.packet_id)
            if int(packet.reason_code) >= _FAILURE:
                arrivals.errors.append(_text(packet))
        else:
            _HANDLERS.get(type(packet), _nothing)(packet, arrivals)
        return size

    def _message(self, p: PublishPacket, arrivals: Arrivals) -> None:
        if p.qos == QoS.EXACTLY_ONCE:
            arrivals.ended = Ended("the broker sent a message of QoS 2, which nobody asked for")
            return
        mid = self._base + p.packet_id if p.packet_id else 0
        if not p.topic:
            self._malformed("a topic alias, which we don't take", mid, arrivals)
            return
        properties = tuple(p.user_properties) if self._properties else ()
        arrivals.messages.append(Message(p.topic, p.payload, p.retain, mid, properties))

    def _malformed(self, problem: str, mid: int, arrivals: Arrivals) -> None:
        arrivals.malformed.append(problem)
        arrivals.messages.append(Message("", b"", mid=mid))

    def _check_size(self, view: memoryview, arrivals: Arrivals) -> int:
        """Nothing to take; but what is announced must not be too large."""
        header, length = _frame(view)
        if header + length > self._max_packet:
            arrivals.ended = Ended(
                f"the broker began a packet of {header + length} bytes, more than the "
                f"{self._max_packet} that we take"
            )
        return 0

    def _skip(self, view: memoryview, problem: str, arrivals: Arrivals) -> int:
        """Pass over a packet that means nothing, if it is clear where it ends."""
        header, length = _frame(view)
        size = header + length
        if header and size > len(view) and size <= self._max_packet:
            return 0
        kind, body = view[0] >> 4, bytes(view[header:size])
        if header and kind == _PUBLISH:
            self._malformed(problem, self._id_of(view[0], body), arrivals)
        elif header and kind == _PUBACK and length >= 2:
            arrivals.confirmed.append(int.from_bytes(body[:2], "big"))
            arrivals.errors.append(problem)
        elif kind == _CONNACK and length == 2:
            arrivals.answer = Refused(ONLY_3_1_1, final=True)
        else:
            arrivals.ended = Ended(f"the broker sent what is not MQTT 5: {problem}")
        return size

    def _id_of(self, first: int, body: bytes) -> int:
        """The packet id of a malformed PUBLISH; 0 if it has none to acknowledge."""
        if first & 0b110 != 0b010 or len(body) < 2:
            return 0
        at = 2 + int.from_bytes(body[:2], "big")
        mid = int.from_bytes(body[at : at + 2], "big")
        return self._base + mid if len(body) >= at + 2 and mid else 0


def _frame(view: memoryview) -> tuple[int, int]:
    """Bytes of the fixed header and of the rest; (0, 0) if that can't be told."""
    length = 0
    for i, byte in enumerate(view[1:_HEADER_BYTES]):
        length |= (byte & 127) << 7 * i
        if byte < 128:
            return 2 + i, length
    return 0, 0


def _connack(p: ConnAckPacket, arrivals: Arrivals) -> None:
    if int(p.reason_code) >= _FAILURE:
        arrivals.answer = Refused(_text(p), int(p.reason_code) in FINAL)
        return
    arrivals.answer = Accepted(
        p.session_present,
        p.receive_max,
        p.max_packet_size,
        int(p.max_qos),
        p.retain_available,
        p.session_expiry_interval,
    )


def _suback(p: SubAckPacket, arrivals: Arrivals) -> None:
    arrivals.granted = [_words(c) if int(c) >= _FAILURE else int(c) for c in p.reason_codes]


def _disconnect(p: DisconnectPacket, arrivals: Arrivals) -> None:
    taken_over = p.reason_code == DisconnectReasonCode.SESSION_TAKEN_OVER
    arrivals.ended = Ended(f"the broker ended the connection: {_text(p)}", taken_over)


def _nothing(_: Packet, __: Arrivals) -> None:
    """A ping's answer, or an answer to what we don't wait for."""


_HANDLERS: Mapping[type, Callable[[Any, Arrivals], None]] = {
    ConnAckPacket: _connack,
    SubAckPacket: _suback,
    DisconnectPacket: _disconnect,
}


def _text(p: ConnAckPacket | PubAckPacket | DisconnectPacket) -> str:
    """A packet's reason, with the broker's own words if it has any."""
    return _words(p.reason_code) + (f" ({p.reason_str})" if p.reason_str else "")


def _words(code: Any) -> str:
    return str(code.name.replace("_", " ").capitalize())
