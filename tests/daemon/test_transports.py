"""What brokers may do to a connection: scripted ones, for what real ones rarely do."""

from __future__ import annotations

import os
import socket
import ssl
import time
from contextlib import suppress

import mqtt5
import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from edge_rnn.errors import BrokerError
from edge_rnn.messages import Message
from edge_rnn.metrics import Metrics
from edge_rnn.mqtt import tls_context
from edge_rnn.mqtt.codec import PacketReader
from edge_rnn.mqtt.transport import Publication
from edge_rnn.mqtt.window import Window
from edge_rnn_devices.broker import free_port
from tests.daemon.conftest import poll_until
from tests.effort import examples

CLIENTS = {
    "batch": {"protocol": "5", "client": "batch"},
    "paho 5": {"protocol": "5", "client": "paho"},
    "paho 3.1.1": {"protocol": "3.1.1", "client": "paho"},
}
any_client = pytest.mark.parametrize("client_of", CLIENTS.values(), ids=CLIENTS)
any_v5 = pytest.mark.parametrize("client_of", [CLIENTS["batch"], CLIENTS["paho 5"]], ids=str)


class Scripted:
    """A broker of one connection at a time that does as told, while the link is polled."""

    def __init__(self, stack):
        self._server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._server.setblocking(False)
        self.port = self._server.getsockname()[1]
        self._socket, self._buffer = None, b""

    def accept(self, link, connack=None, *, subscribed=True):
        """Let the link in -> its CONNECT."""

        def came():
            try:
                self._socket, _ = self._server.accept()
            except BlockingIOError:
                return False
            return True

        self.close()
        poll_until(link, came)
        self._socket.setblocking(False)
        self._buffer = b""
        hello = self.next(link)
        self.send(connack or mqtt5.ConnAckPacket())
        if subscribed:
            mid = self.next(link).packet_id
            granted = [mqtt5.SubAckReasonCode.GRANTED_QOS_AT_LEAST_ONCE]
            self.send(mqtt5.SubAckPacket(mid, granted))
            poll_until(link, lambda: link.ready)
        return hello

    def send(self, *packets):
        self._socket.sendall(b"".join(p if isinstance(p, bytes) else p.write() for p in packets))

    def next(self, link):
        """The next packet of the link."""
        found = []
        poll_until(link, lambda: found or found.extend(self.take(1)))
        return found[0]

    def take(self, most=1000):
        """Packets that are there."""
        with suppress(BlockingIOError):
            self._buffer += self._socket.recv(1 << 20)
        packets = []
        while self._buffer and len(packets) < most:
            try:
                packet, size = mqtt5.read(memoryview(self._buffer))
            except IndexError:
                break
            packets.append(packet)
            self._buffer = self._buffer[size:]
        return packets

    def quiet(self, link):
        """Packets that come within a moment."""
        packets = []
        for _ in range(10):
            link.poll(0.005, 100)
            packets += self.take()
        return packets

    def close(self):
        if self._socket is not None:
            self._socket.close()


@pytest.fixture
def scripted(stack):
    broker = Scripted(stack)
    stack.callback(broker.close)
    return broker


def message(n, mid=None, topic="in/a", **options):
    return mqtt5.PublishPacket(
        topic, b"%d" % n, qos=mqtt5.QoS(1 if mid else 0), packet_id=mid, **options
    )


BAD_TOPIC = bytes([0x32, 8, 0, 2, 0xFF, 0xFE, 0, 2, 0, 0x78])
BAD_LENGTH = bytes([0x32, 6, 0, 1, 0x61, 0, 3, 9])


def test_what_is_no_message_is_counted_and_acknowledged_in_its_turn(scripted, link, caplog):
    us = link(scripted.port)
    scripted.accept(us)
    scripted.send(message(1, 1), BAD_TOPIC, BAD_LENGTH, message(4, 4))
    poll_until(us, lambda: len(us._inbox) == 2)
    assert not scripted.quiet(us)  # an earlier one is not processed yet
    assert us._metrics.dropped == {"malformed": 2}
    assert caplog.text.count("a malformed message") == 1
    us.ack(us._inbox.take(9))
    assert [p.packet_id for p in scripted.quiet(us)] == [1, 2, 3, 4]
    assert us._metrics.disconnects == 0


