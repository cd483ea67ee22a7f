"""New words from a trained model."""

from collections.abc import Iterator

import torch
from torch import Tensor

from ngram_mlp.data.ngrams import BOUNDARY
from ngram_mlp.errors import UserError, shortened
from ngram_mlp.models.language_model import LanguageModel

MAX_LENGTH = 200
BATCH = 10_000


def sample_one_by_one(
    model: LanguageModel,
    num: int,
    generator: torch.Generator,
    prompt: str = "",
    temperature: float = 1.0,
    max_length: int = MAX_LENGTH,
) -> Iterator[tuple[str, bool]]:
    """Words as the notebooks sample them: one after the other, one `torch.multinomial` draw a character.

    Args:
        model: in evaluation mode.
        num: how many words.
        generator: what `torch.multinomial` draws from.
        prompt: how every word begins.
        temperature: what the logits are divided by; below 1 the probable becomes more probable.
        max_length: the characters after which a word is cut.

    Yields:
        The word, and whether the model ended it (or it was cut).
    """
    start = _start(model, prompt, temperature)
    for _ in range(num):
        context, out = start, prompt
        ended = False
        while not ended and len(out) < max_length:
            with torch.no_grad():
                character = _draw(model, torch.tensor([context]), temperature, generator).item()
            context = [*context[1:], int(character)]
            ended = character == 0
            out += "" if ended else model.characters[int(character)]
        yield out, ended


@torch.no_grad()
def sample_batched(
    model: LanguageModel,
    num: int,
    generator: torch.Generator,
    prompt: str = "",
    temperature: float = 1.0,
    max_length: int = MAX_LENGTH,
) -> Iterator[tuple[str, bool]]:
    """The same distribution of words as `sample_one_by_one`, many at a time; the arguments are the same."""
    start = _start(model, prompt, temperature)
    for first in range(0, num, BATCH):
        count = min(BATCH, num - first)
        contexts = torch.tensor([start]).repeat(count, 1)
        words = torch.zeros(count, max(0, max_length - len(prompt)), dtype=torch.long)
        unfinished = torch.arange(count)
        for position in range(words.shape[1]):
            characters = _draw(model, contexts, temperature, generator)
            words[unfinished, position] = characters
            going_on = characters != 0
            unfinished = unfinished[going_on]
            contexts = torch.cat([contexts[going_on, 1:], characters[going_on, None]], dim=1)
            if not len(unfinished):
                break
        cut = set(unfinished.tolist())
        for index, ids in enumerate(words.tolist()):
            yield prompt + "".join(model.characters[i] for i in ids if i), index not in cut


def _start(model: LanguageModel, prompt: str, temperature: float) -> list[int]:
    """The ids of the first context: boundaries, then the end of the prompt."""
    if not 0 < temperature < float("inf"):
        raise UserError("give a number above 0, such as 0.8", temperature=temperature)
    for character in prompt:
        if character == BOUNDARY or character not in model.characters:
            known = shortened(model.characters[1:])
            raise UserError(f"{character!r} is no character that the model knows ({known})", prompt=shortened(prompt))
    ids = [0] * model.block_size + [model.characters.index(character) for character in prompt]
    return ids[-model.block_size :]


def _draw(model: LanguageModel, contexts: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One character for each context (n, block_size), shape (n,)."""
    probabilities = torch.softmax(model(contexts.to(model.device)).cpu() / temperature, dim=1)
    if probabilities.isnan().any():
        raise UserError("the model's outputs are not finite; take a checkpoint from before it diverged")
    return torch.multinomial(probabilities, num_samples=1, generator=generator).squeeze(1)
