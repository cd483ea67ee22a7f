"""Untrusted checkpoints: nothing in them runs, and one line says what is wrong."""

import io
import json
import os
import pickle
import random
import sys
import tracemalloc
import warnings
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ngram_mlp.cli import evaluate, sample, train
from ngram_mlp.cli.resuming import check_checkpoint
from ngram_mlp.cli.train_cli import TrainCLI
from ngram_mlp.models import LanguageModel
from ngram_mlp.models.loading import load_model
from runlab import UserError, read_checkpoint
from tests.conftest import PROJECT

DEFAULT = PROJECT / "configs" / "default.yaml"


@pytest.fixture(scope="module")
def honest(tmp_path_factory, sample_words):
    """A checkpoint of a short run, with an optimizer that has a state."""
    folder = tmp_path_factory.mktemp("honest")
    (folder / "words.txt").write_text("\n".join(sample_words[::63]))
    corpus = ["--data.corpus", str(folder / "words.txt"), "--runs_dir", str(folder / "runs"), "--name", "default"]
    adam = ["--model.optimizer", "Adam", "--model.optimizer.lr", "0.01"]
    train.main(DEFAULT, [*corpus, *adam, "--trainer.max_steps", "5", "--model.n_hidden", "8"])
    return folder / "runs" / "default" / "version_0" / "checkpoints" / "last.ckpt"


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that leaves a trace where it is imported, and again where its functions are called."""
    (tmp_path / "trap.py").write_text(
        f"open({str(tmp_path / 'sprung')!r}, 'w')\n"
        "from ngram_mlp.models import MLP\n"
        f"def spring(*args, **kwargs): open({str(tmp_path / 'sprung')!r}, 'w')\n"
        "class Trap(MLP): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "sprung"
    assert not (tmp_path / "sprung").exists()
    assert "trap" not in sys.modules


@pytest.fixture
def refused():
    """Has the loader refuse a forged file in one line."""

    def check(path):
        with pytest.raises(UserError) as error:
            load_model(read_checkpoint(path), LanguageModel)
        assert len(str(error.value)) < 800
        assert "\n" not in str(error.value)

    return check


@pytest.fixture
def refused_by_commands(fails, honest, tmp_path):
    """Gives a forged file to every command and checks that each refuses it."""

    def check(path):
        configuration = ["--config", str(honest.parents[1] / "config.yaml"), "--runs_dir", str(tmp_path / "new")]
        for main, args in ((evaluate.main, []), (sample.main, []), (train.main, configuration)):
            args = [["--ckpt_path", str(path), *args]]
            line = fails(main, *([DEFAULT] if main is train.main else []), *args)
            assert len(line) < 800
            assert line.isprintable()
        assert not list((tmp_path / "new").glob("*/*"))

    return check


@pytest.fixture(scope="module")
def resumed(honest):
    """Checks whether a run can resume from a file, as `train.py` does with the configuration of the honest one."""
    cli = TrainCLI(["--config", str(honest.parents[1] / "config.yaml")], DEFAULT)

    def check(path):
        checkpoint = read_checkpoint(path)
        check_checkpoint(checkpoint, cli.configuration("json"), cli.model, cli.datamodule)
        return checkpoint

    return check


class Calls:
    """Pickles to a call."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def archive(path, pickled, compression=zipfile.ZIP_STORED, **parts):
    """Writes a zip archive as torch does, with any pickle in it."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", pickled)
        file.writestr("archive/byteorder", "little")
        for name, content in parts.items():
            file.writestr(f"archive/data/{name}", content)
        file.writestr("archive/version", "3\n")
    return path


def pickles(trap):
    """Pickles that would run something, in torch's protocol and in others."""
    command = f"touch {trap}"
    global_name = b"ctrap\nspring\n(tR."
    return {
        "os.system": pickle.dumps(Calls(os.system, command), 2),
        "a later protocol": pickle.dumps(Calls(os.system, command), 4),
        "builtins.exec": pickle.dumps({"state_dict": Calls(exec, f"open({str(trap)!r}, 'w')")}, 2),
        "a module of ours": b"\x80\x02" + global_name,
        "an INST opcode": b"\x80\x02(S'x'\nitrap\nspring\n.",
        "torch.load inside": pickle.dumps(Calls(torch.load, "other.ckpt", None, None), 2),
        "no pickle": b"hello",
        "empty": b"",
    }


