"""What does not convert, why, and what to do instead: the text of the refusals and the manual."""

from __future__ import annotations

from typing import Any, TypeAlias

Why: TypeAlias = tuple[str, str]
"""Why it is refused, and the way out."""

UNKNOWN: Why = ("is not known to this version", "leave it out, or tell us that you need it")

LOOKS_AHEAD = "its result at a step depends on steps that a stream does not have yet"
GIVE_WINDOW = "give it windows with --mode tumbling --window N, or train it to look back only"
_FUTURE: Why = (f"looks ahead: {LOOKS_AHEAD}", "train the model forward only")
_WINDOW: Why = (
    "reads a window of steps, and only recurrent and per-step layers convert",
    "train without it, or compute it before the model",
)
_CODE: Why = ("is Python code, and none is run", "replace it with a layer that converts")
_OPERATION: Why = (
    "is an operation of TensorFlow's between layers, whose meaning the file leaves to TensorFlow",
    "use a layer for it, as Add for +",
)
_ATTENTION: Why = (
    "weighs all steps of a window against each other, which no node here does",
    "pool the steps instead (GlobalAveragePooling1D), or run the model in its own framework",
)
_CONV_CELL: Why = (
    "is a recurrent cell that convolves, which no node here does",
    "put convolutions before an LSTM: TimeDistributed(Conv1D), Flatten, LSTM",
)
_MORE_STEPS: Why = ("makes more steps than it reads", "leave it out")
_PICTURES: Why = ("reads pictures", "use its one-dimensional relative along the steps")
_DOT: Why = ("multiplies values by each other", "use Multiply, or a Dense layer")
_SHAPE: Why = ("changes what the axes mean", "build the model without it")
KERAS_REFUSED: dict[str, Why] = {
    "Lambda": _CODE,
    "TFOpLambda": _OPERATION,
    "SlicingOpLambda": _OPERATION,
    "Permute": _SHAPE,
    "RepeatVector": _SHAPE,
    **dict.fromkeys(
        ["Attention", "AdditiveAttention", "MultiHeadAttention", "GroupQueryAttention"], _ATTENTION
    ),
    **dict.fromkeys(["ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"], _CONV_CELL),
    **dict.fromkeys(["Conv1DTranspose", "UpSampling1D"], _MORE_STEPS),
    **dict.fromkeys(["Conv2D", "DepthwiseConv2D", "MaxPooling2D", "AveragePooling2D"], _PICTURES),
    **dict.fromkeys(["Dot"], _DOT),
}  # fmt: skip

KERAS_REFUSED_VALUES: dict[tuple[str, Any], Why] = {
    ("time_major", True): (
        "puts time before the batch, as no other layer does",
        "save the model with time_major=False",
    ),
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

TFLITE_REFUSED: dict[str, Why] = {
    "SVDF": ("is a filter of its own kind", "train with recurrent or convolution layers"),
    "IF": ("holds graphs of its own", "convert the model without control flow"),
    "CALL": ("holds graphs of its own", "convert the model without control flow"),
    **dict.fromkeys(
        ["SELECT", "SELECT_V2", "WHERE"],
        (
            "chooses by a condition, as masking does, and a stream steps once for every message",
            "train without masking, and send no message for a step to skip",
        ),
    ),
    **dict.fromkeys(
        ["RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL"],
        ("is random", "convert the model for inference"),
    ),
}

SAVED_OP: Why = (
    "is not among the operations that only compute numbers, and no other is run",
    "export the model without it, or save its layers with model.save('m.keras')",
)
_OUTSIDE: Why = ("reads or writes outside of the model", "export the model without it")
_KEEPS: Why = (
    "keeps a state from call to call, and every stream has a state of its own here",
    "export the model with stateful=False",
)
_PYTHON: Why = ("calls Python code, and none is run", "write it with TensorFlow's operations")
_LOOKS_UP: Why = ("looks up texts in a table", "give the model numbers")
_RANDOM: Why = ("is random", "export the model for inference")
SAVED_REFUSED: dict[str, Why] = {
    **dict.fromkeys(["PyFunc", "PyFuncStateless", "EagerPyFunc"], _PYTHON),
    **dict.fromkeys(
        ["ReadFile", "WriteFile", "MatchingFiles", "SaveV2", "RestoreV2", "MergeV2Checkpoints",
         "Print", "PrintV2", "Assert"],
        _OUTSIDE,
    ),
    **dict.fromkeys(["AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"], _KEEPS),
    **dict.fromkeys(
        ["HashTableV2", "LookupTableFindV2", "StaticRegexReplace", "StringSplitV2"], _LOOKS_UP
    ),
    **dict.fromkeys(
        ["RandomUniform", "RandomStandardNormal", "StatelessRandomUniformV2",
         "StatelessRandomNormalV2"],
        _RANDOM,
    ),
}  # fmt: skip
