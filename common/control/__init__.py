"""The control plane: what operators see and do, for the admin API, the command line and the Python API alike."""
