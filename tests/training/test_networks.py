"""What users may bring as a network: the fused engine trains it as the eager one does, or says why it cannot."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from ngram_mlp.training import CannotFuseError
from tests.training.runs import EagerEngine, FusedEngine, Run, agree


def around(*layers, width=30):
    """Layers between an embedding, flattened, and logits."""
    return nn.Sequential(nn.Embedding(27, 10), nn.Flatten(), *layers, nn.Linear(width, 27))


class Attention(nn.Module):
    """Self-attention of the context's characters: products of several matrices at once."""

    def __init__(self):
        super().__init__()
        self.of_all = nn.Linear(10, 30)

    def forward(self, x):
        query, key, value = self.of_all(x).chunk(3, dim=-1)
        return (query @ key.transpose(1, 2) / 10**0.5).softmax(-1) @ value


class Tied(nn.Module):
    """Uses its embedding as output layer, too."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(27, 10)
        self.hidden = nn.Linear(30, 10)
        self.register_buffer("scale", torch.tensor(0.5))
        self.shift = torch.linspace(0, 1, 27)  # neither parameter nor buffer

    def forward(self, contexts):
        return F.linear(self.hidden(self.table(contexts).flatten(1)).sin(), self.table.weight) * self.scale + self.shift


class Convolution(nn.Module):
    """An operator that is not compiled, but called."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv1d(10, 6, 2)

    def forward(self, x):
        return self.convolution(x.transpose(1, 2)).flatten(1)


def frozen():
    network = around(nn.Linear(30, 30), nn.Tanh())
    network[0].weight.requires_grad_(False)
    return network


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(10, 12)

    def forward(self, x):
        hidden = x.new_zeros(len(x), 12)
        for position in range(x.shape[1]):
            hidden = self.cell(x[:, position], hidden)
        return hidden


NETWORKS = {
    "attention": lambda: nn.Sequential(nn.Embedding(27, 10), Attention(), nn.Flatten(), nn.Linear(30, 27)),
    "tied weights, buffers and constants": Tied,
    "convolution": lambda: nn.Sequential(nn.Embedding(27, 10), Convolution(), nn.Linear(12, 27)),
    "recurrent": lambda: nn.Sequential(nn.Embedding(27, 10), Recurrent(), nn.Linear(12, 27)),
    "frozen embedding": frozen,
    "parametrized weights": lambda: around(weight_norm(nn.Linear(30, 30)), nn.ReLU()),
    "random activation": lambda: around(nn.RReLU(), nn.Dropout(0.2)),
    "one unit": lambda: around(nn.Linear(30, 1), nn.Tanh(), width=1),
    "double precision": lambda: around(nn.Linear(30, 20), nn.BatchNorm1d(20), nn.Tanh(), width=20).double(),
}


MANY_ALIKE = (
    "attention",
    "convolution",
    "recurrent",
    "double precision",
    "random activation",
    "parametrized weights",
    "one unit",
)
LONG = dict.fromkeys(MANY_ALIKE, pytest.mark.slow)


@pytest.mark.parametrize(
    "network", [pytest.param(n, id=name, marks=LONG.get(name, ())) for name, n in NETWORKS.items()]
)
def test_it_is_trained_as_by_the_eager_engine(network):
    runs = []
    for engine in (EagerEngine, FusedEngine):
        run = Run(engine, network=network)
        torch.manual_seed(1)  # for what is random
        runs.append((run, run.train(60, intervals=(7,))))
    (eager, expected), (fused, found) = runs
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    agree(eager, fused, tolerance=1e-3)


class Counting(nn.Module):
    """Changes an attribute when it is called, on which its result depends."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x * (1 + 1e-6 * self.calls)


class Capricious(nn.Module):
    """Decides by what it sees, which no compiler can."""

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def hooked():
    network = around(nn.Linear(30, 30))
    network[2].register_forward_hook(lambda *_: None)
    return network


def with_gradient_hook():
    network = around(nn.Linear(30, 30))
    network[2].weight.register_hook(lambda gradient: gradient * 2)
    return network


class Impure(nn.Module):
    """Depends on something outside the network that changes."""

    state = [0.0]  # noqa: RUF012

    def forward(self, x):
        self.state[0] += 1
        return x * self.state[0]


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda: around(Counting()), "changes an attribute"),
        (lambda: around(Capricious()), "cannot be compiled here"),
        (hooked, "a hook is registered on 2"),
        (with_gradient_hook, "a hook is registered on the parameter 2.weight"),
        (lambda: around(Impure()), "compiled, the first updates have the losses"),
    ],
    ids=["counts its calls", "decides by values", "hook", "hook of a gradient", "changes something outside"],
)
def test_what_compiled_code_would_get_wrong_is_refused(network, reason):
    with pytest.raises(CannotFuseError, match=reason):
        Run(FusedEngine, network=network).train(10)


@pytest.mark.slow
def test_a_network_that_is_changed_between_two_chunks_is_compiled_again():
    runs = []
    for engine in (EagerEngine, FusedEngine):
        run = Run(engine, network=lambda: around(nn.Linear(30, 30), nn.LeakyReLU(0.1)))
        losses = [run.train(20)]
        run.model.network[3].negative_slope = 0.5
        run.optimizer.param_groups[0]["weight_decay"] = 0.1
        losses.append(run.train(20))
        runs.append(torch.cat(losses))
    torch.testing.assert_close(runs[1], runs[0], rtol=1e-4, atol=0)
