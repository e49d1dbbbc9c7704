"""Checkpoints to object storage in the background, and back.

trainer -> process.py  starts one uploading process per node that has files, reads its status, waits at the end
           job.py      what passes between the two: the job as JSON on stdin, the status as a small file
           uploader.py the process: sends what waits, completes, removes at the address
           send.py     which checkpoint is next; its files compared by checksum, the manifest last
           remote.py   a run's checkpoints at an address: manifests, and what stopped uploads left
start   -> transfer.py a complete checkpoint into a folder; also `checkpoint push`, `pull` and `list s3://...`
"""
