"""States live on when a model is converted again to another number format, and only then."""

from dataclasses import replace

import numpy as np
import pytest

import edge_rnn
from edge_rnn import graph
from edge_rnn.journal import Journal
from edge_rnn.lineage import lineage
from edge_rnn.messages import Message, Spec
from edge_rnn.pipeline import Pipeline
from edge_rnn.session import Session
from edge_rnn_converters import convert

torch = pytest.importorskip("torch")
SPEC = Spec(topics=["in/{device}"], output="out/{device}")
FORMATS = ("float32", "w8a8", "w8a16", "float16")


def network(seed: int):
    torch.manual_seed(seed)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = torch.nn.Conv1d(3, 5, 3)
            self.gru = torch.nn.GRU(5, 12, batch_first=True)
            self.head = torch.nn.Linear(12, 2)

        def forward(self, x):
            x = self.conv(x.transpose(1, 2)).transpose(1, 2)
            return self.head(self.gru(x)[0])

    return Net().eval()


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """(seed, format) -> the model, through its file."""
    folder = tmp_path_factory.mktemp("models")

    def make(seed: int, form: str) -> graph.Model:
        path = folder / f"{seed}.{form}.ernn"
        if not path.exists():
            example = (torch.zeros(1, 8, 3),)
            model = convert(
                network(seed), form, features="abc", example_inputs=example, check="skip"
            )
            edge_rnn.save(model, path)
        return edge_rnn.load(path)

    return make


def test_each_number_format_is_of_one_network(converted):
    models = [converted(0, form) for form in FORMATS]
    assert len({graph.digest(m) for m in models}) == len(FORMATS)
    assert len({lineage(m) for m in models}) == 1
    assert lineage(converted(1, "w8a8")) != lineage(models[0])


def messages(start: int, count: int) -> list[Message]:
    x = np.random.default_rng(start).normal(size=(count, 3)).round(4).tolist()
    return [Message("in/d", b'{"a": %r, "b": %r, "c": %r}' % tuple(row)) for row in x]


def at_work(path, model, fed):
    """Feed a pipeline that goes on from a journal -> (its states before, its answers)."""
    pipeline = Pipeline(model, SPEC)
    with Journal(path, model=pipeline.digest, lineage=lineage(model), pipeline="p") as journal:
        saved = journal.load()
        pipeline.load(saved)
        result = pipeline.feed(fed, 0.0)
        journal.commit(pipeline.changes())
    return list(saved.states), result.predictions


def test_a_stream_goes_on_in_another_format(converted, tmp_path):
    before, after = messages(1, 40), messages(2, 40)
    at_work(tmp_path / "p.state", converted(0, "float32"), before)
    (state,), answers = at_work(tmp_path / "p.state", converted(0, "w8a8"), after)
    assert [p.n for p in answers] == list(range(41, 81)) and answers[0].run == 0
    session = Session(converted(0, "w8a8"))
    session.load_states([state])
    assert state.steps == 40 and session.states() == [state]
    again, _ = at_work(tmp_path / "p.state", converted(0, "w8a16"), [])
    assert again[0].steps == 80


def test_what_differs_in_anything_else_is_another_model(converted):
    model = converted(0, "w8a8")
    assert model.provenance is not None
    untold = replace(model, provenance=replace(model.provenance, exact=None))
    others = [
        untold,
        replace(model, provenance=None),
        replace(model, mask=0.0),
        replace(model, window=graph.Window(8, 8)),
        replace(model, nodes=(*model.nodes, graph.Softmax("more", model.outputs[0]))),
        replace(model, nodes=(*model.nodes[:-1], replace(model.nodes[-1], act="tanh"))),
    ]
    assert lineage(model) not in {lineage(m) for m in others}
    assert lineage(untold) == lineage(replace(model, provenance=None))
