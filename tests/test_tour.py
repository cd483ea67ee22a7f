"""The tour runs from its first cell to its last, and tells what its text says."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.conftest import PROJECT

TOUR = PROJECT / "docs" / "tour.ipynb"


@pytest.fixture(scope="module")
def printed() -> str:
    """What the cells of the tour print when they are run now."""
    notebook = nbformat.read(TOUR, as_version=4)
    (setup,) = [cell for cell in notebook.cells if "UPDATES = " in cell.source]
    setup.source = setup.source.replace("3_000", "1_500")  # enough for the story
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(TOUR.parent)}}).execute()
    return text_of(notebook)


def text_of(notebook) -> str:
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    errors = [output["text"] for output in outputs if output.get("name") == "stderr"]
    assert all("training on the sample corpus" in text for text in errors)  # where there is no names.txt
    assert all(output["data"].get("text/plain", "shown") for output in outputs if "data" in output)  # none is empty
    return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.mark.slow
def test_the_tour_tells_the_notebooks_story(printed):
    plain, scaled = map(float, re.findall(r"^first loss ([\d.]+)", printed, flags=re.MULTILINE))
    assert plain > 20
    assert scaled == pytest.approx(3.3, abs=0.1)
    assert "the output layer is confidently wrong" in printed
    assert "the same: True" in printed
    losses = {name: float(loss) for name, loss in re.findall(r"'([^']+)': ([\d.]+)", printed)}
    assert losses["plain"] > losses["output scaled"] + 0.1 > losses["Kaiming"] + 0.1
    assert losses["batch norm"] == pytest.approx(losses["Kaiming"], abs=0.1)
    assert len(printed.splitlines()[-10:]) == 10  # names


def test_the_saved_outputs_are_of_one_whole_run():
    notebook = nbformat.read(TOUR, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert "confidently wrong" in text_of(notebook)
