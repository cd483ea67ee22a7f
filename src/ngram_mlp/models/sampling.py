"""Samples new words, lines or texts from a trained model."""

import unicodedata
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ngram_mlp.data.tokenizer import Tokenizer
from runlab import UserError, require_at_least, shortened

if TYPE_CHECKING:  # it imports this module to sample
    from ngram_mlp.models.language_model import LanguageModel

MAX_LENGTH = 200
BATCH = 10_000


def learns_text(model: "LanguageModel") -> bool:
    """Returns whether a model has learned a text, which continues across its lines and has no end."""
    return Tokenizer(model.vocabulary).is_text


def sample_one_by_one(
    model: "LanguageModel",  # in evaluation mode
    num: int,
    generator: torch.Generator,  # on the CPU
    prompt: str = "",  # the beginning of every sample
    temperature: float = 1.0,  # divides the logits; below 1, probable tokens become more probable
    max_length: int = MAX_LENGTH,  # the number of tokens after which a sample is cut
) -> Iterator[tuple[str, bool]]:
    """Samples one after another, as in the notebooks: one `torch.multinomial` draw per token.

    Yields each sample, and whether the model ended it (else it was cut). Raises a UserError if the temperature is not
    positive and finite, the prompt has characters outside the vocabulary, or the model's outputs are nan.
    """
    require_at_least(0, num=num)
    tokenizer = Tokenizer(model.vocabulary)
    first, begun = _start(model, tokenizer, prompt, temperature)
    for _ in range(num):
        context, ids, ended = first, [*begun], False
        while not ended and len(ids) < max_length:
            token = int(_draw(model, torch.tensor([context]), temperature, generator, tokenizer))
            context, ended = [*context[1:], token], token == 0
            ids += [] if ended else [token]
        yield tokenizer.decode(ids), ended


def sample_batched(
    model: "LanguageModel",
    num: int,
    generator: torch.Generator,
    prompt: str = "",
    temperature: float = 1.0,
    max_length: int = MAX_LENGTH,
) -> Iterator[tuple[str, bool]]:
    """Samples from the same distribution as `sample_one_by_one`, many at a time."""
    require_at_least(0, num=num)
    tokenizer = Tokenizer(model.vocabulary)
    context, begun = _start(model, tokenizer, prompt, temperature)
    start = torch.tensor(context)
    for first in range(0, num, BATCH):
        contexts = start.repeat(min(BATCH, num - first), 1)
        drawn = torch.zeros(len(contexts), max(0, max_length - len(begun)), dtype=torch.long)
        unfinished = torch.arange(len(contexts))
        for position in range(drawn.shape[1]):
            tokens = _draw(model, contexts, temperature, generator, tokenizer)
            drawn[unfinished, position] = tokens
            goes_on = tokens != 0
            unfinished = unfinished[goes_on]
            contexts = torch.cat([contexts[goes_on, 1:], tokens[goes_on, None]], dim=1)
            if not len(unfinished):
                break
        cut = set(unfinished.tolist())
        for index, ids in enumerate(drawn.tolist()):
            yield tokenizer.decode([*begun, *filter(None, ids)]), index not in cut


def _start(
    model: "LanguageModel", tokenizer: Tokenizer, prompt: str, temperature: float
) -> tuple[list[int], list[int]]:
    """Returns the ids of the first context (boundaries, then the end of the prompt) and of the whole prompt."""
    if not 0 < temperature < float("inf"):
        raise UserError("give a number above 0, such as 0.8", temperature=temperature)
    prompt, known = unicodedata.normalize("NFC", prompt), "".join(model.vocabulary[1:])  # as in a corpus
    for character in prompt if tokenizer.tokens == "characters" else "":
        if character not in known:
            reason = f"the model does not know {character!r}; use only {shortened(known)}"
            raise UserError(reason, prompt=shortened(prompt))
    ids = tokenizer.encode(prompt).tolist()
    return ([0] * model.block_size + ids)[-model.block_size :], ids


@torch.no_grad()
def _draw(
    model: "LanguageModel", contexts: Tensor, temperature: float, generator: torch.Generator, tokenizer: Tokenizer
) -> Tensor:
    """Returns one token for each context: (n, block_size) -> (n,)."""
    logits = model(contexts.to(model.device)).cpu()
    if tokenizer.is_text:
        logits[:, 0] = -torch.inf  # the boundary occurs only before the text
    # The largest is 0, so that the division cannot overflow.
    probabilities = torch.softmax((logits - logits.amax(1, keepdim=True)) / temperature, dim=1)
    if probabilities.isnan().any():
        raise UserError("the model's outputs are not finite; use a checkpoint from before it diverged")
    return torch.multinomial(probabilities, num_samples=1, generator=generator).squeeze(1)
