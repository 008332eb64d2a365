"""Addresses of the site. `/replies/<id>/stream/` is answered in front of Django: see `chatapp.asgi`."""

from allauth.account.decorators import secure_admin_login
from django.contrib import admin
from django.urls import include, path

# The admin's own sign-in page has no rate limit: send people to the one that has.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

urlpatterns = [
    path("", include("conversations.urls")),
    path("", include("conversations.account_urls")),
    path("admin/", admin.site.urls),
]

handler400 = "conversations.views.errors.bad_request"
handler403 = "conversations.views.errors.forbidden"
handler404 = "conversations.views.errors.not_found"
handler500 = "conversations.views.errors.server_error"
#: allauth's name for the page of its rate limits.
handler429 = "conversations.adapters.too_many_requests"
