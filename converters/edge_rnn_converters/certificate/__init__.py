"""What a conversion costs, measured on a long stream: the certificate of a model file."""

from edge_rnn_converters.certificate.measure import Bounds, Certified, certify
from edge_rnn_converters.certificate.request import Request
from edge_rnn_converters.certificate.truth import compute

__all__ = ["Bounds", "Certified", "Request", "certify", "compute"]