def test_no_pickle_runs_whether_bare_or_in_an_archive(trap, refused, refused_by_commands, tmp_path):
    forged = tmp_path / "forged.ckpt"
    for name, pickled in pickles(trap).items():
        for write in (lambda path, pickled: path.write_bytes(pickled), archive):  # before 2020 torch wrote bare pickles
            write(forged, pickled)
            refused(forged)
            if name == "a module of ours":
                refused_by_commands(forged)


def test_files_that_are_damaged_or_none_at_all(honest, refused, refused_by_commands, tmp_path):
    content = honest.read_bytes()
    forged = tmp_path / "forged.ckpt"
    for damaged in (
        b"",
        b"PK\x05\x06" + bytes(18),
        content[:-1],
        content[: len(content) // 2],
        content[100:],
        bytes(9999),
    ):
        forged.write_bytes(damaged)
        refused(forged)
    for path in (tmp_path, "/dev/zero", tmp_path / "nowhere", "https://example.org/last.ckpt", ""):
        refused(path)
    refused_by_commands(tmp_path / "nowhere")


@settings(max_examples=60, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_a_flipped_bit_is_noticed_or_changes_nothing(honest, tmp_path, seed):
    content = bytearray(honest.read_bytes())
    content[random.Random(seed).randrange(len(content))] ^= 1 << seed % 8
    flipped = tmp_path / "flipped.ckpt"
    flipped.write_bytes(content)
    try:
        found = read_checkpoint(flipped)
    except UserError:
        return
    expected = read_checkpoint(honest)
    assert found.content.keys() == expected.content.keys()
    assert all(value.equal(found.weights[key]) for key, value in expected.weights.items())
    assert found.parts["configuration"] == expected.parts["configuration"]


def put(*keys, value):
    """A forgery: the value at a path of keys is another."""

    def forge(content):
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] = value

    return forge


def without(*keys):
    def forge(content):
        for key in keys[:-1]:
            content = content[key]
        del content[keys[-1]]

    return forge


EVERYWHERE = {
    "no part of ours": without("runlab"),
    "a schema that is text": put("runlab", "schema", value="2"),
    "no model": without("runlab", "model"),
    "a model that is a list": put("runlab", "model", value=["MLP"]),
    "a class path for a model": put("runlab", "model", value="trap.Trap"),
    "a name that steers the terminal": put("runlab", "model", value="\x1b[2J\u202eMLP"),
    "_class_path": put("hyper_parameters", "_class_path", value="trap.Trap"),
    "no hyperparameters": without("hyper_parameters"),
    "a negative size": put("hyper_parameters", "n_hidden", value=-8),
    "a size that is text": put("hyper_parameters", "n_hidden", value="8"),
    "a vocabulary of numbers": put("hyper_parameters", "vocabulary", value=[1, 2]),
    "no weights": put("state_dict", value={}),
    "weights that are a list": put("state_dict", value=[]),
    "a weight missing": without("state_dict", "network.hidden1.norm.gain"),
    "a weight that is text": put("state_dict", "network.hidden1.norm.gain", value="1"),
    "whole numbers for a weight": put("state_dict", "network.hidden1.norm.gain", value=torch.ones(8, dtype=torch.long)),
    "a weight of another shape": put("state_dict", "network.hidden1.norm.gain", value=torch.ones(9)),
    "a count that is text": put("global_step", value="5"),
}
STEPS = "epoch_loop.automatic_optimization.optim_progress"
GENERATOR = ("NGramDataModule", "minibatches", "generator")
IN_TRAIN = {
    "no configuration": without("runlab", "configuration"),
    "a configuration that is no JSON": put("runlab", "configuration", value="{"),
    "a configuration of another kind": put("runlab", "configuration", value=5),
    "a configuration that names a class": put(
        "runlab", "configuration", value=json.dumps({"model": {"class_path": "trap.Trap"}})
    ),
    "another count of updates": put("global_step", value=4),
    "a negative count": put("global_step", value=-1),
    "no losses": without("callbacks", "Losses"),
    "losses that are text": put("callbacks", "Losses", "losses", value="abcde"),
    "threads that are text": put("callbacks", "MultiStep", "threads", value="1"),
    "no account of the loops": without("loops"),
    "loops of another kind": put("loops", value={"fit_loop": "anything"}),
    "loops of another update": put("loops", "fit_loop", STEPS, "optimizer", "step", "total", "completed", value=4),
    "no lengths of files": without("runlab", "events"),
    "no optimizer": without("optimizer_states"),
    "no schedule": without("lr_schedulers"),
    "an optimizer state of another shape": put("optimizer_states", 0, "state", 0, "exp_avg", value=torch.zeros(3)),
    "no data": without("NGramDataModule"),
    "no state of the minibatches": without("NGramDataModule", "minibatches"),
    "a state of the generator of another size": put(*GENERATOR, value=torch.zeros(3)),
    "a place in an epoch that is text": put("NGramDataModule", "minibatches", "position", value="1"),
    "another corpus": put("NGramDataModule", "corpus", "sha256", value="0" * 64),
    "a corpus that steers the terminal": put("NGramDataModule", "corpus", value={"sha256": "\x1b]0;x\x07"}),
}


def legacy_with_an_archive_behind(path, honest):
    """zipfile finds the archive, torch.load the pickle of the old format before it."""
    path.write_bytes(pickle.dumps(Calls(bytearray, 3_000_000_000), 2) + honest.read_bytes())


def two_directories(path, _):
    """Torch takes the directory where the end record says it is, zipfile the one right before the record."""

    def parts(content):
        file = io.BytesIO()
        torch.save(content, file)
        saved = file.getvalue()
        begin, end = saved.index(b"PK\x01\x02"), saved.index(b"PK\x06\x06")
        return saved[:begin], saved[begin:end], saved[-22:]

    forged, directory, end = parts({"x": Calls(bytearray, 3_000_000_000)})
    harmless, other_directory, _ = parts({"x": "y"})
    assert (len(forged), len(directory)) == (len(harmless), len(other_directory))
    path.write_bytes(forged + directory + harmless + other_directory + end)
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert b"bytearray" not in archive.read(archive.namelist()[0])


def a_number_that_becomes_memory(path, honest):
    content = torch.load(honest, weights_only=True)
    torch.save(content | {"more": Calls(bytearray, 3_000_000_000)}, path)


def a_tensor_without_storage(path, honest):
    content = torch.load(honest, weights_only=True)
    torch.save(content | {"more": Calls(torch.FloatTensor, 1_000_000_000)}, path)


def a_part_that_is_compressed(path, honest):
    with zipfile.ZipFile(honest) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))


