"""Lower rooms never import higher ones, as docs/architecture.md says."""

import ast
import re

import pytest

from tests.conftest import PROJECT

SOURCE = PROJECT / "src" / "ngram_mlp"
TABLE = re.search(r"\| rooms .*\n\|.*\n((?:\|.*\n)+)", (PROJECT / "docs" / "architecture.md").read_text())[1]
ROOMS = [{*re.findall(r"`(\w+)`", row.split("|")[1])} for row in TABLE.splitlines()]


def room_of(module: str) -> int:
    (level,) = (level for level, room in enumerate(ROOMS) if module in room)
    return level


@pytest.mark.parametrize("path", sorted(SOURCE.glob("*/**/*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_from_its_own_room_and_lower_ones_alone(path):
    own = room_of(path.relative_to(SOURCE).parts[0].removesuffix(".py"))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ngram_mlp"):
            names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
            assert all(room_of(name) <= own for name in names), f"line {node.lineno}"


def test_data_layers_and_diagnostics_know_nothing_of_lightning_but_in_the_datamodule():
    for folder in ("data", "models/layers", "diagnostics"):
        for path in (SOURCE / folder).glob("*.py"):
            assert ("pytorch_lightning" in path.read_text()) == (path.name == "datamodule.py"), path


def test_only_the_commands_know_how_an_option_is_typed():
    options = re.compile(r"--(?:model|data|trainer|observe|[a-z]+_[a-z]+)\b")
    for path in SOURCE.rglob("*.py"):
        if path.parent.name not in ("cli", "studies"):  # a study calls train.py
            assert not options.search(path.read_text()), path


def test_the_table_of_where_to_look_names_files_that_exist():
    links = re.findall(r"\]\((\.\./src/[^)]+)\)", (PROJECT / "docs" / "architecture.md").read_text())
    assert len(links) > 10
    assert all((PROJECT / "docs" / link).exists() for link in links)


def test_the_template_knows_of_multistep_only_what_is_public():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert all(module == "multistep" for module in modules if module.startswith("multistep")), path
