"""Writes the pages that are made from the code: docs/api.md and deploy/man/pbxctl.1."""

from __future__ import annotations

from pathlib import Path

from deploy.pages import api, man

REPOSITORY = Path(__file__).resolve().parents[2]


def written() -> dict[Path, str]:
    """Every page by its path."""
    return {
        REPOSITORY / "docs" / "api.md": api.page(),
        REPOSITORY / "deploy" / "man" / "pbxctl.1": man.page(),
    }


def main() -> None:
    for path, text in written().items():
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
