"""Communication between two real processes: the only test of the seam that starts processes."""

import json
import multiprocessing
import time
from datetime import timedelta
from pathlib import Path

from torch import distributed

from clouds.d2 import comm, groups


def work(rank: int, folder: Path) -> None:
    groups.TIMEOUT = timedelta(seconds=2)
    store = distributed.FileStore(str(folder / "store"), 2)
    store.set(f"has started {rank}", "")
    store.wait(["has started 0", "has started 1"])
    groups.join_groups("gloo", store, rank, 2, 2)
    seen = {
        "ranks": [comm.get_rank(), comm.get_local_rank(), comm.is_main_process()],
        "sizes": [comm.get_world_size(), comm.get_local_size()],
        "all": comm.all_gather({"rank": rank}),
        "gathered": comm.gather(rank),
        "seed": comm.shared_random_seed(),
    }
    time.sleep(3 * rank)
    groups.wait_for_all()
    assert gloo_threads()
    failed = False
    if rank == 0:  # the other one is late
        began = time.monotonic()
        try:
            comm.synchronize()
        except RuntimeError:
            failed = time.monotonic() - began > 1
    else:
        time.sleep(3)
    groups.leave_groups()
    (folder / f"{rank}.json").write_text(json.dumps({**seen, "threads": gloo_threads(), "failed": failed}))


def gloo_threads() -> list[str]:
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]


def test_two_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, tmp_path), daemon=True) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first["ranks"] == [0, 0, True]
    assert second["ranks"] == [1, 1, False]
    assert first["sizes"] == second["sizes"] == [2, 2]
    assert first["all"] == second["all"] == [{"rank": 0}, {"rank": 1}]
    assert first["gathered"] == [0, 1]
    assert second["gathered"] == []
    assert first["seed"] == second["seed"]
    assert first["failed"], "a collective waits for the timeout, and `wait_for_all` for longer"
    assert first["threads"] == second["threads"] == [], "one that holds a tensor would abort the process at its end"
