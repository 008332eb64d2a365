"""Django settings. No environment at all gives a working development setup; what is wrong fails loudly."""

from __future__ import annotations

import sys
import zoneinfo
from pathlib import Path
from urllib.parse import unquote, urlsplit

import django_stubs_ext
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from chatapp import logs, sign_in
from chatapp.embedded import paths
from chatapp.embedded.address import LOCAL_NAMES, is_loopback
from chatapp.environment import env_bool, env_int, env_list, env_secret, env_str
from conversations.money import parse_dollars

django_stubs_ext.monkeypatch()  # lets ModelForm[Conversation] and its like be written at run time, too

BASE_DIR = Path(__file__).resolve().parent.parent
DATA_DIR = paths.data_dir()

# A setup is embedded while no database is named; then it is one person's machine and keeps its own secret.
DATABASE_URL = env_secret("DATABASE_URL") or paths.database_url(DATA_DIR)
REDIS_URL = env_secret("REDIS_URL") or paths.redis_url(DATA_DIR)
EMBEDDED = not env_secret("DATABASE_URL")
DEBUG = env_bool("DEBUG", False)
SECRET_KEY = env_secret("SECRET_KEY") or (paths.secret_key(DATA_DIR) if EMBEDDED or DEBUG else "")
if not SECRET_KEY:
    raise ImproperlyConfigured("Set SECRET_KEY or SECRET_KEY_FILE: DATABASE_URL is set, so this is a server.")
SECRET_KEY_FALLBACKS = env_list("SECRET_KEY_FALLBACKS")

ALLOWED_HOSTS = env_list("ALLOWED_HOSTS", LOCAL_NAMES)
PUBLIC_URL = env_str("PUBLIC_URL")  # https://chat.example.org, behind a proxy that ends TLS
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL.rstrip("/")] if PUBLIC_URL else []
if PUBLIC_URL:
    public_scheme, public_host = urlsplit(PUBLIC_URL).scheme, urlsplit(PUBLIC_URL).hostname
    if public_scheme not in {"http", "https"} or not public_host:
        raise ImproperlyConfigured("PUBLIC_URL must be a whole address, such as https://chat.example.org")
    ALLOWED_HOSTS = [*ALLOWED_HOSTS, public_host]
HTTPS = bool(PUBLIC_URL and PUBLIC_URL.startswith("https://"))

INSTALLED_APPS = [
    "conversations.apps.ParleyAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "allauth",
    "allauth.account",
    "allauth.socialaccount",
    "django_htmx",
    "template_partials",
    "csp",
    "conversations",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "conversations.middleware.PolicyMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    # Synchronous and last: the whole chain then runs in one thread, where an async chain would hop to a
    # thread at every middleware (1.0 ms against 1.9 ms a request).
    "conversations.middleware.PersonMiddleware",
]

ROOT_URLCONF = "chatapp.urls"
ASGI_APPLICATION = "chatapp.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "csp.context_processors.nonce",
            ],
        },
    }
]


def _database(url: str) -> dict[str, object]:
    """A postgresql:// address as Django wants it; a socket folder comes as `?host=`."""
    parts = urlsplit(url)
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ImproperlyConfigured("DATABASE_URL must begin with postgresql://")
    options = dict(pair.split("=", 1) for pair in parts.query.split("&") if "=" in pair)
    host = unquote(options.pop("host", "")) or parts.hostname or ""
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")) or "parley",
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": host,
        "PORT": str(parts.port or ""),
        # The threads that answer requests keep theirs; what ended meanwhile is found without a query.
        "CONN_MAX_AGE": None,
        "CONN_HEALTH_CHECKS": False,
        # The ORM's statements are not prepared; those of `plain_cursor` are, from the first time on.
        "OPTIONS": {key: unquote(value) for key, value in options.items()} | {"prepare_threshold": 0},
    }


DATABASES = {"default": _database(DATABASE_URL)}
#: Threads of one web process that answer requests, each with a database connection.
REQUEST_THREADS = env_int("REQUEST_THREADS", 6, least=1)
#: Connections of the replies of one web process, apart from those of its requests.
REPLY_DATABASE_POOL = env_int("REPLY_DATABASE_POOL", 16, least=1)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_USER_MODEL = "conversations.User"
SESSION_ENGINE = "conversations.sessions"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = HTTPS
SESSION_COOKIE_AGE = 60 * 60 * 24 * 30
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if HTTPS else None
SECURE_HSTS_SECONDS = env_int("HSTS_SECONDS", 0)
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CSRF_FAILURE_VIEW = "conversations.views.errors.csrf_failure"
MESSAGE_STORAGE = "django.contrib.messages.storage.session.SessionStorage"

CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF],
        "font-src": [SELF],
        "connect-src": [SELF],
        "manifest-src": [SELF],
        "form-action": [SELF],
        "base-uri": [NONE],
        "frame-ancestors": [NONE],
    }
}

LANGUAGE_CODE = "en-gb"
TIME_ZONE = env_str("TIME_ZONE", "UTC")
try:
    zoneinfo.ZoneInfo(TIME_ZONE)
except (KeyError, ValueError, OSError):
    raise ImproperlyConfigured(
        f"TIME_ZONE is “{TIME_ZONE}”, but must be a name such as Europe/Oslo."
    ) from None
USE_I18N = False
USE_TZ = True
DATE_FORMAT, TIME_FORMAT, DATETIME_FORMAT = "j M Y", "H:i", "j M Y, H:i"

STATIC_URL = "/static/"
#: Beside the code, as it belongs to one release: the image holds it, development does without.
STATIC_ROOT = BASE_DIR / "staticfiles"
STATICFILES_DIRS = [BASE_DIR / "static"]
if sys.argv[1:2] == ["collectstatic"] or (STATIC_ROOT / "staticfiles.json").exists():
    STORAGES = {
        "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
        "staticfiles": {"BACKEND": "chatapp.static_files.HashedFiles"},
    }

# One message is at most 1 MiB of text; the form around it is percent-encoded, so up to three times that.
MAX_MESSAGE_BYTES = 1024 * 1024
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * MAX_MESSAGE_BYTES

# --- Models -------------------------------------------------------------------------------------------------
#: The model that writes titles and memory lines; empty: the cheapest paid one, else the local one.
BACKGROUND_MODEL = env_str("BACKGROUND_MODEL", "")
#: The model that writes summaries; empty: the same. Seconds for one call of it.
SUMMARY_MODEL = env_str("SUMMARY_MODEL", "")
#: The model that looks for facts to be remembered; empty: the one that writes summaries.
MEMORY_MODEL = env_str("MEMORY_MODEL", "")
SUMMARY_TIME_OUT = env_int("SUMMARY_TIME_OUT", 10, least=1)
DEFAULT_MODEL = env_str("DEFAULT_MODEL", "")
DEFAULT_TEMPERATURE = 0.7
DEFAULT_REPLY_TOKENS = 2048
#: Tokens of transcript at which it is cut (to a quarter); less for the local model, which reads 400 a second.
HIGH_WATER = env_int("HIGH_WATER", 16_000, least=1)
LOCAL_HIGH_WATER = 1500

# --- Replies (seconds) --------------------------------------------------------------------------------------
#: A reply ends within lease + sweep of its process's death.
REPLY_LEASE = env_int("REPLY_LEASE", 30, least=1)
REPLY_CHECKPOINT = 1.0
REPLY_SWEEP = env_int("REPLY_SWEEP", 5, least=1)
JOURNAL_TICK = 0.05
#: Replies of one person that are written at the same time; more wait for their turn.
MAX_RUNNING_REPLIES = env_int("MAX_RUNNING_REPLIES", 3, least=1)
#: There is no other web process: one that starts need not wait for the leases of the one before it to end.
ONLY_WEB_PROCESS = env_bool("ONLY_WEB_PROCESS", False)
#: How long a web process that was told to stop lets its replies go on.
DRAIN_GRACE = env_int("DRAIN_GRACE", 20)

# --- Providers (seconds) ------------------------------------------------------------------------------------
#: Limits of each provider, over all processes; 0: none. The local model has its own.
PROVIDER_REQUESTS_PER_MINUTE = env_int("PROVIDER_REQUESTS_PER_MINUTE", 60)
PROVIDER_CONCURRENCY = env_int("PROVIDER_CONCURRENCY", 64)
#: How long a reply waits for its turn.
PROVIDER_WAIT = 30.0
#: A provider that failed this often within the window is left alone, each time twice as long.
BREAKER_FAILURES = env_int("BREAKER_FAILURES", 5, least=1)
BREAKER_WINDOW = 60.0
BREAKER_OPEN = 30.0
BREAKER_OPEN_MAX = 300.0
#: Calls for one answer, while no text has come.
REPLY_TRIES = 3
RETRY_AFTER_MAX = 60.0

