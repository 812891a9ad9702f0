"""Health check of a container: exit code 0 when http://127.0.0.1:PORT/PATH answers 200.

answers.py HOST PORT [PATH]
"""

import http.client
import sys

TIMEOUT_S = 3.0

host, port, path = [*sys.argv[1:], "/metrics"][:3]
connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
try:
    connection.request("GET", path)
    sys.exit(0 if connection.getresponse().status == 200 else 1)
except (OSError, http.client.HTTPException) as error:
    sys.exit(f"{host}:{port}{path}: {error}")
