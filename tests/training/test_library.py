"""Compiled code on disk: it is a program, so it is private, intact, and of this very update, or it is not loaded."""

import logging
import os
import shutil
import stat

import pytest
import torch
from torch import nn

from ngram_mlp.models import MLP
from ngram_mlp.training.compiling import library
from ngram_mlp.training.compiling.structure import is_known, sources_of, structure_of
from tests.training.runs import FusedEngine, Run


def run(lr=0.1, **options):
    return Run(FusedEngine, model_class=MLP, optimizer=lambda p: torch.optim.SGD(p, lr=lr, **options))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A folder with the code of one update, and the losses of that update's run."""
    folder = tmp_path_factory.mktemp("compiled") / "cache"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MULTISTEP_CACHE_DIR", str(folder))
        losses = run().train(30)
    return folder, losses


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("MULTISTEP_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def entry(cache, compiled):
    """The folder of the one update that was compiled before."""
    shutil.copytree(compiled[0], cache)
    (path,) = cache.glob("*/plan.pt")
    return path.parent


@pytest.fixture
def trained(caplog):
    """Trains a small network; returns its losses and what the engine said about compiling it."""
    caplog.set_level(logging.INFO, "ngram_mlp")

    def train(lr=0.1):
        caplog.clear()
        return run(lr).train(30), caplog.text

    return train


def test_what_was_compiled_is_loaded_and_gives_the_same_bits(entry, compiled, trained):
    losses, said = trained()
    assert "compiled before" in said
    assert "compiling" not in said
    assert losses.equal(compiled[1])
    assert "compiled before" in trained(lr=0.05)[1]  # the learning rate is data
    assert [path.parent for path in entry.parent.glob("*/plan.pt")] == [entry]


def test_it_is_kept_in_folders_that_only_the_user_can_read(entry):
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in (entry.parent, entry))


@pytest.mark.parametrize("damage", ["open to others", "cut short", "another library", "no plan"])
def test_what_cannot_be_trusted_is_not_loaded(entry, damage):
    key = entry.name
    assert library.load(key) is not None
    if damage == "open to others":
        entry.chmod(0o750)
    elif damage == "cut short":
        os.truncate(entry / "plan.pt", 100)
    elif damage == "another library":
        (entry / "update.so").write_bytes(b"no library")
    else:
        (entry / "plan.pt").unlink()
    assert library.load(key) is None


def test_what_cannot_be_loaded_is_compiled_again_and_replaced(entry, compiled, trained):
    os.truncate(entry / "update.so", 1_000)
    losses, said = trained()
    assert "compiled in" in said
    assert losses.equal(compiled[1])
    assert "compiled before" in trained()[1]


def test_a_folder_that_others_can_write_is_not_used(cache, trained):
    cache.mkdir(mode=0o755)
    _, said = trained()
    assert "is not kept for the next run" in said
    assert "can be read or written by others" in said
    assert not [*cache.iterdir()]


def test_a_folder_that_cannot_be_made_is_told_and_nothing_is_lost(trained, compiled, monkeypatch):
    monkeypatch.setenv("MULTISTEP_CACHE_DIR", "/dev/null/cache")
    losses, said = trained()
    assert "is not kept for the next run" in said
    assert losses.equal(compiled[1])


def test_a_user_without_a_home_has_a_folder(monkeypatch, tmp_path):
    for variable in ("MULTISTEP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(library.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    monkeypatch.setattr(library.tempfile, "gettempdir", lambda: str(tmp_path))
    assert library.folder() == tmp_path / "ngram_mlp"


def test_code_of_another_update_is_found_out_by_a_trial(entry):
    expected = run(maximize=True).train(30)
    (of_other,) = (path.parent for path in entry.parent.glob("*/plan.pt") if path.parent != entry)
    for name in ("update.so", "plan.pt"):  # a stale library, as if its key had missed something
        (of_other / name).write_bytes((entry / name).read_bytes())
    assert run(maximize=True).train(30).equal(expected)


def network(**changes):
    torch.manual_seed(0)
    options = {"activation": nn.Tanh, "width": 20, "slope": 0.1} | changes
    layers = [nn.Flatten(), nn.Linear(30, options["width"]), options["activation"](), nn.LeakyReLU(options["slope"])]
    return nn.Sequential(nn.Embedding(27, 10), *layers, nn.Linear(options["width"], 27))


@pytest.mark.parametrize("change", [{"activation": nn.ReLU}, {"slope": 0.2}])
def test_the_structure_of_a_network_tells_networks_apart(change):
    assert structure_of(network()) == structure_of(network())
    assert structure_of(network()) != structure_of(network(**change))
    switched = network()
    switched[3].eval()
    assert structure_of(network()) != structure_of(switched)
    frozen = network()
    frozen[0].weight.requires_grad_(False)
    assert structure_of(network()) != structure_of(frozen)


def test_what_is_only_known_by_its_identity_is_not_kept():
    bound = network()
    assert is_known(structure_of(bound))
    bound.rule = object()
    assert not is_known(structure_of(bound))
    bound.rule = lambda x: x
    assert not is_known(structure_of(bound))
    bound.rule = torch.tanh
    assert is_known(structure_of(bound))


def test_the_sources_of_a_network_include_what_they_import(tmp_path, monkeypatch):
    (tmp_path / "helpers_of_a_user.py").write_text("def scaled(x):\n    return x * 2\n")
    source = (
        "from torch import nn\nfrom helpers_of_a_user import scaled\nclass Scaled(nn.Module):\n    forward = scaled\n"
    )
    (tmp_path / "layers_of_a_user.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    import layers_of_a_user

    scaled = nn.Sequential(layers_of_a_user.Scaled())
    before = sources_of(scaled)
    assert before == sources_of(scaled)
    (tmp_path / "helpers_of_a_user.py").write_text("def scaled(x):\n    return x * 3\n")
    assert sources_of(scaled) != before
    layers_of_a_user.__file__ = None  # as in a notebook
    assert sources_of(scaled) is None


def test_the_key_depends_on_threads_and_precision(monkeypatch):
    keys = {library.key_of(["an update", threads]) for threads in (1, 2)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        keys.add(library.key_of(["an update", 1]))
    monkeypatch.setattr(torch, "__version__", "another")
    keys.add(library.key_of(["an update", 1]))
    assert len(keys) == 4