@pytest.mark.parametrize(
    ("what", "said"),
    [
        (b"\x00\x00", "not MQTT 5"),
        (b"\x30\xff\xff\xff\xff\x7f", "not MQTT 5"),
        (b"\x30\xff\xff\x7f", "began a packet of 2097155 bytes, more than the 1048576"),
        (b"\x34\x06\x00\x01a\x00\x07\x00", "QoS 2"),
        (b"\xe0\x01\x89", "ended the connection: Server busy"),
        (b"", "closed the connection"),
    ],
)
def test_what_ends_a_connection_is_said_and_the_link_reconnects(scripted, link, caplog, what, said):
    us = link(scripted.port)
    scripted.accept(us)
    scripted.send(message(1), what)
    scripted._socket.shutdown(socket.SHUT_WR)
    poll_until(us, lambda: not us.ready)
    assert said in caplog.text
    assert len(us._inbox) == 1
    scripted.accept(us)


def test_a_broker_of_3_1_1_only_is_told_with_the_key_to_set(scripted, link):
    us = link(scripted.port)
    with pytest.raises(BrokerError, match=r'3\.1\.1 only: set broker\.protocol = "3\.1\.1"'):
        scripted.accept(us, connack=b"\x20\x02\x00\x01")


def test_a_broker_that_hangs_up_at_mqtt_5_is_told_too(scripted, link, caplog):
    us = link(scripted.port)
    scripted.accept(us, connack=b"", subscribed=False)
    scripted.close()
    poll_until(us, lambda: caplog.records)
    assert 'if it speaks MQTT 3.1.1 only, set broker.protocol = "3.1.1"' in caplog.text


