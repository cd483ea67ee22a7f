"""Defines the LightningDataModule: corpus, vocabulary, splits, and the stream of training minibatches."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict, cast, get_args

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ngram_mlp.data.corpus import Corpus, load_corpus
from ngram_mlp.data.minibatches import Minibatches, Sampling, SplitBatches
from ngram_mlp.data.ngrams import NGrams, build_ngrams, split_text, split_words
from ngram_mlp.data.tokenizer import Tokenizer, Tokens, Unit, Vocabulary
from ngram_mlp.places import DATA_DIR
from runlab import Checkpoint, UserError, require_at_least, shortened


class StreamState(TypedDict):
    """The state of the data in a checkpoint: the position in the stream of minibatches, and the corpus."""

    minibatches: dict[str, Any]  # as `Minibatches.state_dict` returns it
    default_generator: Tensor  # torch's state, which dropout and users' callbacks draw from
    corpus: dict[str, str | int]  # its summary


def stream_of(checkpoint: Checkpoint) -> StreamState:
    """Returns the state of the data in a checkpoint; raises a UserError if it has none of this kind."""
    for value in checkpoint.content.values():
        if isinstance(value, dict) and StreamState.__required_keys__ <= value.keys():
            return cast(StreamState, value)  # stored under the name of the datamodule's class
    raise checkpoint.error("does not say which corpus it was trained on; give one saved by train.py")


class NGramDataModule(LightningDataModule):
    """N-grams of words or of a text: random minibatches for training, whole splits in batches for evaluation.

    Minibatches are drawn from the state of torch's default CPU generator at `setup` for fitting: the state in which the
    model's constructor left it (promise 2).

    Args:
        corpus: the source of words: `names` (the notebooks', downloaded once), `sample` (shipped), `auto` (names if
            available, else sample), or the path of a UTF-8 text file.
        block_size: the number of tokens the network sees to predict the next.
        batch_size: the examples in a minibatch.
        sampling: how examples are drawn: with `replacement`, as in the notebooks, or in `epochs`.
        data_dir: the folder of names.txt; by default `data` in the project or ./data.
        unit: what is learned: each line by itself, or the whole text.
        tokens: what is predicted: the next character, or the next word or punctuation mark.
        min_count: rarer words become one token, `<unk>`.
        vocab_size: the maximum number of tokens; the rarest words beyond it become `<unk>`.
    """

    trainer: Any  # set by Lightning

    def __init__(
        self,
        corpus: str = "auto",
        block_size: int = 3,
        batch_size: int = 32,
        sampling: Sampling = "replacement",
        data_dir: str | None = None,
        unit: Unit = "line",
        tokens: Tokens = "characters",
        min_count: int = 1,
        vocab_size: int | None = None,
    ) -> None:
        super().__init__()
        require_at_least(1, block_size=block_size, batch_size=batch_size)
        _require_one_of(Sampling, sampling=sampling)
        _require_one_of(Unit, unit=unit)
        _require_one_of(Tokens, tokens=tokens)
        self.save_hyperparameters()
        self.block_size = block_size
        self.batch_size = batch_size
        self.requested_corpus = corpus
        self.data_dir = Path(data_dir) if data_dir else DATA_DIR
        self.sampling = sampling
        self.unit = unit
        self.tokens = tokens
        self._limits = {"min_count": min_count, "vocab_size": vocab_size}
        self._generator = torch.Generator()
        self._stream_begun = False
        self._minibatches: Minibatches | None = None

    @cached_property
    def corpus(self) -> Corpus:
        return load_corpus(self.requested_corpus, self.data_dir, self.unit)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the whole corpus, as in the notebooks."""
        return Tokenizer.of_lines(self.corpus.words, self.unit, self.tokens, **self._limits)  # type: ignore[arg-type]

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens in the order of their ids, as models take them."""
        return self.tokenizer.vocabulary

    @cached_property
    def splits(self) -> dict[str, NGrams]:
        """The examples of `train`, `val` and `test`."""
        words, is_text = self.corpus.words, self.unit == "text"
        try:
            parts = split_text(words[0], self.tokens) if is_text else split_words(words)
        except UserError as error:
            raise UserError(str(error), corpus=self.corpus.name) from error
        names = ("train", "val", "test")
        return {
            name: build_ngrams(part, self.tokenizer, self.block_size) for name, part in zip(names, parts, strict=True)
        }

    def about(self) -> str:
        """Returns a description of the corpus: its size and its number of distinct tokens."""
        lines, size = self.corpus.words, len(self.tokenizer)
        if self.unit == "text":
            kinds = "tokens" if self.tokens == "words" else "distinct ones"
            return f"a text of {len(lines[0]):,} characters, {size:,} {kinds}"
        line, kinds = ("lines", "tokens") if self.tokens == "words" else ("words", "characters")
        return f"{len(lines):,} {line}, {size:,} {kinds}"

    def begin_stream(self) -> None:
        """Starts the stream from torch's default generator, before Lightning reseeds it in several processes."""
        self._generator.set_state(torch.get_rng_state())
        self._stream_begun = True

    def setup(self, stage: str) -> None:
        self._refuse_another_models_vocabulary()
        if stage == "fit":
            if not self._stream_begun:
                self.begin_stream()
            self._stream_begun = False
            # All else that draws during training (dropout, a user's callback) gets numbers of its own.
            torch.manual_seed(int(torch.randint(2**62, ())) + self._part[0])

    def _refuse_another_models_vocabulary(self) -> None:
        """Raises a UserError if the model was made for other tokens or contexts than the data have."""
        model = self.trainer.lightning_module if self.trainer else None
        own: Any = getattr(model, "vocabulary", self.vocabulary)
        if own != self.vocabulary:
            found = f"{shortened(self.vocabulary)} in the data, {shortened(own)} in the model"
            raise UserError(f"the tokens are {found}; build the model with data.vocabulary")
        if (size := getattr(model, "block_size", self.block_size)) != self.block_size:
            raise UserError(f"the model has {size}; use the same for both", block_size=self.block_size)

    @property
    def _part(self) -> tuple[int, int]:
        """The (rank, processes) that give this process's shard of every minibatch."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> Minibatches | DataLoader[tuple[Tensor, ...]]:
        """Returns random minibatches (B, T), (B,); with `overfit_batches`, the first ones of the split."""
        self.refuse_unequal_parts(self._part[1])
        train = self.splits["train"]
        if self.trainer and self.trainer.overfit_batches:
            examples = TensorDataset(train.contexts.long(), train.targets.long())
            return DataLoader(examples, self.batch_size // self._part[1], shuffle=False)
        return self._loader()

    def _loader(self) -> Minibatches:
        """Returns the loader of random minibatches, rebuilt if BatchSizeFinder or a trainer changed its size."""
        loader = self._minibatches
        if loader is None or (loader.batch_size, loader.part) != (self.batch_size, self._part):
            train, of_trainer = self.splits["train"], (self._part, self._is_waiting, self._most)
            loader = Minibatches(train, self.batch_size, self._generator, self.sampling, *of_trainer)
            self._minibatches = loader
        return loader

    def _is_waiting(self) -> bool:
        """Returns whether the trainer has fetched a minibatch that it has not trained on yet."""
        if self.trainer is None:
            return False
        minibatches = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return bool(minibatches.ready > minibatches.processed)

    def _most(self) -> float:
        """Returns the minibatches of an epoch by the trainer's options, such as limit_train_batches."""
        return float(self.trainer.num_training_batches) if self.trainer else math.inf

    def refuse_unequal_parts(self, processes: int) -> None:
        """Raises a UserError if the processes cannot share a minibatch equally."""
        if self.batch_size % processes:
            raise UserError(
                f"cannot be split evenly among {processes} processes; give a multiple of {processes}",
                batch_size=self.batch_size,
            )

    def val_dataloader(self) -> SplitBatches:
        return SplitBatches(self.splits["val"])

    def test_dataloader(self) -> SplitBatches:
        return SplitBatches(self.splits["test"])

    def predict_dataloader(self) -> SplitBatches:
        """Returns the batches of the test split; `predict_step` ignores their targets."""
        return SplitBatches(self.splits["test"])

    def stream_generator(self) -> torch.Generator:
        """Returns a generator in the state after the last minibatch trained on."""
        return torch.Generator().set_state(self._loader().state_dict()["generator"])

    def state_dict(self) -> dict[str, Any]:
        state = StreamState(
            minibatches=self._loader().state_dict(),
            default_generator=torch.get_rng_state(),
            corpus=self.corpus.summary(),
        )
        return dict(state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.refuse_another_corpus(state_dict["corpus"])
        self._loader().load_state_dict(state_dict["minibatches"])
        torch.set_rng_state(state_dict["default_generator"])
        if self.trainer is not None and self.trainer.global_rank:  # the state is the first process's
            torch.manual_seed(int(torch.randint(2**62, ())) + self.trainer.global_rank)

    def refuse_another_corpus(self, saved: dict[str, str | int]) -> None:
        """Raises a UserError if the corpus in a checkpoint's summary has another hash than this one."""
        own = self.corpus.summary()
        if saved["sha256"] != own["sha256"]:
            reason = f"is {shortened(own, 200)}, but the checkpoint was trained on {shortened(saved, 200)}"
            raise UserError(f"{reason}; resume with that corpus", corpus=self.requested_corpus)


def _require_one_of(kind: Any, **argument: Any) -> None:
    if not {*argument.values()} <= {*get_args(kind)}:
        raise UserError(f"give {' or '.join(get_args(kind))}", **argument)
