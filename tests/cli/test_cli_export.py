"""``eproxy export``: files, the training script, and refusals."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from eproxy_jax.cli import main

ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|"
DISCONNECTED = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def test_a_file_is_written_and_replaced(tmp_path, capsys):
    out = tmp_path / "net.py"
    arguments = ["export", "--space", "nasbench201", "--arch", ARCH, "--out", str(out)]
    assert main.main(arguments) == 0
    assert "class Network" in out.read_text()
    assert main.main([*arguments, "--format", "torch"]) == 0
    assert "import torch" in out.read_text()
    assert main.main([*arguments[:-2], "--format", "strings"]) == 0
    printed = capsys.readouterr().out
    assert json.loads(printed[printed.index("{") :])["notations"]["NASLib codes"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--arch", "|nor_conv_3x3|"], "not a NAS-Bench-201"),
        (["--arch", DISCONNECTED], "does not depend on the image"),
        (["--arch", ARCH, "--train-example"], "--train-example trains a Flax file"),
        (["--arch", ARCH, "--out", "FOLDER/train.py", "--train-example"], "the training script has this name"),
        (["--arch", ARCH, "--out", "FOLDER/none/net.py"], "there is no folder"),
        (["--arch", ARCH, "--out", "FOLDER/mine.py"], "not written by eproxy export"),
        (["--arch", ARCH, "--config.x=1"], "overrides need --config"),
    ],
)  # fmt: skip
def test_refusals_are_one_line(flags, message, tmp_path, capsys):
    (tmp_path / "mine.py").write_text("x = 1\n")
    flags = [flag.replace("FOLDER", str(tmp_path)) for flag in flags]
    assert main.main(["export", "--space", "nasbench201", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (tmp_path / "mine.py").read_text() == "x = 1\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.py"]


def test_the_training_script_runs_and_resumes(tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(arg=None):\n"
        "    from eproxy_jax.cli.config import default_config\n"
        "    config = default_config('transnas_macro')\n"
        "    with config.unlocked():\n"
        "        config.sizes = ConfigDict({'stem_channels': 2})\n"
        "    return config\n"
    )
    out = tmp_path / "net.py"
    arguments = ["export", "--config", str(config), "--arch", "64-1123-basic", "--out", str(out), "--num-classes", "2"]
    assert main.main([*arguments, "--image-size", "8", "--train-example"]) == 0
    x = np.random.default_rng(0).normal(size=(10, 8, 8, 3)).astype(np.float32)
    np.savez(tmp_path / "images.npz", x=x, y=np.arange(10) % 2)
    flags = ["--data", "images.npz", "--batch-size", "4", "--epochs", "2"]

    def train(*more):
        environment = {**os.environ, "PYTHONPATH": ""}  # nothing of this package is needed
        command = [sys.executable, str(tmp_path / "train.py"), *flags, *more]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout

    assert "stopped at step 2" in train("--max-steps", "2")
    resumed = train("--max-steps", "1")
    assert "goes on from step 2" in resumed
    assert "stopped at step 3" in resumed
    assert (tmp_path / "checkpoint.msgpack").exists()
