"""Reads GridFS files with PyMongo; prints what it saw as JSON, one line a file.

Arguments: database, bucket, then file ids. MONGODB_URI names the server.
"""

import hashlib
import json
import os
import sys

import gridfs
from bson import ObjectId
from pymongo import MongoClient

database, name, *ids = sys.argv[1:]
bucket = gridfs.GridFSBucket(MongoClient(os.environ["MONGODB_URI"])[database], bucket_name=name)
listed = {str(out._id): out.filename for out in bucket.find({})}
for text in ids:
    with bucket.open_download_stream(ObjectId(text)) as out:
        whole = out.read()
        out.seek(len(whole) // 3)
        start = len(whole) // 3
        middle = out.read(300_000)
        assert middle == whole[start : start + 300_000], "read after seek"
        assert out.tell() == start + len(middle)
        if hasattr(out, "readinto"):
            out.seek(start)
            into = bytearray(1000)
            got = out.readinto(into)
            assert bytes(into[:got]) == whole[start : start + got], "readinto after seek"
        out.seek(-min(10, len(whole)), 2)
        assert out.read() == whole[len(whole) - min(10, len(whole)) :], "seek from the end"
        facts = {"length": out.length, "chunkSize": out.chunk_size, "filename": out.filename}
    by_name = bucket.open_download_stream_by_name(facts["filename"]).read()
    facts["sha256"] = hashlib.sha256(whole).hexdigest()
    facts["byName"] = hashlib.sha256(by_name).hexdigest()
    facts["listed"] = listed.get(text)
    print(json.dumps(facts))
