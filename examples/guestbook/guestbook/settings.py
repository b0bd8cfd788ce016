"""Everything that differs between deploys comes from the environment; the rest is here and the same everywhere.

Nothing is read from a file and no secret has a default. What a deploy may set is listed in `.env.example`.
"""

import os
from pathlib import Path

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).resolve().parent.parent


def text(name, default=""):
    return os.environ.get(name, "").strip() or default


def words(name, default=""):
    return [word.strip() for word in text(name, default).split(",") if word.strip()]


def flag(name):
    value = text(name, "0").lower()
    if value in {"1", "true", "yes", "on"}:
        return True
    if value in {"0", "false", "no", "off"}:
        return False
    raise ImproperlyConfigured(f"{name} must be 1 or 0, not {value!r}")


def seconds(name, default):
    value = text(name, default)
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number <= 86_400:
        raise ImproperlyConfigured(f"{name} must be a number of seconds between 0 and 86400, not {value!r}")
    return number


# Safe by default: whoever wants tracebacks in the browser has to ask for them.
DEBUG = flag("DEBUG")

# Django refuses to serve without it; a build (`collectstatic`) needs none, so none has to be invented there.
SECRET_KEY = text("SECRET_KEY")

# Whom we answer to. `.localhost` covers guestbook.localhost on any port.
ALLOWED_HOSTS = words("ALLOWED_HOSTS", ".localhost,127.0.0.1,[::1]")

# Other origins that may post our form, such as https://guests.example.org. The origin of the page itself is always good.
CSRF_TRUSTED_ORIGINS = words("CSRF_TRUSTED_ORIGINS")

# Only behind a router that sets X-Forwarded-Proto itself may that header say that the visitor came by HTTPS.
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if flag("TRUST_PROXY") else None

# A deploy that has a certificate turns this on: redirects plain HTTP and keeps the cookie off it.
SECURE_SSL_REDIRECT = CSRF_COOKIE_SECURE = flag("HTTPS_ONLY")

# The guestbook's own config.
GREETING = text("GREETING", "Welcome, {name}!")
WORKER_POLL_SECONDS = seconds("WORKER_POLL_SECONDS", "1")
WORKER_HEARTBEAT_SECONDS = seconds("WORKER_HEARTBEAT_SECONDS", "60")

INSTALLED_APPS = ["whitenoise.runserver_nostatic", "django.contrib.staticfiles", "guestbook"]

MIDDLEWARE = [
    "guestbook.health.HealthMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "guestbook.urls"
WSGI_APPLICATION = "guestbook.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]

# The database is a backing service behind a URL: sqlite:////abs/path or postgres://user:password@host/name.
# Without a URL there is no database, which is right for a build and an error at the first query anywhere else.
DATABASE_URL = text("DATABASE_URL")
DATABASES = {"default": dj_database_url.parse(DATABASE_URL, conn_max_age=600, conn_health_checks=True) if DATABASE_URL else {}}
if DATABASES["default"].get("ENGINE") == "django.db.backends.sqlite3":
    # Web and worker share one file: readers do not block the writer (WAL), writers wait for each other (timeout),
    # and a transaction that will write says so when it begins, so that it never fails half-way.
    DATABASES["default"]["OPTIONS"] = {
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        "timeout": 20,
        "transaction_mode": "IMMEDIATE",
    }

# Static files are collected at build time, named by their content, and served by the app itself.
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}

# Logs are a stream of lines on standard output. Who collects them stamps the time and keeps them.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(levelname)s %(name)s: %(message)s"}},
    "handlers": {"stdout": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout", "formatter": "line"}},
    "root": {"handlers": ["stdout"], "level": text("LOG_LEVEL", "INFO").upper()},
    # Django's own handlers (standard error in DEBUG, mail otherwise) give way to the one above.
    "loggers": {"django": {"handlers": [], "level": "INFO", "propagate": True}},
}
