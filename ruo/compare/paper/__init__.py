"""The reference system of 2023, rewritten from its description with its faults: two scripts run as processes.

`server` is a Gunicorn application, `client` a command. Nothing else imports them: they are what ruo is compared with.
"""
