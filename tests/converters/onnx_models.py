"""Small ONNX graphs for the tests, and ONNX Runtime's answers to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

T, I, H = 30, 3, 5
BLOCKS = {"RNN": 1, "GRU": 3, "LSTM": 4}


def random(*shape: int, seed: int = 0, scale: float = 0.6) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(0, scale, shape).astype(np.float32)


class Graph:
    """A graph under construction: each call adds an operator and returns its outputs' names."""

    def __init__(self, opset: int = 17) -> None:
        self.opset, self.nodes, self.constants, self.n = opset, [], [], 0

    def const(self, value: Any, dtype: Any = None) -> str:
        self.n += 1
        array = np.asarray(value, dtype)
        self.constants.append(numpy_helper.from_array(array, f"const_{self.n}"))
        return f"const_{self.n}"

    def __call__(
        self,
        kind: str,
        *inputs: str,
        outputs: int = 1,
        name: str = "",
        domain: str = "",
        **attrs: Any,
    ) -> Any:
        self.n += 1
        made = [f"{kind}_{self.n}_{k}" for k in range(outputs)]
        self.nodes.append(
            helper.make_node(
                kind, inputs, made, name or f"/{kind}_{self.n}", domain=domain, **attrs
            )
        )
        return made[0] if outputs == 1 else made

    def cell(
        self, kind: str, x: str, *more: str, width: int = I, seed: int = 0, **attrs: Any
    ) -> Any:
        """A recurrent operator with random weights; `more`: B ("" for none), lengths, states."""
        k = BLOCKS[kind]
        w = self.const(random(1, k * H, width, seed=seed))
        r = self.const(random(1, k * H, H, seed=seed + 1))
        rest = list(more) or [self.bias(kind, seed)]
        return self(
            kind, x, w, r, *rest, outputs=3 if kind == "LSTM" else 2, hidden_size=H, **attrs
        )

    def bias(self, kind: str, seed: int = 0) -> str:
        return self.const(random(1, 2 * BLOCKS[kind] * H, seed=seed + 2))

    def model(
        self,
        inputs: dict[str, list[Any]],
        outputs: list[str],
        dtypes: dict[str, int] | None = None,
        domains: tuple[str, ...] = (),
    ) -> onnx.ModelProto:
        types = dtypes or {}
        graph = helper.make_graph(
            self.nodes,
            "test",
            [
                helper.make_tensor_value_info(n, types.get(n, TensorProto.FLOAT), s)
                for n, s in inputs.items()
            ],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
            self.constants,
        )
        imports = [
            helper.make_opsetid("", self.opset),
            *(helper.make_opsetid(d, 1) for d in domains),
        ]
        return helper.make_model(graph, opset_imports=imports, ir_version=8, producer_name="test")


def inputs(width: int = I, steps: int = T) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(steps, width)).astype(np.float32)


def answer(model: onnx.ModelProto, **feed: np.ndarray) -> list[np.ndarray]:
    """ONNX Runtime's outputs."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)