@pytest.mark.parametrize(
    "forge",
    [
        legacy_with_an_archive_behind,
        two_directories,
        a_number_that_becomes_memory,
        a_tensor_without_storage,
        a_part_that_is_compressed,
    ],
)
def test_a_small_file_takes_no_memory(forge, honest, tmp_path):
    path = tmp_path / "forged.ckpt"
    forge(path, honest)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="cannot be read"):
            read_checkpoint(path)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("trap")
@pytest.mark.parametrize("name", EVERYWHERE)
def test_content_that_is_no_model_is_refused_by_the_loader_and_on_resuming(name, honest, refused, resumed, tmp_path):
    content = torch.load(honest, weights_only=True)
    EVERYWHERE[name](content)
    forged = tmp_path / "forged.ckpt"
    torch.save(content, forged)
    refused(forged)
    with pytest.raises(UserError):
        resumed(forged)


@pytest.mark.usefixtures("trap")
@pytest.mark.parametrize("name", IN_TRAIN)
def test_content_that_does_not_hold_together_cannot_be_resumed(name, honest, resumed, tmp_path):
    content = torch.load(honest, weights_only=True)
    IN_TRAIN[name](content)
    forged = tmp_path / "forged.ckpt"
    torch.save(content, forged)
    with pytest.raises(UserError) as error:
        resumed(forged)
    assert str(error.value).replace("\n", "").isprintable()


