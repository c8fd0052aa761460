import os

# several ranks share few cores: one BLAS thread each, also in subprocesses
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"
