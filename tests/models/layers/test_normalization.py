import pytest
import torch

from ngram_mlp.models import MLP, BatchNormMLP, WaveNet
from ngram_mlp.models.layers import BatchNorm, BatchNormalization, Initialization, Normalization
from ngram_mlp.models.mlp import Residual
from runlab import UserError


def activations(shape=(32, 20)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_each_kind_normalizes_over_its_own_part_of_the_minibatch():
    x = activations()
    for kind, groups, unbiased in (("batch", x.T, True), ("BatchNorm1d", x.T, False), ("layer", x, False)):
        norm = Normalization if kind == "layer" else BatchNormalization
        y = norm(kind).layer(20, gain=2.0)(x)
        expected = (groups - groups.mean(1, keepdim=True)) / groups.std(1, keepdim=True, unbiased=unbiased) * 2
        torch.testing.assert_close(y, expected.T if groups is not x else expected, rtol=1e-4, atol=1e-4)
    y = Normalization("group", groups=5).layer(20, gain=2.0)(x)
    groups = x.view(32, 5, 4)
    expected = (groups - groups.mean(2, keepdim=True)) / groups.std(2, keepdim=True, unbiased=False) * 2
    torch.testing.assert_close(y, expected.view(32, 20), rtol=1e-4, atol=1e-4)


def test_options_of_batch_norm_arrive():
    layer = BatchNormalization("batch", statistic="var", unbiased=False, momentum=0.2, eps=0.3).layer(20, 0.5)
    assert isinstance(layer, BatchNorm)
    assert (layer.statistic, layer.unbiased, layer.momentum, layer.eps) == ("var", False, 0.2, 0.3)
    assert layer.gain.tolist() == [0.5] * 20
    theirs = BatchNormalization("BatchNorm1d", momentum=0.2, eps=0.3).layer(20, 0.5)
    assert (theirs.momentum, theirs.eps) == (0.2, 0.3)


@pytest.mark.parametrize(
    ("norm", "options", "told"),
    [
        (Normalization, {"kind": "batchnorm"}, "kind batchnorm: choose one of none, layer, group"),
        (Normalization, {"kind": "batch"}, "BatchNormMLP"),
        (BatchNormalization, {"kind": "layer"}, "choose one of batch, BatchNorm1d"),
        (BatchNormalization, {"momentum": 1.5}, "momentum 1.5"),
        (BatchNormalization, {"eps": -1.0}, "eps -1.0"),
        (Normalization, {"kind": "none", "on_logits": True}, "on_logits True: needs a kind"),
    ],
)
def test_what_makes_no_sense_is_refused(norm, options, told):
    with pytest.raises(UserError, match=told):
        norm(**options)


@pytest.mark.parametrize("groups", [0, 7, -5])
def test_groups_have_to_divide_the_units(groups):
    with pytest.raises(UserError, match="divisor of the 20 units"):
        Normalization("group", groups=groups).layer(20, 1.0)


def test_a_shortcut_adds_the_input_and_passes_the_gradient_on():
    x = activations().requires_grad_()
    y = Residual(torch.nn.Linear(20, 20), torch.nn.Tanh())
    torch.nn.init.zeros_(y[0].weight)
    torch.testing.assert_close(y(x), x + torch.tanh(y[0].bias))
    y(x).sum().backward()
    assert x.grad.tolist() == torch.ones(32, 20).tolist()


@pytest.mark.parametrize(
    ("model", "argument", "options"),
    [
        (MLP, "norm", Normalization("layer")),
        *((m, "batch_norm", BatchNormalization("BatchNorm1d")) for m in (BatchNormMLP, WaveNet)),
    ],
    ids=["MLP", "BatchNormMLP", "WaveNet"],
)
def test_a_norm_is_given_as_options_as_a_dictionary_or_as_its_kind(model, argument, options):
    expected = None
    for given in (options, {"kind": options.kind}, options.kind):
        torch.manual_seed(0)
        made = model(".abc", 4, **{argument: given}, initialization={"hidden_bias": "none"})
        rebuilt = model(**made.hparams)  # as from a checkpoint
        expected = expected or str(made.network)
        assert str(made.network) == str(rebuilt.network) == expected
        assert made.network.hidden1.linear.bias is None
        rebuilt.load_state_dict(made.state_dict())


def test_options_that_are_none_are_refused():
    with pytest.raises(UserError, match="kind layers: choose one of none, layer, group"):
        MLP(".abc", 3, norm="layers")
    assert Initialization.of(Initialization()) == Initialization.of({})
