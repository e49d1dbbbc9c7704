"""Objects in S3 or R2, read as local files: fetched once a node, verified, and kept in a bounded cache.

s3://bucket/prefix          url.py
      |  client.py          requests through boto3; retry.py says which errors are worth another attempt
      |  download.py        one object into one file: parallel ranges, checksum, resumable
      |  cache.py           files of a node by sha256: one fill for all processes, pins, LRU cap    (partial, space)
      v
local file                  files.py hands its mapped bytes to the token store
      ^
upload.py                   a folder to a prefix, its last file last; store_copy.py: push and pull of token stores
resumable.py                one big file, in parts that outlive the process that sent them; pace.py limits its bandwidth
"""