def test_a_silent_broker_is_asked_and_given_up(scripted, link, caplog, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("edge_rnn.mqtt.batch._clock", lambda: now[0])
    us = link(scripted.port, keepalive=10)
    assert scripted.accept(us).keep_alive == 10
    now[0] += 9.9
    assert not scripted.quiet(us)
    now[0] += 0.2
    assert [type(p) for p in scripted.quiet(us)] == [mqtt5.PingReqPacket]
    scripted.send(mqtt5.PingRespPacket())
    assert not scripted.quiet(us)
    now[0] += 10.1
    assert len(scripted.quiet(us)) == 1
    now[0] += 4.8
    assert not scripted.quiet(us)
    assert us.ready
    now[0] += 0.2
    poll_until(us, lambda: not us.ready)
    assert "silent for 15 s" in caplog.text


def test_what_the_broker_takes_unconfirmed_is_respected_and_ids_stay_apart(scripted, link):
    us = link(scripted.port)
    scripted.accept(us, connack=mqtt5.ConnAckPacket(receive_max=3))
    for n in range(8):
        us.publish("out/a", b"%d" % n, 1, False, tag=n + 1)
    sent = scripted.quiet(us)
    assert [p.payload for p in sent] == [b"0", b"1", b"2"]
    scripted.send(mqtt5.PubAckPacket(sent[1].packet_id))
    assert [p.payload for p in scripted.quiet(us)] == [b"3"]
    assert us.confirmed == [2]


def test_what_is_not_confirmed_comes_again_under_its_id(scripted, link):
    us = link(scripted.port)
    scripted.accept(us)
    for n in range(4):
        us.publish("out/a", b"%d" % n, 1, False)
    sent = scripted.quiet(us)
    scripted.send(mqtt5.PubAckPacket(sent[1].packet_id))
    scripted.quiet(us)
    us.publish("out/a", b"4", 1, False)
    scripted.close()
    poll_until(us, lambda: not us.ready)
    scripted.accept(us, connack=mqtt5.ConnAckPacket(session_present=True, receive_max=2))
    again = scripted.quiet(us)
    assert [(p.packet_id, p.payload, p.duplicate) for p in again] == [
        (sent[0].packet_id, b"0", True),
        (sent[2].packet_id, b"2", True),
    ]
    scripted.send(*(mqtt5.PubAckPacket(p.packet_id) for p in again))
    rest = scripted.quiet(us)
    assert [p.payload for p in rest] == [b"3", b"4"]
    assert len({p.packet_id for p in [*again, *rest]}) == 4


def test_an_acknowledgement_of_an_earlier_connection_is_not_sent(scripted, link):
    us = link(scripted.port)
    scripted.accept(us)
    scripted.send(message(1, 7))
    poll_until(us, lambda: len(us._inbox))
    late = us._inbox.take(9)
    scripted.close()
    poll_until(us, lambda: not us.ready)
    scripted.accept(us, connack=mqtt5.ConnAckPacket(session_present=True))
    scripted.send(message(2, 7))  # some brokers count anew
    poll_until(us, lambda: len(us._inbox))
    us.ack(late)
    assert not scripted.quiet(us)
    us.ack(us._inbox.take(9))
    assert [p.packet_id for p in scripted.quiet(us)] == [7]


def test_a_slow_broker_delays_nothing_but_what_it_is_sent(scripted, link):
    us = link(scripted.port)
    scripted.accept(us)
    payloads = [os.urandom(40_000) for _ in range(300)]
    for p in payloads:
        us.publish("out/a", p, 0, False)
    start = time.process_time()
    us.poll(0, 100)
    assert us.busy
    scripted.send(message(1, 1))
    poll_until(us, lambda: len(us._inbox))
    assert time.process_time() - start < 5
    got = []
    poll_until(us, lambda: got.extend(scripted.take()) or len(got) == 300)
    assert [p.payload for p in got] == payloads
    assert not us.busy


def test_predictions_lost_with_a_connection_are_counted(scripted, link):
    us = link(scripted.port)
    scripted.accept(us)
    for _ in range(300):
        us.publish("out/a", bytes(40_000), 0, False)
    us.poll(0, 100)
    scripted.close()
    poll_until(us, lambda: not us.ready)
    assert 0 < us._metrics.dropped["unsent"] <= 300


def test_what_the_broker_finds_too_large_is_not_sent(scripted, link, caplog):
    us = link(scripted.port)
    scripted.accept(us, connack=mqtt5.ConnAckPacket(max_packet_size=100))
    us.publish("out/a", bytes(100), 1, False, tag=1)
    us.publish("out/a", b"small", 1, False, tag=2)
    assert [p.payload for p in scripted.quiet(us)] == [b"small"]
    assert us.confirmed == [1]
    assert us._metrics.publish_errors == 1
    assert "it takes 100 bytes at most" in caplog.text


def test_a_broker_that_offers_too_little_is_refused(scripted, link):
    us = link(scripted.port)
    with pytest.raises(BrokerError, match=r"takes QoS 0 only: set output\.qos"):
        scripted.accept(us, connack=mqtt5.ConnAckPacket(max_qos=mqtt5.QoS.AT_MOST_ONCE))


@any_v5
def test_who_is_taken_over_says_so_and_leaves(scripted, link, client_of):
    us = link(scripted.port, **client_of)
    scripted.accept(us)
    code = mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER
    scripted.send(mqtt5.DisconnectPacket(reason_code=code))
    with pytest.raises(BrokerError, match=r"another client has taken over .* client id 'c'"):
        poll_until(us, lambda: False)


def test_who_is_taken_over_and_not_told_gets_a_hint(mosquitto, link, caplog):
    port = mosquitto().port
    first, second = link(port), link(port)
    poll_until(first, lambda: second.poll(0, 100) or "does another client use" in caplog.text)
    assert "the client id 'c'?" in caplog.text


@any_v5
def test_the_broker_keeps_what_we_do_not_take(mosquitto, link, client, client_of):
    broker = mosquitto()
    us = link(broker.port, receive_max=10, **client_of)
    poll_until(us, lambda: us.ready)
    publisher = client(broker.port)
    for n in range(30):
        publisher.publish("in/a", b"%d" % n)
    poll_until(us, lambda: len(us._inbox) == 10)
    for _ in range(10):
        us.poll(0.01, 100)
    assert len(us._inbox) == 10
    taken = []
    while len(taken) < 30:  # mosquitto 2.0 counts wrongly from here on
        us.poll(0.02, 100)
        batch = us._inbox.take(100)
        taken += batch
        us.ack(batch)
    assert [int(m.payload) for m in taken] == list(range(30))


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_over_websockets(mosquitto, link, protocol):
    port = free_port()
    listener = f"listener {port} 127.0.0.1\nprotocol websockets"
    mosquitto(f"allow_anonymous true\nmax_inflight_messages 0\n{listener}")
    us = link(port, transport="websockets", client="paho", protocol=protocol)
    poll_until(us, lambda: us.ready)
    for n in range(500):
        us.publish("in/a", b"%d" % n, 1, False)
    poll_until(us, lambda: len(us._inbox) == 500)
    assert [int(m.payload) for m in us._inbox.take(500)] == list(range(500))


@any_client
def test_tls_with_our_own_certificate(mosquitto, link, client_of, tmp_path):
    authority = trustme.CA()
    theirs, ours = authority.issue_cert("127.0.0.1"), authority.issue_cert("sensor@edge.example")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    theirs.private_key_and_cert_chain_pem.write_to_path(tmp_path / "theirs.pem")
    ours.private_key_and_cert_chain_pem.write_to_path(tmp_path / "ours.pem")
    for name in ("ca.pem", "theirs.pem"):
        (tmp_path / name).chmod(0o644)
    port = mosquitto(
        f"allow_anonymous true\nmax_inflight_messages 0\nrequire_certificate true\n"
        f"cafile {tmp_path}/ca.pem\ncertfile {tmp_path}/theirs.pem\nkeyfile {tmp_path}/theirs.pem"
    ).port
    context = tls_context(tmp_path / "ca.pem", tmp_path / "ours.pem", None)
    us = link(port, tls=context, **client_of)
    poll_until(us, lambda: us.ready)
    for n in range(500):
        us.publish("in/a", b"%d" % n + bytes(500), 1, False)
    poll_until(us, lambda: len(us._inbox) == 500)
    assert [int(m.payload.rstrip(b"\0")) for m in us._inbox.take(500)] == list(range(500))

    stranger = link(port, tls=tls_context(tmp_path / "ca.pem", None, None), **client_of)
    for _ in range(20):
        stranger.poll(0.02, 100)
    assert not stranger.ready


def test_alpn_names_reach_the_broker(tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("broker").configure_cert(theirs)
    theirs.set_alpn_protocols(["mqtt", "http/1.1"])
    ours = tls_context(tmp_path / "ca.pem", None, None, ["x-amzn-mqtt-ca", "mqtt"])
    to, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    us = ours.wrap_bio(back, to, server_hostname="broker")
    them = theirs.wrap_bio(to, back, server_side=True)
    left = [us, them]
    while left:
        for side in tuple(left):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            left.remove(side)
    assert us.selected_alpn_protocol() == them.selected_alpn_protocol() == "mqtt"


PACKETS = st.one_of(
    st.builds(
        message,
        st.integers(0, 10**6),
        st.none() | st.integers(1, 65535),
        topic=st.text("ab/é漢", min_size=1),
    ).map(lambda p: p.write()),
    st.integers(1, 65535).map(lambda mid: mqtt5.PubAckPacket(mid).write()),
    st.sampled_from([mqtt5.PingRespPacket().write(), BAD_LENGTH]),
)


@given(st.lists(PACKETS, max_size=8), st.lists(st.integers(1, 40)), st.integers(1, 5))
@examples(150)
def test_packets_are_the_same_however_they_are_cut(packets, cuts, most):
    data = b"".join(packets)
    whole = PacketReader(0, 1 << 20)
    whole.feed(data)
    expected = whole.read(1000)
    assert expected.ended is None
    assert len(expected.messages) + len(expected.confirmed) == sum(
        p[0] >> 4 in (3, 4) for p in packets
    )
    reader = PacketReader(0, 1 << 20)
    messages, confirmed, malformed = [], [], []
    while data or reader.hungry:
        size = cuts.pop() if cuts else len(data)
        reader.feed(data[:size])
        data = data[size:]
        got = reader.read(most)
        assert len(got.messages) <= most
        messages += got.messages
        confirmed += got.confirmed
        malformed += got.malformed
    assert messages == expected.messages
    assert (confirmed, malformed) == (expected.confirmed, expected.malformed)
    assert len(reader) == 0


@given(
    st.lists(st.integers(0, 40_000), max_size=6),
    st.lists(st.sampled_from([0, 0, 0, 1, 8, 9]), min_size=6, max_size=6),
    st.none() | st.just([("k", "v")]),
    st.sampled_from([1 << 20, 16_000, 200]),
)
@examples(100)
def test_messages_of_every_size_and_kind_are_read(sizes, flags, properties, max_packet):
    """What nearly all packets are is read by a shorter way: with the same result."""
    data, expected = b"", []
    for mid, (size, flag) in enumerate(zip(sizes, flags, strict=False)):
        retain, qos = bool(flag & 1), 1 if flag & 8 else mid % 2
        packet = mqtt5.PublishPacket(
            "in/é", bytes(size), qos=mqtt5.QoS(qos), retain=retain, duplicate=bool(flag & 8),
            packet_id=mid + 1 if qos else None, user_properties=properties,
        ).write()  # fmt: skip
        data += packet
        if len(packet) > max_packet:
            break
        expected.append(Message("in/é", bytes(size), retain, qos and (1 << 16) + mid + 1))
    reader = PacketReader(1 << 16, max_packet)
    reader.feed(data)
    read = reader.read(99)
    assert read.messages[: len(expected)] == expected
    assert (read.ended is not None) == (len(expected) < len(sizes))


@given(st.lists(PACKETS, max_size=3), st.binary(max_size=60), st.integers(0, 255), st.data())
@examples(300)
def test_no_bytes_make_the_reader_fail(packets, noise, byte, data):
    """Whatever comes, it is messages, counted as malformed, waited for, or the end."""
    stream = bytearray(b"".join(packets))
    if stream:
        stream[data.draw(st.integers(0, len(stream) - 1))] = byte
    reader = PacketReader(0, 1 << 20)
    reader.feed(bytes(stream) + noise)
    while reader.hungry:
        before = len(reader)
        got = reader.read(4)
        if got.ended:
            break
        assert len(reader) < before or not reader.hungry
        assert sum(not m.topic for m in got.messages) == len(got.malformed)


@given(st.lists(st.integers(0, 12), max_size=200))
@examples(100)
def test_an_id_on_its_way_is_never_given_again(steps):
    """Ids come round after 16; the broker confirms in any order, connections break."""
    import edge_rnn.mqtt.window as module

    before, module._IDS = module._IDS, 16
    try:
        window, flying = Window(Metrics()), {}
        window.limit = 10
        for n, step in enumerate(steps):
            if step == 12:
                window.again()
                again = set(flying)
                flying.clear()
                for p in window.take():
                    assert p.mid not in flying
                    flying[p.mid] = p
                assert again <= set(flying)
            elif step > 9 or step >= len(flying):
                window.put(Publication("t", b"%d" % n, 1, False))
                for p in window.take():
                    assert p.mid not in flying
                    flying[p.mid] = p
            else:
                mid = list(flying)[step]
                window.confirm([mid], [])
                del flying[mid]
                for p in window.take():
                    assert p.mid not in flying
                    flying[p.mid] = p
            assert len(flying) <= 10
    finally:
        module._IDS = before


@any_v5
def test_user_properties_come_from_a_real_broker(mosquitto, link, client_of):
    port = mosquitto().port
    us = link(port, properties=True, **client_of)
    poll_until(us, lambda: us.ready)
    with socket.create_connection(("127.0.0.1", port)) as publisher:
        hello = mqtt5.ConnectPacket("publisher", clean_start=True)
        pairs = [("seq", "17"), ("epoch", "2")]
        publisher.sendall(hello.write() + message(1, user_properties=pairs).write())
        poll_until(us, lambda: len(us._inbox))
    assert us._inbox.take(9)[0].properties == tuple(pairs)


def test_predictions_go_out_before_the_subscription_is_confirmed(scripted, link):
    """A broker may confirm it only when what it has sent of an earlier session is acknowledged, and
    that waits until the predictions before it are out."""
    us = link(scripted.port)
    scripted.accept(us, subscribed=False)
    assert isinstance(scripted.next(us), mqtt5.SubscribePacket)
    us.publish("out/a", b"1", 1, False, tag=7)
    sent = scripted.next(us)
    assert isinstance(sent, mqtt5.PublishPacket) and not us.ready
    scripted.send(mqtt5.PubAckPacket(sent.packet_id))
    poll_until(us, lambda: us.confirmed == [7])


def test_messages_keep_their_user_properties_if_asked():
    packet = message(1, 1, user_properties=[("seq", "7"), ("seq", "8")]).write()
    for asked, properties in ((True, (("seq", "7"), ("seq", "8"))), (False, ())):
        reader = PacketReader(1 << 16, 1 << 20, properties=asked)
        reader.feed(packet)
        assert reader.read(9).messages == [Message("in/a", b"1", False, 65537, properties)]
