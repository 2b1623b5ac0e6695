"""Limit how long the OpenMP threads of matrix products spin while they wait.

By default an idle thread keeps its core busy for long. Beside another busy process the thread that the others wait for
then gets no core, and training becomes many times slower. GNU's OpenMP reads the setting when torch loads it, so it
must be in the environment before.
"""

import os

# Iterations before a waiting thread sleeps. Measured by bench/neighbours.py; the default is about 300,000.
SPIN = {"GOMP_SPINCOUNT": "5000"}


def limit_spinning() -> None:
    """Set the spin count unless the user has set it; call this before torch is imported."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ.update(SPIN)
