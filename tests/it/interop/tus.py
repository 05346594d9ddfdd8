"""tuspy against a gateway: python tus.py URL KEY FILE. Stops in the middle, goes on with a new client, prints the address."""

import sys

from tusclient import client

url, key, file = sys.argv[1:4]
headers = {"Authorization": f"Bearer {key}"}


def uploader(**options):
    tus = client.TusClient(f"{url}/tus/", headers=headers)
    return tus.uploader(file, chunk_size=600_000, metadata={"filename": "tuspy.bin"}, **options)


first = uploader(upload_checksum=True)
first.upload_chunk()
first.upload_chunk()
second = uploader(url=first.url)
assert second.offset == 1_200_000, second.offset
second.upload()
print(second.url)
