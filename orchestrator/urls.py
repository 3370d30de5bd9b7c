"""URLs of the reference project."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponseRedirect
from django.templatetags.static import static
from django.urls import include, path
from django.views.generic import RedirectView

admin.site.site_header = "Orchestrator"
admin.site.site_title = "Orchestrator"
admin.site.index_title = "Operations"


def favicon(request: HttpRequest) -> HttpResponseRedirect:
    """Say where the icon lies that browsers ask for by themselves."""
    return HttpResponseRedirect(static("orchestrator_console/favicon.svg"))


urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("favicon.ico", favicon),
    path("admin/", admin.site.urls),
    path("healthz/", include("orchestrator.monitoring.urls")),
]
