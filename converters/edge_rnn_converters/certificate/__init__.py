"""What a conversion costs, measured on a long stream: the certificate of a model file."""

from edge_rnn_converters.certificate.data import Data, generated, read
from edge_rnn_converters.certificate.measure import Bounds, Certified, certify

__all__ = ["Bounds", "Certified", "Data", "certify", "generated", "read"]