def test_an_honest_checkpoint_can_be_resumed(honest, resumed):
    assert resumed(honest).update == 5


@pytest.mark.parametrize(
    "parts",
    [{"model": "MLP", "engine": "eager"}, {"ngram_mlp": {"schema": 2, "version": "0.2.0"}}, {"runlab": {"schema": 99}}],
    ids=["0.1", "0.2", "a later one"],
)
def test_a_checkpoint_of_another_version_is_refused_with_what_to_do(parts, honest, tmp_path, fails):
    content = torch.load(honest, weights_only=True)
    del content["runlab"]
    content |= parts
    told = "was saved by another version or by plain Lightning, and cannot be read by this one; check out that version"
    old = tmp_path / "version_0" / "checkpoints" / "last.ckpt"
    old.parent.mkdir(parents=True)
    (tmp_path / "version_0" / "config.yaml").write_text("model: {class_path: MLP, init_args: {norm: {kind: batch}}}")
    torch.save(content, old)
    assert told in fails(sample.main, ["--ckpt_path", str(old)])
    assert told in fails(train.main, DEFAULT, ["--resume", str(tmp_path / "version_0")])


@pytest.mark.usefixtures("trap")
@pytest.mark.parametrize(
    "forge",
    [
        put("pytorch-lightning_version", value="0.0.1"),
        put("pytorch-lightning_version", value=["no", "version"]),
        put("callbacks", "trap.Trap", value={"state": 1}),
    ],
)
def test_what_is_not_used_may_be_anything(forge, honest, tmp_path):
    content = torch.load(honest, weights_only=True)
    forge(content)
    forged = tmp_path / "forged.ckpt"
    torch.save(content, forged)
    load_model(read_checkpoint(forged), LanguageModel)
    configuration = honest.parents[1] / "config.yaml"
    arguments = ["--ckpt_path", str(forged), "--config", str(configuration), "--trainer.max_steps", "8"]
    arguments += ["--runs_dir", str(tmp_path / "new")]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's, of a callback that is in the file alone
        train.main(DEFAULT, arguments)
    assert len(list(tmp_path.glob("new/default/*/metrics.json"))) == 1


def test_a_network_of_nan_is_loaded_and_told(honest, tmp_path, fails, capsys):
    content = torch.load(honest, weights_only=True)
    content["state_dict"]["network.output.linear.bias"][:] = float("nan")
    torch.save(content, tmp_path / "nan.ckpt")
    evaluate.main(["--ckpt_path", str(tmp_path / "nan.ckpt")])
    assert "nan" in capsys.readouterr().out
    assert "not finite" in fails(sample.main, ["--ckpt_path", str(tmp_path / "nan.ckpt")])


def test_sampled_words_are_escaped(honest, tmp_path, capsys):
    content = torch.load(honest, weights_only=True)
    vocabulary = content["hyper_parameters"]["vocabulary"]
    content["hyper_parameters"]["vocabulary"] = (
        "." + "".join(map(chr, range(1, 25))) + "\u202eж"[: len(vocabulary) - 25]
    )
    torch.save(content, tmp_path / "steering.ckpt")
    sample.main(["--ckpt_path", str(tmp_path / "steering.ckpt"), "--num", "200"])
    out = capsys.readouterr().out
    assert all(line.isprintable() for line in out.splitlines())
    assert r"\x07" in out
