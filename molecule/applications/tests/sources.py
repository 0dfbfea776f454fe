"""Generates the sources of the applications."""

from __future__ import annotations

import pathlib
import shutil

from tests.support.playbooks import tool

from .support import commit, run, write

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
    """A bare git repository with a requirements.txt, and a tag for each version."""
    folder = sources / "plain"
    for version, lifespan, packages in (
        ("v1", "pass", "starlette==1.10.0\nidna==3.10\n"),
        ("v2", "pass", "starlette==1.10.0\nidna==3.11\n"),
        ("broken", "connect()", "starlette==1.10.0\nidna==3.10\n"),
        ("v3", "pass", "starlette==1.10.0\nidna==3.11\n"),
    ):
        main = PLAIN_MAIN.replace("VERSION", version).replace("LIFESPAN", lifespan)
        if version == "broken":
            main += '\n\n    def connect():\n        raise SystemExit("no ledger at ledger.example.org")\n'
        write(folder, {"main.py": main, "requirements.in": packages})
        locking = ["pip", "compile", "--quiet", "--universal", "--python-version=3.11", "--no-annotate", "--no-header"]
        # the first without hashes, as is common, the others with hashes
        locking += ["requirements.in", "--output-file=requirements.txt"] + ["--generate-hashes"] * (version != "v1")
        run(tool("uv"), *locking, cwd=folder)
        commit(folder, version, tag=version)
    run("git", "clone", "--quiet", "--bare", folder, sources / "plain.git")


FRAGILE_MAIN = """
    import asyncio
    import contextlib
    import json
    import os
    import pathlib
    import resource
    import sys

    from starlette.applications import Starlette
    from starlette.responses import JSONResponse, PlainTextResponse
    from starlette.routing import Route

    IMPORT


    async def index(request):
        return JSONResponse({"version": "VERSION"})


    async def ready(request):
        if request.headers["host"] != "fragile.apps.test" or request.url.scheme != "https":
            return PlainTextResponse("not asked as the edge asks", 500)
        return PlainTextResponse("BODY", STATUS)


    def surroundings():
        status = pathlib.Path("/proc/self/status").read_text().splitlines()
        wanted = ("Uid", "Gid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
        mounts = pathlib.Path("/proc/self/mounts").read_text().splitlines()
        return {
            "process": [line for line in status if line.split(":")[0] in wanted],
            "files": resource.getrlimit(resource.RLIMIT_NOFILE),
            "environment": {name: os.environ.get(name) for name in ("GREETING", "TOKEN", "RELEASE_ID")},
            "folder": os.getcwd(),
            "path": [entry for entry in sys.path if entry.startswith("/opt")],
            "root is read-only": any(line.split()[1] == "/" and ",ro" in "," + line.split()[3] for line in mounts),
        }


    @contextlib.asynccontextmanager
    async def lifespan(app):
        LIFESPAN
        with open("/var/lib/fragile/boots", "a") as boots:
            print(json.dumps(surroundings()), file=boots)
        yield


    app = Starlette(routes=[Route("/", index), Route("/ready", ready)], lifespan=lifespan)
"""

# version: replacements that make it fail
FRAGILE = {
    "good": {},
    "better": {},
    "syntax": {"IMPORT": "def broken(:"},
    "dependency": {"IMPORT": "import nowhere_to_be_found"},
    "exit": {"IMPORT": 'sys.exit("no licence was found")'},
    "lifespan": {"LIFESPAN": 'raise RuntimeError("no ledger at ledger.example.org")'},
    "hang": {"LIFESPAN": "await asyncio.sleep(3600)"},
    "memory": {"LIFESPAN": "cache = bytearray(os.urandom(1024)) * 1024 * 600"},
    "database": {"LIFESPAN": 'await asyncio.open_connection("127.0.0.1", 5433)'},
    "unwell": {"STATUS": "503", "BODY": "the ledger is read-only"},
}


