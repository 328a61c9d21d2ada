"""The description of a fit's run: the verdict of the last report, then what the fit found."""

from __future__ import annotations

from collections.abc import Sequence

from rlready.registry.mlflow_store.backends import Opened
from rlready.registry.mlflow_store.pages.descriptions import NOTE, SIGNATURE, is_ours, version_page

_FIT = "<br>**The fit**"


def put_fit_page(
    opened: Opened,
    run_id: str,
    *,
    verdict: Sequence[str] = (),
    about: Sequence[str] | None = None,
) -> None:
    """Write the description of a fit's run, unless a person wrote the present one.

    Args:
        opened: the registry.
        run_id: of the fit.
        verdict: lines of Markdown that come first.
        about: lines of Markdown on the fit itself; None keeps the present ones.
    """
    present = opened.client.get_run(run_id).data.tags.get(NOTE)
    if not is_ours(present):
        return
    if about is None:
        about = (
            (present or "").partition(f"{_FIT}\n")[2].removesuffix(f"<br>{SIGNATURE}").split("\n")
        )
    first, *rest = [*verdict, "", _FIT, *about] if verdict else [_FIT, *about]
    opened.client.set_tag(run_id, NOTE, version_page(first, rest))


__all__ = ["put_fit_page"]
