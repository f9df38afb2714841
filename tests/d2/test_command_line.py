"""Flags, logging, launch in this process."""

import logging
import uuid

import pytest

from clouds.d2 import comm, default_argument_parser, setup_logger


def test_flags():
    parser = default_argument_parser()
    args = parser.parse_args([])
    assert (args.config_file, args.resume, args.eval_only) == ("", False, False)
    assert (args.num_gpus, args.num_machines, args.machine_rank, args.opts) == (1, 1, 0, [])
    assert args.dist_url.startswith("tcp://127.0.0.1:")
    port = int(args.dist_url.rpartition(":")[2])
    assert 49152 <= port < 65536  # the range for private use
    flags = "--config-file a.yaml --eval-only --num-gpus 8 --num-machines 2 --machine-rank 1 --resume"
    args = parser.parse_args([*flags.split(), "A.B", "1", "C", "d"])
    assert (args.config_file, args.resume, args.eval_only) == ("a.yaml", True, True)
    assert (args.num_gpus, args.num_machines, args.machine_rank, args.opts) == (8, 2, 1, ["A.B", "1", "C", "d"])
    assert "my own" in default_argument_parser("my own").format_help()


def test_flag_errors(capsys):
    with pytest.raises(SystemExit) as stop:
        default_argument_parser().parse_args(["--num-gpus", "many"])
    assert stop.value.code == 2
    assert "--num-gpus" in capsys.readouterr().err


def test_logger(capsys):
    name = f"seam_{uuid.uuid4().hex}"
    for _ in range(2):  # the second call must not double the lines
        logger = setup_logger(name=name)
    setup_logger(distributed_rank=1, name=f"{name}_1")
    logging.getLogger(f"{name}.part").info("hello")
    logging.getLogger(f"{name}_1").warning("from rank one")
    out = capsys.readouterr().out
    assert out.count("hello") == 1
    assert "from rank one" not in out
    assert logger.propagate is False


def test_levels_on_the_console(capsys):
    name = f"seam_{uuid.uuid4().hex}"
    setup_logger(name=name)
    logging.getLogger(f"{name}.part").info("fine")
    logging.getLogger(f"{name}.part").error("broken")
    fine, broken = capsys.readouterr().out.splitlines()
    assert f"{name}.part" in fine
    assert "ERROR" not in fine
    assert "ERROR" in broken


def test_one_process():
    assert (comm.get_world_size(), comm.get_local_size(), comm.get_local_rank()) == (1, 1, 0)
    assert comm.is_main_process()
    comm.synchronize()
    assert comm.all_gather("a") == comm.gather("a") == ["a"]
    assert 0 <= comm.shared_random_seed() < 2**31
