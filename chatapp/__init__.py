"""The project: settings, addresses, the ASGI and Celery applications, the embedded services."""

import os

# Before numpy is imported: the products of recall are so small that threads for them cost ten times what they share.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