# --- Money (nano-USD) ---------------------------------------------------------------------------------------


def _dollars(name: str, text: str | None) -> int | None:
    """An amount; None: unlimited."""
    if text is None or text.lower() == "unlimited":
        return None
    try:
        return parse_dollars(text)
    except ValueError as error:
        raise ImproperlyConfigured(f"{name} is “{text}”. {error}") from None


#: What a person may spend in a day, unless they or their groups have a limit of their own.
DAILY_LIMIT = _dollars("DAILY_LIMIT", env_str("DAILY_LIMIT", "5"))
#: What all together may spend in a day of TIME_ZONE.
INSTALLATION_DAILY_LIMIT = _dollars("INSTALLATION_DAILY_LIMIT", env_str("INSTALLATION_DAILY_LIMIT"))
#: What one conversation may cost, all in all.
CONVERSATION_CAP = _dollars("CONVERSATION_CAP", env_str("CONVERSATION_CAP"))
#: Tokens: an answer is not made shorter than this to fit in what is left.
SHRINK_FLOOR = env_int("SHRINK_FLOOR", 256, least=1)
#: Seconds after which nobody is expected to come back for a hold: longer than any call.
HOLD_LEASE = env_int("HOLD_LEASE", 900, least=1)
_shares = env_list("ALERT_SHARES", ("50", "80", "100"))
if not all(share.isdecimal() and 1 <= int(share) <= 100 for share in _shares):
    raise ImproperlyConfigured("ALERT_SHARES must be whole numbers from 1 to 100, such as 50,80,100.")
#: Per cent of a day's limit at which somebody is told.
ALERT_SHARES = sorted({int(share) for share in _shares})

# --- Celery -------------------------------------------------------------------------------------------------
CELERY_BROKER_URL = paths.broker_url(REDIS_URL)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_ACKS_LATE = True
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_TIME_LIMIT = 600
CELERY_TASK_SOFT_TIME_LIMIT = 540
CELERY_TASK_DEFAULT_QUEUE = "celery"
#: What calls a model comes after all else, however many summaries one person has asked for. Over Redis each priority is
#: a list of its own.
MODEL_PRIORITY = 9
CELERY_TASK_ROUTES = {
    f"conversations.tasks.{name}": {"priority": MODEL_PRIORITY}
    for name in ("write_title", "compact_conversation", "write_wanted_summary")
}
CELERY_WORKER_CANCEL_LONG_RUNNING_TASKS_ON_CONNECTION_LOSS = False
# A worker waits for a Redis that is away as long as it takes.
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
# The visibility time-out must agree in all three places, or a long task is delivered again and again.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 900,
    # By default kombu looks for tasks of dead workers on every tenth of its 10 s rounds.
    "unacked_restore_interval": 5,
    "unacked_restore_throttle": 1,
    "unacked_restore_limit": None,
    "priority_steps": [0, MODEL_PRIORITY],
    "socket_timeout": 10,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 15,
}
CELERY_VISIBILITY_TIMEOUT = 900
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {"visibility_timeout": 900}

# --- Metrics ------------------------------------------------------------------------------------------------
#: Who carries it as a bearer token may read /metrics; without one, this machine alone may.
METRICS_TOKEN = env_secret("METRICS_TOKEN", "")
if METRICS_TOKEN and len(METRICS_TOKEN) < 16:
    raise ImproperlyConfigured("METRICS_TOKEN must have at least 16 characters.")
#: False where a client on loopback may be a proxy that speaks for anyone.
METRICS_ON_LOOPBACK = (
    not PUBLIC_URL and not env_int("TRUSTED_PROXIES", 0) and is_loopback(env_str("HOST", "127.0.0.1"))
)

# --- Logs: an id, never a key and never a prompt --------------------------------------------------------
LOG_LEVEL = env_str("LOG_LEVEL", "INFO").upper()
if LOG_LEVEL not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
    raise ImproperlyConfigured(f"LOG_LEVEL is “{LOG_LEVEL}”, but must be DEBUG, INFO, WARNING or ERROR.")
