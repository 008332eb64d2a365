"""The web server, as one is deployed: `python -m bench.web`, with the words of uvicorn's command line.

What only developers have is hidden from it: libraries load it wherever it is installed, and the process would hold
4 MB more.
"""

import sys

#: Asked for by httpx's command line, Celery and kombu.
DEVELOPERS_ONLY = ("rich", "greenlet", "yaml")

if __name__ == "__main__":
    for name in DEVELOPERS_ONLY:
        sys.modules[name] = None  # type: ignore[assignment]  # as if it were not installed
    import uvicorn

    uvicorn.main()
