"""A letter is safe before its message is acknowledged, whatever is away meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django_celery_results.models import TaskResult

from orchestrator import conf
from orchestrator.celery import get_app
from orchestrator.launch.ports import free_port
from orchestrator.runs import drain
from orchestrator.runs.outgoing import store
from orchestrator.stores.redis.letters import letters_stream
from tests.conftest import Platform
from tests.support import far_side, inflight
from tests.support.broker import Broker
from tests.support.wait import eventually, stays
from tests.support.zoo import add, end, follow, precious

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Broker]:
    """A Redis of its own for letters, so that it can go while the broker stays."""
    made = Broker(tmp_path / "state").start()
    yield made
    made.stop()


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
def test_messages_wait_unacknowledged_while_the_letterbox_is_away(platform: Platform, state: Broker, pool: str) -> None:
    """No body runs twice, nothing is acknowledged, and every letter arrives once the letterbox is back."""
    worker = platform.worker(pool=pool, concurrency=2, env={"ORCHESTRATOR_STATE_URL": state.url})
    client = redis.Redis.from_url(platform.broker.url)
    state.kill()
    sent = {
        end.delay("fail").id,
        get_app().send_task("tests.support.zoo.unheard_of").id,
        precious.apply_async(("p",), expires=-1).id,
    }
    eventually(lambda: worker.log.count("stays unacknowledged") >= len(sent), message=lambda: worker.tail())
    stays(lambda: inflight.count(client) >= 1 and len(far_side.effects("fail")) <= 1, 2.5)
    state.start()
    letters = letters_stream(state.url, conf.settings().key_prefix, 2.0)
    eventually(lambda: letters.size() == len(sent), message=lambda: worker.tail())
    eventually(lambda: inflight.count(client) == 0)
    assert len(far_side.effects("fail")) == 1
    # The worker goes on as if nothing had happened.
    assert add.delay(2, 3).get(timeout=20) == 5
    assert letters.size() == len(sent)


def test_a_task_runs_though_no_state_of_it_can_be_written(platform: Platform) -> None:
    """Celery drops a task whose start cannot be recorded. Here states wait in Redis."""
    dead = f"postgres://postgres@127.0.0.1:{free_port()}/nowhere"
    worker = platform.worker(env={"DATABASE_URL": dead})
    assert get_app().conf.task_track_started
    sent = follow.delay(1, "ran anyway")
    eventually(lambda: far_side.effects("ran anyway"), message=lambda: worker.tail())
    eventually(lambda: get_app().AsyncResult(sent.id).state == "SUCCESS", message=lambda: worker.tail())
    eventually(lambda: platform.broker.client.hlen("unacked") == 0)
    eventually(lambda: drain.drain(store()))
    assert TaskResult.objects.get(task_id=sent.id).status == "SUCCESS"
    assert len(far_side.effects("ran anyway")) == 1
