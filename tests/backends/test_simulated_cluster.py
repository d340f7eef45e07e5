"""The simulation of a cluster, where the answer can be worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from simulate_cluster import Cluster, Work, simulate

PLAIN = Work(jobs=6, seconds=10, start=0, spread=0)
FREE = Cluster(2, send=0, latency=0, failures=0)


def test_jobs_take_turns_on_the_workers() -> None:
    found = simulate(PLAIN, FREE)
    assert found.wall == pytest.approx(30)
    assert found.shares["computing"] == pytest.approx(1)
    assert simulate(replace(PLAIN, jobs=5), FREE).shares["idle at the end"] == pytest.approx(10 / 60)
    assert simulate(replace(PLAIN, start=5, once=7), FREE).wall == pytest.approx(7 + 45)


def test_transfers_share_the_disk_and_none_is_faster_than_a_worker_s_network() -> None:
    reading = replace(PLAIN, seconds=0, read=1e9)
    assert simulate(reading, replace(FREE, bandwidth=1e9, network=1e12)).wall == pytest.approx(6)
    assert simulate(reading, replace(FREE, bandwidth=1e12, network=1e9)).wall == pytest.approx(3)
    keeping = replace(PLAIN, seconds=0, kept=1e9)
    assert simulate(keeping, replace(FREE, bandwidth=1e9)).wall == pytest.approx(2), "each worker reads it once"


def test_operations_wait_for_the_disk_s_answer_and_for_their_share_of_it() -> None:
    asking = replace(PLAIN, operations=100)
    assert simulate(asking, replace(FREE, answers=1e9, latency=0.01)).wall == pytest.approx(60), "1 s waits for 1 s"
    assert simulate(replace(asking, at_once=4), replace(FREE, answers=1e9, latency=0.01)).wall == pytest.approx(37.5)
    assert simulate(asking, replace(FREE, answers=50)).wall == pytest.approx(120), "200 a second asked, 50 to be had"


def test_the_command_sends_one_job_after_the_other() -> None:
    assert simulate(PLAIN, replace(FREE, workers=6, send=1)).wall == pytest.approx(15)


def test_jobs_of_lost_workers_are_done_elsewhere() -> None:
    found = simulate(replace(PLAIN, jobs=200, save=10), replace(FREE, workers=8, failures=20, repair=30))
    assert found.lost > 0 and found.wall > 250
    assert found.shares["computing"] * found.wall * 8 == pytest.approx(2000), "each second of work counts once"
    assert sum(found.shares.values()) == pytest.approx(1)
