"""What lint predicts is what the loaders of vLLM, SGLang and transformers do.

Every disagreement is a bug in a rule of `overlay.engines`, or in this measurement.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.engines.real.conftest import Ran
from tests.engines.real.matrix import predictions
from tests.engines.real.variants import BY_BASE

pytestmark = pytest.mark.engines

CASES = [
    pytest.param(family, scheme, variant, id=f"{family}-{scheme}-{variant}")
    for (family, scheme), variants in BY_BASE.items()
    for variant in variants
]


@pytest.mark.parametrize(("family", "scheme", "variant"), CASES)
def test_lint_predicts_what_the_engines_do(
    ran: Callable[[str, str], Ran], family: str, scheme: str, variant: str
) -> None:
    base = ran(family, scheme)
    real = {engine: did[variant] for engine, did in base.real.items()}

    predicted = predictions(base.cases[variant])

    said = {engine: (it.target, it.draft) for engine, it in predicted.items()}
    done = {engine: (it.target, it.draft) for engine, it in real.items()}
    assert said == done, _reasons(real, predicted)


def _reasons(*sides: dict[str, object]) -> str:
    return "\n".join(f"{engine}: {it}" for side in sides for engine, it in side.items())
