"""The ensemble behind a port: photos come by HTTP and are answered together. Needs the extra `serve`.

Public: `limits.Limits`, `photos.PhotoAnswers`, `batching.Batcher`, `app.create_app`, `server.serve_until_stopped`.
"""
