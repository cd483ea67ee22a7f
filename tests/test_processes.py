import pytest

from ngram_mlp.errors import UserError
from ngram_mlp.processes import raise_if_another_has_ended


def raised_in(module, kind):
    """An error that a function of a module of this name raised."""
    try:
        exec(f"raise {kind}('Connection reset by peer')", {"__name__": module})
    except Exception as error:
        return error


def test_an_exchange_that_fails_within_lightning_is_one_line():
    with pytest.raises(UserError, match="another process of this run has ended"):
        raise_if_another_has_ended(raised_in("torch.distributed.distributed_c10d", "RuntimeError"))


@pytest.mark.parametrize(
    ("module", "kind"), [("torch.nn.functional", "RuntimeError"), ("torch.distributed.distributed_c10d", "ValueError")]
)
def test_other_errors_stay_what_they_are(module, kind):
    raise_if_another_has_ended(raised_in(module, kind))
