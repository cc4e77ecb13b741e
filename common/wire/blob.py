"""Bytes in a message: a `bin` in msgpack, lower-case hex in JSON, and bounded in both."""

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema


@dataclass(frozen=True, slots=True)
class Blob:
    """Annotates `bytes` with its least and most length in bytes, for the validator and for the JSON Schema.

    Pydantic's own length constraint counts bytes in the validator but would print them as characters in the schema,
    where a byte takes two.
    """

    least: int
    most: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.bytes_schema(min_length=self.least, max_length=self.most)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {
            "type": "string",
            "description": f"{self.least} to {self.most} bytes: bin in msgpack, lower-case hex in JSON",
            "pattern": "^([0-9a-f]{2})*$",
            "minLength": 2 * self.least,
            "maxLength": 2 * self.most,
        }
