"""Checkpoints to object storage in the background, and back.

trainer -> process.py  starts one uploading process per node that has files, reads its status, waits at the end
           job.py      what passes between the two: the job as JSON on stdin, the status as a small file
           uploader.py the process: what is sent next, completed, removed at the address
           send.py     one checkpoint to its address: files compared by checksum, the manifest last
           remote.py   a run's checkpoints at an address: manifests, and what stopped uploads left
start   -> transfer.py a complete checkpoint into a folder; also `checkpoint push`, `pull` and `list s3://...`
"""
