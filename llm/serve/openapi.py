"""The description of the API, openapi.json: what FastAPI does not read itself, it does not describe."""

import http
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from llm.serve.schema import ChatRequest, CompletionRequest

REFERENCE = "#/components/schemas/{model}"
TEXT, NULLABLE = {"type": "string"}, {"type": ["string", "null"]}
ERROR = {"type": "object", "properties": {"message": TEXT, "type": TEXT, "param": NULLABLE, "code": NULLABLE}}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return openapi.json, with the schemas of requests and errors."""
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    requests: Any = [(CompletionRequest, "validation"), (ChatRequest, "validation")]
    _, content = models_json_schema(requests, ref_template=REFERENCE)
    schema["components"] = {
        "schemas": {**content["$defs"], "Error": {"type": "object", "properties": {"error": ERROR}}}
    }
    for path in schema["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)  # FastAPI's own, which never occurs
    return schema


def json_of(name: str) -> dict[str, Any]:
    """Describe JSON of a schema."""
    return {"application/json": {"schema": {"$ref": REFERENCE.format(model=name)}}}


def error_responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Describe the responses with an error."""
    return {code: {"description": http.HTTPStatus(code).phrase, "content": json_of("Error")} for code in codes}
