"""Object storage (S3, R2 and compatible servers): bytes only, nothing of token stores or checkpoints.

s3://bucket/prefix     s3_url.py        parses an address
    |                  connect.py       boto3's client; check_reachable() for commands at a terminal
    |                  s3.py            requests with retries
    |                  retry.py         which errors are retried and when; RateLimiter for uploads
    v
download.py            one object into one file: parallel ranges, checksum, resumes after a kill
    |
    v
cache.py               files of a node by sha256: fetched once for all processes, pinned while in use
cache_folder.py        where the cache is, its cap in bytes, eviction, temporary caches

upload.py              a file or a folder to a prefix, in parts that a later process continues
shared_files.py        small files that several machines write, by conditional requests: created once, replaced or not
"""
