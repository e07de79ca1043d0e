"""Which client a connection is made with."""

from __future__ import annotations

from edge_rnn.mqtt.settings import Settings
from edge_rnn.mqtt.transport import Transport


def open_transport(settings: Settings, base: int) -> Transport:
    """Connect. Imports the client that is used, and not the other. Raises OSError."""
    if settings.client == "batch":
        from edge_rnn.mqtt.batch import BatchTransport

        return BatchTransport(settings, base)
    from edge_rnn.mqtt.paho import PahoTransport

    return PahoTransport(settings, base)
