"""What the README and the guides show works as it stands there."""

import re
import shlex
import subprocess
import sys
from contextlib import suppress
from functools import partial
from importlib import import_module
from typing import Any

import pytest
import torch

from ngram_mlp.__main__ import COMMANDS, TAKES
from ngram_mlp.cli import train
from tests.conftest import PROJECT
from tests.lightning_table import at_peace, trained

DOCUMENTS = [*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md"), PROJECT / "data" / "README.md"]

GUIDES = ["README", *(f"docs/{name}" for name in ("installing", "experiments", "looking", "comparing", "running"))]
TEXTS = [path.read_text() for guide in GUIDES if (path := PROJECT / f"{guide}.md").exists()]
SHOWN = "\n".join(TEXTS)
# Files of Python that are shown, by their name in the first line, and what is shown of Python besides.
FILES = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", SHOWN, flags=re.DOTALL))
SNIPPETS = re.findall(r"```python\n(?!# \w+\.py)(.*?)```", SHOWN, flags=re.DOTALL)


TYPED = r"^(?:PYTHONPATH=. )?(?:python scripts/|ngram-mlp )(\w+)(?:\.py)?(.*)$"
COMMAND = {name: partial(import_module(f"ngram_mlp.cli.{name}").main, *TAKES.get(name, ())) for name in COMMANDS}
SHORT = ("--trainer.max_steps", "5", "--trainer.val_check_interval", "5")


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """The files that are shown, where they can be imported."""
    for name, code in FILES.items():
        (tmp_path / name).write_text(code)
    monkeypatch.syspath_prepend(tmp_path)


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("name", [name for name, code in FILES.items() if "LanguageModel)" in code])
def test_a_variant_that_is_shown_trains_with_both_engines_and_samples(name, run_train, capsys):
    (variant,) = re.findall(r"^class (\w+)\(LanguageModel\)", FILES[name], flags=re.MULTILINE)
    variant = f"{name.removesuffix('.py')}.{variant}"
    for engine in ("eager", "fused"):
        folder, _ = run_train("--model", variant, "--engine", engine, "--trainer.max_steps", "30")
    COMMAND["sample"](["--ckpt_path", str(folder), "--model", variant, "--num", "3"])
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_first_run_in_python_shows_verdicts_and_nothing_of_lightnings(tmp_path):
    (code,) = [code for code in SNIPPETS if "open_console" in code]
    code = re.sub(r"max_steps=[\d_]+", "max_steps=20, accelerator='cpu'", code)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert "before the first update" in done.stdout
    assert "test/loss" in done.stdout


@pytest.mark.slow
def test_the_python_that_is_shown_has_types_that_fit(tmp_path):
    shown = [
        code for path in DOCUMENTS for code in re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)
    ]
    for number, code in enumerate(shown):
        given = "from typing import Any\n\nmodule: Any\nloader: Any\n" if "(module, loader)" in code else ""
        (tmp_path / f"shown_{number}.py").write_text(given + code)
    command = [sys.executable, "-m", "mypy", "--config-file", str(PROJECT / "pyproject.toml"), *tmp_path.glob("*.py")]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("code", [code for code in SNIPPETS if "open_console" not in code])
def test_the_python_that_is_shown_works(code, run_train):
    if "runs/default/version_0" in code:
        folder, _ = run_train("--trainer.max_steps", "3")
        code = code.replace("runs/default/version_0", str(folder))
    with at_peace():
        names: dict[str, Any] = {}
        exec(re.sub(r"max_steps=[\d_]+", "max_steps=20, accelerator='cpu'", code), names)
    if "network" in names:
        contexts = torch.randint(5, (7, 3))
        torch.testing.assert_close(names["network"](contexts), names["model"](contexts))


def test_the_callback_of_docs_lightning_is_called_as_it_says(corpus_file):
    document = (PROJECT / "docs" / "lightning.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)
    names = {}
    exec(code.replace("100", "10"), names)
    seen = []

    class Noted(names["Norms"]):
        def on_train_batch_end(self, trainer, *args):
            seen.append(trainer.global_step)
            super().on_train_batch_end(trainer, *args)

    _, engine = trained(str(corpus_file), {"max_steps": 25, "callbacks": [Noted()]})
    assert engine != "lightning"  # it was trained in chunks
    assert {10, 20} <= {*seen}
    assert len(seen) < 6


@pytest.mark.usefixtures("shown")
def test_the_commands_of_the_documents_work(run_train, corpus_file, tmp_path):
    """Every line with a script runs, as does the installed command; training is cut short, on a small corpus."""
    (tmp_path / "my_words.txt").write_text("anna\nbo\ncecilia\ndavid\nemil\nfredrik\ngun\nhans\n" * 5)
    first, _ = run_train("--trainer.max_steps", "3")
    for number, (script, line) in enumerate(dict.fromkeys(re.findall(TYPED, SHOWN, flags=re.MULTILINE))):
        line = line.replace("runs/default/version_0", str(first)).replace("configs/", f"{PROJECT}/configs/")
        call(script, shlex.split(line, comments=True), corpus_file, run_train, 5 + number)


def call(script, args, corpus, run_train, updates):
    """Calls a command as it is typed, with a little to do: `updates`, more for each, as runs are resumed."""
    if "--trainer.devices" in args:  # starts processes, in tests of its own
        return
    if {"--help", "--print_config"} & {*args}:
        with pytest.raises(SystemExit, match="0"):
            COMMAND[script](args)
    elif script == "train":
        run_train(*args, "--trainer.max_steps", str(updates))
    elif script == "check":
        with suppress(SystemExit):  # if something is bad
            COMMAND[script]([*args, "--data.corpus", str(corpus)])
    elif script in ("compare", "search"):
        args = [*args, "--data.corpus", str(corpus), *SHORT]
        less = ["--seeds", "1"] if script == "compare" else ["--trials", "2", "--confirm", "0"]
        COMMAND[script]([*args, *less])
    else:
        COMMAND[script](args)


def test_the_targets_of_make_that_the_documents_name_exist():
    targets = {"adopt", *re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE)}
    for document in DOCUMENTS:
        for line in re.findall(r"^make ([a-z -]+)|`make ([a-z -]+)", document.read_text(), flags=re.MULTILINE):
            assert {*"".join(line).split()} <= targets, document


def test_options_are_completed_by_the_shell(capsys, tmp_path):
    with pytest.raises(SystemExit, match="0"):
        train.main(PROJECT / "configs" / "default.yaml", ["--print_completion", "shtab-bash"])
    script = capsys.readouterr().out
    (function,) = re.findall(r"^complete .*-F (\w+) ", script, flags=re.MULTILINE)
    typed = f'COMP_WORDS=(scripts/train.py --observe.e); COMP_CWORD=1; {function}; echo "${{COMPREPLY[@]}}"'
    (tmp_path / "complete.sh").write_text(f"{script}\n{typed}\n")
    out = subprocess.run(["bash", str(tmp_path / "complete.sh")], capture_output=True, text=True, check=True).stdout
    assert out == "--observe.every_n_updates\n"


def test_the_links_of_the_documents_lead_somewhere():
    for document in DOCUMENTS:
        for target in re.findall(r"(?:\]\(|src=\")([^)#\"]+)", document.read_text()):
            assert target.startswith("http") or (document.parent / target).exists(), (document, target)
