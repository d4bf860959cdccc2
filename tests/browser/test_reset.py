"""A password reset of Django in Chromium, as a user of the inbox does it."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from support.browsing import Site, opened
from support.program import Start

ADDRESS = "alice@example.com"

# A project with one user, and no file; the tables are those that a reset needs
PROJECT = """
import sys
from wsgiref.simple_server import WSGIRequestHandler, make_server

import django
from django.conf import settings

port = int(sys.argv[1])
mail = (
    {"MAILERS": {"default": {
        "BACKEND": "django.core.mail.backends.smtp.EmailBackend",
        "OPTIONS": {"host": "127.0.0.1", "port": port},
    }}}
    if django.VERSION >= (6, 1)
    else {"EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": port}
)
settings.configure(
    SECRET_KEY="secret",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF="__main__",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    INSTALLED_APPS=[f"django.contrib.{name}" for name in (
        "admin", "auth", "contenttypes", "sessions", "messages")],
    MIDDLEWARE=[
        "django.contrib.sessions.middleware.SessionMiddleware",
        "django.middleware.csrf.CsrfViewMiddleware",
        "django.contrib.auth.middleware.AuthenticationMiddleware",
        "django.contrib.messages.middleware.MessageMiddleware",
    ],
    SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
    TEMPLATES=[{
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": [
            "django.template.context_processors.request",
            "django.contrib.auth.context_processors.auth",
            "django.contrib.messages.context_processors.messages",
        ]},
    }],
    STATIC_URL="static/",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    **mail,
)
django.setup()
from django.contrib import admin
from django.contrib.auth.models import User
from django.core.wsgi import get_wsgi_application
from django.db import connection
from django.urls import include, path

urlpatterns = [
    path("admin/", admin.site.urls),
    path("accounts/", include("django.contrib.auth.urls")),
]
with connection.schema_editor() as editor:
    editor.create_model(User)
User.objects.create_user("alice", "alice@example.com", "first")


class Quiet(WSGIRequestHandler):
    def log_message(self, *_):
        pass


with make_server("127.0.0.1", 0, get_wsgi_application(), handler_class=Quiet) as server:
    print("listening on", f"127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
"""


def test_the_link_of_a_password_reset_is_clicked_in_the_inbox(
    site: Site, page: Page, start: Start
) -> None:
    pytest.importorskip("django")
    shop = start("-c", PROJECT, str(site.port))
    url = "http://{}:{}".format(*shop.listening(shop.out))
    opened(page)
    with page.context.new_page() as form:
        form.goto(f"{url}/accounts/password_reset/")
        form.get_by_label("Email").fill(ADDRESS)
        form.locator("[type=submit]").click()
        expect(form.locator("h1")).to_contain_text("Password reset sent")
    page.get_by_role("link", name="Password reset").click()
    with page.context.expect_page() as opening:
        page.locator(".panel").get_by_role("link").click()
    form = opening.value
    for name in ("new_password1", "new_password2"):
        form.locator(f"[name={name}]").fill("correct horse battery")
    form.locator("[type=submit]").click()
    expect(form.locator("h1")).to_contain_text("Password reset complete")
