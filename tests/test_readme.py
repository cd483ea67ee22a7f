"""What the README shows works as it stands there."""

import re
import sys

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


def test_the_overrides_of_the_readme_are_options_that_exist(run_train, tmp_path):
    """Every `train.py` line runs, cut short, on the small corpus of the tests."""
    (tmp_path / "my_words.txt").write_text("anna\nbo\ncecilia\ndavid\nemil\nfredrik\ngun\nhans\n" * 5)
    first, _ = run_train("--trainer.max_steps", "3")
    lines = re.findall(r"^python scripts/train\.py (.*)$", README, flags=re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        if "--print_config" in line:
            continue
        line = re.sub(r" +#.*", "", line).replace("runs/default/version_0", str(first))
        run_train(*line.split(), "--trainer.max_steps", "5")
