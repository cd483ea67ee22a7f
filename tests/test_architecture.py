"""Lower rooms never import higher ones, as docs/architecture.md says."""

import ast
import re

import pytest

from tests.conftest import PROJECT

SOURCE = PROJECT / "src" / "ngram_mlp"
TABLE = re.search(r"\| rooms .*\n\|.*\n((?:\|.*\n)+)", (PROJECT / "docs" / "architecture.md").read_text())[1]
ROOMS = [{"__init__"}, *({*re.findall(r"`(\w+)`", row.split("|")[1])} for row in TABLE.splitlines())]


def room_of(module: str) -> int:
    (level,) = (level for level, room in enumerate(ROOMS) if module in room)
    return level


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_file_imports_from_its_own_room_and_lower_ones_alone(path):
    own = room_of(path.relative_to(SOURCE).parts[0].removesuffix(".py"))
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ngram_mlp"):
            names = [node.module.split(".")[1]] if "." in node.module else [alias.name for alias in node.names]
            assert all(room_of(name) <= own for name in names), f"line {node.lineno}"


def test_data_and_statistics_know_nothing_of_lightning_but_in_the_datamodule():
    for path in [*(SOURCE / "data").glob("*.py"), *(SOURCE / "layers").glob("*.py"), SOURCE / "statistics.py"]:
        assert ("pytorch_lightning" in path.read_text()) == (path.name == "datamodule.py"), path
