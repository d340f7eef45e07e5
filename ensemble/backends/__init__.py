"""Where calls of functions run: in this process, in others beside it, or on a cluster, always with the same result.

Start at `backend.Call` and `choose.open_backend`.
"""
