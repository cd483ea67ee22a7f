"""The compiled engine: what is kept, what is drawn, and what is noticed."""

import os
import signal
import stat
import subprocess
import sys
import threading
from contextlib import nullcontext
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Callback
from pytorch_lightning.callbacks import EarlyStopping, LambdaCallback
from torch.utils.data import DataLoader, TensorDataset

from multistep import Calls, EngineMismatchError, EngineUnavailableError, _choice, _fused
from multistep._calls import is_others
from multistep._fused import FusedEngine
from multistep._hooks import reads_gradients
from multistep.compiled import cache, inductor, program
from multistep.compiled.inductor import fast_tanh
from tests.multistep import training
from tests.multistep.odd import BufferInPlace, Dropout, ReadsAGlobal
from tests.multistep.training import CLASSES, SIZE, Classifier, assert_same, examples, loader, train

LONG = partial(loader, 200 * SIZE)


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("multistep.compiled.codegen.precompiled", lambda *_: None)  # which takes seconds
    monkeypatch.setenv("MULTISTEP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr("multistep._callback.rank_zero_info", lines.append)
    return lines


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_dropout_draws_the_same_whether_the_code_is_compiled_or_kept(said, monkeypatch):
    monkeypatch.setattr(FusedEngine, "pays_from", lambda engine: 1_000)
    cold, warm = train(Dropout, "auto", max_epochs=100), train(Dropout, "auto", max_epochs=100)
    assert ["compiled in" in line or "loaded compiled code" in line for line in said].count(True) == 2
    assert "loaded compiled code from the cache" in said[-1]
    assert_same(warm, cold, exactly=True)


def test_the_bits_do_not_depend_on_where_chunks_end(monkeypatch):
    whole = train(BufferInPlace, "fused")
    monkeypatch.setattr(_choice, "longest_chunk", lambda *_: 3)
    assert_same(train(BufferInPlace, "fused"), whole, exactly=True)


@pytest.mark.usefixtures("own_cache")
def test_auto_weighs_what_compiling_costs_against_the_updates_to_come():
    found = train(Classifier, "auto")
    # The graph has 11 nodes: log-softmax, its loss, tanh, and 4 for each layer: (200,000 + 4 * 5,500) / (25 + 11 + 4).
    assert found.multistep.engine_used == "eager"
    assert found.multistep.reason == "compiling pays off from 5,550 updates; 59 remain"


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_auto_decides_the_same_whatever_was_compiled_before():
    reasons = set()
    for engine in ("auto", "fused", "auto"):
        found = train(Classifier, engine)
        reasons.add(found.multistep.reason)
    assert len(reasons - {None}) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_large_minibatches_do_not_make_compiling_pay_for_few_updates():
    found = train(Classifier, "auto", DataLoader(examples(100_000), batch_size=50_000), max_epochs=3)
    assert found.multistep.reason == "5 updates are too few for compiling to pay off"


@pytest.mark.usefixtures("said")
def test_code_is_kept_in_a_private_folder_and_loaded_by_the_next_process(own_cache):
    train(Classifier, "fused")
    assert stat.S_IMODE(own_cache.stat().st_mode) == 0o700
    (kept,) = [path for path in own_cache.iterdir() if path.is_dir()]
    script = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.multistep.training import Classifier, train\n"
        "print(train(Classifier, 'fused').multistep.engine_used)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.endswith("fused\n"), done.stderr
    assert "loaded compiled code from the cache" in done.stderr
    assert [path.name for path in own_cache.iterdir() if path.is_dir()] == [kept.name]


@pytest.mark.slow
@pytest.mark.parametrize("harm", ["cut short", "another's", "open to others"])
def test_kept_code_that_cannot_be_trusted_is_compiled_anew(own_cache, said, harm):
    train(Classifier, "fused")
    (kept,) = [path for path in own_cache.iterdir() if path.is_dir()]
    if harm == "cut short":
        (kept / cache.PLAN).write_bytes((kept / cache.PLAN).read_bytes()[:100])
    elif harm == "another's":
        next(kept.glob("*.so")).write_bytes(b"no library")
    else:
        kept.chmod(0o777)
    said.clear()
    train(Classifier, "fused")
    assert "engine fused: compiling ..." in said


@pytest.mark.slow
def test_where_code_cannot_be_kept_one_line_says_so(own_cache, said):
    own_cache.mkdir()
    own_cache.chmod(0o777)
    assert train(Classifier, "fused").multistep.engine_used == "fused"
    assert any("could not cache the compiled code for the next run" in line for line in said)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.usefixtures("always_compile")
def test_without_a_compiler_training_is_eager_and_one_line_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        found = train(Classifier, "auto")
    assert found.multistep.engine_used == "eager"
    assert "\n" not in found.multistep.reason
    assert_same(found, train(Classifier, None), exactly=True)


@pytest.mark.slow
def test_a_global_value_that_another_process_has_otherwise_is_not_served_from_the_cache(own_cache, monkeypatch):
    train(ReadsAGlobal, "fused")
    monkeypatch.setattr("tests.multistep.odd.SCALE", 0.5)
    assert_same(train(ReadsAGlobal, "fused"), train(ReadsAGlobal, None), exactly=False)
    assert len([path for path in own_cache.iterdir() if path.is_dir()]) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_kept_code_that_computes_something_else_is_not_used(said, monkeypatch):
    """As if a key missed something: the code of another network stands under it."""
    monkeypatch.setattr(cache, "key_of", lambda _: "key")
    train(ReadsAGlobal, "fused")
    monkeypatch.setattr("tests.multistep.odd.SCALE", 0.5)
    assert_same(train(ReadsAGlobal, "fused"), train(ReadsAGlobal, None), exactly=False)
    assert said.count("engine fused: compiling ...") == 2


def test_a_difference_while_training_ends_it_with_the_numbers_of_the_updates(monkeypatch):
    monkeypatch.setattr(_choice, "CHECKED_EVERY", 50)
    original = program.Program.run

    class Spoilt(program.Program):
        calls = 0

        def run(self, inputs, count):
            original(self, inputs, count)
            type(self).calls += 1
            if type(self).calls > 4:
                inputs[0].add_(0.01)

    monkeypatch.setattr(_fused, "Program", Spoilt)
    monkeypatch.setattr(cache, "load", lambda key: None)
    monkeypatch.setattr(_choice, "longest_chunk", lambda *_: 20)
    with pytest.raises(
        EngineMismatchError, match=r"compiled code differs from training_step in .*; updates 2 to \d+ are in doubt"
    ):
        train(Classifier, "fused", LONG, max_epochs=1)


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_python_that_is_changed_while_training_is_noticed_or_refused():
    class Halving(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                OPTIONS["scale"] = 0.5

    from tests.multistep.odd import OPTIONS

    try:
        found = train(ReadsAGlobal, "fused", callbacks=[Halving()])
        OPTIONS["scale"] = 1.0
        assert_same(found, train(ReadsAGlobal, None, callbacks=[Halving()]), exactly=False)
    finally:
        OPTIONS["scale"] = 1.0


def test_an_interrupt_finds_weights_and_counters_that_agree(tmp_path):
    """Ctrl-C while native code runs: what is saved then is resumed to the bits of a run without it."""

    class Interrupting(Callback):
        def on_exception(self, trainer, pl_module, exception):
            trainer.save_checkpoint(tmp_path / "cut.ckpt")

    original = program.Program.run

    def run(self, inputs, count):
        original(self, inputs, count)
        if count > 10:
            os.kill(os.getpid(), signal.SIGINT)

    whole = train(Classifier, "fused", LONG, max_epochs=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program.Program, "run", run)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train(Classifier, "fused", LONG, [Interrupting()], max_epochs=1)
    saved = torch.load(tmp_path / "cut.ckpt", weights_only=True)
    steps = saved["global_step"]
    progress = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["current"]
    assert 10 < steps < 200
    assert progress["completed"] == steps
    until = train(Classifier, "fused", LONG, max_epochs=-1, max_steps=steps)
    for name, value in until.module.state_dict().items():
        torch.testing.assert_close(saved["state_dict"][name], value, rtol=0, atol=0)
    assert whole.trainer.global_step == 200


class Failing(Classifier):
    """Raises in the one minibatch that holds a class which is not there."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return loss + torch.ones(CLASSES)[batch[1] + 0].sum()


@pytest.mark.parametrize("engine", ["eager", "auto"])
@pytest.mark.usefixtures("always_compile")
def test_an_error_in_a_step_comes_at_its_update_and_finds_the_state_before_it(engine, tmp_path):
    class Saving(Callback):
        def on_exception(self, trainer, pl_module, exception):
            trainer.save_checkpoint(tmp_path / f"{name}.ckpt")

    def data():
        x, y = examples().tensors
        y[13 * SIZE + 3] = 17
        return DataLoader(TensorDataset(x, y), SIZE)

    for name in ("ordinary", engine):
        with pytest.raises(IndexError):
            train(Failing, None if name == "ordinary" else name, data, [Saving()])
    ordinary, found = (torch.load(tmp_path / f"{name}.ckpt", weights_only=True) for name in ("ordinary", engine))
    assert found["global_step"] == ordinary["global_step"] == 13
    assert (
        found["loops"]["fit_loop"]["epoch_loop.batch_progress"]
        == ordinary["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    )
    for name, value in ordinary["state_dict"].items():
        torch.testing.assert_close(found["state_dict"][name], value)


class Refusing(Classifier):
    """Its loss takes values between 0 and 1, or classes, alone."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss

    def training_step(self, batch, batch_idx):
        return self.loss(self(batch[0]), batch[1], batch[2])


def binary(outputs, _classes, shares):
    return F.binary_cross_entropy(torch.sigmoid(outputs), shares[:, None].expand_as(outputs))


def one_hot(outputs, classes, _shares):
    return F.mse_loss(outputs, F.one_hot(classes, CLASSES).float())


def scattered(outputs, classes, _shares):
    return F.mse_loss(outputs, torch.zeros_like(outputs).scatter(1, classes[:, None], 1.0))


def added(outputs, classes, _shares):
    return torch.zeros(CLASSES, CLASSES).index_add(0, classes, outputs).square().mean()


def copied(outputs, classes, _shares):
    return torch.zeros(CLASSES, CLASSES).index_copy(0, classes[3:4], outputs[3:4]).square().mean()


@pytest.mark.usefixtures("always_compile")
@pytest.mark.parametrize(
    "loss", [added, *(pytest.param(loss, marks=pytest.mark.slow) for loss in (one_hot, binary, scattered, copied))]
)
def test_a_value_that_torch_refuses_is_refused_by_compiled_code(loss):
    def data():
        x, y = examples().tensors
        y[13 * SIZE + 3] = -1
        shares = torch.linspace(0, 1, len(x))
        shares[13 * SIZE + 3] = 1.5
        return DataLoader(TensorDataset(x, y, shares), SIZE)

    messages = []
    for engine in (None, "auto"):
        with pytest.raises((RuntimeError, IndexError)) as raised:
            train(partial(Refusing, loss), engine, data)
        messages.append(str(raised.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_data_that_fail_do_so_after_the_updates_before_them(engine):
    class Broken(TensorDataset):
        def __getitem__(self, index):
            if index == 13 * SIZE + 3:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    found = []
    for name in (None, engine):
        made = []
        with pytest.raises(OSError, match="the disk is gone"):
            train(
                lambda made=made: made.append(Classifier()) or made[0],
                name,
                DataLoader(Broken(*examples().tensors), SIZE),
            )
        found.append(made[0])
    assert found[1].global_step == found[0].global_step == 13
    for one, other in zip(found[1].parameters(), found[0].parameters(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_callback_that_reads_gradients_finds_those_of_ordinary_training(accumulate):
    class Norms(Callback):
        update_calls = Calls(after=(5,))

        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.global_step % 5 == 0 and (batch_idx + 1) % accumulate == 0:
                self.seen.append([float(parameter.grad.norm()) for parameter in pl_module.parameters()])

    ordinary, found = Norms(), Norms()
    options = {"accumulate_grad_batches": accumulate, "gradient_clip_val": 0.3}
    train(Dropout, None, callbacks=[ordinary], **options)
    with_norms = train(Dropout, "fused", callbacks=[found], **options)
    assert found.seen == [pytest.approx(norms, rel=1e-3) for norms in ordinary.seen]
    without = train(Dropout, "fused", **options).states
    assert all(torch.equal(value, without[name]) for name, value in with_norms.states.items())


class Net(torch.nn.Module):
    def size(self):
        return sum(parameter.grad.norm() for parameter in self.parameters())


class OfNet(Classifier):
    def __init__(self):
        super().__init__()
        self.part = Net()

    def on_train_epoch_end(self):
        self.part.size()

    def report(self):
        return self.net[0].weight.grad


class Reporting(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.report()


class ByAModule(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        training.sizes_of(pl_module)


class Harmless(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        pl_module.log("weights", pl_module.net[0].weight.norm())


def test_what_reads_gradients_is_found_wherever_a_hook_finds_it(monkeypatch):
    """A callback's function, a module's method, a submodule's, or a function of an imported module."""
    monkeypatch.setattr(training, "sizes_of", lambda module: [p.grad for p in module.parameters()], raising=False)
    plain, module = Classifier(), OfNet()
    given = LambdaCallback(on_train_epoch_end=lambda trainer, pl_module: pl_module.net[0].weight.grad)
    for instance, owner in ((module, module), (Reporting(), module), (ByAModule(), plain), (given, plain)):
        assert reads_gradients([instance], owner), instance
        assert is_others(instance) or instance is module
    for instance, owner in ((plain, plain), (Harmless(), plain), (Harmless(), module), (EarlyStopping("a"), plain)):
        assert not reads_gradients([instance], owner), instance


def test_compiled_tanh_is_accurate_to_four_units_and_reaches_1():
    x = torch.linspace(-20, 20, 100_001)
    compiled = torch.compile(fast_tanh, options={"cpp.enable_floating_point_contract_flag": "off"})
    for tanh in (fast_tanh, compiled):
        y = tanh(x)
        assert (y.double() - x.double().tanh()).abs().max() < 8 * 2**-24
        assert torch.equal(y[x.abs() > 9.1], x[x.abs() > 9.1].sign())
    odd = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0])
    torch.testing.assert_close(compiled(odd), odd.tanh(), equal_nan=True)


@pytest.mark.slow
def test_a_variable_of_the_environment_that_is_changed_while_training_is_noticed(monkeypatch):
    class Reading(Classifier):
        def training_step(self, batch, batch_idx):
            return float(os.environ["SCALE"]) * super().training_step(batch, batch_idx)

    class Halving(Callback):
        def on_train_epoch_start(self, trainer, pl_module):
            monkeypatch.setenv("SCALE", "1.0" if trainer.current_epoch == 0 else "0.5")

    monkeypatch.setenv("SCALE", "1.0")
    found = train(Reading, "fused", callbacks=[Halving()])
    monkeypatch.setenv("SCALE", "1.0")
    assert_same(found, train(Reading, None, callbacks=[Halving()]), exactly=False)


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_what_other_threads_print_is_not_the_steps(engine, capsys):
    class Talking(threading.Thread):
        def __init__(self):
            super().__init__(daemon=True)
            self.ended = threading.Event()

        def run(self):
            while not self.ended.wait(0.001):
                print("talking")

    thread = Talking()
    thread.start()
    try:
        assert train(Classifier, engine).multistep.engine_used == engine
    finally:
        thread.ended.set()
        thread.join()
    assert "talking" in capsys.readouterr().out


class Widening:
    """Minibatches that are wider from the second epoch on, as after a search for the batch size."""

    def __init__(self):
        self.epochs = 0

    def __len__(self):
        return 10

    def __iter__(self):
        self.epochs += 1
        x, y = examples().tensors
        size = SIZE if self.epochs <= 3 else 2 * SIZE  # Lightning asks once more before the first
        return iter([(x[i : i + size], y[i : i + size]) for i in range(10)])


@pytest.mark.slow
@pytest.mark.usefixtures("own_cache")
def test_minibatches_of_another_size_are_compiled_for_where_they_stay(said):
    found = train(Classifier, "fused", Widening(), max_epochs=10)
    assert_same(found, train(Classifier, None, Widening(), max_epochs=10), exactly=False)
    assert said.count("engine fused: compiling ...") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("said")
def test_a_private_folder_behind_a_link_is_a_cache(own_cache, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    own_cache.symlink_to(tmp_path / "elsewhere")
    train(Classifier, "fused")
    assert len([*(tmp_path / "elsewhere").glob("*/plan.pt")]) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("always_compile")
def test_a_handler_of_a_signal_sees_accounts_that_agree():
    seen = []

    def scheduled(parameters):
        return torch.optim.Adam(parameters, lr=1e-2)

    class Scheduled(Classifier):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            schedule = torch.optim.lr_scheduler.LinearLR(optimizer, total_iters=10_000)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

        def on_train_start(self):
            signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)

        def on_train_end(self):
            signal.setitimer(signal.ITIMER_REAL, 0)

    module = Scheduled(scheduled)

    def look(*_):
        state = module.optimizers(use_pl_optimizer=False).state
        steps = {int(kept["step"]) for kept in state.values() if kept}  # Adam's first step fills it one by one
        seen.append({*steps, module.lr_schedulers().last_epoch})

    before = signal.signal(signal.SIGALRM, look)
    try:
        found = train(lambda: module, "fused", max_epochs=40)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert found.multistep.engine_used == "fused"
    # Between a step and its schedule ordinary training is seen as well: one update apart.
    assert seen
    assert all(max(numbers) - min(numbers) <= 1 for numbers in seen if len(numbers) > 1)


@pytest.mark.usefixtures("own_cache")
def test_a_signal_to_end_gives_up_a_compilation_and_the_next_update_begins_it_again(monkeypatch):
    """What the handler does comes after that, and finds the module as it is between two updates."""
    builds, handled, before = [], [], []
    original = inductor.build

    def build(*args):
        builds.append(None)
        if len(builds) == 1:
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("the compilation went on")
        return original(*args)

    class Handling(Classifier):
        def on_train_start(self):
            def handle(*_):
                handled.append((self.trainer.global_step, len(builds)))

            before.append(signal.signal(signal.SIGTERM, handle))

    monkeypatch.setattr(inductor, "build", build)
    try:
        found = train(Handling, "fused", LONG, max_epochs=1)
    finally:
        signal.signal(signal.SIGTERM, before[0])
    assert found.multistep.engine_used == "fused"
    assert handled == [(1, 1)]
    assert len(builds) == 2
    assert_same(found, train(Classifier, "lightning", LONG, max_epochs=1), exactly=False)


class Pooled(Classifier):
    """A convolution, batch norm and pooling, of whose gradients in 16 bits torch 2.13 may write wrong code."""

    def __init__(self):
        super().__init__(lambda parameters: torch.optim.SGD(parameters, lr=1e-3))
        inner = [torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.BatchNorm2d(4), torch.nn.MaxPool2d(2)]
        self.net = torch.nn.Sequential(*inner, torch.nn.Flatten(), torch.nn.Linear(36, CLASSES))


def pooled(engine):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(20 * SIZE, 1, 8, 8, generator=generator)
    data = DataLoader(TensorDataset(images, torch.randint(0, CLASSES, (20 * SIZE,), generator=generator)), SIZE)
    torch.manual_seed(1)
    before = Pooled().state_dict()
    after = train(Pooled, engine, data, precision="bf16-mixed").module.state_dict()
    return {name: value - before[name] for name, value in after.items() if value.is_floating_point()}


@pytest.mark.slow
def test_changes_in_16_bits_are_those_of_ordinary_training():
    expected = pooled("lightning")
    for name, change in pooled("fused").items():
        assert (change - expected[name]).norm() < 0.1 * expected[name].norm(), name


@pytest.mark.usefixtures("own_cache")
def test_a_scheduler_that_forgets_a_dependency_is_noticed_before_it_is_trusted(monkeypatch):
    monkeypatch.setattr(inductor, "_mended", nullcontext)  # gradients of maximum pooling in 16 bits
    with pytest.raises(EngineUnavailableError, match="compiled code differs from training_step in"):
        pooled("fused")


class Shuffling(Classifier):
    def training_step(self, batch, batch_idx):
        return super().training_step([batch[0][torch.randperm(len(batch[0]))], batch[1]], batch_idx)


@pytest.mark.slow
@pytest.mark.usefixtures("always_compile")
def test_a_step_that_shuffles_is_compiled_although_others_have_compiled_before():
    with torch._inductor.config.patch(fx_graph_cache=False):
        torch.compile(torch.sin)(torch.zeros(3))  # torch registers patterns that such a step does not survive
    found = train(Shuffling, "auto")
    assert (found.multistep.engine_used, found.multistep.reason) == ("fused", None)
    assert_same(found, train(Shuffling, None), exactly=False)
