"""`scripts/sample.py`: samples words or a text from a checkpoint alone."""

import sys
from collections.abc import Sequence

import torch

from ngram_mlp.models import LanguageModel
from ngram_mlp.models.loading import load_model, variant
from ngram_mlp.models.sampling import MAX_LENGTH, learns_text, sample_batched, sample_one_by_one
from runlab import Parser, command, printable, read_checkpoint, require_at_least, show


@command
def main(args: Sequence[str] | None = None) -> None:
    """Prints sampled words, one per line, or a text with its line breaks from a network that has learned one."""
    parser = Parser(description="Samples words from a checkpoint, one per line, or a text if the model learned one.")
    add = parser.add_argument
    add("--ckpt_path", type=str, required=True, help="The checkpoint file, or the folder of its run.")
    add("--num", type=int | None, default=None, help="Number of words (default 20) or texts (default 1).")
    add("--seed", type=int, default=2147483647, help="The seed of the random number generator.")
    add("--prompt", type=str, default="", help="The beginning of every sample.")
    add("--temperature", type=float, default=1.0, help="Below 1: more probable words; above 1: more random ones.")
    add("--max_length", type=int, default=MAX_LENGTH, help="The number of tokens after which a sample is cut off.")
    add("--batched", action="store_true", help="Sample many words at a time: faster, but not the notebooks' draws.")
    add("--model", type=str, default="LanguageModel", help="A variant of your own, as package.module.Class.")
    options = parser.parse_args(args)
    require_at_least(0, seed=options.seed)
    require_at_least(1, max_length=options.max_length)
    model = load_model(read_checkpoint(options.ckpt_path), variant(options.model, LanguageModel))
    sample = sample_batched if options.batched else sample_one_by_one
    generator = torch.Generator().manual_seed(options.seed)
    is_text = learns_text(model)
    num, cut = (1 if is_text else 20) if options.num is None else options.num, 0
    for word, ended in sample(model, num, generator, options.prompt, options.temperature, options.max_length):
        show("\n".join(map(printable, word.split("\n"))))
        cut += not ended
    if cut and not is_text:
        print(f"note: {cut} of {num} words were cut off after {options.max_length} tokens", file=sys.stderr)
