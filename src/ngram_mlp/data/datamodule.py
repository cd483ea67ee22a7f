"""The LightningDataModule: corpus, vocabulary, splits, and the block stream that a run trains on."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from ngram_mlp.data.blocks import BlockStream
from ngram_mlp.data.chunks import Chunks
from ngram_mlp.data.corpus import DATA_DIR, Corpus, load_corpus
from ngram_mlp.data.ngrams import NGrams, build_ngrams, split_words
from ngram_mlp.data.vocabulary import Vocabulary
from ngram_mlp.errors import UserError, require_at_least
from ngram_mlp.terminal import shortened

__all__ = ["NGramDataModule"]


class NGramDataModule(LightningDataModule):
    """N-grams of a corpus: blocks of random minibatches for training, whole splits in chunks for evaluation.

    Minibatches are drawn with replacement from the state in which torch's default CPU generator is found when `setup`
    is called for fitting: the state in which the model's constructor left it (promise 2).

    Args:
        corpus: where the words come from: `names` (the notebooks' names.txt, downloaded once), `sample` (shipped),
            `auto` (names where it can be had, else sample), or the path of a UTF-8 text file with one word a line.
        block_size: how many characters the network sees to predict the next.
        batch_size: the examples in a minibatch.
        data_dir: the folder of names.txt and sample_names.txt; by default the project's `data`.
    """

    def __init__(
        self, corpus: str = "auto", block_size: int = 3, batch_size: int = 32, data_dir: str | None = None
    ) -> None:
        super().__init__()
        require_at_least(1, {"--data.block_size": block_size, "--data.batch_size": batch_size})
        self.save_hyperparameters()
        self.block_size = block_size
        self.batch_size = batch_size
        self.requested_corpus = corpus
        self.data_dir = Path(data_dir) if data_dir else DATA_DIR
        self._generator = torch.Generator()
        self._stream_begun = False
        self.first_update = 0
        self._stream: BlockStream | None = None

    @cached_property
    def corpus(self) -> Corpus:
        """The words, read on first use."""
        corpus = load_corpus(self.requested_corpus, self.data_dir)
        self.hparams.update({f"corpus_{key}": value for key, value in corpus.summary().items()})
        return corpus

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary of the whole corpus, as in the notebooks."""
        return Vocabulary.of_words(self.corpus.words)

    @property
    def characters(self) -> str:
        """The vocabulary as a plain string, which models take."""
        return self.vocabulary.characters

    @cached_property
    def splits(self) -> dict[str, NGrams]:
        """The examples of `train`, `val` and `test`."""
        words = split_words(self.corpus.words)
        names = ("train", "val", "test")
        return {
            name: build_ngrams(part, self.vocabulary, self.block_size) for name, part in zip(names, words, strict=True)
        }

    def begin_stream(self) -> None:
        """Has the stream go on from the present state of torch's default generator.

        `setup` does so, where it was not done before. Several processes need it done before: on their start Lightning
        sets the default generator back to its seed.
        """
        self._generator.set_state(torch.get_rng_state())
        self._stream_begun = True

    def setup(self, stage: str) -> None:
        if stage == "fit":
            if not self._stream_begun:
                self.begin_stream()
            self._stream_begun = False
            # Whatever else draws during training (dropout, a user's callback) gets numbers of its own.
            assert self.trainer is not None
            torch.manual_seed((torch.initial_seed() + 1 + self.trainer.global_rank) % 2**63)

    def train_dataloader(self) -> BlockStream:
        assert self.trainer is not None
        self.refuse_unequal_parts(self.trainer.world_size)
        self._stream = BlockStream(
            self.splits["train"],
            self.batch_size,
            self._generator,
            intervals=_intervals(self.trainer),
            last_update=self.trainer.max_steps,
            first_update=self.first_update,
            looks=_looks(self.trainer),
            part=(self.trainer.global_rank, self.trainer.world_size),
        )
        return self._stream

    def refuse_unequal_parts(self, processes: int) -> None:
        """Raises a UserError where the minibatch cannot be shared equally by so many processes."""
        if self.batch_size % processes:
            raise UserError(
                f"--data.batch_size {self.batch_size}: is shared by {processes} processes; "
                "give a multiple of their number"
            )

    def val_dataloader(self) -> Chunks:
        return Chunks(self.splits["val"])

    def test_dataloader(self) -> Chunks:
        return Chunks(self.splits["test"])

    def stream_generator(self) -> torch.Generator:
        """A copy of the stream's generator as it stands after the last minibatch that was trained on."""
        generator = torch.Generator()
        generator.set_state(self._generator_state())
        return generator

    def state_dict(self) -> dict[str, Any]:
        assert self.trainer is not None
        return {
            "update": self.trainer.global_step,
            "stream_generator": self._generator_state(),
            "default_generator": torch.get_rng_state(),
            "corpus": self.corpus.summary(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.refuse_another_corpus(state_dict["corpus"])
        self.first_update = state_dict["update"]
        self._generator.set_state(state_dict["stream_generator"])
        torch.set_rng_state(state_dict["default_generator"])
        if self.trainer is not None and self.trainer.global_rank:  # the checkpoint has the state of the first process
            torch.manual_seed(int(torch.randint(2**62, ())) + self.trainer.global_rank)

    def refuse_another_corpus(self, saved: dict[str, Any]) -> None:
        """Raises a UserError where the summary of a corpus is that of another than this one."""
        own = self.corpus.summary()
        if saved["sha256"] != own["sha256"]:
            raise UserError(
                f"--data.corpus: the checkpoint was trained on the corpus {shortened(saved, 200)}, this run has "
                f"{shortened(own, 200)}; resume with the same one"
            )

    def _generator_state(self) -> Tensor:
        if self._stream is None or self.trainer is None:
            return self._generator.get_state()
        return self._stream.generator_state(self.trainer.global_step)


def _looks(trainer: Any) -> list[int] | None:
    """The intervals that callbacks announce by an attribute `look_every`; None where nobody looks."""
    wanted = [
        callback.look_every for callback in trainer.callbacks if getattr(callback, "look_every", None) is not None
    ]
    return [interval for intervals in wanted for interval in intervals] if wanted else None


def _intervals(trainer: Any) -> list[int]:
    """The numbers of updates at whose multiples the trainer or a callback has something to do.

    A callback announces its interval by an attribute `every_n_updates`; Lightning's own ModelCheckpoint by
    `every_n_train_steps`, which it keeps in a private attribute.
    """
    intervals = [trainer.log_every_n_steps, trainer.val_check_interval]
    for callback in trainer.callbacks:
        intervals += [getattr(callback, "every_n_updates", 0), getattr(callback, "_every_n_train_steps", 0)]
    return [interval for interval in intervals if isinstance(interval, int) and interval > 0]
