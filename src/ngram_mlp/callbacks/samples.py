"""Shows what the network has learned: names or a text sampled from it, and its embedding."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ngram_mlp.callbacks.quantity import Quantity
from ngram_mlp.callbacks.recorder import Recorder
from ngram_mlp.data import NGramDataModule
from ngram_mlp.data.ngrams import split_words
from ngram_mlp.diagnostics.figures import embedding_figure
from ngram_mlp.diagnostics.snapshot import Snapshot
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.metrics import evaluation_mode
from ngram_mlp.models.sampling import learns_text, sample_batched
from runlab import printable

NAME, TEXT = 50, 500  # tokens after which a sample is cut
MOST_POINTS = 10_000  # of an embedding, in TensorBoard's projector


class SampledNames(Quantity):
    """Logs sampled names, or a text from a network that learns one, when histograms are due.

    At the end it logs `words/novel`, the fraction of many sampled names that are not among the training words.

    Args:
        every_n_updates: as `Intervals.parse` reads it.
        num: the number of names each time.
        num_at_end: the number of names for the fraction.
        seed: seeds the callback's generator each time, so that only the network changes the names.
    """

    def __init__(self, every_n_updates: str = "default", num: int = 20, num_at_end: int = 1_000, seed: int = 0) -> None:
        super().__init__(every_n_updates)
        self._num = num
        self._num_at_end = num_at_end
        self._seed = seed

    def observe(self, snapshot: Snapshot, model: LanguageModel, recorder: Recorder) -> None:
        if recorder.due.histograms and learns_text(model):
            recorder.text("run/samples", f"```\n{self._sample(model, 1, TEXT)[0]}\n```")
        elif recorder.due.histograms:
            recorder.text("run/samples", ", ".join(self._sample(model, self._num, NAME)))

    def conclude(self, model: LanguageModel, recorder: Recorder) -> None:
        data = recorder.trainer.datamodule
        if not isinstance(data, NGramDataModule) or data.unit == "text":
            return
        lines, coder = split_words(data.corpus.words)[0], data.tokenizer
        # Words that are decoded have other spaces between them, and rare ones are one token.
        known = {coder.decode(coder.encode(line).tolist()) for line in lines} if data.tokens == "words" else {*lines}
        names = self._sample(model, self._num_at_end, NAME)
        recorder.numbers({"words/novel": sum(name not in known for name in names) / len(names)})

    def _sample(self, model: LanguageModel, num: int, longest: int) -> list[str]:
        generator = torch.Generator().manual_seed(self._seed)
        with evaluation_mode(model.network):
            return [name for name, _ in sample_batched(model, num, generator, max_length=longest)]


class EmbeddingView(Quantity):
    """Shows the network's first `torch.nn.Embedding` after the update: as labelled points and in the projector."""

    def draw(self, model: LanguageModel, recorder: Recorder) -> None:
        table = next((module for module in model.network.modules() if isinstance(module, nn.Embedding)), None)
        if table is not None and table.weight.isfinite().all():
            rows = table.weight[:MOST_POINTS].detach().cpu()  # the most frequent words, if tokens are words
            labels = [printable(token) or "(start)" for token in model.vocabulary[:MOST_POINTS]]
            recorder.figure("embedding", embedding_figure, rows, labels)
            for writer in recorder.writers:
                _project(rows, labels, Path(writer.log_dir))


def _project(rows: Tensor, labels: Sequence[str], folder: Path) -> None:
    """Writes the files that TensorBoard's projector reads beside a logger's events."""
    rows = nn.functional.pad(rows, (0, max(0, 3 - rows.shape[1])))  # it shows nothing below three dimensions
    table = "\n".join("\t".join(f"{value:.6g}" for value in row) for row in rows.tolist())
    (folder / "projector").mkdir(exist_ok=True)
    (folder / "projector" / "vectors.tsv").write_text(f"{table}\n", encoding="utf-8")
    (folder / "projector" / "labels.tsv").write_text("\n".join([*labels, ""]), encoding="utf-8")
    files = {"tensor_path": "vectors.tsv", "metadata_path": "labels.tsv"}
    paths = "\n".join(f'  {key}: "projector/{file}"' for key, file in files.items())
    (folder / "projector_config.pbtxt").write_text(f'embeddings {{\n  tensor_name: "tokens"\n{paths}\n}}\n')
