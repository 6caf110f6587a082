"""Several nodes, simulated on one machine by Ray itself: one dies in mid-call; none is there; none has room."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewards.errors import TautError
from rollout import cluster as clusters
from rollout.choose import make_engine
from rollout.engine import EngineConfig
from rollout.memory import parameters
from tests import tiny
from tests.runs import ray_head
from trainers.learner import make_learner, start_of
from trainers.settings import load_config

ROOT = Path(__file__).parents[1]


def node_dies(folder: str) -> None:
    """Three nodes of one core each beside a head without any; two workers, and one node after the other goes."""
    import ray
    from ray.cluster_utils import Cluster

    store: dict[str, Any] = {"object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **store})
    nodes = [cluster.add_node(num_cpus=1, **store) for _ in range(3)]
    model = tiny.qwen3(Path(folder) / "model", 0)
    config = EngineConfig(engine="transformers", temperature=0.8, batch_size=16, workers=2)
    pool = make_engine(config, str(model), tiny.STOPS, clusters.ClusterConfig(address=cluster.address))

    def kill(node: str) -> threading.Timer:
        doomed = next(n for n in nodes if n.node_id == node)
        killer = threading.Timer(0.1, cluster.remove_node, (doomed,), {"allow_graceful": False})
        killer.start()
        return killer

    try:
        facts = pool.facts  # type: ignore[attr-defined]
        before = facts[0]["node"]
        assert len({f["node"] for f in facts}) == 2
        asked = tiny.prompts(12, 4, (20, 300))
        want = pool.generate(asked)
        killer = kill(before)
        events, until = [], time.monotonic() + 60
        while not events and time.monotonic() < until:
            assert pool.generate(asked) == want  # bit for bit, from another node
            events = pool.take_events()
        killer.join()
        (event,) = events
        assert event["worker"] == 0 and facts[0]["node"] in {n.node_id for n in nodes} - {before}

        clusters.PLACE_S = 10.0
        killer, start = kill(facts[1]["node"]), time.monotonic()
        with pytest.raises(TautError, match=r"rollout.workers=2: no room for one of them .* 1 cores"):
            while time.monotonic() < start + 60:
                pool.generate(asked)
        killer.join()
        assert time.monotonic() - start < 60
    finally:
        pool.close()
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_node_dies_in_mid_call(tmp_path: Path) -> None:
    """In a process of its own: this kind of cluster asks for no token, and a process that has shown one is not let in."""
    code = f"from tests.test_cluster import node_dies; node_dies({str(tmp_path)!r})"
    env = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_where_no_cluster_answers() -> None:
    start = time.monotonic()
    with pytest.raises(TautError, match=r"cluster=127\.0\.0\.1:1: no Ray cluster answers there"):
        clusters.connect(1, clusters.ClusterConfig(address="127.0.0.1:1"))
    assert time.monotonic() - start < 60


@pytest.mark.slow
@pytest.mark.parametrize("says", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=["mute", "http"])
def test_where_something_else_listens(says: bytes) -> None:
    """A port in use by another service: Ray by itself tries for more than four minutes."""
    start = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"

        def answer() -> None:
            with contextlib.suppress(OSError):  # until it is closed
                while True:
                    line, _ = other.accept()
                    line.sendall(says)
                    held.append(line)

        held: list[socket.socket] = []
        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(TautError, match=rf"cluster={address}: no Ray cluster answers there \((timed|something)"):
            clusters.connect(1, clusters.ClusterConfig(address=address))
        for line in held:
            line.close()
    assert time.monotonic() - start < 60


@pytest.mark.slow
def test_a_head_of_another_version(tmp_path: Path) -> None:
    import ray

    start = time.monotonic()
    with ray_head(tmp_path, version="2.0.9") as (address, _):
        told = rf"cluster={address}: Version mismatch: .* Ray: 2\.0\.9 .* Ray: {ray.__version__} .*install the same versions"
        with pytest.raises(TautError, match=told):
            clusters.connect(1, clusters.ClusterConfig(address=address))
    assert time.monotonic() - start < 60 and not ray.is_initialized()


@pytest.mark.slow
def test_a_port_of_ray_that_is_not_its_head(tmp_path: Path) -> None:
    """Its client's server, which `ray start` also names; and the head beside it is joined."""
    import ray

    start = time.monotonic()
    with ray_head(tmp_path) as (address, _):
        try:
            with pytest.raises(TautError, match=r"cluster=127\.0\.0\.1:10001: no Ray cluster answers there"):
                clusters.connect(1, clusters.ClusterConfig(address="127.0.0.1:10001"))
            assert clusters.connect(1, clusters.ClusterConfig(address=address))
        finally:
            ray.shutdown()
    assert time.monotonic() - start < 120


