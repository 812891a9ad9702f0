"""Takes dialplans/ and lua/, which stand beside the package, into the wheel as controller/shipped/.

pyproject.toml cannot say this: it either finds packages or maps folders, not both.
"""

from setuptools import find_packages, setup

SHIPPED = ("dialplans", "lua")

setup(
    packages=[
        *find_packages(include=["controller*"]),
        *(f"controller.shipped.{name}" for name in SHIPPED),
    ],
    package_dir={f"controller.shipped.{name}": name for name in SHIPPED},
    package_data={f"controller.shipped.{name}": ["*/*"] for name in SHIPPED},
)
