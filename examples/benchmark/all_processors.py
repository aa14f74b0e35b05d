# Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Imported before mxnet: on x86 MXNet takes half of the logical processors unless this variable is set by then."""
import os

os.environ.setdefault('OMP_NUM_THREADS', str(os.cpu_count() or 1))
