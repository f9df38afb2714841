"""Communication between two real processes: the only test of the seam that starts processes."""

import json
from pathlib import Path

from clouds.d2 import comm, launch
from clouds.d2.groups import leave_groups


def work(folder: str) -> None:
    rank = comm.get_rank()
    seen = {
        "ranks": [comm.get_rank(), comm.get_local_rank(), comm.is_main_process()],
        "sizes": [comm.get_world_size(), comm.get_local_size()],
        "all": comm.all_gather({"rank": rank}),
        "gathered": comm.gather(rank),
        "seed": comm.shared_random_seed(),
    }
    comm.synchronize()
    assert gloo_threads()
    leave_groups()
    Path(folder, f"{rank}.json").write_text(json.dumps({**seen, "threads": gloo_threads()}))


def gloo_threads() -> list[str]:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def test_two_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # two processes, however many GPUs this machine has
    launch(work, 2, dist_url="auto", args=(str(tmp_path),))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["ranks"] == [0, 0, True]
    assert second["ranks"] == [1, 1, False]
    assert first["sizes"] == second["sizes"] == [2, 2]
    assert first["all"] == second["all"] == [{"rank": 0}, {"rank": 1}]
    assert first["gathered"] == [0, 1]
    assert second["gathered"] == []
    assert first["threads"] == second["threads"] == [], "one that holds a tensor would abort the process at its end"
    assert first["seed"] == second["seed"]
