"""MQTT 5 packets out of a stream of bytes, many at a time. No socket, no clock."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from struct import iter_unpack
from typing import Any

import mqtt5
from mqtt5 import (
    ConnAckPacket,
    DisconnectPacket,
    DisconnectReasonCode,
    Packet,
    PubAckPacket,
    SubAckPacket,
)

from edge_rnn.messages import Message
from edge_rnn.mqtt.transport import Accepted, Arrivals, Ended, Refused

# Unsupported version, client id, password, authorization, banned, authentication method.
FINAL = frozenset({132, 133, 134, 135, 138, 140})
ONLY_3_1_1 = 'it speaks MQTT 3.1.1 only: set broker.protocol = "3.1.1"'

_PUBLISH, _QOS_2 = 3, 0b100
_CONNACK, _PUBACK = 0x20, 0x40  # as first bytes
_QOS_0, _QOS_1 = 0x30, 0x32  # of messages that are neither kept nor sent again
_CONFIRMED = re.compile(rb"(?:\x40\x02..)+", re.DOTALL)
_HEADER = 2  # bytes, of a packet under 128 bytes
_TWO_BYTES = 1 << 14  # lengths from here on take more
_FAILURE = 128
_USER_PROPERTY, _SUBSCRIPTION = 0x26, 0x0B
_SIZES = {0x01: 1, 0x02: 4, 0x23: 2}  # bytes of further properties
_TEXTS = (0x03, 0x08, 0x09)
_NOT_MQTT = "the broker sent what is not MQTT 5"


class PacketReader:
    """Takes bytes as they come, gives what they say.

    Messages and short confirmations, which are nearly all there is, are read here; the rest by
    `mqtt5`, which panics, and keeps memory for ever, at text that is not UTF-8.
    max_packet: a larger packet ends the connection, before memory is taken for it.
    properties: messages keep their user properties.
    """

    def __init__(self, base: int, max_packet: int, *, properties: bool = False) -> None:
        self._base, self._max_packet, self._properties = base, max_packet, properties
        self._buffer = b""
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
        arrivals, data, at = Arrivals(), self._buffer, 0
        while len(arrivals.messages) < most and arrivals.ended is None:
            if (after := self._plain(data, at, most, arrivals)) > at:
                at = after
                continue
            start, end = self._frame(data, at, arrivals)
            if not end:
                self.hungry = False
                break
            first = data[at]
            if first >> 4 == _PUBLISH and first & _QOS_2:
                arrivals.ended = Ended("the broker sent a message of QoS 2, unasked")
            elif first >> 4 == _PUBLISH:
                arrivals.messages.append(self._message(first, data[start:end], arrivals))
            elif first == _PUBACK and end - start == 2:
                arrivals.confirmed.append(data[start] << 8 | data[start + 1])
            else:
                _other(data[at:end], arrivals)
            at = end
        self._buffer = data[at:]
        return arrivals

    def _plain(self, data: bytes, at: int, most: int, arrivals: Arrivals) -> int:
        """Take off what is as nearly all packets are, and return where another one begins: short
        confirmations, then messages under 16 KB without properties, neither kept nor sent again."""
        if confirmed := _CONFIRMED.match(data, at):
            arrivals.confirmed += [mid for (mid,) in iter_unpack(">xxH", confirmed[0])]
            at = confirmed.end()
        messages, base, size = arrivals.messages, self._base, len(data)
        try:
            while len(messages) < most and ((first := data[at]) == _QOS_1 or first == _QOS_0):
                length, topic = data[at + 1], at + 4
                if length > 127:
                    length, topic = length & 127 | data[at + 2] << 7, at + 5
                end = topic - 2 + length
                payload = topic + (data[topic - 2] << 8 | data[topic - 1])
                name, mid = data[topic:payload], 0
                if first == _QOS_1:
                    mid = base + (data[payload] << 8 | data[payload + 1])
                    payload += 2
                whole = payload < end <= size and end - at <= self._max_packet
                if not (whole and name and mid != base and length < _TWO_BYTES) or data[payload]:
                    break  # malformed ones too
                messages.append(Message(name.decode(), data[payload + 1 : end], False, mid))
                at = end
        except (ValueError, IndexError):  # not UTF-8, or not whole
            pass
        return at

    def _frame(self, data: bytes, at: int, arrivals: Arrivals) -> tuple[int, int]:
        """Where the packet at `at` has its body, and ends; (0, 0) if it is not whole."""
        length = 0
        for i, byte in enumerate(data[at + 1 : at + 5]):
            length |= (byte & 127) << 7 * i
            if byte < 128:
                start = at + 2 + i
                end = start + length
                if end - at > self._max_packet:
                    arrivals.ended = Ended(
                        f"the broker began a packet of {end - at} bytes, more than the "
                        f"{self._max_packet} that we take"
                    )
                return (start, end) if end <= len(data) else (0, 0)
        if len(data) >= at + 5:
            arrivals.ended = Ended(f"{_NOT_MQTT}: a length of more than four bytes")
        return 0, 0

    def _message(self, first: int, body: bytes, arrivals: Arrivals) -> Message:
        """Of a PUBLISH; one with an empty topic if it is malformed (MQTT 5, section 3.3)."""
        mid = 0
        try:
            at = 2 + (body[0] << 8 | body[1])
            topic = body[2:at]
            if qos := first >> 1 & 1:
                mid = self._base + (body[at] << 8 | body[at + 1])
                at += 2
            size, at = _varint(body, at)
            payload = at + size
            if payload > len(body) or not topic or (qos and mid == self._base):
                raise ValueError("lengths that don't fit, no topic, or no packet id")
            properties = _user_properties(body[at:payload]) if self._properties and size else ()
            return Message(topic.decode(), body[payload:], bool(first & 1), mid, properties)
        except (ValueError, IndexError) as e:
            arrivals.malformed.append(str(e))
            return Message("", b"", mid=0 if mid == self._base else mid)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to four bytes, and where it ends. Raises ValueError, IndexError."""
    value = 0
    for shift in (0, 7, 14, 21):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("a number of more than four bytes")


