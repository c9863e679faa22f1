"""Uploads a file with nothing but boto3: what bench/s3.py compares with. ``bare_upload.py MODE ENDPOINT BUCKET FILE``.

MODE is ``default`` (boto3 as it comes), ``unsigned`` (no signature over bodies, no sums) or ``both-ways`` (unsigned,
and the object is read back into one buffer).
"""

from __future__ import annotations

import sys
from pathlib import Path

import boto3
from botocore.config import Config

PART_BYTES = 16 << 20
KEY = "checkpoint"


def main(mode: str, endpoint_url: str, bucket: str, file: Path) -> None:
    client = boto3.client("s3", endpoint_url=endpoint_url, config=None if mode == "default" else unsigned())
    upload(client, bucket, file)
    if mode == "both-ways":
        read_back(client, bucket)


def unsigned() -> Config:
    return Config(s3={"payload_signing_enabled": False}, request_checksum_calculation="when_required")


def upload(client, bucket: str, file: Path) -> None:
    names = {"Bucket": bucket, "Key": KEY}
    upload_id = client.create_multipart_upload(**names)["UploadId"]
    parts = []
    with file.open("rb", buffering=0) as stream:
        while body := stream.read(PART_BYTES):
            number = len(parts) + 1
            answer = client.upload_part(**names, UploadId=upload_id, PartNumber=number, Body=body)
            parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    client.complete_multipart_upload(**names, UploadId=upload_id, MultipartUpload={"Parts": parts})


def read_back(client, bucket: str) -> None:
    buffer = memoryview(bytearray(PART_BYTES))
    size_bytes = client.head_object(Bucket=bucket, Key=KEY)["ContentLength"]
    for at in range(0, size_bytes, PART_BYTES):
        last = min(at + PART_BYTES, size_bytes) - 1
        body = client.get_object(Bucket=bucket, Key=KEY, Range=f"bytes={at}-{last}")["Body"]
        filled_bytes = 0
        while filled_bytes < last + 1 - at:
            filled_bytes += body.readinto(buffer[filled_bytes:])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
