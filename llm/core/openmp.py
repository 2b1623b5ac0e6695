"""How the threads of matrix products wait for each other.

OpenMP's default is to spin: a thread that has nothing to do keeps its core. Beside another busy process the thread that
the others wait for is then the one that gets no core, and training becomes many times slower. GNU's OpenMP
reads the setting when torch loads it, so it has to stand in the environment before.
"""

import os

# Iterations before a waiting thread sleeps. Measured by bench/neighbours.py; the default is about 300,000.
SPIN = {"GOMP_SPINCOUNT": "5000"}


def limit_spinning() -> None:
    """Set how long OpenMP's threads spin, unless the user has set it; to be called before torch is imported."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ.update(SPIN)
