"""Trained models in, checked and quantized edge-rnn models out.

>>> from edge_rnn_converters import convert
>>> model = convert("model.onnx", quantize="int8")    # doctest: +SKIP
"""

from edge_rnn_converters.backends.host import Hosting, host
from edge_rnn_converters.conversion import Conversion, Report, convert, convert_with_report

__all__ = ["Conversion", "Hosting", "Report", "convert", "convert_with_report", "host"]
