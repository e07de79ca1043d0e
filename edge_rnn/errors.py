"""Every error the project raises on purpose.

    EdgeRnnError
      ModelError(ValueError)         a model that is not one
        ModelFileError               a .ernn file that can't be trusted; names the file
        UnsupportedError             a source model that can't be run faithfully; names the layer
        MismatchError                a conversion that does not compute what its source does
      InputError(ValueError)         features of the wrong shape, type or value; nothing was stepped
      StreamError(LookupError)       a stream or slot that is not there
        CapacityError                more streams in one call than the session holds
        StaleSlotError               a slot whose stream has been evicted
      SnapshotError(ValueError)      a snapshot of another model, or damaged
      JournalError(ValueError)       a state file that can't be used; names the file
      StateError(ValueError)         a request about streams that is refused; nothing was changed
      RecordingError(ValueError)     a recording that can't be replayed; names the file
      ConfigError(ValueError)        a pipeline file; names the line
      PayloadError(ValueError)       one message that can't be used; carries its reason
      BrokerError(ConnectionError)   a broker that refuses us
      MissingExtraError(ImportError) an optional package is needed; names the extra

Each is also the built-in error a caller would expect, so `except ValueError` works.
"""

from __future__ import annotations


class EdgeRnnError(Exception):
    """Base of all errors of this package."""


class ModelError(EdgeRnnError, ValueError):
    """A model that is not well formed; the message names the node."""


class ModelFileError(ModelError):
    """A `.ernn` file that can't be read or trusted; the message names the file."""


class UnsupportedError(ModelError):
    """A source model that can't be run faithfully; the message names layer and attribute."""


class MismatchError(ModelError):
    """A conversion whose outputs differ from its source framework's; says where and by how much."""


class InputError(EdgeRnnError, ValueError):
    """Features of the wrong shape, type or value. No stream was stepped."""


class StreamError(EdgeRnnError, LookupError):
    """A stream that is not open."""


class CapacityError(StreamError):
    """More distinct streams in one call than the session can hold."""


class StaleSlotError(StreamError):
    """A slot whose stream was evicted or closed. No stream was stepped."""


class SnapshotError(EdgeRnnError, ValueError):
    """A snapshot that is damaged or belongs to another model. Nothing was restored."""


class JournalError(EdgeRnnError, ValueError):
    """A state file that is damaged, in use, or of another model; the message names the file."""


class StateError(EdgeRnnError, ValueError):
    """An operator's request about streams that is refused; nothing was changed."""


class RecordingError(EdgeRnnError, ValueError):
    """A recording or a table that can't be replayed; the message names the file."""


class ConfigError(EdgeRnnError, ValueError):
    """A pipeline file that can't be used; the message names file, line and what is allowed."""


class PayloadError(EdgeRnnError, ValueError):
    """One message that can't be used.

    `reason` is a short fixed word to count by; the text says what was expected and what came.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class BrokerError(EdgeRnnError, ConnectionError):
    """The broker refused the connection, a subscription, or can't be reached."""


class MissingExtraError(EdgeRnnError, ImportError):
    """An optional package is needed.

    >>> raise MissingExtraError("h5py", extra="keras", need="to read Keras models")
    Traceback (most recent call last):
    edge_rnn.errors.MissingExtraError: h5py is needed to read Keras models: \
pip install 'edge-rnn[keras]'
    """

    def __init__(self, package: str, *, extra: str, need: str) -> None:
        super().__init__(f"{package} is needed {need}: pip install 'edge-rnn[{extra}]'")
