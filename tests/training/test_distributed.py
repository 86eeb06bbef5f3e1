import os

import pytest
import torch

from frcnn.errors import ConfigError
from frcnn.training import distributed
from frcnn.training.distributed import World, broadcast, done_by_main, gather, join_world, mean_over_ranks, own_device
from tests.training.ranks import spawn_ranks


def test_a_single_process_does_not_communicate():
    with join_world("cpu") as world:
        assert world == World(rank=0, size=1, device=torch.device("cpu"))
        assert gather("a", world) == ["a"]
        assert broadcast("a", world) == "a"
        assert mean_over_ranks(torch.tensor([1.0]), world).tolist() == [1.0]


@pytest.mark.parametrize("name", ["nonsense", "cuda:99"])
def test_a_missing_device(name):
    with pytest.raises(ConfigError, match=f"train.device.*{name}"):
        own_device(name)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_tests_its_own_gpu_only(monkeypatch, name):
    """A test of "cuda" would start CUDA on GPU 0 in every process."""
    tested = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(distributed, "find_device", lambda name, *, setting: tested.append(name))
    monkeypatch.setenv("LOCAL_RANK", "1")
    own_device(name)
    assert tested == ["cuda:1"]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="process 3 of this machine has no GPU: there are 2"):
        own_device(name)


def talk(rank: int, folder) -> None:
    with join_world("cpu") as world:
        gathered = gather({"rank": rank}, world)
        sent = broadcast("from 0" if rank == 0 else None, world)
        mean = mean_over_ranks(torch.tensor([float(rank)]), world).item()
        (folder / str(rank)).write_text(repr((world.rank, world.size, gathered, sent, mean)))
    assert not torch.distributed.is_initialized()


def test_two_ranks_gather_broadcast_and_average(tmp_path):
    spawn_ranks(talk, tmp_path)
    assert eval((tmp_path / "0").read_text()) == (0, 2, [{"rank": 0}, {"rank": 1}], "from 0", 0.5)
    assert eval((tmp_path / "1").read_text()) == (1, 2, [], "from 0", 0.5)
    assert "RANK" not in os.environ


def fail_on_main(rank: int, folder) -> None:
    def refuse() -> None:
        assert rank == 0
        raise ConfigError("already holds a run")

    with join_world("cpu") as world:
        assert done_by_main(lambda: rank, world) == 0
        try:
            done_by_main(refuse, world)
        except (ConfigError, SystemExit) as error:
            (folder / str(rank)).write_text(repr(error))


def test_a_user_error_on_rank_0_ends_all_ranks_with_one_message(tmp_path):
    spawn_ranks(fail_on_main, tmp_path)
    assert (tmp_path / "0").read_text() == "ConfigError('already holds a run')"
    assert (tmp_path / "1").read_text() == "SystemExit(2)"
