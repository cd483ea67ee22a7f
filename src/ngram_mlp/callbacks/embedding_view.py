"""The characters where the network puts them."""

from torch import nn

from ngram_mlp.callbacks.observer import Findings, Observer
from ngram_mlp.looks import Look
from ngram_mlp.models import LanguageModel

__all__ = ["EmbeddingView"]


class EmbeddingView(Observer):
    """The embedding of the characters: a scatter, and TensorBoard's projector, with the characters as labels.

    Drawn when figures are due, from the first `torch.nn.Embedding` of the network, right after the update.
    """

    def observe(self, look: Look, model: LanguageModel, findings: Findings) -> None:
        table = next((module for module in model.network.modules() if isinstance(module, nn.Embedding)), None)
        if not findings.due.figures or table is None:
            return
        from ngram_mlp.figures import embedding_figure

        rows = table.weight.detach().cpu()
        findings.figure("embedding", embedding_figure(rows, list(model.characters)))
        for writer in findings.writers:
            writer.add_embedding(rows, metadata=list(model.characters), global_step=look.update, tag="characters")
