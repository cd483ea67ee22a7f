"""What a trial changes in the user's modules is found, named and undone."""

import collections
import sys
import threading
import types

import pytest
import torch

from multistep._errors import CannotFuseError
from multistep._user_state import UserState
from tests.multistep.training import Classifier, assert_same, train

LIST, DICT, SET, DEQUE = [1], {"a": [2]}, {3}, collections.deque([4])
ORDERED, BYTES = collections.OrderedDict(a=1, b=2), bytearray(b"ab")
TENSOR = torch.ones(2, requires_grad=True)
GENERATOR = torch.Generator().manual_seed(0)


class Slotted:
    __slots__ = ("kept",)

    def __init__(self):
        self.kept = 1


class Owner:
    named = 1


SLOTTED, OBJECT = Slotted(), types.SimpleNamespace(inner=types.SimpleNamespace(n=1))


def enclosing():
    number = 1

    def bump():
        nonlocal number
        number += 1
        return number

    return bump


BUMP = enclosing()


def backward():
    TENSOR.sum().backward()


CHANGES = {
    "LIST": lambda: LIST.append(2),
    "DICT": lambda: DICT["a"].append(3),
    "SET": lambda: SET.add(4),
    "DEQUE": lambda: DEQUE.appendleft(5),
    "ORDERED": lambda: ORDERED.move_to_end("a"),
    "BYTES": lambda: BYTES.extend(b"c"),
    "TENSOR": backward,
    "TENSOR's values": lambda: TENSOR.data.add_(1),
    "GENERATOR": lambda: torch.rand(1, generator=GENERATOR),
    "SLOTTED": lambda: setattr(SLOTTED, "kept", 2),
    "Owner": lambda: setattr(Owner, "named", 2),
    "Owner's new": lambda: setattr(Owner, "other", 2),
    "OBJECT": lambda: setattr(OBJECT.inner, "n", 2),
    "BUMP": BUMP,
    "NEW": lambda: globals().update(NEW=1),
}


def everything():
    gradient = None if TENSOR.grad is None else TENSOR.grad.tolist()
    owned = {key: value for key, value in vars(Owner).items() if not key.startswith("__")}
    containers = [[*LIST], {"a": [*DICT["a"]]}, {*SET}, [*DEQUE], [*ORDERED.items()], bytes(BYTES)]
    others = [TENSOR.tolist(), gradient, GENERATOR.get_state().tolist(), SLOTTED.kept, owned, OBJECT.inner.n]
    return [*containers, *others, BUMP.__closure__[0].cell_contents, "NEW" in globals()]


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_named_and_undone(name):
    before = everything()

    def change():
        with UserState({}).kept():
            CHANGES[name]()
            assert everything() != before

    named = name.partition("'")[0]
    with pytest.raises(CannotFuseError, match=rf"^training_step changes tests.multistep.test_user_state.{named}"):
        change()
    assert everything() == before


def test_nothing_is_named_where_nothing_changes():
    with UserState({}).kept():
        sum(LIST)


def test_what_installed_packages_share_between_threads_is_left_alone():
    class Queue:
        __module__ = "torch.utils.queue"  # as if of a package

        def __init__(self):
            self.lock, self.items = threading.Lock(), [1]

    kept = types.SimpleNamespace(queue=Queue())
    state = UserState({"kept": kept})
    kept.queue.items.append(2)
    assert state.put_back() is None
    assert kept.queue.items == [1, 2]


def test_nothing_is_undone_while_another_thread_runs_the_users_code():
    go, done = threading.Event(), threading.Event()

    def wait():
        go.set()
        done.wait(10)

    thread = threading.Thread(target=wait)
    thread.start()
    go.wait(10)
    try:
        state = UserState({})
        LIST.append(2)
        assert state.put_back() is None
        assert LIST.pop() == 2
    finally:
        done.set()
        thread.join()


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Writes modules that the tests import, and forgets them afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    installed = tmp_path / "site-packages"
    installed.mkdir()
    monkeypatch.syspath_prepend(installed)
    names = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - names:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.usefixtures("always_compile")
def test_a_module_that_a_step_imports_at_first_is_imported_by_its_first_update(modules):
    (modules / "lately.py").write_text("CALLS = [0]")

    class Importing(Classifier):
        def training_step(self, batch, batch_idx):
            import lately

            lately.CALLS[0] += 1
            return super().training_step(batch, batch_idx) * (1 + lately.CALLS[0] % 2)

    ordinary = train(Importing, None)
    counted = sys.modules.pop("lately").CALLS
    found = train(Importing, "auto")
    assert found.multistep.engine_used == "eager"
    assert_same(found, ordinary, exactly=True)
    assert sys.modules["lately"].CALLS == counted == [60]


@pytest.mark.usefixtures("always_compile")
@pytest.mark.parametrize("place", ["site-packages/project.py", "sched.py"])
def test_an_installed_project_and_a_file_named_as_one_of_pythons_are_the_users(modules, place, monkeypatch):
    (modules / place).write_text(
        "from tests.multistep.training import Classifier\n"
        "CALLS = [0]\n"
        "def count():\n"
        "    CALLS[0] += 1\n"
        "    return 1 + CALLS[0] % 2\n"
        "class Model(Classifier):\n"
        "    def training_step(self, batch, batch_idx):\n"
        "        return super().training_step(batch, batch_idx) * count()\n"
    )
    name = place.rpartition("/")[2].removesuffix(".py")
    monkeypatch.delitem(sys.modules, name, raising=False)
    module = __import__(name)
    assert str(modules) in module.__file__
    ordinary = train(module.Model, None)
    assert module.CALLS == [60]
    module.CALLS[0] = 0
    found = train(module.Model, "auto")
    assert (found.multistep.engine_used, found.multistep.reason) == ("eager", f"training_step changes {name}.CALLS")
    assert_same(found, ordinary, exactly=True)
    assert module.CALLS == [60]


@pytest.mark.slow
@pytest.mark.usefixtures("always_compile")
def test_a_dataset_that_a_module_keeps_and_its_step_does_not_use_is_no_reason_to_fall_back():
    class Keeping(Classifier):
        def __init__(self):
            super().__init__()
            self.sets = {"train": torch.utils.data.TensorDataset(torch.zeros(4))}
            self.whole = self.sets["train"]

    found = train(Keeping, "auto")
    assert (found.multistep.engine_used, found.multistep.reason) == ("fused", None)
    assert_same(found, train(Keeping, None), exactly=False)
