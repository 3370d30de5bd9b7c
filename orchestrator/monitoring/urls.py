"""``path("healthz/", include("orchestrator.monitoring.urls"))``."""

from django.urls import path

from orchestrator.monitoring import views

app_name = "orchestrator_monitoring"
urlpatterns = [
    path("live", views.live, name="live"),
    path("ready", views.ready, name="ready"),
]
