"""Small tensors on few cores: threads of a pool that wait for each other cost more than they help."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
