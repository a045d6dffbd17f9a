"""The model server: ``MODEL_PATH=... gunicorn -c server/gunicorn.conf.py server:app``."""


def __getattr__(name: str) -> object:
    # made whenever Gunicorn asks for it, so that `server.slots` can be imported without an application
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from server.application import create_app

    return create_app()