def fragile(sources: pathlib.Path) -> None:
    """A bare git repository with versions that fail in different ways."""
    folder = sources / "fragile"
    for version, changes in FRAGILE.items():
        main = FRAGILE_MAIN.replace("VERSION", version)
        for place, plain in {"IMPORT": "", "LIFESPAN": "pass", "STATUS": "200", "BODY": "yes"}.items():
            main = main.replace(place, changes.get(place, plain))
        write(folder, {"main.py": main, "requirements.txt": "starlette==1.10.0\n"})
        commit(folder, version, tag=version)
    run("git", "clone", "--quiet", "--bare", folder, sources / "fragile.git")


def workspace(sources: pathlib.Path) -> None:
    """A uv workspace: a service with a src layout that depends on a library in the workspace."""
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


def factory(sources: pathlib.Path) -> None:
    """A package locked by Poetry: it pins an old server, needs source distributions, and writes beside its code."""
    folder = write(
        sources / "factory",
        {
            "pyproject.toml": """
                [project]
                name = "shop"
                version = "0.9"
                requires-python = ">=3.11,<4"
                dependencies = ["starlette (==0.47.3)", "uvicorn (==0.23.2)"]

                [build-system]
                requires = ["poetry-core"]
                build-backend = "poetry.core.masonry.api"
            """,
            "shop/__init__.py": "",
            "shop/main.py": """
                import importlib.metadata
                import os
                import pathlib

                import humanize
                import legacy
                import local_settings
                import netifaces
                import uvicorn
                from starlette.applications import Starlette
                from starlette.responses import JSONResponse
                from starlette.routing import Route

                BOOTS = pathlib.Path("var/boots.txt")


                def create_app(title):
                    with BOOTS.open("a") as file:
                        file.write("x")

                    async def index(request):
                        secrets = pathlib.Path(os.environ["CREDENTIALS_DIRECTORY"])
                        names = ["QUOTES", "SPACES", "UNICODE", "NUMBER", "SWITCH", "EMPTY", "SIGNING_KEY"]
                        return JSONResponse(
                            {
                                "title": title,
                                "environment": {name: os.environ.get(name) for name in names},
                                "signing key": (secrets / "SIGNING_KEY").read_text(),
                                "boots": os.path.realpath(BOOTS),
                                "built": pathlib.Path("static/built.txt").read_text(),
                                "files": sorted(str(path) for path in pathlib.Path().rglob("*") if path.is_file()),
                                "region": local_settings.REGION,
                                "legacy": legacy.ANSWER,
                                "interfaces": "lo" in netifaces.interfaces(),
                                "humanize": humanize.__version__,
                                "uvicorn": uvicorn.__version__,
                            }
                        )

                    return Starlette(routes=[Route("/", index)])
            """,
            "vendored/legacy.py": "ANSWER = 42\n",
            "static/style.css": "",
            "static/style.psd": "",
            "notes/secret.txt": "",
        },
    )
    # a file written by `poetry lock`: Poetry needs features of an index that some mirrors lack
    shutil.copy(pathlib.Path(__file__).with_name("files") / "factory.poetry.lock", folder / "poetry.lock")
    commit(folder, "all")


def compiled(sources: pathlib.Path) -> None:
    """An application with three packages in C: each is built by a user of its own."""
    folder = write(
        sources / "compiled",
        {
            "requirements.in": "psycopg2==2.9.10\ndocopt==0.6.2\nnetifaces==0.11.0\nposix_ipc==1.0.5\n",
            "main.py": """
                import json

                import docopt
                import netifaces
                import posix_ipc
                import psycopg2


                async def app(scope, receive, send):
                    if scope["type"] != "http":
                        raise RuntimeError("no lifespan here")
                    answer = {"psycopg2": psycopg2.__version__, "docopt": docopt.__version__}
                    answer |= {"netifaces": netifaces.version, "posix_ipc": posix_ipc.VERSION}
                    body = json.dumps(answer).encode()
                    headers = [(b"content-type", b"application/json")]
                    await send({"type": "http.response.start", "status": 200, "headers": headers})
                    await send({"type": "http.response.body", "body": body})
            """,
        },
    )
    locking = ["pip", "compile", "--quiet", "--generate-hashes", "--no-header", "requirements.in"]
    run(tool("uv"), *locking, "--output-file=requirements.txt", cwd=folder)
    commit(folder, "all")
