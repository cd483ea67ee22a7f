"""The LightningDataModule: corpus, vocabulary, splits, and the stream of minibatches that a run trains on."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule

from ngram_mlp.data.corpus import Corpus, load_corpus
from ngram_mlp.data.minibatches import MinibatchStream, SplitBatches
from ngram_mlp.data.ngrams import NGrams, Vocabulary, build_ngrams, split_words
from ngram_mlp.errors import UserError, require_at_least, shortened
from ngram_mlp.places import DATA_DIR
from ngram_mlp.runs.checkpoint import StreamState
from ngram_mlp.training.loop import chunking


class NGramDataModule(LightningDataModule):
    """N-grams of a corpus: random minibatches for training, whole splits in batches for evaluation.

    Minibatches are drawn with replacement, starting from the state of torch's default CPU generator at `setup` for
    fitting: the state in which the model's constructor left it (promise 2).

    Args:
        corpus: where the words come from: `names` (the notebooks' names.txt, downloaded once), `sample` (shipped),
            `auto` (names where it can be had, else sample), or the path of a UTF-8 text file with one word a line.
        block_size: how many characters the network sees to predict the next.
        batch_size: the examples in a minibatch.
        data_dir: the folder of names.txt; by default the project's `data`, or `data` here where this package is
            installed without a checkout.
    """

    trainer: Any  # Lightning sets it

    def __init__(
        self, corpus: str = "auto", block_size: int = 3, batch_size: int = 32, data_dir: str | None = None
    ) -> None:
        super().__init__()
        require_at_least(1, block_size=block_size, batch_size=batch_size)
        self.save_hyperparameters()
        self.block_size = block_size
        self.batch_size = batch_size
        self.requested_corpus = corpus
        self.data_dir = Path(data_dir) if data_dir else DATA_DIR
        self.first_update = 0
        self._generator = torch.Generator()
        self._stream_begun = False
        self._stream: MinibatchStream | None = None

    @cached_property
    def corpus(self) -> Corpus:
        return load_corpus(self.requested_corpus, self.data_dir)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Of the whole corpus, as in the notebooks."""
        return Vocabulary.of_words(self.corpus.words)

    @property
    def characters(self) -> str:
        """The vocabulary as a plain string, which models take."""
        return self.vocabulary.characters

    @cached_property
    def splits(self) -> dict[str, NGrams]:
        """The examples of `train`, `val` and `test`."""
        try:
            parts = zip(("train", "val", "test"), split_words(self.corpus.words), strict=True)
        except UserError as error:
            raise UserError(str(error), corpus=self.corpus.name) from error
        return {name: build_ngrams(words, self.vocabulary, self.block_size) for name, words in parts}

    def begin_stream(self) -> None:
        """Starts the stream from torch's default generator, before Lightning seeds that again in several processes."""
        self._generator.set_state(torch.get_rng_state())
        self._stream_begun = True

    def setup(self, stage: str) -> None:
        if stage == "fit":
            if not self._stream_begun:
                self.begin_stream()
            self._stream_begun = False
            self.first_update = self.trainer.global_step if self.trainer else 0
            # Whatever else draws during training (dropout, a user's callback) gets its own numbers.
            torch.manual_seed(int(torch.randint(2**62, ())) + self._part[0])

    @property
    def _part(self) -> tuple[int, int]:
        """(rank, processes): which part of every minibatch is this process'."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> MinibatchStream:
        """Minibatches (B, T), (B,), or chunks of them (K, B, T), (K, B) where the trainer takes chunks."""
        self.refuse_unequal_parts(self._part[1])
        ngrams, chunks, part = self.splits["train"], chunking(self.trainer, self.batch_size), self._part
        self._stream = MinibatchStream(ngrams, self.batch_size, self._generator, chunks, self.first_update, part)
        return self._stream

    def refuse_unequal_parts(self, processes: int) -> None:
        """Raises a UserError where the processes cannot share a minibatch equally."""
        if self.batch_size % processes:
            raise UserError(f"is shared by {processes} processes; give a multiple", batch_size=self.batch_size)

    def val_dataloader(self) -> SplitBatches:
        return SplitBatches(self.splits["val"])

    def test_dataloader(self) -> SplitBatches:
        return SplitBatches(self.splits["test"])

    def predict_dataloader(self) -> SplitBatches:
        """The batches of the test split; `predict_step` leaves their targets alone."""
        return SplitBatches(self.splits["test"])

    def stream_generator(self) -> torch.Generator:
        """A generator in the state after the last minibatch that was trained on."""
        state = self._generator.get_state()
        if self._stream is not None and self.trainer is not None:
            state = self._stream.generator_state(self.trainer.global_step)
        return torch.Generator().set_state(state)

    def state_dict(self) -> dict[str, Any]:
        state = StreamState(
            update=self.trainer.global_step,
            stream_generator=self.stream_generator().get_state(),
            default_generator=torch.get_rng_state(),
            corpus=self.corpus.summary(),
        )
        return dict(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.refuse_another_corpus(state_dict["corpus"])
        self.first_update = state_dict["update"]
        self._generator.set_state(state_dict["stream_generator"])
        torch.set_rng_state(state_dict["default_generator"])
        if self.trainer is not None and self.trainer.global_rank:  # the state is the first process's
            torch.manual_seed(int(torch.randint(2**62, ())) + self.trainer.global_rank)

    def refuse_another_corpus(self, saved: dict[str, str | int]) -> None:
        """Raises a UserError where the summary that a checkpoint holds is that of another corpus than this."""
        own = self.corpus.summary()
        if saved["sha256"] != own["sha256"]:
            reason = f"is {shortened(own, 200)}, but the checkpoint's is {shortened(saved, 200)}; resume with that one"
            raise UserError(reason, corpus=self.requested_corpus)
