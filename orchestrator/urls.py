"""URLs of the reference project."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("healthz/", include("orchestrator.monitoring.urls")),
]
