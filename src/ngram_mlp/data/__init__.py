"""From a file of words to minibatches: corpus, vocabulary, n-grams, and the LightningDataModule that serves them.

For research: change where words come from, how contexts are built, or how minibatches are drawn.
"""

from ngram_mlp.data.corpus import Corpus, load_corpus
from ngram_mlp.data.datamodule import NGramDataModule
from ngram_mlp.data.minibatches import MinibatchStream, SplitBatches
from ngram_mlp.data.ngrams import NGrams, Vocabulary, build_ngrams, split_words

__all__ = [
    "Corpus",
    "MinibatchStream",
    "NGramDataModule",
    "NGrams",
    "SplitBatches",
    "Vocabulary",
    "build_ngrams",
    "load_corpus",
    "split_words",
]
