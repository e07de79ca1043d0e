"""What does not convert, why, and what to do instead: the text of the refusals and the manual."""

from __future__ import annotations

from typing import Any, TypeAlias

Why: TypeAlias = tuple[str, str]
"""Why it is refused, and the way out."""

UNKNOWN: Why = ("is not known to this version", "leave it out, or tell us that you need it")

_FUTURE: Why = (
    "looks ahead: its result at a step depends on steps that a stream does not have yet",
    "train the model forward only",
)
_WINDOW: Why = (
    "reads a window of steps, and only recurrent and per-step layers convert",
    "train without it, or compute it before the model",
)
_CUDNN: Why = (
    "keeps its weights in cuDNN's layout, which is not read",
    "load them into {} with reset_after or the defaults, and save that",
)
_CODE: Why = ("is Python code, and none is run", "replace it with a layer that converts")
_SHAPE: Why = ("changes what the axes mean", "build the model without it")
_MERGE: Why = ("merges several values, and only chains convert", "build the model as a chain")
_MASK: Why = (
    "makes steps that are skipped, and a stream steps once for every message",
    "train without masking, and send no message for a step to skip",
)

KERAS_REFUSED: dict[str, Why] = {
    "Bidirectional": _FUTURE,
    "CuDNNGRU": (_CUDNN[0], _CUDNN[1].format("GRU")),
    "CuDNNLSTM": (_CUDNN[0], _CUDNN[1].format("LSTM")),
    "Masking": _MASK,
    "Lambda": _CODE,
    "RNN": ("wraps cells of its own", "use SimpleRNN, LSTM or GRU layers"),
    "Reshape": _SHAPE,
    "Flatten": _SHAPE,
    "Permute": _SHAPE,
    "RepeatVector": _SHAPE,
    "Sequential": ("is a model inside the model", "save the layers as one flat model"),
    "Functional": ("is a model inside the model", "save the layers as one flat model"),
    "Model": ("is a model inside the model", "save the layers as one flat model"),
    **dict.fromkeys(
        [
            "Conv1D", "Conv2D", "SeparableConv1D", "DepthwiseConv1D", "Conv1DTranspose",
            "ConvLSTM1D", "ConvLSTM2D", "ZeroPadding1D", "Cropping1D", "UpSampling1D",
            "MaxPooling1D", "AveragePooling1D", "GlobalMaxPooling1D", "GlobalAveragePooling1D",
            "Attention", "AdditiveAttention", "MultiHeadAttention",
        ],
        _WINDOW,
    ),
    **dict.fromkeys(["Add", "Subtract", "Multiply", "Average", "Maximum", "Concatenate"], _MERGE),
}  # fmt: skip

KERAS_REFUSED_VALUES: dict[tuple[str, Any], Why] = {
    ("go_backwards", True): _FUTURE,
    ("time_major", True): (
        "puts time before the batch, as no other layer does",
        "save the model with time_major=False",
    ),
    ("return_state", True): (
        "returns its state as outputs; edge-rnn keeps it itself",
        "save the model with return_state=False",
    ),
    ("mask_zero", True): _MASK,
}

_FLOW: Why = (
    "holds a graph of its own, and its steps are no cell that is recognised",
    "export the model without a Python loop, with the framework's own recurrent layers",
)

ONNX_REFUSED: dict[str, Why] = {
    **dict.fromkeys(
        ["ConvTranspose", "Resize", "Upsample"],
        ("makes several steps of one", "upsample after the model"),
    ),
    **dict.fromkeys(
        ["STFT", "DFT", "MelWeightMatrix"],
        ("is not a node edge-rnn has", "export it as a convolution, as PyTorch's STFT modules are"),
    ),
    **dict.fromkeys(["Loop", "Scan"], _FLOW),
    **dict.fromkeys(
        ["Attention", "MultiHeadAttention", "Einsum", "CumSum", "TopK", "ArgMax",
         "InstanceNormalization", "GroupNormalization"],
        ("is not a node edge-rnn has", "train without it, or compute it after the model"),
    ),
}  # fmt: skip

ONNX_CELL_REFUSED: dict[str, Why] = {
    "sequence_lens": (
        "ends sequences early, and a stream has no end",
        "export the model without a lengths input",
    ),
}

TORCH_REFUSED: dict[str, Why] = {
    **dict.fromkeys(
        [
            "scaled_dot_product_attention",
            "_native_multi_head_attention",
            "bmm",
            "baddbmm",
            "einsum",
        ],
        ("multiplies two values of the stream, and no node here does", "train without attention"),
    ),
    **dict.fromkeys(
        ["lstm.data", "gru.data", "rnn_tanh.data", "rnn_relu.data", "_pack_padded_sequence"],
        ("packs sequences of several lengths, and a stream has no end", "call it on plain tensors"),
    ),
    **dict.fromkeys(
        ["conv_transpose1d", "upsample_nearest1d", "upsample_linear1d"],
        ("makes more steps than it reads", "upsample outside of the model"),
    ),
    **dict.fromkeys(
        ["group_norm", "instance_norm"],
        ("is not a node edge-rnn has", "train with LayerNorm or BatchNorm"),
    ),
    **dict.fromkeys(
        ["stft", "istft", "fft_rfft", "fft_fft", "view_as_real"],
        ("makes complex numbers", "compute it as a convolution with sines and cosines"),
    ),
    **dict.fromkeys(
        ["quantize_per_tensor", "dequantize"],
        ("is quantized already", "convert the float32 model; edge-rnn quantizes it"),
    ),
}
