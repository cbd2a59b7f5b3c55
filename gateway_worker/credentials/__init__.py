"""The secrets of tools: asked for, kept for a while, put into sessions. They leave the worker nowhere else."""
