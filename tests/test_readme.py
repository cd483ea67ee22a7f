"""What the README shows works as it stands there."""

import re
import shlex
import sys

import pytest

from ngram_mlp.cli import check, evaluate, sample
from tests.conftest import PROJECT

README = (PROJECT / "README.md").read_text()


def test_the_variant_of_the_readme_trains_with_both_engines(run_train, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n# my_package\.py\n(.*?)```", README, flags=re.DOTALL)
    (tmp_path / "my_package.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    for engine in ("eager", "fused"):
        run_train(
            "--model", "my_package.Wide", "--model.width", "16", "--model.engine", engine, "--trainer.max_steps", "30"
        )
    assert "my_package" in sys.modules


def test_the_commands_of_the_readme_work(run_train, corpus_file, tmp_path):
    """Every line with a script runs; training is cut short, on the small corpus of the tests."""
    (tmp_path / "my_words.txt").write_text("anna\nbo\ncecilia\ndavid\nemil\nfredrik\ngun\nhans\n" * 5)
    first, _ = run_train("--trainer.max_steps", "3")
    lines = re.findall(r"^python scripts/(\w+)\.py (.*)$", README, flags=re.MULTILINE)
    assert {script for script, _ in lines} == {"train", "check", "compare", "evaluate", "sample"}
    for script, line in lines:
        # The latter two start processes, in tests of their own.
        if "--print_config" in line or "--trainer.devices 2" in line or script == "compare":
            continue
        line = line.replace("runs/default/version_0", str(first)).replace("configs/", f"{PROJECT}/configs/")
        args = shlex.split(line, comments=True)
        if script == "train":
            run_train(*args, "--trainer.max_steps", "5")
        elif script == "check":
            with pytest.raises(SystemExit, match="1"):
                check.main(PROJECT / "configs" / "default.yaml", [*args, "--data.corpus", str(corpus_file)])
        else:
            {"evaluate": evaluate, "sample": sample}[script].main(args)


def test_the_files_that_the_documents_point_to_exist():
    for document in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            assert target.startswith("http") or (document.parent / target).exists(), (document, target)
