"""What the README and the guides show works as it stands there."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ngram_mlp.cli import check, compare, evaluate, sample, search, train
from tests.conftest import PROJECT
from tests.lightning_table import at_peace, trained

DOCUMENTS = [*PROJECT.glob("*.md"), *(PROJECT / "docs").rglob("*.md"), PROJECT / "data" / "README.md"]

README = (PROJECT / "README.md").read_text()
GUIDES = [PROJECT / "docs" / f"{name}.md" for name in ("experiments", "looking", "comparing", "running")]
SHOWN = "\n".join([README, *(path.read_text() for path in GUIDES)])


def write(name: str, folder: Path) -> None:
    """Writes a file that the documents show."""
    (code,) = re.findall(rf"```python\n# {re.escape(name)}\n(.*?)```", SHOWN, flags=re.DOTALL)
    (folder / name).write_text(code)


def test_the_variant_of_the_documents_trains_with_both_engines_and_samples(run_train, tmp_path, monkeypatch, capsys):
    write("my_package.py", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for engine in ("eager", "fused"):
        run_train(
            "--model", "my_package.Wide", "--model.width", "16", "--model.engine", engine, "--trainer.max_steps", "30"
        )
    (folder,) = {path.parent for path in tmp_path.glob("runs/default/version_1/metrics.json")}
    sample.main(["--ckpt_path", str(folder / "checkpoints" / "last.ckpt"), "--model", "my_package.Wide", "--num", "3"])
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_the_callback_of_the_documents_logs(run_train, tmp_path, monkeypatch):
    write("my_callback.py", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (line,) = re.findall(r"^PYTHONPATH=. python scripts/train.py (.*my_callback.*)$", SHOWN, flags=re.MULTILINE)
    folder, _ = run_train(*shlex.split(line), "--trainer.max_steps", "101")
    events = EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("logit_norm")] == [0, 100]


def test_the_python_of_the_readme_works():
    (code,) = re.findall(r"```python\n(from pytorch_lightning import Trainer\n.*?)```", README, flags=re.DOTALL)
    names = {}
    with at_peace():
        exec(code.replace("max_steps=1000", "max_steps=20, accelerator='cpu'"), names)
    assert names["trainer"].global_step == 20
    assert names["model"].network.hidden1.norm is not None


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

    model = trained(str(corpus_file), {"max_steps": 25, "callbacks": [Noted()]})
    assert model.engine_name != "lightning"  # it was trained in chunks
    assert {10, 20} <= {*seen}
    assert len(seen) < 6


def test_the_commands_of_the_documents_work(run_train, corpus_file, tmp_path):
    """Every line with a script runs; training is cut short, on the small corpus of the tests."""
    (tmp_path / "my_words.txt").write_text("anna\nbo\ncecilia\ndavid\nemil\nfredrik\ngun\nhans\n" * 5)
    first, _ = run_train("--trainer.max_steps", "3")
    lines = dict.fromkeys(re.findall(r"^python scripts/(\w+)\.py(.*)$", SHOWN, flags=re.MULTILINE))
    assert {script for script, _ in lines} == {"train", "check", "compare", "evaluate", "sample", "search"}
    for script, line in lines:
        line = line.replace("runs/default/version_0", str(first)).replace("configs/", f"{PROJECT}/configs/")
        args = shlex.split(line, comments=True)
        if "--trainer.devices" in args:  # starts processes, in tests of its own
            continue
        if script == "compare":
            args = [*args, "--seeds", "1", "--data.corpus", str(corpus_file), "--observe.every_n_updates", "off"]
            compare.main(PROJECT / "scripts" / "train.py", [*args, "--trainer.max_steps", "5"])
        elif script == "search":
            args[args.index("--trials") + 1] = "2"
            args = [*args, "--confirm", "0", "--data.corpus", str(corpus_file), "--trainer.val_check_interval", "5"]
            search.main(PROJECT / "scripts" / "train.py", [*args, "--trainer.max_steps", "5"])
        elif {"--help", "--print_config"} & {*args}:
            with pytest.raises(SystemExit, match="0"):
                train.main(PROJECT / "configs" / "default.yaml", args)
        elif script == "train":
            run_train(*args, "--trainer.max_steps", "5")
        elif script == "check":
            with pytest.raises(SystemExit, match="1"):
                check.main(PROJECT / "configs" / "default.yaml", [*args, "--data.corpus", str(corpus_file)])
        else:
            {"evaluate": evaluate, "sample": sample}[script].main(args)


def test_the_targets_of_make_that_the_documents_name_exist():
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    for document in DOCUMENTS:
        for line in re.findall(r"^make ([a-z -]+)|`make ([a-z -]+)", document.read_text(), flags=re.MULTILINE):
            assert {*"".join(line).split()} <= targets, document


def test_the_readme_is_read_in_five_minutes():
    assert len(README.splitlines()) <= 200


def test_options_are_completed_by_the_shell(capsys, tmp_path):
    (option,) = re.findall(r"scripts/train.py (--print_completion) shtab-bash", SHOWN)
    with pytest.raises(SystemExit, match="0"):
        train.main(PROJECT / "configs" / "default.yaml", [option, "shtab-bash"])
    script = capsys.readouterr().out
    (function,) = re.findall(r"^complete .*-F (\w+) ", script, flags=re.MULTILINE)
    typed = f'COMP_WORDS=(scripts/train.py --observe.e); COMP_CWORD=1; {function}; echo "${{COMPREPLY[@]}}"'
    (tmp_path / "complete.sh").write_text(f"{script}\n{typed}\n")
    out = subprocess.run(["bash", str(tmp_path / "complete.sh")], capture_output=True, text=True, check=True).stdout
    assert out == "--observe.every_n_updates\n"


def test_the_documents_are_linked_and_their_links_lead_somewhere():
    linked = {PROJECT / "README.md", PROJECT / "data" / "README.md"}
    for document in DOCUMENTS:
        for target in re.findall(r"(?:\]\(|src=\")([^)#\"]+)", document.read_text()):
            assert target.startswith("http") or (document.parent / target).exists(), (document, target)
            linked.add((document.parent / target).resolve())
    assert {*DOCUMENTS} <= linked
