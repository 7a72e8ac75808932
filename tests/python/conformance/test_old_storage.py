"""A trainer of the old platform that reads its dataset from S3 and keeps its checkpoints there, with boto3 and the
storage variables of the contract, from inside a real job. It knows nothing of folders on its machine."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path
from typing import Any, Dict

from conftest import Api, program

OLD_TRAINER = r"""
import hashlib, json, os, sys, tempfile, urllib.request
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.exceptions import ClientError

def client(name):
    key = lambda what: os.environ[f"{name}_STORAGE_{what}"]
    return boto3.client("s3", endpoint_url=key("ENDPOINT"), aws_access_key_id=key("ACCESS_KEY"),
                        aws_secret_access_key=key("SECRET_KEY"), region_name="us-east-1")

def post(name, body):
    url = f"{os.environ['CALLBACK_URL']}/training/jobs/{JOB}/callback/{name}"
    data = json.dumps({"job_id": JOB, **body}).encode()
    urllib.request.urlopen(urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})).read()

JOB = int(os.environ["JOB_ID"])
told = {}
s3, uri = client("EXTERNAL"), os.environ["DATASET_S3_URI"]
bucket, prefix = uri[len("s3://"):].split("/", 1)
told["bucket"] = bucket == os.environ["EXTERNAL_BUCKET_DATASETS"]
pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, PaginationConfig={"PageSize": 5})
keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
folder = Path(tempfile.mkdtemp())
for key in keys:
    path = folder / key[len(prefix):].lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    s3.download_file(bucket, key, str(path))
told["files"] = {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}
told["parts"] = sorted(entry["Prefix"][len(prefix):].strip("/") for entry in
                       s3.list_objects_v2(Bucket=bucket, Prefix=prefix, Delimiter="/")["CommonPrefixes"])
told["size"] = s3.head_object(Bucket=bucket, Key=keys[0])["ContentLength"] == len(told["files"][keys[0][len(prefix):].lstrip("/")])

store, box = client("INTERNAL"), os.environ["INTERNAL_BUCKET_CHECKPOINTS"]
def refused(call):
    try:
        call()
    except ClientError as error:
        return error.response["Error"]["Code"]
told["write a dataset"] = refused(lambda: s3.put_object(Bucket=bucket, Key=prefix + "x", Body=b"x"))
told["of others"] = refused(lambda: store.put_object(Bucket=box, Key=f"checkpoints/{JOB + 1}/best.pt", Body=b"x"))
told["no such"] = refused(lambda: s3.get_object(Bucket=bucket, Key=prefix + "none"))

post("progress", {"status": "running", "current_epoch": 0, "total_epochs": 3, "metrics": None})
big = folder / "best.pt"
big.write_bytes(bytes(range(256)) * (12 << 12))
parts = TransferConfig(multipart_threshold=8 << 20, multipart_chunksize=8 << 20)
store.upload_file(str(big), box, f"checkpoints/{JOB}/best.pt", Config=parts)
store.put_object(Bucket=box, Key=f"checkpoints/{JOB}/last.pt", Body=b"last weights")
back = folder / "back.pt"
store.download_file(box, f"checkpoints/{JOB}/best.pt", str(back))
told["round trip"] = hashlib.sha256(back.read_bytes()).hexdigest() == hashlib.sha256(big.read_bytes()).hexdigest()
told["sha256"] = hashlib.sha256(big.read_bytes()).hexdigest()
where = f"s3://{box}/checkpoints/{JOB}"
post("progress", {"status": "running", "current_epoch": 3, "total_epochs": 3, "metrics": {"loss": 0.5},
                  "checkpoint_path": f"{where}/last.pt", "best_checkpoint_path": f"{where}/best.pt"})
post("completion", {"status": "completed", "total_epochs_completed": 3, "exit_code": 0, "final_metrics": {"loss": 0.5},
                    "best_checkpoint_path": f"{where}/best.pt", "last_checkpoint_path": f"{where}/last.pt"})
print("TOLD " + json.dumps(told), flush=True)
"""


def test_a_trainer_that_knows_only_s3_finds_its_dataset_and_its_checkpoints_are_stored(api: Api) -> None:
    submitted = program(sys.executable, "-c", OLD_TRAINER, dataset_id="7", epochs=3)
    job = api.reaches(api.submit(submitted)["id"], "completed")
    told = _told(api, job["id"])
    assert told["bucket"] and told["size"] and told["round trip"]
    # The split of the dataset is what the trainer sees here too.
    assert told["parts"] == ["train", "val"]
    assert len(told["files"]) == 12
    for path, words in told["files"].items():
        part, kind, _ = path.split("/")
        assert words.split()[:2] == [part, kind]
    assert told["write a dataset"] == "AccessDenied"
    assert told["of others"] == "AccessDenied"
    assert told["no such"] == "NoSuchKey"
    _stored(api, job, told["sha256"])


def _told(api: Api, job_id: int) -> Dict[str, Any]:
    lines = api.get(f"/training/jobs/{job_id}/logs?limit=500").json()
    found = [re.search(r"TOLD (\{.*\})", line["content"]) for line in lines]
    words = [match.group(1) for match in found if match]
    assert words, [line["content"] for line in lines]
    told: Dict[str, Any] = json.loads(words[-1])
    return told


def _stored(api: Api, job: Dict[str, Any], digest: str) -> None:
    """The checkpoints lie in the platform's own store, under the names of the contract."""
    listed = api.get(f"/training/jobs/{job['id']}/checkpoints").json()["checkpoints"]
    best = [entry for entry in listed if entry["is_best"]]
    assert [entry["filename"] for entry in best] == ["best.pt"], listed
    assert job["best_checkpoint_path"].endswith(f"/checkpoints/{job['id']}/best.pt")
    assert job["last_checkpoint_path"].endswith(f"/checkpoints/{job['id']}/last.pt")
    path = Path(job["best_checkpoint_path"].removeprefix("file://"))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
