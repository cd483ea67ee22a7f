import pytest
import torch

from ngram_mlp.data import BlockStream, NGramDataModule
from ngram_mlp.engines import EagerEngine
from ngram_mlp.models import MLP, BatchNormMLP
from tests.reference.notebook import Notebook, dataset

UPDATES = 2_000


def engine_losses(data, model_class, seed, lr=0.1, milestones=(1_500,)):
    torch.manual_seed(seed)
    model = model_class(
        data.characters,
        data.block_size,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=lr),
        lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, list(milestones), 0.1),
    )
    generator = torch.Generator().set_state(torch.get_rng_state())
    configured = model.configure_optimizers()
    engine = EagerEngine(model.network, configured["optimizer"], configured["lr_scheduler"]["scheduler"])
    blocks = BlockStream(data.splits["train"], 32, generator, [300], UPDATES)
    return torch.cat([engine.run(*block) for block in blocks]), model


@pytest.mark.parametrize("model_class", [MLP, BatchNormMLP])
def test_losses_and_weights_equal_the_notebooks_loop(model_class, sample_words):
    data = NGramDataModule("sample")
    losses, model = engine_losses(data, model_class, seed=42)
    ((X, Y), (Xval, Yval), _), vocab_size = dataset(sample_words)
    notebook = Notebook(42, vocab_size, batch_norm=model_class is BatchNormMLP)
    expected = notebook.train(X, Y, UPDATES, drop_at=1_500)
    torch.testing.assert_close(losses, torch.tensor(expected), rtol=1e-5, atol=0)
    model.eval()
    with torch.no_grad():
        val_loss = torch.nn.functional.cross_entropy(model(Xval), Yval).item()
    assert val_loss == pytest.approx(notebook.split_loss(Xval, Yval), rel=1e-5)


def test_hooks_on_the_optimizer_are_called():
    data = NGramDataModule("sample")
    torch.manual_seed(0)
    model = MLP(data.characters, data.block_size)
    configured = model.configure_optimizers()
    calls = []
    configured["optimizer"].register_step_post_hook(lambda *_: calls.append(1))
    engine = EagerEngine(model.network, configured["optimizer"], configured["lr_scheduler"]["scheduler"])
    for block in BlockStream(data.splits["train"], 4, torch.Generator(), [], 3):
        engine.run(*block)
    assert len(calls) == 3
