"""The walls between the three packages, and between the layers of the template, as docs/architecture.md has them."""

import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter

from tests.conftest import PROJECT

SOURCE = PROJECT / "src"
FILES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(SOURCE.rglob("*.py"))
}
TABLE = re.search(r"\| layer .*\n\|.*\n((?:\|.*\n)+)", (PROJECT / "docs" / "architecture.md").read_text())[1]
LAYERS = [{*re.findall(r"`(\w+)`", row.split("|")[1])} for row in TABLE.splitlines()]


def imports_of(name: str) -> set[str]:
    """The modules that a file imports, anywhere in it but for type checkers alone."""
    found, todo = set(), [ast.parse(FILES[name].read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            parts = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (parts & FILES.keys()) or {node.module}
        todo += ast.iter_child_nodes(node)
    return found


IMPORTS = {name: imports_of(name) for name in FILES}


def roots(package: str, among: str = "") -> set[str]:
    """The packages that files of a package import, its own and Python's left out."""
    names = [name for name in FILES if re.fullmatch(rf"{package}(\..*)?", name) and re.search(among, name)]
    found = {module.split(".")[0] for name in names for module in IMPORTS[name]}
    return found - {package, *sys.stdlib_module_names}


def test_multistep_imports_torch_and_lightning_alone():
    known = {"torch", "pytorch_lightning", "lightning_fabric"}  # the last is a part of Lightning
    assert roots("multistep") - {"numpy", "torchmetrics"} <= known  # which those bring


def test_runlab_imports_neither_of_the_others_and_torch_in_its_one_run_half_alone():
    assert not roots("runlab") & {"multistep", "ngram_mlp"}
    assert not roots("runlab", r"^runlab(?!\.one)") & {"torch", "pytorch_lightning", "lightning_fabric"}
    for name in FILES:
        if name.startswith("runlab.many"):
            assert not [module for module in IMPORTS[name] if module.startswith("runlab.one")], name


def test_the_template_imports_the_two_libraries_by_their_public_names_alone():
    for name in FILES:
        if name.startswith("ngram_mlp"):
            inner = [module for module in IMPORTS[name] if re.match(r"(multistep|runlab)\.", module)]
            assert not inner, f"{name} imports {inner}"


def test_what_a_library_does_not_export_has_an_underscore():
    for name in FILES:
        package, *rest = name.split(".")
        if package == "runlab" and rest and rest[-1] not in ("one", "many"):
            assert rest[-1].startswith("_"), name


def test_no_files_import_each_other_in_a_circle():
    graph = {name: IMPORTS[name] & FILES.keys() - {name} for name in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise AssertionError(" imports ".join(reversed(error.args[1]))) from None


def test_a_file_and_a_function_are_read_in_a_sitting():
    for name, path in FILES.items():
        text = path.read_text()
        assert len(text.splitlines()) <= 300, name
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 40, f"{name}: {node.name}"


def layer_of(module: str) -> int:
    (level,) = (level for level, names in enumerate(LAYERS) if module in names)
    return level


def test_a_file_of_the_template_imports_from_its_own_layer_and_lower_ones_alone():
    for name in FILES:
        package, *rest = name.split(".")
        if package == "ngram_mlp" and rest:
            for module in IMPORTS[name]:
                if module.startswith("ngram_mlp."):
                    assert layer_of(module.split(".")[1]) <= layer_of(rest[0]), f"{name} imports {module}"


def test_data_layers_and_diagnostics_know_nothing_of_lightning_but_in_the_datamodule():
    for folder in ("data", "models/layers", "diagnostics"):
        for path in (SOURCE / "ngram_mlp" / folder).glob("*.py"):
            assert ("pytorch_lightning" in path.read_text()) == (path.name == "datamodule.py"), path


def test_only_the_commands_know_how_an_option_is_typed():
    options = re.compile(r"--(?:model|data|trainer|observe|[a-z]+_[a-z]+)\b")
    for path in (SOURCE / "ngram_mlp").rglob("*.py"):
        if path.parent.name != "cli":
            assert not options.search(path.read_text()), path


def test_the_table_of_where_to_look_names_files_that_exist():
    links = re.findall(r"\]\((\.\./src/[^)]+)\)", (PROJECT / "docs" / "architecture.md").read_text())
    assert len(links) > 10
    assert all((PROJECT / "docs" / link).exists() for link in links)
