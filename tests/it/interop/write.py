"""Writes one GridFS file with PyMongo from standard input.

Arguments: database, bucket, id, chunk size or 0 for PyMongo's own. MONGODB_URI names the server.
"""

import os
import sys

import gridfs
from pymongo import MongoClient

database, name, file_id, chunk_size = sys.argv[1:]
bucket = gridfs.GridFSBucket(MongoClient(os.environ["MONGODB_URI"])[database], bucket_name=name)
sizes = {"chunk_size_bytes": int(chunk_size)} if int(chunk_size) else {}
with bucket.open_upload_stream_with_id(file_id, "from python", metadata={"by": "pymongo"}, **sizes) as to:
    to.write(sys.stdin.buffer.read())
