"""Values as a producer with an Avro serializer writes them."""

import io
from typing import Any

import fastavro

from stream.core.framing import framed


def avro_value(schema_id: int, schema: Any, content: Any) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), content)
    return framed(schema_id, stream.getvalue())
