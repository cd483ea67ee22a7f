"""A user's mistakes in one line: options named as they were typed, and the one that was meant."""

import argparse
import difflib
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import NoReturn

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from torch import optim
from torch.optim import lr_scheduler

from multistep import EngineUnavailableError
from ngram_mlp.errors import UserError, printable
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.schedules import WarmupCosine

NESTED = {  # whose arguments are options of a model, with the classes that one may well have in mind
    "optimizer": (optim.SGD, optim.Adam, optim.AdamW),
    "lr_scheduler": (lr_scheduler.MultiStepLR, lr_scheduler.StepLR, lr_scheduler.CosineAnnealingLR, WarmupCosine),
}
TAKE_CLASSES = ("model", "optimizer", "lr_scheduler", "callbacks", "logger", "profiler", "plugins", "strategy")
OTHER_WORDS = {"learning_rate": "lr", "epochs": "max_steps", "steps": "max_steps", "layers": "n_layers"}
NO_MEMORY = re.compile("can't allocate memory|not enough memory|bad_alloc")
typed: Sequence[str] = ()
known: Sequence[str] = ()


def remember_options(args: Sequence[str], parser: argparse.ArgumentParser) -> None:
    """Notes which options were typed and which there are.

    Those of the models come from their constructors: the parser knows them only when it has read which one is trained.
    """
    global typed, known
    typed = [arg.split("=")[0].removesuffix("+") for arg in args if arg.startswith("--")]
    there = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    models: list[type[LanguageModel]] = [LanguageModel, *LanguageModel.__subclasses__()]
    for model in models:
        for name, parameter in inspect.signature(model).parameters.items():
            if parameter.kind is parameter.VAR_KEYWORD:  # the options of LanguageModel
                continue
            inner = [field.name for field in fields(parameter.default)] if is_dataclass(parameter.default) else []
            for kind in NESTED.get(name, ()):
                inner += list(inspect.signature(kind).parameters)[1:]
            there += [f"--model.{name}", *(f"--model.{name}.{argument}" for argument in inner)]
    known = list(dict.fromkeys(there))


def as_typed(key: str) -> str:
    """The option that ends with `key`, as it was typed, or as it could have been; else the key itself."""
    ends = tuple(dashes + key.lstrip("-") for dashes in ("--", "."))
    return next((option for option in (*typed, *known) if option.endswith(ends)), key)


def about_unknown(option: str) -> str:
    """The line about an option that there is not: the one that was meant, by its last word or by its spelling."""
    option = f"--{option.lstrip('-')}"
    if option in known:
        hint = "the model that is chosen does not have it; name one that has, such as --model MLP, before it"
    elif meant := _homes(option) or difflib.get_close_matches(option, known, n=1):
        hint = f"did you mean {' or '.join(meant)}?"
    else:
        hint = "--help lists the options"
    return f"there is no option {option}; {hint}"


def about_missing(names: str) -> str:
    """The line about arguments that are required: of a command, or of the class that was chosen last."""
    if f"--{names}" in known:
        return f"--{names}: is required"
    chosen = [option for option in typed if option.rpartition(".")[2].lstrip("-") in TAKE_CLASSES]
    if not chosen:
        return f"the following arguments are required: {names}"
    one, *_ = names.split(",")
    return f"{chosen[-1]}: the class needs {names}; give {chosen[-1]}.{one} VALUE behind it"


def _homes(option: str) -> list[str]:
    """The options whose last word is that of this one, or nearly: `--model.optimizer.lr` for `--lr`."""
    words = {name.rpartition(".")[2].lstrip("-"): None for name in known}
    last = option.rpartition(".")[2].lstrip("-").replace("-", "_")
    last = OTHER_WORDS.get(last, last)
    word = last if last in words else next(iter(difflib.get_close_matches(last, words, n=1, cutoff=0.8)), None)
    homes = [name for name in known if word and name.rpartition(".")[2].lstrip("-") == word]
    # Of several, those that one can have meant by the rest of what was typed.
    alike = [name for name in homes if name.split(".")[0] == option.split(".")[0]]
    return (alike or homes)[:3]


def mistake_in(error: BaseException | None) -> str | None:
    """The line about a user's mistake that led to an error, which the parser may have wrapped; None for a bug."""
    while error is not None and not isinstance(error, (UserError, EngineUnavailableError, MisconfigurationException)):
        error = error.__cause__
    if error is None:
        return None
    if isinstance(error, EngineUnavailableError):
        return re.sub("^engine ", "--engine ", str(error))
    line, argument = " ".join(str(error).split()), getattr(error, "argument", None)
    return line if argument is None else line.replace(argument, as_typed(argument), 1)


def about_memory(error: BaseException | str) -> str | None:
    """The line about too little memory, where an error says so: torch's allocator for the CPU has none of its own."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or NO_MEMORY.search(str(error)):
        return "the memory does not suffice; take a smaller network, batch_size or corpus"
    return None


def exit_with(line: str) -> NoReturn:
    """Prints the line as an error and exits with status 2."""
    print(f"error: {printable(line)}", file=sys.stderr)
    raise SystemExit(2)
