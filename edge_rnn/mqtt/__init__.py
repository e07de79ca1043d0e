"""The MQTT side: a bounded inbox and one connection that is kept up."""

from edge_rnn.mqtt.inbox import Inbox
from edge_rnn.mqtt.link import Link, wait
from edge_rnn.mqtt.settings import Settings, Status, tls_context

__all__ = ["Inbox", "Link", "Settings", "Status", "tls_context", "wait"]