LOG_FORMAT = env_str("LOG_FORMAT", "text" if EMBEDDED or sys.stderr.isatty() else "json")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"()": logs.formatter(LOG_FORMAT)}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "root": {"handlers": ["stderr"], "level": LOG_LEVEL},
    "loggers": {
        "httpx": {"level": "WARNING"},
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.request": {"level": "ERROR"},
        # Whoever tries names of hosts, or sends what is too long, would fill the log, with a traceback for each.
        "django.security.DisallowedHost": {"level": "CRITICAL"},
        "django.security.RequestDataTooBig": {"level": "CRITICAL"},
        # uvicorn's command line gives these handlers of their own.
        "uvicorn": {"handlers": [], "propagate": True},
        "uvicorn.error": {"handlers": [], "propagate": True},
        "uvicorn.access": {"handlers": [], "level": "WARNING", "propagate": True},
        # A line for each periodic task that came and went would hide the others.
        "celery": {"level": "WARNING"},
    },
}

# --- Accounts -----------------------------------------------------------------------------------------------
AUTHENTICATION_BACKENDS = ["conversations.backends.PersonBackend"]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "account_login"
PASSWORD_HASHERS = ["conversations.hashers.BoundedArgon2PasswordHasher"]
#: Passwords hashed at one time by one process; each takes 19 MiB and about 20 ms.
PASSWORD_HASHES_AT_ONCE = env_int("PASSWORD_HASHES_AT_ONCE", 4, least=1)
PASSWORD_RESET_TIMEOUT = 60 * 60 * 24
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator",
        "OPTIONS": {"user_attributes": ("email", "name")},
    },
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 10}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

#: Who may make an account once there is one: invite, open or closed.
SIGN_UP = sign_in.sign_up()
#: Asked for when the first account is made: set by the launcher when the server is not on loopback.
SETUP_CODE = env_secret("PARLEY_SETUP_CODE")
#: Days that an invitation holds.
INVITATION_DAYS = 7

MAIL = bool(env_secret("EMAIL_URL"))
globals().update(sign_in.mail_server(env_secret("EMAIL_URL")))

# The rate limits of sign-in are kept in PostgreSQL: every process sees them, and they outlive Redis.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "rate_limits",
        "OPTIONS": {"MAX_ENTRIES": 50_000},
    }
}

ACCOUNT_ADAPTER = "conversations.adapters.AccountAdapter"
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_FORMS = {
    "login": "conversations.account_forms.LoginForm",
    "signup": "conversations.account_forms.SignupForm",
    "change_password": "conversations.account_forms.ChangePasswordForm",
    "set_password": "conversations.account_forms.SetPasswordForm",
    "reset_password": "conversations.account_forms.ResetPasswordForm",
    "reset_password_from_key": "conversations.account_forms.ResetPasswordKeyForm",
    "reauthenticate": "conversations.account_forms.ReauthenticateForm",
}
ACCOUNT_EMAIL_VERIFICATION = "optional" if MAIL else "none"
ACCOUNT_EMAIL_SUBJECT_PREFIX = ""
ACCOUNT_EMAIL_UNKNOWN_ACCOUNTS = False
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "https" if HTTPS else "http"
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = False
#: `ip` is an address (or an IPv6 /64), `key` an account. `conversations.adapters` says how long to wait.
ACCOUNT_RATE_LIMITS = {
    "login": "30/m/ip",
    "login_failed": "10/m/ip,5/5m/key",
    "signup": "20/m/ip",
    "setup": "10/m/ip",
    "reset_password": "20/m/ip,5/m/key",
}
#: Proxies in front of the web server whose X-Forwarded-For is believed.
ALLAUTH_TRUSTED_PROXY_COUNT = env_int("TRUSTED_PROXIES", 0)

OIDC = sign_in.identity_provider()
if OIDC:  # which brings 12 MB that others do without
    INSTALLED_APPS.append("allauth.socialaccount.providers.openid_connect")
SOCIALACCOUNT_ADAPTER = "conversations.adapters.SocialAccountAdapter"
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {
        "provider_class": "conversations.oidc_flow.Provider",
        "APPS": [OIDC.app()] if OIDC else [],
    }
}
SOCIALACCOUNT_EMAIL_AUTHENTICATION = True
SOCIALACCOUNT_EMAIL_AUTHENTICATION_AUTO_CONNECT = True
SOCIALACCOUNT_EMAIL_VERIFICATION = "none"
SOCIALACCOUNT_QUERY_EMAIL = True
