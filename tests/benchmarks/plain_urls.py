"""No pages: a worker's system checks load them, and the platform's would bring the platform along."""

urlpatterns: list[object] = []
