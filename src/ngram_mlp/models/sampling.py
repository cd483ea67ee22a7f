"""New words from a trained model."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from runlab import UserError, require_at_least, shortened

if TYPE_CHECKING:  # it samples by these functions
    from ngram_mlp.models.language_model import LanguageModel

MAX_LENGTH = 200
BATCH = 10_000


def learns_text(model: "LanguageModel") -> bool:
    """Returns whether a model has learned a text, which goes on across its lines and has no end."""
    return "\n" in model.characters[1:]


def sample_one_by_one(
    model: "LanguageModel",  # in evaluation mode
    num: int,
    generator: torch.Generator,  # on the CPU
    prompt: str = "",  # how every word begins
    temperature: float = 1.0,  # what the logits are divided by; below 1 the probable becomes more probable
    max_length: int = MAX_LENGTH,  # the number of characters at which a word is cut
) -> Iterator[tuple[str, bool]]:
    """Words as the notebooks sample them: one after the other, one `torch.multinomial` draw a character.

    Yields each word, and whether the model ended it or it was cut. Raises a UserError where the temperature is not
    positive, the prompt has characters outside the vocabulary, or the model's outputs are nan.
    """
    require_at_least(0, num=num)
    start = _start(model, prompt, temperature)
    for _ in range(num):
        context, word, ended = start, prompt, False
        while not ended and len(word) < max_length:
            character = int(_draw(model, torch.tensor([context]), temperature, generator))
            context, ended = [*context[1:], character], character == 0
            word += "" if ended else model.characters[character]
        yield word, ended


def sample_batched(
    model: "LanguageModel",
    num: int,
    generator: torch.Generator,
    prompt: str = "",
    temperature: float = 1.0,
    max_length: int = MAX_LENGTH,
) -> Iterator[tuple[str, bool]]:
    """Words of the same distribution as those of `sample_one_by_one`, many at a time."""
    require_at_least(0, num=num)
    start = torch.tensor(_start(model, prompt, temperature))
    for first in range(0, num, BATCH):
        contexts = start.repeat(min(BATCH, num - first), 1)
        words = torch.zeros(len(contexts), max(0, max_length - len(prompt)), dtype=torch.long)
        unfinished = torch.arange(len(contexts))
        for position in range(words.shape[1]):
            characters = _draw(model, contexts, temperature, generator)
            words[unfinished, position] = characters
            goes_on = characters != 0
            unfinished = unfinished[goes_on]
            contexts = torch.cat([contexts[goes_on, 1:], characters[goes_on, None]], dim=1)
            if not len(unfinished):
                break
        cut = set(unfinished.tolist())
        for index, ids in enumerate(words.tolist()):
            yield prompt + "".join(model.characters[i] for i in ids if i), index not in cut


def _start(model: "LanguageModel", prompt: str, temperature: float) -> list[int]:
    """The ids of the first context: boundaries, then the end of the prompt."""
    if not 0 < temperature < float("inf"):
        raise UserError("give a number above 0, such as 0.8", temperature=temperature)
    for character in prompt:
        if character not in model.characters[1:]:
            known = shortened(model.characters[1:])
            raise UserError(f"the model does not know {character!r}; use only {known}", prompt=shortened(prompt))
    ids = [0] * model.block_size + [model.characters.index(character) for character in prompt]
    return ids[-model.block_size :]


@torch.no_grad()
def _draw(model: "LanguageModel", contexts: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One character for each context: (n, block_size) -> (n,)."""
    probabilities = torch.softmax(model(contexts.to(model.device)).cpu() / temperature, dim=1)
    if probabilities.isnan().any():
        raise UserError("the model's outputs are not finite; take a checkpoint from before it diverged")
    if learns_text(model):
        probabilities[:, 0] = 0  # the boundary stands before the text alone
    return torch.multinomial(probabilities, num_samples=1, generator=generator).squeeze(1)
