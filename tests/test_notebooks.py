"""The notebooks of the documentation run from top to bottom, with fewer samples than a reader's."""

import pytest

from helpers.paths import ROOT

nbformat = pytest.importorskip("nbformat", reason="pip install 'contrastill[notebooks]'")
nbclient = pytest.importorskip("nbclient", reason="pip install 'contrastill[notebooks]'")

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "kept without its outputs"
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = "samples, epochs = 64, 1"
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    printed = "".join(
        output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", ()) if cell.source
    )
    assert "distilled from" in printed
