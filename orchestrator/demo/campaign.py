"""Part one: an e-mail campaign, counted at the mail server."""

from __future__ import annotations

from typing import Any

from django_celery_results.models import TaskResult

from orchestrator.demo import tasks
from orchestrator.demo.mailbox import Mailbox
from orchestrator.demo.part import Part

RECIPIENTS = 50


class Campaign(Part):
    """One task fans out into one per recipient; those asked to wait are retried."""

    key = "email"
    title = "E-mail campaign"
    goal = RECIPIENTS

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__()
        self.mailbox = mailbox
        self._wanted = [f"reader{number:02d}@example.com" for number in range(1, RECIPIENTS + 1)]
        self._task_id = ""

    def start(self) -> None:
        """Publish the campaign."""
        campaign = tasks.named("tasks.email.send_campaign")
        self._task_id = campaign.delay(
            campaign="demo", subject="Hello from the demo", body="It works.", recipients=self._wanted
        ).id

    def look(self) -> None:
        """Count what the mail server got."""
        delivered = self.mailbox.delivered()
        # A message counts once both ends say so: the mail server has it, the task is done with it.
        settled = TaskResult.objects.filter(task_name="tasks.email.send_message", status="SUCCESS").count()
        self.done = min(settled, sum(1 for address in self._wanted if address in delivered))
        if self.done:
            self.note = f"{self.done} delivered, {len(self.mailbox.greylisted)} of them greylisted at first"
        self.problem = tasks.failure(self._task_id) or self._doubled()

    def counts(self) -> dict[str, Any]:
        """Return messages by fate."""
        delivered = self.mailbox.delivered()
        return {
            "recipients": RECIPIENTS,
            "delivered": sum(delivered.values()),
            "delivered_once": sum(1 for address in self._wanted if delivered.get(address) == 1),
            "greylisted_and_retried": len(self.mailbox.greylisted),
        }

    def _doubled(self) -> str:
        doubled = [address for address, number in self.mailbox.delivered().items() if number > 1]
        return f"{len(doubled)} recipients got it more than once" if doubled else ""
