"""Two real processes that talk: the only test of the seam that starts any."""

import json
from pathlib import Path

import torch

from clouds.d2 import comm, launch


def work(folder: str) -> None:
    rank = comm.get_rank()
    losses = comm.reduce_dict({"b": torch.tensor(2.0 + rank), "a": torch.tensor(10.0 * rank)})
    seen = {
        "ranks": [comm.get_rank(), comm.get_local_rank(), comm.is_main_process()],
        "sizes": [comm.get_world_size(), comm.get_local_size()],
        "all": comm.all_gather({"rank": rank}),
        "gathered": comm.gather(rank, dst=1),
        "seed": comm.shared_random_seed(),
        "losses": {name: value.item() for name, value in losses.items()} if rank == 0 else None,
    }
    comm.synchronize()
    Path(folder, f"{rank}.json").write_text(json.dumps(seen))


def test_two_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # two processes, however many GPUs this machine has
    launch(work, 2, dist_url="auto", args=(str(tmp_path),))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["ranks"] == [0, 0, True]
    assert second["ranks"] == [1, 1, False]
    assert first["sizes"] == second["sizes"] == [2, 2]
    assert first["all"] == second["all"] == [{"rank": 0}, {"rank": 1}]
    assert first["gathered"] == []
    assert second["gathered"] == [0, 1]
    assert first["seed"] == second["seed"]
    assert first["losses"] == {"a": 5.0, "b": 2.5}