def _user_properties(data: bytes) -> tuple[tuple[str, str], ...]:
    """The pairs among a message's properties (MQTT 5, section 2.2.2). Raises ValueError."""
    pairs, at = [], 0
    while at < len(data):
        kind, at = data[at], at + 1
        if kind == _USER_PROPERTY:
            key, at = _text(data, at)
            value, at = _text(data, at)
            pairs.append((key.decode(), value.decode()))
        elif kind in _SIZES:
            at += _SIZES[kind]
        elif kind in _TEXTS:
            _, at = _text(data, at)
        elif kind == _SUBSCRIPTION:
            _, at = _varint(data, at)
        else:
            raise ValueError(f"an unknown property {kind}")
    if at > len(data):
        raise ValueError("a property that is cut off")
    return tuple(pairs)


def _text(data: bytes, at: int) -> tuple[bytes, int]:
    end = at + 2 + (data[at] << 8 | data[at + 1])
    return data[at + 2 : end], end


def _other(packet: bytes, arrivals: Arrivals) -> None:
    """A packet that is neither a message nor a short confirmation."""
    try:
        read, _ = mqtt5.read(memoryview(packet))
    except (ValueError, IndexError) as e:
        problem = str(e)
    except BaseException as e:
        if type(e).__name__ != "PanicException":
            raise
        problem = "text that is not UTF-8"
    else:
        _HANDLERS.get(type(read), _nothing)(read, arrivals)
        return
    if packet[0] == _PUBACK and len(packet) >= _HEADER + 2:
        arrivals.confirmed.append(packet[2] << 8 | packet[3])
        arrivals.errors.append(problem)
    elif packet[0] == _CONNACK and len(packet) == _HEADER + 2:
        arrivals.answer = Refused(ONLY_3_1_1, final=True)
    else:
        arrivals.ended = Ended(f"{_NOT_MQTT}: {problem}")


def _puback(p: PubAckPacket, arrivals: Arrivals) -> None:
    arrivals.confirmed.append(p.packet_id)
    if int(p.reason_code) >= _FAILURE:
        arrivals.errors.append(_reason(p))


def _connack(p: ConnAckPacket, arrivals: Arrivals) -> None:
    if int(p.reason_code) >= _FAILURE:
        arrivals.answer = Refused(_reason(p), int(p.reason_code) in FINAL)
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
    arrivals.ended = Ended(f"the broker ended the connection: {_reason(p)}", taken_over)


def _nothing(_: Packet, __: Arrivals) -> None:
    """A ping's answer, or an answer to what we don't wait for."""


_HANDLERS: Mapping[type, Callable[[Any, Arrivals], None]] = {
    PubAckPacket: _puback,
    ConnAckPacket: _connack,
    SubAckPacket: _suback,
    DisconnectPacket: _disconnect,
}


def _reason(p: ConnAckPacket | PubAckPacket | DisconnectPacket) -> str:
    """A packet's reason, with the broker's own words if it has any."""
    return _words(p.reason_code) + (f" ({p.reason_str})" if p.reason_str else "")


def _words(code: Any) -> str:
    return str(code.name.replace("_", " ").capitalize())
