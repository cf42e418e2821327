"""Training runs that are interrupted."""

import pytest

from probenc_support.models import training


def stopped_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The next run is interrupted (as by Ctrl-C) at a step."""
    advance = training._Run.advance

    def stop(run: training._Run) -> None:
        if run.step == step:
            raise KeyboardInterrupt
        advance(run)

    monkeypatch.setattr(training._Run, "advance", stop)
