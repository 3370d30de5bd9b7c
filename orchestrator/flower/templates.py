"""Where pages come from: ours first, Flower's second, with our links added to two of Flower's."""

from __future__ import annotations

from pathlib import Path

from tornado.template import Loader, Template

from orchestrator.flower.contract import SECOND_NAVIGATION, TASK_ACTIONS

#: Stands on its own, whatever Flower's templates look like.
LOGIN = "login.html"
# Not "templates": Django would take our 404.html, written in another language, for the site's own.
OURS = Path(__file__).with_name("tornado_templates")


class PageLoader(Loader):
    """Loads templates by name.

    Flower's templates have one block that is of use for its task page and none in
    its navigation bar. Adding to the text at a mark that :mod:`contract` has
    counted keeps the rest of those pages Flower's own, with no copy to maintain.
    """

    def __init__(self, flower_templates: str, *, amend: bool) -> None:
        super().__init__(flower_templates)
        self._amend = amend

    def _create_template(self, name: str) -> Template:
        own = OURS / name
        if own.is_file() and (self._amend or name == LOGIN):
            return Template(own.read_bytes(), name=name, loader=self)
        text = (Path(self.root) / name).read_text(encoding="utf-8")
        if self._amend:
            text = amended(name, text)
        return Template(text, name=name, loader=self)


def amended(name: str, text: str) -> str:
    """Return a template of Flower with our additions."""
    if name == "navbar.html":
        first, mark, second = text.partition(SECOND_NAVIGATION)
        return (
            _before_last("</ul>", "inbox_nav_item.html", first)
            + mark
            + _before_last("</ul>", "logout_item.html", second)
        )
    if name == "task.html":
        return text.replace(TASK_ACTIONS, TASK_ACTIONS + '{% include "inbox_task_actions.html" %}')
    return text


def _before_last(mark: str, addition: str, text: str) -> str:
    head, found, tail = text.rpartition(mark)
    return f'{head}{{% include "{addition}" %}}{found}{tail}'