@pytest.mark.slow
def test_a_cluster_that_somebody_started_here_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray by itself would join it, and then complain of the cores that were asked for."""
    import ray

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as short,
        ray_head(tmp_path) as (address, _),
    ):
        monkeypatch.setenv("RAY_TMPDIR", short)  # where Ray looks for what `ray start` has left
        (Path(short) / "ray").mkdir()
        (Path(short) / "ray/ray_current_cluster").write_text(address)
        try:
            assert clusters.connect(3)
            assert ray.get_runtime_context().gcs_address != address and ray.cluster_resources()["CPU"] >= 3
        finally:
            ray.shutdown()


@pytest.mark.slow
def test_gpus_that_are_not_there_and_places_of_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray counts GPUs as it is told: the places are real, the GPUs are numbers."""
    import ray

    start, config = time.monotonic(), load_config(["cluster.rollout.gpus=6", "cluster.trainer.gpus=2"])
    monkeypatch.setenv("RAY_ADDRESS", "local")  # as a sweep's runs on a cluster have it
    cores = max(8, len(os.sched_getaffinity(0)))
    asked = (
        rf"cluster\.rollout\.gpus=6, cluster\.trainer\.gpus=2: the Ray cluster has 0 GPUs and {cores} cores on 1 nodes"
    )
    with pytest.raises(TautError, match=asked):
        clusters.connect(8, config.cluster)
    assert time.monotonic() - start < 60 and not ray.is_initialized()

    ray.init(num_cpus=4, num_gpus=5, include_dashboard=False, log_to_driver=False)
    try:
        assert clusters.gpus_each(2, 2) == 2
        with pytest.raises(
            TautError, match=r"rollout\.workers=3: each takes a core and 2 GPUs, .* 4 cores and 5 GPUs; .*=2 or less"
        ):
            clusters.gpus_each(3, 2)
        group = clusters.reserve(2, 2)
        ray.get(group.ready(), timeout=30)
        assert group.bundle_specs == [{"CPU": 1.0, "GPU": 2.0}] * 2
        monkeypatch.setattr(clusters, "PLACE_S", 3.0)
        ranks = clusters.reserve(2, 1)
        time.sleep(2)
        assert "trainer.ranks=2: no room for one of them" in clusters.no_room(ranks, 2, 1, what="trainer.ranks")
    finally:
        ray.shutdown()


def test_gpus_stand_for_workers_and_ranks() -> None:
    config = load_config(
        ["cluster={address: auto, rollout: {gpus: 6}, trainer: {gpus: 2}}", "rollout.tensor_parallel=2"]
    )
    assert (config.rollout.workers, config.trainer.ranks, config.cluster.address) == (3, 2, "auto")
    for more, told in (
        ("rollout.tensor_parallel=4", "that is 1.5 workers"),
        ("rollout.workers=4", r"rollout\.workers is 4"),
        ("trainer.ranks=3", r"trainer\.ranks is 3"),
        ("cluster.trainer.gpu=1", "gpus"),
    ):
        with pytest.raises(TautError, match=told):
            load_config(["cluster.rollout.gpus=6", "cluster.trainer.gpus=2", more])


def test_a_model_that_does_not_fit_is_named_with_what_it_needs(tmp_path: Path) -> None:
    """A file of weights as large as it says, but sparse: nothing of it is read."""
    big = tmp_path / "big"
    tiny.qwen3(big, 0)
    count = 10**12
    header = json.dumps({"w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}).encode()
    with (big / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + 4 * count)
    assert parameters(big) == count
    start = time.monotonic()
    with pytest.raises(
        TautError, match=r"rollout: .*big needs 372[56]\.\d GiB \(372[56]\.\d GiB of weights in float32.*GiB free; set"
    ):
        make_engine(EngineConfig(engine="transformers"), str(big), tiny.STOPS)
    with pytest.raises(TautError, match=r"trainer: .* 1000\.00 B weights, gradients and optimiser.*trainer\.ranks"):
        make_learner(start_of(load_config([f"model={big}", "data=x"], refused=False), None))
    with pytest.raises(TautError, match=r"rollout\.tensor_parallel=2: the transformers engine .* one device"):
        make_engine(
            EngineConfig(engine="transformers", tensor_parallel=2), str(tiny.qwen3(tmp_path / "small", 0)), tiny.STOPS
        )
    assert time.monotonic() - start < 60


def test_versions_that_differ_are_named() -> None:
    ours = clusters.versions()
    clusters.check_versions("here", ours)
    with pytest.raises(
        TautError, match=r"node there: torch 1.0 \(here .*\): the driver and its workers must run the same"
    ):
        clusters.check_versions("there", ours | {"torch": "1.0"})


def test_a_cluster_for_nothing_is_refused() -> None:
    with pytest.raises(TautError, match=r"cluster=auto: nothing would run there; add rollout\.workers=N"):
        from trainers.checks import refuse

        refuse(load_config(["cluster=auto"]))


def test_the_files_for_clusters_start_what_there_is() -> None:
    job = yaml.safe_load((ROOT / "benchmarks/cluster/kuberay.yaml").read_text())
    script = (ROOT / "benchmarks/cluster/slurm.sh").read_text()
    assert job["kind"] == "RayJob" and "cluster=auto" in job["spec"]["entrypoint"] and '"cluster=${address}"' in script
    settings = [word for word in job["spec"]["entrypoint"].rpartition("taut train ")[2].split() if "=" in word]
    config = load_config([s.rstrip(";'") for s in settings])
    assert (config.mode, config.max_staleness, config.cluster.address, config.rollout.workers) == (
        "async",
        2,
        "auto",
        16,
    )
