"""Several nodes, simulated on one machine by Ray itself: one dies in mid-call; none is there; none has room."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from rewards.errors import TautError
from rollout import cluster as clusters
from rollout.engine import EngineConfig, make_engine
from tests import tiny
from trainers.config import load_config

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
    pool = make_engine(config, str(model), tiny.STOPS, cluster.address)

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
    env = os.environ | {"RAY_AUTH_MODE": "disabled"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_where_no_cluster_answers() -> None:
    start = time.monotonic()
    with pytest.raises(TautError, match=r"cluster=127\.0\.0\.1:1: no Ray cluster answers there"):
        clusters.connect(1, "127.0.0.1:1")
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
    assert (config.mode, config.max_staleness, config.cluster, config.rollout.workers) == ("async", 2, "auto", 16)
