"""The Grafana dashboards as code: `make dashboards` writes ../json from these files.

Each dashboard is a file with one function `dashboard()`. Several gates show the same fleet, so what
a gate shows is taken as `max without (instance)` before it is added up: see queries.py.
"""
