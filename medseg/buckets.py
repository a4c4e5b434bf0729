"""Files in buckets (``s3://BUCKET/NAME``): asked for over HTTP, by an address that is signed here."""

from __future__ import annotations

from medseg.errors import DataError

BUCKET = "s3://"
# How long a signed address holds; each attempt signs another.
SIGNED_S = 3600


def signed(url: str) -> str:
    """The HTTP address of a file in a bucket, good for an hour; signed by the key that AWS's own variables name.

    Other addresses are returned as they are.

    Raises:
        DataError: if boto3 is not installed, or there is no key, region or valid name.
    """
    if not url.startswith(BUCKET):
        return url
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError:
        raise DataError(f"{url}: buckets are read by boto3, which is not there; pip install 'medseg[s3]'") from None
    bucket, _, name = url.removeprefix(BUCKET).partition("/")
    try:
        client = boto3.client("s3", config=Config(signature_version="s3v4"))
        what = {"Bucket": bucket, "Key": name}
        return str(client.generate_presigned_url("get_object", Params=what, ExpiresIn=SIGNED_S))
    except (BotoCoreError, ValueError) as error:
        names = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION"
        raise DataError(f"{url}: {error}; set {names} and, if it is not Amazon's, AWS_ENDPOINT_URL") from None
