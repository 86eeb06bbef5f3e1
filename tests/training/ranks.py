"""Several processes in one process group, as torchrun starts them."""

import os
import socket
from collections.abc import Callable
from typing import Any

import torch


def spawn_ranks(function: Callable[..., None], *arguments: Any, ranks: int = 2) -> None:
    """Call `function(rank, *arguments)` in new processes; raise an error of any of them here."""
    torch.multiprocessing.spawn(start_rank, args=(ranks, free_port(), function, arguments), nprocs=ranks)


def start_rank(rank: int, ranks: int, port: int, function: Callable[..., None], arguments: tuple) -> None:
    torch.set_num_threads(1)
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", str(port)
    os.environ["WORLD_SIZE"] = str(ranks)
    os.environ["RANK"] = os.environ["LOCAL_RANK"] = str(rank)
    function(rank, *arguments)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
