"""The characters where the network puts them."""

from torch import nn

from ngram_mlp.callbacks.findings import Findings
from ngram_mlp.callbacks.observer import Observer
from ngram_mlp.looks import Look
from ngram_mlp.models import LanguageModel
from ngram_mlp.terminal import printable

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
        labels = [printable(character) for character in model.characters]
        findings.figure("embedding", embedding_figure(rows, labels))
        for writer in findings.writers:
            writer.add_embedding(rows, metadata=labels, global_step=look.update, tag="characters")
