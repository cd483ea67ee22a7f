"""Turns a file into minibatches. For research: change the corpus, the contexts or how minibatches are drawn."""

from ngram_mlp.data.corpus import Corpus, load_corpus
from ngram_mlp.data.datamodule import NGramDataModule
from ngram_mlp.data.minibatches import Minibatches, SplitBatches
from ngram_mlp.data.ngrams import NGrams, build_ngrams, split_words
from ngram_mlp.data.tokenizer import Tokenizer

__all__ = [
    "Corpus",
    "Minibatches",
    "NGramDataModule",
    "NGrams",
    "SplitBatches",
    "Tokenizer",
    "build_ngrams",
    "load_corpus",
    "split_words",
]
