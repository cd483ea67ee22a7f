"""From a file of words to blocks of minibatches."""

from ngram_mlp.data.blocks import BlockStream
from ngram_mlp.data.chunks import Chunks
from ngram_mlp.data.corpus import Corpus, load_corpus
from ngram_mlp.data.datamodule import NGramDataModule
from ngram_mlp.data.ngrams import NGrams, build_ngrams, split_words
from ngram_mlp.data.vocabulary import Vocabulary

__all__ = [
    "BlockStream",
    "Chunks",
    "Corpus",
    "NGramDataModule",
    "NGrams",
    "Vocabulary",
    "build_ngrams",
    "load_corpus",
    "split_words",
]
