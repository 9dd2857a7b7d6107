"""An S3 server of this machine for DVC remotes, and what its clients need to know."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

KEYS = {"AWS_ACCESS_KEY_ID": "anyone", "AWS_SECRET_ACCESS_KEY": "anything", "AWS_DEFAULT_REGION": "us-east-1"}
NOBODY = {
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/nowhere/config",
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere/credentials",
}
"""No credentials anywhere."""


@contextmanager
def s3_server() -> Iterator[str]:
    """Serve S3 with a bucket `store`; gives the address."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    try:
        session = boto3.session.Session(
            KEYS["AWS_ACCESS_KEY_ID"], KEYS["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1"
        )
        session.client("s3", endpoint_url=url).create_bucket(Bucket="store")
        yield url
    finally:
        server.stop()


def keep_on_s3(dvc: Callable[..., object], url: str) -> None:
    """Make the bucket the default remote of a project, by its `dvc` with arguments."""
    dvc("remote", "add", "--force", "--default", "store", "s3://store/moco")
    dvc("remote", "modify", "store", "endpointurl", url)
