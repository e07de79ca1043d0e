"""What a user would write instead: paho-mqtt and ONNX Runtime, a state for each device, no journal.

    python -m benchmarks.delivery.peer model.onnx 1883 QOS

Written for speed as far as a script goes: a typed msgspec decoder, a session of one thread whose
inputs and outputs are bound to buffers once (15 us a step, `session.run` takes 28), and paho in the
main thread, driven by a loop that reads until the socket is empty and writes once for all of that.
"""

from __future__ import annotations

import select
import sys
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion


class Reading(msgspec.Struct, gc=False):
    """A message."""

    q: int
    ax: float
    ay: float
    az: float
    gx: float
    gy: float
    gz: float


class Stepper:
    """One step of the model, on the state of whichever device it is."""

    def __init__(self, file: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        self.binding = session.io_binding()
        arrays = {}
        for i in (*session.get_inputs(), *session.get_outputs()):
            arrays[i.name] = np.zeros(i.shape, np.float32)
            value = ort.OrtValue.ortvalue_from_numpy(arrays[i.name])
            if i in session.get_inputs():
                self.binding.bind_ortvalue_input(i.name, value)
            else:
                self.binding.bind_ortvalue_output(i.name, value)
        self.run = session.run_with_iobinding
        x, h, y, after = (arrays[name].reshape(-1) for name in ("x", "g/h", "y", "g/h_next"))
        self.x, self.h, self.y, self.after = x, h, y, after
        self.zero = np.zeros_like(self.h)
        self.states: dict[str, np.ndarray[Any, Any]] = {}

    def step(self, device: str, r: Reading) -> list[float]:
        """The prediction."""
        self.x[:] = (r.ax, r.ay, r.az, r.gx, r.gy, r.gz)
        self.h[:] = self.states.get(device, self.zero)
        self.run(self.binding)
        self.states[device] = self.after.copy()
        values: list[float] = self.y.tolist()
        return values


def main(file: str, port: int, qos: int) -> None:
    """Answer messages until the broker goes away."""
    stepper = Stepper(file)
    decode, encode = msgspec.json.Decoder(Reading).decode, msgspec.json.Encoder().encode
    steps: dict[str, int] = {}

    def on_message(client: paho.Client, _: Any, message: paho.MQTTMessage) -> None:
        device = message.topic.split("/")[1]
        reading = decode(message.payload)
        values = stepper.step(device, reading)
        n = steps[device] = steps.get(device, 0) + 1
        answer = {"stream": device, "n": n, "sequence": reading.q, "values": values}
        client.publish("predictions/" + device, encode(answer), qos)

    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="peer")
    client.max_inflight_messages_set(0)
    client.on_message = on_message
    client.on_connect = lambda c, *_: c.subscribe("sensors/+/imu", qos)
    client.on_subscribe = lambda *_: print("subscribed", flush=True)
    client.connect("127.0.0.1", port)
    loop(client)


def loop(client: paho.Client) -> None:
    """Like `loop_forever`, with fewer system calls: read until nothing comes, then write."""
    seen = 0
    inner = client.on_message

    def counted(*args: Any) -> None:
        nonlocal seen
        seen += 1
        inner(*args)

    client.on_message = counted
    client.on_socket_register_write = lambda *_: None  # or paho writes at each packet
    while (sock := client.socket()) is not None:
        select.select([sock], [sock] if client.want_write() else [], [], 1.0)
        before = -1
        while seen > before:
            before = seen
            client.loop_read()
        if client.want_write():
            client.loop_write()
        client.loop_misc()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
