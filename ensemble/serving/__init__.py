"""The ensemble behind a port: photos come by HTTP and are answered together. Needs the extra `serve`."""
