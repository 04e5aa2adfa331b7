"""What a process says of its readiness."""

import urllib.error
import urllib.request


def readiness(port: int) -> str:
    """The text of /readyz, "ok\n" if the process is ready; empty while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""
