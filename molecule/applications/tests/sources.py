"""The sources of the applications, as their authors would keep them."""

from __future__ import annotations

import pathlib

from .support import commit, run, tool, write

PLAIN_MAIN = """
    import contextlib
    import os
    import pathlib

    import idna
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route


    async def index(request):
        return JSONResponse(
            {
                "version": "VERSION",
                "idna": idna.__version__,
                "greeting": os.environ["GREETING"],
                "client": request.client.host,
                "scheme": request.url.scheme,
                "folder": os.getcwd(),
            }
        )


    @contextlib.asynccontextmanager
    async def lifespan(app):
        LIFESPAN
        yield


    app = Starlette(routes=[Route("/", index)], lifespan=lifespan)
"""


def plain(sources: pathlib.Path) -> None:
    """A bare git repository with a requirements.txt, in versions that name themselves."""
    folder = sources / "plain"
    for version, lifespan, packages in (
        ("v1", "pass", "starlette==0.47.3\nidna==3.10\n"),
        ("v2", "pass", "starlette==0.47.3\nidna==3.11\n"),
        ("broken", "connect()", "starlette==0.47.3\nidna==3.10\n"),
        ("v3", "pass", "starlette==0.47.3\nidna==3.11\n"),
    ):
        main = PLAIN_MAIN.replace("VERSION", version).replace("LIFESPAN", lifespan)
        if version == "broken":
            main += '\n\n    def connect():\n        raise SystemExit("no ledger at ledger.example.org")\n'
        write(folder, {"main.py": main, "requirements.in": packages})
        locking = ["pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--no-annotate", "--no-header"]
        # the first as many have it, the others with hashes
        locking += ["requirements.in", "--output-file=requirements.txt"] + ["--generate-hashes"] * (version != "v1")
        run(tool("uv"), *locking, cwd=folder)
        commit(folder, version, tag=version)
    run("git", "clone", "--quiet", "--bare", folder, sources / "plain.git")


def workspace(sources: pathlib.Path) -> None:
    """A uv workspace: a service with a src layout that needs a library beside it."""
    folder = write(
        sources / "workspace",
        {
            "pyproject.toml": """
                [tool.uv.workspace]
                members = ["libs/*", "services/*"]

                [tool.uv.sources]
                prices = { workspace = true }
            """,
            "libs/prices/pyproject.toml": """
                [project]
                name = "prices"
                version = "2.5"
                requires-python = ">=3.11"
                dependencies = ["idna==3.10"]

                [build-system]
                requires = ["hatchling"]
                build-backend = "hatchling.build"
            """,
            "libs/prices/src/prices/__init__.py": """
                import idna


                def total(*amounts):
                    return {"total": sum(amounts), "idna": idna.__version__}
            """,
            "services/quotes/pyproject.toml": """
                [project]
                name = "quotes"
                version = "1.0"
                requires-python = ">=3.11"
                dependencies = ["prices"]

                [project.optional-dependencies]
                fast = ["orjson==3.11.4"]
                slow = ["simplejson==3.20.1"]

                [dependency-groups]
                reports = ["humanize==4.12.3"]
                dev = ["iniconfig==2.1.0"]

                [build-system]
                requires = ["hatchling"]
                build-backend = "hatchling.build"
            """,
            "services/quotes/src/quotes/__init__.py": "",
            "services/quotes/src/quotes/main.py": """
                import importlib.metadata
                import json
                import os

                from prices import total


                def version(name):
                    try:
                        return importlib.metadata.version(name)
                    except importlib.metadata.PackageNotFoundError:
                        return None


                async def app(scope, receive, send):
                    if scope["type"] != "http":
                        raise RuntimeError("no lifespan here")
                    names = ["quotes", "prices", "orjson", "humanize", "simplejson", "iniconfig"]
                    answer = {
                        **total(19, 23),
                        "versions": {name: version(name) for name in names},
                        "files": sorted(os.listdir()),
                    }
                    body = json.dumps(answer).encode()
                    headers = [(b"content-type", b"application/json")]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await send({"type": "http.response.body", "body": body})
            """,
            ".gitignore": ".env\n",
            "services/quotes/.env": "DEBUG=1\n",
        },
    )
    run(tool("uv"), "lock", "--quiet", cwd=folder)
    commit(folder, "all")
